//! Makes the index anew from the files, while writes go on.
//!
//! Steps: list what is touched from now on; read what every incarnation holds, which takes as long as there are incarnations; then,
//! while nobody commits, read again only those that were touched or could not be read whole, and put all of it in the place of
//! what the index said. What was read of an incarnation that nobody touched since is what is still so, and what nobody could read
//! may have been changing just then: only what cannot be read while nobody commits is damaged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use super::Engine;
use super::check::restore;
use super::commits::Alone;
use super::lineage::holdings::{Holdings, read_deleted};
use super::namespace::head::{Head, facts};
use super::unreadable::AllUnreadable;
use crate::error::{Context as _, Error, Result};
use crate::format::manifest::encode_manifest;
use crate::format::names::parse_name;
use crate::meta::tables::{Kin, Past};
use crate::meta::{Facts, Head as HeadFacts, ObjectFact};
use crate::model::ids::{NamespaceName, Nsid};

/// What the index is told of one incarnation.
struct Counted {
    head: HeadFacts,
    kin: Kin,
    references: BTreeMap<String, u64>,
    past: Vec<(u64, Past)>,
    beside_head: BTreeMap<String, ObjectFact>,
}

/// Everything the index is made from, and the incarnations of which not everything could be read: what those may hold beside is not
/// counted.
pub(super) type Gathered = (Facts, AllUnreadable);

impl Engine {
    /// Makes the index anew from the files. Blocking; others write meanwhile.
    pub(super) fn recount(&self) -> Result<()> {
        let context = &self.context;
        self.put_back_from_index();
        let ((mut facts, unreadable), _alone) = self.gather()?;
        self.count_unreadable(&mut facts, &unreadable)?;
        self.count_missing_logs(&mut facts);
        let heads = facts.heads.len();
        // An index that was begun anew has nothing of what no rebuild makes. A full disk has room for that afterwards.
        let kept = context.keep_node();
        context.look_at_wall();
        context.meta.rebuild(&facts).context(|| "make the index anew, without which nothing is reclaimed")?;
        kept.or_else(|_| context.keep_node())?;
        *context.kin() = facts.kin.iter().cloned().collect();
        context.is_kin_known.send_replace(true);
        context.set_unreadable(unreadable);
        context.names_whole.store(self.catalog.damaged().is_empty(), Ordering::SeqCst);
        if heads > 0 {
            tracing::info!(names = facts.names.len(), namespaces = heads, "the index is rebuilt");
        }
        Ok(())
    }

    /// Puts back newest manifests and marks of deletion that only the index has: it is about to be made anew from the files.
    fn put_back_from_index(&self) {
        let context = &self.context;
        let bound = self.catalog.bound();
        for (nsid, kin) in context.meta.all_kin().unwrap_or_default() {
            if bound.contains(&nsid) || matches!(read_deleted(context, nsid), Ok(Some(_))) {
                continue;
            }
            let _alone = context.commits.alone();
            if self.catalog.is_bound(nsid) {
                continue;
            }
            match restore::mark(context, nsid, &kin) {
                Ok(true) => tracing::warn!(%nsid, "the mark of a deleted namespace is put back from the index"),
                Ok(false) => {}
                Err(error) => context.report_unreadable(&kin.name, nsid, &error),
            }
        }
        for (name, nsid) in self.catalog.all() {
            let is_there = || matches!(Head::load(context, nsid), Ok(Some(_)));
            if is_there() {
                continue;
            }
            let _alone = context.commits.alone();
            // It may have been replaced while it was read, or deleted since.
            if is_there() || self.catalog.find(&name) != Some(nsid) {
                continue;
            }
            match restore::manifest(context, nsid) {
                Ok(true) => tracing::warn!(namespace = %name, "the newest manifest is put back from the index"),
                Ok(false) => {}
                Err(error) => context.report_unreadable(&name.to_string(), nsid, &error),
            }
        }
    }

    /// Everything the index is made from, read from the files. Until the second value is dropped nobody commits, so that it stays so.
    pub(super) fn gather(&self) -> Result<(Gathered, Alone<'_>)> {
        let context = &self.context;
        let listing = context.commits.list();
        let mut counted = BTreeMap::new();
        let mut again = BTreeSet::new();
        for (nsid, is_named) in self.incarnations_here()? {
            match Holdings::read(context, nsid) {
                Ok(Some(held)) if held.missed.is_none() => drop(counted.insert(nsid, Counted::of(held, is_named)?)),
                Ok(None) if !is_named => {}
                _ => drop(again.insert(nsid)),
            }
        }
        let (alone, touched) = listing.end();
        again.extend(touched);
        let unreadable = self.count_again(&mut counted, again)?;
        let node = context.node.file();
        let mut facts = Facts {
            names: self.catalog.for_index(),
            pins: node.pins.iter().map(|pin| (pin.name.clone(), pin.since_ms)).collect(),
            ..Facts::default()
        };
        for (nsid, found) in counted {
            if !found.kin.is_plain() {
                facts.kin.push((nsid, found.kin));
            }
            for (key, count) in found.references {
                *facts.references.entry(key).or_default() += count;
            }
            facts.history.extend(found.past.into_iter().map(|(generation, past)| (nsid, generation, past)));
            facts.beside_heads.extend(found.beside_head.into_values());
            facts.heads.push((nsid, found.head));
        }
        for key in context.doubted.objects() {
            *facts.references.entry(key).or_default() += 1;
        }
        Ok(((facts, unreadable), alone))
    }

    /// Incarnations that may hold something, and whether a name is bound to them.
    fn incarnations_here(&self) -> Result<BTreeMap<Nsid, bool>> {
        let context = &self.context;
        // Who is being born is listed until its name is bound, so it is in one of the two.
        let mut found: BTreeMap<Nsid, bool> = context.unborn().into_iter().map(|nsid| (nsid, false)).collect();
        found.extend(self.catalog.all().into_iter().map(|(_, nsid)| (nsid, true)));
        for entry in context.disk.names(&context.layout.local()).context(|| "list local")? {
            if let Some(nsid) = entry.parse().ok().map(Nsid)
                && !found.contains_key(&nsid)
                && self.is_kept_unnamed(nsid)
            {
                found.insert(nsid, false);
            }
        }
        Ok(found)
    }

    /// Whether an incarnation counts that no name is bound to: deleted ones that can be had back have files and a mark, and the next start
    /// may find a name bound to it. What a damaged name is bound to may be any that is left.
    fn is_kept_unnamed(&self, nsid: Nsid) -> bool {
        let is_marked = || !matches!(read_deleted(&self.context, nsid), Ok(None));
        !self.catalog.damaged().is_empty() || self.catalog.is_bound(nsid) || is_marked()
    }

    /// Reads some incarnations while nobody commits; gives those of which not everything can be read.
    fn count_again(&self, counted: &mut BTreeMap<Nsid, Counted>, again: BTreeSet<Nsid>) -> Result<AllUnreadable> {
        let context = &self.context;
        let mut unreadable = AllUnreadable::new();
        if again.is_empty() {
            return Ok(unreadable);
        }
        let unborn = context.unborn();
        let names = self.catalog.all().into_iter().filter(|(_, nsid)| again.contains(nsid));
        let mut names: BTreeMap<Nsid, NamespaceName> = names.map(|(name, nsid)| (nsid, name)).collect();
        for nsid in again {
            counted.remove(&nsid);
            let name = names.remove(&nsid);
            if name.is_none() && !unborn.contains(&nsid) && !self.is_kept_unnamed(nsid) {
                continue;
            }
            match Holdings::read(context, nsid) {
                Ok(Some(held)) => {
                    // What is not known for want of descriptors or memory is counted once there are.
                    held.check_limits()?;
                    held.report(context);
                    if let Some(missed) = &held.missed {
                        let name = parse_name(&held.head.manifest.name);
                        unreadable.insert(nsid, self.reach_of(nsid, name, Some(missed.sources.clone())));
                    }
                    counted.insert(nsid, Counted::of(held, name.is_some())?);
                }
                // A name is bound after the first manifest is durable: it is lost.
                Ok(None) if name.is_some() => {
                    let error = Error::corrupt(format!("incarnation {nsid} has no manifest"));
                    let label = name.as_ref().map_or_else(String::new, ToString::to_string);
                    context.report_unreadable(&label, nsid, &error);
                    unreadable.insert(nsid, self.reach_of(nsid, name, None));
                }
                Ok(None) => {}
                Err(error) if error.is_of_limits() => return Err(error),
                Err(error) => {
                    let label = name.as_ref().map_or_else(|| nsid.to_string(), ToString::to_string);
                    context.report_unreadable(&label, nsid, &error);
                    unreadable.insert(nsid, self.reach_of(nsid, name, None));
                }
            }
        }
        Ok(unreadable)
    }
}

impl Counted {
    fn of(mut held: Holdings, is_named: bool) -> Result<Self> {
        if is_named {
            held.deleted = None;
        }
        let (bytes, _) = encode_manifest(&held.head.manifest)?;
        let kin = held.kin();
        let head = facts(&held.head.manifest, bytes);
        Ok(Counted { head, kin, references: held.keys, past: held.past, beside_head: held.beside_head })
    }
}
