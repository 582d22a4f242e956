//! What late interaction finds and costs by clusters, beside all tokens compared: `SHOAL_DATA=DIR cargo bench --bench tokens`.
//!
//! No set of token vectors is at hand, so documents are made of debpkg's embeddings of passages: each of 8 to 32 passages that
//! follow each other, as tokens of one text do in what they are about; a document begins every `SHOAL_BENCH_STRIDE` (8) passages.
//! Queries are of two kinds: 16 tokens of one document with noise added, and 16 held-out queries that are near to each other. All
//! documents are in one segment, in memory; recall is that of the ten nearest; times are of one thread.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on fails")]

#[expect(dead_code, reason = "the other readers are for tests")]
#[path = "../tests/real_data/data.rs"]
mod data;

use std::sync::Arc;
use std::time::{Duration, Instant};

use roaring::RoaringBitmap;
use shoal::model::document::Document;
use shoal::model::ids::{DocId, Version};
use shoal::model::schema::{AttributeType, Column, ColumnUid, Metric, Schema};
use shoal::model::value::{Multivector, Value};
use shoal::platform::allowance::Allowance;
use shoal::platform::mmap::Mapping;
use shoal::platform::random::{Random, SeededRandom};
use shoal::segment::Segment;
use shoal::segment::builder::{Entry, build};
use shoal::segment::vectors::{QueryTokens, Wanted};
use uuid::Uuid;

const K: usize = 10;
const QUERY_TOKENS: usize = 16;
const QUERIES: usize = 100;
const RECALLS: [f32; 3] = [0.9, 0.95, 0.99];

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

/// A number from -1 to 1.
fn noise(random: &SeededRandom) -> f32 {
    (random.next_u64() >> 40) as f32 / (1 << 23) as f32 - 1.0
}

fn built(base: &data::Vectors, rows: usize, stride: usize) -> (Segment, ColumnUid, Vec<Multivector>) {
    let random = SeededRandom::new(1);
    let dims = base.dims as u32;
    let column = Column { late_interaction: true, ..Column::new("tokens", AttributeType::Multivector { dims }, 0) };
    let uid = column.uid();
    let schema = Schema { metric: Some(Metric::CosineDistance), columns: vec![column], ..Schema::default() };
    let documents: Vec<Multivector> = (0..rows.saturating_sub(32))
        .step_by(stride)
        .map(|first| {
            let rows = first..first + 8 + random.next_u64() as usize % 25;
            Multivector { dims, elements: rows.flat_map(|row| base.row(row)).copied().collect() }
        })
        .collect();
    let entries: Vec<Entry> = (0..)
        .zip(&documents)
        .map(|(id, tokens)| {
            let fields = vec![(uid, Value::Multivector(tokens.clone()))];
            let document = Document { id: DocId::Uint(id), version: Version::default(), fields, patch: None };
            Entry::Row { document: Arc::new(document), terms: Vec::new() }
        })
        .collect();
    let start = Instant::now();
    let mut file = Vec::new();
    build(Uuid::nil(), &schema, &entries, &mut file).unwrap();
    let took = start.elapsed();
    let segment = Segment::open(Mapping::of_bytes(file), "segment").unwrap();
    let reader = segment.tokens(uid).unwrap().unwrap();
    let bytes = reader.token_count() * reader.token_bytes();
    println!(
        "built {} documents of {} tokens in {:.2} s; {:.3} times the bytes of the tokens, {} clusters",
        documents.len(),
        reader.token_count(),
        took.as_secs_f64(),
        segment.file().unwrap().len() as f64 / bytes as f64,
        reader.clusters().unwrap().unwrap_or_default()
    );
    (segment, uid, documents)
}

/// Tokens of a document each, with noise.
fn noisy(documents: &[Multivector]) -> Vec<Multivector> {
    let random = SeededRandom::new(2);
    (0..QUERIES)
        .map(|_| {
            let document = &documents[random.next_u64() as usize % documents.len()];
            let tokens: Vec<&[f32]> = document.tokens().collect();
            let scale = 1.5 / (document.dims as f32).sqrt();
            let elements = (0..QUERY_TOKENS).flat_map(|_| tokens[random.next_u64() as usize % tokens.len()]);
            let elements = elements.map(|x| x + scale * noise(&random)).collect();
            Multivector { dims: document.dims, elements }
        })
        .collect()
}

/// Held-out queries, each with those nearest to it.
fn held_out(queries: &data::Vectors) -> Vec<Multivector> {
    let product = |a: usize, b: usize| queries.row(a).iter().zip(queries.row(b)).map(|(a, b)| a * b).sum::<f32>();
    (0..queries.len())
        .step_by(queries.len() / QUERIES)
        .take(QUERIES)
        .map(|at| {
            let mut others: Vec<usize> = (0..queries.len()).collect();
            others.sort_by(|a, b| product(at, *b).total_cmp(&product(at, *a)));
            let elements = others[..QUERY_TOKENS].iter().flat_map(|at| queries.row(*at)).copied().collect();
            Multivector { dims: queries.dims as u32, elements }
        })
        .collect()
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e3
}

fn report(segment: &Segment, uid: ColumnUid, name: &str, queries: &[Multivector], rows: Option<&RoaringBitmap>) {
    let (reader, none, allowance) =
        (segment.tokens(uid).unwrap().unwrap(), RoaringBitmap::new(), Allowance::unlimited());
    let queries: Vec<QueryTokens> =
        queries.iter().map(|tokens| QueryTokens::new(Metric::CosineDistance, tokens).unwrap()).collect();
    let (mut truths, mut times) = (Vec::new(), Vec::new());
    for query in &queries {
        let start = Instant::now();
        truths.push(reader.nearest(query, rows, &none, K, &allowance).unwrap());
        times.push(start.elapsed());
    }
    println!("{name:<28} all compared: p50 {:7.2} ms", median(times));
    for recall in RECALLS {
        let wanted = Wanted { k: K, recall, known: &[] };
        let (mut times, mut hits, mut all, mut compared, mut worst) = (Vec::new(), 0, 0, 0, K);
        for (query, truth) in queries.iter().zip(&truths) {
            let start = Instant::now();
            let found = reader.nearest_by_clusters(query, &wanted, rows, &none, &allowance).unwrap();
            times.push(start.elapsed());
            let documents = found.as_ref().map_or(u64::from(reader.rows()), |found| found.documents);
            let nearest = found.map_or_else(|| truth.clone(), |found| found.nearest);
            let found = truth.iter().filter(|near| nearest.contains(near)).count();
            (hits, all, compared, worst) = (hits + found, all + truth.len(), compared + documents, worst.min(found));
        }
        println!(
            "{name:<28} for {recall:.2}: found {:.4}, worst {worst} of {K}; p50 {:7.2} ms, {:.0} documents compared",
            f64::from(hits as u32) / f64::from(all as u32),
            median(times),
            compared as f64 / queries.len() as f64
        );
    }
}

fn main() {
    let Some(folder) = data::folder("tokens") else { return };
    let base = data::Vectors::read(&folder.join("debpkg/base.f16.npy"));
    let rows = number("SHOAL_BENCH_ROWS", base.len()).min(base.len());
    let (segment, uid, documents) = built(&base, rows, number("SHOAL_BENCH_STRIDE", 8));
    let sets = [
        ("noisy tokens", noisy(&documents)),
        ("held-out queries", held_out(&data::Vectors::read(&folder.join("debpkg/queries.f16.npy")))),
    ];
    for (name, queries) in &sets {
        report(&segment, uid, name, queries, None);
        for every in [5, 50] {
            let rows: RoaringBitmap = (0..segment.rows()).filter(|row| row % every == 1).collect();
            report(&segment, uid, &format!("{name}, 1 in {every}"), queries, Some(&rows));
        }
    }
}
