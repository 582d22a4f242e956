//! Takes a namespace back to a past state by one more commit: history goes on, and merges see ordinary changes.

use std::sync::Arc;

use crate::engine::Engine;
use crate::engine::merge::diff::Diff;
use crate::error::{Error, Result};
use crate::model::as_of::AsOf;
use crate::model::document::Document;
use crate::model::ids::{DocId, NamespaceName};
use crate::model::shown::{Shown, is_same};

/// The most that one revert writes, in logical bytes; its documents are in memory at once.
pub const REVERT_BYTES_MAX: u64 = 64 << 20;
/// How often a revert begins anew because somebody wrote meanwhile.
const ATTEMPTS_MAX: usize = 8;

/// What a revert changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reverted {
    pub written: u64,
    pub deleted: u64,
}

impl Engine {
    /// Makes the documents what they were, as one new commit. Columns that were dropped since stay dropped. `Conflict` when
    /// others write all the time; Invalid with code `too_large` when more than [`REVERT_BYTES_MAX`] differs.
    pub async fn revert(self: &Arc<Self>, name: &NamespaceName, as_of: &AsOf) -> Result<Reverted> {
        let (name, as_of) = (name.clone(), as_of.clone());
        self.to_the_end(|engine| async move { engine.revert_now(&name, &as_of).await }).await
    }

    async fn revert_now(&self, name: &NamespaceName, as_of: &AsOf) -> Result<Reverted> {
        let namespace = self.namespace_to_change(name)?;
        self.context.check_space(0, || format!("what {name} was"))?;
        // Its documents are written anew: nothing is believed for having been right before.
        let past = Arc::new(self.moment_at(name, Some(as_of)).await?.unchecked());
        for _ in 0..ATTEMPTS_MAX {
            let now = self.moment_at(name, None).await?;
            let etag = now.view.etag.clone();
            let diff = Diff { from: now, to: past.clone() };
            let (documents, deletes) = tokio::task::block_in_place(|| differences(&diff))?;
            let done = Reverted { written: documents.len() as u64, deleted: deletes.len() as u64 };
            if done == Reverted::default() || namespace.put_back(&etag, documents, deletes).await? {
                return Ok(done);
            }
        }
        Err(Error::busy(format!("{name} was written all the time"))
            .with_hint("stop the writers for a moment, or branch from the past state"))
    }
}

fn differences(diff: &Diff) -> Result<(Vec<Arc<Document>>, Vec<DocId>)> {
    let (mut documents, mut deletes, mut bytes) = (Vec::new(), Vec::new(), 0);
    let shown = Shown::new(&diff.from.view.schema);
    diff.for_each(|difference| {
        if let (Some(old), Some(new)) = (&difference.old, &difference.new)
            && is_same((old, &shown), (new, &shown))
        {
            // It differs in columns that were dropped since only, which stay dropped: written again it would differ as before.
            return Ok(());
        }
        bytes += difference.id.logical_bytes() + difference.new.as_ref().map_or(0, |new| new.logical_bytes());
        if bytes > REVERT_BYTES_MAX {
            return Err(Error::invalid(format!("more than {REVERT_BYTES_MAX} bytes differ from that state"))
                .with_code("too_large")
                .with_hint("branch from the past state with `as_of`, and use the branch in its place"));
        }
        match difference.new {
            Some(document) => documents.push(document),
            None => deletes.push(difference.id),
        }
        Ok(())
    })?;
    Ok((documents, deletes))
}
