//! Identities: documents, versions, namespaces, incarnations, origins, commits.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{Error, Result};

/// The longest string id, in bytes.
pub const STRING_ID_BYTES_MAX: usize = 64;
/// The longest component of a namespace's name, in bytes.
pub const NAME_BYTES_MAX: usize = 128;
/// What errors about names begin with; most names are parts of URLs.
const IN_URL: &str = "Invalid URL: ";

/// A document's identity. Within a namespace all ids are of one [`IdType`], so the order derived here is the order of
/// results: integers numerically, UUIDs and strings bytewise.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DocId {
    Uint(u64),
    Uuid(Uuid),
    String(Box<str>),
}

/// Which kind of id a namespace has; the first write fixes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IdType {
    Uint,
    Uuid,
    String,
}

impl DocId {
    pub fn id_type(&self) -> IdType {
        match self {
            DocId::Uint(_) => IdType::Uint,
            DocId::Uuid(_) => IdType::Uuid,
            DocId::String(_) => IdType::String,
        }
    }

    /// How many bytes the id counts for in logical sizes.
    pub fn logical_bytes(&self) -> u64 {
        match self {
            DocId::Uint(_) => 8,
            DocId::Uuid(_) => 16,
            DocId::String(s) => s.len() as u64,
        }
    }
}

impl fmt::Display for DocId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DocId::Uint(n) => write!(f, "{n}"),
            DocId::Uuid(u) => write!(f, "{u}"),
            DocId::String(s) => write!(f, "{s:?}"),
        }
    }
}

impl IdType {
    pub fn name(self) -> &'static str {
        match self {
            IdType::Uint => "uint",
            IdType::Uuid => "uuid",
            IdType::String => "string",
        }
    }
}

/// Hybrid logical clock: 48 bit milliseconds since 1970, then a 16 bit counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hlc(pub u64);

impl Hlc {
    /// The end of the year 9999. What comes from elsewhere is not taken beyond it: a clock at the end of its range would give every
    /// later write the same version.
    pub const FOREIGN_MAX: Hlc = Hlc(253_402_300_800_000 << 16);

    pub fn from_millis(millis: u64) -> Self {
        Hlc(millis << 16)
    }

    pub fn millis(self) -> u64 {
        self.0 >> 16
    }

    /// The next clock value: the wall clock where it is ahead, else one above `self`.
    pub fn next(self, wall_millis: u64) -> Self {
        Hlc(Self::from_millis(wall_millis).0.max(self.0.saturating_add(1)))
    }
}

/// Random 64 bits that name one node's writable copy of one incarnation. In JSON 16 hexadecimal digits, since JSON
/// numbers lose the low bits of a u64 in many readers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin(pub u64);

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Serialize for Origin {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Origin {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        if text.len() != 16 {
            return Err(serde::de::Error::custom(format!("origin {text:?}: expected 16 hexadecimal digits")));
        }
        u64::from_str_radix(&text, 16)
            .map(Origin)
            .map_err(|_| serde::de::Error::custom(format!("origin {text:?}: expected 16 hexadecimal digits")))
    }
}

/// A document's version. Between two states of a document the higher one wins, wherever they lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Version {
    pub hlc: Hlc,
    pub origin: Origin,
}

/// One life of a namespace (UUIDv7). Paths use it; a name is bound to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Nsid(pub Uuid);

impl fmt::Display for Nsid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One state of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CommitId(pub Uuid);

impl fmt::Display for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An organisation and one of its projects, both valid name components.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Project {
    pub org: Box<str>,
    pub project: Box<str>,
}

/// A namespace's full name, each component valid.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamespaceName {
    pub project: Project,
    pub name: Box<str>,
}

/// Words that stand where an organisation would in a URL.
pub const RESERVED_ORGS: [&str; 6] = ["v1", "v2", "livez", "readyz", "metrics", "openapi.json"];

impl Project {
    /// Checks both components. Errors say which component is wrong and what is allowed.
    pub fn new(org: &str, project: &str) -> Result<Self> {
        check_component("organisation", org)?;
        check_component("project", project)?;
        if RESERVED_ORGS.contains(&org) {
            return Err(Error::invalid(format!("organisation {org:?} is a reserved word, choose another name")));
        }
        Ok(Project { org: org.into(), project: project.into() })
    }

    /// The organisation and project of requests without a prefix: `default/default`.
    pub fn default_project() -> Self {
        Project { org: "default".into(), project: "default".into() }
    }

    pub fn namespace(&self, name: &str) -> Result<NamespaceName> {
        check_component("Namespace", name)?;
        Ok(NamespaceName { project: self.clone(), name: name.into() })
    }

    /// A namespace by `name`, which is then in this project, or by `org/project/name`.
    pub fn find(&self, text: &str) -> Result<NamespaceName> {
        let parts: Vec<&str> = text.split('/').collect();
        match parts.as_slice() {
            [name] => self.namespace(name),
            [org, project, name] => Project::new(org, project)?.namespace(name),
            _ => Err(Error::invalid(format!("expected name or org/project/name, got {text:?}"))),
        }
    }
}

/// What is wrong with a name that was given elsewhere than in a URL.
pub fn reason(error: &Error) -> &str {
    error.message().trim_start_matches(IN_URL)
}

impl fmt::Display for Project {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.org, self.project)
    }
}

impl fmt::Display for NamespaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.project, self.name)
    }
}

/// 1 to 128 of `A-Za-z0-9-_.`, not starting with `_`, `.` or `-`, without `..`: safe as a path component everywhere.
fn check_component(what: &str, text: &str) -> Result<()> {
    if text.is_empty() {
        return Err(Error::invalid(format!("{IN_URL}{what} is empty")));
    }
    if text.len() > NAME_BYTES_MAX {
        return Err(Error::invalid(format!("{IN_URL}{what} too long, max {NAME_BYTES_MAX}")));
    }
    if !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
        return Err(Error::invalid(format!("{IN_URL}{what} contains invalid characters, must be [A-Za-z0-9-_.]")));
    }
    if text.starts_with(['_', '.', '-']) || text.contains("..") {
        return Err(Error::invalid(format!("{IN_URL}{what} must not start with '_', '.' or '-', nor contain '..'")));
    }
    Ok(())
}
