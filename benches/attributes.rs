//! Measures filters, orders, groups and scores over attributes: `cargo bench --bench attributes`. Prints the best of a few
//! runs over one segment, in process and with one thread.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on fails")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use roaring::RoaringBitmap;
use serde_json::{Value as Json, json};
use shoal::api::wire::query::parse_query;
use shoal::engine::query;
use shoal::engine::view::{SegmentView, Tail, View};
use shoal::model::document::Document;
use shoal::model::ids::{DocId, IdType, Version};
use shoal::model::query::Recall;
use shoal::model::schema::{AttributeType, Column, Schema};
use shoal::model::value::Value;
use shoal::platform::allowance::Allowance;
use shoal::platform::mmap::Mapping;
use shoal::platform::random::{Random, SeededRandom};
use shoal::segment::Segment;
use shoal::segment::builder::{Entry, build};
use uuid::Uuid;

const ROWS: u64 = 200_000;

/// Few values, many, and one for each row, as numbers and as text; and the same text without a filter's index.
fn schema() -> Schema {
    let column = |name: &str, kind: &str| Column::new(name, AttributeType::parse(kind).unwrap(), 0);
    let columns = vec![
        column("few", "string"),
        column("many", "int"),
        column("unique", "uint"),
        column("price", "float"),
        column("at", "datetime"),
        column("tags", "[]string"),
        Column { fuzzy: true, ..column("title", "string") },
        Column { glob: true, regex: true, fuzzy: true, filterable: false, ..column("path", "string") },
        Column { filterable: false, ..column("plain", "string") },
    ];
    Schema { id_type: Some(IdType::Uint), columns, ..Schema::default() }
}

fn entries(schema: &Schema) -> Vec<Entry> {
    let random = SeededRandom::new(1);
    let below = |n: u64| random.next_u64() % n;
    let row = |id: u64| {
        let title = format!("package {} for system {}", below(2_000), below(50));
        let values = [
            Value::String(format!("section-{}", below(10))),
            Value::Int(below(1_000) as i64 - 500),
            Value::Uint(id.wrapping_mul(7_919) % ROWS),
            Value::Float(below(1 << 40) as f64 / 1e6),
            Value::DateTime(1_700_000_000_000 + below(1 << 36) as i64),
            Value::Strings((0..below(5)).map(|_| format!("tag-{}", below(200))).collect()),
            Value::String(title.clone()),
            Value::String(format!("/usr/share/{title}")),
            Value::String(title),
        ];
        let mut fields: Vec<_> = schema.columns.iter().map(Column::uid).zip(values).collect();
        fields.sort_by_key(|(uid, _)| *uid);
        let document = Document { id: DocId::Uint(id), version: Version::default(), fields, patch: None };
        Entry::Row { document: Arc::new(document), terms: Vec::new() }
    };
    (0..ROWS).map(row).collect()
}

fn view() -> View {
    let schema = schema();
    let mut bytes = Vec::new();
    build(Uuid::nil(), &schema, &entries(&schema), &mut bytes).unwrap();
    println!("{ROWS} rows in {} bytes", bytes.len());
    let segment = Segment::open(Mapping::of_bytes(bytes), "bench.seg").unwrap();
    View {
        recall: Recall::DEFAULT,
        name: "bench".into(),
        schema: Arc::new(schema),
        segments: vec![SegmentView { segment: Arc::new(segment), dead: Arc::new(RoaringBitmap::new()) }],
        tail: Tail::new().snapshot(),
        etag: String::new(),
    }
}

fn main() {
    let view = view();
    let measure = |what: &str, body: Json| {
        let request = parse_query(body).unwrap().request;
        let mut least = Duration::MAX;
        for _ in 0..7 {
            let start = Instant::now();
            query::run(&view, &request, &Allowance::unlimited()).unwrap();
            least = least.min(start.elapsed());
        }
        println!("{what}: {:.3} ms", least.as_secs_f64() * 1e3);
    };
    let ranked = |by: Json| json!({"rank_by": by, "limit": 10});
    for name in ["few", "many", "unique", "price", "title", "plain"] {
        measure(&format!("order by {name}"), ranked(json!([name, "asc"])));
    }
    measure("order by few, unique", ranked(json!([["few", "asc"], ["unique", "desc"]])));
    for name in ["few", "many", "title", "unique"] {
        let aggregates = json!({"n": ["Count"], "sum": ["Sum", "price"]});
        measure(
            &format!("group by {name}"),
            json!({"aggregate_by": aggregates, "group_by": [name], "limit": 10_000}),
        );
    }
    measure(
        "group by tags",
        json!({"aggregate_by": {"n": ["Count"]}, "group_by": [{"tag": ["ForEachUnique", "tags"]}]}),
    );
    for name in ["many", "unique", "price"] {
        measure(&format!("sum of {name}"), json!({"aggregate_by": {"sum": ["Sum", name]}}));
    }
    let counted = |filter: Json| json!({"aggregate_by": {"n": ["Count"]}, "filters": filter});
    for (share, bound) in [("0.1", 200), ("10", 20_000), ("90", 180_000)] {
        measure(&format!("unique below {share} %"), counted(json!(["unique", "Lt", bound])));
    }
    let (from, to) = ("2023-11-20T00:00:00Z", "2023-11-27T00:00:00Z");
    measure("a week of at", counted(json!(["And", [["at", "Gte", from], ["at", "Lt", to]]])));
    measure(
        "a week of at, ordered by price",
        json!({"filters": ["And", [["at", "Gte", from], ["at", "Lt", to]]], "rank_by": ["price", "asc"], "limit": 10}),
    );
    measure("10 of many", counted(json!(["many", "In", (0..10).collect::<Vec<_>>()])));
    for name in ["title", "path"] {
        let fuzzy =
            json!([name, "Fuzzy", "pakage 1234", {"max_edit_distance": [{"min_query_chars": 6, "distance": 1}]}]);
        measure(&format!("{name} fuzzy"), counted(fuzzy));
    }
    measure("path glob", counted(json!(["path", "Glob", "*system 4?"])));
    measure("path glob by prefix", counted(json!(["path", "Glob", "/usr/share/package 12*"])));
    measure("path regex", counted(json!(["path", "Regex", "age 12[0-9]+ for .* 7$"])));
    measure("score by many", ranked(json!(["Max", [0, ["Attribute", "many"]]])));
    let fresh = json!(["Decay", ["Dist", ["Attribute", "at"], from], {"midpoint": "2d"}]);
    measure("score by distance of at", ranked(fresh));
}
