//! What may be held by files that cannot be read: it stays until they are read again or gone, and nothing else does.
//!
//! Counts of references are made from files. Where one of them cannot be read, what it names is unknown. The counts are made all the
//! same, and each object that the file may name is counted once more than the readable files say. So counts are never below the
//! truth, and everything that is decided by counts goes on: retention, reclaiming, sweeps. Why nothing goes that an unreadable file
//! names:
//!
//! - **Reach.** Manifests, past states and tags of a namespace name objects of their own project only: branches and copies stay in
//!   the project of their source, and everything else is written under the namespace's own prefix. The base of a merge names what
//!   its source's manifest named, and has the source's id as its name, so it adds the project of the source. Where a project is
//!   not known, the reach is the whole store.
//! - **Time.** An object that is made after the counts is named by none of these files: nobody writes a namespace that cannot be
//!   opened, and a past state, a tag or a base never changes. So it is enough to count what exists at the time of counting.
//! - **What was known.** An index that was once made whole and that knows the namespace never counts less than the truth, as
//!   references are counted durably before the file that needs them. What it counts beyond the readable files is kept, and what it
//!   does not count is not named. Where the index is new, every object within reach is kept.
//! - **Own objects.** Everything under the prefix of a namespace whose newest manifest cannot be read stays, counted or not: its logs
//!   are not counted by others.
//!
//! Everything is counted anew when such a file is sound again, and when it is gone.

use std::collections::{BTreeMap, BTreeSet};

use super::Engine;
use super::check::restore;
use super::context::Context;
use super::lineage::holdings::generations;
use super::merge::kept_by;
use super::namespace::head::facts;
use super::sweep::parts;
use crate::error::Result;
use crate::format::names::parse_name;
use crate::meta::{Facts, Head};
use crate::model::ids::{NamespaceName, Nsid, Project};

/// What is not known of one incarnation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unreadable {
    /// Projects whose objects its files may name; `None` where that is not known.
    pub reach: Option<BTreeSet<String>>,
    /// Whether its newest manifest can be read, so that what it names is counted and where it comes from is known.
    pub has_head: bool,
}

impl Unreadable {
    /// Files of a namespace in this project.
    pub fn of(project: Option<&Project>, has_head: bool) -> Self {
        Unreadable { reach: project.map(|project| [project.to_string()].into()), has_head }
    }

    /// Adds the base of a merge with a source in this project.
    pub fn add_source(&mut self, project: Option<&Project>) {
        self.reach = match (self.reach.take(), project) {
            (Some(mut reach), Some(project)) => {
                reach.insert(project.to_string());
                Some(reach)
            }
            _ => None,
        };
    }

    fn reaches(&self, key: &str) -> bool {
        let in_project =
            |project: &String| key.strip_prefix(project.as_str()).is_some_and(|rest| rest.starts_with('/'));
        self.reach.as_ref().is_none_or(|reach| reach.iter().any(in_project))
    }
}

/// Incarnations with unreadable files, as counts were last made.
pub type AllUnreadable = BTreeMap<Nsid, Unreadable>;

impl Context {
    /// Incarnations of which something could not be read when counts were last made.
    pub fn unreadable(&self) -> AllUnreadable {
        self.unreadable.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    pub(super) fn set_unreadable(&self, unreadable: AllUnreadable) {
        *self.unreadable.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = unreadable;
    }

    /// Remembers that a past state of an incarnation cannot be read, and that counts are too high for it: they are made anew when it
    /// is back.
    pub fn note_unreadable(&self, nsid: Nsid, project: Option<&Project>) {
        let mut unreadable = self.unreadable.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        unreadable.entry(nsid).or_insert_with(|| Unreadable::of(project, true));
    }

    /// Whether an incarnation of this project may be related to others of it and nobody knows how.
    pub fn has_unknown_kin(&self, project: &Project) -> bool {
        let project = project.to_string();
        let is_unknown = |(nsid, unreadable): (&Nsid, &Unreadable)| {
            !unreadable.has_head
                && !self.kin().contains_key(nsid)
                && unreadable.reach.as_ref().is_none_or(|reach| reach.contains(&project))
        };
        self.unreadable.lock().unwrap_or_else(std::sync::PoisonError::into_inner).iter().any(is_unknown)
    }
}

impl Engine {
    /// The project of an incarnation, by its name, the mark of its deletion, or what the index remembers.
    pub(super) fn project_known(&self, nsid: Nsid) -> Option<Project> {
        let name = self.catalog.all().into_iter().find(|(_, bound)| *bound == nsid).map(|(name, _)| name);
        let name = name.or_else(|| parse_name(&self.context.kin().get(&nsid)?.name));
        name.map(|name| name.project)
    }

    /// What the files of an incarnation may name. `missed`: its newest manifest was read, and of these sources the bases of merges
    /// were not.
    pub(super) fn reach_of(&self, nsid: Nsid, name: Option<NamespaceName>, missed: Option<Vec<Nsid>>) -> Unreadable {
        let project = name.map(|name| name.project).or_else(|| self.project_known(nsid));
        let mut found = Unreadable::of(project.as_ref(), missed.is_some());
        // Where the newest manifest cannot be read none of the bases was looked at.
        let sources = missed.map_or_else(|| sources_of(&self.context, nsid), Ok);
        match sources {
            Ok(sources) => {
                for source in sources.into_iter().filter(|source| *source != nsid) {
                    found.add_source(self.project_known(source).as_ref());
                }
            }
            Err(_) => found.add_source(None),
        }
        found
    }

    /// Counts what unreadable files may name, beside what was read of the others, and carries over what the index knows of their
    /// incarnations. Nothing may be committed meanwhile.
    pub(super) fn count_unreadable(&self, facts: &mut Facts, unreadable: &AllUnreadable) -> Result<()> {
        if unreadable.is_empty() {
            return Ok(());
        }
        let context = &self.context;
        let known = if context.meta.was_counted()? { context.meta.all_references()? } else { BTreeMap::new() };
        let (mut by_index, mut by_list) = (Vec::new(), Vec::new());
        for (nsid, of) in unreadable {
            let is_known = !known.is_empty() && context.meta.manifest(*nsid)?.is_some();
            if is_known { by_index.push(of) } else { by_list.push(of) }
        }
        for nsid in unreadable.iter().filter(|(_, of)| !of.has_head).map(|(nsid, _)| *nsid) {
            let kin = context.kin().get(&nsid).cloned();
            facts.kin.extend(kin.map(|kin| (nsid, kin)));
            // What the index has of the newest manifest stays there; else a row without bytes says that the counts know the incarnation.
            let newest = generations(context, nsid).ok().and_then(|all| all.into_iter().max());
            let head = restore::cached_head(context, nsid).filter(|(head, _)| Some(head.generation) >= newest);
            facts.heads.push((nsid, head.map_or_else(Head::default, |(head, bytes)| self::facts(&head, bytes))));
        }
        if !by_index.is_empty() {
            for (key, count) in &known {
                if by_index.iter().any(|of| of.reaches(key)) {
                    let counted = facts.references.entry(key.clone()).or_default();
                    *counted = (*counted).max(*count);
                }
            }
            facts.references.retain(|_, count| *count > 0);
        }
        if !by_list.is_empty() {
            for (key, _) in context.tier.list("")? {
                if parts(&key).is_some() && by_list.iter().any(|of| of.reaches(&key)) {
                    *facts.references.entry(key).or_default() += 1;
                }
            }
        }
        Ok(())
    }
}

/// The sources whose bases an incarnation keeps, by the names of the files.
fn sources_of(context: &Context, nsid: Nsid) -> Result<Vec<Nsid>> {
    Ok(kept_by(context, nsid)?.into_iter().map(|(source, _)| source).collect())
}

#[cfg(test)]
mod tests {
    use super::Unreadable;
    use crate::model::ids::Project;

    #[test]
    fn the_reach_is_the_projects_that_are_known_or_everything() {
        let (ours, theirs) = (Project::new("acme", "search").unwrap(), Project::new("acme", "search2").unwrap());
        let key = |project: &Project| format!("{project}/namespaces/x/segments/y/data.seg");
        let mut of = Unreadable::of(Some(&ours), true);
        assert!(of.reaches(&key(&ours)) && !of.reaches(&key(&theirs)));
        of.add_source(Some(&theirs));
        assert!(of.reaches(&key(&ours)) && of.reaches(&key(&theirs)) && !of.reaches("b/c/namespaces/x/y"));
        of.add_source(None);
        assert!(of.reaches("b/c/namespaces/x/y"));
        assert!(Unreadable::of(None, false).reaches("b/c/namespaces/x/y"));
    }
}
