//! Measures building, merging and searching segments: `cargo bench --bench segment`. Prints the best of a few runs.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on fails")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use roaring::RoaringBitmap;
use shoal::model::document::Document;
use shoal::model::ids::{DocId, Hlc, Origin, Version};
use shoal::model::schema::{AttributeType, Column, Element, FullText, Metric, Schema};
use shoal::model::value::{Value, Vector};
use shoal::platform::allowance::Allowance;
use shoal::platform::mmap::Mapping;
use shoal::platform::random::{Random, SeededRandom};
use shoal::segment::Segment;
use shoal::segment::builder::{Entry, build};
use shoal::segment::merge::{Input, merge};
use shoal::segment::text::tokens::Analyzer;
use shoal::segment::vectors::QueryVector;
use uuid::Uuid;

const DIMS: u32 = 384;

/// A vector, a text of some 40 words, and 16 attributes: few values, many, unique, arrays.
fn schema() -> Schema {
    let mut columns = vec![Column::new("vector", AttributeType::Vector { dims: DIMS, element: Element::F32 }, 0)];
    let mut text = Column::new("text", AttributeType::String, 0);
    text.filterable = false;
    text.full_text = Some(FullText::default());
    columns.push(text);
    let kinds = [AttributeType::String, AttributeType::Int, AttributeType::Strings, AttributeType::DateTime];
    for n in 0..16 {
        columns.push(Column::new(format!("attribute_{n}"), kinds[n % kinds.len()], 0));
    }
    Schema { metric: Some(Metric::CosineDistance), columns, ..Schema::default() }
}

fn entries(schema: &Schema, first: u64, step: u64, rows: u64) -> Vec<Entry> {
    let random = SeededRandom::new(first + 1);
    let below = |n: u64| random.next_u64() % n;
    let mut analyzer = Analyzer::new(&FullText::default());
    let text_uid = schema.columns[1].uid();
    (0..rows)
        .map(|row| {
            let id = first + row * step;
            let mut fields = Vec::new();
            for (n, column) in schema.columns.iter().enumerate() {
                let distinct = [10, 1_000, 1 << 40][n % 3];
                let value = match column.kind {
                    AttributeType::Vector { .. } => {
                        Value::Vector(Vector::F32((0..DIMS).map(|_| below(1 << 20) as f32 / 1e6 - 0.5).collect()))
                    }
                    AttributeType::Int => Value::Int(below(distinct) as i64),
                    AttributeType::DateTime => Value::DateTime(1_700_000_000_000 + below(distinct) as i64),
                    AttributeType::Strings => {
                        Value::Strings((0..below(5)).map(|_| format!("tag-{}", below(200))).collect())
                    }
                    _ if n == 1 => {
                        let words: Vec<String> = (0..40).map(|_| format!("w{}", below(200) * below(200))).collect();
                        Value::String(words.join(" "))
                    }
                    _ => Value::String(format!("package-{:x}", below(distinct))),
                };
                fields.push((column.uid(), value));
            }
            fields.sort_by_key(|(uid, _)| *uid);
            let version = Version { hlc: Hlc(1 << 40 | id), origin: Origin(7) };
            let document = Document { id: DocId::Uint(id), version, fields, patch: None };
            let terms = vec![(text_uid, analyzer.analyze(document.get(text_uid).unwrap()))];
            Entry::Row { document: Arc::new(document), terms }
        })
        .collect()
}

fn best<T>(what: &str, runs: usize, mut run: impl FnMut() -> T) -> T {
    let mut least = Duration::MAX;
    let mut last = None;
    for _ in 0..runs {
        let start = Instant::now();
        last = Some(run());
        least = least.min(start.elapsed());
    }
    println!("{what}: {:.3} ms", least.as_secs_f64() * 1e3);
    last.unwrap()
}

fn segment(bytes: Vec<u8>) -> Segment {
    Segment::open(Mapping::of_bytes(bytes), "bench.seg").unwrap()
}

fn main() {
    let schema = schema();
    let few = entries(&schema, 0, 1, 8_000);
    let bytes = best("build 8,000 rows", 5, || {
        let mut bytes = Vec::with_capacity(32 << 20);
        build(Uuid::nil(), &schema, &few, &mut bytes).unwrap();
        bytes
    });
    println!("  {} bytes, {} without vectors", bytes.len(), bytes.len() - 8_000 * 4 * DIMS as usize);
    let of_few = segment(bytes);
    best("verify 8,000 rows", 2, || of_few.verify().unwrap());
    let rows: Vec<u32> = (0..1_000).map(|n| n * 7_919 % 8_000).collect();
    best("1,000 documents in no order", 5, || {
        rows.iter().map(|row| of_few.document(*row, None).unwrap().fields.len()).sum::<usize>()
    });
    best("8,000 documents in order, without vectors", 5, || {
        let columns: Vec<_> = of_few.columns().iter().filter(|c| !c.column.kind.is_vector()).map(|c| c.uid).collect();
        let mut scan = of_few.scan().unwrap();
        (0..8_000).map(|row| scan.document(row, Some(&columns)).unwrap().fields.len()).sum::<usize>()
    });
    best("8,000 ids found", 5, || {
        (0..8_000).filter(|id| of_few.row_of(&DocId::Uint(*id)).unwrap().is_some()).count()
    });
    let parts: Vec<Segment> = (0..4)
        .map(|part| {
            let mut bytes = Vec::new();
            build(Uuid::nil(), &schema, &entries(&schema, part, 4, 8_000), &mut bytes).unwrap();
            segment(bytes)
        })
        .collect();
    let dead: RoaringBitmap = (0..8_000).step_by(50).collect();
    best("merge 4 x 8,000 rows", 3, || {
        let inputs: Vec<Input> = parts.iter().map(|segment| Input { segment, dead: &dead }).collect();
        merge(Uuid::nil(), &schema, &inputs, Hlc(0), &mut std::io::sink()).unwrap()
    });
    drop((parts, few));
    let vectors = Schema { columns: vec![schema.columns[0].clone()], ..schema };
    let mut bytes = Vec::with_capacity(200 << 20);
    build(Uuid::nil(), &vectors, &entries_of_vectors(&vectors), &mut bytes).unwrap();
    let many = segment(bytes);
    let reader = many.vectors(vectors.columns[0].uid()).unwrap().unwrap();
    let query = QueryVector::new(Metric::CosineDistance, (0..DIMS).map(|n| n as f32 - 190.0).collect());
    let none = RoaringBitmap::new();
    best("nearest 10 of 120,000 x 384, checksums for the first time", 1, || {
        reader.nearest(&query, None, &none, 10, &Allowance::unlimited()).unwrap()
    });
    best("nearest 10 of 120,000 x 384", 7, || {
        reader.nearest(&query, None, &none, 10, &Allowance::unlimited()).unwrap()
    });
    let half: RoaringBitmap = (0..120_000).step_by(2).collect();
    best("nearest 10 of every second", 7, || {
        reader.nearest(&query, Some(&half), &none, 10, &Allowance::unlimited()).unwrap()
    });
    best("nearest 10 of 120,000 x 384, one dead", 7, || {
        reader.nearest(&query, None, &[7].into_iter().collect(), 10, &Allowance::unlimited()).unwrap()
    });
}

fn entries_of_vectors(schema: &Schema) -> Vec<Entry> {
    let random = SeededRandom::new(5);
    let uid = schema.columns[0].uid();
    (0..120_000)
        .map(|id| {
            let vector = (0..DIMS).map(|_| (random.next_u64() >> 40) as f32 / 1e7 - 0.8).collect();
            let fields = vec![(uid, Value::Vector(Vector::F32(vector)))];
            let document = Document { id: DocId::Uint(id), version: Version::default(), fields, patch: None };
            Entry::Row { document: Arc::new(document), terms: Vec::new() }
        })
        .collect()
}
