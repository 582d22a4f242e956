//! A full disk: writes are refused and say why, reads are served, and writing resumes by itself once there is room.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value as Json, json};
use shoal::api::wire::query::parse_query;
use shoal::api::wire::write::{WriteBody, parse_write};
use shoal::engine::{Engine, EngineConfig};
use shoal::error::Kind;
use shoal::model::ids::{NamespaceName, Project};
use shoal::model::query::Answer;
use shoal::platform::clock::ManualClock;
use shoal::platform::disk::Disk;
use shoal::platform::memory_disk::{Fault, MemoryDisk};
use shoal::platform::random::SeededRandom;
use shoal::platform::real_disk::RealDisk;

use super::daemon::{Client, Daemon, command};
use super::machine::{Mounted, skipped};

const PATH: &str = "/v2/namespaces/docs";

fn row(id: u64) -> Json {
    // Filling that packs badly.
    let filling: String =
        (0..2_000_u64).map(|n| format!("{:x} ", (id * 2_000 + n).wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
    json!({"upsert_rows": [{"id": id, "text": format!("fish {id}"), "filling": filling, "vector": [1.0, 0.5]}],
        "distance_metric": "cosine_distance",
        "schema": {"text": {"type": "string", "full_text_search": true},
            "filling": {"type": "string", "filterable": false}}})
}

/// Every acknowledged document is found, by id and by word.
fn expect_all(client: &mut Client, acknowledged: &[u64], when: &str) {
    for query in [
        json!({"rank_by": ["id", "asc"], "limit": 10_000}),
        json!({"rank_by": ["text", "BM25", "fish"], "limit": 10_000}),
    ] {
        let (status, answer) = client.post(&format!("{PATH}/query"), &query).unwrap();
        assert_eq!(status, 200, "{when}: {answer}");
        let mut found: Vec<u64> =
            answer["rows"].as_array().unwrap().iter().map(|r| r["id"].as_u64().unwrap()).collect();
        found.sort_unstable();
        assert_eq!(found, acknowledged, "{when}: {query}");
    }
}

/// Writes until it is refused; gives the refusal.
fn fill(client: &mut Client, acknowledged: &mut Vec<u64>, next: &mut u64) -> (u16, Json) {
    for _ in 0..5_000 {
        let id = *next;
        *next += 1;
        let (status, answer) = client.post(PATH, &row(id)).unwrap();
        if status != 200 {
            return (status, answer);
        }
        acknowledged.push(id);
    }
    panic!("the disk did not fill up");
}

fn serve_on_a_full_disk(mounted: &Path) {
    let data = mounted.join("data");
    let ballast = mounted.join("ballast");
    std::fs::write(&ballast, vec![7; 2 << 20]).unwrap();
    let daemon = Daemon::start(&data);
    let mut client = daemon.client();
    let (mut acknowledged, mut next) = (Vec::new(), 1);
    let (status, refusal) = fill(&mut client, &mut acknowledged, &mut next);
    assert_eq!(status, 503, "{refusal}");
    assert_eq!(refusal["code"], "disk_full", "{refusal}");
    assert!(refusal["hint"].as_str().unwrap().contains("free space"), "{refusal}");
    assert_eq!(refusal["retryable"], json!(true), "{refusal}");
    expect_all(&mut client, &acknowledged, "when full");
    // Smaller writes may still find room; whatever is refused says the same.
    for _ in 0..20 {
        let (status, answer) = client.post(PATH, &row(next)).unwrap();
        if status == 200 {
            acknowledged.push(next);
        } else {
            assert_eq!((status, &answer["code"]), (503, &json!("disk_full")), "{answer}");
        }
        next += 1;
    }
    let (status, answer) = client.post(&format!("{PATH}/checkpoint"), &Json::Null).unwrap();
    assert!(status == 200 || (status, &answer["code"]) == (503, &json!("disk_full")), "{status} {answer}");
    expect_all(&mut client, &acknowledged, "when still full");
    std::fs::remove_file(&ballast).unwrap();
    for _ in 0..20 {
        let answer = client.post(PATH, &row(next)).unwrap();
        assert_eq!(answer.0, 200, "with room again: {}", answer.1);
        acknowledged.push(next);
        next += 1;
    }
    expect_all(&mut client, &acknowledged, "with room again");
    // Full again, killed, and started while it is full.
    fill(&mut client, &mut acknowledged, &mut next);
    daemon.kill();
    let daemon = Daemon::start(&data);
    expect_all(&mut daemon.client(), &acknowledged, "started on a full disk");
    daemon.kill();
    let (is_whole, said) = command(&["check", "--level", "3"], &data);
    assert!(is_whole, "{said}");
}

#[test]
fn on_a_full_file_system_in_memory_reads_are_served_and_writes_resume_by_themselves() {
    match Mounted::tmpfs(8 << 20) {
        Ok(mounted) => serve_on_a_full_disk(&mounted.path),
        Err(why) => skipped("a full tmpfs", &why),
    }
}

#[test]
fn on_a_full_ext4_reads_are_served_and_writes_resume_by_themselves() {
    match Mounted::ext4(16 << 20) {
        Ok(mounted) => serve_on_a_full_disk(&mounted.path),
        Err(why) => skipped("a full ext4", &why),
    }
}

/// Takes what the file system has left.
fn take_all(ballast: &Path) {
    let mut file = std::fs::File::create(ballast).unwrap();
    while file.write_all(&[7; 4096]).and_then(|()| file.sync_data()).is_ok() {}
}

/// Asks until it is done; it is refused for want of room only.
fn until_done(mut ask: impl FnMut() -> (u16, Json)) {
    for _ in 0..3_000 {
        let (status, answer) = ask();
        if status == 200 {
            return;
        }
        assert_eq!((status, &answer["code"]), (503, &json!("disk_full")), "{answer}");
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("room did not come back");
}

fn free_a_full_disk(mounted: &Path) {
    let data = mounted.join("data");
    let daemon = Daemon::start(&data);
    let mut client = daemon.client();
    let path = |n: u64| format!("/v2/namespaces/n{n}");
    client.must(&path(0), &row(0));
    assert_eq!(client.send("PUT", "/v1/namespaces/n0/tags/kept", &json!({})).unwrap().0, 200);
    let (mut id, mut refused) = (1, 0);
    while refused < 3 {
        let done = client.post(&path(id / 20), &row(id)).unwrap().0 == 200;
        (id, refused) = if done { (id + 1, 0) } else { (id, refused + 1) };
    }
    assert_eq!(std::fs::read_dir(data.join("reserve")).unwrap().count(), 16);
    assert!(id > 200, "{id} rows");
    // What is small and new stops where it would take the last room.
    let branch = json!({"branch_from_namespace": "n0"});
    for (method, made, body) in
        [("POST", "/v2/namespaces/b", &branch), ("PUT", "/v1/namespaces/n0/tags/t", &json!({}))]
    {
        let sent = (0..5_000).map(|n| client.send(method, &format!("{made}{n}"), body).unwrap());
        let refusal =
            sent.map(|(status, answer)| (status, answer["code"].clone())).find(|(status, _)| *status != 200);
        assert_eq!(refusal, Some((503, json!("disk_full"))), "{made}");
    }
    assert!(RealDisk.free_bytes(mounted).unwrap() > 800 << 10);
    take_all(&mounted.join("ballast"));
    assert_eq!(client.post("/v2/namespaces/n9", &row(180)).unwrap().1["code"], "disk_full");
    assert_eq!(client.send("DELETE", "/v1/namespaces/n0/tags/kept", &Json::Null).unwrap().0, 200);
    for body in [json!({"deletes": [1]}), json!({"delete_by_filter": ["id", "Eq", 2]})] {
        client.must(&path(0), &body);
    }
    assert_eq!(client.send("PUT", "/v1/namespaces/n0/ttl", &json!({"ttl": "1h"})).unwrap().0, 200);
    for n in 1..5 {
        assert_eq!(client.send("DELETE", &path(n), &Json::Null).unwrap().0, 200, "n{n}");
    }
    until_done(|| client.post(&path(0), &row(10_000)).unwrap());
    // Full again, killed, and started while it is full.
    take_all(&mounted.join("more"));
    daemon.kill();
    let daemon = Daemon::start(&data);
    let mut client = daemon.client();
    for n in 5..9 {
        assert_eq!(client.send("DELETE", &path(n), &Json::Null).unwrap().0, 200, "n{n}, started on a full disk");
    }
    until_done(|| client.post(&path(0), &row(10_001)).unwrap());
    daemon.kill();
    let (is_whole, said) = command(&["check", "--level", "3"], &data);
    assert!(is_whole, "{said}");
}

#[test]
fn a_file_system_in_memory_that_others_filled_to_the_last_byte_has_room_again_after_deletions() {
    match Mounted::tmpfs(16 << 20) {
        Ok(mounted) => free_a_full_disk(&mounted.path),
        Err(why) => skipped("a tmpfs without any room", &why),
    }
}

#[test]
fn an_ext4_that_others_filled_to_the_last_byte_has_room_again_after_deletions() {
    match Mounted::ext4(24 << 20) {
        Ok(mounted) => free_a_full_disk(&mounted.path),
        Err(why) => skipped("an ext4 without any room", &why),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_full_disk_in_the_process_reads_are_served_and_writes_resume_by_themselves() {
    let disk = MemoryDisk::default();
    let (clock, random) = (Arc::new(ManualClock::at(1_700_000_000_000)), Arc::new(SeededRandom::new(1)));
    let engine = Engine::open(EngineConfig::new("/data"), Arc::new(disk.clone()), clock, random).unwrap();
    engine.rebuild_index().unwrap();
    let name: NamespaceName = Project::default_project().namespace("docs").unwrap();
    let write = async |id: u64| {
        let WriteBody::Write(request) = parse_write(row(id)).unwrap() else { panic!("expected a write") };
        engine.write(&name, *request).await
    };
    let count = || {
        let body = json!({"rank_by": ["text", "BM25", "fish"], "limit": 100});
        let answer = engine.query(&name, &parse_query(body).unwrap().request).unwrap().answers.remove(0);
        let Answer::Rows(rows) = answer else { panic!("expected rows") };
        rows.len()
    };
    for id in 0..5 {
        write(id).await.unwrap();
    }
    let kind = std::io::ErrorKind::StorageFull;
    disk.set_fault(Some(Fault { at: disk.operations(), forever: true, kind }));
    for id in 5..10 {
        let refusal = write(id).await.unwrap_err();
        assert_eq!((refusal.kind(), refusal.code()), (Kind::Unavailable, "disk_full"), "{refusal}");
        assert!(refusal.hint().is_some(), "{refusal}");
        assert_eq!(count(), 5);
    }
    disk.set_fault(None);
    write(10).await.unwrap();
    assert_eq!(count(), 6);
}
