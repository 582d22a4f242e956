//! A name binding: which incarnation a namespace's name means, one create-only revision after another.
//!
//! Invariant: the newest revision is kept for ever, a tombstone too, so revision numbers are never used again.

use serde::{Deserialize, Serialize};

use super::envelope;
use crate::error::{Error, Result};
use crate::model::ids::{Hlc, NamespaceName, Nsid, Project};
use crate::model::version_vector::VersionVector;

/// Version 1 does not say whose name it was before, and version 2 only who lost it last.
pub const VERSION: u32 = 3;
const WITH_ENDED: u32 = 2;
/// So many that lost a name are kept beside the last one, at most.
pub const BEFORE_MAX: usize = 16;

/// One revision of a binding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NameBinding {
    pub format: u32,
    /// `org/project/name`.
    pub name: String,
    pub rev: u64,
    /// The incarnation; `None` when the namespace was deleted.
    pub target: Option<Nsid>,
    pub hlc: Hlc,
    /// Who lost the name last, of those that the bucket has; kept by the revisions after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
    /// Who lost it before that one, in order, as long as the bucket may not know of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<Ended>,
}

/// An incarnation that was deleted, and what the node that did it had seen of it: what it had not is not deleted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ended {
    pub nsid: Nsid,
    pub seen: VersionVector,
}

impl NameBinding {
    /// A revision, of the oldest version that can say it.
    pub fn new(name: &NamespaceName, rev: u64, target: Option<Nsid>, hlc: Hlc, ended: Option<Ended>) -> Self {
        let format = if ended.is_some() { WITH_ENDED } else { 1 };
        NameBinding { format, name: name.to_string(), rev, target, hlc, ended, before: Vec::new() }
    }

    /// The same, which also says who lost the name before the last one that did. Of too many the first is kept, which a bucket has
    /// bound to the name for certain, and the newest.
    pub fn after(mut self, mut before: Vec<Ended>) -> Self {
        if before.len() > BEFORE_MAX {
            before.drain(1..=before.len() - BEFORE_MAX);
        }
        if !before.is_empty() {
            self.format = VERSION;
        }
        self.before = before;
        self
    }

    /// Who lost the name, the last one last.
    pub fn lost_by(&self) -> impl Iterator<Item = &Ended> {
        self.before.iter().chain(&self.ended)
    }

    /// What is known of the loss of the name by an incarnation.
    pub fn lost(&self, nsid: Nsid) -> Option<&Ended> {
        self.lost_by().find(|ended| ended.nsid == nsid)
    }
}

/// The binding's bytes.
pub fn encode_binding(binding: &NameBinding) -> Result<Vec<u8>> {
    envelope::seal(binding).map(|(bytes, _)| bytes)
}

/// The binding in `bytes`.
pub fn decode_binding(bytes: &[u8], file: &str) -> Result<NameBinding> {
    let (binding, _) = envelope::open::<NameBinding>(bytes, VERSION, file)?;
    for (field, since, is_there) in
        [("ended", WITH_ENDED, binding.ended.is_some()), ("before", VERSION, !binding.before.is_empty())]
    {
        if binding.format < since && is_there {
            return Err(Error::corrupt(format!("{file}: format {} has no `{field}`", binding.format)));
        }
    }
    if binding.before.len() > BEFORE_MAX || (binding.ended.is_none() && !binding.before.is_empty()) {
        return Err(Error::corrupt(format!(
            "{file}: `before` names {} incarnations, expected at most {BEFORE_MAX}, and none without `ended`",
            binding.before.len()
        )));
    }
    parse_name(&binding.name)
        .ok_or_else(|| Error::corrupt(format!("{file}: {:?} is not a namespace's name", binding.name)))?;
    Ok(binding)
}

/// Reads `org/project/name`.
pub fn parse_name(text: &str) -> Option<NamespaceName> {
    let mut parts = text.split('/');
    let (org, project, name) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    Project::new(org, project).ok()?.namespace(name).ok()
}

#[cfg(test)]
mod tests {
    use super::{BEFORE_MAX, Ended, NameBinding, VERSION, decode_binding, encode_binding};
    use crate::format::envelope;
    use crate::model::ids::{Hlc, Nsid};
    use crate::model::version_vector::VersionVector;
    use uuid::Uuid;

    fn binding(name: &str) -> NameBinding {
        NameBinding {
            format: VERSION,
            name: name.into(),
            rev: 3,
            target: Some(Nsid(Uuid::from_u128(7))),
            hlc: Hlc(9),
            ended: None,
            before: Vec::new(),
        }
    }

    #[test]
    fn of_too_many_that_lost_a_name_the_first_and_the_newest_are_kept() {
        let ended = |n: u128| Ended { nsid: Nsid(Uuid::from_u128(n)), seen: VersionVector::default() };
        let last = NameBinding { ended: Some(ended(99)), ..binding("acme/search/docs") };
        for (count, first, second) in [(16, 0, 1), (17, 0, 2), (40, 0, 25)] {
            let kept = last.clone().after((0..count).map(ended).collect());
            assert_eq!((&kept.before[0], &kept.before[1]), (&ended(first), &ended(second)));
            assert_eq!((kept.before.len(), kept.before.last()), (BEFORE_MAX, Some(&ended(count - 1))));
            assert_eq!(decode_binding(&encode_binding(&kept).unwrap(), "file").unwrap(), kept);
        }
        let mut wrong = last.after(vec![ended(1)]);
        wrong.ended = None;
        assert!(decode_binding(&encode_binding(&wrong).unwrap(), "file").is_err());
        let more = NameBinding { ended: Some(ended(1)), before: (2..19).map(ended).collect(), ..wrong };
        assert!(decode_binding(&encode_binding(&more).unwrap(), "file").is_err());
    }

    #[test]
    fn a_binding_comes_back_as_it_was_written() {
        let bytes = encode_binding(&binding("acme/search/docs")).unwrap();
        assert_eq!(decode_binding(&bytes, "file").unwrap(), binding("acme/search/docs"));
    }

    #[test]
    fn a_binding_of_a_name_that_cannot_be_is_corrupt() {
        for name in ["acme/search", "acme/search/../x", "a/b/c/d", ""] {
            let (bytes, _) = envelope::seal(&binding(name)).unwrap();
            assert!(decode_binding(&bytes, "file").is_err(), "{name:?}");
        }
    }
}
