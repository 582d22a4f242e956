//! Where everything lies in the data directory.
//!
//! ```text
//! node.json  traffic.json  meta.redb  reserve/  log/  local/{nsid}/{generation:020}.json  local/names/{org}/{project}/{name}/{rev:020}.json
//! local/{nsid}/answers/{generation:020}-{newest:020}.ans
//! local/{nsid}/deleted.json  local/{nsid}/tags/{tag}/{rev:020}.json  local/{nsid}/tags.json  local/{nsid}/bases/{nsid}.json
//! store/_format.json  store/{org}/{project}/namespaces/{nsid}/{wal,segments,deletions}/...
//! cache/{org}/{project}/namespaces/{nsid}/segments/...  and for each file there one with the suffix `.here`
//! coming/{org}/{project}/namespaces/{nsid}/{wal,segments,deletions,conflicts}/...
//! going/{org}/{project}/namespaces/{nsid}/{segments,deletions,conflicts}/...
//! ```

use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::journal::LogPaths;
use super::open_logs::OpenLogs;
use crate::model::ids::{NamespaceName, Nsid, Project};

/// Paths below one data directory.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
    /// Files in the directory of open logs.
    pub open_logs: OpenLogs,
}

impl Layout {
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Layout { root: root.into(), open_logs: OpenLogs::default() }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn node_file(&self) -> PathBuf {
        self.root.join("node.json")
    }

    pub fn traffic_file(&self) -> PathBuf {
        self.root.join("traffic.json")
    }

    pub fn meta_file(&self) -> PathBuf {
        self.root.join("meta.redb")
    }

    /// Files whose room is for what frees some.
    pub fn reserve(&self) -> PathBuf {
        self.root.join("reserve")
    }

    pub fn store(&self) -> PathBuf {
        self.root.join("store")
    }

    /// Objects of the bucket that are here in part.
    pub fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }

    /// What came of objects that are on their way from the bucket, and what it has of those on their way there.
    pub fn on_their_way(&self) -> [PathBuf; 2] {
        ["coming", "going"].map(|name| self.root.join(name))
    }

    pub fn format_file(&self) -> PathBuf {
        self.store().join("_format.json")
    }

    pub fn local(&self) -> PathBuf {
        self.root.join("local")
    }

    pub fn names(&self) -> PathBuf {
        self.local().join("names")
    }

    pub fn bindings(&self, name: &NamespaceName) -> PathBuf {
        let project = &name.project;
        self.names().join(&*project.org).join(&*project.project).join(&*name.name)
    }

    /// This node's manifests of one incarnation.
    pub fn manifests(&self, nsid: Nsid) -> PathBuf {
        self.local().join(nsid.to_string())
    }

    pub fn manifest(&self, nsid: Nsid, generation: u64) -> PathBuf {
        self.manifests(nsid).join(numbered(generation))
    }

    /// One directory for each tag, with a file for each revision.
    pub fn tags(&self, nsid: Nsid) -> PathBuf {
        self.manifests(nsid).join("tags")
    }

    /// What is known of those in the bucket.
    pub fn known_tags(&self, nsid: Nsid) -> PathBuf {
        self.manifests(nsid).join("tags.json")
    }

    /// Per incarnation whose documents were merged into this one, its state at the last time.
    pub fn bases(&self, nsid: Nsid) -> PathBuf {
        self.manifests(nsid).join("bases")
    }

    pub fn base(&self, nsid: Nsid, source: Nsid) -> PathBuf {
        self.bases(nsid).join(format!("{source}.json"))
    }

    /// Answers to repeat of writes whose log records are in segments.
    pub fn answers(&self, nsid: Nsid) -> PathBuf {
        self.manifests(nsid).join("answers")
    }

    /// The mark of an incarnation that was deleted and can be had back.
    pub fn deleted_mark(&self, nsid: Nsid) -> PathBuf {
        self.manifests(nsid).join("deleted.json")
    }

    /// Open logs of all namespaces.
    pub fn log(&self) -> PathBuf {
        self.root.join("log")
    }

    /// Everything of an incarnation's own in the tier.
    pub fn objects(&self, project: &Project, nsid: Nsid) -> PathBuf {
        self.store().join(prefix(project, nsid))
    }

    pub fn logs(&self, project: &Project, nsid: Nsid) -> LogPaths {
        let sealed = self.store().join(wal_prefix(project, nsid));
        LogPaths { open: self.log(), sealed, names: self.open_logs.clone() }
    }
}

/// `00000000000000000017.json`: 20 digits, so that a listing is in order and any u64 fits.
pub fn numbered(n: u64) -> String {
    format!("{n:020}.json")
}

/// The number in a name that [`numbered`] made.
pub fn number_of(file: &str) -> Option<u64> {
    let digits = file.strip_suffix(".json")?;
    if digits.len() == 20 { digits.parse().ok() } else { None }
}

/// The key below which all objects of an incarnation lie.
pub fn prefix(project: &Project, nsid: Nsid) -> String {
    format!("{project}/namespaces/{nsid}")
}

fn wal_prefix(project: &Project, nsid: Nsid) -> String {
    format!("{}/wal", prefix(project, nsid))
}

pub fn log_key(project: &Project, nsid: Nsid, name: &str) -> String {
    format!("{}/{name}", wal_prefix(project, nsid))
}

pub fn segment_key(project: &Project, nsid: Nsid, segment: Uuid) -> String {
    format!("{}/segments/{segment}/data.seg", prefix(project, nsid))
}

pub fn deletions_key(project: &Project, nsid: Nsid, segment: Uuid, token: u64) -> String {
    format!("{}/deletions/{segment}-{token:016x}.del", prefix(project, nsid))
}

pub fn conflicts_key(project: &Project, nsid: Nsid, token: u64) -> String {
    format!("{}/conflicts/{token:016x}.json", prefix(project, nsid))
}

/// The token in a key that [`conflicts_key`] made.
pub fn conflicts_token(key: &str) -> Option<u64> {
    let (_, name) = key.rsplit_once("/conflicts/")?;
    let digits = name.strip_suffix(".json")?;
    if digits.len() == 16 { u64::from_str_radix(digits, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::{conflicts_key, conflicts_token, number_of, numbered};
    use crate::model::ids::{Nsid, Project};

    #[test]
    fn tokens_are_read_as_they_were_written_and_nothing_else_is() {
        let key = |token| conflicts_key(&Project::default_project(), Nsid(Uuid::from_u128(1)), token);
        for token in [0, 17, u64::MAX] {
            assert_eq!(conflicts_token(&key(token)), Some(token));
        }
        for wrong in ["", "a/conflicts/1.json", "a/conflicts/000000000000000x.json", "a/0000000000000001.json"] {
            assert_eq!(conflicts_token(wrong), None);
        }
    }

    #[test]
    fn numbers_are_read_as_they_were_written_and_nothing_else_is() {
        for n in [0, 17, u64::MAX] {
            assert_eq!(number_of(&numbered(n)), Some(n));
        }
        for name in ["17.json", "00000000000000000017.json.tmp", "0000000000000000001x.json", ""] {
            assert_eq!(number_of(name), None);
        }
    }
}
