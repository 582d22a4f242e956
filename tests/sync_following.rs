//! A daemon that follows: what a person can do with a namespace that others write, and what they are told.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "support/daemon.rs"]
#[expect(dead_code, reason = "other tests need the rest")]
mod daemon;

use daemon::{ALL_THE_TIME, Daemon, ON_REQUEST, place, text};
use serde_json::{Value, json};

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
