//! A disk that was cloned, or restored from a copy, parts from the other: what it writes is under origins of its own from then on.
//!
//! Invariants:
//! - All namespaces of a project part at once. What was written in one also is in others, by branches and merges: a state that claims
//!   to have seen an origin up to some clock would pass over what the other disk wrote below that.
//! - Other projects part with it only where something went from one to the other, by deep copies: anybody who may write to a project
//!   can make it look cloned, and what that costs is its own.
//! - One origin becomes the same other one everywhere, so copies of one write still are known to be that.
//! - Where the other disk was noticed parts last: until then an interrupted parting is begun anew, and so is one that some
//!   namespace could not take part in.
//! - What was branched off or merged meanwhile from what had not parted yet parts after it.
//! - What is damaged keeps nothing else from parting: it does when it notices by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Engine;
use super::namespace::head::Head;
use crate::error::{Context as _, Error, Kind, Result};
use crate::format::names::parse_name;
use crate::model::ids::{Hlc, NamespaceName, Nsid, Origin, Project};
use crate::model::version_vector::VersionVector;
use crate::platform::random::Random;
use crate::segment::renewal::Renewal;

/// How often it is looked at most for what was branched off or merged meanwhile.
const ROUNDS_MAX: usize = 8;

/// What namespaces that part have in common.
#[derive(Debug, Default)]
pub(in crate::engine) struct Parting {
    /// The origins by which this node writes, and up to when the bucket has what it wrote where it did.
    own: BTreeMap<Origin, Hlc>,
    /// Everything that the bucket has of any namespace, as far as is known here.
    sent: VersionVector,
    /// In which projects it wrote by each.
    writers: BTreeMap<Origin, BTreeSet<Project>>,
    /// What becomes of each.
    new: BTreeMap<Origin, Origin>,
}

impl Parting {
    /// What changes in a namespace that writes by `own`, has seen `vector`, and had `common` in common with the bucket; and its
    /// new origin. Nothing, and its own, where it has parted.
    ///
    /// What others wrote is theirs wherever the bucket has it. Of what this node wrote only that is certain to be no clone's which
    /// this very namespace has in common with the bucket; one that never was there goes by those in which it was written.
    pub fn of(
        &mut self,
        own: Origin,
        vector: &VersionVector,
        common: Option<&VersionVector>,
        random: &dyn Random,
    ) -> (Renewal, Origin) {
        let mut renewal = Renewal::default();
        let parted: BTreeSet<Origin> = self.new.values().copied().collect();
        let mut renewed = |origin| *self.new.entry(origin).or_insert_with(|| Origin(random.next_u64()));
        for (origin, hlc) in vector.iter() {
            let since = match (self.own.get(&origin), common) {
                (Some(_), Some(common)) => common.seen(origin),
                (Some(sent), None) => *sent,
                (None, _) => self.sent.seen(origin),
            };
            if hlc > since && !parted.contains(&origin) {
                renewal.add(origin, since, renewed(origin));
            }
        }
        (renewal, if parted.contains(&own) { own } else { renewed(own) })
    }
}

impl Engine {
    /// Parts from another disk that writes by this one's origins, which showed in the namespace `noticed`. Everything that is here
    /// only is under new origins from then on; gives how many documents and deletions of that namespace are.
    pub async fn part(self: &Arc<Self>, noticed: &NamespaceName) -> Result<u64> {
        let noticed = noticed.clone();
        self.to_the_end(move |engine| async move { engine.part_now(&noticed).await }).await
    }

    async fn part_now(&self, noticed: &NamespaceName) -> Result<u64> {
        // The other disk gives ids of the same blocks.
        tokio::task::block_in_place(|| self.leave_id_ranges())?;
        let mut parting = Parting::default();
        tokio::task::block_in_place(|| {
            for nsid in self.all_here() {
                unless_damaged(self.survey(&mut parting, nsid))?;
            }
            Ok::<_, Error>(())
        })?;
        for _ in 0..ROUNDS_MAX {
            if !self.others_part(noticed, &mut parting).await? {
                break;
            }
        }
        let count = self.namespace(noticed)?.take_new_origin(&mut parting).await?;
        self.others_part(noticed, &mut parting).await?;
        Ok(count.unwrap_or(0))
    }

    /// All namespaces but one that have to do with it take new origins; gives whether any had not.
    async fn others_part(&self, noticed: &NamespaceName, parting: &mut Parting) -> Result<bool> {
        let mut is_news = false;
        let related = tokio::task::block_in_place(|| self.related(&noticed.project, &parting.writers))?;
        for (name, _) in self.named().iter().filter(|(name, _)| name != noticed && related.contains(&name.project)) {
            let parted = match self.namespace(name) {
                Ok(namespace) => namespace.take_new_origin(parting).await,
                Err(error) => Err(error),
            };
            match parted {
                // Deleted meanwhile.
                Err(error) if error.kind() == Kind::NotFound => {}
                parted => {
                    let parted = unless_damaged(parted).context(|| format!("part {name} from a clone"))?;
                    is_news |= parted.flatten().is_some();
                }
            }
        }
        Ok(is_news)
    }

    /// A project, those that have something of what this node wrote in it, those of which it has something, and so on. Such things
    /// are in manifests, so nothing is opened. Reads small files.
    fn related(&self, project: &Project, writers: &BTreeMap<Origin, BTreeSet<Project>>) -> Result<BTreeSet<Project>> {
        let mut shared: BTreeMap<Project, BTreeSet<Project>> = BTreeMap::new();
        for nsid in self.all_here() {
            let Some(Head { manifest, .. }) = unless_damaged(Head::load(&self.context, nsid))?.flatten() else {
                continue;
            };
            let Some(reader) = parse_name(&manifest.name).map(|name| name.project) else { continue };
            let seen = manifest.version_vector.iter().filter_map(|(origin, _)| writers.get(&origin)).flatten();
            for writer in seen.filter(|writer| **writer != reader) {
                shared.entry(reader.clone()).or_default().insert(writer.clone());
                shared.entry(writer.clone()).or_default().insert(reader.clone());
            }
        }
        let (mut related, mut next) = (BTreeSet::new(), vec![project.clone()]);
        while let Some(project) = next.pop() {
            next.extend(shared.remove(&project).into_iter().flatten());
            related.insert(project);
        }
        Ok(related)
    }

    /// All incarnations that are here, deleted ones included.
    fn all_here(&self) -> BTreeSet<Nsid> {
        let deleted: Vec<Nsid> = self.context.kin().keys().copied().collect();
        self.named().into_iter().map(|(_, nsid)| nsid).chain(deleted).collect()
    }

    fn survey(&self, parting: &mut Parting, nsid: Nsid) -> Result<()> {
        if let Some((origin, sent)) = self.written(nsid)? {
            // Of two incarnations that had one origin after another, what the bucket has of both.
            parting.own.entry(origin).and_modify(|known| *known = sent.min(*known)).or_insert(sent);
            parting.writers.entry(origin).or_default().extend(self.project_of(nsid)?);
        }
        parting.sent.merge(&self.common(nsid)?.map(|common| common.version_vector).unwrap_or_default());
        Ok(())
    }

    /// By which origin this node writes to an incarnation, deleted ones that are kept included, and up to when the bucket has what
    /// it wrote. Reads small files.
    pub fn written(&self, nsid: Nsid) -> Result<Option<(Origin, Hlc)>> {
        let Some(head) = Head::load(&self.context, nsid)? else { return Ok(None) };
        let origin = head.manifest.origin;
        let sent = self.common(nsid)?.map_or(Hlc::default(), |common| common.version_vector.seen(origin));
        Ok(Some((origin, sent)))
    }

    /// Other incarnations here of which this one has something, by a branch or a merge, that the bucket has nowhere, and the
    /// projects that they are in. Such things are in manifests, so nothing is opened. Reads small files.
    pub fn lenders(&self, nsid: Nsid) -> Result<Vec<(Project, Nsid)>> {
        let Some(Head { manifest, .. }) = Head::load(&self.context, nsid)? else { return Ok(Vec::new()) };
        let mut common = self.common(nsid)?.map(|common| common.version_vector).unwrap_or_default();
        if let Some(lineage) = &manifest.lineage
            && let Some(parents) = unless_damaged(self.common(lineage.nsid))?.flatten()
        {
            common.merge(&parents.version_vector);
        }
        let news = |(origin, hlc): &(Origin, Hlc)| *origin != manifest.origin && *hlc > common.seen(*origin);
        let news: BTreeMap<Origin, Hlc> = manifest.version_vector.iter().filter(news).collect();
        let mut lenders = Vec::new();
        for nsid in if news.is_empty() { BTreeSet::new() } else { self.all_here() } {
            if let Some(Some((origin, sent))) = unless_damaged(self.written(nsid))?
                && news.get(&origin).is_some_and(|hlc| *hlc > sent)
            {
                lenders.extend(self.project_of(nsid)?.map(|project| (project, nsid)));
            }
        }
        Ok(lenders)
    }

    pub(super) fn project_of(&self, nsid: Nsid) -> Result<Option<Project>> {
        let head = Head::load(&self.context, nsid)?;
        Ok(head.and_then(|head| parse_name(&head.manifest.name)).map(|name| name.project))
    }
}

/// What is damaged of one namespace is no concern of the others: it is told, and none.
fn unless_damaged<T>(read: Result<T>) -> Result<Option<T>> {
    match read {
        Err(error) if error.kind() == Kind::Corrupt => {
            tracing::warn!(%error, "damaged: it is passed over while others part from a disk that was cloned");
            Ok(None)
        }
        read => read.map(Some),
    }
}
