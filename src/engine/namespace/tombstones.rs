//! Which documents a tail has deleted, and by which version each.
//!
//! The deletions of a large commit are kept as a run: their ids in one list, and one version for all of them. Others are in a
//! map, which takes about four times as much for each.
//!
//! Invariant: a document is here at most once.

use std::collections::BTreeMap;

use roaring::RoaringBitmap;

use crate::model::document::Tombstone;
use crate::model::ids::{DocId, Version};
use crate::model::memory::of_vec;

/// So many deletions of one commit become a run.
const RUN_MIN: usize = 16_384;
/// What an entry of an ordered map takes on average, beside key and value: its nodes have room for eleven, and are half full where
/// keys come in order.
const TREE_ENTRY_BYTES: u64 = 32;

#[derive(Default)]
pub struct Tombstones {
    single: BTreeMap<DocId, Version>,
    runs: Vec<Run>,
    /// What ids take beside themselves.
    heap_bytes: u64,
}

struct Run {
    /// In ascending order.
    ids: Vec<DocId>,
    version: Version,
    /// Places of ids that are no tombstones any more.
    gone: RoaringBitmap,
    heap_bytes: u64,
}

impl Run {
    fn new(mut ids: Vec<DocId>, version: Version) -> Self {
        ids.sort_unstable();
        ids.shrink_to_fit();
        let heap_bytes = ids.iter().map(DocId::heap_bytes).sum();
        Run { ids, version, gone: RoaringBitmap::new(), heap_bytes }
    }

    fn len(&self) -> usize {
        self.ids.len() - self.gone.len() as usize
    }

    fn remove(&mut self, id: &DocId) -> bool {
        let is_between =
            self.ids.first().is_some_and(|first| first <= id) && self.ids.last().is_some_and(|last| id <= last);
        is_between && self.ids.binary_search(id).is_ok_and(|place| self.gone.insert(place as u32))
    }

    fn iter(&self) -> impl Iterator<Item = &DocId> {
        (0..).zip(&self.ids).filter(|(place, _)| !self.gone.contains(*place)).map(|(_, id)| id)
    }
}

impl Tombstones {
    pub fn insert(&mut self, id: &DocId, version: Version) {
        if let Some(known) = self.single.get_mut(id) {
            *known = version;
            return;
        }
        self.remove(id);
        self.heap_bytes += id.heap_bytes();
        self.single.insert(id.clone(), version);
    }

    /// The deletions of one commit; each document is named once.
    pub fn insert_all(&mut self, ids: Vec<DocId>, version: Version) {
        if ids.len() < RUN_MIN {
            return ids.iter().for_each(|id| self.insert(id, version));
        }
        if !self.is_empty() {
            ids.iter().for_each(|id| self.remove(id));
        }
        let run = Run::new(ids, version);
        self.heap_bytes += run.heap_bytes;
        self.runs.push(run);
    }

    /// The document is there again.
    pub fn remove(&mut self, id: &DocId) {
        if self.single.remove(id).is_some() {
            self.heap_bytes = self.heap_bytes.saturating_sub(id.heap_bytes());
            return;
        }
        let Some(at) = self.runs.iter_mut().position(|run| run.remove(id)) else { return };
        if self.runs[at].len() == 0 {
            let run = self.runs.swap_remove(at);
            self.heap_bytes = self.heap_bytes.saturating_sub(run.heap_bytes);
        }
    }

    pub fn len(&self) -> usize {
        self.single.len() + self.runs.iter().map(Run::len).sum::<usize>()
    }

    pub fn is_empty(&self) -> bool {
        self.single.is_empty() && self.runs.is_empty()
    }

    /// Memory in bytes, about.
    pub fn bytes(&self) -> u64 {
        let single = size_of::<(DocId, Version)>() as u64 + TREE_ENTRY_BYTES;
        let of_run = |run: &Run| of_vec(&run.ids) + run.gone.serialized_size() as u64;
        self.single.len() as u64 * single + self.runs.iter().map(of_run).sum::<u64>() + self.heap_bytes
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = Tombstone> {
        let single = self.single.iter().map(|(id, version)| (id, *version));
        let of_runs = self.runs.iter().flat_map(|run| run.iter().map(|id| (id, run.version)));
        single.chain(of_runs).map(|(id, version)| Tombstone { id: id.clone(), version })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{RUN_MIN, Tombstones};
    use crate::model::ids::{DocId, Hlc, Origin, Version};

    fn version(hlc: u64) -> Version {
        Version { hlc: Hlc(hlc), origin: Origin(7) }
    }

    fn all(tombstones: &Tombstones) -> BTreeMap<DocId, u64> {
        let found: Vec<(DocId, u64)> = tombstones.iter().map(|one| (one.id, one.version.hlc.0)).collect();
        let map: BTreeMap<DocId, u64> = found.iter().cloned().collect();
        assert_eq!((map.len(), found.len()), (tombstones.len(), tombstones.len()), "one is there twice");
        map
    }

    #[test]
    fn a_document_is_there_once_with_the_version_that_deleted_it_last() {
        let id = |n: usize| DocId::String(format!("{n:08}").into());
        let (count, later) = (RUN_MIN, RUN_MIN / 2);
        let mut tombstones = Tombstones::default();
        let mut model: BTreeMap<DocId, u64> = BTreeMap::new();
        tombstones.insert(&id(3), version(1));
        for (hlc, first) in [(2, 0), (3, later)] {
            // In the order in which a filter finds them.
            tombstones.insert_all((first..first + count).rev().map(id).collect(), version(hlc));
            model.extend((first..first + count).map(|n| (id(n), hlc)));
            assert_eq!(all(&tombstones), model);
        }
        for n in (0..count).step_by(3) {
            tombstones.remove(&id(n));
            model.remove(&id(n));
        }
        tombstones.insert(&id(4), version(4));
        model.insert(id(4), 4);
        assert_eq!(all(&tombstones), model);
        tombstones.insert_all(vec![id(0), id(1)], version(5));
        model.extend([(id(0), 5), (id(1), 5)]);
        assert_eq!(all(&tombstones), model);
        (0..later + count).for_each(|n| tombstones.remove(&id(n)));
        assert!(tombstones.is_empty() && tombstones.runs.is_empty());
        assert_eq!((tombstones.len(), tombstones.bytes()), (0, 0));
    }
}
