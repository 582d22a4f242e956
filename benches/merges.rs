//! What comparing and merging cost: 100 changed documents of all of debpkg and of 12,000 of its rows, against one write of the same
//! 100 documents; and what merging 100 adjacent ones costs, and a barrier of the disk.
//!
//! `SHOAL_DATA=DIR cargo bench --bench merges`; the data directory is made in the current directory's file system (`TMPDIR`
//! elsewhere). Every figure is a ratio within this run; the two sizes take turns.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on fails")]

#[expect(dead_code, reason = "the other readers are for tests")]
#[path = "../tests/real_data/data.rs"]
mod data;
mod namespaces;

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use shoal::engine::Engine;
use shoal::engine::merge::MergeRequest;
use shoal::engine::merge::decide::Policy;
use shoal::platform::disk::Disk;
use shoal::platform::real_disk::RealDisk;

use self::namespaces::{branch, directory, median, name, open};

const SMALL: usize = 12_000;
const BATCH: usize = 1_000;
const CHANGES: usize = 100;
const ROUNDS: usize = 31;

struct Set {
    documents: Vec<Json>,
    vectors: data::Vectors,
}

impl Set {
    fn row(&self, at: usize) -> Json {
        let mut row = self.documents[at].clone();
        row["vector"] = self.vectors.base64(at).into();
        row
    }
}

struct Store {
    engine: Arc<Engine>,
    rows: usize,
    write: Vec<Duration>,
    diff: Vec<Duration>,
    merge: Vec<Duration>,
    adjacent: Vec<Duration>,
    _dir: tempfile::TempDir,
}

impl Store {
    async fn new(set: &Set, rows: usize) -> Self {
        let dir = directory();
        let engine = open(dir.path(), Arc::new(RealDisk));
        engine.rebuild_index().unwrap();
        let store = Store {
            engine,
            rows,
            write: Vec::new(),
            diff: Vec::new(),
            merge: Vec::new(),
            adjacent: Vec::new(),
            _dir: dir,
        };
        for from in (0..rows).step_by(BATCH) {
            store.put("main", (from..(from + BATCH).min(rows)).map(|at| set.row(at)).collect()).await;
        }
        store.engine.compact(&name("main")).await.unwrap();
        store
    }

    async fn put(&self, namespace: &str, rows: Vec<Json>) {
        let text = json!({"type": "string", "full_text_search": {"stemming": true, "remove_stopwords": true}});
        let body = json!({"upsert_rows": rows, "distance_metric": "cosine_distance", "schema": {"title": text, "text": text}});
        namespaces::write(&self.engine, namespace, body).await;
    }

    /// A branch with 100 changes all over the namespace, compared and merged; and one with changes of neighbours.
    async fn round(&mut self, set: &Set, round: usize) {
        let (main, child) = (name("main"), format!("child{round}"));
        let next = format!("next{round}");
        branch(&self.engine, "main", &next).await;
        self.put(&next, self.changes(set, |n| 7_919 * round + n)).await;
        let took = self.merge(&next).await;
        self.adjacent.push(took);
        branch(&self.engine, "main", &child).await;
        self.engine.view(&name(&child)).unwrap();
        let rows = self.changes(set, |n| n * self.rows / CHANGES + round);
        let began = Instant::now();
        self.put(&child, rows).await;
        self.write.push(began.elapsed());
        let began = Instant::now();
        let diff = self.engine.diff((&main, None), (&name(&child), None)).await.unwrap();
        let mut differing = 0;
        tokio::task::block_in_place(|| {
            diff.for_each(|_| {
                differing += 1;
                Ok(())
            })
        })
        .unwrap();
        self.diff.push(began.elapsed());
        assert_eq!(differing, CHANGES);
        drop(diff);
        let took = self.merge(&child).await;
        self.merge.push(took);
    }

    /// Documents at these places, each with the content of its neighbour, and the number of the merge: what a round before this one has
    /// brought there already is no change.
    fn changes(&self, set: &Set, place: impl Fn(usize) -> usize) -> Vec<Json> {
        let changed = |n| {
            let at = place(n) % self.rows;
            let mut row = set.row((at + 1) % self.rows);
            row["id"] = set.documents[at]["id"].clone();
            row["merge"] = json!(self.merge.len() + self.adjacent.len());
            row
        };
        (0..CHANGES).map(changed).collect()
    }

    /// Merges a branch, and deletes it; gives how long the merge took.
    async fn merge(&self, child: &str) -> Duration {
        let main = name("main");
        let request = MergeRequest { policy: Policy::Fail, ..MergeRequest::default() };
        let began = Instant::now();
        let report = self.engine.merge(&name(child), &main, request).await.unwrap();
        let took = began.elapsed();
        assert_eq!(report.updated, CHANGES as u64);
        self.engine.delete(&name(child)).await.unwrap();
        took
    }
}

/// What making a small file durable takes here, and its name.
fn barriers() -> (Duration, Duration) {
    let (dir, mut files, mut names) = (directory(), Vec::new(), Vec::new());
    for at in 0..ROUNDS {
        let mut file = RealDisk.create(&dir.path().join(at.to_string())).unwrap();
        file.write(&[1; 4096]).unwrap();
        let began = Instant::now();
        file.sync().unwrap();
        files.push(began.elapsed());
        let began = Instant::now();
        RealDisk.sync_dir(dir.path()).unwrap();
        names.push(began.elapsed());
    }
    (median(&mut files), median(&mut names))
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let Some(folder) = data::folder("merges") else { return };
    let folder = folder.join("debpkg");
    let set = Set {
        documents: data::json_lines(&folder.join("docs.jsonl.zst")),
        vectors: data::Vectors::read(&folder.join("base.f16.npy")),
    };
    let mut stores = [Store::new(&set, SMALL).await, Store::new(&set, set.documents.len()).await];
    for round in 0..ROUNDS {
        for store in &mut stores {
            store.round(&set, round).await;
        }
    }
    let (file, name) = barriers();
    println!(
        "a barrier of a file {:.2} ms, of its name {:.2} ms",
        file.as_secs_f64() * 1e3,
        name.as_secs_f64() * 1e3
    );
    let mut small: Option<(f64, f64)> = None;
    for store in &mut stores {
        let [write, diff, merge] =
            [&mut store.write, &mut store.diff, &mut store.merge].map(|times| median(times).as_secs_f64());
        let of = *small.get_or_insert((diff, merge));
        println!(
            "{CHANGES} changes of {} rows: written in {:.2} ms; diff {:.2} ms, {:.2} times the write (bound 20), {:.2} times \
             that of {SMALL} rows (bound 1.2); merge {:.2} ms, {:.2} times the write (bound 20), {:.2} times (bound 1.2); of adjacent ones {:.2} ms",
            store.rows,
            write * 1e3,
            diff * 1e3,
            diff / write,
            diff / of.0,
            merge * 1e3,
            merge / write,
            merge / of.1,
            median(&mut store.adjacent).as_secs_f64() * 1e3,
        );
    }
}
