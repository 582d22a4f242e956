//! Daemons that share a bucket, as processes: what a person does, what they see, and what happens when the bucket is away.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use daemon::{ALL_THE_TIME, Daemon, ON_REQUEST, files, is_together, place, serve, shoal, text};
use serde_json::{Value, json};

#[path = "support/daemon.rs"]
#[expect(dead_code, reason = "other tests need the rest")]
mod daemon;

#[test]
fn what_one_daemon_has_the_other_has_once_both_were_asked_to_sync() {
    let (dir, bucket) = place();
    let one = Daemon::start(&dir.path().join("one"), &bucket, &ON_REQUEST);
    let other = Daemon::start(&dir.path().join("other"), &bucket, &ON_REQUEST);
    one.write(0..100);
    let told = text(&one.run(&["sync", "--dry-run"]).stdout);
    assert!(told.contains("default/default/docs: 1 objects of about"), "{told}");
    assert_eq!(one.status()["in_bucket"], false);
    let output = one.run(&["sync", "--wait"]);
    let told = text(&output.stdout);
    assert!(output.status.success(), "{told}{}", text(&output.stderr));
    assert!(told.contains("default/default/docs: sent 1 objects of"), "{told}");
    assert!(told.contains("1 namespaces are together with file://"), "{told}");
    assert_eq!(one.status()["in_bucket"], true);
    let told = text(&one.run(&["sync", "--dry-run"]).stdout);
    assert!(told.starts_with("0 objects of about 0 bytes would be sent"), "{told}");
    let done = other.json(&["sync", "--wait", "docs"]);
    assert_eq!(done["namespaces"]["default/default/docs"]["fetched"]["objects"], 1, "{done}");
    assert_eq!(other.count(), Some(100));
    // And back, one namespace by its own path.
    other.write(100..130);
    let (status, _, done) = other.ask("POST", "/v1/namespaces/docs/sync", &[], &json!({"wait": true}));
    assert_eq!(
        (status, &done["sent"]["objects"], &done["sync"]["in_bucket"]),
        (200, &1.into(), &true.into()),
        "{done}"
    );
    let (status, _, told) = other.ask("POST", "/v1/namespaces/nothing/sync", &[], &json!({"wait": true}));
    assert_eq!(status, 404, "{told}");
    assert_eq!(other.ask("POST", "/v1/namespaces/docs/sync", &[], &Value::Null).0, 202);
    assert!(other.run(&["sync", "default/default/docs", "--wait"]).status.success());
    assert!(one.run(&["sync", "--wait"]).status.success());
    assert_eq!(one.count(), Some(130));
    let shown = one.json(&["status", "docs"]);
    let sync = &shown["sync"];
    assert_eq!((&sync["in_bucket"], &sync["lag_seconds"], &sync["error"]), (&true.into(), &0.into(), &Value::Null));
    assert_eq!(one.run(&["sync", "nothing", "--wait"]).status.code(), Some(3));
    assert_eq!(one.stop().0, Some(0));
}

#[test]
fn a_bucket_that_is_away_stops_nobody_and_all_is_together_once_it_is_back() {
    let (dir, bucket) = place();
    let away = dir.path().join("away");
    std::fs::rename(&bucket, &away).unwrap();
    // Away at the start.
    let one = Daemon::start(&dir.path().join("one"), &bucket, &ALL_THE_TIME);
    assert!(one.is_ready());
    one.write(0..50);
    one.until("a pass that fails", |one| !one.status()["error"].is_null());
    let status = one.status();
    assert_eq!((&status["in_bucket"], &status["namespaces_behind"]), (&false.into(), &1.into()), "{status}");
    assert!(status["pending_bytes"].as_u64().unwrap() > 0 && !status["error"]["hint"].is_null(), "{status}");
    let output = one.run(&["sync", "--wait"]);
    assert!(!output.status.success() && text(&output.stderr).contains("bucket"), "{}", text(&output.stderr));
    assert!(one.is_ready());
    assert_eq!(one.count(), Some(50));
    std::fs::rename(&away, &bucket).unwrap();
    one.until("everything in the bucket", is_together);
    // Away in the middle.
    std::fs::rename(&bucket, &away).unwrap();
    one.write(50..80);
    one.until("a pass that fails", |one| one.status()["error"]["code"] == "bucket_unreachable");
    assert!(one.is_ready() && one.count() == Some(80));
    assert_eq!(one.status()["namespaces"]["default/default/docs"]["in_bucket"], false);
    assert!(!bucket.exists(), "nothing is written where the bucket's disk would be mounted");
    std::fs::rename(&away, &bucket).unwrap();
    one.until("everything in the bucket", is_together);
    let other = Daemon::start(&dir.path().join("other"), &bucket, &ALL_THE_TIME);
    other.until("what the first one wrote", |other| other.count() == Some(80));
}

#[test]
fn a_bucket_that_is_away_does_not_hold_the_stop() {
    let (dir, bucket) = place();
    let one = Daemon::start(&dir.path().join("one"), &bucket, &[("SHOAL_BUCKET__ASKED_DEADLINE_MS", "600000")]);
    one.write(0..10);
    std::fs::remove_dir(&bucket).unwrap();
    let waiting = {
        let url = one.url.clone();
        std::thread::spawn(move || shoal().args(["sync", "--wait", "--url", &url]).output().unwrap())
    };
    one.until("a pass that hangs", |one| one.status()["running"] == true);
    let (code, took) = one.stop();
    assert_eq!(code, Some(0));
    assert!(took < Duration::from_secs(20), "{took:?}");
    assert!(!waiting.join().unwrap().status.success());
}

/// A directory of a node, its bucket, and that of another store.
fn two_stores() -> (tempfile::TempDir, PathBuf, [PathBuf; 2]) {
    let (dir, bucket) = place();
    let second = dir.path().join("second");
    std::fs::create_dir(&second).unwrap();
    let (data, other) = (dir.path().join("one"), dir.path().join("other"));
    for (data, bucket) in [(&data, &bucket), (&other, &second)] {
        let node = Daemon::start(data, bucket, &ON_REQUEST);
        node.write(0..10);
        assert!(node.run(&["sync", "--wait"]).status.success());
        assert_eq!(node.stop().0, Some(0));
    }
    (dir, data, [bucket, second])
}

#[test]
fn another_stores_bucket_is_refused_in_words_and_nothing_is_written_there() {
    let (_dir, data, [bucket, second]) = two_stores();
    let before = files(&second);
    let one = Daemon::start(&data, &second, &ON_REQUEST);
    one.write(10..20);
    let output = one.run(&["sync", "--wait"]);
    let told = text(&output.stderr);
    assert!(!output.status.success() && told.contains("is store") && told.contains("nothing was sent"), "{told}");
    assert_eq!(files(&second), before);
    assert_eq!(one.status()["error"]["code"], "other_store");
    assert_eq!(one.count(), Some(20));
    // What is to be done is told wherever operators look, and nothing is said to be in that bucket.
    let node = one.ask("GET", "/v1/status", &[], &Value::Null).2;
    let warning = &node["warnings"][0];
    assert_eq!(warning["code"], "bucket_misconfigured", "{node}");
    assert!(warning["hint"].as_str().unwrap().contains("name the bucket that this node belongs to"), "{warning}");
    assert!(one.body("/metrics").contains("shoal_warnings{code=\"bucket_misconfigured\"} 1\n"));
    assert!(one.is_ready() && one.body("/readyz").contains("bucket_misconfigured"));
    // Who waits is answered by the first pass, which no other one could better.
    let failures = || {
        let metrics = one.body("/metrics");
        let line = metrics.lines().find_map(|line| line.strip_prefix("shoal_sync_failures_total ")).unwrap();
        line.parse::<f64>().unwrap()
    };
    let before = failures();
    let rows = json!({"upsert_rows": [{"id": 20, "n": 20}]});
    let (status, _, body) = one.ask("POST", "/v2/namespaces/docs", &["prefer: wait=bucket, wait=20"], &rows);
    assert_eq!(
        (status, &body["code"], &body["durable_locally"]),
        (503, &"bucket_timeout".into(), &true.into()),
        "{body}"
    );
    assert!(body.to_string().contains("is store"), "{body}");
    let query = json!({"rank_by": ["id", "asc"], "top_k": 10});
    let read = ["prefer: read=bucket, wait=20"];
    let (status, _, body) = one.ask("POST", "/v2/namespaces/docs/query", &read, &query);
    assert_eq!((status, &body["code"]), (503, &"bucket_not_read".into()), "{body}");
    assert!(body["hint"].as_str().unwrap().contains("name the bucket that this node belongs to"), "{body}");
    assert_eq!(failures() - before, 2.0);
    // Its own one has what it had, and all the rest once it is named again.
    assert_eq!(one.stop().0, Some(0));
    let one = Daemon::start(&data, &bucket, &ON_REQUEST);
    assert!(one.run(&["sync", "--wait"]).status.success());
    assert_eq!(one.status()["in_bucket"], true);
    let node = one.ask("GET", "/v1/status", &[], &Value::Null).2;
    assert_eq!(node["warnings"], json!([]));
}

#[test]
fn a_bucket_of_another_store_is_not_said_to_have_what_is_in_ones_own() {
    let (_dir, data, [_, second]) = two_stores();
    // Nothing was written since.
    let one = Daemon::start(&data, &second, &ON_REQUEST);
    assert!(!one.run(&["sync", "--wait"]).status.success());
    let status = one.status();
    let docs = one.ask("GET", "/v1/namespaces/docs/status", &[], &Value::Null).2["sync"].clone();
    assert!(status["namespaces_behind"] == 1 && status["in_bucket"] == false, "{status}");
    for docs in [&status["namespaces"]["default/default/docs"], &docs] {
        assert_eq!((&docs["in_bucket"], &docs["bucket_generation"]), (&false.into(), &Value::Null), "{docs}");
        assert!(docs["pending_objects"].as_u64().unwrap() > 0, "{docs}");
    }
    let told = text(&one.run(&["status", "docs"]).stdout);
    assert!(!told.contains("everything is in"), "{told}");
}

#[test]
fn a_wrong_configuration_exits_with_78_and_a_node_without_a_bucket_says_how_to_get_one() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    for (name, value, said) in [
        ("SHOAL_BUCKET__URL", "nowhere", "bucket.url is no URL"),
        ("SHOAL_BUCKET__URL", "s3://user:secret@data", "more in it than a bucket"),
        ("SHOAL_BUCKET__CREDENTIALS_FILE", "/nonexistent/credentials", "/nonexistent/credentials"),
        ("SHOAL_BUCKET__COLOUR", "green", "colour"),
        ("SHOAL_SYNC__POLICY", "best", "lww"),
        ("SHOAL_SYNC__SCHEDULE", "22-6", "HH:MM-HH:MM"),
        ("SHOAL_SYNC__EXCLUDE", "docs", "ORG/PROJECT/NAME"),
    ] {
        let output = shoal()
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(&data)
            .envs([("SHOAL_BUCKET__URL", "s3://data"), (name, value)])
            .output()
            .unwrap();
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{name}: {told}");
        assert!(told.contains(said) && !told.contains("secret"), "{name}: {told}");
    }
    let alone = Daemon::spawn(&mut serve(&data));
    let (status, _, body) = alone.ask("POST", "/v1/sync", &[], &json!({}));
    assert_eq!((status, &body["code"]), (400, &"no_bucket".into()));
    assert!(body["hint"].as_str().unwrap().contains("SHOAL_BUCKET__URL"), "{body}");
    assert_eq!(alone.ask("GET", "/v1/status", &[], &Value::Null).2["sync"], Value::Null);
    assert_eq!(alone.run(&["sync", "--wait"]).status.code(), Some(1));
}

#[test]
fn what_nobody_needs_in_the_bucket_is_reclaimed_on_request() {
    let (dir, bucket) = place();
    let one = Daemon::start(&dir.path().join("one"), &bucket, &ON_REQUEST);
    one.write(0..50);
    one.json(&["sync", "--wait"]);
    let segment = files(&bucket).into_iter().find(|file| file.ends_with("data.seg")).unwrap();
    let left = |n: u32, bytes: u64| {
        let dir = segment.parent().unwrap().with_file_name(format!("00000000-0000-7000-8000-{n:012}"));
        std::fs::create_dir(&dir).unwrap();
        std::fs::File::create(dir.join("data.seg")).unwrap().set_len(bytes).unwrap();
        dir.join("data.seg")
    };
    let small = left(1, 1_000);
    // What two uploads left that were cut off: one two days ago, and one that goes on for all anybody knows.
    let cut_off = |dir: &str, written: std::time::SystemTime| {
        let path = segment.parent().unwrap().with_file_name(dir).join("data.seg#1");
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(5_000).unwrap();
        file.set_modified(written).unwrap();
        path
    };
    let now = segment.metadata().unwrap().modified().unwrap();
    let broken = cut_off("00000000-0000-7000-8000-000000000003", now - Duration::from_secs(2 * 24 * 3_600));
    let going_on = cut_off("00000000-0000-7000-8000-000000000004", now);
    let output = one.run(&["sync", "--reclaim", "--dry-run"]);
    let told = text(&output.stdout);
    assert!(told.contains("1 objects of 1000 bytes, 0 manifests would be deleted in file://"), "{told}");
    assert!(small.exists() && broken.exists());
    let done = one.json(&["sync", "--reclaim"]);
    assert_eq!((&done["objects"], &done["bytes"]), (&1.into(), &1_000.into()), "{done}");
    assert!(!small.exists() && segment.exists());
    assert_eq!(done["broken_uploads"], json!({"files": 1, "bytes": 5_000}), "{done}");
    assert!(!broken.exists() && going_on.exists());
    let told = text(&one.run(&["status"]).stdout);
    assert!(told.contains("last reclaimed there: ") && told.contains(", 1 objects of 1000 bytes"), "{told}");
    // Most of the store: somebody has to look first.
    let large = left(2, 65 << 20);
    let output = one.run(&["sync", "--reclaim"]);
    let told = text(&output.stderr);
    assert!(!output.status.success() && told.contains("nothing was deleted") && told.contains("--force"), "{told}");
    assert!(large.exists());
    let told = text(&one.run(&["status"]).stdout);
    assert!(told.contains("not all was reclaimed: "), "{told}");
    assert!(one.run(&["sync", "--reclaim", "--force", "docs"]).status.success());
    assert!(!large.exists() && segment.exists());
    let (status, _, body) = one.ask("POST", "/v1/sync", &[], &json!({"force": true}));
    assert_eq!(status, 400, "{body}");
    // Another node has all of it.
    let other = Daemon::start(&dir.path().join("other"), &bucket, &ON_REQUEST);
    assert!(other.run(&["sync", "--wait"]).status.success());
    assert_eq!(other.count(), Some(50));
}

#[test]
fn what_is_excluded_stays_here() {
    let (dir, bucket) = place();
    let settings = [ON_REQUEST[0], ("SHOAL_SYNC__EXCLUDE", "*/*/docs")];
    let one = Daemon::start(&dir.path().join("one"), &bucket, &settings);
    one.write(0..10);
    let done = one.json(&["sync", "--wait"]);
    assert_eq!(done["namespaces"], json!({}), "{done}");
    assert_eq!(one.json(&["status", "docs"])["sync"]["selected"], false);
    let output = one.run(&["sync", "--wait", "docs"]);
    assert!(text(&output.stderr).contains("sync.exclude"), "{}", text(&output.stderr));
    assert!(files(&bucket).iter().all(|file| !file.to_string_lossy().contains("docs")));
}

#[test]
fn a_write_can_wait_for_the_bucket_and_a_query_can_ask_it_first() {
    let (dir, bucket) = place();
    let one = Daemon::start(&dir.path().join("one"), &bucket, &ON_REQUEST);
    let other = Daemon::start(&dir.path().join("other"), &bucket, &ON_REQUEST);
    let rows = json!({"upsert_rows": [{"id": 1, "n": 1}]});
    let (status, head, body) =
        one.ask("POST", "/v2/namespaces/docs", &["prefer: respond-async", "prefer: wait=bucket"], &rows);
    assert_eq!(status, 200, "{body}");
    assert!(head.contains("preference-applied: wait=bucket"), "{head}");
    assert_eq!(one.status()["in_bucket"], true);
    // Another node that was not asked to sync finds it.
    let query = json!({"rank_by": ["id", "asc"], "top_k": 10, "include_attributes": true});
    assert_eq!(other.ask("POST", "/v2/namespaces/docs/query", &[], &query).0, 404);
    let (status, head, body) = other.ask("POST", "/v2/namespaces/docs/query", &["prefer: read=bucket"], &query);
    assert_eq!((status, &body["rows"][0]["n"]), (200, &1.into()), "{body}");
    assert!(head.contains("preference-applied: read=bucket"), "{head}");
    let (status, ..) = other.ask("POST", "/v2/namespaces/nobody/query", &["prefer: read=bucket"], &query);
    assert_eq!(status, 404);
    // Without a preference nothing is waited for, and nothing said.
    let (_, head, _) = one.ask("POST", "/v2/namespaces/docs", &["prefer: respond-async"], &rows);
    assert!(!head.contains("preference-applied"), "{head}");
    // The bucket is away: the write is here, and said to be here only.
    let away = dir.path().join("away");
    std::fs::rename(&bucket, &away).unwrap();
    let rows = json!({"upsert_rows": [{"id": 2, "n": 2}]});
    let late = ["prefer: wait=bucket, wait=1", "idempotency-key: k"];
    let (status, _, body) = one.ask("POST", "/v2/namespaces/docs", &late, &rows);
    assert_eq!(
        (status, &body["code"], &body["durable_locally"]),
        (503, &"bucket_timeout".into(), &true.into()),
        "{body}"
    );
    assert_eq!(one.count(), Some(2));
    let read = ["prefer: read=bucket", "prefer: wait=1"];
    let (status, _, body) = one.ask("POST", "/v2/namespaces/docs/query", &read, &query);
    assert_eq!((status, &body["code"]), (503, &"bucket_not_read".into()), "{body}");
    // Repeated with its key once the bucket is back, it takes effect once, and is there then.
    std::fs::rename(&away, &bucket).unwrap();
    let (status, head, body) =
        one.ask("POST", "/v2/namespaces/docs", &["prefer: wait=bucket", "idempotency-key: k"], &rows);
    assert_eq!(status, 200, "{body}");
    assert!(head.contains("preference-applied: wait=bucket") && head.contains("idempotency-replayed"), "{head}");
    assert_eq!(one.status()["in_bucket"], true);
}

#[test]
fn under_the_mount_point_of_a_disk_that_is_away_nothing_is_written_and_nothing_is_said_to_be_in_the_bucket() {
    let (dir, bucket) = place();
    let (data, away) = (dir.path().join("one"), dir.path().join("away"));
    let write = |node: &Daemon, id: u64, wait: &str| {
        let rows = json!({"upsert_rows": [{"id": id, "n": id}]});
        node.ask("POST", "/v2/namespaces/docs", &[wait], &rows)
    };
    let warned = |node: &Daemon| {
        let status = node.ask("GET", "/v1/status", &[], &Value::Null).2;
        let codes: Vec<&str> =
            status["warnings"].as_array().unwrap().iter().map(|warning| warning["code"].as_str().unwrap()).collect();
        let told = codes.contains(&"bucket_replaced");
        let shown = format!("shoal_warnings{{code=\"bucket_replaced\"}} {}\n", u8::from(told));
        let metrics = node.body("/metrics");
        assert!(metrics.contains(&shown), "{metrics}");
        assert_eq!(node.body("/readyz").contains("bucket_replaced"), told);
        told
    };
    let mut one = Daemon::start(&data, &bucket, &ON_REQUEST);
    assert_eq!(write(&one, 1, "prefer: wait=bucket").0, 200);
    assert!(!warned(&one));
    std::fs::rename(&bucket, &away).unwrap();
    std::fs::create_dir(&bucket).unwrap();
    for id in [2, 3] {
        let (status, _, body) = write(&one, id, "prefer: wait=bucket, wait=5");
        assert_eq!((status, &body["code"]), (503, &"bucket_timeout".into()), "{body}");
        assert!(body.to_string().contains("is no store, and was store"), "{body}");
        assert!(warned(&one));
        assert_eq!(one.status()["in_bucket"], false);
        assert_eq!(one.stop().0, Some(0));
        one = Daemon::start(&data, &bucket, &ON_REQUEST);
    }
    // Fails when something is there.
    std::fs::remove_dir(&bucket).unwrap();
    std::fs::rename(&away, &bucket).unwrap();
    assert!(one.run(&["sync", "--wait"]).status.success());
    assert!(!warned(&one));
    let other = Daemon::start(&dir.path().join("other"), &bucket, &ON_REQUEST);
    assert!(other.run(&["sync", "--wait"]).status.success());
    assert_eq!(other.count(), Some(3));
}

#[test]
fn what_was_waited_for_outlives_a_deletion_elsewhere_and_what_is_read_is_of_who_has_the_name() {
    let (dir, bucket) = place();
    let [one, other, third] =
        ["one", "other", "third"].map(|node| Daemon::start(&dir.path().join(node), &bucket, &ON_REQUEST));
    let docs = "/v2/namespaces/docs";
    let rows = |id: u64| json!({"upsert_rows": [{"id": id, "n": id}]});
    let query = json!({"rank_by": ["id", "asc"], "top_k": 10});
    let ids = |node: &Daemon, path: &str| -> Vec<u64> {
        let (status, head, body) = node.ask("POST", &format!("{path}/query"), &["prefer: read=bucket"], &query);
        assert!(status == 200 && head.contains("preference-applied: read=bucket"), "{head} {body}");
        body["rows"].as_array().unwrap().iter().map(|row| row["id"].as_u64().unwrap()).collect()
    };
    let write = |node: &Daemon, id: u64| {
        let (status, head, body) = node.ask("POST", docs, &["prefer: wait=bucket"], &rows(id));
        assert!(status == 200 && head.contains("preference-applied: wait=bucket"), "{head} {body}");
    };
    write(&one, 1);
    assert_eq!((ids(&other, docs), ids(&third, docs)), (vec![1], vec![1]));
    assert_eq!(other.ask("DELETE", docs, &[], &Value::Null).0, 200);
    assert!(other.run(&["sync", "--wait"]).status.success());
    write(&one, 2);
    drop(one);
    write(&other, 3);
    assert_eq!(ids(&third, docs), [3]);
    assert!(third.run(&["sync", "--wait"]).status.success());
    let names: Vec<String> = third.status()["namespaces"].as_object().unwrap().keys().cloned().collect();
    assert!(names.len() == 2 && names[1].starts_with("default/default/docs.recovered-"), "{names:?}");
    let kept = names[1].rsplit('/').next().unwrap();
    assert_eq!(ids(&third, &format!("/v2/namespaces/{kept}")), [1, 2]);
}

#[test]
fn a_preference_that_cannot_be_followed_is_refused_before_anything_is_written() {
    let (dir, bucket) = place();
    let settings = [ON_REQUEST[0], ("SHOAL_SYNC__EXCLUDE", "*/*/docs")];
    let one = Daemon::start(&dir.path().join("one"), &bucket, &settings);
    let rows = json!({"upsert_rows": [{"id": 1}]});
    let (status, _, body) = one.ask("POST", "/v2/namespaces/docs", &["prefer: wait=bucket"], &rows);
    assert_eq!((status, &body["code"]), (400, &"not_synced".into()), "{body}");
    assert_eq!(one.count(), None);
}

#[test]
fn a_collector_and_a_person_see_how_far_sync_is() {
    let (dir, bucket) = place();
    let one = Daemon::start(&dir.path().join("one"), &bucket, &ON_REQUEST);
    one.write(0..10);
    let told = text(&one.run(&["status", "docs"]).stdout);
    assert!(told.contains("sync: 1 objects of about") && told.contains("are not in file://"), "{told}");
    let metrics = || one.body("/metrics");
    let value = |name: &str| -> Option<i64> {
        let text = metrics();
        let line = text.lines().find(|line| line.starts_with(&format!("{name} ")))?;
        line.rsplit(' ').next()?.parse().ok()
    };
    assert!(value("shoal_sync_pending_bytes").unwrap() > 0);
    assert!(one.run(&["sync", "--wait"]).status.success());
    assert_eq!((value("shoal_sync_pending_bytes"), value("shoal_sync_lag_seconds")), (Some(0), Some(0)));
    assert!(value("shoal_sync_last_success_timestamp_seconds").unwrap() > 1_600_000_000);
    assert!(value("shoal_bucket_requests_total{kind=\"create\",outcome=\"done\"}").unwrap() >= 3);
    assert!(value("shoal_bucket_bytes_total{direction=\"up\"}").unwrap() > 0);
    assert_eq!(value("shoal_sync_failures_total"), Some(0));
    let told = text(&one.run(&["status"]).stdout);
    assert!(told.contains("sync: everything is in file://") && told.contains("last together: "), "{told}");
}

#[test]
fn on_a_metered_link_passes_begin_only_when_asked_for() {
    let (dir, bucket) = place();
    let settings = [ALL_THE_TIME[0], ("SHOAL_SYNC__METERED", "true"), ("SHOAL_SYNC__MONTHLY_BYTES", "1000000")];
    let one = Daemon::start(&dir.path().join("one"), &bucket, &settings);
    one.write(0..10);
    let told = text(&one.run(&["status"]).stdout);
    assert!(told.contains("metered link") && told.contains("this month: 0 of 1000000 bytes"), "{told}");
    let done = one.json(&["sync", "--wait"]);
    assert_eq!(done["namespaces"]["default/default/docs"]["sent"]["objects"], 1, "nothing was sent before: {done}");
    assert!(one.status()["month_bytes"].as_u64().unwrap() > 0);
    one.write(10..20);
    assert_eq!(one.status()["in_bucket"], false);
    // The link is another one now; passes begin then, not when it is looked next, which is every minute.
    let began = Instant::now();
    assert!(text(&one.run(&["sync", "--metered", "false"]).stdout).contains("by themselves"));
    one.until("everything in the bucket", is_together);
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    assert_eq!(one.run(&["sync", "--metered", "true", "docs"]).status.code(), Some(2));
    for refused in [json!({"metered": true, "wait": true}), json!({"reclaim": true, "wait": true})] {
        let (status, _, body) = one.ask("POST", "/v1/sync", &[], &refused);
        assert_eq!(status, 400, "{refused}: {body}");
    }
}

#[test]
fn inspect_says_of_every_file_of_a_node_and_of_its_bucket_what_it_is() {
    let (dir, bucket) = place();
    let place = dir.path().join("one");
    let one = Daemon::start(&place, &bucket, &ON_REQUEST);
    let other = Daemon::start(&dir.path().join("other"), &bucket, &ON_REQUEST);
    let write = |node: &Daemon, name: &str, n: u64| {
        let rows = json!({"upsert_rows": [{"id": 1, "n": n}]});
        let path = format!("/v2/namespaces/{name}");
        assert_eq!(node.ask("POST", &path, &[&format!("idempotency-key: {name}-{n}")], &rows).0, 200);
    };
    let sync = |node: &Daemon| assert!(node.run(&["sync", "--wait"]).status.success());
    let on_docs = |path: &str| one.ask("POST", &format!("/v1/namespaces/docs/{path}"), &[], &Value::Null).0;
    one.write(0..50);
    assert_eq!(on_docs("checkpoint"), 200);
    assert!(one.run(&["tag", "docs", "release"]).status.success());
    sync(&one);
    sync(&other);
    // Both change one document, and a branch is made and merged.
    write(&other, "docs", 7);
    write(&one, "docs", 8);
    sync(&other);
    sync(&one);
    assert!(one.run(&["branch", "docs", "more"]).status.success());
    write(&one, "more", 9);
    sync(&one);
    assert!(one.run(&["merge", "more", "docs"]).status.success());
    write(&one, "gone", 1);
    assert_eq!(one.ask("DELETE", "/v2/namespaces/gone", &[], &Value::Null).0, 200);
    sync(&one);
    // An object that nothing names is condemned by a list of its own.
    let segment = files(&bucket).into_iter().find(|file| file.ends_with("data.seg")).unwrap();
    let left = segment.parent().unwrap().with_file_name("00000000-0000-7000-8000-000000000001");
    std::fs::create_dir(&left).unwrap();
    std::fs::File::create(left.join("data.seg")).unwrap().set_len(1_000).unwrap();
    one.json(&["sync", "--reclaim"]);
    write(&one, "docs", 10);
    assert_eq!(other.stop().0, Some(0));
    assert_eq!(one.stop().0, Some(0));
    // What broke off in the middle.
    let key = segment.strip_prefix(&bucket).unwrap();
    let upload = shoal::format::uploads::UploadFile {
        format: 1,
        bytes: 9,
        part_bytes: 5,
        upload: "u".into(),
        parts: vec!["p".into()],
        idle_tries: 0,
    };
    let broken = [
        ("going", shoal::format::uploads::encode_upload(&upload).unwrap()),
        ("coming", b"SHOAL".to_vec()),
        ("store", b"x".to_vec()),
    ];
    for (area, bytes) in broken {
        let path = place.join(area).join(key);
        let path = if area == "store" { path.with_file_name("data.seg.tmp") } else { path };
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    let mut kinds = std::collections::BTreeSet::new();
    for file in [files(&place), files(&bucket)].concat() {
        let output = shoal().arg("inspect").arg(&file).arg("--json").output().unwrap();
        assert!(output.status.success(), "{}: {}", file.display(), text(&output.stderr));
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        kinds.insert(told["kind"].as_str().unwrap().to_owned());
    }
    for kind in [
        "answers to repeat",
        "claim of ids",
        "conflicts",
        "file that was not put in place",
        "format",
        "hint at the newest generation",
        "hold",
        "index",
        "log",
        "manifest",
        "mark of deletion",
        "name binding",
        "node",
        "object on its way",
        "segment",
        "sum of the index",
        "sweep",
        "tag",
        "tags in the bucket",
        "traffic",
        "upload that broke off",
    ] {
        assert!(kinds.contains(kind), "no {kind} among {kinds:?}");
    }
    // One that is damaged is said to be, and one that is none of Shoal's is not.
    let inspect = |file: &std::path::Path| shoal().arg("inspect").arg(file).output().unwrap();
    let conflicts = files(&place).into_iter().find(|file| file.to_string_lossy().contains("/conflicts/")).unwrap();
    let moved = dir.path().join("copy.json");
    std::fs::copy(&conflicts, &moved).unwrap();
    assert!(text(&inspect(&moved).stdout).contains("kind: conflicts"));
    let mut bytes = std::fs::read(&conflicts).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&conflicts, bytes).unwrap();
    assert_eq!(inspect(&conflicts).status.code(), Some(6));
    for (name, bytes) in [("notes.txt", "x"), ("package.json", "{}")] {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let output = inspect(&path);
        assert_eq!(output.status.code(), Some(2), "{name}");
        assert!(text(&output.stderr).contains("of no known kind"), "{}", text(&output.stderr));
    }
}

#[test]
fn a_bucket_whose_directory_is_gone_is_told_of_at_a_start_and_while_the_node_runs() {
    let (dir, bucket) = place();
    let (data, away) = (dir.path().join("one"), dir.path().join("away"));
    let warned = |node: &Daemon, code: &str| {
        let status = node.ask("GET", "/v1/status", &[], &Value::Null).2;
        let told = status["warnings"].as_array().unwrap().iter().any(|warning| warning["code"] == code);
        let shown = format!("shoal_warnings{{code=\"{code}\"}} {}\n", u8::from(told));
        assert!(node.body("/metrics").contains(&shown), "{code}: {told}");
        assert_eq!(node.body("/readyz").contains(code), told);
        assert!(node.is_ready());
        told
    };
    // A node that never met a bucket may be told to begin one.
    std::fs::rename(&bucket, &away).unwrap();
    let one = Daemon::start(&data, &bucket, &ON_REQUEST);
    assert!(warned(&one, "bucket_misconfigured") && !warned(&one, "bucket_unreachable"));
    let told = text(&one.run(&["sync", "--wait"]).stderr);
    assert!(told.contains("there is no such directory") && told.contains("create the directory"), "{told}");
    assert_eq!(one.stop().0, Some(0));
    std::fs::rename(&away, &bucket).unwrap();
    let one = Daemon::start(&data, &bucket, &ON_REQUEST);
    one.write(0..10);
    assert!(one.run(&["sync", "--wait"]).status.success());
    assert!(!warned(&one, "bucket_misconfigured") && !warned(&one, "bucket_unreachable"));
    std::fs::rename(&bucket, &away).unwrap();
    let is_said = |node: &Daemon| {
        let output = node.run(&["sync", "--wait"]);
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(5), "{told}");
        assert!(told.contains("is gone: is its disk mounted?") && told.contains("mount the disk"), "{told}");
        assert!(!told.contains("create the directory"), "{told}");
        assert!(warned(node, "bucket_unreachable") && !warned(node, "bucket_misconfigured"));
    };
    is_said(&one);
    assert_eq!(one.stop().0, Some(0));
    let one = Daemon::start(&data, &bucket, &ON_REQUEST);
    assert!(warned(&one, "bucket_unreachable"), "before any pass");
    is_said(&one);
    assert!(!bucket.exists());
    std::fs::rename(&away, &bucket).unwrap();
    assert!(one.run(&["sync", "--wait"]).status.success());
    assert!(!warned(&one, "bucket_unreachable"));
}
