//! A daemon that follows: what a person can do with a namespace that others write, and what they are told.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "support/daemon.rs"]
#[expect(dead_code, reason = "other tests need the rest")]
mod daemon;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use daemon::{ALL_THE_TIME, Daemon, ON_REQUEST, files, place, text};
use serde_json::{Value, json};
use shoal::platform::random::{Random, SeededRandom};

const FOLLOWS: [(&str, &str); 4] = [
    ON_REQUEST[0],
    ("SHOAL_SYNC__FOLLOW", "*/*/docs"),
    ("SHOAL_SYNC__FOLLOW_INTERVAL_SECONDS", "1"),
    ("SHOAL_SYNC__FOLLOW_INTERVAL_SECONDS_MAX", "1"),
];

#[test]
fn a_daemon_that_follows_refuses_writes_and_says_which_setting_makes_it_so() {
    let (dir, bucket) = place();
    let one = Daemon::start(&dir.path().join("one"), &bucket, &ON_REQUEST);
    let other = Daemon::start(&dir.path().join("other"), &bucket, &FOLLOWS);
    one.write(0..20);
    assert!(one.run(&["sync", "--wait"]).status.success());
    assert!(other.run(&["sync", "--wait"]).status.success());
    assert_eq!(other.count(), Some(20));
    let rows = json!({"upsert_rows": [{"id": 1}]});
    for (method, path, body) in [
        ("POST", "/v2/namespaces/docs", rows.clone()),
        ("POST", "/v2/namespaces/docs", json!({"branch_from_namespace": "other"})),
        ("PUT", "/v1/namespaces/docs", json!({})),
        ("DELETE", "/v2/namespaces/docs", Value::Null),
        ("POST", "/v1/namespaces/docs/schema", json!({"a": "string"})),
        ("PATCH", "/v1/namespaces/docs/metadata", json!({"read_only": true})),
        ("PUT", "/v1/namespaces/docs/labels", json!({"a": "b"})),
        ("PUT", "/v1/namespaces/docs/ttl", json!({"ttl_seconds": 60})),
        ("POST", "/v1/namespaces/docs/merge", json!({"source": "other"})),
        ("POST", "/v1/namespaces/docs/import", Value::Null),
        ("PUT", "/v1/namespaces/docs/restore", Value::Null),
        ("POST", "/v1/namespaces/docs/revert", json!({"to": "x"})),
        ("POST", "/v1/namespaces/docs/ids", json!({"count": 1})),
        ("DELETE", "/v1/namespaces/docs/conflicts", Value::Null),
    ] {
        let (status, _, answer) = other.ask(method, path, &[], &body);
        assert_eq!((status, &answer["code"]), (403, &"followed".into()), "{method} {path}: {answer}");
        assert!(answer["error"].as_str().unwrap().contains("sync.follow"), "{answer}");
    }
    let output = other.run(&["branch", "docs", "mine"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(other.ask("POST", "/v2/namespaces/mine", &[], &rows).0, 200);
    assert_eq!(other.ask("PUT", "/v1/namespaces/docs/pin", &[], &Value::Null).0, 200);
    assert_eq!(one.count(), Some(20));
}

#[test]
fn news_come_by_themselves_and_reads_say_how_old_they_may_be() {
    let (dir, bucket) = place();
    let one = Daemon::start(&dir.path().join("one"), &bucket, &ALL_THE_TIME);
    let data = dir.path().join("other");
    let other = Daemon::start(&data, &bucket, &FOLLOWS);
    one.write(0..20);
    one.until("everything in the bucket", daemon::is_together);
    assert!(other.run(&["sync", "--wait"]).status.success());
    // From now on nobody asks.
    for count in [30, 40, 50] {
        one.write(count - 10..count);
        other.until("what was written elsewhere", |other| other.count() == Some(count));
    }
    let eventual = json!({"rank_by": ["id", "asc"], "top_k": 1, "consistency": {"level": "eventual"}});
    let staleness = |other: &Daemon, query: &Value| {
        let (status, head, body) = other.ask("POST", "/v2/namespaces/docs/query", &[], query);
        assert_eq!(status, 200, "{body}");
        let value = head.lines().find_map(|line| line.strip_prefix("shoal-staleness-ms: ").map(str::to_owned));
        value.map(|value| value.parse::<u64>().unwrap())
    };
    assert!(staleness(&other, &eventual).unwrap() < 60_000);
    assert_eq!(staleness(&other, &json!({"rank_by": ["id", "asc"], "top_k": 1})), None);
    let shown = other.json(&["status", "docs"]);
    assert_eq!((&shown["sync"]["following"], &shown["sync"]["error"]), (&true.into(), &Value::Null), "{shown}");
    let told = text(&other.run(&["status", "docs"]).stdout);
    assert!(told.contains("sync: follows file://") && told.contains("s behind"), "{told}");
    assert_eq!(other.status()["following"], 1);
    let metrics = other.body("/metrics");
    assert!(
        metrics.contains("shoal_sync_following 1") && metrics.contains("shoal_sync_staleness_seconds "),
        "{metrics}"
    );
    // The bucket is away: it goes on serving, after a restart too, and says that it gets old.
    std::fs::rename(&bucket, dir.path().join("away")).unwrap();
    assert_eq!(other.stop().0, Some(0));
    let other = Daemon::start(&data, &bucket, &FOLLOWS);
    assert_eq!(other.count(), Some(50));
    let first = staleness(&other, &eventual).unwrap();
    other.until("older answers", |other| staleness(other, &eventual).unwrap() > first);
    assert_eq!(other.ask("POST", "/v2/namespaces/docs", &[], &json!({"upsert_rows": [{"id": 1}]})).0, 403);
}

/// Documents whose bytes take so much room that a node with a small tier reads them in parts.
const LARGE: u64 = 1_500;
/// A node that follows when asked, and holds few of the bucket's bytes.
const IN_PARTS: [(&str, &str); 5] = [
    ON_REQUEST[0],
    FOLLOWS[1],
    ("SHOAL_SYNC__FOLLOW_INTERVAL_SECONDS", "604800"),
    ("SHOAL_SYNC__FOLLOW_INTERVAL_SECONDS_MAX", "604800"),
    ("SHOAL_STORAGE__TIER_BYTES_MAX", "16777216"),
];

/// Writes all documents anew, sends them as one segment, and gives the path of that in the bucket.
fn write_large(one: &Daemon, bucket: &Path, n: u64) -> PathBuf {
    let before = files(bucket);
    let random = SeededRandom::new(n);
    let row = |id| {
        let bytes: String = (0..40).map(|_| format!("{:016x}", random.next_u64())).collect();
        json!({"id": id, "n": n, "bytes": bytes})
    };
    let rows: Vec<Value> = (0..LARGE).map(row).collect();
    let schema = json!({"bytes": {"type": "string", "filterable": false}});
    let body = json!({"upsert_rows": rows, "schema": schema});
    let (status, _, told) = one.ask("POST", "/v2/namespaces/docs", &[], &body);
    assert_eq!(status, 200, "{told}");
    assert_eq!(one.ask("POST", "/v1/namespaces/docs/compact", &[], &Value::Null).0, 200);
    assert!(one.run(&["sync", "--wait"]).status.success());
    let is_new = |file: &PathBuf| file.ends_with("data.seg") && !before.contains(file);
    files(bucket).into_iter().find(is_new).unwrap()
}

/// Asks for the first document, whole.
fn first(other: &Daemon, more: &Value) -> (u16, Value) {
    let mut query = json!({"rank_by": ["id", "asc"], "limit": 1, "include_attributes": ["n", "bytes"]});
    query.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let (status, _, body) = other.ask("POST", "/v2/namespaces/docs/query", &[], &query);
    (status, body)
}

/// How often the bucket was asked, by the kind of request.
fn requests(daemon: &Daemon) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    for line in daemon.body("/metrics").lines() {
        let Some(rest) = line.strip_prefix("shoal_bucket_requests_total{kind=\"") else { continue };
        let (kind, count) = (rest.split('"').next().unwrap(), rest.rsplit(' ').next().unwrap());
        *found.entry(kind.to_owned()).or_default() += count.parse::<u64>().unwrap();
    }
    found
}

#[test]
fn a_query_whose_objects_were_reclaimed_is_run_again_on_the_newer_state() {
    let (dir, bucket) = place();
    let one = Daemon::start(&dir.path().join("one"), &bucket, &ON_REQUEST);
    let other = Daemon::start(&dir.path().join("other"), &bucket, &IN_PARTS);
    let old = write_large(&one, &bucket, 1);
    assert!(other.run(&["sync", "--wait"]).status.success());
    // It knows of no newer state when the bytes go that it did not read.
    write_large(&one, &bucket, 2);
    std::fs::remove_file(old).unwrap();
    let (status, body) = first(&other, &json!({}));
    assert_eq!((status, &body["rows"][0]["id"], &body["rows"][0]["n"]), (200, &0.into(), &2.into()), "{body}");
}

#[test]
fn a_query_whose_objects_stay_away_is_run_three_times_and_says_what_to_do() {
    let (dir, bucket) = place();
    let one = Daemon::start(&dir.path().join("one"), &bucket, &ON_REQUEST);
    let other = Daemon::start(&dir.path().join("other"), &bucket, &IN_PARTS);
    let (only, away) = (write_large(&one, &bucket, 1), dir.path().join("away"));
    assert!(other.run(&["sync", "--wait"]).status.success());
    std::fs::rename(&only, &away).unwrap();
    // Each run reads what is not there, and each pass in between reads the manifest that is known, looks for the next one, and twice for
    // what the name means by now.
    let runs_and_passes = |query: &Value| {
        let before = requests(&other);
        let (status, body) = first(&other, query);
        assert_eq!((status, &body["code"]), (503, &"object_gone".into()), "{body}");
        assert!(body["hint"].as_str().unwrap().contains("somebody removed the object by hand"), "{body}");
        let after = requests(&other);
        ["get", "head"].map(|kind| after[kind] - before[kind])
    };
    let [runs, passes] = runs_and_passes(&json!({}));
    assert!(runs >= 3 && passes == 2 * 3, "{runs} {passes}");
    // A past state does not get newer.
    let commit = other.json(&["status", "docs"])["commit"].clone();
    assert_eq!(runs_and_passes(&json!({"as_of": commit}))[1], 0);
    std::fs::rename(&away, &only).unwrap();
    let (status, body) = first(&other, &json!({}));
    assert_eq!((status, &body["rows"][0]["n"]), (200, &1.into()), "{body}");
}
