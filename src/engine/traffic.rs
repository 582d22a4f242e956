//! What went over the link this month, kept beside `node.json`; nothing depends on it but a budget.

use super::Engine;
use crate::error::{Context as _, Result};
use crate::format::traffic::{TrafficFile, decode_traffic, encode_traffic};
use crate::platform::disk::{if_there, publish};

impl Engine {
    /// What was counted last. One that cannot be read is said, and counting begins anew.
    pub fn traffic(&self) -> Option<TrafficFile> {
        let path = self.context.layout.traffic_file();
        let read = if_there(self.context.disk.read(&path)).context(|| format!("read {}", path.display()));
        let decoded =
            read.and_then(|bytes| bytes.map(|bytes| decode_traffic(&bytes, &path.display().to_string())).transpose());
        decoded.unwrap_or_else(|error| {
            tracing::warn!(%error, "the bytes of this month are counted anew");
            None
        })
    }

    /// Keeps what was counted, durably.
    pub fn keep_traffic(&self, file: &TrafficFile) -> Result<()> {
        let path = self.context.layout.traffic_file();
        publish(&*self.context.disk, &path, &encode_traffic(file)?).context(|| format!("write {}", path.display()))
    }
}
