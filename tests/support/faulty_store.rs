//! A store with faults in front of it: each request may fail before or after it is carried out, answer short, late or never.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt, future, stream};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartId, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// What the store says instead of the truth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// The connection was reset, the request timed out, 429, 500 or 503: all the same once they are through the crate.
    Failed,
    /// 409, as S3 answers to two conditional puts at once.
    Conflict,
    /// 412.
    Precondition,
    /// 404.
    Absent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request does not reach the store.
    Before(Lie),
    /// The store carries it out, and the answer is lost.
    After(Lie),
    /// The store carries it out, and nothing is ever heard of it.
    Silence,
    /// The request reaches the store late.
    Late(Duration),
    /// The store is carried out at once, the answer comes late.
    Slow(Duration),
    /// The request is sent twice on its way, and the second answer is the one that is heard.
    Twice,
    /// Half of the body.
    Short,
    /// The body comes at so many bytes a second.
    Slowly(u64),
    /// A longer body than this breaks off after so many bytes.
    Breaks(u64),
    /// Nothing is heard any more after so many bytes of a longer body.
    Stops(u64),
    /// A listing without its last items.
    Stale(usize),
}

/// Every kind.
pub const FAULTS: [Fault; 12] = [
    Fault::Before(Lie::Failed),
    Fault::Before(Lie::Conflict),
    Fault::Before(Lie::Precondition),
    Fault::After(Lie::Failed),
    Fault::After(Lie::Conflict),
    Fault::After(Lie::Precondition),
    Fault::Silence,
    Fault::Late(Duration::from_secs(3)),
    Fault::Slow(Duration::from_secs(3)),
    Fault::Twice,
    Fault::Short,
    Fault::Stale(2),
];

/// Says of each request, by its number, what goes wrong with it.
pub type Plan = Box<dyn Fn(u64) -> Option<Fault> + Send + Sync>;

/// A store that `plan` makes fail. Its multipart uploads fail too, if it has any.
pub struct FaultyStore<S> {
    inner: Arc<S>,
    plan: Plan,
    step: AtomicU64,
}

impl<S> FaultyStore<S> {
    pub fn new(inner: Arc<S>, plan: impl Fn(u64) -> Option<Fault> + Send + Sync + 'static) -> Self {
        FaultyStore { inner, plan: Box::new(plan), step: AtomicU64::new(0) }
    }

    /// How many requests there were.
    pub fn steps(&self) -> u64 {
        self.step.load(Ordering::SeqCst)
    }

    fn next(&self) -> Option<Fault> {
        (self.plan)(self.step.fetch_add(1, Ordering::SeqCst))
    }

    async fn faulty<T, F: Future<Output = Result<T>>>(&self, path: &Path, work: impl Fn() -> F) -> Result<T> {
        match self.next() {
            Some(Fault::Before(lie)) => Err(lie.error(path)),
            Some(Fault::After(lie)) => {
                let _ = work().await;
                Err(lie.error(path))
            }
            Some(Fault::Silence) => {
                let _ = work().await;
                future::pending().await
            }
            Some(Fault::Late(time)) => {
                tokio::time::sleep(time).await;
                work().await
            }
            Some(Fault::Slow(time)) => {
                let done = work().await;
                tokio::time::sleep(time).await;
                done
            }
            Some(Fault::Twice) => {
                let _ = work().await;
                work().await
            }
            Some(Fault::Short | Fault::Stale(_) | Fault::Slowly(_) | Fault::Breaks(_) | Fault::Stops(_)) | None => {
                work().await
            }
        }
    }
}

impl Lie {
    pub fn error(self, path: &Path) -> object_store::Error {
        let (path, source) = (path.to_string(), "injected".into());
        match self {
            Lie::Failed => object_store::Error::Generic { store: "faulty", source },
            Lie::Conflict => object_store::Error::AlreadyExists { path, source },
            Lie::Precondition => object_store::Error::Precondition { path, source },
            Lie::Absent => object_store::Error::NotFound { path, source },
        }
    }
}

impl<S> fmt::Display for FaultyStore<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultyStore")
    }
}

impl<S> fmt::Debug for FaultyStore<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultyStore")
    }
}

/// The first half of an answer's bytes, announced as all of them.
fn halved(found: GetResult) -> GetResult {
    let (range, meta, attributes, extensions) =
        (found.range.clone(), found.meta.clone(), found.attributes.clone(), found.extensions.clone());
    let bytes = stream::once(async move {
        let bytes: Bytes = found.bytes().await?;
        Ok(bytes.slice(..bytes.len() / 2))
    });
    GetResult { payload: GetResultPayload::Stream(bytes.boxed()), meta, range, attributes, extensions }
}

/// An answer with another body.
fn with_body(found: GetResult, body: impl FnOnce(Pieces) -> Pieces) -> GetResult {
    let (range, meta, attributes, extensions) =
        (found.range.clone(), found.meta.clone(), found.attributes.clone(), found.extensions.clone());
    let whole = stream::once(found.bytes()).map_ok(|bytes| {
        let pieces: Vec<Result<Bytes>> = bytes.chunks(PIECE_BYTES).map(|piece| Ok(bytes.slice_ref(piece))).collect();
        stream::iter(pieces)
    });
    let payload = GetResultPayload::Stream(body(whole.try_flatten().boxed()));
    GetResult { payload, meta, range, attributes, extensions }
}

type Pieces = BoxStream<'static, Result<Bytes>>;

/// What bodies are broken into.
const PIECE_BYTES: usize = 4 << 10;

fn paced(pieces: Pieces, pace: u64) -> Pieces {
    let late = move |piece| async move {
        tokio::time::sleep(Duration::from_secs_f64(PIECE_BYTES as f64 / pace as f64)).await;
        piece
    };
    pieces.then(late).boxed()
}

/// So many bytes of a longer body, and what happens then.
fn cut(found: GetResult, after: u64, then: Pieces) -> GetResult {
    match found.range.end - found.range.start > after {
        true => with_body(found, |pieces| pieces.take(after as usize / PIECE_BYTES).chain(then).boxed()),
        false => found,
    }
}

#[async_trait]
impl<S: ObjectStore> ObjectStore for FaultyStore<S> {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.faulty(path, || self.inner.put_opts(path, payload.clone(), options.clone())).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.faulty(path, || self.inner.put_multipart_opts(path, options.clone())).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let fault = (self.plan)(self.step.load(Ordering::SeqCst)).filter(|_| !options.head);
        let found = self.faulty(path, || self.inner.get_opts(path, options.clone())).await?;
        Ok(match fault {
            Some(Fault::Short) => halved(found),
            Some(Fault::Slowly(pace)) => with_body(found, |pieces| paced(pieces, pace)),
            Some(Fault::Breaks(after)) => {
                let error = Lie::Failed.error(path);
                cut(found, after, stream::once(future::ready(Err(error))).boxed())
            }
            Some(Fault::Stops(after)) => cut(found, after, stream::pending().boxed()),
            _ => found,
        })
    }

    async fn get_ranges(&self, path: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.faulty(path, || self.inner.get_ranges(path, ranges)).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        match self.next() {
            Some(Fault::Before(lie)) => stream::once(async move { Err(lie.error(&Path::from("x"))) }).boxed(),
            Some(Fault::After(lie)) => {
                self.inner.delete_stream(paths).map(move |_| Err(lie.error(&Path::from("x")))).boxed()
            }
            _ => self.inner.delete_stream(paths),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let listed = self.inner.list(prefix);
        match self.next() {
            Some(Fault::Stale(items)) => stream::once(async move {
                let mut all: Vec<ObjectMeta> = listed.try_collect().await?;
                all.truncate(all.len().saturating_sub(items));
                Ok::<_, object_store::Error>(stream::iter(all.into_iter().map(Ok)))
            })
            .try_flatten()
            .boxed(),
            Some(Fault::Before(lie) | Fault::After(lie)) => {
                listed.take(1).chain(stream::once(async move { Err(lie.error(&Path::from("x"))) })).boxed()
            }
            _ => listed,
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let below = prefix.cloned().unwrap_or_default();
        self.faulty(&below, || self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[async_trait]
impl<S: MultipartStore> MultipartStore for FaultyStore<S> {
    async fn create_multipart(&self, path: &Path) -> Result<MultipartId> {
        self.faulty(path, || self.inner.create_multipart(path)).await
    }

    async fn put_part(&self, path: &Path, id: &MultipartId, index: usize, data: PutPayload) -> Result<PartId> {
        self.faulty(path, || self.inner.put_part(path, id, index, data.clone())).await
    }

    async fn complete_multipart(&self, path: &Path, id: &MultipartId, parts: Vec<PartId>) -> Result<PutResult> {
        self.faulty(path, || self.inner.complete_multipart(path, id, parts.clone())).await
    }

    async fn abort_multipart(&self, path: &Path, id: &MultipartId) -> Result<()> {
        self.faulty(path, || self.inner.abort_multipart(path, id)).await
    }
}
