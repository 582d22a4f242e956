//! What a namespace promises through the engine's public operations: durable writes, equal answers from tail and segments,
//! recovery, copies, deletions, answers to repeated writes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "engine/after_faults.rs"]
mod after_faults;
#[path = "support/again.rs"]
mod again;
#[path = "engine/bounds.rs"]
mod bounds;
#[path = "engine/damaged_index.rs"]
mod damaged_index;
#[path = "engine/etags.rs"]
mod etags;
#[path = "engine/expiring.rs"]
mod expiring;
#[path = "engine/hook_disk.rs"]
mod hook_disk;
#[path = "engine/in_doubt.rs"]
mod in_doubt;
#[path = "engine/keyed_writes.rs"]
mod keyed_writes;
#[path = "engine/long_texts.rs"]
mod long_texts;
#[path = "engine/long_values.rs"]
mod long_values;
#[path = "support/node.rs"]
mod node;
#[path = "engine/opening.rs"]
mod opening;
#[path = "engine/stopping.rs"]
mod stopping;
#[path = "engine/stuck_files.rs"]
mod stuck_files;
#[path = "engine/sums.rs"]
mod sums;
#[path = "engine/taken_away.rs"]
mod taken_away;
#[path = "engine/turns.rs"]
mod turns;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value as Json, json};
use shoal::api::wire::query::parse_query;
use shoal::api::wire::write::{WriteBody, parse_write};
use shoal::engine::{CreateRequest, Engine};
use shoal::error::{Kind, Result};
use shoal::model::ids::{DocId, Project};
use shoal::model::query::{Answer, ResultRow};
use shoal::model::value::Value;
use shoal::model::write::{Idempotency, WriteOutcome, WriteRequest};
use shoal::platform::disk::{Disk, publish};
use shoal::platform::memory_disk::{Fault, MemoryDisk};

use node::{Node, all, documents, name, through_bucket};

fn request(body: Json) -> WriteRequest {
    match parse_write(body).unwrap() {
        WriteBody::Write(request) => *request,
        _ => panic!("expected a write"),
    }
}

async fn write(engine: &Arc<Engine>, namespace: &str, body: Json) -> Result<WriteOutcome> {
    engine.write(&name(namespace), request(body)).await
}

fn query(engine: &Engine, namespace: &str, body: Json) -> Result<Vec<ResultRow>> {
    let request = parse_query(body).unwrap().request;
    let run = |engine: &Engine| -> Result<Vec<ResultRow>> {
        match engine.query(&name(namespace), &request)?.answers.remove(0) {
            Answer::Rows(rows) => Ok(rows),
            other => panic!("expected rows, got {other:?}"),
        }
    };
    let rows = run(engine)?;
    through_bucket::check(engine, namespace, &rows, |engine| run(engine).unwrap());
    Ok(rows)
}

fn ids(rows: &[ResultRow]) -> Vec<DocId> {
    rows.iter().map(|row| row.id.clone()).collect()
}

fn uints(values: &[u64]) -> Vec<DocId> {
    values.iter().map(|n| DocId::Uint(*n)).collect()
}

fn fish() -> Json {
    json!({
        "distance_metric": "cosine_distance",
        "schema": {"text": {"type": "string", "full_text_search": true}},
        "upsert_rows": [
            {"id": 1, "vector": [0.1, 0.9], "text": "fish fish swim", "n": 3, "tags": ["a", "b"]},
            {"id": 2, "vector": [0.9, 0.1], "text": "fish tank water deep blue", "n": 1},
            {"id": 3, "vector": [0.5, 0.5], "text": "swim swim fish", "n": 2, "tags": ["b"]},
        ]
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_scores_the_same_in_the_tail_in_segments_and_after_a_restart() {
    let node = Node::new(1);
    let engine = node.open();
    write(&engine, "docs", fish()).await.unwrap();
    let queries = [
        json!({"rank_by": ["text", "BM25", "fish swim"], "limit": 10, "include_attributes": ["text"]}),
        json!({"rank_by": ["vector", "ANN", [0.2, 0.7]], "limit": 10}),
        json!({"rank_by": ["n", "desc"], "limit": 10, "include_attributes": true}),
        json!({"rank_by": ["id", "asc"], "limit": 10, "filters": ["tags", "Contains", "b"]}),
        json!({"rank_by": ["Sum", [["text", "BM25", "swim"], ["n", "Gt", 1]]], "limit": 10}),
    ];
    let answers = |engine: &Engine| -> Vec<Vec<ResultRow>> {
        queries.iter().map(|body| query(engine, "docs", body.clone()).unwrap()).collect()
    };
    let in_tail = answers(&engine);
    assert_eq!(ids(&in_tail[0]), uints(&[3, 1, 2]));
    assert_eq!(ids(&in_tail[1]), uints(&[1, 3, 2]));
    assert_eq!(ids(&in_tail[3]), uints(&[1, 3]));
    engine.checkpoint(&name("docs")).await.unwrap();
    assert_eq!(answers(&engine), in_tail);
    let engine = node.cut_power(engine);
    assert_eq!(answers(&engine), in_tail);
    // Some of the documents in the tail, some in a segment with dead rows.
    write(
        &engine,
        "docs",
        json!({"upsert_rows": [
            {"id": 2, "vector": [0.9, 0.1], "text": "fish tank water deep blue", "n": 1},
        ]}),
    )
    .await
    .unwrap();
    assert_eq!(answers(&engine), in_tail);
    engine.compact(&name("docs")).await.unwrap();
    assert_eq!(answers(&engine), in_tail);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deletes_and_patches_hold_through_flushes_and_merges() {
    let node = Node::new(2);
    let engine = node.open();
    write(&engine, "docs", fish()).await.unwrap();
    engine.checkpoint(&name("docs")).await.unwrap();
    let done =
        write(&engine, "docs", json!({"deletes": [2, 77], "patch_rows": [{"id": 1, "n": 9, "more": "x"}]})).await;
    assert_eq!(done.unwrap().deleted, 2);
    let expected = all(&engine, "docs");
    assert_eq!(expected.keys().cloned().collect::<Vec<_>>(), uints(&[1, 3]));
    assert_eq!(expected[&DocId::Uint(1)]["n"], json!(9));
    assert_eq!(expected[&DocId::Uint(1)]["text"], json!("fish fish swim"));
    engine.checkpoint(&name("docs")).await.unwrap();
    assert_eq!(all(&engine, "docs"), expected);
    engine.compact(&name("docs")).await.unwrap();
    assert_eq!(all(&engine, "docs"), expected);
    assert_eq!(all(&node.cut_power(engine), "docs"), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_name_can_be_used_again_at_once_and_nothing_of_its_files_stays() {
    let mut node = Node::new(3);
    node.config.retention_ms = 0;
    let engine = node.open();
    write(&engine, "docs", fish()).await.unwrap();
    engine.checkpoint(&name("docs")).await.unwrap();
    write(&engine, "docs", json!({"upsert_rows": [{"id": 9, "text": "x"}]})).await.unwrap();
    engine.delete(&name("docs")).await.unwrap();
    assert_eq!(query(&engine, "docs", json!({"limit": 1})).unwrap_err().kind(), Kind::NotFound);
    assert_eq!(files(&node.disk, Path::new("/data/store")), ["/data/store/_format.json"]);
    write(&engine, "docs", json!({"upsert_rows": [{"id": "a", "other": 1}]})).await.unwrap();
    assert_eq!(all(&engine, "docs").len(), 1);
    assert_eq!(all(&node.cut_power(engine), "docs").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_shares_objects_and_nothing_else() {
    let node = Node::new(4);
    let engine = node.open();
    write(&engine, "docs", fish()).await.unwrap();
    engine.checkpoint(&name("docs")).await.unwrap();
    write(&engine, "docs", json!({"upsert_rows": [{"id": 4, "text": "whale"}], "deletes": [1]})).await.unwrap();
    let expected = all(&engine, "docs");
    assert_eq!(engine.copy(&name("docs"), &name("copy")).await.unwrap(), 3);
    assert_eq!(all(&engine, "copy"), expected);
    // Either side goes its own way, and the source's end does not take the copy's objects along.
    write(&engine, "copy", json!({"deletes": [4]})).await.unwrap();
    assert_eq!(all(&engine, "docs"), expected);
    engine.checkpoint(&name("copy")).await.unwrap();
    engine.compact(&name("docs")).await.unwrap();
    assert_eq!(all(&engine, "docs"), expected);
    engine.delete(&name("docs")).await.unwrap();
    assert_eq!(all(&engine, "copy").len(), 2);
    let engine = node.cut_power(engine);
    assert_eq!(all(&engine, "copy").len(), 2);
    assert_eq!(engine.copy(&name("copy"), &name("copy")).await.unwrap_err().kind(), Kind::Invalid);
    assert_eq!(engine.copy(&name("gone"), &name("x")).await.unwrap_err().kind(), Kind::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_write_takes_effect_once_through_crash_and_flush() {
    let node = Node::new(5);
    let mut engine = node.open();
    write(&engine, "docs", fish()).await.unwrap();
    let keyed = |body: u8| WriteRequest {
        idempotency: Some(Idempotency { key_hash: [7; 16], body_hash: [body; 16] }),
        ..request(json!({"delete_by_filter": ["n", "Gte", 2]}))
    };
    let first = engine.write(&name("docs"), keyed(1)).await.unwrap();
    assert_eq!((first.deleted, first.replayed), (2, false));
    write(&engine, "docs", json!({"upsert_rows": [{"id": 5, "n": 5}]})).await.unwrap();
    for round in 0..3 {
        let again = engine.write(&name("docs"), keyed(1)).await.unwrap();
        assert_eq!((again.deleted, again.replayed, again.filter_matched), (2, true, Some(2)), "round {round}");
        assert_eq!(all(&engine, "docs").len(), 2, "round {round}");
        assert_eq!(engine.write(&name("docs"), keyed(2)).await.unwrap_err().code(), "idempotency_key_reused");
        if round == 0 {
            engine = node.cut_power(engine);
        } else {
            engine.checkpoint(&name("docs")).await.unwrap();
        }
    }
    node.clock.advance(25 * 3_600 * 1_000);
    assert!(!engine.write(&name("docs"), keyed(3)).await.unwrap().replayed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn if_match_refuses_what_moved() {
    let node = Node::new(6);
    let engine = node.open();
    let first = write(&engine, "docs", fish()).await.unwrap();
    assert_eq!(first.etag, engine.etag(&name("docs")).unwrap());
    let guarded = |etag: &str| WriteRequest { if_match: Some(etag.into()), ..request(json!({"deletes": [1]})) };
    let second = engine.write(&name("docs"), guarded(&first.etag)).await.unwrap();
    let error = engine.write(&name("docs"), guarded(&first.etag)).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (Kind::Conflict, "precondition_failed"));
    // Flushing and labels are no changes of documents.
    engine.checkpoint(&name("docs")).await.unwrap();
    engine.set_labels(&name("docs"), [("shop".to_owned(), "17".to_owned())].into()).await.unwrap();
    assert_eq!(engine.etag(&name("docs")).unwrap(), second.etag);
    let engine = node.cut_power(engine);
    assert_eq!(engine.etag(&name("docs")).unwrap(), second.etag);
    engine.write(&name("docs"), guarded(&second.etag)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn read_only_labels_pins_and_schema_survive_a_restart() {
    let node = Node::new(7);
    let engine = node.open();
    let labels: BTreeMap<String, String> = [("shop".to_owned(), "17".to_owned())].into();
    engine.create(&name("docs"), CreateRequest { labels, ..CreateRequest::default() }).await.unwrap();
    write(&engine, "docs", fish()).await.unwrap();
    engine.update_metadata(&name("docs"), Some(true), Some(true)).await.unwrap();
    let refused = write(&engine, "docs", json!({"deletes": [1]})).await.unwrap_err();
    assert_eq!(refused.message(), "💔 Writes not permitted. This namespace is read-only.");
    let engine = node.cut_power(engine);
    let metadata = engine.metadata(&name("docs")).unwrap();
    assert!(metadata.read_only && metadata.pinned_ms.is_some());
    assert!(metadata.schema.column("text").unwrap().full_text.is_some());
    assert_eq!(engine.status(&name("docs")).unwrap()["labels"]["shop"], "17");
    assert!(write(&engine, "docs", json!({"deletes": [1]})).await.is_err());
    engine.update_metadata(&name("docs"), Some(false), Some(false)).await.unwrap();
    write(&engine, "docs", json!({"deletes": [1]})).await.unwrap();
    assert!(engine.metadata(&name("docs")).unwrap().pinned_ms.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_first_write_creates_nothing() {
    let node = Node::new(8);
    let engine = node.open();
    for body in [
        json!({"upsert_rows": [{"id": 1, "vector": [0.1, 0.2]}]}),
        json!({"upsert_rows": [{"id": 1}, {"id": 1}]}),
        json!({"deletes": [1]}),
        json!({"upsert_rows": [{"id": 1, "x": 1}], "upsert_condition": ["nope", "Eq", 1]}),
    ] {
        assert!(write(&engine, "docs", body.clone()).await.is_err(), "{body}");
        assert_eq!(engine.list(&Project::default_project(), "", None, 10).unwrap().0, Vec::<String>::new(), "{body}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_are_never_handed_out_twice() {
    let node = Node::new(9);
    let mut engine = node.open();
    write(&engine, "docs", json!({"upsert_rows": [{"id": 1, "n": 1}]})).await.unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for round in 0..4 {
        for id in engine.allocate_ids(&name("docs"), 100).await.unwrap() {
            let DocId::Uint(n) = id else { panic!("expected an integer") };
            assert!(n < 1 << 53 && seen.insert(n), "round {round}");
        }
        if round % 2 == 0 {
            engine = node.cut_power(engine);
        } else {
            engine.checkpoint(&name("docs")).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_or_damaged_index_loses_nothing() {
    let node = Node::new(10);
    let engine = node.open();
    write(&engine, "docs", fish()).await.unwrap();
    engine.checkpoint(&name("docs")).await.unwrap();
    engine.copy(&name("docs"), &name("copy")).await.unwrap();
    write(&engine, "docs", json!({"deletes": [1]})).await.unwrap();
    engine.update_metadata(&name("docs"), None, Some(true)).await.unwrap();
    let (docs, copy) = (all(&engine, "docs"), all(&engine, "copy"));
    engine.shutdown().await.unwrap();
    drop(engine);
    let path = Path::new("/data/meta.redb");
    let of_other_types = {
        let dir = tempfile::tempdir().unwrap();
        let database = redb::Database::create(dir.path().join("other")).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(redb::TableDefinition::<u64, u64>::new("state")).unwrap();
        transaction.commit().unwrap();
        drop(database);
        std::fs::read(dir.path().join("other")).unwrap()
    };
    for damage in ["deleted", "truncated", "overwritten", "of other types"] {
        match damage {
            "deleted" => node.disk.remove(path).unwrap(),
            "truncated" => node.disk.random_access(path).unwrap().set_len(5_000).unwrap(),
            "of other types" => publish(&node.disk, path, &of_other_types).unwrap(),
            _ => node.disk.random_access(path).unwrap().write_at(100, &[0xa5; 8_000]).unwrap(),
        }
        let engine = node.open();
        assert_eq!((all(&engine, "docs"), all(&engine, "copy")), (docs.clone(), copy.clone()), "{damage}");
        assert!(engine.metadata(&name("docs")).unwrap().pinned_ms.is_some(), "{damage}");
        engine.compact(&name("docs")).await.unwrap();
        assert_eq!(all(&engine, "copy"), copy, "{damage}");
        engine.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_that_becomes_searchable_later_is_searched_everywhere() {
    let node = Node::new(13);
    let engine = node.open();
    let plain = |id: u64, text: &str| json!({"upsert_rows": [{"id": id, "text": text}]});
    write(&engine, "docs", plain(1, "fish fish swim")).await.unwrap();
    engine.checkpoint(&name("docs")).await.unwrap();
    write(&engine, "docs", plain(2, "fish tank water deep blue")).await.unwrap();
    write(&engine, "docs", json!({"schema": {"text": {"type": "string", "full_text_search": true}}})).await.unwrap();
    write(&engine, "docs", plain(3, "swim swim fish")).await.unwrap();
    let body = json!({"rank_by": ["text", "BM25", "fish"], "limit": 10});
    let scattered = query(&engine, "docs", body.clone()).unwrap();
    assert_eq!(ids(&scattered), uints(&[1, 3, 2]));
    let filtered = json!({"rank_by": ["id", "asc"], "limit": 10, "filters": ["text", "ContainsAllTokens", "swim"]});
    assert_eq!(ids(&query(&engine, "docs", filtered).unwrap()), uints(&[1, 3]));
    engine.compact(&name("docs")).await.unwrap();
    assert_eq!(query(&engine, "docs", body).unwrap(), scattered);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn text_is_found_under_the_options_it_has_now() {
    let node = Node::new(14);
    let mut engine = node.open();
    let row = |id: u64| json!([{"id": id, "text": "Fish swim"}]);
    let text = |case: bool| json!({"text": {"type": "string", "full_text_search": {"case_sensitive": case}}});
    write(&engine, "docs", json!({"upsert_rows": row(1), "schema": text(false)})).await.unwrap();
    engine.checkpoint(&name("docs")).await.unwrap();
    write(&engine, "docs", json!({"upsert_rows": row(2)})).await.unwrap();
    write(&engine, "docs", json!({"upsert_rows": row(3), "schema": text(true)})).await.unwrap();
    for round in 0..3 {
        let found = |word: &str| {
            let body = json!({"rank_by": ["text", "BM25", word], "limit": 10});
            ids(&query(&engine, "docs", body).unwrap())
        };
        assert_eq!((found("Fish"), found("fish")), (uints(&[1, 2, 3]), uints(&[])), "round {round}");
        if round == 0 {
            engine = node.cut_power(engine);
        } else {
            engine.checkpoint(&name("docs")).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_namespace_is_set_apart_and_the_others_are_served() {
    let node = Node::new(15);
    let engine = node.open();
    for namespace in ["log", "segment", "manifest", "well"] {
        write(&engine, namespace, fish()).await.unwrap();
        if namespace != "log" {
            engine.checkpoint(&name(namespace)).await.unwrap();
        }
    }
    // The damaged frame is behind one that says it was durable.
    write(&engine, "log", json!({"deletes": [1]})).await.unwrap();
    write(&engine, "log", json!({"deletes": [2]})).await.unwrap();
    let nsid = |namespace: &str| engine.status(&name(namespace)).unwrap()["nsid"].as_str().unwrap().to_owned();
    let damaged: Vec<(&str, String)> = vec![
        ("log", format!("/{}-", nsid("log"))),
        ("segment", format!("/{}/segments/", nsid("segment"))),
        ("manifest", format!("/local/{}/", nsid("manifest"))),
    ];
    drop(engine);
    for (_, part) in &damaged {
        // The newest one: earlier manifests are past states.
        let path = files(&node.disk, Path::new("/data")).into_iter().rfind(|path| path.contains(part)).unwrap();
        let file = node.disk.random_access(Path::new(&path)).unwrap();
        // Behind the heads of logs and segments, in their first frame and first rows.
        file.write_at(80, &[0xa5; 64]).unwrap();
    }
    // It would put the manifest back.
    node.disk.remove(Path::new("/data/meta.redb")).unwrap();
    let engine = node.open();
    assert_eq!(all(&engine, "well").len(), 3);
    for (namespace, _) in &damaged {
        let body = json!({"rank_by": ["id", "asc"], "limit": 9, "include_attributes": true});
        let error = query(&engine, namespace, body).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{namespace}: {error}");
        assert!(
            write(&engine, namespace, json!({"upsert_rows": [{"id": 9}]})).await.is_err() || *namespace == "segment"
        );
    }
    let report = engine.check(3).unwrap();
    let named: Vec<&str> = report.problems.iter().map(|problem| problem.namespace.as_str()).collect();
    for (namespace, _) in &damaged {
        assert!(named.contains(&format!("default/default/{namespace}").as_str()) || *namespace == "log", "{named:?}");
    }
    assert!(!named.contains(&"default/default/well"));
    // Nothing that the damaged ones may need is reclaimed, and a damaged one can be deleted.
    assert_eq!(engine.repair().unwrap().0, 0);
    engine.delete(&name("log")).await.unwrap();
    write(&engine, "log", fish()).await.unwrap();
    assert_eq!(all(&engine, "log").len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_wait_for_room_and_are_refused_when_there_is_none() {
    let mut node = Node::new(16);
    node.config.tail_bytes_max = 10_000;
    node.config.backpressure_wait_ms = 50;
    let engine = node.open();
    let big = |id: u64| json!({"upsert_rows": [{"id": id, "text": "x".repeat(4_000)}]});
    for id in 0..20 {
        write(&engine, "docs", big(id)).await.unwrap();
    }
    assert_eq!(all(&engine, "docs").len(), 20);
    // The tail cannot become a segment while the disk takes nothing.
    let at = node.disk.operations();
    let fault = Fault { at, forever: true, kind: std::io::ErrorKind::StorageFull };
    let mut refused = None;
    for id in 20..30 {
        match write(&engine, "docs", big(id)).await {
            Ok(_) => node.disk.set_fault(Some(fault)),
            Err(error) => refused = Some(error),
        }
    }
    let refused = refused.unwrap();
    assert!(matches!(refused.kind(), Kind::Busy | Kind::Unavailable), "{refused}");
    // Reads are served meanwhile, and writes go on by themselves.
    assert!(documents(&engine.view(&name("docs")).unwrap()).len() >= 20);
    node.disk.set_fault(None);
    let before = all(&engine, "docs").len();
    write(&engine, "docs", big(99)).await.unwrap();
    assert_eq!(all(&engine, "docs").len(), before + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_daemon_and_a_foreign_directory_are_refused() {
    let node = Node::new(11);
    let engine = node.open();
    assert_eq!(node.try_open().map(drop).unwrap_err().code(), "data_dir_locked");
    drop(engine);
    drop(node.open());
    let other = Node::new(12);
    shoal::platform::disk::create_dirs(&other.disk, Path::new("/data/holiday-pictures")).unwrap();
    assert!(other.try_open().map(drop).unwrap_err().message().contains("holiday-pictures"));
}

fn files(disk: &MemoryDisk, dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in disk.list(dir).unwrap() {
        let path = dir.join(&entry.name);
        if entry.is_dir {
            found.extend(files(disk, &path));
        } else {
            found.push(path.display().to_string());
        }
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patches_made_while_a_tail_becomes_a_segment_survive_wherever_that_fails() {
    let row = |id: u64, n: u64| json!({"id": id, "n": n, "text": format!("fish {id}")});
    for at in 0..40 {
        let node = Node::new(at);
        let engine = node.open();
        write(&engine, "docs", json!({"upsert_rows": [row(1, 1), row(2, 1)]})).await.unwrap();
        engine.checkpoint(&name("docs")).await.unwrap();
        write(&engine, "docs", json!({"upsert_rows": [row(3, 1), row(4, 1)]})).await.unwrap();
        let fault = Fault { at: node.disk.operations() + at, forever: false, kind: std::io::ErrorKind::StorageFull };
        node.disk.set_fault(Some(fault));
        let _ = engine.checkpoint(&name("docs")).await;
        node.disk.set_fault(None);
        // Of a row in a segment, and of one in the tail that is frozen when the flush failed.
        write(&engine, "docs", json!({"patch_rows": [{"id": 1, "n": 2}, {"id": 3, "n": 2}]})).await.unwrap();
        let expected = all(&engine, "docs");
        assert_eq!(expected.len(), 4);
        let _ = engine.checkpoint(&name("docs")).await;
        assert_eq!(all(&engine, "docs"), expected, "operation {at}, running");
        let engine = node.cut_power(engine);
        assert_eq!(all(&engine, "docs"), expected, "operation {at}, after a power cut");
        assert_eq!(expected[&DocId::Uint(3)]["n"], json!(2));
        engine.compact(&name("docs")).await.unwrap();
        assert_eq!(all(&engine, "docs"), expected, "operation {at}, merged");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn first_writes_beside_each_other_and_beside_deletions_all_find_a_namespace() {
    let engine = Node::new(41).open();
    for round in 0..300_u64 {
        let docs = format!("docs-{round}");
        let writes = (0..6_u64).map(|id| {
            let (engine, docs) = (engine.clone(), docs.clone());
            tokio::spawn(async move {
                if id == 5 && round % 2 == 1 {
                    return engine.delete(&name(&docs)).await.or_else(|error| match error.kind() {
                        Kind::NotFound => Ok(()),
                        _ => Err(error),
                    });
                }
                write(&engine, &docs, json!({"upsert_rows": [{"id": id}]})).await.map(|_| ())
            })
        });
        for write in writes.collect::<Vec<_>>() {
            write.await.unwrap().unwrap();
        }
        if round % 2 == 0 {
            assert_eq!(documents(&engine.view(&name(&docs)).unwrap()).len(), 6);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_while_a_segment_is_made_becomes_one_without_another_write() {
    let mut node = Node::new(40);
    node.config.flush_bytes = 256 << 10;
    let engine = node.open();
    let writes = (0..16_u64).map(|round| {
        let engine = engine.clone();
        tokio::spawn(async move {
            let rows: Vec<Json> =
                (0..400_u64).map(|n| json!({"id": 400 * round + n, "text": format!("{n} ").repeat(200)})).collect();
            write(&engine, "docs", json!({"upsert_rows": rows})).await.unwrap();
        })
    });
    for write in writes.collect::<Vec<_>>() {
        write.await.unwrap();
    }
    let ended = async {
        while engine.metadata(&name("docs")).unwrap().unindexed_rows > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), ended).await.unwrap();
}

/// The logs of all namespaces below a directory, by path.
fn logs_below(disk: &MemoryDisk, dir: &Path) -> Vec<(std::path::PathBuf, u64)> {
    let entries = disk.list(dir).unwrap_or_default();
    let found = entries.iter().flat_map(|entry| match entry.is_dir {
        true => logs_below(disk, &dir.join(&entry.name)),
        false => vec![(dir.join(&entry.name), entry.len)],
    });
    found.filter(|(path, _)| path.extension().is_some_and(|extension| extension == "wal")).collect()
}

/// A log's name, which is the end of its file's name.
fn log_name(path: &Path) -> String {
    let name = path.file_name().unwrap().to_str().unwrap();
    name[name.len() - "00000000000000000000-0000000000000000.wal".len()..].to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overwriting_the_same_documents_for_ever_keeps_the_logs_within_their_bound() {
    let mut node = Node::new(30);
    node.config.log_bytes_max = 256 << 10;
    node.config.retention_ms = 0;
    let engine = node.open();
    let text = "x".repeat(2_000);
    let mut longest = 0;
    for round in 0..400 {
        let rows: Vec<Json> = (0..10).map(|id| json!({"id": id, "n": round, "text": text})).collect();
        write(&engine, "docs", json!({"upsert_rows": rows})).await.unwrap();
        // By name, as one that is being sealed may be seen under both of its paths.
        let logs = logs_below(&node.disk, Path::new("/data")).into_iter();
        let logs: BTreeMap<String, u64> = logs.map(|(path, len)| (log_name(&path), len)).collect();
        longest = longest.max(logs.values().sum::<u64>());
    }
    // Twice the bound, and one commit.
    assert!(longest <= 2 * (256 << 10) + (32 << 10), "{longest} bytes of logs");
    let before = all(&engine, "docs");
    let engine = node.cut_power(engine);
    assert_eq!(all(&engine, "docs"), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_without_a_logical_size_are_cut_into_frames_that_decode() {
    let mut node = Node::new(31);
    // One write may make that much.
    node.config.tails_bytes_max = 1 << 30;
    let engine = node.open();
    let rows: Vec<Json> = (0..50).map(|id| json!({"id": id, "tags": ["a"]})).collect();
    write(&engine, "docs", json!({"upsert_rows": rows})).await.unwrap();
    let patch = json!({"patch_by_filter": {"filters": ["id", "Gte", 0], "patch": {"tags": vec![""; 100_000]}}});
    assert_eq!(write(&engine, "docs", patch).await.unwrap().patched, 50);
    let mut frames = 0;
    for (path, _) in logs_below(&node.disk, Path::new("/data")) {
        let bytes = node.disk.read(&path).unwrap();
        let mut at = 72;
        while at < bytes.len() {
            let payload = u32::from_le_bytes(*bytes[at..].first_chunk().unwrap()) as usize;
            assert!(payload <= 4 << 20, "a frame of {payload} bytes");
            (at, frames) = (at + 40 + payload, frames + 1);
        }
    }
    assert_eq!(frames, 3);
    let engine = node.cut_power(engine);
    let view = engine.view(&name("docs")).unwrap();
    let document = view.document(&DocId::Uint(7)).unwrap().unwrap();
    assert!(matches!(&document.fields[0].1, Value::Strings(tags) if tags.len() == 100_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_that_no_frame_holds_is_refused_before_anything_is_written() {
    let node = Node::new(32);
    let engine = node.open();
    write(&engine, "docs", json!({"upsert_rows": [{"id": 1, "n": 1}]})).await.unwrap();
    // Reading by way of a bucket ends the log, and a log without a frame is nothing.
    let documents = all(&engine, "docs");
    let frames = || {
        let mut logs = logs_below(&node.disk, Path::new("/data"));
        logs.retain(|(_, bytes)| *bytes > 72);
        logs
    };
    let before = frames();
    let mut row = serde_json::Map::from_iter([("id".to_owned(), json!(1))]);
    for n in 0..8 {
        row.insert(format!("text{n}"), json!("x".repeat(8 << 20)));
    }
    let schema: serde_json::Map<String, Json> =
        (0..8).map(|n| (format!("text{n}"), json!({"type": "string", "filterable": false}))).collect();
    let body = json!({"upsert_rows": [row], "schema": schema});
    let error = write(&engine, "docs", body).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (Kind::Invalid, "too_large"));
    assert!(error.message().starts_with("document 1 takes 6710"), "{}", error.message());
    assert_eq!(frames(), before);
    assert_eq!(all(&engine, "docs"), documents);
    write(&engine, "docs", json!({"upsert_rows": [{"id": 2, "n": 1}]})).await.unwrap();
    let before = all(&engine, "docs");
    assert_eq!(all(&node.cut_power(engine), "docs"), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_patch_makes_a_document_that_no_segment_can_hold() {
    let node = Node::new(33);
    let engine = node.open();
    let schema: serde_json::Map<String, Json> =
        (0..11).map(|n| (format!("text{n}"), json!({"type": "string", "filterable": false}))).collect();
    write(&engine, "docs", json!({"upsert_rows": [{"id": 1, "n": 1}], "schema": schema})).await.unwrap();
    let text = "x".repeat(7 << 20);
    for n in 0..9 {
        let mut row = serde_json::Map::from_iter([("id".to_owned(), json!(1))]);
        row.insert(format!("text{n}"), json!(text));
        write(&engine, "docs", json!({"patch_rows": [row]})).await.unwrap();
    }
    let body = json!({"patch_rows": [{"id": 1, "text9": text}]});
    let error = write(&engine, "docs", body).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (Kind::Invalid, "too_large"));
    engine.checkpoint(&name("docs")).await.unwrap();
    let engine = node.cut_power(engine);
    assert_eq!(engine.view(&name("docs")).unwrap().documents(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partial_delete_by_filter_says_that_rows_remain_and_a_whole_one_leaves_none() {
    let node = Node::new(34);
    let engine = node.open();
    for part in 0..3u64 {
        let ids: Vec<u64> = (part * 100_000..(part + 1) * 100_000).collect();
        write(&engine, "docs", json!({"upsert_columns": {"id": ids}})).await.unwrap();
    }
    let by_filter = json!({"delete_by_filter": ["id", "Gte", 0], "delete_by_filter_allow_partial": true});
    let first = write(&engine, "docs", by_filter.clone()).await.unwrap();
    assert_eq!((first.deleted, first.rows_remaining), (250_000, true));
    // The next write sees all of it, though so many changes are not remembered beside the state.
    let again = write(&engine, "docs", json!({"delete_by_filter": ["id", "Gte", 0]})).await.unwrap();
    assert_eq!((again.deleted, again.rows_remaining), (50_000, false));
    assert!(!engine.view(&name("docs")).unwrap().has_documents());
    let engine = node.cut_power(engine);
    assert!(!engine.view(&name("docs")).unwrap().has_documents());
}
