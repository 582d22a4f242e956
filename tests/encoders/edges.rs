//! Single edges: what is just within a bound goes everywhere, and what is just beyond is refused before anything is written.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};
use shoal::engine::merge::MergeRequest;
use shoal::engine::merge::decide::Policy;
use shoal::error::Kind;
use shoal::format::conflicts::{
    BYTES_MAX, ConflictsFile, Field, Loser, MergeSource, Side, StoredId, VERSION, decode_conflicts, encode_conflicts,
};
use shoal::format::manifest::LOGS_MAX;
use shoal::model::ids::{CommitId, DocId, Nsid};
use shoal::model::schema::AttributeType;
use shoal::model::value::Value;
use uuid::Uuid;

use crate::node::{Node, all, branch, name, put, write};
use crate::places::everywhere;
use crate::request;

/// Texts that are not indexed, by name.
fn texts(of: &[String]) -> Map<String, Json> {
    of.iter().map(|name| (name.clone(), json!({"type": "string", "filterable": false}))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_as_large_as_may_be_loses_in_a_merge_and_is_kept_whole() {
    let node = Node::new(1);
    let engine = node.open();
    // Names take most room where JSON has six characters for one.
    let names: Vec<String> = (0..7).map(|n| format!("{n}{}", "\u{1}".repeat(127))).collect();
    write(&engine, "docs", json!({"upsert_rows": [{"id": 1, "n": 1}], "schema": texts(&names)})).await;
    branch(&engine, "docs", "child").await;
    write(&engine, "child", json!({"upsert_rows": [{"id": 1, "n": 2}]})).await;
    let mut row = Map::from_iter([("id".to_owned(), json!(1))]);
    row.extend(names.iter().map(|name| (name.clone(), json!("\u{2}".repeat(8 << 20)))));
    row.insert("empties".to_owned(), vec![""; 1 << 20].into());
    write(&engine, "docs", json!({"upsert_rows": [row]})).await;
    let theirs = MergeRequest { policy: Policy::Theirs, ..MergeRequest::default() };
    assert_eq!(engine.merge(&name("child"), &name("docs"), theirs).await.unwrap().conflicts, 1);
    everywhere(node, engine, "docs").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_that_no_block_of_rows_may_hold_is_refused_however_little_it_takes_in_the_log() {
    let node = Node::new(2);
    let engine = node.open();
    let names: Vec<String> = (0..7).map(|n| format!("text{n}")).collect();
    write(&engine, "docs", json!({"upsert_rows": [{"id": 1, "n": 1}], "schema": texts(&names)})).await;
    // A small integer is a byte in the log and eight in a segment, an empty text counts for nothing.
    let mut row = Map::from_iter([("id".to_owned(), json!(1)), ("ints".to_owned(), vec![0; 1 << 20].into())]);
    row.extend(names.iter().map(|name| (name.clone(), json!("x".repeat(8 << 20)))));
    write(&engine, "docs", json!({"upsert_rows": [row]})).await;
    let before = all(&engine, "docs");
    row_with_empties(&mut row);
    let error = engine.write(&name("docs"), request(json!({"upsert_rows": [row]}))).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{error:?}");
    assert!(error.message().contains("document 1 of 67108894 bytes"), "{}", error.message());
    assert!(all(&engine, "docs") == before);
    engine.checkpoint(&name("docs")).await.unwrap();
    assert!(all(&node.cut_power(engine), "docs") == before);
}

fn row_with_empties(row: &mut Map<String, Json>) {
    row.insert("empties".to_owned(), vec![""; 30].into());
}

#[test]
fn losers_are_written_only_where_they_can_be_read() {
    let file = |bytes: usize| ConflictsFile {
        format: VERSION,
        nsid: Nsid(Uuid::nil()),
        source: MergeSource { nsid: Nsid(Uuid::nil()), name: "a/b/c".into(), commit_id: CommitId(Uuid::nil()) },
        policy: "lww".into(),
        at_ms: 1,
        losers: vec![Loser {
            token: Uuid::nil(),
            id: StoredId::of(&DocId::Uint(1)),
            side: Side::Ours,
            version: None,
            attributes: Vec::new(),
            fields: Some(vec![Field::of("x", AttributeType::Bytes, &Value::Bytes(vec![0; bytes]))]),
        }],
    };
    let most = BYTES_MAX as usize / 4 * 3;
    assert!(decode_conflicts(&encode_conflicts(&file(most - 1_000)).unwrap(), "conflicts").is_ok());
    let error = encode_conflicts(&file(most)).unwrap_err();
    assert_eq!((error.kind(), error.code()), (Kind::Invalid, "too_large"));
}

/// Logs that one level of branches adds; its next write after one more begins a flush.
const LOGS_OF_EACH: usize = 15;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn branches_of_branches_go_on_however_many_logs_they_begin_with() {
    let node = Node::new(3);
    let engine = node.open();
    let mut parent = "b0".to_owned();
    put(&engine, &parent, [0], 0).await;
    let mut expected = BTreeMap::from([(0, 0)]);
    for level in 1..LOGS_MAX / LOGS_OF_EACH + 3 {
        for n in 0..LOGS_OF_EACH as u64 {
            let at = level as u64 * 100 + n;
            put(&engine, &parent, [at % 7], at).await;
            expected.insert(at % 7, at);
            // What names the state ends the log.
            engine.tag(&name(&parent), "t", None).await.unwrap();
            engine.untag(&name(&parent), "t").await.unwrap();
        }
        let child = format!("b{level}");
        branch(&engine, &parent, &child).await;
        parent = child;
    }
    let found = |documents: crate::node::Documents| -> BTreeMap<u64, u64> {
        let n = |fields: &BTreeMap<String, Json>| fields["n"].as_u64().unwrap();
        documents.iter().map(|(id, fields)| (if let DocId::Uint(id) = id { *id } else { 0 }, n(fields))).collect()
    };
    assert_eq!(found(all(&engine, &parent)), expected);
    assert_eq!(found(all(&node.cut_power(engine), &parent)), expected);
}
