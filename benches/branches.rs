//! What branches cost: barriers and processor time to make one, bytes to keep one, time to read through many, and time to open a
//! namespace with a long history.
//!
//! `cargo bench --bench branches`; the data directory is made in the current directory's file system (`TMPDIR` elsewhere).
//! Every figure is a ratio or a bound within this run.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on fails")]

mod measured;
mod namespaces;

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use shoal::api::wire::query::parse_query;
use shoal::engine::Engine;
use shoal::model::ids::Project;

use self::measured::MeasuredDisk;
use self::namespaces::{branch, directory, median, name};

const BRANCHES: usize = 2_000;
/// Before so many logs are sealed that a write begins a flush, whose barriers and time are not a branch's.
const CHECKPOINT: usize = 12;
const MANY: usize = 10_000;
const DEPTH: usize = 50;
const OPENINGS: usize = 101;
const BATCH: u64 = 10_000;

struct Store {
    engine: Arc<Engine>,
    barriers: Arc<AtomicU64>,
    dir: tempfile::TempDir,
}

impl Store {
    fn new() -> Self {
        let dir = directory();
        let barriers = Arc::new(AtomicU64::new(0));
        let engine = open(dir.path(), &barriers);
        engine.rebuild_index().unwrap();
        Store { engine, barriers, dir }
    }

    async fn fill(&self, namespace: &str, rows: u64) {
        for from in (0..rows).step_by(BATCH as usize) {
            write(&self.engine, namespace, from..(from + BATCH).min(rows)).await;
        }
        self.engine.compact(&name(namespace)).await.unwrap();
    }
}

fn open(dir: &Path, barriers: &Arc<AtomicU64>) -> Arc<Engine> {
    let disk = Arc::new(MeasuredDisk { barrier: Duration::ZERO, barriers: barriers.clone() });
    namespaces::open(dir, disk)
}

async fn write(engine: &Arc<Engine>, namespace: &str, ids: impl Iterator<Item = u64>) {
    let rows: Vec<Json> = ids.map(|id| json!({"id": id, "n": id % 97, "text": format!("document {id}")})).collect();
    namespaces::write(engine, namespace, json!({ "upsert_rows": rows })).await;
}

/// Processor time of this process so far, in its own code and in the kernel, in hundredths of a second.
fn processor_ticks() -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<u64> = text.rsplit(") ").next().unwrap().split(' ').map(|n| n.parse().unwrap_or(0)).collect();
    (fields[11], fields[12])
}

/// Puts a file in place as a store must.
fn put(dir: &Path, bytes: &[u8]) {
    let (temporary, path) = (dir.join("0.json.tmp"), dir.join("0.json"));
    let mut file = File::create(&temporary).unwrap();
    file.write_all(bytes).unwrap();
    file.sync_data().unwrap();
    std::fs::rename(temporary, path).unwrap();
    File::open(dir).unwrap().sync_all().unwrap();
}

/// The files and the 8 barriers of a branch and nothing else: what the file system takes for them. Gives what is to be kept: ext4
/// looks for long at inodes that were freed in the last seconds.
fn bare() -> tempfile::TempDir {
    let store = directory();
    let at = |name: &str| store.path().join(name);
    let sync = |dir: &Path| File::open(dir).unwrap().sync_all().unwrap();
    for dir in ["log", "wal", "local", "names"] {
        std::fs::create_dir(at(dir)).unwrap();
    }
    let index = File::create(at("index")).unwrap();
    let (mut wall, mut own, mut kernel) = (Vec::new(), 0, 0);
    for n in 0..BRANCHES {
        let mut log = File::create(at("log").join(n.to_string())).unwrap();
        log.write_all(&[1; 200]).unwrap();
        log.sync_data().unwrap();
        let (before, began) = (processor_ticks(), Instant::now());
        std::fs::rename(at("log").join(n.to_string()), at("wal").join(n.to_string())).unwrap();
        sync(&at("wal"));
        let (manifest, binding) = (at("local").join(n.to_string()), at("names").join(n.to_string()));
        std::fs::create_dir(&manifest).unwrap();
        sync(&at("local"));
        // As many pages as the index's tree has to change, and the one that names its root.
        for page in [0, 1 + n as u64 % 64, 65 + n as u64 % 64, 129 + n as u64 % 64] {
            index.write_all_at(&[n as u8; 4_096], page * 4_096).unwrap();
        }
        index.sync_data().unwrap();
        put(&manifest, &[b'm'; 1_500]);
        std::fs::create_dir(&binding).unwrap();
        sync(&at("names"));
        put(&binding, &[b'n'; 250]);
        wall.push(began.elapsed());
        let now = processor_ticks();
        own += now.0 - before.0;
        kernel += now.1 - before.1;
    }
    println!(
        "its files and barriers alone: processor {:.0} us in its own code and {:.0} us in the kernel; wall {:?}",
        each(own),
        each(kernel),
        median(&mut wall)
    );
    store
}

/// Microseconds of hundredths of a second over many branches.
fn each(ticks: u64) -> f64 {
    ticks as f64 * 10_000.0 / BRANCHES as f64
}

/// Apparent and allocated bytes, and entries, of everything in a directory.
fn size(dir: &Path) -> (u64, u64, u64) {
    let metadata = std::fs::metadata(dir).unwrap();
    let mut total = (if metadata.is_dir() { 0 } else { metadata.len() }, metadata.blocks() * 512, 1);
    if metadata.is_dir() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let (apparent, allocated, entries) = size(&entry.unwrap().path());
            total = (total.0 + apparent, total.1 + allocated, total.2 + entries);
        }
    }
    total
}

/// Making a branch of namespaces of different sizes, with a fresh write in the log each time.
async fn making() {
    let mut first: Option<f64> = None;
    let mut kept = Vec::new();
    let _bare = bare();
    for rows in [1_000u64, 30_000, 1_000_000] {
        let store = Store::new();
        store.fill("main", rows).await;
        let (mut barriers, mut wall, mut own, mut kernel) = (Vec::new(), Vec::new(), 0, 0);
        for n in 0..BRANCHES {
            if n % CHECKPOINT == CHECKPOINT - 1 {
                store.engine.checkpoint(&name("main")).await.unwrap();
                while store.engine.status(&name("main")).unwrap()["index"]["compacting"] == true {
                    tokio::task::yield_now().await;
                }
            }
            write(&store.engine, "main", [rows + n as u64].into_iter()).await;
            let (before, at, began) = (store.barriers.load(Ordering::Relaxed), processor_ticks(), Instant::now());
            branch(&store.engine, "main", &format!("b{n}")).await;
            wall.push(began.elapsed());
            let now = processor_ticks();
            own += now.0 - at.0;
            kernel += now.1 - at.1;
            barriers.push(store.barriers.load(Ordering::Relaxed) - before);
        }
        barriers.sort_unstable();
        let of_first = *first.get_or_insert(each(own + kernel).max(1.0));
        println!(
            "branch of {rows} rows: {} barriers, at most {} (bound 8); processor {:.0} us in its own code and {:.0} us in the \
             kernel (bound 1000), {:.2} times the first; wall {:?}",
            barriers[BRANCHES / 2],
            barriers[BRANCHES - 1],
            each(own),
            each(kernel),
            each(own + kernel) / of_first,
            median(&mut wall),
        );
        kept.push(store);
    }
}

/// Many branches of one namespace.
async fn many() {
    let store = Store::new();
    store.fill("main", 30_000).await;
    let data = store.dir.path().join("data");
    let before = size(&data);
    let began = Instant::now();
    for n in 0..MANY {
        branch(&store.engine, "main", &format!("b{n:05}")).await;
    }
    let made = began.elapsed();
    let after = size(&data);
    let per = |a: u64, b: u64| (b - a) as f64 / MANY as f64;
    println!(
        "{MANY} branches: {:.0} bytes apparent (bound 8192) and {:.0} allocated (bound 32768) each, made in {:.1} s",
        per(before.0, after.0),
        per(before.1, after.1),
        made.as_secs_f64()
    );
    let began = Instant::now();
    let mut cursor = None;
    let mut listed = 0;
    loop {
        let (names, next) = store.engine.list(&Project::default_project(), "", cursor.as_deref(), 1_000).unwrap();
        listed += names.len();
        cursor = next;
        if cursor.is_none() {
            break;
        }
    }
    let (listing, drawn) = (began.elapsed(), Instant::now());
    let tree = store.engine.tree(&Project::default_project()).unwrap().len();
    println!("{listed} listed in {listing:?}, a tree of {tree} in {:?} (bound 1 s)", drawn.elapsed());
    store.engine.shutdown().await.unwrap();
    let Store { engine, barriers, dir } = store;
    drop(engine);
    let began = Instant::now();
    let engine = open(dir.path(), &barriers);
    let opened = began.elapsed();
    let began = Instant::now();
    let view = engine.view(&name("b05000")).unwrap();
    println!("store opened in {opened:?}, one of them in {:?}: {} documents", began.elapsed(), view.documents());
}

/// Queries through a chain of branches with a write at every step.
async fn deep() {
    let store = Store::new();
    store.fill("main", 100_000).await;
    for depth in 0..DEPTH {
        let from = if depth == 0 { "main".to_owned() } else { format!("b{}", depth - 1) };
        branch(&store.engine, &from, &format!("b{depth}")).await;
        write(&store.engine, &format!("b{depth}"), [depth as u64].into_iter()).await;
    }
    let body =
        json!({"rank_by": ["n", "desc"], "filters": ["n", "Gte", 40], "limit": 10, "include_attributes": true});
    let request = parse_query(body).unwrap().request;
    let deepest = format!("b{}", DEPTH - 1);
    let (mut root, mut leaf) = (Vec::new(), Vec::new());
    for round in 0..600 {
        for (namespace, times) in [("main", &mut root), (deepest.as_str(), &mut leaf)] {
            let began = Instant::now();
            store.engine.query(&name(namespace), &request).unwrap();
            if round >= 100 {
                times.push(began.elapsed());
            }
        }
    }
    let (root, leaf) = (median(&mut root), median(&mut leaf));
    println!(
        "query at depth {DEPTH}: {leaf:?}, of the root {root:?}: {:.2} times (bound 1.1)",
        leaf.as_secs_f64() / root.as_secs_f64()
    );
}

/// Opening a namespace of the same live rows after a short and a long history.
async fn opening() {
    let mut times = Vec::new();
    for rounds in [4, 200] {
        let store = Store::new();
        store.fill("main", 20_000).await;
        for round in 0..rounds {
            write(&store.engine, "main", (0..200).map(|n| (round * 97 + n) % 20_000)).await;
            store.engine.checkpoint(&name("main")).await.unwrap();
        }
        store.engine.compact(&name("main")).await.unwrap();
        write(&store.engine, "neighbour", 0..1).await;
        let states = store.engine.history(&name("main")).unwrap().len();
        store.engine.shutdown().await.unwrap();
        let Store { engine, barriers, dir } = store;
        drop(engine);
        let (mut started, mut opened) = (Vec::new(), Vec::new());
        for _ in 0..OPENINGS {
            let began = Instant::now();
            let engine = open(dir.path(), &barriers);
            engine.view(&name("neighbour")).unwrap();
            started.push(began.elapsed());
            // In a store that serves already.
            let began = Instant::now();
            let view = engine.view(&name("main")).unwrap();
            opened.push(began.elapsed());
            assert_eq!(view.documents(), 20_000);
            engine.shutdown().await.unwrap();
        }
        times.push((states, [median(&mut opened), median(&mut started)]));
    }
    let (short, long) = (times[0], times[1]);
    for (at, what) in ["opening", "starting the store and opening"].into_iter().enumerate() {
        println!(
            "{what} after {} states {:?}, after {} states {:?}: {:.2} times (bound 1.2)",
            short.0,
            short.1[at],
            long.0,
            long.1[at],
            long.1[at].as_secs_f64() / short.1[at].as_secs_f64()
        );
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let only = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let wanted = |part: &str| only.as_deref().is_none_or(|only| only == part);
    if wanted("making") {
        making().await;
    }
    if wanted("many") {
        many().await;
    }
    if wanted("deep") {
        deep().await;
    }
    if wanted("opening") {
        opening().await;
    }
}
