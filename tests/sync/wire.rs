//! The way from one node to the store: requests and answers get lost, the node dies at one of them, or something else happens
//! while one is on its way.
//!
//! What goes wrong with a request is drawn from the seed, its key and how often that was asked before, not from its place among
//! all requests: the same seed takes the same course whichever of two requests at once is first.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt, TryFutureExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::sync::watch;

use crate::faulty_store::{Fault, Lie};

const FAULTS: [Fault; 8] = [
    Fault::Before(Lie::Failed),
    // Given up, and carried out when nobody thinks of it any more.
    Fault::Late(Duration::ZERO),
    Fault::Before(Lie::Conflict),
    Fault::After(Lie::Failed),
    Fault::After(Lie::Conflict),
    Fault::After(Lie::Precondition),
    Fault::Twice,
    Fault::Short,
];

/// What happens while a request is on its way.
pub type Meanwhile = BoxFuture<'static, ()>;

#[derive(Default)]
struct Plan {
    seed: u64,
    /// One request in so many fails; none when 0.
    one_in: u64,
    asked: BTreeMap<(&'static str, String), u64>,
    /// How many more requests are carried before the node is cut off for good, and whether the last one arrives.
    left: Option<(u64, bool)>,
    /// What happens before the write that comes after so many others of keys with this in them.
    meanwhile: Option<(u64, &'static str, Meanwhile)>,
    /// Conditional writes of which keys are given up, and arrive late.
    delayed: Option<&'static str>,
    /// Writes of keys with any of these in them fail.
    refused: Vec<String>,
}

/// A put that is still on its way.
pub type Late = (Path, PutPayload, PutOptions);

pub struct Wire {
    store: Arc<InMemory>,
    /// Of all nodes together, oldest first.
    late: Arc<Mutex<Vec<Late>>>,
    plan: Mutex<Plan>,
    is_cut: watch::Sender<bool>,
}

impl Wire {
    pub fn new(store: Arc<InMemory>, late: Arc<Mutex<Vec<Late>>>, seed: u64) -> Arc<Self> {
        let plan = Mutex::new(Plan { seed, ..Plan::default() });
        Arc::new(Wire { store, late, plan, is_cut: watch::Sender::new(false) })
    }

    /// Lets what is still on its way arrive.
    pub async fn arrive(&self) {
        let late = std::mem::take(&mut *self.late.lock().unwrap_or_else(PoisonError::into_inner));
        for (path, payload, options) in late {
            let _ = self.store.put_opts(&path, payload, options).await;
        }
    }

    fn plan(&self) -> std::sync::MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on one request in so many fails; none when 0.
    pub fn fail(&self, one_in: u64) {
        self.plan().one_in = one_in;
    }

    /// Cuts the node off after so many requests, for good: the next one arrives, or does not, and nothing is heard of it.
    pub fn cut_after(&self, requests: u64, arrives: bool) {
        self.plan().left = Some((requests, arrives));
    }

    /// Lets something happen before the write after so many others. It may not come to that.
    pub fn meanwhile(&self, writes: u64, what: Meanwhile) {
        self.plan().meanwhile = Some((writes, "", what));
    }

    /// Lets something happen before the next write of a key with this in it.
    pub fn meanwhile_at(&self, part: &'static str, what: Meanwhile) {
        self.plan().meanwhile = Some((0, part, what));
    }

    /// Holds conditional writes of keys with this in them up, or does not any more: they are given up, and arrive late.
    pub fn delay(&self, part: &'static str, is_delayed: bool) {
        self.plan().delayed = is_delayed.then_some(part);
    }

    /// Has writes of keys with any of these in them fail, and no others.
    pub fn refuse(&self, parts: Vec<String>) {
        self.plan().refused = parts;
    }

    /// Takes back what was planned and did not come to pass.
    pub fn forget_plans(&self) {
        let mut plan = self.plan();
        (plan.left, plan.meanwhile) = (None, None);
    }

    /// Waits until the node is cut off.
    pub async fn cut(&self) {
        // The sender is this wire's own.
        let _ = self.is_cut.subscribe().wait_for(|is_cut| *is_cut).await;
    }

    pub fn was_cut(&self) -> bool {
        *self.is_cut.borrow()
    }

    fn draw(&self, kind: &'static str, path: &str) -> (Option<Fault>, Option<Meanwhile>) {
        let mut plan = self.plan();
        match &mut plan.left {
            Some((0, arrives)) => {
                self.is_cut.send_replace(true);
                let fault = if std::mem::take(arrives) { Fault::Silence } else { Fault::Before(Lie::Failed) };
                return (Some(fault), None);
            }
            Some((left, _)) => *left -= 1,
            None => {}
        }
        let is_write = |part: &str| matches!(kind, "create" | "put") && path.contains(part);
        let meanwhile = match &mut plan.meanwhile {
            Some((0, part, _)) if is_write(part) => plan.meanwhile.take().map(|(.., what)| what),
            Some((left, part, _)) if is_write(part) => {
                *left -= 1;
                None
            }
            _ => None,
        };
        if plan.delayed.is_some_and(|part| kind == "create" && path.contains(part)) {
            return (Some(Fault::Late(Duration::ZERO)), meanwhile);
        }
        if plan.refused.iter().any(|part| is_write(part)) {
            return (Some(Fault::Before(Lie::Failed)), meanwhile);
        }
        let count = plan.asked.entry((kind, path.to_owned())).or_default();
        *count += 1;
        let mut hasher = DefaultHasher::new();
        (kind, path, *count, plan.seed).hash(&mut hasher);
        let drawn = hasher.finish();
        let is_due = plan.one_in > 0 && drawn.is_multiple_of(plan.one_in);
        (is_due.then(|| FAULTS[(drawn / plan.one_in) as usize % FAULTS.len()]), meanwhile)
    }

    async fn carry<T, F: Future<Output = Result<T>>>(
        &self,
        kind: &'static str,
        path: &Path,
        late: impl Fn(),
        work: impl Fn() -> F,
    ) -> Result<T> {
        let (fault, meanwhile) = self.draw(kind, path.as_ref());
        if let Some(meanwhile) = meanwhile {
            meanwhile.await;
        }
        match fault {
            _ if self.was_cut() => {
                if fault == Some(Fault::Silence) {
                    let _ = work().await;
                }
                std::future::pending().await
            }
            Some(Fault::Before(lie)) => Err(lie.error(path)),
            Some(Fault::After(lie)) => {
                let _ = work().await;
                Err(lie.error(path))
            }
            Some(Fault::Late(_)) => {
                late();
                Err(Lie::Failed.error(path))
            }
            Some(Fault::Twice) => {
                let _ = work().await;
                work().await
            }
            _ => work().await,
        }
    }
}

impl fmt::Display for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wire")
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wire")
    }
}

/// The first half of an answer's bytes, announced as all of them.
async fn halved(found: GetResult) -> Result<GetResult> {
    let (range, meta, attributes, extensions) =
        (found.range.clone(), found.meta.clone(), found.attributes.clone(), found.extensions.clone());
    let bytes: Bytes = found.bytes().await?;
    let half = bytes.slice(..bytes.len() / 2);
    let payload = GetResultPayload::Stream(stream::once(async move { Ok(half) }).boxed());
    Ok(GetResult { payload, meta, range, attributes, extensions })
}

#[async_trait]
impl ObjectStore for Wire {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let kind = if options.mode == object_store::PutMode::Create { "create" } else { "put" };
        let is_faulty = self.plan().one_in > 0;
        if is_faulty && kind == "create" && payload.content_length().is_multiple_of(2) {
            self.arrive().await;
        }
        let late = || {
            let put = (path.clone(), payload.clone(), options.clone());
            self.late.lock().unwrap_or_else(PoisonError::into_inner).push(put);
        };
        self.carry(kind, path, late, || self.store.put_opts(path, payload.clone(), options.clone())).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.carry("upload", path, || {}, || self.store.put_multipart_opts(path, options.clone())).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let kind = if options.head { "head" } else { "get" };
        let (fault, _) = self.draw(kind, path.as_ref());
        match fault {
            _ if self.was_cut() => std::future::pending().await,
            Some(Fault::Before(lie) | Fault::After(lie)) => Err(lie.error(path)),
            Some(Fault::Late(_)) => Err(Lie::Failed.error(path)),
            Some(Fault::Short) if !options.head => self.store.get_opts(path, options).and_then(halved).await,
            _ => self.store.get_opts(path, options).await,
        }
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        match self.draw("delete", "").0 {
            _ if self.was_cut() => stream::pending().boxed(),
            Some(Fault::Before(lie)) => stream::once(async move { Err(lie.error(&Path::from("x"))) }).boxed(),
            _ => self.store.delete_stream(paths),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let listed = self.store.list(prefix);
        match self.draw("list", prefix.map_or("", Path::as_ref)).0 {
            _ if self.was_cut() => std::future::pending().into_stream().boxed(),
            Some(Fault::Before(lie) | Fault::After(lie)) => {
                listed.take(1).chain(stream::once(async move { Err(lie.error(&Path::from("x"))) })).boxed()
            }
            _ => listed,
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let listed = self.store.list_with_delimiter(prefix).await;
        match self.draw("list", prefix.map_or("", Path::as_ref)).0 {
            _ if self.was_cut() => std::future::pending().await,
            Some(Fault::Before(lie) | Fault::After(lie)) => Err(lie.error(&Path::from("x"))),
            _ => listed,
        }
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.store.copy_opts(from, to, options).await
    }
}
