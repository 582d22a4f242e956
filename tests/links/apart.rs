//! Daemons whose clocks are an hour apart, and daemons on copies of one disk: what they branch, merge, write and delete meets in the
//! end.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::daemon::{Daemon, ON_REQUEST, place, serve, text};

const HOUR_SECONDS: i64 = 3_600;
/// Wall-clock time of whoever loads it is off by so many seconds.
const CLOCK: &str = r#"
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t id, struct timespec *at) {
    int done = (int)syscall(SYS_clock_gettime, id, at);
    if (done == 0 && id == CLOCK_REALTIME) at->tv_sec += atol(getenv("CLOCK_OFF_BY"));
    return done;
}
"#;

/// A daemon whose clock is off by so many seconds. `None` where there is no compiler for the library that makes it so.
fn off_by(seconds: i64, dir: &Path, bucket: &Path, name: &str) -> Option<Daemon> {
    let (source, library) = (dir.join("clock.c"), dir.join("clock.so"));
    std::fs::write(&source, CLOCK).unwrap();
    let made = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status();
    if !made.is_ok_and(|status| status.success()) {
        println!("SKIPPED: there is no C compiler named cc");
        return None;
    }
    let mut command = serve(&dir.join(name));
    command
        .args(["--bucket", &format!("file://{}", bucket.display())])
        .envs(ON_REQUEST)
        .env("LD_PRELOAD", &library)
        .env("CLOCK_OFF_BY", seconds.to_string());
    Some(Daemon::spawn(&mut command))
}

fn sync(daemons: &[&Daemon]) {
    // Twice: afterwards everybody has seen what everybody had.
    for _ in 0..2 {
        for daemon in daemons {
            let output = daemon.run(&["sync", "--wait"]);
            assert!(output.status.success(), "{}", text(&output.stderr));
        }
    }
}

fn write(daemon: &Daemon, namespace: &str, body: &Value) {
    let (status, _, told) = daemon.ask("POST", &format!("/v2/namespaces/{namespace}"), &[], body);
    assert_eq!(status, 200, "{told}");
}

fn put(daemon: &Daemon, namespace: &str, ids: std::ops::Range<u64>, n: u64) {
    let rows: Vec<Value> = ids.map(|id| json!({"id": id, "n": n})).collect();
    write(daemon, namespace, &json!({"upsert_rows": rows}));
}

fn merge(daemon: &Daemon, source: &str, into: &str) {
    let body = json!({"source": source, "policy": "lww"});
    let (status, _, told) = daemon.ask("POST", &format!("/v1/namespaces/{into}/merge"), &[], &body);
    assert_eq!(status, 200, "{told}");
}

/// `n` of every document.
fn all(daemon: &Daemon, namespace: &str) -> BTreeMap<u64, u64> {
    let body = json!({"rank_by": ["id", "asc"], "limit": 10_000, "include_attributes": ["n"]});
    let (status, _, answer) = daemon.ask("POST", &format!("/v2/namespaces/{namespace}/query"), &[], &body);
    assert_eq!(status, 200, "{answer}");
    let rows = answer["rows"].as_array().unwrap().iter();
    rows.map(|row| (row["id"].as_u64().unwrap(), row["n"].as_u64().unwrap())).collect()
}

/// Ids of the documents whose other state is kept.
fn lost(daemon: &Daemon) -> Vec<u64> {
    let told = daemon.body("/v1/namespaces/docs/conflicts");
    let lines = told.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter_map(|line| line["id"].as_u64()).collect()
}

fn holds(found: &BTreeMap<u64, u64>, ids: std::ops::Range<u64>, n: u64) {
    ids.for_each(|id| assert_eq!(found.get(&id), Some(&n), "document {id}"));
}

#[test]
fn clocks_an_hour_apart_lose_nothing_and_who_wrote_last_knowing_of_the_other_wins() {
    let (dir, bucket) = place();
    let Some(ahead) = off_by(HOUR_SECONDS, dir.path(), &bucket, "ahead") else { return };
    let right = off_by(0, dir.path(), &bucket, "right").unwrap();
    let daemons = [&ahead, &right];
    put(&ahead, "docs", 0..20, 1);
    sync(&daemons);
    // Apart, on the same documents and others; what the one that is ahead wrote counts as newer, although it was first.
    put(&ahead, "docs", 10..15, 3);
    put(&right, "docs", 5..12, 2);
    put(&right, "docs", 100..110, 2);
    write(&ahead, "docs", &json!({"deletes": [0, 1]}));
    sync(&daemons);
    let found = all(&right, "docs");
    assert_eq!(found, all(&ahead, "docs"));
    holds(&found, 5..10, 2);
    holds(&found, 10..15, 3);
    holds(&found, 100..110, 2);
    assert_eq!(found.len(), 18 + 10);
    for daemon in daemons {
        assert_eq!(lost(daemon), [10, 11]);
    }
    // Whoever has seen the other's state replaces and deletes it, whatever the clock says.
    put(&right, "docs", 10..13, 4);
    write(&right, "docs", &json!({"deletes": [13, 14]}));
    write(&right, "try", &json!({"branch_from_namespace": "docs"}));
    put(&right, "try", 200..205, 5);
    sync(&daemons);
    put(&ahead, "try", 205..210, 6);
    merge(&ahead, "try", "docs");
    assert_eq!(right.ask("DELETE", "/v2/namespaces/try", &[], &Value::Null).0, 200);
    sync(&daemons);
    let found = all(&right, "docs");
    assert_eq!(found, all(&ahead, "docs"));
    holds(&found, 10..13, 4);
    holds(&found, 200..205, 5);
    holds(&found, 205..210, 6);
    assert_eq!(found.len(), 26 + 10);
    // The deletion knew nothing of what was written to it elsewhere.
    let kept = all(&right, "try");
    assert_eq!(kept, all(&ahead, "try"));
    holds(&kept, 205..210, 6);
    let fresh = Daemon::start(&dir.path().join("fresh"), &bucket, &ON_REQUEST);
    sync(&[&fresh]);
    assert_eq!((all(&fresh, "docs"), all(&fresh, "try")), (found, kept));
}

#[test]
fn daemons_on_copies_of_one_disk_are_told_apart_and_both_keep_everything() {
    let (dir, bucket) = place();
    let (data, copy) = (dir.path().join("one"), dir.path().join("copy"));
    let one = Daemon::start(&data, &bucket, &ON_REQUEST);
    put(&one, "docs", 0..20, 1);
    sync(&[&one]);
    // Some of it is on the disk only when that is copied.
    put(&one, "docs", 20..25, 1);
    assert_eq!(one.stop().0, Some(0));
    assert!(Command::new("cp").arg("-a").args([&data, &copy]).status().unwrap().success());
    let one = Daemon::start(&data, &bucket, &ON_REQUEST);
    let other = Daemon::start(&copy, &bucket, &ON_REQUEST);
    for (daemon, from, n) in [(&one, 100, 2), (&other, 200, 3)] {
        put(daemon, "docs", from..from + 10, n);
        put(daemon, "docs", 5..6, n);
        write(daemon, "docs", &json!({"deletes": [n]}));
        write(daemon, &format!("try-{n}"), &json!({"branch_from_namespace": "docs"}));
        put(daemon, &format!("try-{n}"), from + 10..from + 12, n);
    }
    sync(&[&one, &other]);
    let told: Vec<String> = [&one, &other]
        .map(|daemon| daemon.status()["namespaces"]["default/default/docs"]["notice"].clone())
        .iter()
        .filter_map(|notice| notice.as_str().map(str::to_owned))
        .collect();
    assert!(told.iter().any(|notice| notice.contains("cloned")), "{told:?}");
    merge(&one, "try-3", "docs");
    merge(&other, "try-2", "docs");
    sync(&[&one, &other]);
    let found = all(&one, "docs");
    assert_eq!(found, all(&other, "docs"));
    holds(&found, 20..25, 1);
    holds(&found, 100..112, 2);
    holds(&found, 200..212, 3);
    assert!(!found.contains_key(&2) && !found.contains_key(&3) && [2, 3].contains(&found[&5]));
    assert_eq!(found.len(), 23 + 12 + 12);
    for daemon in [&one, &other] {
        assert_eq!(lost(daemon), [5]);
    }
    let fresh = Daemon::start(&dir.path().join("fresh"), &bucket, &ON_REQUEST);
    sync(&[&fresh]);
    for namespace in ["docs", "try-2", "try-3"] {
        assert_eq!(all(&fresh, namespace), all(&one, namespace), "{namespace}");
    }
}
