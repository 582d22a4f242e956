//! Uploads large objects in parts, each repeated by itself, with bounded memory.
//!
//! 1. Begin an upload.
//! 2. Send the parts, a few at a time; read each when it is its turn.
//! 3. Complete it; the object appears whole or not at all. When the answer is lost, look whether the object is there.
//!
//! An upload that breaks off goes on with the next try where a [`Ledger`] remembers it. Else one that fails is aborted, and one
//! whose caller is gone leaves its parts to the store's own rule for unfinished uploads.

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
use crate::error::{Error, Kind, Result};
use crate::format::uploads::{PARTS_MAX, UploadFile, VERSION};
use crate::platform::mmap::Mapping;

/// What is larger is sent in parts of this. S3 wants at least 5 MiB; a part lost on a slow link costs as much again.
pub const PART_BYTES: u64 = 8 << 20;
/// Parts of one upload under way at once.
const PARTS_AT_ONCE: usize = 2;
/// Parts in memory at once, of all uploads together: 32 MiB, on nodes of 512 MB.
pub(super) const PARTS_HELD_MAX: usize = 4;
/// After so many tries in a row that sent nothing more, an upload begins anew: the store may not know it any more. Many, since a bad
/// link may carry a part now and then only.
const IDLE_TRIES_MAX: u32 = 64;
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
        let bytes = within(self, &range).map(|at| Bytes::copy_from_slice(&self[at]));
        self.check_readable("what is sent").and(bytes)
    }
}

/// Where it is remembered what the bucket has of one object's upload. May block.
pub trait Ledger: Send + Sync + 'static {
    /// What is known; what cannot be read is not.
    fn read(&self) -> Option<UploadFile>;
    fn keep(&self, upload: &UploadFile) -> Result<()>;
    fn forget(&self) -> Result<()>;
}

/// What became of a try.
enum Sent {
    Whole,
    /// The store does not know the upload.
    Unknown,
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
    /// part: an upload goes on for as long as its parts arrive, and from where the ledger says that the last try broke off.
    pub async fn upload(
        &self,
        key: &str,
        source: Arc<dyn Source>,
        ledger: Option<Arc<dyn Ledger>>,
        patience: &Patience,
    ) -> Result<()> {
        let path = self.path(key)?;
        let uploaded = match (&self.inner.backend.parts, source.size()) {
            (_, size) if size <= PART_BYTES => self.upload_whole(&path, source, patience).await,
            (Some(parts), _) => self.upload_parts(key, &path, parts.as_ref(), source, ledger, patience).await,
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
        ledger: Option<Arc<dyn Ledger>>,
        patience: &Patience,
    ) -> Result<()> {
        let size = source.size();
        let part_bytes = part_bytes(size);
        let fits = |known: &UploadFile| (known.bytes, known.part_bytes) == (size, part_bytes);
        let mut known = ask(&ledger, |ledger| Ok(ledger.read())).await.flatten().filter(fits);
        loop {
            let is_resumed = known.is_some();
            let mut upload = match known.take() {
                Some(known) => known,
                None => self.begin_parts(path, store, (size, part_bytes), patience).await?,
            };
            let before = upload.parts.len();
            let result =
                self.send_parts(key, path, store, (&mut upload, &ledger), Arc::clone(&source), patience).await;
            upload.idle_tries = if upload.parts.len() > before { 0 } else { upload.idle_tries + 1 };
            let error = match result {
                Ok(Sent::Whole) => {
                    ask(&ledger, |ledger| ledger.forget()).await;
                    return Ok(());
                }
                Ok(Sent::Unknown) => passing(self.name(), "the upload is gone", Ending::Lost).into_error(self.name()),
                Err(error) => {
                    let may_pass = error.kind() == Kind::Unavailable && upload.idle_tries < IDLE_TRIES_MAX;
                    if may_pass && keep(&ledger, &upload).await {
                        return Err(error);
                    }
                    if let Err(failure) = self.abort(path, store, &upload.upload, patience).await {
                        self.tell_of_parts(key, failure);
                    }
                    error
                }
            };
            ask(&ledger, |ledger| ledger.forget()).await;
            if !is_resumed {
                return Err(error);
            }
        }
    }

    async fn begin_parts(
        &self,
        path: &StorePath,
        store: &dyn MultipartStore,
        (bytes, part_bytes): (u64, u64),
        patience: &Patience,
    ) -> Result<UploadFile> {
        let mut turns = patience.begin();
        let begun = self.call(&mut turns, Request::Part, ANSWER_BYTES_MAX, || store.create_multipart(path)).await?;
        let upload = begun.ok_or_else(|| Error::unavailable(format!("{}: no upload can begin", self.name())))?;
        Ok(UploadFile { format: VERSION, bytes, part_bytes, upload, parts: Vec::new(), idle_tries: 0 })
    }

    /// Has the store let go of an upload that nobody goes on with. After an error it may do so when it is asked again.
    pub async fn give_up(&self, key: &str, upload: &UploadFile, patience: &Patience) -> Result<()> {
        let Some(store) = &self.inner.backend.parts else { return Ok(()) };
        match self.abort(&self.path(key)?, store.as_ref(), &upload.upload, patience).await {
            Ok(()) => Ok(()),
            Err(failure @ Failure::Lasting(_)) => {
                self.tell_of_parts(key, failure);
                Ok(())
            }
            Err(failure) => Err(failure.into_error(self.name()).context(format_args!("give up the upload of {key}"))),
        }
    }

    /// What the store does not know is given up.
    async fn abort(
        &self,
        path: &StorePath,
        store: &dyn MultipartStore,
        id: &MultipartId,
        patience: &Patience,
    ) -> Result<(), Failure> {
        let mut turns = patience.within(ABORT_WITHIN).begin();
        match self.attempt(Request::Part, ANSWER_BYTES_MAX, &mut turns, store.abort_multipart(path, id)).await {
            Err(Failure::Absent) => Ok(()),
            done => done,
        }
    }

    fn tell_of_parts(&self, key: &str, failure: Failure) {
        let error = failure.into_error(self.name());
        tracing::warn!(%error, key, "an upload was given up, and its parts stay until the bucket expires them");
    }

    async fn send_parts(
        &self,
        key: &str,
        path: &StorePath,
        store: &dyn MultipartStore,
        (upload, ledger): (&mut UploadFile, &Option<Arc<dyn Ledger>>),
        source: Arc<dyn Source>,
        patience: &Patience,
    ) -> Result<Sent> {
        let UploadFile { bytes: size, part_bytes: step, .. } = *upload;
        let id = upload.upload.clone();
        let mut sent = stream::iter((upload.parts.len() as u64..size.div_ceil(step)).map(|index| {
            let (source, id) = (Arc::clone(&source), &id);
            async move {
                let from = index * step;
                let (bytes, _held) = self.read_part(source, from..size.min(from + step)).await?;
                let length = bytes.len() as u64;
                let mut turns = patience.for_body(length).begin();
                self.call(&mut turns, Request::Part, ANSWER_BYTES_MAX, || {
                    self.count_sent(length);
                    store.put_part(path, id, index as usize, PutPayload::from(bytes.clone()))
                })
                .await
            }
        }))
        .buffered(PARTS_AT_ONCE);
        while let Some(part) = sent.try_next().await? {
            let Some(part) = part else { return Ok(Sent::Unknown) };
            upload.parts.push(part.content_id);
            keep(ledger, upload).await;
        }
        let part = |content_id: &String| PartId { content_id: content_id.clone() };
        let parts: Vec<PartId> = upload.parts.iter().map(part).collect();
        // The store puts the parts together before it answers.
        let mut turns = patience.for_long_attempts().begin();
        loop {
            let complete = store.complete_multipart(path, &id, parts.clone());
            let failure = match self.attempt(Request::Part, ANSWER_BYTES_MAX, &mut turns, complete).await {
                Ok(_) => return Ok(Sent::Whole),
                Err(failure) => failure,
            };
            // An upload that is gone may have been completed by an attempt whose answer was lost.
            let gone = matches!(failure, Failure::Absent);
            if self.size(key, patience).await.is_ok_and(|found| found == Some(size)) {
                return Ok(Sent::Whole);
            }
            if gone {
                return Ok(Sent::Unknown);
            }
            self.next(&mut turns, failure).await.map_err(|failure| failure.into_error(self.name()))?;
        }
    }

    /// Stores whose parts cannot be repeated one by one: directories, where a write that fails seldom passes.
    async fn upload_through(&self, path: &StorePath, source: Arc<dyn Source>, patience: &Patience) -> Result<()> {
        let size = source.size();
        let mut turns = patience.for_body(size).begin();
        loop {
            let attempt = Box::pin(self.with_room(size, self.write_through(path, Arc::clone(&source))));
            let failure = match self.attempt(Request::Put, ANSWER_BYTES_MAX, &mut turns, attempt).await {
                Ok(()) => return Ok(()),
                Err(failure) => failure,
            };
            self.next(&mut turns, failure).await.map_err(|failure| failure.into_error(self.name()))?;
        }
    }

    async fn write_through(&self, path: &StorePath, source: Arc<dyn Source>) -> object_store::Result<()> {
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

/// What the ledger says, off the runtime's threads; `None` without one, or where it fails: it is a help, and without it an upload
/// begins anew when it breaks off.
async fn ask<T: Send + 'static>(
    ledger: &Option<Arc<dyn Ledger>>,
    work: impl FnOnce(&dyn Ledger) -> Result<T> + Send + 'static,
) -> Option<T> {
    let ledger = Arc::clone(ledger.as_ref()?);
    match tokio::task::spawn_blocking(move || work(&*ledger)).await.ok()? {
        Ok(said) => Some(said),
        Err(error) => {
            tracing::debug!(%error, "what the bucket has of an upload is not remembered");
            None
        }
    }
}

/// Whether it is remembered what the bucket has.
async fn keep(ledger: &Option<Arc<dyn Ledger>>, upload: &UploadFile) -> bool {
    let upload = upload.clone();
    ask(ledger, move |ledger| ledger.keep(&upload)).await.is_some()
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
