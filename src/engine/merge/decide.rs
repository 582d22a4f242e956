//! What becomes of one document in a merge: pure, given what each side knows of it.
//!
//! A version that a side's vector covers was seen there. So:
//! - theirs is covered by ours: ours has it, or what replaced it, and nothing happens;
//! - ours is covered by theirs, and theirs is not: theirs replaced it, and is taken;
//! - neither is: both wrote it apart, which is a conflict unless one of them has the row that both began with: an edit that was
//!   undone, or a row that was written again as it was, is no edit ([`by_content`]). Where both began with no row there is nothing
//!   to compare with, and a deletion is never taken for an insertion that was undone.
//!
//! A state's version of a document is never lower than another of it that the state has seen: whoever has that other one takes it,
//! and compaction drops rows below a tombstone. So of equal documents the one with the higher version stays. And what both began with
//! is not known everywhere, while versions decide the same wherever two states meet: what was decided by content gets a new version
//! unless it is what the higher version says, and whoever decided otherwise sees that there is news.
//!
//! Absent where the vector covers the other side's version means that it was deleted and its tombstone is gone.

use std::fmt;

use crate::error::{Error, Result};
use crate::model::ids::Version;
use crate::model::version_vector::VersionVector;

/// What a side knows of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Live(Version),
    Deleted(Version),
    Absent,
}

impl State {
    pub fn version(self) -> Option<Version> {
        match self {
            State::Live(version) | State::Deleted(version) => Some(version),
            State::Absent => None,
        }
    }

    pub fn is_live(self) -> bool {
        matches!(self, State::Live(_))
    }
}

/// What becomes of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Ours stays.
    Nothing,
    /// Their document is taken as it is.
    Take,
    /// Their deletion is taken; its version, when it is still known.
    Delete(Option<Version>),
    /// Their tombstone is taken; no document is there on either side.
    Remember(Version),
    /// Both changed it apart.
    Conflict,
    /// Both wrote it apart, and [`by_content`] says what becomes of it.
    ByContent(Resolution),
    /// Live on one side, not known on the other, which may have deleted it and forgotten that: [`Verdict::with`] says what it
    /// is by whether the other side once had it.
    Vanished,
}

/// Whether a side had a document that it does not know of now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    Had,
    New,
    Unknown,
}

/// What is known of both sides as wholes.
#[derive(Clone, Copy)]
pub struct Sides<'a> {
    pub theirs: &'a VersionVector,
    pub ours: &'a VersionVector,
    /// Deletions that the other side has not seen may have left no tombstone.
    pub theirs_forgot: bool,
    pub ours_forgot: bool,
}

/// Decides what becomes of one document.
pub fn decide(theirs: State, ours: State, sides: Sides) -> Verdict {
    let seen_by_ours = |version| sides.ours.covers(version);
    let seen_by_theirs = |version| sides.theirs.covers(version);
    match (theirs, ours) {
        (State::Live(s), State::Live(t)) if s == t => Verdict::Nothing,
        (State::Live(s), _) | (State::Deleted(s), _) if seen_by_ours(s) => Verdict::Nothing,
        (State::Live(_), State::Live(t) | State::Deleted(t)) if seen_by_theirs(t) => Verdict::Take,
        (State::Live(_), State::Live(_) | State::Deleted(_)) => Verdict::Conflict,
        (State::Live(_), State::Absent) if sides.ours_forgot => Verdict::Vanished,
        (State::Live(_), State::Absent) => Verdict::Take,
        (State::Deleted(s), State::Live(t)) if seen_by_theirs(t) => Verdict::Delete(Some(s)),
        (State::Deleted(_), State::Live(_)) => Verdict::Conflict,
        (State::Deleted(s), State::Deleted(t)) if s <= t => Verdict::Nothing,
        (State::Deleted(s), _) => Verdict::Remember(s),
        (State::Absent, State::Live(t)) if seen_by_theirs(t) => Verdict::Delete(None),
        (State::Absent, State::Live(_)) if sides.theirs_forgot => Verdict::Vanished,
        (State::Absent, _) => Verdict::Nothing,
    }
}

impl Verdict {
    /// Settles what vanished on one side. `theirs_live`: their side has the document. A document that may have been deleted
    /// never comes back, and never goes, without the policy having a say; where nobody knows, whoever decides anything keeps it.
    pub fn with(self, evidence: Evidence, theirs_live: bool) -> Verdict {
        match (self, evidence) {
            (Verdict::Vanished, Evidence::Had | Evidence::Unknown) => Verdict::Conflict,
            (Verdict::Vanished, Evidence::New) if theirs_live => Verdict::Take,
            (Verdict::Vanished, Evidence::New) => Verdict::Nothing,
            (verdict, _) => verdict,
        }
    }
}

/// Settles what both sides wrote apart where at most one of them has other content than both began with: that one stays. `None`
/// when both have.
pub fn by_content(theirs: State, ours: State, theirs_changed: bool, ours_changed: bool) -> Option<Resolution> {
    let theirs_is_higher = theirs.version() > ours.version();
    match (theirs_changed, ours_changed) {
        (true, true) => None,
        (true, false) if theirs_is_higher => Some(Resolution::TakeTheirs),
        (true, false) => Some(Resolution::RenewTheirs),
        (false, false) if theirs_is_higher => Some(Resolution::TakeTheirs),
        (false, false) => Some(Resolution::KeepOurs),
        (false, true) if theirs_is_higher => Some(Resolution::RenewOurs),
        (false, true) => Some(Resolution::KeepOurs),
    }
}

/// What is done about conflicts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Nothing changes; the conflicts are listed.
    #[default]
    Fail,
    /// The higher version stays.
    Lww,
    /// Attribute by attribute.
    Fields,
    /// Attribute by attribute; nothing changes where both changed one, or one deleted what the other changed.
    FieldsOrFail,
    Ours,
    Theirs,
    /// The lower version becomes a document of its own.
    KeepBoth,
}

impl Policy {
    pub const ALL: [Policy; 7] = [
        Policy::Fail,
        Policy::Lww,
        Policy::Fields,
        Policy::FieldsOrFail,
        Policy::Ours,
        Policy::Theirs,
        Policy::KeepBoth,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Policy::Fail => "fail",
            Policy::Lww => "lww",
            Policy::Fields => "fields",
            Policy::FieldsOrFail => "fields-or-fail",
            Policy::Ours => "ours",
            Policy::Theirs => "theirs",
            Policy::KeepBoth => "keep-both",
        }
    }

    pub fn parse(text: &str) -> Result<Policy> {
        Policy::ALL.into_iter().find(|policy| policy.name() == text).ok_or_else(|| {
            let names = Policy::ALL.map(Policy::name).join(", ");
            Error::invalid(format!("policy: {text:?} is unknown, expected one of {names}"))
        })
    }

    /// Whether it settles conflicts without knowing what both sides began with.
    pub fn needs_no_base(self) -> bool {
        !matches!(self, Policy::Fail | Policy::Fields | Policy::FieldsOrFail)
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a conflict ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// Ours stays as it is.
    KeepOurs,
    /// Theirs is taken as it is.
    TakeTheirs,
    /// Ours is written again, above both.
    RenewOurs,
    /// Theirs is written above both.
    RenewTheirs,
    /// Both are joined attribute by attribute, above both.
    Join,
    /// Ours is written again and theirs beside it under another id.
    OursAndTheirs,
    /// Theirs is written and ours beside it under another id.
    TheirsAndOurs,
}

/// How a policy ends a conflict; `None`: it refuses to. Where one side deleted the document, `fields` and `keep-both` keep the
/// other's: there is nothing to join or to keep of a deletion. `is_clash`: both changed one attribute, or one deleted what the
/// other changed.
pub fn resolve(policy: Policy, theirs: State, ours: State, is_clash: bool) -> Option<Resolution> {
    // A deletion whose version is forgotten is older than whatever is known.
    let theirs_wins = theirs.version() > ours.version();
    Some(match policy {
        Policy::Fail => return None,
        Policy::FieldsOrFail if is_clash => return None,
        Policy::Lww if theirs_wins => Resolution::TakeTheirs,
        Policy::Lww => Resolution::KeepOurs,
        Policy::Ours => Resolution::RenewOurs,
        Policy::Theirs => Resolution::RenewTheirs,
        Policy::Fields | Policy::KeepBoth if !theirs.is_live() => Resolution::RenewOurs,
        Policy::Fields | Policy::KeepBoth if !ours.is_live() => Resolution::RenewTheirs,
        Policy::Fields | Policy::FieldsOrFail => Resolution::Join,
        Policy::KeepBoth if theirs_wins => Resolution::TheirsAndOurs,
        Policy::KeepBoth => Resolution::OursAndTheirs,
    })
}

#[cfg(test)]
mod tests {
    use super::{Evidence, Policy, Resolution, Sides, State, Verdict, by_content, decide, resolve};
    use crate::model::ids::{Hlc, Origin, Version};
    use crate::model::version_vector::VersionVector;

    const THEIRS: Origin = Origin(1);
    const OURS: Origin = Origin(2);

    fn version(origin: Origin, hlc: u64) -> Version {
        Version { hlc: Hlc(hlc), origin }
    }

    /// Both saw everything of both origins up to 10; what is above, each side alone did.
    fn verdict(theirs: State, ours: State) -> Verdict {
        forgetful(theirs, ours, false, false)
    }

    fn forgetful(theirs: State, ours: State, theirs_forgot: bool, ours_forgot: bool) -> Verdict {
        let mut their_vector = VersionVector::of(THEIRS, Hlc(20));
        their_vector.see(OURS, Hlc(10));
        let mut our_vector = VersionVector::of(OURS, Hlc(20));
        our_vector.see(THEIRS, Hlc(10));
        let sides = Sides { theirs: &their_vector, ours: &our_vector, theirs_forgot, ours_forgot };
        decide(theirs, ours, sides)
    }

    #[test]
    fn every_pair_of_states_has_its_verdict() {
        use State::{Absent, Deleted, Live};
        let (s_old, s_new) = (version(THEIRS, 5), version(THEIRS, 15));
        let (t_old, t_new) = (version(OURS, 5), version(OURS, 15));
        let table = [
            // What ours has seen changes nothing, whatever became of it.
            (Live(s_old), Live(s_old), Verdict::Nothing),
            (Live(s_old), Live(t_new), Verdict::Nothing),
            (Live(s_old), Deleted(t_new), Verdict::Nothing),
            (Live(s_old), Absent, Verdict::Nothing),
            (Deleted(s_old), Live(t_new), Verdict::Nothing),
            (Deleted(s_old), Deleted(t_new), Verdict::Nothing),
            (Deleted(s_old), Absent, Verdict::Nothing),
            // What theirs has seen of ours and went on from is taken.
            (Live(s_new), Live(t_old), Verdict::Take),
            (Live(s_new), Live(s_old), Verdict::Take),
            (Live(s_new), Deleted(t_old), Verdict::Take),
            (Live(s_new), Absent, Verdict::Take),
            (Deleted(s_new), Live(t_old), Verdict::Delete(Some(s_new))),
            (Deleted(s_new), Deleted(t_old), Verdict::Remember(s_new)),
            (Deleted(s_new), Absent, Verdict::Remember(s_new)),
            (Absent, Live(t_old), Verdict::Delete(None)),
            // What each did apart is a conflict, unless both deleted it.
            (Live(s_new), Live(t_new), Verdict::Conflict),
            (Live(s_new), Deleted(t_new), Verdict::Conflict),
            (Deleted(s_new), Live(t_new), Verdict::Conflict),
            (Deleted(version(THEIRS, 14)), Deleted(t_new), Verdict::Nothing),
            (Deleted(version(THEIRS, 16)), Deleted(t_new), Verdict::Remember(version(THEIRS, 16))),
            // What ours made is not known to theirs.
            (Absent, Live(t_new), Verdict::Nothing),
            (Absent, Deleted(t_new), Verdict::Nothing),
            (Absent, Absent, Verdict::Nothing),
        ];
        for (theirs, ours, expected) in table {
            assert_eq!(verdict(theirs, ours), expected, "theirs {theirs:?}, ours {ours:?}");
        }
    }

    #[test]
    fn where_a_deletion_may_be_forgotten_nothing_comes_back_or_goes_by_accident() {
        use State::{Absent, Live};
        let (s_new, t_new) = (version(THEIRS, 15), version(OURS, 15));
        assert_eq!(forgetful(Live(s_new), Absent, false, true), Verdict::Vanished);
        assert_eq!(forgetful(Absent, Live(t_new), true, false), Verdict::Vanished);
        assert_eq!(forgetful(Live(version(THEIRS, 5)), Absent, true, true), Verdict::Nothing);
        assert_eq!(forgetful(Absent, Live(version(OURS, 5)), true, true), Verdict::Delete(None));
        for (evidence, theirs_live, expected) in [
            (Evidence::Had, true, Verdict::Conflict),
            (Evidence::Unknown, true, Verdict::Conflict),
            (Evidence::New, true, Verdict::Take),
            (Evidence::Had, false, Verdict::Conflict),
            (Evidence::Unknown, false, Verdict::Conflict),
            (Evidence::New, false, Verdict::Nothing),
        ] {
            assert_eq!(Verdict::Vanished.with(evidence, theirs_live), expected, "{evidence:?} {theirs_live}");
        }
        assert_eq!(Verdict::Take.with(Evidence::Had, true), Verdict::Take);
    }

    #[test]
    fn every_policy_ends_every_conflict_as_it_says() {
        use Resolution::{Join, KeepOurs, OursAndTheirs, RenewOurs, RenewTheirs, TakeTheirs, TheirsAndOurs};
        let live = |origin, hlc| State::Live(version(origin, hlc));
        let deleted = |origin, hlc| State::Deleted(version(origin, hlc));
        let conflicts = [
            (live(THEIRS, 16), live(OURS, 15)),
            (live(THEIRS, 14), live(OURS, 15)),
            (live(THEIRS, 14), deleted(OURS, 15)),
            (live(THEIRS, 14), State::Absent),
            (deleted(THEIRS, 16), live(OURS, 15)),
            (State::Absent, live(OURS, 15)),
        ];
        let table = [
            (Policy::Lww, [TakeTheirs, KeepOurs, KeepOurs, TakeTheirs, TakeTheirs, KeepOurs]),
            (Policy::Fields, [Join, Join, RenewTheirs, RenewTheirs, RenewOurs, RenewOurs]),
            (Policy::Ours, [RenewOurs; 6]),
            (Policy::Theirs, [RenewTheirs; 6]),
            (Policy::KeepBoth, [TheirsAndOurs, OursAndTheirs, RenewTheirs, RenewTheirs, RenewOurs, RenewOurs]),
        ];
        for (policy, expected) in table {
            for is_clash in [false, true] {
                let found = conflicts.map(|(theirs, ours)| resolve(policy, theirs, ours, is_clash));
                assert_eq!(found, expected.map(Some), "{policy}");
            }
        }
        for is_clash in [false, true] {
            assert!(conflicts.iter().all(|(s, t)| resolve(Policy::Fail, *s, *t, is_clash).is_none()));
        }
        assert!(conflicts.iter().all(|(s, t)| resolve(Policy::FieldsOrFail, *s, *t, true).is_none()));
        assert_eq!(resolve(Policy::FieldsOrFail, conflicts[0].0, conflicts[0].1, false), Some(Join));
    }

    #[test]
    fn what_is_decided_by_content_is_the_higher_version_or_a_new_one() {
        use Resolution::{KeepOurs, RenewOurs, RenewTheirs, TakeTheirs};
        let (low, high) = (version(THEIRS, 14), version(OURS, 15));
        let states = |version| [State::Live(version), State::Deleted(version)];
        for (one, other) in states(low).into_iter().flat_map(|one| states(high).map(|other| (one, other))) {
            for (theirs, ours, taken, kept, same) in
                [(one, other, RenewTheirs, KeepOurs, KeepOurs), (other, one, TakeTheirs, RenewOurs, TakeTheirs)]
            {
                assert_eq!(by_content(theirs, ours, true, false), Some(taken), "{theirs:?} {ours:?}");
                assert_eq!(by_content(theirs, ours, false, true), Some(kept), "{theirs:?} {ours:?}");
                assert_eq!(by_content(theirs, ours, false, false), Some(same));
                assert_eq!(by_content(theirs, ours, true, true), None);
            }
        }
        // A deletion whose version is forgotten is lower than whatever is known.
        assert_eq!(by_content(State::Absent, State::Live(low), true, false), Some(RenewTheirs));
        assert_eq!(by_content(State::Live(low), State::Absent, false, true), Some(RenewOurs));
    }

    #[test]
    fn policies_are_named_as_they_are_read() {
        for policy in Policy::ALL {
            assert_eq!(Policy::parse(policy.name()).unwrap(), policy);
        }
        assert!(Policy::parse("newest").unwrap_err().message().contains("fail, lww, fields"));
    }
}
