//! A data directory on the machine's own disk, where what becomes of a file is seen by who has mapped it.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use shoal::engine::{Engine, EngineConfig};
use shoal::error::Result;
use shoal::format::segment::{decode_footer, decode_meta};
use shoal::format::vectors;
use shoal::platform::clock::ManualClock;
use shoal::platform::random::SeededRandom;
use shoal::platform::real_disk::RealDisk;

use crate::node::{name, write};

/// Who holds a data directory for longer does not let go of it.
const PATIENCE: Duration = Duration::from_secs(20);
/// The dimensions of every vector.
const DIMS: u64 = 64;

pub fn open(dir: &Path) -> Arc<Engine> {
    let config =
        EngineConfig { flush_bytes: 1 << 30, compaction_fan_in: 1_000, ..EngineConfig::new(dir.join("data")) };
    let clock = Arc::new(ManualClock::at(1_700_000_000_000));
    let begun = Instant::now();
    let engine = loop {
        let random = Arc::new(SeededRandom::new(7));
        match Engine::open(config.clone(), Arc::new(RealDisk), clock.clone(), random) {
            // What still ran in the background of the one before holds the directory for a moment.
            Err(error) if error.code() == "data_dir_locked" && begun.elapsed() < PATIENCE => std::thread::yield_now(),
            opened => break opened.unwrap(),
        }
    };
    engine.rebuild_index().unwrap();
    engine
}

/// Rows with vectors that say which row they are of.
pub fn rows(ids: impl IntoIterator<Item = u64>, n: u64) -> Vec<Json> {
    let vector = |id: u64| (0..DIMS).map(|at| (id * DIMS + at) as f64 + 1.0).collect::<Vec<f64>>();
    ids.into_iter().map(|id| json!({"id": id, "n": n, "text": format!("fish {id}"), "vector": vector(id)})).collect()
}

pub async fn put(engine: &Arc<Engine>, to: &str, ids: impl IntoIterator<Item = u64>, n: u64) -> Result<()> {
    let body = json!({
        "distance_metric": "euclidean_squared",
        "schema": {"text": {"type": "string", "full_text_search": true}},
        "upsert_rows": rows(ids, n),
    });
    write(engine, to, body).await
}

/// The newest segment of a namespace.
pub async fn newest_segment(engine: &Engine, dir: &Path, of: &str) -> PathBuf {
    let newest = engine.newest(&name(of)).await.unwrap();
    dir.join("data/store").join(&newest.segments.last().unwrap().key)
}

/// The files that status lists as damaged, below the data directory.
pub fn listed(engine: &Engine) -> Vec<String> {
    let status = engine.node_status();
    let files = status["damaged"].as_array().unwrap().iter();
    files.map(|file| file["file"].as_str().unwrap().to_owned()).collect()
}

/// Changes a byte in the middle of a segment's vectors, or changes it back. Who has mapped it sees it at once.
pub fn flip_a_vector(segment: &Path) {
    let bytes = std::fs::read(segment).unwrap();
    let meta = decode_meta(&bytes, &decode_footer(&bytes, "segment").unwrap(), "segment").unwrap();
    let is_vectors = |name: &str| name.split(':').next() == Some(vectors::SECTION);
    let section = meta.sections.iter().find(|section| is_vectors(&section.name)).unwrap();
    let at = section.offset + section.bytes / 2;
    let file = std::fs::File::options().write(true).open(segment).unwrap();
    file.write_all_at(&[bytes[at as usize] ^ 0x40], at).unwrap();
}

/// Puts bytes into a file as `cp` does: the file itself is cut and written, no other takes its place.
pub fn overwrite(file: &Path, bytes: &[u8]) {
    std::fs::write(file, bytes).unwrap();
}
