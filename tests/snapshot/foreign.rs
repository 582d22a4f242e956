//! A snapshot or an export of a state that no namespace can come to is refused with words, and changes nothing.

use std::path::Path;

use serde_json::json;
use shoal::error::Kind;
use shoal::format::manifest::{Lineage, Manifest, ORIGINS_MAX};
use shoal::model::ids::{Hlc, IdType, Origin};
use shoal::model::schema::{AttributeType, COLUMNS_MAX, Column, Schema};
use shoal::snapshot::take::Extent;

use super::node::{Node, exported, files, imported, restored, rewritten, snapshot, write};

type Edit = fn(&mut Manifest);

/// What was written over a manifest whose every checksum is right, and what the refusal says.
const EDITS: [(Edit, &str); 18] = [
    (|m| m.schema.columns.extend(m.schema.columns.clone()), "there are two of this name"),
    (|m| m.schema = wide(&m.schema, COLUMNS_MAX + 1), "expected at most 1024 of each"),
    (
        |m| m.schema.dropped = (0..=COLUMNS_MAX).map(|n| (format!("d{n}"), 1)).collect(),
        "expected at most 1024 of each",
    ),
    (|m| m.schema.dropped = vec![("d".into(), 1), ("d".into(), 1)], "'d' was dropped 1 times"),
    (|m| m.schema.dropped = vec![("d".into(), u32::MAX)], "was dropped 4294967295 times"),
    (|m| column(m, "vector").full_text = Some(Default::default()), "the type is [2]f32"),
    (|m| column(m, "vector").filterable = true, "cannot be filterable"),
    (|m| column(m, "text").late_interaction = true, "late_interaction is for multivectors"),
    (|m| column(m, "text").full_text.as_mut().unwrap().k1 = -1.0, "full_text_search.k1 is -1"),
    (|m| column(m, "text").derived_from = Some("nobody".into()), "attribute 'nobody' not found"),
    (|m| m.schema.columns.push(Column::new("", AttributeType::Int, 0)), "is empty"),
    (|m| m.schema.columns.push(Column::new("id", AttributeType::Int, 0)), "is reserved"),
    (|m| m.schema.columns.push(Column::new("x".repeat(2 << 20), AttributeType::Int, 0)), "expected at most 128"),
    (|m| m.labels = (0..65).map(|n| (n.to_string(), String::new())).collect(), "65 labels, at most 64"),
    (|m| m.lineage = Some(named("a/b/".to_owned() + &"x".repeat(2 << 20))), "the parent's name has 2097156 bytes"),
    (|m| (1..ORIGINS_MAX as u64).for_each(|n| m.version_vector.see(Origin(n), Hlc(1))), "expected less than 65536"),
    (|m| m.data_seq = u64::MAX, "its newest commit is number 18446744073709551615"),
    (|m| m.horizon = Hlc(u64::MAX), "beyond the year 9999"),
];

/// The same over what its segments have.
const OF_SEGMENTS: [(Edit, &str); 3] = [
    (|m| m.schema.metric = None, "has vectors of attribute 'vector', and the schema says no distance metric"),
    (|m| m.schema.id_type = Some(IdType::Uuid), "has ids that are uint, the schema says uuid"),
    (
        |m| (m.hlc, m.version_vector) = (Hlc(1), Default::default()),
        "and the newest commit of its state is of clock 1",
    ),
];

fn wide(schema: &Schema, columns: usize) -> Schema {
    let mut wide = schema.clone();
    wide.columns.extend((0..columns).map(|n| Column::new(format!("c{n}"), AttributeType::Int, 0)));
    wide
}

fn column<'a>(manifest: &'a mut Manifest, name: &str) -> &'a mut Column {
    manifest.schema.columns.iter_mut().find(|column| column.name == name).unwrap()
}

fn named(name: String) -> Lineage {
    let text = json!({"nsid": uuid::Uuid::nil(), "commit_id": uuid::Uuid::nil(), "name": name});
    serde_json::from_value(text).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_no_namespace_can_come_to_is_refused() {
    let node = Node::new(31);
    let engine = node.open().unwrap();
    let rows = json!({"upsert_rows": [{"id": 1, "vector": [1.0, 2.0], "text": "blue fish"}],
        "distance_metric": "cosine_distance", "schema": {"text": {"type": "string", "full_text_search": true}}});
    write(&engine, "docs", rows).await;
    let whole = snapshot(&engine, "docs", Extent::Full).await.unwrap();
    let before = files(&node.disk, Path::new("/data"));
    for (edit, said) in EDITS.iter().chain(&OF_SEGMENTS) {
        let wrong = rewritten(&whole, |_, manifest| edit(manifest));
        let refused = restored(&engine, "back", &wrong).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::Invalid, "{said}: {refused}");
        assert!(refused.message().contains(said), "{said}: {refused}");
        assert!(refused.message().len() < 1_000 && files(&node.disk, Path::new("/data")) == before, "{said}");
    }
    restored(&engine, "back", &rewritten(&whole, |_, _| ())).await.unwrap();
    engine.checkpoint(&super::node::name("back")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_of_such_a_state_is_refused_too() {
    let node = Node::new(32);
    let engine = node.open().unwrap();
    write(
        &engine,
        "docs",
        json!({"upsert_rows": [{"id": 1, "vector": [1.0, 2.0]}], "distance_metric": "dot_product"}),
    )
    .await;
    let text = String::from_utf8(exported(&engine, "docs").await.unwrap()).unwrap();
    let (first, rest) = text.split_once('\n').unwrap();
    for (key, value, said) in [
        ("labels", json!({"": "x"}), "names have 1 to 256 bytes"),
        ("dropped", json!([["d", u32::MAX]]), "was dropped 4294967295 times"),
        ("data_seq", json!(u64::MAX), "its newest commit is number"),
    ] {
        let mut line: serde_json::Value = serde_json::from_str(first).unwrap();
        line[key] = value;
        let body = rest.lines().filter(|line| !line.contains("shoal_export_end"));
        let mut wrong: String =
            std::iter::once(line.to_string()).chain(body.map(str::to_owned)).map(|l| l + "\n").collect();
        let crc32c = format!("{:08x}", crc32c::crc32c(wrong.as_bytes()));
        wrong += &json!({"shoal_export_end": {"documents": 1, "crc32c": crc32c}}).to_string();
        let refused = imported(&engine, "back", wrong.as_bytes()).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::Invalid, "{said}: {refused}");
        assert!(refused.message().contains(said), "{said}: {refused}");
    }
    imported(&engine, "back", text.as_bytes()).await.unwrap();
}
