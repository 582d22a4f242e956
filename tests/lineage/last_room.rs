//! A disk that is full to its last byte: what is new leaves the last room alone, and what frees room finds some.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value as Json, json};
use shoal::api::wire::write::{WriteBody, parse_schema, parse_write};
use shoal::engine::lineage::BranchRequest;
use shoal::engine::merge::MergeRequest;
use shoal::engine::{CreateRequest, Engine};
use shoal::error::Result;
use shoal::model::as_of::AsOf;
use shoal::model::ids::Project;
use shoal::model::write::WriteRequest;
use shoal::platform::disk::Disk;
use shoal::platform::random::{Random, SeededRandom};

use crate::node::{DAY_MS, Node, all, branch, documents, name};
use crate::share::deleted;

/// What is kept for what frees room.
const KEPT_BYTES: u64 = 1 << 20;
const RESERVE: &str = "/data/reserve";

fn request(body: Json) -> WriteRequest {
    let WriteBody::Write(request) = parse_write(body).unwrap() else { panic!("expected a write") };
    *request
}

async fn ask(engine: &Arc<Engine>, namespace: &str, body: Json) -> Result<()> {
    engine.write(&name(namespace), request(body)).await.map(drop)
}

/// About 100 kB that are like no others.
fn rows(first: u64) -> Json {
    let random = SeededRandom::new(first);
    let text = || (0..600).map(|_| format!("{:016x}", random.next_u64())).collect::<String>();
    let rows: Vec<Json> = (first..first + 10).map(|id| json!({"id": id, "s": text()})).collect();
    json!({"upsert_rows": rows, "schema": {"s": {"type": "string", "filterable": false}}})
}

/// A node with namespaces `n0` to `n9`, the first of which is tagged and one was deleted before.
async fn a_node(seed: u64) -> (Node, Arc<Engine>) {
    let node = Node::new(seed);
    let engine = node.open();
    for n in 0..10 {
        ask(&engine, &format!("n{n}"), rows(n * 10)).await.unwrap();
    }
    engine.checkpoint(&name("n0")).await.unwrap();
    engine.tag(&name("n0"), "then", None).await.unwrap();
    branch(&engine, "n1", "side").await;
    ask(&engine, "side", rows(1_000)).await.unwrap();
    ask(&engine, "before", rows(1)).await.unwrap();
    engine.delete(&name("before")).await.unwrap();
    (node, engine)
}

fn free(node: &Node) -> u64 {
    node.disk.free_bytes(Path::new("/data")).unwrap()
}

fn reserve(node: &Node) -> (usize, u64) {
    let files = node.disk.list(Path::new(RESERVE)).unwrap_or_default();
    (files.len(), files.iter().map(|file| file.len).sum())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_is_new_takes_the_last_room_and_what_frees_some_has_it() {
    let (node, engine) = a_node(150).await;
    engine.tend().await.unwrap();
    node.disk.leave_free(Some(KEPT_BYTES - 1));
    let (n0, n1, new) = (name("n0"), name("n1"), name("new"));
    let labels = || [("a".to_owned(), "b".to_owned())].into();
    let schema = json!({"schema": {"more": "string"}});
    let before = node.disk.written_bytes();
    let refused: Vec<(&str, Result<()>)> = vec![
        ("a namespace", engine.create(&new, CreateRequest::default()).await.map(drop)),
        ("a first write", ask(&engine, "new", json!({"upsert_rows": [{"id": 1}]})).await),
        ("a row", ask(&engine, "n1", json!({"upsert_rows": [{"id": 1}]})).await),
        ("a patch", ask(&engine, "n1", json!({"patch_rows": [{"id": 10, "more": 1}]})).await),
        ("rows and deletes", ask(&engine, "n1", json!({"upsert_rows": [{"id": 1}], "deletes": [10]})).await),
        ("a schema in a write", ask(&engine, "n1", schema).await),
        ("a branch", engine.branch(&n0, &new, BranchRequest::default()).await),
        ("a copy", engine.copy(&n0, &new).await.map(drop)),
        ("a tag", engine.tag(&n0, "now", None).await.map(drop)),
        ("labels", engine.set_labels(&n0, labels()).await),
        ("a setting", engine.update_metadata(&n0, Some(true), None).await),
        ("a pin", engine.update_metadata(&n0, None, Some(true)).await),
        ("a merge", engine.merge(&name("side"), &n1, MergeRequest::default()).await.map(drop)),
        ("a revert", engine.revert(&n0, &AsOf::Tag("then".to_owned())).await.map(drop)),
        ("ids", engine.allocate_ids(&n0, 3).await.map(drop)),
        ("what was deleted", engine.undelete(&name("before"), None).await),
        ("no end", engine.set_ttl(&n0, None).await.map(drop)),
    ];
    for (what, done) in refused {
        let error = done.expect_err(what);
        assert_eq!(error.code(), "disk_full", "{what}: {error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("delete namespaces")), "{what}: {:?}", error.hint());
    }
    assert_eq!(node.disk.written_bytes(), before, "nothing was written");
    assert_eq!(engine.warning_codes(), ["disk_full"]);
    // What frees some goes on.
    engine.untag(&n0, "then").await.unwrap();
    ask(&engine, "n1", json!({"deletes": [10]})).await.unwrap();
    ask(&engine, "n1", json!({"delete_by_filter": ["id", "Eq", 11]})).await.unwrap();
    engine.set_ttl(&name("n2"), Some(DAY_MS)).await.unwrap();
    engine.delete(&name("n3")).await.unwrap();
    assert_eq!((all(&engine, "n1").len(), engine.tags(&n0).unwrap().len()), (8, 0));
    assert!(engine.check(4).unwrap().is_whole());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_others_filled_to_its_last_byte_has_room_again_after_deletions() {
    for has_reserve in [true, false] {
        let (node, engine) = a_node(151).await;
        if has_reserve {
            engine.tend().await.unwrap();
            assert_eq!(reserve(&node), (16, KEPT_BYTES));
        }
        node.disk.leave_free(Some(0));
        // Of what is deleted nothing would go for its age, nor for the share of the past.
        assert_eq!(ask(&engine, "n1", json!({"upsert_rows": [{"id": 1}]})).await.unwrap_err().code(), "disk_full");
        for n in 2..10 {
            engine.delete(&name(&format!("n{n}"))).await.unwrap();
            assert!(n > 6 || engine.is_index_trusted());
        }
        engine.untag(&name("n0"), "then").await.unwrap();
        if has_reserve {
            ask(&engine, "n1", json!({"deletes": [10]})).await.unwrap();
            engine.set_ttl(&name("n1"), Some(DAY_MS)).await.unwrap();
        }
        let left = reserve(&node).0;
        // What others take of it at once does not take the next deletion's.
        assert!(if has_reserve { (8..16).contains(&left) } else { left == 0 }, "{left} files are left");
        // What the daemon does every half minute.
        engine.rebuild_index().unwrap();
        engine.tend().await.unwrap();
        assert_eq!(deleted(&engine), Vec::<String>::new(), "what was deleted on a full disk is gone for good");
        assert!(free(&node) > 600 << 10, "{} bytes are free", free(&node));
        assert!(engine.check(4).unwrap().is_whole());
        // What was new to others goes, too: then it is as before.
        node.disk.leave_free(Some(16 << 20));
        for _ in 0..2 {
            engine.tend().await.unwrap();
            engine.rebuild_index().unwrap();
        }
        assert_eq!(reserve(&node), (16, KEPT_BYTES));
        assert!(node.disk.size(Path::new("/data/meta.redb")).is_ok());
        ask(&engine, "n1", rows(500)).await.unwrap();
        assert_eq!(engine.warning_codes(), Vec::<String>::new());
        drop(engine);
        let engine = node.open();
        assert_eq!(all(&engine, "n1").len(), if has_reserve { 19 } else { 20 });
        assert!(engine.check(4).unwrap().is_whole());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_starts_on_a_disk_without_any_room_lets_namespaces_be_deleted() {
    for has_reserve in [true, false] {
        let (node, engine) = a_node(152).await;
        if has_reserve {
            engine.tend().await.unwrap();
        }
        drop(engine);
        node.disk.leave_free(Some(0));
        let engine = node.open();
        assert_eq!(all(&engine, "n1").len(), 10);
        for n in 2..10 {
            engine.delete(&name(&format!("n{n}"))).await.unwrap();
        }
        engine.rebuild_index().unwrap();
        engine.tend().await.unwrap();
        assert!(free(&node) > 600 << 10, "{} bytes are free", free(&node));
        assert!(engine.check(4).unwrap().is_whole());
        drop(engine);
        assert_eq!(all(&node.open(), "n1").len(), 10);
    }
    // A part of the reserve is one, too.
    let (node, engine) = a_node(157).await;
    engine.tend().await.unwrap();
    node.disk.leave_free(Some(0));
    engine.delete(&name("n2")).await.unwrap();
    let left = reserve(&node).0;
    assert!((1..16).contains(&left));
    drop(engine);
    let engine = node.open();
    engine.make_reserve().await;
    for n in 3..10 {
        // Others take what came free.
        node.disk.leave_free(Some(0));
        engine.delete(&name(&format!("n{n}"))).await.unwrap();
    }
    assert!(reserve(&node).0 < left);
    // Retention that was made shorter needs no room, either.
    let (mut node, engine) = a_node(154).await;
    drop(engine);
    node.disk.leave_free(Some(0));
    node.config.retention_ms = 0;
    let engine = node.open();
    engine.tend().await.unwrap();
    assert_eq!(deleted(&engine), Vec::<String>::new());
    assert!(engine.check(4).unwrap().is_whole());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_reserve_is_not_made_of_the_room_of_a_full_disk_and_what_is_deleted_elsewhere_is_kept() {
    let (node, engine) = a_node(153).await;
    // As much as it takes and the kept room twice, and a byte less.
    node.disk.leave_free(Some(3 * KEPT_BYTES - 1));
    for _ in 0..3 {
        engine.tend().await.unwrap();
        assert_eq!(reserve(&node), (0, 0));
    }
    engine.delete(&name("n9")).await.unwrap();
    node.disk.leave_free(Some(4 * KEPT_BYTES));
    for _ in 0..3 {
        engine.tend().await.unwrap();
        assert_eq!(reserve(&node), (16, KEPT_BYTES));
    }
    // That others fill the disk costs nobody what was deleted before.
    node.disk.leave_free(Some(0));
    engine.tend().await.unwrap();
    assert_eq!((deleted(&engine).len(), reserve(&node)), (2, (16, KEPT_BYTES)));
    // A part of it is none.
    node.disk.remove(&Path::new(RESERVE).join("07")).unwrap();
    drop(engine);
    node.disk.leave_free(Some(4 * KEPT_BYTES));
    let engine = node.open();
    engine.tend().await.unwrap();
    assert_eq!(reserve(&node), (16, KEPT_BYTES));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_deletes_on_a_full_disk_takes_nothing_that_another_project_could_have_back() {
    let (node, engine) = a_node(155).await;
    let theirs = Project::new("acme", "search").unwrap().namespace("docs").unwrap();
    engine.write(&theirs, request(rows(1))).await.unwrap();
    let found = |engine: &Engine| documents(&engine.view(&theirs).unwrap());
    let before = found(&engine);
    engine.delete(&theirs).await.unwrap();
    engine.tend().await.unwrap();
    node.disk.leave_free(Some(0));
    for n in 2..10 {
        engine.delete(&name(&format!("n{n}"))).await.unwrap();
    }
    engine.tend().await.unwrap();
    assert_eq!(deleted(&engine), Vec::<String>::new());
    node.disk.leave_free(Some(16 << 20));
    engine.tend().await.unwrap();
    engine.undelete(&theirs, None).await.unwrap();
    assert_eq!(found(&engine), before);
    assert!(engine.check(4).unwrap().is_whole());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_project_has_no_room_for_takes_nothing_that_was_deleted() {
    let (node, engine) = a_node(156).await;
    engine.tend().await.unwrap();
    node.disk.leave_free(Some(8 << 20));
    let of = |project: &str| Project::new("acme", project).unwrap().namespace("docs").unwrap();
    let too_large = async |name, bytes: u64| {
        let request = WriteRequest { body_bytes: bytes, ..request(rows(1)) };
        assert_eq!(engine.write(&name, request).await.unwrap_err().code(), "disk_full");
    };
    let much = 60 << 20;
    too_large(of("search"), much).await;
    engine.delete(&name("n9")).await.unwrap();
    engine.tend().await.unwrap();
    assert_eq!(deleted(&engine).len(), 2);
    // Nor does one that it gave up, when it asks for less, and however much another asks for.
    too_large(name("n1"), much).await;
    too_large(of("search"), much).await;
    node.disk.leave_free(Some(KEPT_BYTES + (16 << 10)));
    too_large(name("n1"), 17 << 10).await;
    engine.delete(&name("n8")).await.unwrap();
    assert_eq!(deleted(&engine).len(), 2, "the room of one is enough");
    // Who is refused, and deletes, has the room of what was deleted.
    too_large(name("n1"), much).await;
    engine.delete(&name("n7")).await.unwrap();
    assert_eq!(deleted(&engine), Vec::<String>::new());
    assert!(engine.check(4).unwrap().is_whole());
}

/// Its newest log has a change of the schema alone, and whoever shares it makes a segment first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_goes_from_a_full_disk_though_the_schema_changed_last() {
    let (node, engine) = a_node(158).await;
    engine.tend().await.unwrap();
    let n1 = name("n1");
    for tag in ["first", "second"] {
        engine.tag(&n1, tag, None).await.unwrap();
    }
    engine.update_schema(&n1, parse_schema("", json!({"q": "int"})).unwrap()).await.unwrap();
    node.disk.leave_free(Some(0));
    engine.untag(&n1, "first").await.unwrap();
    // What was is named without a segment of what is.
    node.disk.leave_free(Some(KEPT_BYTES));
    engine.tag(&n1, "third", Some(&AsOf::Tag("second".to_owned()))).await.unwrap();
    assert_eq!(engine.tags(&n1).unwrap().len(), 2);
    assert!(engine.check(4).unwrap().is_whole());
}
