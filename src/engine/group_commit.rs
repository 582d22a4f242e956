//! Appends commits to an open log and makes all that wait durable with one barrier.
//!
//! Invariants:
//! - A commit is acknowledged only after a sync that began when its bytes were in the file.
//! - Commits are durable in the order in which they were appended.
//! - After a failed write or sync every pending commit fails and the log takes no more: what lies beyond `synced` is
//!   unknown, whatever a later read shows (Rebello et al., "Can Applications Recover from fsync Failures?", ATC 2020).
//!
//! The first waiter leads: it writes and syncs what is pending, its own commit included, while others append behind it.
//! A single writer therefore pays no hand-over between threads, and many share a barrier.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::watch;

use super::log_frames::LogFrames;
use crate::error::{Error, Result};
use crate::platform::disk::DiskFile;

/// The most bytes that may wait for a barrier; further commits are refused until it is done.
pub const PENDING_BYTES_MAX: usize = 128 << 20;

/// A barrier quicker than this is made by the thread that runs the writer, without handing its other work over.
const INLINE_BARRIER_MICROS: u64 = 1_000;
/// Whether a thread does so. One at a time: barriers that all take long at once, as those of a disk do, leave threads for everything else.
static IS_INLINE: AtomicBool = AtomicBool::new(false);

/// One open log, shared by its writers.
pub struct GroupCommit {
    state: Mutex<State>,
    /// The file is back, or lost to a failure.
    led: Condvar,
    progress: watch::Sender<Progress>,
    /// How long the last barrier took.
    barrier_micros: AtomicU64,
}

struct State {
    /// Away while a leader writes.
    file: Option<Box<dyn DiskFile>>,
    pending: LogFrames,
    /// The log's length once everything appended so far is in it.
    appended: u64,
}

#[derive(Clone, Debug)]
struct Progress {
    /// The log's length known durable.
    synced: u64,
    failed: Option<Arc<Error>>,
}

/// A commit on its way: durable once the log's durable length reaches this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

impl GroupCommit {
    /// Takes a log whose first `synced` bytes are durable and which has no others.
    pub fn new(file: Box<dyn DiskFile>, synced: u64) -> Self {
        GroupCommit {
            state: Mutex::new(State { file: Some(file), pending: LogFrames::default(), appended: synced }),
            led: Condvar::new(),
            progress: watch::Sender::new(Progress { synced, failed: None }),
            barrier_micros: AtomicU64::new(u64::MAX),
        }
    }

    /// The log's length known durable.
    pub fn synced(&self) -> u64 {
        self.progress.borrow().synced
    }

    /// Whether a commit is durable.
    pub fn is_synced(&self, ticket: Ticket) -> bool {
        self.synced() >= ticket.0
    }

    /// Whether a write or barrier failed; the log takes no more.
    pub fn is_failed(&self) -> bool {
        self.progress.borrow().failed.is_some()
    }

    /// Puts one commit's frames behind all earlier ones. `Busy` when too much waits; `Unavailable` once the log failed.
    pub fn append(&self, frames: LogFrames) -> Result<Ticket> {
        let mut state = self.lock();
        self.check()?;
        // A commit larger than the bound must still be possible, alone.
        let waiting = state.pending.bytes();
        if waiting > 0 && waiting + frames.bytes() > PENDING_BYTES_MAX {
            return Err(Error::busy(format!(
                "{waiting} bytes wait for the disk, at most {PENDING_BYTES_MAX} may; send the same again later"
            )));
        }
        state.appended += frames.bytes() as u64;
        state.pending.append(frames);
        Ok(Ticket(state.appended))
    }

    /// Waits until the commit is durable, leading a barrier when nobody does. `Unavailable` when its barrier failed: then
    /// the commit was not acknowledged, and reading the log back decides whether it happened.
    pub async fn wait(&self, ticket: Ticket) -> Result<()> {
        let mut progress = self.progress.subscribe();
        loop {
            {
                let now = progress.borrow_and_update();
                if now.synced >= ticket.0 {
                    return Ok(());
                }
            }
            self.check()?;
            let led = match self.take() {
                Some(work) => {
                    // Handing the thread's other work over costs about as much as a quick barrier takes.
                    let is_quick = self.barrier_micros.load(Ordering::Relaxed) < INLINE_BARRIER_MICROS;
                    if is_quick && !IS_INLINE.swap(true, Ordering::Relaxed) {
                        self.lead(work);
                        IS_INLINE.store(false, Ordering::Relaxed);
                    } else {
                        tokio::task::block_in_place(|| self.lead(work));
                    }
                    true
                }
                None => false,
            };
            // The leader publishes before it puts the file back, and a waiter that finds the file away subscribed before,
            // so no change is missed.
            if !led && progress.changed().await.is_err() {
                return Err(Error::internal("the log was dropped while a commit waited for it"));
            }
        }
    }

    /// Makes everything appended so far durable; for the thread that seals the log. Blocking, also while a leader writes: one may go
    /// on for nobody, after the commits that it was for are told to be durable.
    pub fn flush(&self) -> Result<u64> {
        let mut state = self.lock();
        let work = loop {
            self.check()?;
            if let Some(file) = state.file.take() {
                break (file, std::mem::take(&mut state.pending));
            }
            state = self.led.wait(state).unwrap_or_else(PoisonError::into_inner);
        };
        drop(state);
        self.lead(work);
        self.check()?;
        Ok(self.synced())
    }

    fn check(&self) -> Result<()> {
        match &self.progress.borrow().failed {
            None => Ok(()),
            Some(error) => Err(error.duplicate()),
        }
    }

    fn take(&self) -> Option<(Box<dyn DiskFile>, LogFrames)> {
        let mut state = self.lock();
        let file = state.file.take()?;
        Some((file, std::mem::take(&mut state.pending)))
    }

    /// Writes and syncs; publishes the new length or the failure; puts the file back unless it failed.
    fn lead(&self, (mut file, frames): (Box<dyn DiskFile>, LogFrames)) {
        let began = Instant::now();
        let bytes = frames.bytes() as u64;
        let result = if bytes == 0 { Ok(()) } else { frames.write_to(&mut *file).and_then(|()| file.sync()) };
        let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.barrier_micros.store(took, Ordering::Relaxed);
        match result {
            Ok(()) => {
                // File first: who wakes to the new length may lead the next barrier.
                self.lock().file = Some(file);
                self.progress.send_modify(|progress| progress.synced += bytes);
                self.led.notify_all();
            }
            Err(error) => {
                let synced = self.synced();
                // Best effort: a full disk gets its space back. Recovery cuts at `synced` in any case.
                let _ = file.truncate(synced);
                let mut state = self.lock();
                state.pending = LogFrames::default();
                self.progress.send_modify(|progress| progress.failed = Some(Arc::new(failure(error))));
                drop(state);
                self.led.notify_all();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What writers are told of a failed write or sync: a full disk says so, with what to do about it.
fn failure(error: std::io::Error) -> Error {
    let text = error.to_string();
    let error = Error::from(error);
    let error = if error.code().is_empty() { Error::unavailable(text).with_code("log_failed") } else { error };
    error.context("append to the log")
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, Mutex, mpsc};

    use super::{GroupCommit, LogFrames, PENDING_BYTES_MAX};
    use crate::engine::made::Made;
    use crate::error::{DISK_FULL, Kind};
    use crate::platform::disk::DiskFile;

    fn frames(bytes: &[u8]) -> LogFrames {
        let mut frames = LogFrames::default();
        frames.push(bytes.to_vec());
        frames
    }

    /// Counts barriers, and fails from the nth on.
    #[derive(Clone, Default)]
    struct CountingFile {
        written: Arc<Mutex<Vec<u8>>>,
        synced: Arc<AtomicU64>,
        barriers: Arc<AtomicU64>,
        fail_from: Option<u64>,
    }

    impl DiskFile for CountingFile {
        fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
            self.written.lock().unwrap().extend_from_slice(bytes);
            Ok(())
        }

        fn sync(&mut self) -> io::Result<()> {
            let nth = self.barriers.fetch_add(1, Ordering::SeqCst);
            if self.fail_from.is_some_and(|from| nth >= from) {
                return Err(io::Error::other("injected"));
            }
            self.synced.store(self.written.lock().unwrap().len() as u64, Ordering::SeqCst);
            Ok(())
        }

        fn truncate(&mut self, len: u64) -> io::Result<()> {
            self.written.lock().unwrap().truncate(usize::try_from(len).unwrap());
            Ok(())
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn one_writer_pays_one_barrier_a_commit() {
        let file = CountingFile::default();
        let log = GroupCommit::new(Box::new(file.clone()), 0);
        for n in 1..=10 {
            let ticket = log.append(frames(b"frame")).unwrap();
            log.wait(ticket).await.unwrap();
            assert_eq!(file.barriers.load(Ordering::SeqCst), n);
            assert_eq!(log.synced(), 5 * n);
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn commits_that_wait_share_a_barrier() {
        let file = CountingFile::default();
        let log = GroupCommit::new(Box::new(file.clone()), 0);
        let tickets: Vec<_> = (0..64).map(|_| log.append(frames(b"frame")).unwrap()).collect();
        for ticket in tickets {
            log.wait(ticket).await.unwrap();
        }
        assert_eq!(file.barriers.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nothing_is_acknowledged_before_it_is_durable() {
        let file = CountingFile::default();
        let log = Arc::new(GroupCommit::new(Box::new(file.clone()), 0));
        let mut writers = tokio::task::JoinSet::new();
        for _ in 0..32 {
            let (log, file) = (log.clone(), file.clone());
            writers.spawn(async move {
                for _ in 0..50 {
                    let ticket = log.append(frames(b"frame")).unwrap();
                    log.wait(ticket).await.unwrap();
                    assert!(file.synced.load(Ordering::SeqCst) >= ticket.0);
                }
            });
        }
        while let Some(done) = writers.join_next().await {
            done.unwrap();
        }
        assert_eq!(log.synced(), 32 * 50 * 5);
    }

    /// Says when a barrier begins, and waits until it may end.
    struct SlowFile(mpsc::Sender<()>, mpsc::Receiver<()>);

    impl DiskFile for SlowFile {
        fn write(&mut self, _: &[u8]) -> io::Result<()> {
            Ok(())
        }

        fn sync(&mut self) -> io::Result<()> {
            self.0.send(()).unwrap();
            self.1.recv().map_err(io::Error::other)
        }

        fn truncate(&mut self, _: u64) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn who_seals_the_log_waits_for_a_barrier_that_is_under_way() {
        for goes_well in [true, false] {
            let ((begins, has_begun), (end, ends)) = (mpsc::channel(), mpsc::channel());
            let log = Arc::new(GroupCommit::new(Box::new(SlowFile(begins, ends)), 0));
            log.append(frames(b"frame")).unwrap();
            let flush = || {
                let log = log.clone();
                std::thread::spawn(move || log.flush().map_err(|error| error.kind()))
            };
            let first = flush();
            has_begun.recv().unwrap();
            let second = flush();
            if goes_well {
                end.send(()).unwrap();
            }
            drop(end);
            let expected = if goes_well { Ok(5) } else { Err(Kind::Unavailable) };
            assert_eq!((first.join().unwrap(), second.join().unwrap()), (expected, expected));
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn after_a_failed_barrier_every_pending_and_later_commit_fails() {
        let file = CountingFile { fail_from: Some(1), ..CountingFile::default() };
        let log = GroupCommit::new(Box::new(file.clone()), 0);
        let first = log.append(frames(b"first")).unwrap();
        log.wait(first).await.unwrap();
        let (second, third) = (log.append(frames(b"second")).unwrap(), log.append(frames(b"third")).unwrap());
        assert_eq!(log.wait(second).await.unwrap_err().kind(), Kind::Unavailable);
        assert_eq!(log.wait(third).await.unwrap_err().kind(), Kind::Unavailable);
        assert_eq!(log.append(frames(b"fourth")).unwrap_err().code(), "log_failed");
        log.wait(first).await.unwrap();
        assert_eq!(log.synced(), 5);
        assert_eq!(*file.written.lock().unwrap(), b"first");
    }

    /// Has room for so many bytes, and takes what of a write has room.
    struct FullFile(usize, Arc<Mutex<Vec<u8>>>);

    impl DiskFile for FullFile {
        fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
            let mut written = self.1.lock().unwrap();
            let taken = bytes.len().min(self.0 - written.len());
            written.extend_from_slice(&bytes[..taken]);
            if taken < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        }

        fn sync(&mut self) -> io::Result<()> {
            Ok(())
        }

        fn truncate(&mut self, len: u64) -> io::Result<()> {
            self.1.lock().unwrap().truncate(usize::try_from(len).unwrap());
            Ok(())
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn of_frames_that_did_not_all_have_room_none_is_in_the_log_and_none_is_counted() {
        const LARGE: usize = 2 << 20;
        let made = Made::default();
        let commit = |lengths: &[usize]| {
            let mut frames = LogFrames::counted(&made);
            lengths.iter().for_each(|length| frames.push(vec![7; *length]));
            frames
        };
        let counted = || usize::try_from(made.bytes.load(Ordering::SeqCst)).unwrap();
        let written = Arc::new(Mutex::new(Vec::new()));
        // The first commit has room, and of three others the first and a part of the second.
        let log = GroupCommit::new(Box::new(FullFile(100 + LARGE + LARGE + LARGE / 2, written.clone())), 0);
        let ticket = log.append(commit(&[100])).unwrap();
        log.wait(ticket).await.unwrap();
        assert_eq!(counted(), 0);
        let tickets: Vec<_> = (0..3).map(|_| log.append(commit(&[LARGE, LARGE])).unwrap()).collect();
        assert_eq!(counted(), 6 * LARGE);
        // What is refused is counted no longer.
        assert_eq!(log.append(commit(&[PENDING_BYTES_MAX])).unwrap_err().kind(), Kind::Busy);
        assert_eq!(counted(), 6 * LARGE);
        for ticket in tickets {
            assert_eq!(log.wait(ticket).await.unwrap_err().code(), DISK_FULL);
        }
        assert_eq!((log.synced(), written.lock().unwrap().len(), counted()), (100, 100, 0));
        assert_eq!(log.append(commit(&[100])).unwrap_err().code(), DISK_FULL);
        assert_eq!(counted(), 0);
    }
}
