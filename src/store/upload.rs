//! Uploads large objects in parts, each repeated by itself, with bounded memory.
//!
//! 1. Begin an upload.
//! 2. Send the parts, a few at a time; read each when it is its turn.
//! 3. Complete it; the object appears whole or not at all. When the answer is lost, look whether the object is there.
//!
//! An upload that fails is aborted; one whose caller is gone leaves its parts to the store's own rule for unfinished uploads.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path as StorePath;
use object_store::{MultipartId, PutMultipartOptions, PutPayload};

use super::bucket::{ANSWER_BYTES_MAX, Bucket};
use super::failure::{Failure, passing};
use super::patience::Patience;
use super::traffic::{Ending, Request};
use crate::error::{Error, Result};
use crate::platform::mmap::Mapping;

/// What is larger is sent in parts of this. S3 wants at least 5 MiB; a part lost on a slow link costs as much again.
pub const PART_BYTES: u64 = 8 << 20;
/// The most parts of one object that stores take.
const PARTS_MAX: u64 = 10_000;
/// Parts of one upload under way at once.
const PARTS_AT_ONCE: usize = 2;
/// Parts in memory at once, of all uploads together: 32 MiB, on nodes of 512 MB.
pub(super) const PARTS_HELD_MAX: usize = 4;
/// How long aborting may take: it is a courtesy to the store.
const ABORT_WITHIN: Duration = Duration::from_secs(10);

/// Bytes that an upload reads piece by piece, and again when a part is repeated.
pub trait Source: Send + Sync + 'static {
    /// In bytes; never changes.
    fn size(&self) -> u64;
    /// Exactly the bytes of `range`. May block.
    fn read(&self, range: Range<u64>) -> Result<Bytes>;
}

impl Source for Bytes {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read(&self, range: Range<u64>) -> Result<Bytes> {
        within(self, &range).map(|at| self.slice(at))
    }
}

/// A mapped file: read from the disk when a part is its turn, and copied, so that slow disks block no other request.
impl Source for Mapping {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read(&self, range: Range<u64>) -> Result<Bytes> {
        within(self, &range).map(|at| Bytes::copy_from_slice(&self[at]))
    }
}

fn within(bytes: &[u8], range: &Range<u64>) -> Result<Range<usize>> {
    match (usize::try_from(range.start), usize::try_from(range.end)) {
        (Ok(start), Ok(end)) if start <= end && end <= bytes.len() => Ok(start..end),
        _ => Err(Error::internal(format!("read bytes {range:?} of {}", bytes.len()))),
    }
}

/// The size of the parts of an object: all the same but the last, as some stores want it.
fn part_bytes(size: u64) -> u64 {
    PART_BYTES.max(size.div_ceil(PARTS_MAX).next_multiple_of(1 << 20))
}

impl Bucket {
    /// Puts an object of any size under a name that nobody else uses. Afterwards it is durable. The patience is that of each
    /// part: an upload goes on for as long as its parts arrive.
    pub async fn upload(&self, key: &str, source: Arc<dyn Source>, patience: &Patience) -> Result<()> {
        let path = self.path(key)?;
        let uploaded = match (&self.inner.backend.parts, source.size()) {
            (_, size) if size <= PART_BYTES => self.upload_whole(&path, source, patience).await,
            (Some(parts), _) => self.upload_parts(key, &path, parts.as_ref(), source, patience).await,
            (None, _) => self.upload_through(&path, source, patience).await,
        };
        uploaded.map_err(|error| error.context(format_args!("upload {key}")))
    }

    async fn upload_whole(&self, path: &StorePath, source: Arc<dyn Source>, patience: &Patience) -> Result<()> {
        let size = source.size();
        let (bytes, _held) = self.read_part(source, 0..size).await?;
        self.put_until(path, bytes, &mut patience.for_body(size).begin()).await
    }

    /// Reads a part off the runtime's threads. It counts as held until the second result is dropped.
    async fn read_part(
        &self,
        source: Arc<dyn Source>,
        range: Range<u64>,
    ) -> Result<(Bytes, tokio::sync::SemaphorePermit<'_>)> {
        let closed = |_| Error::internal("the bucket is closed");
        let held = self.inner.parts_held.acquire().await.map_err(closed)?;
        let expected = range.end - range.start;
        let bytes = tokio::task::spawn_blocking(move || source.read(range))
            .await
            .map_err(|error| Error::internal(format!("read a part: {error}")))??;
        match bytes.len() as u64 == expected {
            true => Ok((bytes, held)),
            false => Err(Error::internal(format!("read a part: got {} bytes, expected {expected}", bytes.len()))),
        }
    }

    async fn upload_parts(
        &self,
        key: &str,
        path: &StorePath,
        store: &dyn MultipartStore,
        source: Arc<dyn Source>,
        patience: &Patience,
    ) -> Result<()> {
        let mut turns = patience.begin();
        let begun = self.call(&mut turns, Request::Part, ANSWER_BYTES_MAX, || store.create_multipart(path)).await?;
        let id = begun.ok_or_else(|| Error::unavailable(format!("{}: no upload can begin", self.name())))?;
        let result = self.send_parts(key, path, store, &id, source, patience).await;
        if result.is_err() {
            let mut turns = patience.within(ABORT_WITHIN).begin();
            let abort = store.abort_multipart(path, &id);
            if let Err(failure) = self.attempt(Request::Part, ANSWER_BYTES_MAX, &mut turns, abort).await {
                let error = failure.into_error(self.name());
                tracing::warn!(%error, key, "an upload was given up, and its parts stay until the bucket expires them");
            }
        }
        result
    }

    async fn send_parts(
        &self,
        key: &str,
        path: &StorePath,
        store: &dyn MultipartStore,
        id: &MultipartId,
        source: Arc<dyn Source>,
        patience: &Patience,
    ) -> Result<()> {
        let size = source.size();
        let step = part_bytes(size);
        let parts: Vec<PartId> = stream::iter((0..size.div_ceil(step)).map(|index| {
            let source = Arc::clone(&source);
            async move {
                let from = index * step;
                let (bytes, _held) = self.read_part(source, from..size.min(from + step)).await?;
                let length = bytes.len() as u64;
                let mut turns = patience.for_body(length).begin();
                let sent = self
                    .call(&mut turns, Request::Part, ANSWER_BYTES_MAX, || {
                        self.count_sent(length);
                        store.put_part(path, id, index as usize, PutPayload::from(bytes.clone()))
                    })
                    .await?;
                sent.ok_or_else(|| Error::unavailable(format!("{}: the upload is gone", self.name())))
            }
        }))
        .buffered(PARTS_AT_ONCE)
        .try_collect()
        .await?;
        // The store puts the parts together before it answers.
        let mut turns = patience.for_long_attempts().begin();
        loop {
            let complete = store.complete_multipart(path, id, parts.clone());
            let failure = match self.attempt(Request::Part, ANSWER_BYTES_MAX, &mut turns, complete).await {
                Ok(_) => return Ok(()),
                Err(failure) => failure,
            };
            // An upload that is gone may have been completed by an attempt whose answer was lost.
            let gone = matches!(failure, Failure::Absent);
            if self.size(key, patience).await.is_ok_and(|found| found == Some(size)) {
                return Ok(());
            }
            if gone {
                return Err(passing(self.name(), "the upload is gone", Ending::Lost).into_error(self.name()));
            }
            self.next(&mut turns, failure).await.map_err(|failure| failure.into_error(self.name()))?;
        }
    }

    /// Stores whose parts cannot be repeated one by one: directories, where a write that fails seldom passes.
    async fn upload_through(&self, path: &StorePath, source: Arc<dyn Source>, patience: &Patience) -> Result<()> {
        let size = source.size();
        let mut turns = patience.for_body(size).begin();
        loop {
            let attempt = self.write_through(path, Arc::clone(&source));
            let failure = match self.attempt(Request::Put, ANSWER_BYTES_MAX, &mut turns, attempt).await {
                Ok(()) => return Ok(()),
                Err(failure) => failure,
            };
            self.next(&mut turns, failure).await.map_err(|failure| failure.into_error(self.name()))?;
        }
    }

    async fn write_through(&self, path: &StorePath, source: Arc<dyn Source>) -> object_store::Result<()> {
        self.standing().await?;
        let mut upload = self.inner.backend.objects.put_multipart_opts(path, PutMultipartOptions::default()).await?;
        let written = async {
            let size = source.size();
            let mut from = 0;
            while from < size {
                let to = size.min(from + PART_BYTES);
                let (bytes, _held) = self
                    .read_part(Arc::clone(&source), from..to)
                    .await
                    .map_err(|error| super::bucket::generic(error.to_string()))?;
                self.count_sent(bytes.len() as u64);
                upload.put_part(PutPayload::from(bytes)).await?;
                from = to;
            }
            upload.complete().await.map(|_| ())
        }
        .await;
        if written.is_err() {
            // Best effort: what stays is a staged file that no listing shows.
            let _ = upload.abort().await;
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{PART_BYTES, PARTS_MAX, Source, part_bytes};
    use crate::platform::mmap::Mapping;

    #[test]
    fn parts_are_large_enough_that_no_object_has_too_many() {
        assert_eq!(part_bytes(1), PART_BYTES);
        for size in [PART_BYTES * PARTS_MAX, PART_BYTES * PARTS_MAX + 1, 1 << 40] {
            assert!(size.div_ceil(part_bytes(size)) <= PARTS_MAX);
        }
    }

    #[test]
    fn a_read_beyond_the_end_is_an_error() {
        let sources: [Box<dyn Source>; 2] =
            [Box::new(Bytes::from_static(b"abc")), Box::new(Mapping::of_bytes(b"abc".to_vec()))];
        for source in sources {
            assert_eq!((source.size(), source.read(1..3).unwrap()), (3, Bytes::from_static(b"bc")));
            assert!(source.read(1..4).is_err() && source.read(4..5).is_err());
        }
    }
}
