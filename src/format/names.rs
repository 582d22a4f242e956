//! A name binding: which incarnation a namespace's name means, one create-only revision after another.
//!
//! Invariant: the newest revision is kept for ever, a tombstone too, so revision numbers are never used again.

use serde::{Deserialize, Serialize};

use super::envelope;
use crate::error::{Error, Result};
use crate::model::ids::{Hlc, NamespaceName, Nsid, Project};
use crate::model::version_vector::VersionVector;

/// Version 1 does not say whose name it was before.
pub const VERSION: u32 = 2;

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
        let format = if ended.is_some() { VERSION } else { 1 };
        NameBinding { format, name: name.to_string(), rev, target, hlc, ended }
    }
}

/// The binding's bytes.
pub fn encode_binding(binding: &NameBinding) -> Result<Vec<u8>> {
    envelope::seal(binding).map(|(bytes, _)| bytes)
}

/// The binding in `bytes`.
pub fn decode_binding(bytes: &[u8], file: &str) -> Result<NameBinding> {
    let (binding, _) = envelope::open::<NameBinding>(bytes, VERSION, file)?;
    if binding.format < VERSION && binding.ended.is_some() {
        return Err(Error::corrupt(format!("{file}: format {} has no `ended`", binding.format)));
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
    use super::{NameBinding, VERSION, decode_binding, encode_binding};
    use crate::format::envelope;
    use crate::model::ids::{Hlc, Nsid};
    use uuid::Uuid;

    fn binding(name: &str) -> NameBinding {
        NameBinding {
            format: VERSION,
            name: name.into(),
            rev: 3,
            target: Some(Nsid(Uuid::from_u128(7))),
            hlc: Hlc(9),
            ended: None,
        }
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
