//! An export holds everything that makes an equal namespace, and says whether it is whole.

use std::io;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value as Json, json};
use shoal::engine::Engine;
use shoal::error::Kind;
use shoal::model::ids::DocId;
use shoal::model::schema::{Column, Schema};
use shoal::platform::memory_disk::Fault;
use shoal::snapshot::take::Extent;

use super::node::{
    Node, contents, exported, files, fill, imported, name, plain, request, restored, row, rows, snapshot, write,
};

/// What differs between two namespaces, in either direction.
async fn differences(engine: &Arc<Engine>, a: &str, b: &str) -> usize {
    let mut found = 0;
    for (from, to) in [(a, b), (b, a)] {
        let diff = engine.diff((&name(from), None), (&name(to), None)).await.unwrap();
        let count = |_| {
            found += 1;
            Ok(())
        };
        tokio::task::block_in_place(|| diff.for_each(count)).unwrap();
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_came_back_does_not_differ_and_what_changes_then_does() {
    let node = Node::new(39);
    let engine = node.open().unwrap();
    fill(&engine, "docs").await;
    imported(&engine, "import", &exported(&engine, "docs").await.unwrap()).await.unwrap();
    for (extent, to) in [(Extent::Full, "full"), (Extent::Flattened, "flat")] {
        restored(&engine, to, &snapshot(&engine, "docs", extent).await.unwrap()).await.unwrap();
    }
    for to in ["import", "full", "flat"] {
        assert_eq!(differences(&engine, "docs", to).await, 0, "{to}");
        write(&engine, to, json!({"patch_rows": [{"id": row(5)["id"], "int": 5}], "deletes": [row(6)["id"]]})).await;
        assert!(differences(&engine, "docs", to).await > 0, "{to}");
    }
}

/// Columns in an order that does not depend on when they were declared.
async fn schema(engine: &Arc<Engine>, of: &str) -> Schema {
    let mut schema = (*engine.moment_at(&name(of), None).await.unwrap().view.schema).clone();
    schema.columns.sort_by(|a: &Column, b| a.name.cmp(&b.name));
    schema
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_of_an_export_is_equal_to_its_source_to_the_bit_and_the_version() {
    let (here, there) = (Node::new(31), Node::new(32));
    let (engine, other) = (here.open().unwrap(), there.open().unwrap());
    fill(&engine, "docs").await;
    engine.set_labels(&name("docs"), [("shop".to_owned(), "17".to_owned())].into()).await.unwrap();
    let expected = plain(contents(&engine, &name("docs")).await.unwrap());
    let bytes = exported(&engine, "docs").await.unwrap();
    assert_eq!(imported(&other, "back", &bytes).await.unwrap(), 30);
    assert_eq!(contents(&other, &name("back")).await.unwrap(), expected);
    assert_eq!(schema(&other, "back").await, schema(&engine, "docs").await);
    let (before, after) =
        (engine.moment_at(&name("docs"), None).await.unwrap(), other.moment_at(&name("back"), None).await.unwrap());
    assert_eq!(after.manifest.labels, before.manifest.labels);
    assert!(after.vector.covers_all(&before.vector));
    // And an export of it has the same documents again, through a crash.
    drop(other);
    there.cut_power();
    let other = there.open().unwrap();
    let again = exported(&other, "back").await.unwrap();
    let documents = |bytes: &[u8]| {
        let text = std::str::from_utf8(bytes).unwrap();
        let mut lines: Vec<String> = text.lines().skip(1).map(str::to_owned).collect();
        lines.pop();
        lines.sort();
        lines
    };
    assert_eq!(documents(&again), documents(&bytes));
    assert!(tokio::task::block_in_place(|| other.check(3)).unwrap().is_whole());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attributes_that_were_dropped_and_declared_again_keep_their_identity() {
    let node = Node::new(33);
    let engine = node.open().unwrap();
    write(&engine, "docs", json!({"upsert_rows": [{"id": 1, "a": "x", "b": 1}]})).await;
    let schema_of = |attributes: Json| shoal::api::wire::write::parse_schema("", attributes).unwrap();
    engine.update_schema(&name("docs"), schema_of(json!({"a": {"drop": true}, "b": {"drop": true}}))).await.unwrap();
    write(&engine, "docs", json!({"upsert_rows": [{"id": 2, "a": 2.5}]})).await;
    let bytes = exported(&engine, "docs").await.unwrap();
    imported(&engine, "back", &bytes).await.unwrap();
    assert_eq!(schema(&engine, "back").await, schema(&engine, "docs").await);
    let found = contents(&engine, &name("back")).await.unwrap();
    assert!(found[&DocId::Uint(1)].fields.is_empty());
    assert_eq!(found[&DocId::Uint(2)].fields.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_namespace_is_exported_and_imported() {
    let node = Node::new(34);
    let engine = node.open().unwrap();
    engine.create(&name("docs"), Default::default()).await.unwrap();
    let bytes = exported(&engine, "docs").await.unwrap();
    assert_eq!(imported(&engine, "back", &bytes).await.unwrap(), 0);
    write(&engine, "back", rows(0, 2)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_that_is_cut_or_altered_is_refused_and_leaves_nothing() {
    let node = Node::new(35);
    let engine = node.open().unwrap();
    fill(&engine, "docs").await;
    let whole = exported(&engine, "docs").await.unwrap();
    let before = files(&node.disk, Path::new("/data"));
    // The last line needs no line break; all else is needed.
    for at in (0..100).map(|percent| whole.len() * percent / 100).chain([whole.len() - 2]) {
        let error = imported(&engine, "back", &whole[..at]).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "cut at {at}: {error}");
        let mut altered = whole.clone();
        altered[at] ^= 4;
        assert!(imported(&engine, "back", &altered).await.is_err(), "altered at {at}");
    }
    let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
    let without_end = lines[..lines.len() - 1].concat();
    let error = imported(&engine, "back", &without_end).await.unwrap_err();
    assert!(error.message().contains("cut short: it ends after 30 of 30 documents"), "{error}");
    let error = imported(&engine, "back", &[&whole[..], lines[1]].concat()).await.unwrap_err();
    assert!(error.message().contains("goes on after its last line"), "{error}");
    let twice =
        [lines[0], lines[1], lines[1], b"{\"shoal_export_end\":{\"documents\":30,\"crc32c\":\"0\"}}"].concat();
    assert!(imported(&engine, "back", &twice).await.is_err());
    let newer = String::from_utf8(whole.clone()).unwrap().replacen("\"shoal_export\":1", "\"shoal_export\":2", 1);
    let error = imported(&engine, "back", newer.as_bytes()).await.unwrap_err();
    assert_eq!(error.message(), "export of format version 2, this release reads up to 1");
    let error = imported(&engine, "back", b"{\"id\": 1}\n").await.unwrap_err();
    assert!(error.message().starts_with("line 1: expected the first line of an export"), "{error}");
    assert_eq!(files(&node.disk, Path::new("/data")), before);
    assert_eq!(imported(&engine, "docs", &whole).await.unwrap_err().code(), "exists");
    assert_eq!(imported(&engine, "back", whole.trim_ascii_end()).await.unwrap(), 30);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_that_is_there_twice_is_refused() {
    let node = Node::new(36);
    let engine = node.open().unwrap();
    write(&engine, "docs", rows(0, 2)).await;
    let whole = String::from_utf8(exported(&engine, "docs").await.unwrap()).unwrap();
    let lines: Vec<&str> = whole.lines().collect();
    let twice = ended(&[lines[0], lines[1], lines[1]]);
    let error = imported(&engine, "back", twice.as_bytes()).await.unwrap_err();
    assert!(error.message().ends_with("twice"), "{error}");
    assert!(error.message().contains(row(0)["id"].as_str().unwrap()), "{error}");
}

/// These lines of an export with the last line that belongs to them.
fn ended(lines: &[&str]) -> String {
    let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let sum = crc32c::crc32c(body.as_bytes());
    let documents = lines.len() - 1;
    format!("{body}{{\"shoal_export_end\":{{\"documents\":{documents},\"crc32c\":\"{sum:08x}\"}}}}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_nobody_could_go_on_from_is_refused() {
    let node = Node::new(41);
    let engine = node.open().unwrap();
    write(&engine, "docs", rows(0, 2)).await;
    let whole = String::from_utf8(exported(&engine, "docs").await.unwrap()).unwrap();
    let lines: Vec<&str> = whole.lines().collect();
    let hlc = serde_json::from_str::<Json>(lines[0]).unwrap()["hlc"].to_string();
    for (at, lifted, whose) in [(0, "\"hlc\":", "line 1"), (2, "\"$version\":[", "line 3")] {
        let from = format!("{lifted}{hlc}");
        assert!(lines[at].contains(&from), "{}", lines[at]);
        let far = lines[at].replace(&from, &format!("{lifted}{}", u64::MAX));
        let mut altered = lines[..lines.len() - 1].to_vec();
        altered[at] = &far;
        let error = imported(&engine, "back", ended(&altered).as_bytes()).await.unwrap_err();
        assert!(error.message().starts_with(&format!("{whose}: clock {} is beyond", u64::MAX)), "{error}");
    }
    assert_eq!(imported(&engine, "back", ended(&lines[..lines.len() - 1]).as_bytes()).await.unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instant_that_has_no_notation_is_carried_and_read_where_it_is_stored() {
    let node = Node::new(42);
    let engine = node.open().unwrap();
    let schema = json!({"t": "datetime", "all": "[]datetime"});
    let last = "9999-12-31T23:59:59Z";
    write(&engine, "docs", json!({"upsert_rows": [{"id": 1, "t": last, "all": [last]}], "schema": schema})).await;
    let beyond = json!({"upsert_rows": [{"id": 1, "t": "9999-12-31T23:59:59-00:01"}], "schema": schema});
    assert!(engine.write(&name("docs"), request(beyond)).await.is_err());
    let whole = String::from_utf8(exported(&engine, "docs").await.unwrap()).unwrap();
    // As earlier releases took it, with an offset.
    let late = whole.replace(&format!("\"{last}\""), "253402300859000");
    let lines: Vec<&str> = late.lines().collect();
    let altered = ended(&lines[..lines.len() - 1]);
    imported(&engine, "late", altered.as_bytes()).await.unwrap();
    let stored = contents(&engine, &name("late")).await.unwrap();
    let stored = stored.values().next().unwrap();
    assert!(format!("{:?}", stored.fields).contains("253402300859000"), "{stored:?}");
    let again = String::from_utf8(exported(&engine, "late").await.unwrap()).unwrap();
    assert_eq!(again.lines().nth(1), Some(lines[1]));
    restored(&engine, "again", &snapshot(&engine, "late", Extent::Full).await.unwrap()).await.unwrap();
    assert_eq!(differences(&engine, "late", "again").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_that_fails_at_any_operation_leaves_nothing_or_the_whole() {
    let source = Node::new(37);
    let engine = source.open().unwrap();
    fill(&engine, "docs").await;
    let expected = plain(contents(&engine, &name("docs")).await.unwrap());
    let bytes = exported(&engine, "docs").await.unwrap();
    for at in 0.. {
        let node = Node::new(38);
        let engine = node.open().unwrap();
        let first = node.disk.operations();
        let fault = Fault { at: first + at, forever: at % 2 == 0, kind: io::ErrorKind::Other };
        node.disk.set_fault(Some(fault));
        let done = imported(&engine, "docs", &bytes).await;
        let is_hit = node.disk.operations() > first + at;
        node.disk.set_fault(None);
        drop(engine);
        node.cut_power();
        let engine = node.open().unwrap();
        match contents(&engine, &name("docs")).await {
            Ok(found) => assert_eq!(found, expected, "operation {at}"),
            Err(error) => {
                assert_eq!((error.kind(), done.is_err()), (Kind::NotFound, true), "operation {at}: {error}");
                let report = tokio::task::block_in_place(|| engine.check(3)).unwrap();
                assert!(report.is_whole() && report.orphans == 0, "operation {at}: {report:?}");
                imported(&engine, "docs", &bytes).await.unwrap();
            }
        }
        if !is_hit {
            assert!(at > 20, "only {at} operations");
            break;
        }
    }
}
