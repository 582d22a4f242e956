//! Decides what becomes of a name, by what it means here and in the bucket. Pure.
//!
//! | here | in the bucket | then |
//! | --- | --- | --- |
//! | nothing, never was | an incarnation | fetch it |
//! | an incarnation | the same | exchange |
//! | an incarnation | nothing, or another that was deleted | exchange, then bind |
//! | one that came back | deleted, that one | exchange, then bind; once that is done it is as one that was never deleted |
//! | deleted, or deleted and created again | the deleted one | bind, if the deletion had seen all of it |
//! | an incarnation | deleted, that one | delete here, too; what the deletion had not seen is kept under another name |
//! | an incarnation | another, after that one was deleted | the same, and the other is fetched |
//! | an incarnation | another | collision: both are made one, or kept under two names |

use uuid::Uuid;

use super::names::Bound;
use crate::error::{Error, Result};
use crate::format::names::Ended;
use crate::model::ids::{Hlc, NAME_BYTES_MAX, NamespaceName, Nsid};

/// What is to be done about a name.
#[derive(Debug, PartialEq)]
pub enum Choice {
    Nothing,
    Fetch(Nsid),
    Exchange(Nsid),
    /// Exchange, then bind in the bucket.
    Bind(Nsid),
    /// Tell the bucket that this incarnation was deleted here, and what has the name now.
    Delete(Nsid, Ended),
    /// Another node deleted what is here.
    Follow(Ended),
    /// Here, and in the bucket.
    Collision(Nsid, Nsid),
}

/// `own`: what the name means here by its newest revision, `bucket` there. Clocks decide one thing only: whether a deleted
/// namespace that has its name in the bucket was deleted after that, or has come back.
pub fn choose(here: Option<Nsid>, own: Option<&Bound>, bucket: Option<&Bound>) -> Choice {
    let target = bucket.and_then(|bound| bound.target);
    let ended_here = |nsid: Nsid| own.and_then(|own| own.lost(nsid));
    let ended_there = |nsid: Nsid| bucket.and_then(|bound| bound.lost(nsid));
    match (here, target) {
        (Some(own), Some(other)) if own == other => Choice::Exchange(own),
        // One that is bound here although its deletion is known came back.
        (Some(own), _) if let (Some(ended), None) = (ended_there(own), ended_here(own)) => {
            Choice::Follow(ended.clone())
        }
        (here, Some(other)) => {
            let is_back = here.is_none() && bucket.map(|bound| bound.hlc) > own.map(|own| own.hlc);
            match (ended_here(other).filter(|_| !is_back), here) {
                (Some(ended), _) => Choice::Delete(other, ended.clone()),
                (None, Some(own)) => Choice::Collision(own, other),
                (None, None) => Choice::Fetch(other),
            }
        }
        (Some(own), None) => Choice::Bind(own),
        (None, None) => Choice::Nothing,
    }
}

/// The revision in the bucket that comes after both: it knows of the last deletion, and its clock is above that of the one before.
pub fn next(own: Option<&Bound>, bucket: Option<&Bound>) -> Bound {
    let of = |bound: Option<&Bound>| bound.and_then(|bound| bound.ended.clone());
    let clock = |bound: Option<&Bound>| bound.map_or(Hlc::default(), |bound| bound.hlc);
    Bound {
        rev: bucket.map_or(0, |bound| bound.rev + 1),
        target: None,
        ended: of(own).or_else(|| of(bucket)),
        before: Vec::new(),
        hlc: clock(own).max(bucket.map_or(Hlc::default(), |bound| Hlc(bound.hlc.0 + 1))),
    }
}

/// The name of what is kept of a namespace that gives way: `{name}.{what}-{node}`, and a number from the second attempt on.
pub fn beside(name: &NamespaceName, what: &str, node: Uuid, attempt: u32) -> Result<NamespaceName> {
    let node = node.simple().to_string();
    // The newest digits of a UUIDv7 are the random ones.
    let mut end = format!(".{what}-{}", &node[node.len() - 8..]);
    if attempt > 1 {
        end.push_str(&format!("-{attempt}"));
    }
    let room = NAME_BYTES_MAX.saturating_sub(end.len());
    let kept = name.name.get(..room).unwrap_or(&name.name).trim_end_matches('.');
    name.project.namespace(&format!("{kept}{end}"))
}

/// The code of a pass that waits for a person: both the namespace that was deleted here and the one in its place were written to.
pub const DELETED_AND_WRITTEN: &str = "deleted_and_written";

pub fn written_elsewhere(name: &NamespaceName) -> Error {
    Error::conflict(format!("{name} was deleted and created again here, and other nodes wrote to the deleted one since"))
        .with_code(DELETED_AND_WRITTEN)
        .with_hint("delete the new one here; the next sync brings the old one back, and the new one can be undeleted by its incarnation")
}

pub fn no_manifest(name: &NamespaceName, nsid: Nsid) -> Error {
    Error::corrupt(format!("{name} is incarnation {nsid}, which has no manifest in the bucket"))
}

/// The code of a pass that was led to an incarnation by a name that had lost it by then.
pub const NAME_MOVED: &str = "name_moved";

pub fn moved(name: &NamespaceName) -> Error {
    Error::conflict(format!(
        "{name} was deleted since the names in the bucket were listed, and nothing is left of it"
    ))
    .with_code(NAME_MOVED)
    .with_hint("the next sync looks again")
}

pub fn moved_here(name: &NamespaceName) -> Error {
    Error::conflict(format!("{name} was deleted on this node while it was sent"))
        .with_code(NAME_MOVED)
        .with_hint("the next sync looks again")
}

pub fn overtaken(name: &NamespaceName) -> Error {
    Error::conflict(format!("another node bound {name} at the same time")).with_hint("the next sync looks again")
}

#[cfg(test)]
mod tests {
    use super::{Choice, beside, choose};
    use crate::format::names::Ended;
    use crate::model::ids::{Hlc, Nsid, Project};
    use crate::model::version_vector::VersionVector;
    use crate::sync::names::Bound;
    use uuid::Uuid;

    fn nsid(n: u128) -> Nsid {
        Nsid(Uuid::from_u128(n))
    }

    fn ended(n: u128) -> Ended {
        Ended { nsid: nsid(n), seen: VersionVector::default() }
    }

    fn bound(target: Option<u128>, of: Option<u128>, hlc: u64) -> Option<Bound> {
        Some(Bound { rev: 4, target: target.map(nsid), ended: of.map(ended), before: Vec::new(), hlc: Hlc(hlc) })
    }

    fn after(of: u128, bound: Option<Bound>) -> Option<Bound> {
        bound.map(|bound| Bound { before: vec![ended(of)], ..bound })
    }

    #[test]
    fn every_pair_of_meanings_has_one_end() {
        let (one, two) = (Some(nsid(1)), Some(nsid(2)));
        for (here, own, bucket, expected) in [
            (None, None, None, Choice::Nothing),
            (None, None, bound(None, Some(1), 1), Choice::Nothing),
            (None, bound(None, Some(1), 2), bound(None, Some(1), 1), Choice::Nothing),
            (None, None, bound(Some(1), None, 1), Choice::Fetch(nsid(1))),
            (None, bound(None, Some(3), 2), bound(Some(1), None, 1), Choice::Fetch(nsid(1))),
            (None, bound(None, Some(1), 2), bound(Some(1), None, 2), Choice::Delete(nsid(1), ended(1))),
            (None, bound(None, Some(1), 2), bound(Some(1), None, 3), Choice::Fetch(nsid(1))),
            (one, bound(Some(1), None, 2), None, Choice::Bind(nsid(1))),
            (one, bound(Some(1), None, 2), bound(Some(1), Some(2), 1), Choice::Exchange(nsid(1))),
            (one, bound(Some(1), None, 2), bound(None, Some(1), 3), Choice::Follow(ended(1))),
            (one, bound(Some(1), Some(1), 4), bound(None, Some(1), 3), Choice::Bind(nsid(1))),
            (one, bound(Some(1), None, 2), bound(None, Some(2), 1), Choice::Bind(nsid(1))),
            (one, bound(Some(1), None, 2), bound(Some(2), Some(1), 3), Choice::Follow(ended(1))),
            (one, bound(Some(1), None, 2), bound(Some(2), None, 1), Choice::Collision(nsid(1), nsid(2))),
            (two, bound(Some(2), Some(1), 3), bound(Some(1), None, 9), Choice::Delete(nsid(1), ended(1))),
            (two, bound(Some(2), Some(1), 3), bound(None, Some(1), 1), Choice::Bind(nsid(2))),
            // The second lost the name before the bucket ever had it there.
            (
                Some(nsid(3)),
                after(1, bound(Some(3), Some(2), 3)),
                bound(Some(1), None, 1),
                Choice::Delete(nsid(1), ended(1)),
            ),
            (
                Some(nsid(3)),
                after(1, bound(Some(3), Some(2), 3)),
                bound(Some(2), Some(1), 1),
                Choice::Delete(nsid(2), ended(2)),
            ),
            (None, after(1, bound(None, Some(2), 3)), bound(Some(1), None, 1), Choice::Delete(nsid(1), ended(1))),
            (
                one,
                after(1, bound(Some(1), Some(2), 4)),
                bound(Some(2), Some(1), 3),
                Choice::Delete(nsid(2), ended(2)),
            ),
        ] {
            assert_eq!(choose(here, own.as_ref(), bucket.as_ref()), expected, "{here:?} {own:?} {bucket:?}");
        }
    }

    #[test]
    fn what_is_kept_has_a_name_of_its_own_on_every_node_however_long_the_first_one_was() {
        let named = |text: &str| Project::default_project().namespace(text).unwrap();
        let node = Uuid::from_u128(0xabc);
        assert_eq!(&*beside(&named("docs"), "recovered", node, 1).unwrap().name, "docs.recovered-00000abc");
        assert_eq!(&*beside(&named("docs"), "apart", node, 2).unwrap().name, "docs.apart-00000abc-2");
        let long = format!("{}.{}", "x".repeat(112), "y".repeat(15));
        let kept = beside(&named(&long), "apart", node, 1).unwrap();
        assert_eq!(&*kept.name, format!("{}.apart-00000abc", "x".repeat(112)));
    }
}
