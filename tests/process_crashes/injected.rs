//! System calls that kill or fail, made so by strace: the daemon killed at the Nth sync, rename or write of a history, errors
//! of the disk at the Nth sync or rename, and a count of the barriers that a write costs.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;
use shoal::platform::clock::{Clock, SystemClock};

use super::daemon::{Daemon, Start, data_dir};
use super::history::Actor;
use super::machine::{no_strace, number_from_environment, skipped, text};

/// Starts the binary under strace, which is the grandchild, so that the child is the daemon.
fn traced(words: &[&str], output: &Path) -> Start<'static> {
    let mut under: Vec<String> = ["strace", "-D", "-f", "-q", "-o", text(output)].map(str::to_owned).to_vec();
    under.extend(words.iter().map(|word| (*word).to_owned()));
    let environment = vec![("SHOAL_STORAGE__FLUSH_BYTES", (64 << 10).to_string())];
    Start { under, environment }
}

/// A history under this injection (not with strace's --seccomp-bpf, which loses count); then what a daemon without it finds. Whether the injection ended the daemon.
fn inject(injection: &str, seed: u64, steps: usize) -> bool {
    let (folder, dir) = data_dir();
    let what = format!("{injection}, seed {seed}");
    let filter = injection.split_once(':').unwrap().0.to_owned();
    let trace = format!("trace={filter}");
    let start = traced(&["-e", &trace, "-e", &format!("inject={injection}")], &folder.path().join("trace"));
    let mut actor = Actor::new(1, seed);
    let mut is_dead = true;
    if let Ok(daemon) = start.begin(&dir).ready() {
        let mut client = daemon.client();
        is_dead = false;
        for _ in 0..steps {
            if !actor.step(&mut client) {
                is_dead = true;
                break;
            }
            if actor.possible.len() > 1 {
                // Something failed and the daemon lives: what it shows now is what it must show from now on.
                actor.settle(&mut client, &what);
            }
        }
        daemon.kill();
    }
    let daemon = start_alone(&dir);
    actor.settle(&mut daemon.client(), &what);
    assert!(actor.run(&mut daemon.client(), 5), "{what}: {}", daemon.said());
    assert_eq!(actor.possible.len(), 1, "{what}: a write without a fault failed: {}", daemon.said());
    actor.settle(&mut daemon.client(), &what);
    daemon.stop();
    is_dead
}

/// strace lets go of a killed process a moment later; until then the directory is locked.
fn start_alone(dir: &Path) -> Daemon {
    let since = Instant::now();
    loop {
        match Start::default().begin(dir).ready() {
            Ok(daemon) => return daemon,
            Err(said) if said.contains("in use by another process") && since.elapsed() < Duration::from_secs(20) => {}
            Err(said) => panic!("no start: {said}"),
        }
    }
}

/// How many points of each kind are tried; `SHOAL_KILLS` asks for more.
fn points(few: u64) -> u64 {
    number_from_environment("SHOAL_KILLS").map_or(few, |kills| (kills / 5).max(few))
}

#[test]
fn no_acknowledged_write_is_lost_when_killed_at_the_nth_sync_rename_or_write() {
    if let Some(why) = no_strace() {
        return skipped("kills at the Nth system call", &why);
    }
    let calls = [
        ("fsync", 8),
        ("fdatasync", 8),
        ("rename", 6),
        ("write", 6),
        ("pwrite64", 3),
        ("unlink", 3),
        ("ftruncate", 1),
    ];
    let (mut rounds, mut hits) = (0, 0);
    for (call, few) in calls {
        let n = points(few);
        for at in 0..n {
            // Dense at the start, where directories and first files are made, sparse later. strace counts by thread.
            let when = 1 + at + at * at / 6;
            hits += u64::from(inject(&format!("{call}:signal=KILL:when={when}"), at, 40));
            rounds += 1;
        }
    }
    eprintln!("{hits} kills at system calls in {rounds} histories, no acknowledged write lost");
    assert!(hits * 2 > rounds, "only {hits} of {rounds} histories were ended by the injection");
}

#[test]
fn no_acknowledged_write_is_lost_when_the_nth_sync_or_rename_fails() {
    if let Some(why) = no_strace() {
        return skipped("errors of the Nth system call", &why);
    }
    let mut rounds = 0;
    for (call, error) in
        [("fsync", "EIO"), ("fdatasync", "EIO"), ("fdatasync", "ENOSPC"), ("rename", "EIO"), ("openat", "EIO")]
    {
        for at in 0..points(3) {
            // Behind what the start needs, once and then again now and then.
            let when = 12 + at * 5;
            inject(&format!("{call}:error={error}:when={when}+7"), 100 + at, 40);
            rounds += 1;
        }
    }
    eprintln!("errors of the disk in {rounds} histories, no acknowledged write lost");
}

fn reserve_bytes(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir.join("reserve")).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum()
}

#[test]
fn a_durable_write_of_one_document_costs_exactly_one_barrier() {
    if let Some(why) = no_strace() {
        return skipped("barriers counted by strace", &why);
    }
    const WRITES: u64 = 25;
    let (folder, dir) = data_dir();
    let output = folder.path().join("trace");
    let calls = "trace=fsync,fdatasync,sync,syncfs,sync_file_range,msync";
    let body = |id: u64| {
        json!({"upsert_rows": [{"id": id, "n": id, "text": "fish", "vector": [1.0, 0.5]}],
        "distance_metric": "cosine_distance"})
    };
    // A start after a kill has the index made anew, and says when it is.
    let daemon = Daemon::start(&dir);
    daemon.client().must("/v2/namespaces/docs", &body(0));
    // It is made once, beside whatever is written.
    wait_for("the reserve", || reserve_bytes(&dir) == 1 << 20);
    daemon.kill();
    let daemon = traced(&["--seccomp-bpf", "-ttt", "-e", calls], &output).run(&dir);
    let mut client = daemon.client();
    wait_for("the index", || daemon.said().contains("the index is rebuilt"));
    client.must("/v2/namespaces/docs", &body(0));
    // The clock counts milliseconds; nothing else syncs in the one before and the one after.
    std::thread::sleep(Duration::from_millis(2));
    let from = now();
    for id in 1..=WRITES {
        client.must("/v2/namespaces/docs", &body(id));
    }
    std::thread::sleep(Duration::from_millis(2));
    let to = now();
    assert_eq!(look_ids(&mut client), WRITES + 1);
    daemon.kill();
    wait_for("strace's last line", || read(&output).contains("+++ killed by SIGKILL +++"));
    let barriers: Vec<String> = read(&output)
        .lines()
        .filter(|line| !line.contains("resumed>") && line.contains('('))
        .filter(|line| {
            let at = line.split_whitespace().nth(1).and_then(|text| text.parse::<f64>().ok());
            at.is_some_and(|at| (from..to).contains(&at))
        })
        .map(str::to_owned)
        .collect();
    assert_eq!(barriers.len() as u64, WRITES, "{}", barriers.join("\n"));
    assert!(barriers.iter().all(|line| line.contains("fdatasync(")), "{}", barriers.join("\n"));
    eprintln!("{WRITES} writes of one document, {} barriers", barriers.len());
}

fn look_ids(client: &mut super::daemon::Client) -> u64 {
    let answer = client.must("/v2/namespaces/docs/query", &json!({"rank_by": ["id", "asc"], "limit": 1_000}));
    answer["rows"].as_array().unwrap().len() as u64
}

/// As strace prints it.
fn now() -> f64 {
    SystemClock.now_millis() as f64 / 1_000.0
}

fn read(path: &PathBuf) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn wait_for(what: &str, done: impl Fn() -> bool) {
    let since = Instant::now();
    while !done() {
        assert!(since.elapsed() < Duration::from_secs(30), "{what} does not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}
