//! Reads the documents that a write is going to look at where the bucket has some of them: before the write takes its turn, so that
//! no other one waits behind it for a link. By then they are here, and deciding reads them as anything else.

use super::Namespace;
use crate::engine::write::{DOCUMENTS_AT_ONCE, Prepared};
use crate::error::{Kind, Result};
use crate::model::ids::DocId;
use crate::model::write::WriteRequest;

impl Namespace {
    /// An error where they cannot be had from the bucket; any other is for who decides to find. Blocking.
    pub(super) fn bring(&self, prepared: &Prepared, request: &WriteRequest) -> Result<()> {
        let upserts = prepared.upserts.iter().map(|row| &row.id).filter(|_| request.upsert_condition.is_some());
        let patches = prepared.patches.iter().map(|row| &row.id);
        let deletes = prepared.deletes.iter().filter(|_| request.delete_condition.is_some());
        let ids: Vec<&DocId> = upserts.chain(patches).chain(deletes).collect();
        for some in ids.chunks(DOCUMENTS_AT_ONCE) {
            let found = self.shared().state.look_up(some);
            if let Err(error) = found.and_then(|found| found.read())
                && error.kind() == Kind::Unavailable
            {
                return Err(error);
            }
        }
        Ok(())
    }
}
