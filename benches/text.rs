//! What ranking by text and by sparse vectors costs with and without passing over rows: debpkg's queries and scifact's SPLADE; and
//! what text, vectors and both fused cost and find of the packages that debpkg's queries are known to mean.
//!
//! `cargo bench --bench text`; `SHOAL_DATA` names the folder of the data sets, `../shared/data` by default. Both ways take turns on
//! every query in one thread, and must give the same rows with the same scores.
//!
//! With `scifact`, `debpkg`, `known` or `phrases` only that part; with `ask` or `ask-phrases`, answers one query a line over debpkg,
//! for `benches/peers_text.py`.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on fails")]

#[expect(dead_code, reason = "the other readers are for tests")]
#[path = "../tests/real_data/data.rs"]
mod data;
#[path = "../tests/real_data/measure.rs"]
mod measure;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use half::f16;
use roaring::RoaringBitmap;
use serde_json::{Map, Value as Json, json};
use shoal::api::wire::query::parse_query;
use shoal::engine::analyzers::Analyzers;
use shoal::engine::query;
use shoal::engine::view::{SegmentView, Tail, TailRow, View};
use shoal::format::segment::{decode_footer, decode_meta};
use shoal::model::document::Document;
use shoal::model::ids::{DocId, IdType, Version};
use shoal::model::query::{Answer, Number, QueryOutcome, QueryRequest, Recall};
use shoal::model::schema::{AttributeType, Column, Element, FullText, Metric, Schema};
use shoal::model::value::{SparseVector, Value, Vector};
use shoal::model::value_render::id_json;
use shoal::platform::allowance::Allowance;
use shoal::platform::mmap::Mapping;
use shoal::platform::random::{Random, SeededRandom};
use shoal::segment::Segment;
use shoal::segment::builder::{Entry, build};
use uuid::Uuid;

/// How often scifact's rows are repeated where more are wanted.
const COPIES: usize = 20;
const ROUNDS: usize = 3;

/// As in the product.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn text(name: &str, remove_stopwords: bool) -> Column {
    let mut column = Column::new(name, AttributeType::String, 0);
    column.filterable = false;
    column.full_text = Some(FullText { stemming: true, remove_stopwords, ..FullText::default() });
    column
}

fn schema(columns: Vec<Column>) -> Schema {
    Schema { id_type: Some(IdType::Uint), columns, ..Schema::default() }
}

/// The rows of a set with these columns, ids from 0 on.
fn documents(schema: &Schema, rows: Vec<Vec<Value>>) -> Vec<Arc<Document>> {
    let uids: Vec<_> = schema.columns.iter().map(Column::uid).collect();
    let document = |(id, row): (u64, Vec<Value>)| {
        let mut fields: Vec<_> = uids.iter().copied().zip(row).collect();
        fields.sort_by_key(|(uid, _)| *uid);
        Arc::new(Document { id: DocId::Uint(id), version: Version::default(), fields, patch: None })
    };
    (0..).zip(rows).map(document).collect()
}

fn segment(schema: &Schema, documents: &[Arc<Document>]) -> Arc<Segment> {
    let entries: Vec<Entry> =
        documents.iter().map(|document| Entry::Row { document: document.clone(), terms: Vec::new() }).collect();
    let mut bytes = Vec::new();
    build(Uuid::nil(), schema, &entries, &mut bytes).unwrap();
    Arc::new(Segment::open(Mapping::of_bytes(bytes), "bench.seg").unwrap())
}

/// The documents in so many segments, every row of which that `dead` gives is dead, and the last `in_tail` in the tail.
fn view(schema: &Schema, documents: &[Arc<Document>], segments: usize, dead: Option<usize>, in_tail: usize) -> View {
    let (stored, rest) = documents.split_at(documents.len() - in_tail);
    let of_segments = stored.chunks(stored.len().div_ceil(segments)).map(|part| {
        let dead: RoaringBitmap =
            dead.map_or_else(RoaringBitmap::new, |step| (0..part.len() as u32).step_by(step).collect());
        SegmentView { segment: segment(schema, part), dead: Arc::new(dead) }
    });
    let mut analyzers = Analyzers::new();
    let mut tail = Tail::new();
    for document in rest {
        let terms = schema.columns.iter().filter_map(|column| {
            Some((column.uid(), analyzers.terms(column.full_text.as_ref()?, document.get(column.uid())?)))
        });
        tail.push(Arc::new(TailRow { terms: terms.collect(), document: document.clone() }));
    }
    View {
        recall: Recall::DEFAULT,
        name: "acme/search/docs".into(),
        segments: of_segments.collect(),
        schema: Arc::new(schema.clone()),
        tail: tail.snapshot(),
        etag: "1".into(),
    }
}

fn rows(outcome: &QueryOutcome) -> Vec<(DocId, u32)> {
    let Answer::Rows(rows) = &outcome.answers[0] else { panic!("expected rows") };
    rows.iter().map(|row| (row.id.clone(), row.dist.unwrap().to_bits())).collect()
}

fn at(sorted: &[Duration], share: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3
}

/// Prints what the queries take, each the least of a few rounds.
fn measure(what: &str, view: &View, bodies: &[Json]) {
    let requests: Vec<QueryRequest> = bodies.iter().map(|body| parse_query(body.clone()).unwrap().request).collect();
    type Run = fn(&View, &QueryRequest, &Allowance) -> shoal::error::Result<QueryOutcome>;
    let ways: [Run; 2] = [query::run_scoring_all, query::run];
    let mut took = [vec![Duration::MAX; requests.len()], vec![Duration::MAX; requests.len()]];
    for round in 0..ROUNDS {
        for (number, request) in requests.iter().enumerate() {
            let mut answers = Vec::new();
            for (way, took) in ways.iter().zip(&mut took) {
                let start = Instant::now();
                let outcome = way(view, request, &Allowance::unlimited()).unwrap();
                took[number] = took[number].min(start.elapsed());
                answers.push(rows(&outcome));
            }
            assert!(round > 0 || answers[0] == answers[1], "{}: other rows", bodies[number]);
        }
    }
    took.iter_mut().for_each(|took| took.sort_unstable());
    let [all, pruned] = took.map(|took| (at(&took, 0.5), at(&took, 0.99)));
    println!(
        "{what}: every row {:.3} / {:.3} ms, pruned {:.3} / {:.3} ms, {:.1} / {:.1} times faster",
        all.0,
        all.1,
        pruned.0,
        pruned.1,
        all.0 / pruned.0,
        all.1 / pruned.1
    );
}

/// debpkg's rows: title and text as one, with stop words and without, the title, and attributes.
fn packages(folder: &Path) -> (Schema, Vec<Arc<Document>>) {
    let schema = schema(vec![
        text("body", false),
        text("content", true),
        text("title", false),
        Column::new("arch", AttributeType::String, 0),
        Column::new("section", AttributeType::String, 0),
        Column::new("priority", AttributeType::String, 0),
    ]);
    let field = |row: &Json, name: &str| row[name].as_str().unwrap_or_default().to_owned();
    let rows = data::json_lines(&folder.join("debpkg/docs.jsonl.zst")).into_iter().map(|row| {
        let body = format!("{} {}", field(&row, "title"), field(&row, "text"));
        let texts = [body.clone(), body, field(&row, "title")];
        let attributes = ["arch", "section", "priority"].map(|name| field(&row, name));
        texts.into_iter().chain(attributes).map(Value::String).collect()
    });
    let documents = documents(&schema, rows.collect());
    (schema, documents)
}

/// debpkg's texts in two columns, one of which keeps positions; words are runs of ASCII letters and digits, so that everybody
/// cuts them alike.
fn descriptions(folder: &Path) -> (Schema, Vec<Arc<Document>>) {
    let column = |name: &str, positions: bool| Column {
        full_text: Some(FullText { positions, ..FullText::default() }),
        filterable: false,
        ..Column::new(name, AttributeType::String, 0)
    };
    let schema = schema(vec![column("plain", false), column("placed", true)]);
    let rows = data::json_lines(&folder.join("debpkg/docs.jsonl.zst")).into_iter().map(|row| {
        let text = row["text"].as_str().unwrap_or_default().to_ascii_lowercase();
        let words: Vec<&str> =
            text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| (1..40).contains(&word.len())).collect();
        vec![Value::String(words.join(" ")); 2]
    });
    let documents = documents(&schema, rows.collect());
    (schema, documents)
}

/// What sequences of words cost with positions and without, and what positions take.
fn phrases(folder: &Path) {
    const PHRASES: usize = 200;
    let (schema, documents) = descriptions(folder);
    for column in &schema.columns {
        let alone = Schema { columns: vec![column.clone()], ..schema.clone() };
        let start = Instant::now();
        let segment = segment(&alone, &documents);
        println!("{}: a segment of {} bytes in {:.2?}", column.name, segment.file().unwrap().len(), start.elapsed());
        let bytes = segment.file().unwrap();
        let meta = decode_meta(bytes, &decode_footer(bytes, "bench.seg").unwrap(), "bench.seg").unwrap();
        for section in meta.sections.iter().filter(|section| section.name.contains(':') || section.name == "rows") {
            println!("  {}: {} bytes", section.name, section.bytes);
        }
    }
    let view = view(&schema, &documents, 1, None, 0);
    let texts: Vec<Vec<&str>> = documents
        .iter()
        .filter_map(|document| match document.get(schema.columns[0].uid()) {
            Some(Value::String(text)) => Some(text.split(' ').collect()),
            _ => None,
        })
        .collect();
    let random = SeededRandom::new(7);
    let below = |bound: usize| (random.next_u64() % bound as u64) as usize;
    println!("debpkg: {} rows, {PHRASES} phrases of their texts; p50 / p99", documents.len());
    for (words, last_as_prefix) in [(2, false), (3, false), (2, true), (3, true)] {
        let mut asked = Vec::with_capacity(PHRASES);
        while asked.len() < PHRASES {
            let text = &texts[below(texts.len())];
            if text.len() < words {
                continue;
            }
            let start = below(text.len() - words + 1);
            let mut phrase = text[start..start + words].join(" ");
            if last_as_prefix {
                // All but the end of the last word, and one letter of it at least.
                let last = text[start + words - 1].len();
                phrase.truncate(phrase.len() - below(last.div_ceil(2)));
            }
            asked.push(phrase);
        }
        let mut took = [vec![Duration::MAX; PHRASES], vec![Duration::MAX; PHRASES]];
        for round in 0..ROUNDS {
            for (at, phrase) in asked.iter().enumerate() {
                let mut found = Vec::new();
                for (column, took) in ["plain", "placed"].iter().zip(&mut took) {
                    let filter = json!([column, "ContainsTokenSequence", phrase, {"last_as_prefix": last_as_prefix}]);
                    let body = json!({"aggregate_by": {"count": ["Count"]}, "filters": filter});
                    let request = parse_query(body).unwrap().request;
                    let start = Instant::now();
                    let outcome = query::run(&view, &request, &Allowance::unlimited()).unwrap();
                    took[at] = took[at].min(start.elapsed());
                    found.push(format!("{:?}", outcome.answers));
                }
                assert!(round > 0 || found[0] == found[1], "{phrase}: {found:?}");
            }
        }
        took.iter_mut().for_each(|took| took.sort_unstable());
        let [plain, placed] = took.map(|took| (at(&took, 0.5), at(&took, 0.99)));
        println!(
            "{words} words{}: by texts {:.3} / {:.3} ms, by positions {:.3} / {:.3} ms",
            if last_as_prefix { ", the last a prefix" } else { "" },
            plain.0,
            plain.1,
            placed.0,
            placed.1
        );
    }
}

/// Answers a request a line with its ids or its numbers and what it took, from its JSON on.
fn ask((schema, documents): (Schema, Vec<Arc<Document>>)) {
    let view = view(&schema, &documents, 1, None, 0);
    println!("ready");
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let start = Instant::now();
        let request = parse_query(serde_json::from_str(&line).unwrap()).unwrap().request;
        let outcome = query::run(&view, &request, &Allowance::unlimited()).unwrap();
        let answer = match &outcome.answers[0] {
            Answer::Rows(_) => rows(&outcome).iter().map(|(id, _)| id_json(id)).collect::<Json>(),
            Answer::Aggregations(numbers) => numbers
                .iter()
                .map(|(label, number)| match number {
                    Number::Int(n) => (label.clone(), json!(n)),
                    Number::Uint(n) => (label.clone(), json!(n)),
                    Number::Float(x) => (label.clone(), json!(x)),
                })
                .collect(),
            Answer::Groups(_) => panic!("expected no groups"),
        };
        let nanos = start.elapsed().as_nanos() as u64;
        println!("{}", json!({"nanos": nanos, "answer": answer}));
    }
}

fn debpkg(folder: &Path) {
    let (schema, documents) = packages(folder);
    let queries = data::json_lines(&folder.join("debpkg/queries.jsonl"));
    let bodies = |rank: &dyn Fn(&Json) -> Json, filter: Json, limit: usize| -> Vec<Json> {
        let body = |query: &Json| match filter.is_null() {
            true => json!({"rank_by": rank(&query["text"]), "limit": limit}),
            false => json!({"rank_by": rank(&query["text"]), "limit": limit, "filters": filter}),
        };
        queries.iter().map(body).collect()
    };
    let body = |text: &Json| json!(["body", "BM25", text]);
    let content = |text: &Json| json!(["content", "BM25", text]);
    let both = |text: &Json| json!(["Sum", [["Product", 2.5, ["title", "BM25", text]], ["body", "BM25", text]]]);
    let one = view(&schema, &documents, 1, None, 0);
    println!("debpkg: {} rows, {} queries; p50 / p99", documents.len(), queries.len());
    measure("one segment, 10 rows", &one, &bodies(&body, Json::Null, 10));
    measure("one segment, 10 rows, stop words removed", &one, &bodies(&content, Json::Null, 10));
    measure("one segment, 100 rows", &one, &bodies(&body, Json::Null, 100));
    measure("one segment, 1,000 rows", &one, &bodies(&body, Json::Null, 1_000));
    measure("one segment, 10 rows, sum of title and body", &one, &bodies(&both, Json::Null, 10));
    for filter in
        [json!(["arch", "Eq", "all"]), json!(["section", "Eq", "perl"]), json!(["priority", "Eq", "standard"])]
    {
        measure(&format!("one segment, 10 rows, {filter}"), &one, &bodies(&body, filter, 10));
    }
    drop(one);
    let split = view(&schema, &documents, 4, Some(50), 1_000);
    measure("4 segments with dead rows, 1,000 in the tail, 10 rows", &split, &bodies(&body, Json::Null, 10));
}

/// What the plainest scan takes: the products of a query with every row, whose dimensions are numbers side by side.
fn scan(stored: &[Vec<(u16, f32)>], queries: &[Vec<(u16, f32)>]) {
    let mut took = Vec::new();
    for query in queries {
        let mut least = Duration::MAX;
        for _ in 0..ROUNDS {
            let start = Instant::now();
            let mut weights = vec![0.0f32; 1 << 16];
            query.iter().for_each(|(dimension, weight)| weights[usize::from(*dimension)] = *weight);
            let product =
                |row: &Vec<(u16, f32)>| -> f32 { row.iter().map(|(at, w)| weights[usize::from(*at)] * w).sum() };
            let mut products: Vec<f32> = stored.iter().map(product).collect();
            products.select_nth_unstable_by(9, |a, b| b.total_cmp(a));
            std::hint::black_box(products);
            least = least.min(start.elapsed());
        }
        took.push(least);
    }
    took.sort_unstable();
    println!("scifact: a scan of every row's numbers {:.3} / {:.3} ms", at(&took, 0.5), at(&took, 0.99));
}

/// What queries find and take where they say what share of the ten heaviest they want.
fn approximate(what: &str, view: &View, queries: impl Iterator<Item = Map<String, Json>>) {
    let queries: Vec<Map<String, Json>> = queries.collect();
    let mut exact: Vec<Vec<DocId>> = Vec::new();
    for recall in [json!("exact"), json!(0.99), json!(0.95), json!(0.9), json!(0.8)] {
        let (mut took, mut found) = (Vec::new(), Vec::new());
        for query in &queries {
            let body = json!({"rank_by": ["splade", "SparseKNN", query], "limit": 10, "recall": recall});
            let request = parse_query(body).unwrap().request;
            let (mut least, mut ids) = (Duration::MAX, Vec::new());
            for _ in 0..ROUNDS {
                let start = Instant::now();
                let outcome = query::run(view, &request, &Allowance::unlimited()).unwrap();
                least = least.min(start.elapsed());
                ids = rows(&outcome).into_iter().map(|(id, _)| id).collect();
            }
            took.push(least);
            found.push(ids);
        }
        if exact.is_empty() {
            exact.clone_from(&found);
        }
        let pairs = || exact.iter().zip(&found);
        let hits: usize = pairs().map(|(exact, found)| exact.iter().filter(|id| found.contains(id)).count()).sum();
        took.sort_unstable();
        println!(
            "{what}, 10 rows, recall {recall}: {:.3} / {:.3} ms, found {:.4}",
            at(&took, 0.5),
            at(&took, 0.99),
            hits as f64 / exact.iter().map(Vec::len).sum::<usize>() as f64
        );
    }
}

/// Known packages found by text, by vectors and by both fused, stop words removed.
fn known_items(folder: &Path) {
    let folder = folder.join("debpkg");
    let base = data::Vectors::read(&folder.join("base.f16.npy"));
    let wanted = data::Vectors::read(&folder.join("queries.f16.npy"));
    let kind = AttributeType::Vector { dims: base.dims as u32, element: Element::F32 };
    let columns = vec![text("body", true), Column::new("vector", kind, 0)];
    let schema = Schema { metric: Some(Metric::CosineDistance), ..schema(columns) };
    let rows = data::json_lines(&folder.join("docs.jsonl.zst")).into_iter().enumerate().map(|(at, row)| {
        let field = |name: &str| row[name].as_str().unwrap_or_default();
        let body = Value::String(format!("{} {}", field("title"), field("text")));
        vec![body, Value::Vector(Vector::F32(base.row(at).to_vec()))]
    });
    let documents = documents(&schema, rows.collect());
    let view = view(&schema, &documents, 1, None, 0);
    let queries = data::json_lines(&folder.join("queries.jsonl"));
    let grades = data::judgements(&folder.join("qrels.tsv"));
    println!("debpkg with vectors: {} rows, {} queries", documents.len(), queries.len());
    for (what, depth, lists) in
        [("BM25", 10, 1), ("vectors", 10, 2), ("both", 10, 3), ("both", 30, 3), ("both", 100, 3)]
    {
        let (mut took, mut found) = (Vec::new(), Vec::new());
        for (at, query) in queries.iter().enumerate() {
            let ranks = [json!(["body", "BM25", query["text"]]), json!(["vector", "ANN", wanted.row(at)])];
            let ranks: Vec<Json> = (0..2)
                .filter(|at| lists >> at & 1 == 1)
                .map(|at| json!({"rank_by": ranks[at], "limit": depth}))
                .collect();
            let body = match ranks.as_slice() {
                [one] => one.clone(),
                _ => json!({"queries": ranks, "rerank_by": ["RRF", {"rank_constant": 60}], "limit": 10}),
            };
            let request = parse_query(body).unwrap().request;
            let mut least = Duration::MAX;
            for round in 0..ROUNDS {
                let start = Instant::now();
                let outcome = query::run(&view, &request, &Allowance::unlimited()).unwrap();
                least = least.min(start.elapsed());
                if round == 0 {
                    let ids: Vec<String> =
                        self::rows(&outcome).iter().map(|(id, _)| id_json(id).to_string()).collect();
                    found.push((ids, &grades[&query["id"].to_string()]));
                }
            }
            took.push(least);
        }
        took.sort_unstable();
        let quality = measure::quality(found.iter().map(|(ids, grades)| (ids.as_slice(), *grades)));
        println!(
            "{what}, {depth} of each: {:.3} / {:.3} ms, nDCG@10 {:.4}",
            at(&took, 0.5),
            at(&took, 0.99),
            quality.ndcg_at_10
        );
    }
}

fn scifact(folder: &Path) {
    let folder = folder.join("scifact");
    let schema = schema(vec![Column::new("splade", AttributeType::Sparse, 0)]);
    let stored = data::sparse(&folder.join("splade_docs.npz"));
    let vector = |row: &Vec<(u16, f32)>| {
        let mut entries: Vec<(String, f16)> =
            row.iter().map(|(dimension, weight)| (dimension.to_string(), f16::from_f32(*weight))).collect();
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        vec![Value::Sparse(SparseVector { entries })]
    };
    let documents = documents(&schema, stored.iter().map(vector).collect());
    let queries = data::sparse(&folder.join("splade_queries.npz"));
    let weights = |row: &Vec<(u16, f32)>| -> Map<String, Json> {
        row.iter().map(|(dimension, weight)| (dimension.to_string(), json!(weight))).collect()
    };
    scan(&stored, &queries);
    println!("scifact: {} rows, {} queries; p50 / p99", documents.len(), queries.len());
    for limit in [10, 100] {
        let bodies: Vec<Json> = queries
            .iter()
            .map(|query| json!({"rank_by": ["splade", "SparseKNN", weights(query)], "limit": limit}))
            .collect();
        let one = view(&schema, &documents, 1, None, 0);
        measure(&format!("one segment, {limit} rows"), &one, &bodies);
        if limit == 10 {
            approximate("one segment", &one, queries.iter().map(weights));
            // Synthetic: about 0.6 of a row's entries beside 0.4 of another's, weights anew.
            let random = SeededRandom::new(7);
            let number = move |below: u64| random.next_u64() % below;
            let mixed = |first: &[(u16, f32)]| {
                let second = &stored[number(stored.len() as u64) as usize];
                let mut row: Vec<(u16, f32)> = Vec::with_capacity(first.len());
                for (entries, share) in [(first, 6), (second.as_slice(), 4)] {
                    for (dimension, weight) in entries {
                        if number(10) < share && !row.iter().any(|(known, _)| known == dimension) {
                            row.push((*dimension, weight * (0.8 + 0.05 * number(8) as f32)));
                        }
                    }
                }
                row
            };
            let many: Vec<Vec<(u16, f32)>> = (0..COPIES).flat_map(|_| &stored).map(|row| mixed(row)).collect();
            let rows = many.len();
            let many = view(&schema, &self::documents(&schema, many.iter().map(vector).collect()), 1, None, 0);
            approximate(&format!("{rows} rows, synthetic"), &many, queries.iter().step_by(2).map(weights));
            approximate(
                &format!("{rows} rows, the other queries"),
                &many,
                queries.iter().skip(1).step_by(2).map(weights),
            );
            let scanned = view(&schema, &documents, 1, None, documents.len() - 1);
            measure("every vector of the tail, 10 rows", &scanned, &bodies[..30]);
        }
    }
}

fn main() {
    let folder = std::env::var_os("SHOAL_DATA").map_or_else(|| PathBuf::from("../shared/data"), PathBuf::from);
    type Load = fn(&Path) -> (Schema, Vec<Arc<Document>>);
    let asked: [(&str, Load); 2] = [("ask", packages), ("ask-phrases", descriptions)];
    for (name, load) in asked {
        if std::env::args().any(|argument| argument == name) {
            ask(load(&folder));
            return;
        }
    }
    type Part = fn(&Path);
    let parts: [(&str, Part); 4] =
        [("scifact", scifact), ("debpkg", debpkg), ("known", known_items), ("phrases", phrases)];
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    for (name, measure) in parts {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            measure(&folder);
        }
    }
}
