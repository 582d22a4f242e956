//! The bucket: objects by key, each call with its own patience.
//!
//! - Keys are below the URL's prefix; nothing outside of it is read or written.
//! - [`Bucket::create`] asks once and its answer decides nothing by itself: see [`super::commit`].
//! - No call waits longer than its patience for a store that is silent, whatever it did before.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use object_store::path::Path as StorePath;
use object_store::{GetOptions, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::config::BucketConfig;
use super::facts::{Facts, seen, watch};
use super::failure::{Failure, UNREACHABLE, explain, given_up, silence};
use super::keys;
use super::open::Backend;
use super::patience::{Patience, Turns};
use super::room::Refused;
use super::traffic::{Ending, Request, Traffic};
use super::upload::PARTS_HELD_MAX;
use crate::error::{Error, Result};
use crate::platform::clock::Clock;
use crate::platform::random::Random;

/// The longest answer to anything but a get: a page of 1,000 keys of 1,024 bytes in XML, with room.
pub(super) const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// What a conditional put came to. Only `Done` is an answer; the others are questions, which reading the key answers.
#[derive(Debug)]
pub enum Created {
    /// The object is there, and it is ours.
    Done,
    /// The store says that the key is taken: perhaps by this very request, repeated on its way.
    Exists,
    /// The store may have done it, or not, or may do it yet.
    Unknown(Error),
}

/// A bucket. Cloning shares it.
#[derive(Clone)]
pub struct Bucket {
    pub(super) inner: Arc<Inner>,
    /// Whether it writes into the room that is spared for what makes room.
    pub(super) frees: bool,
}

pub(super) struct Inner {
    pub(super) backend: Backend,
    /// Whether listings are in the order of keys, as far as is known.
    pub(super) in_order: AtomicBool,
    /// Whether the store has ever answered a request with success.
    met: AtomicBool,
    /// Why the last attempt failed that is to be repeated, until one succeeds.
    trouble: Mutex<Option<Error>>,
    pub(super) refused: Mutex<Option<Refused>>,
    places: Semaphore,
    /// Parts of uploads in memory, of all uploads together.
    pub(super) parts_held: Semaphore,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) random: Arc<dyn Random>,
    traffic: Arc<Traffic>,
}

impl Bucket {
    /// The bucket that `config` names. Reads its files, and asks nothing of the network yet.
    pub fn open(config: &BucketConfig, clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Result<Self> {
        let traffic = Arc::new(Traffic::default());
        let backend = Backend::open(config, Arc::clone(&clock), Arc::clone(&traffic))?;
        Ok(Self::assemble(backend, config.requests_concurrent_max, clock, random, traffic))
    }

    /// A bucket over a store that is there already.
    pub fn over(backend: Backend, clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Self {
        let requests = super::config::REQUESTS_CONCURRENT_MAX;
        Self::assemble(backend, requests, clock, random, Arc::default())
    }

    fn assemble(
        backend: Backend,
        requests: usize,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        traffic: Arc<Traffic>,
    ) -> Self {
        let inner = Inner {
            in_order: AtomicBool::new(backend.lists_in_order),
            met: AtomicBool::new(false),
            trouble: Mutex::default(),
            refused: Mutex::default(),
            places: Semaphore::new(requests),
            parts_held: Semaphore::new(PARTS_HELD_MAX),
            backend,
            clock,
            random,
            traffic,
        };
        Bucket { inner: Arc::new(inner), frees: false }
    }

    /// What errors call it, such as `s3://bucket/prefix`. Has no secret in it.
    pub fn name(&self) -> &str {
        &self.inner.backend.name
    }

    /// What went over the link so far.
    pub fn traffic(&self) -> &Traffic {
        &self.inner.traffic
    }

    /// By how many seconds this machine's clock is ahead of the bucket's; none before the first answer, and of directories.
    pub fn skew_seconds(&self) -> Option<i64> {
        self.inner.traffic.skew_seconds()
    }

    /// Why requests under way do not get on: the last attempt failed so, and none has succeeded since.
    pub fn trouble(&self) -> Option<Error> {
        self.trouble_now().as_ref().map(Error::duplicate)
    }

    fn trouble_now(&self) -> MutexGuard<'_, Option<Error>> {
        self.inner.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many bytes an object has; none when it is not there.
    pub async fn size(&self, key: &str, patience: &Patience) -> Result<Option<u64>> {
        let path = self.path(key)?;
        let mut turns = patience.begin();
        let size = self
            .call(&mut turns, Request::Head, ANSWER_BYTES_MAX, || async {
                let options = GetOptions { head: true, ..GetOptions::default() };
                self.inner.backend.objects.get_opts(&path, options).await.map(|found| found.meta.size)
            })
            .await
            .map_err(|error| error.context(format_args!("look for {key}")))?;
        if size.is_none() && self.inner.backend.over_http && !self.inner.met.load(Ordering::Relaxed) {
            // The answer to this request has no body, so a bucket that is not there looks like an object that is not.
            self.list("", None, 1, patience).await.map_err(|error| error.context(format_args!("look for {key}")))?;
        }
        Ok(size)
    }

    /// Puts an object under a name that nobody else uses; repeated until it is there. Afterwards it is durable.
    pub async fn put(&self, key: &str, bytes: Bytes, patience: &Patience) -> Result<()> {
        let path = self.path(key)?;
        let mut turns = patience.for_body(bytes.len() as u64).begin();
        self.put_until(&path, bytes, &mut turns).await.map_err(|error| error.context(format_args!("put {key}")))
    }

    pub(super) async fn put_until(&self, path: &StorePath, bytes: Bytes, turns: &mut Turns) -> Result<()> {
        let length = bytes.len() as u64;
        let done = self
            .call(turns, Request::Put, ANSWER_BYTES_MAX, || async {
                let put = async {
                    self.count_sent(length);
                    self.inner.backend.objects.put(path, PutPayload::from(bytes.clone())).await
                };
                Box::pin(self.with_room(length, put)).await.map(|_| ())
            })
            .await?;
        done.ok_or_else(|| self.no_place())
    }

    /// Asks once to put an object under a key that is free. An error says that it was not put, and why asking again is of no
    /// use; it speaks of this request only, not of earlier ones for the same key.
    pub async fn create(&self, key: &str, bytes: Bytes, patience: &Patience) -> Result<Created> {
        let path = self.path(key)?;
        let mut turns = patience.for_body(bytes.len() as u64).begin();
        self.create_by(&path, bytes, &mut turns).await.map_err(|error| error.context(format_args!("create {key}")))
    }

    pub(super) async fn create_by(&self, path: &StorePath, bytes: Bytes, turns: &mut Turns) -> Result<Created> {
        let length = bytes.len() as u64;
        let attempt = async {
            self.count_sent(length);
            let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            self.inner.backend.objects.put_opts(path, PutPayload::from(bytes), options).await
        };
        match self.attempt(Request::Create, ANSWER_BYTES_MAX, turns, Box::pin(self.with_room(length, attempt))).await
        {
            Ok(_) => Ok(Created::Done),
            Err(Failure::Taken(_)) => Ok(Created::Exists),
            Err(Failure::Passing { error, .. } | Failure::Unfit(error)) => Ok(Created::Unknown(error)),
            Err(Failure::Absent) => Ok(Created::Unknown(self.no_place())),
            Err(Failure::Lasting(error)) => Err(error),
        }
    }

    /// Removes an object; one that is not there is removed already.
    pub async fn delete(&self, key: &str, patience: &Patience) -> Result<()> {
        let path = self.path(key)?;
        let mut turns = patience.begin();
        self.call(&mut turns, Request::Delete, ANSWER_BYTES_MAX, || self.inner.backend.objects.delete(&path))
            .await
            .map(|_| ())
            .map_err(|error| error.context(format_args!("delete {key}")))
    }

    pub(super) fn no_place(&self) -> Error {
        Error::unavailable(format!("{}: the store says that there is no such place", self.name()))
            .with_code(UNREACHABLE)
            .with_hint("check bucket.url and bucket.endpoint")
    }

    /// The store's path of a key.
    pub(super) fn path(&self, key: &str) -> Result<StorePath> {
        keys::check(key)?;
        self.below_root(key)
    }

    /// The store's path of a key, or of the root for an empty one.
    pub(super) fn below_root(&self, key: &str) -> Result<StorePath> {
        let root = self.inner.backend.root.as_str();
        let path = match (root, key) {
            ("", key) | (key, "") => key.to_owned(),
            (root, key) => format!("{root}/{key}"),
        };
        StorePath::parse(&path).map_err(|error| Error::invalid(format!("{path:?} is no key: {error}")))
    }

    /// Counts bytes of a store that no connector counts for.
    pub(super) fn count_sent(&self, bytes: u64) {
        if !self.inner.backend.over_http {
            self.inner.traffic.sent(bytes);
            note_moved(bytes);
        }
    }

    /// The same of bytes that came.
    pub(super) fn count_received(&self, bytes: u64) {
        if !self.inner.backend.over_http {
            self.inner.traffic.received(bytes);
            note_moved(bytes);
        }
    }

    /// One attempt: for as long as bytes move, with a place among the requests, counted, its failure explained.
    pub(super) async fn attempt<T>(
        &self,
        request: Request,
        answer_bytes_max: u64,
        turns: &mut Turns,
        work: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, Failure> {
        let inner = &*self.inner;
        let name = self.name();
        let place = match timeout(turns.quiet(), inner.places.acquire()).await {
            Ok(Ok(place)) => place,
            Ok(Err(_)) => return Err(Failure::Lasting(Error::internal(format!("{name}: the bucket is closed")))),
            // Nothing was asked, so nothing is counted.
            Err(_) => {
                return Err(silence(name, "no place among the requests in time", Ending::Overloaded));
            }
        };
        let quiet = turns.quiet();
        let (done, facts, moved) = watch(answer_bytes_max, quiet, work).await;
        drop(place);
        turns.moved(moved);
        let done = match done {
            Some(Ok(done)) => Ok(done),
            Some(Err(error)) => Err(explain(name, &inner.backend.endpoint, &error, &facts)),
            None => Err(silence(name, format!("no answer within {quiet:?}"), Ending::Lost)),
        };
        // A directory that is gone has no objects; that is not to be taken for a bucket that has none.
        let done = match done {
            Err(Failure::Absent) => match self.standing().await {
                Ok(()) => Err(Failure::Absent),
                Err(error) => Err(explain(name, &inner.backend.endpoint, &error, &Facts::default())),
            },
            done => done,
        };
        if done.is_ok() {
            inner.met.store(true, Ordering::Relaxed);
            *self.trouble_now() = None;
        }
        inner.traffic.count(request, done.as_ref().map_or_else(Failure::ending, |_| Ending::Done));
        done
    }

    /// Waits before the next attempt, if the failure and the patience allow one.
    pub(super) async fn next(&self, turns: &mut Turns, failure: Failure) -> Result<(), Failure> {
        let (error, ending, retry_after) = match failure {
            Failure::Passing { error, ending, retry_after, silent } => {
                (turns.telling(error, silent), ending, retry_after)
            }
            Failure::Unfit(error) => (error, Ending::Lost, None),
            // Only conditional puts ask whether a key is taken, and they do not come here. From any other request it means that
            // another one was at the same key just then.
            Failure::Taken(error) => (error, Ending::Overloaded, None),
            failure => return Err(failure),
        };
        match turns.next_wait(&*self.inner.random, retry_after) {
            Some(wait) => {
                tracing::debug!(%error, ?wait, "asking the bucket again");
                *self.trouble_now() = Some(error);
                tokio::time::sleep(wait).await;
                Ok(())
            }
            None => {
                let error = given_up(error, turns.attempts(), turns.whole());
                Err(Failure::Passing { error, ending, retry_after, silent: false })
            }
        }
    }

    /// Attempts until one succeeds, fails for good, or the patience ends; none when the object is not there.
    pub(super) async fn call<T, F>(
        &self,
        turns: &mut Turns,
        request: Request,
        answer_bytes_max: u64,
        work: impl Fn() -> F,
    ) -> Result<Option<T>>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        loop {
            let failure = match self.attempt(request, answer_bytes_max, turns, work()).await {
                Ok(done) => return Ok(Some(done)),
                Err(failure) => failure,
            };
            match self.next(turns, failure).await {
                Ok(()) => {}
                Err(Failure::Absent) => return Ok(None),
                Err(failure) => return Err(failure.into_error(self.name())),
            }
        }
    }
}

/// Tells the attempt under way, if this is one, that bytes moved.
fn note_moved(bytes: u64) {
    if let Some(seen) = seen() {
        seen.moves.note(bytes, Instant::now());
    }
}

/// A failure that we noticed ourselves, in the words of the crate.
pub(super) fn generic(text: String) -> object_store::Error {
    object_store::Error::Generic { store: "bucket", source: text.into() }
}
