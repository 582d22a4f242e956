//! Reclaims deleted namespaces, and what never got its name: ended by a last fence, removed when nobody holds any of them.
//!
//! - One that has its name again is not touched: who gives a name looks for the end afterwards, who ends one looks at the name
//!   afterwards. One of the two always sees the other; what was ended in spite of that is sent anew by who has it.
//! - Its last manifest goes when no object is left, and not before retention has passed once more: until then who was away is told
//!   that it ended.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::collect::{Of, Reclaim, Reclaimed};
use super::namespace::KNOWN_MS;
use super::{Attached, Selection, Sync, keys, names};
use crate::engine::layout::{number_of, prefix};
use crate::error::{Error, Result};
use crate::format::manifest::Manifest;
use crate::format::names::parse_name;
use crate::model::ids::{NamespaceName, Nsid, Project};

/// The most keys that are left of a namespace of which every object is gone: manifests, lists, tags, the hint.
const LEFT_MAX: usize = 100_000;

impl Sync {
    /// Incarnations that were deleted at least `retention_ms` ago, with the names they had. A forced run ends those that are as old
    /// and never came to be: whoever may be sending one yet sends it anew then.
    pub(super) async fn dead(
        &self,
        attached: &mut Attached,
        selection: &Selection,
        ask: &Reclaim,
        unread: &mut Option<Error>,
    ) -> Result<Vec<(NamespaceName, Nsid)>> {
        let names::Revisions { known: mut revisions, unread: apart } =
            names::revisions(&self.bucket, &self.options.patience).await?;
        // What has a name that cannot be read is not dead: nothing of its project is.
        revisions.retain(|name, _| !apart.iter().any(|apart| apart.is_in(&name.project)));
        *unread = names::failed(&apart, selection);
        let (mut alive, mut ended) = (BTreeSet::new(), BTreeMap::new());
        let mut projects: BTreeSet<Project> = revisions.keys().map(|name| name.project.clone()).collect();
        for (name, revs) in revisions {
            let mut later: Option<names::Bound> = None;
            for rev in revs.into_iter().rev() {
                let bound = match self.bound(attached, &name, rev).await {
                    Err(error) if names::is_of_one_object(&self.bucket, &error) => {
                        tracing::warn!(%error, %name, "what was deleted of its project is not reclaimed");
                        projects.remove(&name.project);
                        if selection.is_about(|about| *about == name) {
                            unread.get_or_insert(error);
                        }
                        break;
                    }
                    bound => bound?,
                };
                let Some(bound) = bound else { continue };
                if later.is_none() {
                    alive.extend(bound.target);
                    let before = bound.ended.iter().map(|ended| ended.nsid);
                    before.for_each(|nsid| keep_latest(&mut ended, &name, nsid, bound.hlc.millis()));
                }
                // It lost the name when the next one came.
                if let (Some(nsid), Some(later)) = (bound.target, &later)
                    && later.target != Some(nsid)
                {
                    keep_latest(&mut ended, &name, nsid, later.hlc.millis());
                }
                later = Some(bound);
            }
        }
        let until = self.bucket_now().saturating_sub(ask.retention_ms);
        // Whoever a name that cannot be read is bound to is not dead, whatever name it had before.
        ended.retain(|_, (name, _)| projects.contains(&name.project));
        let here: BTreeSet<Nsid> = self.engine.named().into_iter().map(|(_, nsid)| nsid).collect();
        for (project, nsid) in self.incarnations(projects).await? {
            if alive.contains(&nsid) || ended.contains_key(&nsid) {
                continue;
            }
            let found = match self.newest(&project, nsid, None).await {
                // It came to be, and nobody lived to give it its name: who has it sends it anew, as if it had been deleted.
                Ok(None) if ask.forced && !ask.dry_run && begun_ms(nsid) <= until && !here.contains(&nsid) => {
                    self.end_nameless(&project, nsid).await.map(|()| None)
                }
                found => found,
            };
            let found = match found {
                Ok(Some(found)) => found,
                Ok(None) => continue,
                Err(error) if names::is_of_one_object(&self.bucket, &error) => {
                    tracing::warn!(%error, %project, %nsid, "not looked at by reclaim, the others are");
                    if selection.is_whole() {
                        unread.get_or_insert(error);
                    }
                    continue;
                }
                Err(error) => return Err(error),
            };
            // Names were listed before: it may have got its own since.
            if let Some(name) = parse_name(&found.manifest.name)
                && self.is_dead(&name, nsid).await?
            {
                keep_latest(&mut ended, &name, nsid, found.manifest.committed_ms);
            }
        }
        let is_due = |(nsid, (name, at_ms)): &(Nsid, (NamespaceName, u64))| {
            !alive.contains(nsid) && *at_ms <= until && selection.takes(name)
        };
        let mut dead: Vec<(NamespaceName, Nsid)> =
            ended.into_iter().filter(is_due).map(|(nsid, (name, _))| (name, nsid)).collect();
        // Branches are younger than what they came from, which they hold.
        dead.reverse();
        Ok(dead)
    }

    /// All incarnations of these projects that anything was put into the bucket of.
    async fn incarnations(&self, projects: BTreeSet<Project>) -> Result<BTreeSet<(Project, Nsid)>> {
        let mut found = BTreeSet::new();
        for project in projects {
            let names = self.bucket.names_below(&keys::namespaces(&project), &self.options.patience).await?;
            let owners = names.iter().filter_map(|name| Some(Nsid(Uuid::try_parse(name).ok()?)));
            found.extend(owners.map(|nsid| (project.clone(), nsid)));
        }
        Ok(found)
    }

    /// Ends an incarnation that never got a manifest, if there is anything of it: a directory stays for a while when all in it is gone.
    async fn end_nameless(&self, project: &Project, nsid: Nsid) -> Result<()> {
        let page = self.bucket.list(&prefix(project, nsid), None, 1, &self.options.patience).await?;
        if page.objects.is_empty() {
            return Ok(());
        }
        let name = nameless(project, nsid)?;
        self.end_unborn(project, &self.engine.blank(&name), (nsid, &name.to_string())).await.map(|_| ())
    }

    /// Whether a name's newest revision in the bucket is not of this incarnation.
    pub(super) async fn is_dead(&self, name: &NamespaceName, nsid: Nsid) -> Result<bool> {
        let Some(rev) = names::newest(&self.bucket, name, &self.options.patience).await? else { return Ok(true) };
        let bound = names::read(&self.bucket, name, rev, &self.options.patience).await?;
        Ok(bound.is_none_or(|bound| bound.target != Some(nsid)))
    }

    /// Removes what is left of a deleted namespace when all objects are gone and nobody holds any.
    pub(super) async fn bury(&self, of: &Of<'_>, ask: &Reclaim) -> Result<Reclaimed> {
        let (patience, mut done) = (&self.options.patience, Reclaimed::default());
        let newest = self.newest(of.project(), of.nsid, None).await?;
        let now = self.bucket_now();
        let is_due = |last: &Manifest| {
            // Who commits a first state looks again for what it holds when that took it longer: until then this end is in its way.
            let least_ms = if last.generation == 0 { KNOWN_MS } else { 0 };
            let until = now.saturating_sub(ask.retention_ms.max(least_ms));
            last.is_end() && last.fence.as_ref().is_some_and(|fence| fence.at_ms <= until)
        };
        if ask.dry_run || !newest.is_none_or(|found| is_due(&found.manifest)) {
            return Ok(done);
        }
        let below = prefix(of.project(), of.nsid);
        let (mut generations, mut rest) = (Vec::new(), Vec::new());
        for listed in self.bucket.list_all(&below, None, LEFT_MAX, patience).await? {
            let left = listed.key.strip_prefix(&below).unwrap_or_default();
            match left.strip_prefix("/manifests/").and_then(number_of) {
                Some(generation) => generations.push(generation),
                None if left == "/CURRENT" || left.starts_with("/sweeps/") || left.starts_with("/tags/") => {
                    rest.push(listed.key);
                }
                // Somebody holds it, or a later release knows what it is.
                None => return Ok(done),
            }
        }
        if generations.is_empty() && rest.is_empty() || !self.is_dead(of.name, of.nsid).await? {
            return Ok(done);
        }
        done.manifests = self.drop_generations(of, &generations, u64::MAX).await?;
        // Who brought it back meanwhile names them.
        if self.newest(of.project(), of.nsid, None).await?.is_none() {
            for key in rest {
                self.bucket.delete(&key, patience).await?;
            }
        }
        Ok(done)
    }
}

/// When an incarnation was begun: the first 48 bits of its UUIDv7.
pub(super) fn begun_ms(nsid: Nsid) -> u64 {
    (nsid.0.as_u128() >> 80) as u64
}

/// What is said for the name of one that nobody gave a name yet.
pub(super) fn nameless(project: &Project, nsid: Nsid) -> Result<NamespaceName> {
    project.namespace(&nsid.to_string())
}

fn keep_latest(ended: &mut BTreeMap<Nsid, (NamespaceName, u64)>, name: &NamespaceName, nsid: Nsid, at_ms: u64) {
    let known = ended.entry(nsid).or_insert_with(|| (name.clone(), at_ms));
    known.1 = known.1.max(at_ms);
}
