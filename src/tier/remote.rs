//! The bucket, as the tier reads from it: ranges of objects that never change.

use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::sync::mpsc::{self, RecvTimeoutError};

use bytes::Bytes;
use tokio::runtime::Handle;

use crate::error::{Error, Result};
use crate::platform::allowance::{LOOK_EVERY, check_work};
use crate::store::{self, Bucket, Patience};

/// The code of errors about an object that a state names and that is not in the bucket.
pub const GONE: &str = "object_gone";

/// Where the bytes come from that are not here.
#[derive(Clone)]
pub struct Remote {
    bucket: Bucket,
    patience: Patience,
    /// Who carries requests out, while threads of another one wait for them.
    pub(super) runtime: Handle,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.bucket.name())
    }
}

impl Remote {
    /// Reads from `bucket` as long as `patience` allows.
    pub fn new(bucket: Bucket, patience: Patience) -> Self {
        Remote { bucket, patience, runtime: store::runtime() }
    }

    pub(super) async fn get(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        let expected = range.end - range.start;
        let found = self.bucket.get_range(key, range.clone(), &self.patience).await?.ok_or_else(|| gone(key))?;
        if found.len() as u64 != expected {
            return Err(Error::corrupt(format!(
                "object {key} in the bucket: {} bytes from byte {} on, expected {expected}",
                found.len(),
                range.start
            )));
        }
        Ok(found)
    }

    /// [`Remote::get`], waited for by a thread that may wait.
    pub(super) fn wait_for(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        let (remote, key) = (self.clone(), key.to_owned());
        self.begin(async move { remote.get(&key, range).await })()
    }

    /// Begins to read; what is given back waits for it, on a thread that may wait, as long as the work that wants it may take.
    pub(super) fn begin<T: Send + 'static>(
        &self,
        read: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Box<dyn FnOnce() -> Result<T> + Send> {
        let (done, answer) = mpsc::sync_channel(1);
        self.runtime.spawn(async move {
            // Nobody waits any more where the query ended.
            let _ = done.send(read.await);
        });
        let stopped = || Error::unavailable("a read of the bucket stopped without an answer");
        let wait = move || loop {
            match answer.recv_timeout(LOOK_EVERY) {
                Ok(read) => return read,
                Err(RecvTimeoutError::Timeout) => check_work()?,
                Err(RecvTimeoutError::Disconnected) => return Err(stopped()),
            }
        };
        Box::new(move || tokio::task::block_in_place(wait))
    }
}

/// What is wanted and not here, and nobody can be asked for.
pub(super) fn no_bucket(key: &str) -> Error {
    let what = format!("object {key} is not all here, and there is no bucket to read it from");
    Error::unavailable(what)
        .with_code("bucket_missing")
        .with_hint("start the daemon with the bucket that this node belongs to")
}

/// An object that a state names and that is nowhere.
pub fn gone(key: &str) -> Error {
    Error::unavailable(format!("object {key} is neither here nor in the bucket"))
        .with_code(GONE)
        .with_hint("another node may have moved on meanwhile, and the next sync reads its newer state; if it stays, somebody removed the object by hand")
}
