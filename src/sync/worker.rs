//! Keeps a node and its bucket together: a pass every interval, one at a time, and at once when somebody asks.
//!
//! - Passes never overlap. Who asks is answered by a pass that began after that.
//! - After a pass that did not reach the bucket the next waits longer, up to [`WAIT_MAX`], drawn evenly from nothing to its
//!   bound, so that nodes which lost the bucket together do not come back together. Asking begins at the shortest again.
//! - Namespaces that this node follows are looked at between passes, each after a wait of its own.
//! - A namespace that cannot be brought together by trying again delays nobody else.
//! - The node serves without the bucket: nothing but those who asked waits here.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;

use super::namespace::Done;
use super::pass::Pass;
use super::polls::{PollWaits, Polls};
use super::status::{is_refused, told};
use super::{Budget, NamespaceStatus, Schedule, Selection, Status, Sync, SyncOptions};
use crate::engine::Engine;
use crate::engine::merge::decide::Policy;
use crate::error::{Error, Kind, Result};
use crate::model::ids::NamespaceName;
use crate::platform::clock::Clock;
use crate::platform::random::Random;
use crate::platform::wall::StoreClock;
use crate::store::{Bucket, BucketConfig, MISCONFIGURED, TrafficSnapshot, UNREACHABLE, Vendor};

/// The first pass begins within this time of the start: a fleet may have got its power back.
const FIRST_WAIT_MAX: Duration = Duration::from_secs(5);
/// Bound of the wait after the first pass that failed; it doubles with each.
const WAIT_FIRST: Duration = Duration::from_secs(1);
/// What it doubles up to.
pub const WAIT_MAX: Duration = Duration::from_secs(600);
/// How long a pass may go on once the node is asked to stop. What it does not finish the next one does.
const STOP_GRACE: Duration = Duration::from_secs(2);
/// The longest sleep: the wall clock, which the schedule is about, may jump meanwhile.
pub(super) const SLEEP_MAX: Duration = Duration::from_secs(60);
/// So often the log is told the same at most.
const LOGGED_EVERY_MS: u64 = 60_000;
/// The most that wait for passes at once; as many connections as there are by default, and some.
const WAITERS_MAX: usize = 4_096;

/// How a node takes part unattended.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    pub bucket: BucketConfig,
    pub interval: Duration,
    /// Between two looks at a namespace that this node follows.
    pub poll_waits: PollWaits,
    pub policy: Policy,
    pub selection: Selection,
    pub schedule: Schedule,
    /// Whether the link is paid by the byte at the start: then passes begin only when somebody asks.
    pub is_metered: bool,
    /// Bytes that may go over the link in a month before passes begin only when somebody asks; 0 for no bound.
    pub monthly_bytes: u64,
    /// For how long what was replaced or deleted is kept in the bucket.
    pub retention: Duration,
    /// How often the rest is deleted there by itself; `None`: on request only.
    pub reclaim_interval: Option<Duration>,
}

/// What is asked of the next pass.
#[derive(Default)]
struct Asked {
    everything: bool,
    names: BTreeSet<NamespaceName>,
    waiters: Vec<oneshot::Sender<Arc<Pass>>>,
    /// Somebody came anew, so the waits between failures begin at the shortest.
    afresh: bool,
}

impl Asked {
    fn is_empty(&self) -> bool {
        !self.everything && self.names.is_empty()
    }
}

/// Sync, unattended.
pub struct Worker {
    pub(super) engine: Arc<Engine>,
    pub(super) config: WorkerConfig,
    pub(super) clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    /// Not there while a directory that is the bucket is away since the start.
    link: Mutex<Link>,
    asked: Mutex<Asked>,
    wake: Notify,
    stop: watch::Sender<bool>,
    is_running: AtomicBool,
    is_metered: AtomicBool,
    budget: Arc<Budget>,
    failures: AtomicU64,
    /// When it began, by time that passes.
    pub(super) began_ms: u64,
    /// What the log was told last, and when.
    logged: Mutex<Option<(String, u64)>>,
}

#[derive(Default)]
struct Link {
    open: Option<(Arc<Sync>, Bucket)>,
    /// Why it is not.
    status: Status,
}

impl Worker {
    /// Opens the bucket, without asking the network. A directory may be away; any other error is one of the configuration.
    pub fn new(
        engine: Arc<Engine>,
        config: WorkerConfig,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Result<Self> {
        let budget = Budget::new(engine.clone(), config.monthly_bytes, clock.now_millis());
        let worker = Worker {
            engine,
            began_ms: clock.steady_millis(),
            clock,
            is_metered: AtomicBool::new(config.is_metered),
            budget: Arc::new(budget),
            random,
            link: Mutex::new(Link {
                open: None,
                status: Status { bucket: config.bucket.url.clone(), ..Status::default() },
            }),
            config,
            asked: Mutex::default(),
            wake: Notify::new(),
            stop: watch::Sender::new(false),
            is_running: AtomicBool::new(false),
            failures: AtomicU64::new(0),
            logged: Mutex::default(),
        };
        match worker.sync() {
            Err(error) if !worker.may_come_back(&error) => return Err(error),
            Err(error) => worker.log(&error),
            Ok(_) => {}
        }
        Ok(worker)
    }

    /// A directory that is not there may be on a disk that is not mounted yet.
    fn may_come_back(&self, error: &Error) -> bool {
        let location = self.config.bucket.location();
        [MISCONFIGURED, UNREACHABLE].contains(&error.code())
            && location.is_ok_and(|location| location.vendor == Vendor::Directory)
    }

    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pending(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn sync(&self) -> Result<Arc<Sync>> {
        let mut link = self.link();
        if let Some((sync, _)) = &link.open {
            return Ok(Arc::clone(sync));
        }
        let opened = Bucket::open(&self.config.bucket, Arc::clone(&self.clock), Arc::clone(&self.random));
        match opened {
            Ok(bucket) => {
                // Somebody may wait for any pass; what was not reached is asked again by the next.
                let options = SyncOptions { policy: self.config.policy, patience: self.config.bucket.asked() };
                let (engine, clock) = (Arc::clone(&self.engine), Arc::clone(&self.clock));
                let sync = Sync::new(engine, bucket.clone(), options, clock);
                let sync =
                    Arc::new(sync.patient_in_background(self.config.bucket.background()).within(self.budget.clone()));
                link.open = Some((Arc::clone(&sync), bucket));
                Ok(sync)
            }
            Err(error) => {
                let away = self.note_absence().filter(|_| self.engine.has_met_bucket());
                let error = away.unwrap_or(error);
                link.status.error = Some(told(&error));
                Err(error)
            }
        }
    }

    /// Of a directory that is not there nothing is said to be in it.
    fn note_absence(&self) -> Option<Error> {
        let away = self.config.bucket.absence();
        if away.is_some() {
            self.engine.note_bucket(true);
        }
        away
    }

    /// Says in the log that a pass is not through: what is new at once, the same again once a minute.
    fn log(&self, error: &Error) {
        let now = self.clock.steady_millis();
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let text = error.to_string();
        if logged.as_ref().is_some_and(|(last, at_ms)| *last == text && now.saturating_sub(*at_ms) < LOGGED_EVERY_MS)
        {
            return tracing::debug!(%error, "sync is not through, it is tried again");
        }
        tracing::warn!(%error, hint = error.hint(), "sync is not through, it is tried again");
        *logged = Some((text, now));
    }

    /// What a person is told.
    pub fn status(&self) -> Status {
        let link = self.link();
        link.open.as_ref().map_or_else(|| link.status.clone(), |(sync, _)| sync.status())
    }

    /// Says whether the link is paid by the byte; until the next start.
    pub fn set_metered(&self, is_metered: bool) {
        self.is_metered.store(is_metered, Ordering::SeqCst);
        self.wake.notify_one();
    }

    pub fn is_metered(&self) -> bool {
        self.is_metered.load(Ordering::SeqCst)
    }

    pub(super) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// How long passes that nobody asks for wait, at least, before it is looked again whether they may begin; `None` while they may.
    pub(super) fn closed_for(&self, now_ms: u64) -> Option<Duration> {
        if self.is_metered() || self.budget.check(now_ms).is_err() {
            return Some(SLEEP_MAX);
        }
        let until_open = self.config.schedule.until_open(now_ms);
        (!until_open.is_zero()).then(|| until_open.min(SLEEP_MAX))
    }

    pub fn is_running(&self) -> bool {
        self.is_running.load(Ordering::SeqCst)
    }

    /// How many passes failed since the start.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// What the bucket says of this machine's clock.
    pub fn store_clock(&self) -> Option<StoreClock> {
        self.link().open.as_ref().and_then(|(_, bucket)| bucket.traffic().clock())
    }

    /// What went over the link; nothing while there is none.
    pub(super) fn traffic(&self) -> Option<TrafficSnapshot> {
        self.link().open.as_ref().map(|(_, bucket)| bucket.traffic().snapshot())
    }

    /// Whether a namespace takes part on this node.
    pub fn takes(&self, name: &NamespaceName) -> bool {
        self.config.selection.takes(name)
    }

    /// An error, unless a namespace takes part on this node.
    pub fn check_takes(&self, name: &NamespaceName) -> Result<()> {
        if self.takes(name) {
            return Ok(());
        }
        Err(Error::invalid(format!("namespace {name} does not take part in sync on this node"))
            .with_code("not_synced")
            .with_hint("see sync.include and sync.exclude in the configuration"))
    }

    /// Asks for a pass over these namespaces, or all, at once. The answer comes when one that begins from now on is over;
    /// nobody has to wait for it.
    pub fn ask(&self, names: Option<&BTreeSet<NamespaceName>>) -> Result<oneshot::Receiver<Arc<Pass>>> {
        self.enlist(names, true)
    }

    fn enlist(&self, names: Option<&BTreeSet<NamespaceName>>, afresh: bool) -> Result<oneshot::Receiver<Arc<Pass>>> {
        names.into_iter().flatten().try_for_each(|name| self.check_takes(name))?;
        let mut asked = self.pending();
        if *self.stop.borrow() {
            return Err(stopping());
        }
        asked.waiters.retain(|waiter| !waiter.is_closed());
        if asked.waiters.len() >= WAITERS_MAX {
            return Err(Error::busy(format!("{WAITERS_MAX} others wait for sync"))
                .with_hint("send the same again a little later"));
        }
        match names {
            None => asked.everything = true,
            Some(names) => asked.names.extend(names.iter().cloned()),
        }
        asked.afresh |= afresh;
        let (sender, receiver) = oneshot::channel();
        asked.waiters.push(sender);
        drop(asked);
        self.wake.notify_one();
        Ok(receiver)
    }

    /// Waits until the answer of [`Worker::ask`] is there.
    pub async fn answer(&self, answer: oneshot::Receiver<Arc<Pass>>) -> Result<Arc<Pass>> {
        answer.await.map_err(|_| stopping())
    }

    /// Waits until a pass that began from now on has brought a namespace together with the bucket. A pass that fails is
    /// followed by others until `end`, or until one is refused, which a person has to mend; then Unavailable with code `bucket_timeout`,
    /// which says why the last one failed. NotFound when nobody has the namespace.
    pub async fn together(&self, name: &NamespaceName, end: Instant) -> Result<Done> {
        let names = BTreeSet::from([name.clone()]);
        let mut answer = self.ask(Some(&names))?;
        let mut last: Option<Error> = None;
        loop {
            let Ok(pass) = tokio::time::timeout_at(end, &mut answer).await else {
                return Err(self.not_together(name, last.as_ref()));
            };
            match pass.map_err(|_| stopping())?.of(name) {
                Ok(done) => return Ok(done),
                Err(error) if error.kind() == Kind::NotFound => return Err(error),
                Err(error) if is_refused(&error) => return Err(self.not_together(name, Some(&error))),
                Err(error) => last = Some(error),
            }
            answer = self.enlist(Some(&names), false)?;
        }
    }

    fn not_together(&self, name: &NamespaceName, last: Option<&Error>) -> Error {
        let why = last.map_or("no pass of sync was over in time".to_owned(), Error::to_string);
        let hint = last.and_then(Error::hint).unwrap_or("`shoal status` says how far sync is");
        Error::unavailable(format!("{name} is not together with {} yet: {why}", self.config.bucket.url))
            .with_code(TIMEOUT)
            .with_hint(hint)
    }

    /// No further pass begins, and who waits is told so.
    pub fn stop(&self) {
        self.stop.send_replace(true);
        // A pass may still be running; who waits for it is told when it is over or given up.
        self.pending().waiters.clear();
    }

    pub(super) fn stopping(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    /// Runs passes until [`Worker::stop`]; then the one that is running has a moment to end.
    pub async fn run(self: Arc<Self>) {
        let mut stop = self.stop.subscribe();
        let mut failures = 0_u32;
        let mut due = Instant::now() + self.draw(FIRST_WAIT_MAX.min(self.config.interval));
        let mut polls = Polls::new(self.config.poll_waits);
        // While the bucket is away, nobody looks at it but passes.
        let mut polls_from = due;
        // When those who wait on after a failure may have another pass.
        let mut again = due;
        loop {
            tokio::task::block_in_place(|| {
                if let Some(now) = self.engine.believed_time(self.store_clock()) {
                    self.budget.believe(now);
                }
            });
            let is_asked = !self.pending().is_empty();
            let pass_at = if is_asked { due.min(again) } else { due };
            let next = match self.closed_for(self.clock.now_millis()) {
                Some(_) if is_asked => pass_at,
                Some(wait) => Instant::now() + wait,
                None => polls.next().map_or(pass_at, |poll| pass_at.min(poll.max(polls_from))),
            };
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                () = self.wake.notified() => {}
                () = tokio::time::sleep_until(next.min(Instant::now() + SLEEP_MAX)) => {}
            }
            let is_open = self.closed_for(self.clock.now_millis()).is_none();
            let is_due = due <= Instant::now();
            let is_scheduled = is_due && is_open;
            let may_poll = is_open && polls_from <= Instant::now();
            let polled = if may_poll { polls.due(Instant::now()) } else { BTreeSet::new() };
            let asked = {
                let mut pending = self.pending();
                let may = is_due || again <= Instant::now() || pending.afresh;
                if may { std::mem::take(&mut *pending) } else { Asked::default() }
            };
            let selection = match is_scheduled || asked.everything {
                true if asked.is_empty() => self.config.selection.unasked().without(polls.resting(Instant::now())),
                true => self.config.selection.clone(),
                // However many ask, who follows looks.
                false if !asked.names.is_empty() => self.config.selection.only(&asked.names | &polled),
                false if !polled.is_empty() => self.config.selection.only(polled).unasked(),
                false => continue,
            };
            self.is_running.store(true, Ordering::SeqCst);
            let ended = tokio::select! {
                biased;
                pass = self.pass(&selection) => Some(pass),
                () = given_up(&mut stop) => None,
            };
            self.is_running.store(false, Ordering::SeqCst);
            let Some(pass) = ended else { return };
            if asked.afresh {
                failures = 0;
            }
            self.follow_polls(&mut polls, &pass);
            if pass.failed.is_some() {
                self.failures.fetch_add(1, Ordering::Relaxed);
            }
            let wait = pass.may_go_better().then(|| self.draw(wait_bound(failures)));
            failures = failures.saturating_add(u32::from(wait.is_some()));
            if pass.is_to_be_spared() {
                let wait = wait.unwrap_or_default();
                if pass.has_reached() {
                    due = Instant::now() + wait.min(self.config.interval);
                } else {
                    due = Instant::now() + wait;
                    polls_from = due;
                }
            } else if selection.is_whole() || is_due {
                if wait.is_none() {
                    failures = 0;
                }
                // Nodes that began together drift apart.
                due = Instant::now() + self.config.interval.mul_f64(0.75) + self.draw(self.config.interval / 2);
            }
            if pass.is_another_due {
                due = Instant::now();
            }
            // What a person has to mend is not tried for those who wait on before it is for all.
            again = wait.map_or(due, |wait| Instant::now() + wait);
            let pass = Arc::new(pass);
            for waiter in asked.waiters {
                // Who does not wait any more does not need it.
                let _ = waiter.send(Arc::clone(&pass));
            }
        }
    }

    /// What a pass found of the namespaces that this node follows says when they are looked at again.
    fn follow_polls(&self, polls: &mut Polls, pass: &Pass) {
        let here: BTreeSet<NamespaceName> = self.engine.named().into_iter().map(|(name, _)| name).collect();
        polls.retain(|name| here.contains(name) || pass.namespaces.contains_key(name));
        for (name, done) in pass.namespaces.iter().filter(|(name, _)| self.engine.follows(name)) {
            let found = done.as_ref().ok().and_then(|done| done.generation);
            polls.looked(name, found, Instant::now(), |most| self.draw(most));
        }
    }

    /// What a person is told of one namespace.
    pub(super) fn known(&self, name: &NamespaceName) -> Option<NamespaceStatus> {
        self.link().open.as_ref().and_then(|(sync, _)| sync.known(name))
    }

    async fn pass(&self, selection: &Selection) -> Pass {
        let sync = match self.sync() {
            Ok(sync) => sync,
            Err(error) => {
                self.log(&error);
                return Pass { failed: Some(error), ..Pass::default() };
            }
        };
        if let Err(error) = self.engine.kin_known().await {
            // What is written here is to be in the bucket however long that takes.
            self.log(&error);
        }
        let pass = sync.run_for(selection).await;
        match &pass.failed {
            None => tracing::debug!(namespaces = pass.namespaces.len(), "sync is done"),
            Some(error) => {
                self.log(error);
                self.note_absence();
            }
        }
        pass
    }

    /// A time drawn evenly from nothing to `most`.
    pub(super) fn draw(&self, most: Duration) -> Duration {
        let nanos = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(((u128::from(self.random.next_u64()) * u128::from(nanos)) >> 64) as u64)
    }
}

/// The code of the error that says that what was waited for did not happen in time.
pub const TIMEOUT: &str = "bucket_timeout";

fn stopping() -> Error {
    Error::unavailable("the node is stopping, sync goes on at its next start")
}

/// The bound of the wait after so many failures before.
fn wait_bound(failures: u32) -> Duration {
    WAIT_FIRST.saturating_mul(2_u32.saturating_pow(failures.min(20))).min(WAIT_MAX)
}

async fn given_up(stop: &mut watch::Receiver<bool>) {
    // The sender lives as long as the worker.
    let _ = stop.wait_for(|stop| *stop).await;
    tokio::time::sleep(STOP_GRACE).await;
}

#[cfg(test)]
mod tests {
    use super::{WAIT_MAX, wait_bound};

    #[test]
    fn waits_double_up_to_ten_minutes() {
        assert_eq!([0, 1, 5].map(|failures| wait_bound(failures).as_secs()), [1, 2, 32]);
        assert_eq!((wait_bound(30), wait_bound(u32::MAX)), (WAIT_MAX, WAIT_MAX));
    }
}
