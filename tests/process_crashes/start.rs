//! How long a start takes with a tail to replay.

use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use super::daemon::{Daemon, data_dir};

/// Without optimisation; the goal of 200 ms is for the released binary.
const BOUND: Duration = Duration::from_secs(if cfg!(debug_assertions) { 10 } else { 1 });

#[test]
fn a_start_with_a_tail_of_8_mib_answers_soon() {
    let (_folder, dir) = data_dir();
    let daemon = Daemon::start(&dir);
    let mut client = daemon.client();
    let mut logged = 0;
    let mut next = 0_u64;
    while logged < 8 << 20 {
        let rows: Vec<Json> = (next..next + 100)
            .map(|id| {
                let vector: Vec<f64> = (0..256).map(|n| ((id * 31 + n) % 97) as f64 / 97.0).collect();
                json!({"id": id, "n": id % 50, "vector": vector, "text": format!("{} {id}", "fish swim in deep water".repeat(8))})
            })
            .collect();
        next += 100;
        let schema = json!({"text": {"type": "string", "full_text_search": true}});
        let body = json!({"upsert_rows": rows, "schema": schema, "distance_metric": "cosine_distance"});
        client.must("/v2/namespaces/docs", &body);
        let entries = std::fs::read_dir(dir.join("log")).unwrap();
        logged = entries.map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    }
    daemon.kill();
    let started = Instant::now();
    let daemon = Daemon::start(&dir);
    let listening = started.elapsed();
    let query = json!({"rank_by": ["text", "BM25", "fish"], "limit": 10});
    let answer = daemon.client().must("/v2/namespaces/docs/query", &query);
    let answered = started.elapsed();
    assert_eq!(answer["rows"].as_array().unwrap().len(), 10);
    eprintln!(
        "a log of {logged} bytes, {next} documents: listening after {listening:?}, first answer after {answered:?}"
    );
    assert!(answered < BOUND, "first answer after {answered:?}, expected {BOUND:?} at most");
}

#[test]
fn a_daemon_that_has_done_nothing_takes_little_of_a_limit_on_data() {
    let (_folder, dir) = data_dir();
    let daemon = Daemon::start(&dir);
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let data = status.lines().find_map(|line| line.strip_prefix("VmData:")?.trim().strip_suffix(" kB"));
    let data: u64 = data.unwrap().trim().parse().unwrap();
    // Stacks of threads among it; the allocator reserves what it may need, and that is no data.
    assert!(data < 96 << 10, "{data} KiB");
    daemon.stop();
}
