//! What a merge did, or would do.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::decide::{Policy, Resolution};
use crate::engine::write::DOCUMENT_BYTES_MAX;
use crate::model::as_of::AsOf;
use crate::model::ids::{CommitId, DocId};
use crate::model::value_render::id_json;

/// The most conflicts that a report shows; all of them are counted.
pub const LISTED_MAX: usize = 100;
/// What their rows may count for, in logical bytes; from the first one that would be above it on none is shown.
pub const LISTED_BYTES_MAX: u64 = 8 << 20;

/// How a merge is made.
#[derive(Clone, Debug, Default)]
pub struct MergeRequest {
    pub policy: Policy,
    /// Nothing changes; the report is the same.
    pub dry_run: bool,
    /// The two need not have anything in common.
    pub allow_unrelated: bool,
    /// The source's state to merge; the newest one when `None`.
    pub as_of: Option<AsOf>,
}

/// What a merge did, or would do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MergeReport {
    pub policy: Policy,
    pub dry_run: bool,
    pub inserted: u64,
    pub updated: u64,
    pub deleted: u64,
    /// Documents that were looked at and stay as they are.
    pub skipped: u64,
    pub conflicts: u64,
    /// Conflicts in which no attribute was changed by both, and the rest.
    pub disjoint: u64,
    pub clashing: u64,
    /// In how many conflicts both changed an attribute, by its name.
    pub clashes: BTreeMap<String, u64>,
    /// How many conflicts ended how.
    pub resolutions: BTreeMap<&'static str, u64>,
    /// Documents that were not joined attribute by attribute, since what would come out is larger than a document may be.
    pub too_large: Option<TooLarge>,
    /// The first conflicts, in the order of ids.
    pub listed: Vec<Conflict>,
    /// There are conflicts that the policy decides nothing about: nothing changed.
    pub refused: bool,
    /// Attributes of the source that were dropped here, and stay so.
    pub left_out: Vec<String>,
    /// Generation and identity of the commit; `None` when nothing was to be committed.
    pub commit: Option<(u64, CommitId)>,
    /// The state that the commit made, for `ETag`; where there is none, the one that was looked at.
    pub etag: String,
}

/// Documents that are too large to be joined: how many, and the first of them.
#[derive(Clone, Debug, PartialEq)]
pub struct TooLarge {
    pub count: u64,
    pub id: DocId,
    /// What it would take.
    pub bytes: u64,
}

/// A document that both sides changed apart. A side that deleted it has no row.
#[derive(Clone, Debug, PartialEq)]
pub struct Conflict {
    pub id: DocId,
    /// The row that both began with; `None` when it is not known, or was not there.
    pub base: Option<Json>,
    pub ours: Option<Json>,
    pub theirs: Option<Json>,
    /// Attributes that both changed.
    pub clashes: Vec<String>,
    pub resolution: &'static str,
    /// The id under which the loser lives on.
    pub kept_as: Option<DocId>,
    /// Names the loser among the namespace's conflicts.
    pub token: Option<Uuid>,
}

impl MergeReport {
    pub fn to_json(&self) -> Json {
        let listed = self.listed.iter().map(Conflict::to_json).collect::<Vec<_>>();
        let mut body = json!({
            "policy": self.policy.name(),
            "dry_run": self.dry_run,
            "inserted": self.inserted,
            "updated": self.updated,
            "deleted": self.deleted,
            "skipped": self.skipped,
            "conflicts": {
                "total": self.conflicts,
                "disjoint": self.disjoint,
                "clashing": self.clashing,
                "clashing_attributes": self.clashes,
                "resolutions": self.resolutions,
                "listed": listed,
            },
            "committed": self.commit.is_some(),
        });
        if let Some(TooLarge { count, id, bytes }) = &self.too_large {
            body["conflicts"]["too_large"] =
                json!({"total": count, "first": id_json(id), "bytes": bytes, "bytes_max": DOCUMENT_BYTES_MAX});
        }
        if !self.left_out.is_empty() {
            body["left_out"] = self.left_out.clone().into();
        }
        if let Some((generation, commit_id)) = self.commit {
            body["generation"] = generation.into();
            body["commit_id"] = commit_id.to_string().into();
        }
        body
    }
}

impl Conflict {
    fn to_json(&self) -> Json {
        let mut body = json!({
            "id": id_json(&self.id),
            "base": self.base,
            "ours": self.ours,
            "theirs": self.theirs,
            "resolution": self.resolution,
        });
        if !self.clashes.is_empty() {
            body["clashing_attributes"] = self.clashes.clone().into();
        }
        if let Some(id) = &self.kept_as {
            body["kept_as"] = id_json(id);
        }
        if let Some(token) = &self.token {
            body["token"] = token.to_string().into();
        }
        body
    }
}

/// The word for how a conflict ended.
pub fn word(resolution: Option<Resolution>) -> &'static str {
    match resolution {
        None => "none",
        Some(Resolution::KeepOurs | Resolution::RenewOurs) => "ours",
        Some(Resolution::TakeTheirs | Resolution::RenewTheirs) => "theirs",
        Some(Resolution::Join) => "fields",
        Some(Resolution::OursAndTheirs | Resolution::TheirsAndOurs) => "keep-both",
    }
}
