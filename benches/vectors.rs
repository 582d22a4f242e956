//! What searching a segment's clusters of vectors finds and costs: `SHOAL_DATA=DIR cargo bench --bench vectors`.
//!
//! All of debpkg in one segment, in memory. Recall is that of the ten nearest against exact search, on the even ones of debpkg's
//! held-out queries (which the stop rule was made with), on the odd ones, and on those of other collections. Times are of one
//! thread: the whole search of one vector, from the query as numbers to rows with exact distances. `SHOAL_BENCH_ROWS=N` takes
//! the first N rows; names behind `--` take only the rows of the table that begin with one of them.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on fails")]

#[expect(dead_code, reason = "the other readers are for tests")]
#[path = "../tests/real_data/data.rs"]
mod data;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use roaring::RoaringBitmap;
use shoal::model::document::Document;
use shoal::model::ids::{DocId, Hlc, Version};
use shoal::model::schema::{AttributeType, Column, ColumnUid, Element, Metric, Schema};
use shoal::model::value::{Value, Vector};
use shoal::platform::allowance::Allowance;
use shoal::platform::mmap::Mapping;
use shoal::segment::Segment;
use shoal::segment::builder::{Entry, build};
use shoal::segment::merge::{Input, merge};
use shoal::segment::vectors::{ClusterQuery, Probed, QueryVector, Wanted};
use uuid::Uuid;

const K: usize = 10;
/// A query's time is the median of so many passes over all queries, which leaves out what else the machine did.
const PASSES: usize = 5;
const RECALLS: [f32; 5] = [0.9, 0.92, 0.95, 0.97, 0.99];

struct Index {
    segment: Segment,
    schema: Schema,
    column: ColumnUid,
}

struct Found {
    recall: Vec<f64>,
    times: Vec<Duration>,
    clusters: u64,
    scanned: u64,
    refined: u64,
}

impl Index {
    /// All of `rows` in one segment.
    fn new(base: &data::Vectors, rows: usize) -> Self {
        let start = Instant::now();
        let index = Index::built(base, (0..rows).collect(), Metric::CosineDistance);
        index.say("built", start.elapsed(), base);
        index
    }

    /// The same, of two segments that are merged: one row in five is in the smaller one.
    fn merged(base: &data::Vectors, rows: usize) -> Self {
        let (few, many): (Vec<usize>, Vec<usize>) = (0..rows).partition(|row| row % 5 == 0);
        let [few, many] = [few, many].map(|rows| Index::built(base, rows, Metric::CosineDistance));
        let none = RoaringBitmap::new();
        let inputs = [&few, &many].map(|index| Input { segment: &index.segment, dead: &none });
        let mut file = Vec::new();
        let start = Instant::now();
        merge(Uuid::nil(), &few.schema, &inputs, Hlc(0), &mut file).unwrap();
        let took = start.elapsed();
        let segment = Segment::open(Mapping::of_bytes(file), "merged").unwrap();
        let index = Index { segment, schema: few.schema.clone(), column: few.column };
        index.say("merged", took, base);
        index
    }

    fn built(base: &data::Vectors, rows: Vec<usize>, metric: Metric) -> Self {
        let column =
            Column::new("vector", AttributeType::Vector { dims: base.dims as u32, element: Element::F32 }, 0);
        let uid = column.uid();
        let schema = Schema { metric: Some(metric), columns: vec![column], ..Schema::default() };
        let entries: Vec<Entry> = rows
            .into_iter()
            .map(|row| {
                // All of length 1 as they are, which only the angle may ignore.
                let length = if metric == Metric::CosineDistance { 1.0 } else { 0.5 + (row % 97) as f32 / 64.0 };
                let vector = Value::Vector(Vector::F32(base.row(row).iter().map(|x| x * length).collect()));
                let (id, version) = (DocId::Uint(row as u64), Version::default());
                let document = Document { id, version, fields: vec![(uid, vector)], patch: None };
                Entry::Row { document: Arc::new(document), terms: Vec::new() }
            })
            .collect();
        let mut file = Vec::new();
        build(Uuid::nil(), &schema, &entries, &mut file).unwrap();
        Index { segment: Segment::open(Mapping::of_bytes(file), "segment").unwrap(), schema, column: uid }
    }

    fn metric(&self) -> Metric {
        self.schema.metric.unwrap()
    }

    fn say(&self, what: &str, took: Duration, base: &data::Vectors) {
        let rows = self.segment.rows() as usize;
        println!(
            "{what} {rows} rows in {:.2} s, {:.0} a second; {:.3} times the bytes of the vectors, {} clusters",
            took.as_secs_f64(),
            rows as f64 / took.as_secs_f64(),
            self.segment.file().unwrap().len() as f64 / (rows * base.dims * 4) as f64,
            self.segment.vectors(self.column).unwrap().unwrap().clusters().unwrap().unwrap_or_default()
        );
    }

    fn exact(&self, query: &[f32], k: usize, rows: Option<&RoaringBitmap>) -> Vec<u32> {
        let query = QueryVector::new(self.metric(), query.to_vec());
        let vectors = self.segment.vectors(self.column).unwrap().unwrap();
        let found = vectors.nearest(&query, rows, &RoaringBitmap::new(), k, &Allowance::unlimited()).unwrap();
        found.into_iter().map(|(_, row)| row).collect()
    }

    fn search(&self, queries: &[&[f32]], truth: &[Vec<u32>], wanted: Wanted, rows: Option<&RoaringBitmap>) -> Found {
        let mut found = Found { recall: Vec::new(), times: Vec::new(), clusters: 0, scanned: 0, refined: 0 };
        let mut times = vec![Vec::new(); queries.len()];
        for pass in 0..PASSES {
            for ((values, truth), times) in queries.iter().zip(truth).zip(&mut times) {
                let start = Instant::now();
                let probed = self.search_one(values, &wanted, rows);
                times.push(start.elapsed());
                if pass > 0 {
                    continue;
                }
                let hits = probed.nearest.iter().filter(|(_, row)| truth.contains(row)).count();
                found.recall.push(hits as f64 / truth.len().max(1) as f64);
                found.clusters += probed.clusters;
                found.scanned += probed.scanned;
                found.refined += probed.refined;
            }
        }
        found.times = times.into_iter().map(median).collect();
        found
    }

    fn search_one(&self, values: &[f32], wanted: &Wanted, rows: Option<&RoaringBitmap>) -> Probed {
        let query = QueryVector::new(self.metric(), values.to_vec());
        let vectors = self.segment.vectors(self.column).unwrap().unwrap();
        let by_codes = ClusterQuery::new(&query);
        vectors
            .nearest_in_clusters(&query, &by_codes, wanted, rows, &RoaringBitmap::new(), &Allowance::unlimited())
            .unwrap()
            .unwrap()
    }

    fn report(&self, name: &str, queries: &[&[f32]], k: usize, rows: Option<&RoaringBitmap>) {
        if !is_wanted(name) {
            return;
        }
        let mut times = Vec::with_capacity(queries.len());
        let timed = |query: &&[f32]| {
            let start = Instant::now();
            let found = self.exact(query, k, rows);
            times.push(start.elapsed());
            found
        };
        let truth: Vec<Vec<u32>> = queries.iter().map(timed).collect();
        println!("{name:24} exact: {:.0} us p50", median(times).as_secs_f64() * 1e6);
        for recall in RECALLS {
            let mut found = self.search(queries, &truth, Wanted { k, recall, known: &[] }, rows);
            found.times.sort_unstable();
            found.recall.sort_unstable_by(f64::total_cmp);
            let count = queries.len();
            let mean = found.recall.iter().sum::<f64>() / count as f64;
            let time = |at: usize| found.times[(count * at / 100).min(count - 1)].as_secs_f64() * 1e6;
            let total: Duration = found.times.iter().sum();
            println!(
                "{name:24} wanted {recall:.2}: found {mean:.4} (1st percentile {:.1}), {:.0} us p50, {:.0} us p99, {:.0} a second; \
                 {} clusters, {} scanned, {} refined",
                found.recall[count / 100],
                time(50),
                time(99),
                count as f64 / total.as_secs_f64(),
                found.clusters / count as u64,
                found.scanned / count as u64,
                found.refined / count as u64,
            );
        }
    }
}

/// Whether no names were given, or the beginning of this one.
fn is_wanted(name: &str) -> bool {
    let mut names = std::env::args().skip(1).filter(|name| !name.starts_with('-')).peekable();
    names.peek().is_none() || names.any(|wanted| name.starts_with(&wanted))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// The rows that each filter of the collection matches.
fn filters(folder: &Path, rows: usize) -> Vec<(String, RoaringBitmap)> {
    let documents = data::json_lines(&folder.join("docs.jsonl.zst"));
    let filters: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("filters.json")).unwrap()).unwrap();
    let matches = |document: &serde_json::Value, condition: &serde_json::Value| {
        let value = &document[condition[0].as_str().unwrap()];
        match condition[1].as_str().unwrap() {
            "eq" => *value == condition[2],
            _ => value.as_f64() >= condition[2].as_f64(),
        }
    };
    filters
        .as_array()
        .unwrap()
        .iter()
        .map(|filter| {
            let conditions = filter["where"].as_array().unwrap();
            let found = (0..rows as u32)
                .filter(|row| conditions.iter().all(|condition| matches(&documents[*row as usize], condition)));
            (filter["name"].as_str().unwrap().to_owned(), found.collect())
        })
        .collect()
}

fn main() {
    let Some(folder) = data::folder("vectors") else { return };
    let base = data::Vectors::read(&folder.join("debpkg/base.f16.npy"));
    let rows = std::env::var("SHOAL_BENCH_ROWS").map_or(base.len(), |rows| rows.parse().unwrap());
    let index = Index::new(&base, rows);
    let queries = data::Vectors::read(&folder.join("debpkg/queries.f16.npy"));
    let half = |odd: usize| (odd..queries.len()).step_by(2).map(|at| queries.row(at)).collect::<Vec<_>>();
    index.report("debpkg, even", &half(0), K, None);
    index.report("debpkg, odd", &half(1), K, None);
    for name in ["scifact", "cranfield"] {
        let queries = data::Vectors::read(&folder.join(name).join("queries.f16.npy"));
        index.report(name, &(0..queries.len()).map(|at| queries.row(at)).collect::<Vec<_>>(), K, None);
    }
    let sets = filters(&folder.join("debpkg"), rows).into_iter().chain(made_up(&index, &base, rows));
    for (name, matching) in sets {
        index.report(&format!("even, {name}"), &half(0), K, Some(&matching));
        index.report(&name, &half(1), K, Some(&matching));
    }
    if is_wanted("merged") {
        Index::merged(&base, rows).report("merged", &half(1), K, None);
    }
    for (name, metric) in [("lengths, Euclidean", Metric::EuclideanSquared), ("lengths, product", Metric::DotProduct)]
    {
        if is_wanted(name) {
            let index = Index::built(&base, (0..rows).collect(), metric);
            index.report(name, &half(1), K, None);
            // Far from all vectors.
            let far: Vec<Vec<f32>> = half(1).iter().map(|query| query.iter().map(|x| x * 4.0).collect()).collect();
            index.report(&format!("{name}, far"), &far.iter().map(Vec::as_slice).collect::<Vec<_>>(), K, None);
        }
    }
    for k in [1, 100] {
        index.report(&format!("even, nearest {k}"), &half(0), k, None);
        index.report(&format!("nearest {k}"), &half(1), k, None);
    }
}

/// Rows by chance, and those that are nearest to one vector.
fn made_up(index: &Index, base: &data::Vectors, rows: usize) -> Vec<(String, RoaringBitmap)> {
    let hash = |row: u64| row.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let by_chance = [2, 5, 10, 20, 50, 100, 200, 500].map(|share| {
        let found = (0..rows as u32).filter(|row| hash(u64::from(*row)).is_multiple_of(share));
        (format!("by chance 1 in {share}"), found.collect())
    });
    let near = [2, 10, 50].map(|share| {
        let found = index.exact(base.row(rows / 3), rows / share, None);
        (format!("near a row 1 in {share}"), found.into_iter().collect())
    });
    by_chance.into_iter().chain(near).collect()
}
