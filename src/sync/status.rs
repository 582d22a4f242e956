//! What a person is told of sync: per namespace what was carried, when, and why it is not further.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value as Json, json};

use super::binding::DELETED_AND_WRITTEN;
use super::namespace::Done;
use super::reclaiming::LastReclaim;
use crate::error::{DISK_FULL, Error};
use crate::model::ids::NamespaceName;
use crate::store::{FULL, MISCONFIGURED, OTHER_STORE, REPLACED, UNCONDITIONAL, UNREACHABLE};

/// The codes of all warnings about the bucket, about what comes from there and has no room here, and about namespaces that wait for a
/// person; closed, so that no label set grows.
pub const WARNINGS: [&str; 6] = [FULL, REPLACED, UNREACHABLE, MISCONFIGURED, DELETED_AND_WRITTEN, DISK_FULL];
/// After so many passes in a row that a bucket did not answer, or refused, operators are told. Of a directory they are told at once: no
/// link leads there that may be away.
pub const MISSED_MAX: u32 = 3;
/// So many namespaces a warning names.
const NAMED_MAX: usize = 16;

/// An error for a person: what happened, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub message: String,
    pub hint: Option<String>,
    pub code: &'static str,
}

pub(super) fn told(error: &Error) -> Told {
    Told { message: error.message().to_owned(), hint: error.hint().map(str::to_owned), code: error.code() }
}

/// How far this node and the bucket are.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// The bucket's URL.
    pub bucket: String,
    /// When the last pass began and ended, and when one last ended well.
    pub started_ms: Option<u64>,
    pub finished_ms: Option<u64>,
    pub succeeded_ms: Option<u64>,
    /// Why the last pass did not end well.
    pub error: Option<Told>,
    /// How many passes in a row did not reach the bucket, or were refused by it.
    pub missed: u32,
    /// What was last reclaimed in the bucket, since the start.
    pub reclaim: Option<LastReclaim>,
    pub namespaces: BTreeMap<NamespaceName, NamespaceStatus>,
}

/// How far one namespace is.
#[derive(Clone, Debug, Default)]
pub struct NamespaceStatus {
    /// The bucket's generation that this node and the bucket have in common.
    pub generation: Option<u64>,
    /// When that was last so, and when it was last tried.
    pub succeeded_ms: Option<u64>,
    pub tried_ms: Option<u64>,
    pub error: Option<Told>,
    /// When the bucket was last asked for what is here now, by time that passes: all that it had then is here.
    pub fresh_ms: Option<u64>,
    /// Since the start.
    pub sent: super::Carried,
    pub fetched: super::Carried,
    pub conflicts: u64,
    /// What a person should know: the newest since the start.
    pub notice: Option<String>,
}

impl Status {
    /// Notes how a pass ended, over everything or not.
    pub(super) fn ended(&mut self, failed: Option<&Error>, is_whole: bool, now: u64) {
        self.finished_ms = Some(now);
        let is_missed = failed.is_some_and(|error| is_missed(warned_as(error.code())));
        self.missed = if is_missed { self.missed.saturating_add(1) } else { 0 };
        match failed {
            // What went well for some says nothing of the others.
            None if !is_whole => {}
            None => {
                self.succeeded_ms = Some(now);
                self.error = None;
            }
            Some(error) => self.error = Some(told(error)),
        }
    }

    /// What operators are to know of the bucket: one entry for each code.
    pub fn warnings(&self) -> Vec<Json> {
        WARNINGS.iter().filter_map(|code| self.warning(code)).collect()
    }

    /// Namespaces with something that the last pass over them did not reach.
    pub(super) fn unreached(&self) -> BTreeSet<NamespaceName> {
        let is_unreached = |known: &NamespaceStatus| known.error.as_ref().is_some_and(|e| e.code == UNREACHABLE);
        self.namespaces.iter().filter(|(_, known)| is_unreached(known)).map(|(name, _)| name.clone()).collect()
    }

    fn warning(&self, code: &str) -> Option<Json> {
        let of_namespaces = self.namespaces.iter().filter_map(|(name, known)| Some((name, known.error.as_ref()?)));
        let failed: Vec<(&NamespaceName, &Told)> =
            of_namespaces.filter(|(_, told)| warned_as(told.code) == code).collect();
        let of_all = self.error.as_ref().filter(|told| warned_as(told.code) == code);
        if is_missed(code) && (of_all.is_none() || self.missed < MISSED_MAX && !self.bucket.starts_with("file:")) {
            return None;
        }
        let told = of_all.or(failed.first().map(|(_, told)| *told))?;
        Some(json!({
            "code": code,
            "message": told.message,
            "hint": told.hint,
            "namespaces": failed.iter().take(NAMED_MAX).map(|(name, _)| name.to_string()).collect::<Vec<_>>(),
            "namespaces_total": failed.len(),
        }))
    }
}

/// The code of the warning about an error: what a person mends by naming another bucket, or by mending this one, is one warning.
fn warned_as(code: &'static str) -> &'static str {
    if [OTHER_STORE, UNCONDITIONAL].contains(&code) { MISCONFIGURED } else { code }
}

/// Whether a warning of this code says that the bucket did not answer, or refused.
fn is_missed(code: &str) -> bool {
    [UNREACHABLE, MISCONFIGURED].contains(&code)
}

/// Whether an error says that no pass goes better until a person mends something.
pub(super) fn is_refused(error: &Error) -> bool {
    [MISCONFIGURED, REPLACED].contains(&warned_as(error.code()))
}

/// Whether an error says that the bucket is not this node's.
pub(super) fn is_foreign(error: &Error) -> bool {
    [OTHER_STORE, REPLACED].contains(&error.code())
}

impl NamespaceStatus {
    /// `began`: when the bucket was asked, by time that passes.
    pub(super) fn follow(&mut self, done: Done, began: u64, now: u64) {
        self.fresh_ms = Some(began);
        self.generation = done.generation.or(self.generation);
        self.succeeded_ms = Some(now);
        self.error = None;
        self.sent.objects += done.sent.objects;
        self.sent.bytes += done.sent.bytes;
        self.fetched.objects += done.fetched.objects;
        self.fetched.bytes += done.fetched.bytes;
        self.conflicts += done.conflicts;
        self.notice = done.notice.or(self.notice.take());
    }

    pub(super) fn to_json(&self) -> Json {
        json!({
            "bucket_generation": self.generation,
            "last_success_ms": self.succeeded_ms,
            "last_try_ms": self.tried_ms,
            "error": self.error.as_ref().map(Told::to_json),
            "sent_objects": self.sent.objects,
            "sent_bytes": self.sent.bytes,
            "fetched_objects": self.fetched.objects,
            "fetched_bytes": self.fetched.bytes,
            "conflicts": self.conflicts,
            "notice": self.notice,
        })
    }
}

impl Told {
    pub(super) fn to_json(&self) -> Json {
        json!({"message": self.message, "hint": self.hint, "code": self.code})
    }
}
