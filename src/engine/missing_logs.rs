//! Sealed logs whose files are gone although the newest manifest needs their records.
//!
//! A log that comes before another one leaves a gap. Of the newest nobody but the index knows that it was there; how many it counts does
//! not say so: counts may be too high, after a power cut or while a file cannot be read. What says so for certain is
//! - a log with records that was sealed, and a clean stop after that: the index has its key and by which origin it was written, once it was
//!   in the tier for good;
//! - the newest manifest of that origin, which goes by no record of it yet. Who lets go of a log has made a manifest before that has its
//!   records, and who removes a namespace removes the manifests before; another life of the incarnation has another origin.

use std::collections::BTreeMap;

use super::Engine;
use super::context::Context;
use super::journal::{SealedLog, first_seq_of};
use super::layout::log_key;
use super::namespace::head::Head;
use super::open_logs::open_name;
use super::sweep::parts;
use crate::format::manifest::{Manifest, decode_manifest};
use crate::meta::{Facts, KeptLog};
use crate::model::ids::{NamespaceName, Nsid, Origin, Project};
use crate::platform::disk::if_there;

/// What the index is told of a log that is in the tier for good.
pub fn kept(project: &Project, (nsid, writer): (Nsid, Origin), log: &SealedLog) -> KeptLog {
    let has_records = log.next_seq > log.first_seq;
    KeptLog { key: log_key(project, nsid, &log.name), writer: has_records.then_some(writer) }
}

/// Keys of the logs of a manifest's writer that begin at the record `from` or later, are needed and are missing, with the first record
/// of each.
pub fn missing_logs(
    context: &Context,
    (name, manifest): (&NamespaceName, &Manifest),
    from: u64,
) -> Vec<(String, u64)> {
    let own = log_key(&name.project, manifest.nsid, "");
    // An index that fails knows nothing.
    let sealed = context.meta.sealed_below(&own).unwrap_or_default();
    let mut missing: Vec<(String, u64)> = needed(sealed, manifest, from).collect();
    // One that is there now and was not found is as good as missing, this time.
    missing.retain(|(key, _)| is_not_sealed(context, key));
    if missing.is_empty() {
        return missing;
    }
    // Looked at last: a log that a flush let go of a moment ago is behind this one.
    let newest = Head::load(context, manifest.nsid).ok().flatten().map(|head| head.manifest);
    let newest = newest.filter(|newest| newest.origin == manifest.origin);
    missing.retain(|(_, first)| newest.as_ref().is_some_and(|newest| *first >= newest.replay_from));
    missing.iter().for_each(|(key, _)| look_for(context, key));
    missing
}

/// Those of a manifest's writer that begin at the record `from` or later.
fn needed(logs: Vec<(String, Origin)>, manifest: &Manifest, from: u64) -> impl Iterator<Item = (String, u64)> {
    let logs = logs.into_iter().filter(|(_, writer)| *writer == manifest.origin);
    logs.filter_map(move |(key, _)| {
        let first = key.rsplit('/').next().and_then(first_seq_of).filter(|first| *first >= from)?;
        Some((key, first))
    })
}

/// Whether a log is for certain neither in the tier nor open.
pub fn is_gone(context: &Context, key: &str) -> bool {
    is_not_sealed(context, key) && !is_open(context, key)
}

fn is_not_sealed(context: &Context, key: &str) -> bool {
    matches!(if_there(context.disk.size(&context.tier.path(key))), Ok(None))
}

/// Whether a log is not sealed, as one is that was put back where it was.
pub fn is_open(context: &Context, key: &str) -> bool {
    let path = open_name_of(key).map(|name| context.layout.log().join(name));
    path.is_some_and(|path| matches!(if_there(context.disk.size(&path)), Ok(Some(_))))
}

/// Has the next opening look for a log where it was before it was sealed, too.
pub fn look_for(context: &Context, key: &str) {
    if let Some(name) = open_name_of(key) {
        context.layout.open_logs.begin(&name);
    }
}

fn open_name_of(key: &str) -> Option<String> {
    Some(open_name(parts(key)?.0, key.rsplit('/').next()?))
}

impl Engine {
    /// Counts the missing logs of namespaces on: they stay missing until they are back or given up by name, and who is back is let go of
    /// like any other. Nobody commits since `facts` were read. A log that they count is there.
    pub(super) fn count_missing_logs(&self, facts: &mut Facts) {
        let context = &self.context;
        let mut uncounted: BTreeMap<Nsid, Vec<(String, Origin)>> = BTreeMap::new();
        for (key, writer) in context.meta.sealed_below("").unwrap_or_default() {
            if let Some((nsid, _)) = parts(&key).filter(|_| !facts.references.contains_key(&key)) {
                uncounted.entry(nsid).or_default().push((key, writer));
            }
        }
        for (nsid, head) in &facts.heads {
            let Some(logs) = uncounted.remove(nsid).filter(|_| self.catalog.is_bound(*nsid)) else { continue };
            let Ok((manifest, _)) = decode_manifest(&head.manifest, "meta.redb") else { continue };
            for (key, _) in needed(logs, &manifest, manifest.replay_from).filter(|(key, _)| is_gone(context, key)) {
                *facts.references.entry(key).or_default() += 1;
            }
        }
    }
}
