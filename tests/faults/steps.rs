//! Steps of a history, and what goes wrong with them.

use std::io;

use shoal::platform::memory_disk::{Mishap, MishapKind};
use shoal::platform::random::{Random, SeededRandom};

use crate::faulty_store::{Fault, Lie};

pub const NAMES: [&str; 3] = ["a", "b", "c"];
const TAGS: [&str; 2] = ["t", "u"];
pub const HOUR_MS: u64 = 3_600_000;

/// How a write is made out once it is known to whom it goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Draft {
    Put { seed: u64, empties: usize },
    Patch { seed: u64 },
    PatchAll,
    Delete { seed: u64 },
    DeleteSince { back: u64 },
}

#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    Write(&'static str, Draft, bool),
    /// One of the writes with a key that were sent, again.
    Retry(&'static str, u64),
    /// A write with a key, a checkpoint, another write, and the first one again.
    Again(&'static str),
    /// The same with a power cut before the other write; what goes wrong does when the node starts.
    AgainAfterCut(&'static str),
    /// Writes at the same time.
    AtOnce(&'static str, u64),
    /// More writes with keys than a node once remembered, and a checkpoint.
    ManyKeys(&'static str),
    Flush(&'static str),
    Compact(&'static str),
    Branch(&'static str, &'static str),
    BranchTag(&'static str, &'static str, &'static str),
    Copy(&'static str, &'static str),
    Merge(&'static str, &'static str),
    Drop(&'static str),
    Undelete(&'static str),
    Tag(&'static str, &'static str),
    Untag(&'static str, &'static str),
    Label(&'static str, u64),
    Ids(&'static str),
    Snapshot(&'static str, bool),
    Restore(&'static str),
    Sync,
    WaitBucket(&'static str),
    ReadBucket,
    Reclaim,
    Hours(u64),
    Tend,
    Rebuild,
    Recount,
    Look,
    Restart,
    Cut,
}

impl Step {
    /// What operations are counted by: one word for each kind.
    pub fn kind(&self) -> String {
        let text = format!("{self:?}");
        text.split(['(', ' ']).next().unwrap_or_default().to_owned()
    }

    /// The only namespace that it is about.
    pub fn whose(&self) -> Option<&'static str> {
        match self {
            Step::Write(of, ..)
            | Step::Retry(of, _)
            | Step::Again(of)
            | Step::AgainAfterCut(of)
            | Step::AtOnce(of, _)
            | Step::ManyKeys(of)
            | Step::Flush(of)
            | Step::Compact(of)
            | Step::Drop(of)
            | Step::Undelete(of)
            | Step::Tag(of, _)
            | Step::Untag(of, _)
            | Step::Label(of, _)
            | Step::Ids(of)
            | Step::Snapshot(of, _)
            | Step::WaitBucket(of) => Some(of),
            _ => None,
        }
    }

    /// Whether it goes to the bucket.
    pub fn asks_bucket(&self) -> bool {
        matches!(self, Step::Sync | Step::WaitBucket(_) | Step::ReadBucket | Step::Reclaim)
    }
}

/// What goes wrong in one step.
#[derive(Clone, Debug)]
pub enum Ill {
    Disk(Mishap),
    /// Of the step's requests to the bucket those from the first number on and before the second.
    Bucket(u64, u64, Fault),
    /// So many bytes are left on the disk while the step lasts.
    Full(u64),
}

/// Writes that opening the index of a small node after a power cut and making it anew take.
const INDEX_WRITES: u64 = 16;
/// So many operations at most a disk is away for after the one that it went away with.
const AWAY_MAX: u64 = 8;

pub struct Draw<'a>(pub &'a SeededRandom);

impl Draw<'_> {
    pub fn pick(&self, n: u64) -> u64 {
        self.0.next_u64() % n.max(1)
    }

    fn name(&self) -> &'static str {
        // Most happens in one, so that states grow old and large.
        NAMES[if self.pick(2) == 0 { 0 } else { self.pick(3) as usize }]
    }

    fn tag(&self) -> &'static str {
        TAGS[self.pick(2) as usize]
    }

    pub fn draft(&self) -> Draft {
        match self.pick(16) {
            0..9 => Draft::Put {
                seed: self.0.next_u64(),
                empties: if self.pick(3) == 0 { self.pick(40) as usize } else { 0 },
            },
            9..12 => Draft::Patch { seed: self.0.next_u64() },
            12 => Draft::PatchAll,
            13..15 => Draft::Delete { seed: self.0.next_u64() },
            _ => Draft::DeleteSince { back: self.pick(12) },
        }
    }

    pub fn step(&self, has_bucket: bool) -> Step {
        let step = match self.pick(if has_bucket { 120 } else { 101 }) {
            _ if self.pick(25) == 0 => Step::Again(self.name()),
            _ if self.pick(25) == 0 => Step::AgainAfterCut(self.name()),
            0..20 => Step::Write(self.name(), self.draft(), self.pick(2) == 0),
            20..28 => Step::Retry(self.name(), self.0.next_u64()),
            28..34 => Step::AtOnce(self.name(), 2 + self.pick(3)),
            34..44 => Step::Flush(self.name()),
            44..48 => Step::Compact(self.name()),
            48..53 => Step::Branch(self.name(), self.name()),
            53..54 => Step::BranchTag(self.name(), self.name(), self.tag()),
            54..55 => Step::Copy(self.name(), self.name()),
            55..61 => Step::Merge(self.name(), self.name()),
            61..64 => Step::Drop(self.name()),
            64..66 => Step::Undelete(self.name()),
            66..69 => Step::Tag(self.name(), self.tag()),
            69..71 => Step::Untag(self.name(), self.tag()),
            71..73 => Step::Label(self.name(), self.pick(100)),
            73..74 => Step::Ids(self.name()),
            74..79 => Step::Snapshot(self.name(), self.pick(3) == 0),
            79..81 => Step::Restore(self.name()),
            81..85 => Step::Hours(1 + self.pick(60)),
            85..88 => Step::Tend,
            88..91 => Step::Rebuild,
            91..93 => Step::Recount,
            93..95 => Step::Look,
            95..98 => Step::Restart,
            98..101 => Step::Cut,
            101..105 => Step::Sync,
            105..114 => Step::WaitBucket(self.name()),
            114..118 => Step::ReadBucket,
            _ => Step::Reclaim,
        };
        match step {
            Step::Branch(from, to) | Step::BranchTag(from, to, _) | Step::Copy(from, to) | Step::Merge(from, to)
                if from == to =>
            {
                Step::Flush(from)
            }
            step => step,
        }
    }

    /// What goes wrong in a step that takes about so many operations of the disk and requests to the bucket.
    pub fn ill(&self, step: &Step, operations: u64, requests: u64) -> Ill {
        if step.asks_bucket() && self.pick(3) > 0 {
            let first = self.pick(requests + 1);
            let last = first + [1, 1, 1, 2, 1_000_000][self.pick(5) as usize];
            let faults = [
                Fault::Before(Lie::Failed),
                Fault::After(Lie::Failed),
                Fault::Before(Lie::Conflict),
                Fault::After(Lie::Conflict),
                Fault::After(Lie::Precondition),
                Fault::Twice,
                Fault::Short,
                // A pass over all names learns from a listing what is there, and believes it: every store that is known lists all of it.
                if matches!(step, Step::Sync) { Fault::Short } else { Fault::Stale(1) },
            ];
            return Ill::Bucket(first, last, faults[self.pick(faults.len() as u64) as usize]);
        }
        if matches!(step, Step::AgainAfterCut(_)) && self.pick(4) > 0 {
            // The index is opened, and cannot be made anew: what it lost in the power cut it does not have then.
            let kind = MishapKind::WritesHalf(io::ErrorKind::StorageFull);
            return Ill::Disk(Mishap { after: self.pick(INDEX_WRITES), within: Some("meta.redb".to_owned()), kind });
        }
        // Small numbers as often as large ones: what is done last in a step is as important as what is done first.
        let after = self.pick((operations + 1) >> self.pick(4));
        let error = [io::ErrorKind::Other, io::ErrorKind::StorageFull][self.pick(2) as usize];
        let within = match self.pick(8) {
            // What is asked again must not depend on the index.
            _ if matches!(step, Step::Again(_)) && self.pick(2) == 0 => Some("meta.redb".to_owned()),
            0 | 1 => Some("meta.redb".to_owned()),
            2 => Some("/store/".to_owned()),
            3 => Some("/log/".to_owned()),
            4 => Some("/local/".to_owned()),
            _ => None,
        };
        let after = if within.is_some() { self.pick(1 + (operations >> (2 + self.pick(4)))) } else { after };
        let kind = match self.pick(16) {
            0..6 => MishapKind::Fails(error),
            6..8 => MishapKind::FailsAfter(error),
            8..11 => MishapKind::GoesAway(error, 1 + self.pick(AWAY_MAX) as u32),
            11..13 => MishapKind::WritesHalf(error),
            13 => MishapKind::ReadsWrong(self.0.next_u64()),
            _ => return Ill::Full(self.pick(3) * self.pick(3_000)),
        };
        let after = match kind {
            MishapKind::WritesHalf(_) => after / 4,
            MishapKind::ReadsWrong(_) => after / 3,
            _ => after,
        };
        Ill::Disk(Mishap { after, within, kind })
    }
}
