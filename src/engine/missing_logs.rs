//! Sealed logs whose files are gone although somebody needs them: only the index knows of the newest ones.
//!
//! - Who lets go of a log counts it less before its file goes, so one that is counted and not there is lost.
//! - Nobody else remembers it. So an index that is made anew goes on counting it, until its file is back or no record of it is needed.

use super::Engine;
use super::context::Context;
use super::damage::DamagedKind;
use super::journal::first_seq_of;
use super::layout::log_key;
use super::namespace::head::Head;
use super::sweep::parts;
use crate::meta::Facts;
use crate::model::ids::{NamespaceName, Nsid};
use crate::platform::disk::if_there;

/// Keys of the logs of an incarnation that are missing, of which records from `replay_from` on are needed, as far as the index is
/// trusted; with the first record of each. Asks the disk only for those that are `sought`.
pub fn missing_logs(
    context: &Context,
    (name, nsid, replay_from): (&NamespaceName, Nsid, u64),
    sought: impl Fn(&str) -> bool,
) -> Vec<(String, u64)> {
    if !context.may_reclaim() {
        return Vec::new();
    }
    let own = log_key(&name.project, nsid, "");
    // An index that fails knows nothing.
    let counted = context.meta.references_below(&own).unwrap_or_default();
    let first_of = |key: String| {
        let log = key.strip_prefix(&own)?;
        let first = first_seq_of(log).filter(|first| *first >= replay_from && sought(log))?;
        Some((key, first))
    };
    let is_lost = |key: &str| is_gone(context, key) && context.meta.references(key).is_ok_and(|count| count > 0);
    counted.into_iter().filter_map(first_of).filter(|(key, _)| is_lost(key)).collect()
}

fn is_gone(context: &Context, key: &str) -> bool {
    matches!(if_there(context.disk.size(&context.tier.path(key))), Ok(None))
}

impl Engine {
    /// Counts missing logs on that the index knows of, or that were found missing while it did. Nobody commits meanwhile.
    pub(super) fn count_missing_logs(&self, facts: &mut Facts) {
        let context = &self.context;
        let counted = |(name, nsid): (NamespaceName, Nsid)| missing_logs(context, (&name, nsid, 0), |_| true);
        let mut keys: Vec<String> = self.catalog.all().into_iter().flat_map(counted).map(|(key, _)| key).collect();
        let listed = context.damages.list().into_iter().filter(|damage| damage.kind == DamagedKind::Log);
        keys.extend(listed.filter_map(|damage| damage.file.strip_prefix("store/").map(str::to_owned)));
        for key in keys {
            let Some((nsid, rest)) = parts(&key) else { continue };
            let Some(first) = rest.strip_prefix("wal/").and_then(first_seq_of) else { continue };
            if facts.references.contains_key(&key) || !self.catalog.is_bound(nsid) || !is_gone(context, &key) {
                continue;
            }
            // What cannot be read may need it.
            let is_over = matches!(Head::load(context, nsid), Ok(Some(head)) if first < head.manifest.replay_from);
            if !is_over {
                facts.references.insert(key, 1);
            }
        }
    }
}
