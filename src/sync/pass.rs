//! What a pass came to, and what that says of the next.

use std::collections::BTreeMap;

use super::namespace::Done;
use super::status::is_foreign;
use crate::error::{Error, Kind, Result};
use crate::model::ids::NamespaceName;
use crate::store::{FULL, MISCONFIGURED, UNREACHABLE};

/// What a pass came to.
#[derive(Debug, Default)]
pub struct Pass {
    /// What was done for each namespace that was come to.
    pub namespaces: BTreeMap<NamespaceName, Result<Done>>,
    /// Why the pass ended early, or the first error of a namespace.
    pub failed: Option<Error>,
    /// Whether everything is to be looked at again at once, if anybody may: the bucket is not what it was.
    pub is_another_due: bool,
}

impl Pass {
    /// What was done for a namespace. NotFound when it is neither here nor in the bucket.
    pub fn of(&self, name: &NamespaceName) -> Result<Done> {
        match (self.namespaces.get(name), &self.failed) {
            // What went well for the namespace may have gone to another's bucket.
            (_, Some(error)) if is_foreign(error) => Err(error.duplicate()),
            (Some(done), _) => done.as_ref().cloned().map_err(Error::duplicate),
            (None, Some(error)) => Err(error.duplicate()),
            (None, None) => Err(Error::not_found(format!("namespace {name} is neither here nor in the bucket"))),
        }
    }

    /// Whether all wait longer for the next: the bucket was not reached, or refuses this node as a whole. What only one namespace has no
    /// luck with delays that one.
    pub(super) fn is_to_be_spared(&self) -> bool {
        self.has_ended_for(|error| [UNREACHABLE, MISCONFIGURED, FULL].contains(&error.code()))
    }

    /// Whether the bucket was reached for a namespace: then what was not is of the others.
    pub(super) fn has_reached(&self) -> bool {
        self.namespaces.values().flatten().any(|done| done.generation.is_some())
    }

    /// Whether those who wait on are to have another: what failed may be done by trying again.
    pub(super) fn may_go_better(&self) -> bool {
        self.has_ended_for(|error| matches!(error.kind(), Kind::Unavailable | Kind::Busy)) || self.is_to_be_spared()
    }

    /// Whether it ended early, or a namespace failed so.
    fn has_ended_for(&self, is_so: impl Fn(&Error) -> bool) -> bool {
        let mut errors = self.namespaces.values().filter_map(|done| done.as_ref().err()).peekable();
        self.failed.is_some() && (errors.peek().is_none() || errors.any(is_so))
    }
}

#[cfg(test)]
mod tests {
    use super::{Done, FULL, Pass, UNREACHABLE};
    use crate::error::{DISK_FULL, Error};
    use crate::model::ids::Project;

    #[test]
    fn only_what_is_of_the_bucket_or_stops_everything_delays_the_others() {
        let name = Project::default_project().namespace("docs").unwrap();
        let of = |error: Error| Pass {
            failed: Some(error.duplicate()),
            namespaces: [(name.clone(), Err(error))].into(),
            ..Pass::default()
        };
        assert!(of(Error::unavailable("away").with_code(UNREACHABLE)).is_to_be_spared());
        assert!(of(Error::unavailable("its disk is full").with_code(FULL)).is_to_be_spared());
        for error in [Error::unavailable("no room here").with_code(DISK_FULL), Error::busy("others commit")] {
            let pass = of(error);
            assert!(pass.may_go_better() && !pass.is_to_be_spared());
        }
        let diverged = of(Error::conflict("diverged"));
        assert!(!diverged.may_go_better() && !diverged.is_to_be_spared());
        let mut beside = of(Error::unavailable("away").with_code(UNREACHABLE));
        assert!(!beside.has_reached());
        let other = Project::default_project().namespace("other").unwrap();
        beside.namespaces.insert(other, Ok(Done { generation: Some(3), ..Done::default() }));
        assert!(beside.has_reached());
        let ended = Pass { failed: Some(Error::invalid("other store")), ..Pass::default() };
        assert!(ended.is_to_be_spared() && ended.may_go_better());
        assert!(!Pass::default().is_to_be_spared());
    }
}
