//! What a namespace's log promises across crashes: every acknowledged commit is found again, whole and in order, and
//! nothing is found that was not written.
//!
//! Every history runs on a disk in memory whose every operation is made to fail in turn, with a power cut after it and
//! another one during recovery. Seeds are in the messages of failed assertions.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use shoal::engine::journal::{Distrust, Journal, LogPaths, SealedLog, Writer};
use shoal::engine::open_logs::OpenLogs;
use shoal::engine::recovery::{look, settle};
use shoal::error::{Kind, Result};
use shoal::format::log::FrameReader;
use shoal::format::record::{Batch, Record};
use shoal::model::ids::{DocId, Hlc, Nsid, Origin};
use shoal::model::schema::ColumnUid;
use shoal::model::value::Value;
use shoal::platform::disk::Disk;
use shoal::platform::memory_disk::{Fault, MemoryDisk};
use shoal::platform::random::{Random, SeededRandom};
use uuid::Uuid;

const WRITER: Writer = Writer { nsid: Nsid(Uuid::from_u128(0x7e57)), origin: Origin(0xabc) };

fn paths() -> LogPaths {
    LogPaths {
        open: PathBuf::from("/data/log"),
        sealed: PathBuf::from("/data/store/wal"),
        names: OpenLogs::default(),
    }
}

/// One node's run over a disk: what it wrote, and how much of that was acknowledged.
struct Run {
    disk: MemoryDisk,
    random: SeededRandom,
    /// The batches of every commit in order, by its clock.
    written: Vec<(Hlc, Vec<Batch>)>,
    acknowledged: usize,
    journal: Option<Journal>,
    last: Option<SealedLog>,
    next_seq: u64,
    distrust: Option<Distrust>,
}

impl Run {
    fn new(seed: u64) -> Self {
        Run {
            disk: MemoryDisk::default(),
            random: SeededRandom::new(seed),
            written: Vec::new(),
            acknowledged: 0,
            journal: None,
            last: None,
            next_seq: 1,
            distrust: None,
        }
    }

    fn batch(&self) -> Batch {
        let records = (0..1 + self.random.next_u64() % 3).map(|_| {
            let n = self.random.next_u64();
            let size = usize::try_from(n % 900).unwrap();
            let fields = vec![(ColumnUid(n), Value::Bytes(vec![n as u8; size]))];
            if n.is_multiple_of(5) {
                Record::Delete { id: DocId::Uint(n) }
            } else {
                Record::Upsert { id: DocId::Uint(n), fields }
            }
        });
        Batch { records: records.collect(), ..Batch::default() }
    }

    async fn commit(&mut self) -> Result<()> {
        if self.journal.is_none() {
            let disk = Arc::new(self.disk.mounted());
            let last = self.last.as_ref();
            self.journal = Some(Journal::create(disk, paths(), WRITER, self.next_seq, last, &self.random)?);
        }
        let hlc = Hlc(self.written.len() as u64);
        let batches: Vec<Batch> = (0..1 + self.random.next_u64() % 3).map(|_| self.batch()).collect();
        let journal = self.journal.as_mut().unwrap();
        let (log, ticket) = journal.append(hlc, batches.clone())?;
        self.written.push((hlc, batches));
        self.next_seq = self.journal.as_ref().unwrap().next_seq();
        log.wait(ticket).await?;
        self.acknowledged = self.written.len();
        Ok(())
    }

    /// Commits and seals until something fails or the history is over; whether it is.
    async fn history(&mut self, commits: u64) -> bool {
        for _ in 0..commits {
            if self.commit().await.is_err() {
                self.distrust = self.journal.as_ref().map(Journal::distrust);
                return false;
            }
            if self.random.next_u64().is_multiple_of(4) {
                match self.journal.take().unwrap().seal() {
                    Ok(sealed) => self.last = Some(sealed),
                    Err(_) => return false,
                }
            }
        }
        true
    }

    fn recover(&mut self, distrust: Option<&Distrust>) -> Result<()> {
        let found = look(&self.disk, &paths(), WRITER, (1, Hlc::default()), distrust)?;
        let mut commits: Vec<(Hlc, Vec<Batch>)> = Vec::new();
        let mut whole = true;
        let mut frames = Vec::new();
        found.replay(&self.disk, &mut |frame| {
            frames.push(frame.whole()?);
            Ok(())
        })?;
        settle(&self.disk, &paths(), WRITER.nsid, &found.unsettled)?;
        for frame in frames {
            if whole {
                commits.push((frame.hlc, Vec::new()));
            }
            let (hlc, batches) = commits.last_mut().unwrap();
            assert_eq!(*hlc, frame.hlc, "frames of two commits are mixed");
            batches.push(frame.batch);
            whole = !frame.more;
        }
        assert!(whole, "half a commit was recovered");
        assert!(
            commits.len() >= self.acknowledged,
            "{} commits acknowledged, {} found",
            self.acknowledged,
            commits.len()
        );
        assert_eq!(commits[..], self.written[..commits.len()], "what was found is not what was written");
        // What comes next is written after what was found: commits that were not acknowledged and are gone stay gone.
        self.written.truncate(commits.len());
        self.acknowledged = commits.len();
        self.next_seq = found.next_seq;
        self.last = found.logs.last().cloned();
        self.journal = None;
        self.distrust = None;
        Ok(())
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap()
}

#[test]
fn a_power_cut_at_any_operation_loses_no_acknowledged_commit_even_when_recovery_is_cut_too() {
    let runtime = runtime();
    let mut cuts = 0;
    for seed in 0..12 {
        for at in 0.. {
            let mut run = Run::new(seed);
            run.disk.set_fault(Some(Fault { at, forever: true, kind: io::ErrorKind::Other }));
            let finished = runtime.block_on(run.history(12));
            // One more crash, somewhere in recovery; then recovery to the end, and life goes on.
            run.disk.power_cut(&SeededRandom::new(seed ^ at));
            let operations = run.disk.operations();
            let fault = Fault { at: operations + at % 7, forever: true, kind: io::ErrorKind::Other };
            run.disk.set_fault(Some(fault));
            let _ = run.recover(None);
            run.disk.power_cut(&SeededRandom::new(seed + at));
            run.recover(None).unwrap_or_else(|e| panic!("seed {seed}, operation {at}: {e}"));
            assert!(runtime.block_on(run.history(3)), "seed {seed}, operation {at}");
            run.disk.power_cut(&SeededRandom::new(at));
            run.recover(None).unwrap_or_else(|e| panic!("seed {seed}, operation {at}, again: {e}"));
            cuts += 3;
            if finished {
                break;
            }
        }
    }
    assert!(cuts > 1_000, "only {cuts} power cuts were tried");
}

#[test]
fn a_single_failed_operation_loses_nothing_and_the_same_process_goes_on() {
    let runtime = runtime();
    for seed in 0..12 {
        for at in 0.. {
            let mut run = Run::new(seed);
            run.disk.set_fault(Some(Fault { at, forever: false, kind: io::ErrorKind::StorageFull }));
            if runtime.block_on(run.history(12)) {
                break;
            }
            run.disk.set_fault(None);
            let distrust = run.distrust.clone();
            run.recover(distrust.as_ref()).unwrap_or_else(|e| panic!("seed {seed}, operation {at}: {e}"));
            assert!(runtime.block_on(run.history(4)), "seed {seed}, operation {at}");
            run.disk.power_cut(&SeededRandom::new(seed ^ at));
            run.recover(None).unwrap_or_else(|e| panic!("seed {seed}, operation {at}, after the cut: {e}"));
        }
    }
}

#[test]
fn a_commit_whose_barrier_failed_does_not_come_back_in_the_same_process() {
    let runtime = runtime();
    // With `forever` the failed log cannot even be cut: its bytes stay readable, and are not durable.
    for forever in [false, true] {
        let mut run = Run::new(3);
        runtime.block_on(async {
            run.commit().await.unwrap();
            // The write succeeds, its sync does not.
            let fault = Fault { at: run.disk.operations() + 1, forever, kind: io::ErrorKind::Other };
            run.disk.set_fault(Some(fault));
            assert_eq!(run.commit().await.unwrap_err().kind(), Kind::Unavailable);
        });
        run.disk.set_fault(None);
        let distrust = run.journal.as_ref().map(Journal::distrust);
        run.recover(distrust.as_ref()).unwrap();
        assert_eq!(run.written.len(), 1, "forever: {forever}");
    }
}

#[test]
fn a_flipped_bit_in_an_acknowledged_commit_is_reported_and_never_served() {
    let runtime = runtime();
    let mut run = Run::new(5);
    assert!(runtime.block_on(run.history(10)));
    if let Some(journal) = run.journal.take() {
        journal.seal().unwrap();
    }
    let names = run.disk.list(Path::new("/data/store/wal")).unwrap();
    assert!(!names.is_empty());
    for entry in names {
        let path = Path::new("/data/store/wal").join(&entry.name);
        let good = run.disk.read(&path).unwrap();
        for at in (0..good.len()).step_by(101) {
            let mut damaged = good.clone();
            damaged[at] ^= 1;
            overwrite(&run.disk, &path, &damaged);
            let error = look(&run.disk, &paths(), WRITER, (1, Hlc::default()), None).unwrap_err();
            assert!(matches!(error.kind(), Kind::Corrupt | Kind::Unsupported), "byte {at}: {error}");
            assert!(error.message().contains(&entry.name), "{error}");
        }
        overwrite(&run.disk, &path, &good);
    }
    run.recover(None).unwrap();
}

#[test]
fn a_missing_log_is_reported_by_the_records_that_are_gone() {
    let runtime = runtime();
    let mut run = Run::new(6);
    for _ in 0..3 {
        runtime.block_on(run.commit()).unwrap();
        run.last = Some(run.journal.take().unwrap().seal().unwrap());
    }
    let names = run.disk.list(Path::new("/data/store/wal")).unwrap();
    run.disk.remove(&Path::new("/data/store/wal").join(&names[1].name)).unwrap();
    let error = look(&run.disk, &paths(), WRITER, (1, Hlc::default()), None).unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(error.message().ends_with("the file before it is missing"), "{error}");
}

#[test]
fn what_a_failed_creation_left_is_in_nobodys_way_once_its_number_is_flushed() {
    runtime().block_on(async {
        let mut run = Run::new(9);
        let disk: Arc<dyn Disk> = Arc::new(run.disk.mounted());
        // It is there, and who wanted it was told that it is not.
        drop(Journal::create(disk.clone(), paths(), WRITER, run.next_seq, None, &run.random).unwrap());
        run.commit().await.unwrap();
        let sealed = run.journal.take().unwrap().seal().unwrap();
        let flushed = sealed.next_seq;
        run.last = Some(sealed);
        run.commit().await.unwrap();
        run.journal = None;
        let recovered = look(&*disk, &paths(), WRITER, (flushed, Hlc::default()), None).unwrap();
        assert_eq!(recovered.next_seq, run.next_seq);
        let mut first = None;
        let mut take = |frame: FrameReader<'_>| {
            first = first.or(Some(frame.first_seq));
            Ok(())
        };
        recovered.replay(&*disk, &mut take).unwrap();
        assert_eq!(first, Some(flushed));
        settle(&*disk, &paths(), WRITER.nsid, &recovered.unsettled).unwrap();
        assert_eq!(disk.list(&paths().open).unwrap(), []);
    });
}

fn overwrite(disk: &MemoryDisk, path: &Path, bytes: &[u8]) {
    disk.remove(path).unwrap();
    disk.create(path).unwrap().write(bytes).unwrap();
}
