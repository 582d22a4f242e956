//! Documents from JSON, split between the tail and segments.

use std::sync::Arc;

use roaring::RoaringBitmap;
use serde_json::Value as Json;
use shoal::engine::analyzers::Analyzers;
use shoal::engine::view::{SegmentView, Tail, TailRow, View};
use shoal::engine::write::typing;
use shoal::model::document::Document;
use shoal::model::ids::{DocId, IdType, Version};
use shoal::model::query::Recall;
use shoal::model::schema::{AttributeType, Column, ColumnUid, FullText, Metric, Schema};
use shoal::platform::mmap::Mapping;
use shoal::segment::Segment;
use shoal::segment::builder::{Entry, build as build_segment};
use shoal::segment::text::terms::DocTerms;
use uuid::Uuid;

use crate::generate::Generator;

/// How a segment was built.
#[derive(Clone, Copy, PartialEq)]
pub enum Age {
    /// With the schema of today.
    Current,
    /// With other indexes: nothing filterable or for patterns, text analysed otherwise.
    Unindexed,
    /// Before the attribute `late` was there, and before positions were kept.
    Old,
}

pub fn schema(age: Age) -> Schema {
    let indexed = age != Age::Unindexed;
    let column = |name: &str, kind: &str| {
        let column = Column::new(name, AttributeType::parse(kind).unwrap(), 0);
        Column { filterable: column.filterable && indexed, ..column }
    };
    let positions = age == Age::Current;
    let options = FullText { case_sensitive: age == Age::Unindexed, positions, ..FullText::default() };
    let text = Column { full_text: Some(options.clone()), filterable: false, ..column("text", "string") };
    let lines = Column { full_text: Some(options), filterable: false, ..column("lines", "[]string") };
    let mut columns = vec![
        column("n", "int"),
        column("u", "uint"),
        column("x", "float"),
        Column { fuzzy: indexed, ..column("s", "string") },
        column("t", "datetime"),
        column("ok", "bool"),
        column("tags", "[]string"),
        column("counts", "[]uint"),
        Column { glob: indexed, fuzzy: indexed, filterable: false, ..column("note", "string") },
        text,
        lines,
        column("vector", "[4]f32"),
        column("half", "[3]f16"),
        column("weights", "{}f16"),
        Column { late_interaction: true, ..column("tokens", "[][2]f32") },
        column("stored", "[][2]f32"),
    ];
    if age != Age::Old {
        columns.push(column("late", "int"));
    }
    Schema { id_type: Some(IdType::Uint), metric: Some(Metric::EuclideanSquared), columns, ..Schema::default() }
}

pub fn document(json: &Json) -> Document {
    let schema = schema(Age::Current);
    let id = DocId::Uint(json["id"].as_u64().unwrap());
    let mut document = Document { id, version: Version::default(), fields: Vec::new(), patch: None };
    for (name, json) in json.as_object().unwrap().iter().filter(|(name, _)| *name != "id") {
        let column = schema.column(name).unwrap();
        let value = typing::value(column.kind, json, &mut Vec::new()).unwrap();
        document.set(column.uid(), Some(value));
    }
    document
}

/// The terms of a row of the tail; some rows were written before positions were kept.
fn terms_of(document: &Document) -> Vec<(ColumnUid, DocTerms)> {
    let keeps_positions = matches!(document.id, DocId::Uint(n) if n % 3 > 0);
    let schema = schema(if keeps_positions { Age::Current } else { Age::Old });
    let mut analyzers = Analyzers::new();
    let text = schema.columns.iter().filter_map(|column| {
        let (options, value) = (column.full_text.as_ref()?, document.get(column.uid())?);
        Some((column.uid(), analyzers.terms(options, value)))
    });
    text.collect()
}

fn segment(age: Age, documents: &[Document]) -> Segment {
    let entries: Vec<Entry> = documents
        .iter()
        .map(|document| Entry::Row { document: Arc::new(document.clone()), terms: Vec::new() })
        .collect();
    let mut bytes = Vec::new();
    build_segment(Uuid::from_u128(1), &schema(age), &entries, &mut bytes).unwrap();
    Segment::open(Mapping::of_bytes(bytes), "segment.seg").unwrap()
}

/// A view of these documents. Segments also hold dead rows: earlier states of documents, and deleted ones.
pub fn build(documents: &[Json], segments: usize, generator: &mut Generator) -> View {
    let ages: Vec<Age> =
        (0..segments).map(|_| [Age::Current, Age::Current, Age::Unindexed, Age::Old][generator.below(4)]).collect();
    let mut live: Vec<Vec<Document>> = vec![Vec::new(); segments];
    let mut dead: Vec<Vec<Document>> = vec![Vec::new(); segments];
    let mut rest = Vec::new();
    for json in documents {
        let document = document(json);
        let home = generator.below(segments + 1);
        match ages.get(home) {
            Some(Age::Old) if json.get("late").is_some() => rest.push(document.clone()),
            Some(_) => live[home].push(document.clone()),
            None => rest.push(document.clone()),
        }
        let stale = generator.below(segments + 2);
        if stale < segments && stale != home {
            let mut earlier = self::document(&generator.document(0));
            earlier.id = document.id.clone();
            dead[stale].push(earlier);
        }
    }
    for (at, dead) in dead.iter_mut().enumerate() {
        for n in 0..generator.below(6) {
            dead.push(self::document(&generator.document(1_000_000 + 100 * at as u64 + n as u64)));
        }
    }
    let mut views = Vec::new();
    for ((age, live), dead) in ages.into_iter().zip(live).zip(dead) {
        let mut all: Vec<(Document, bool)> = live.into_iter().map(|document| (document, true)).collect();
        all.extend(dead.into_iter().map(|document| (document, false)));
        all.sort_by(|a, b| a.0.id.cmp(&b.0.id));
        let gone: RoaringBitmap = (0..).zip(&all).filter(|(_, (_, live))| !live).map(|(row, _)| row).collect();
        let documents: Vec<Document> = all.into_iter().map(|(document, _)| document).collect();
        views.push(SegmentView { segment: Arc::new(segment(age, &documents)), dead: Arc::new(gone) });
    }
    let mut tail = Tail::new();
    let mut gone = Vec::new();
    generator.shuffle(&mut rest);
    for document in rest {
        if generator.below(4) == 0 {
            let other = self::document(&generator.document(2_000_000));
            gone.push(tail.push(Arc::new(TailRow { terms: terms_of(&other), document: Arc::new(other) })));
        }
        tail.push(Arc::new(TailRow { terms: terms_of(&document), document: Arc::new(document) }));
    }
    // What a search keeps of full parts of the tail outlives rows.
    for part in tail.snapshot().parts() {
        part.terms();
    }
    for slot in gone {
        tail.remove(slot).unwrap();
    }
    View {
        recall: Recall::DEFAULT,
        name: "acme/search/docs".into(),
        schema: Arc::new(schema(Age::Current)),
        segments: views,
        tail: tail.snapshot(),
        etag: "1".into(),
    }
}
