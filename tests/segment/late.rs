//! Late interaction by clusters: found as they are, by the recall that is asked for, under filters, and after merges.

use std::sync::Arc;

use roaring::RoaringBitmap;
use shoal::format::clusters::SECTION;
use shoal::format::segment::{column_section, decode_footer, decode_meta};
use shoal::model::document::Document;
use shoal::model::ids::{DocId, Hlc, Version};
use shoal::model::schema::{AttributeType, Column, ColumnUid, Metric, Schema};
use shoal::model::value::{Multivector, Value};
use shoal::platform::allowance::{Allowance, End};
use shoal::platform::mmap::Mapping;
use shoal::platform::random::{Random, SeededRandom};
use shoal::segment::Segment;
use shoal::segment::builder::{Entry, build};
use shoal::segment::merge::{Input, merge};
use shoal::segment::vectors::{Compared, QueryTokens, TokenReader, Wanted};
use uuid::Uuid;

use crate::damage::resealed;
use crate::format::golden;

const METRICS: [Metric; 3] = [Metric::CosineDistance, Metric::EuclideanSquared, Metric::DotProduct];
const DIMS: u32 = 32;

fn column(dims: u32) -> Column {
    Column { late_interaction: true, ..Column::new("tokens", AttributeType::Multivector { dims }, 0) }
}

fn schema(metric: Metric) -> Schema {
    Schema { metric: Some(metric), columns: vec![column(DIMS)], ..Schema::default() }
}

fn uid() -> ColumnUid {
    column(DIMS).uid()
}

/// Documents of up to 15 tokens around three of 60 centres, as those of a text are about few things; of different lengths.
fn documents(count: usize, seed: u64) -> Vec<Multivector> {
    let centres = SeededRandom::new(99);
    let noise = |random: &SeededRandom| (random.next_u64() >> 40) as f32 / (1 << 23) as f32 - 1.0;
    let centres: Vec<Vec<f32>> = (0..60).map(|_| (0..DIMS).map(|_| noise(&centres)).collect()).collect();
    let random = SeededRandom::new(seed);
    let below = |n: usize| random.next_u64() as usize % n;
    (0..count)
        .map(|_| {
            let topics = [below(60), below(60), below(60)];
            let mut elements = Vec::new();
            for _ in 0..below(16) {
                let length = 1.0 + 0.3 * noise(&random);
                let centre = &centres[topics[below(3)]];
                elements.extend(centre.iter().map(|x| length * (x + 0.6 * noise(&random))));
            }
            Multivector { dims: DIMS, elements }
        })
        .collect()
}

fn queries(metric: Metric, count: usize, seed: u64) -> Vec<QueryTokens> {
    documents(count, seed).iter().filter_map(|tokens| QueryTokens::new(metric, tokens)).collect()
}

/// Every twentieth row has no value.
fn entries(documents: &[Multivector], first: u64) -> Vec<Entry> {
    (first..)
        .zip(documents)
        .map(|(id, tokens)| {
            let uid = Column::new("tokens", AttributeType::Multivector { dims: tokens.dims }, 0).uid();
            let fields = if id % 20 == 7 { vec![] } else { vec![(uid, Value::Multivector(tokens.clone()))] };
            let document = Document { id: DocId::Uint(id), version: Version::default(), fields, patch: None };
            Entry::Row { document: Arc::new(document), terms: Vec::new() }
        })
        .collect()
}

fn segment(metric: Metric, documents: &[Multivector], first: u64) -> Segment {
    let mut file = Vec::new();
    build(Uuid::nil(), &schema(metric), &entries(documents, first), &mut file).unwrap();
    Segment::open(Mapping::of_bytes(file), "segment").unwrap()
}

fn reader(segment: &Segment) -> TokenReader<'_> {
    segment.tokens(uid()).unwrap().unwrap()
}

fn search(
    segment: &Segment,
    query: &QueryTokens,
    (k, recall): (usize, f32),
    rows: Option<&RoaringBitmap>,
    dead: &RoaringBitmap,
) -> Option<Compared> {
    let wanted = Wanted { k, recall, known: &[] };
    reader(segment).nearest_by_clusters(query, &wanted, rows, dead, &Allowance::unlimited()).unwrap()
}

/// The mean recall of some queries, and what share of the documents was compared.
fn measured(
    segment: &Segment,
    queries: &[QueryTokens],
    (k, recall): (usize, f32),
    rows: Option<&RoaringBitmap>,
    dead: &RoaringBitmap,
) -> (f64, f64) {
    let reader = reader(segment);
    let (mut hits, mut all, mut compared) = (0, 0, 0);
    for query in queries {
        let truth = reader.nearest(query, rows, dead, k, &Allowance::unlimited()).unwrap();
        let found = search(segment, query, (k, recall), rows, dead).unwrap();
        assert!(found.nearest.is_sorted_by(|a, b| (a.0, a.1) < (b.0, b.1)), "{found:?}");
        for (distance, row) in &found.nearest {
            assert_eq!(reader.distance(*row, query).unwrap(), Some(*distance));
            assert!(!dead.contains(*row) && rows.is_none_or(|rows| rows.contains(*row)), "{row} is no candidate");
        }
        hits += truth.iter().filter(|near| found.nearest.contains(near)).count();
        all += truth.len();
        compared += found.documents;
    }
    (hits as f64 / all as f64, compared as f64 / (queries.len() as u64 * reader.count()) as f64)
}

#[test]
fn the_recall_that_is_asked_for_is_found_under_every_metric_and_filter() {
    let documents = documents(700, 7);
    let none = RoaringBitmap::new();
    let dead: RoaringBitmap = (0..700).filter(|row| row % 7 == 3).collect();
    let some: RoaringBitmap = (0..700).filter(|row| row % 3 == 1).collect();
    for metric in METRICS {
        let segment = segment(metric, &documents, 0);
        segment.verify().unwrap();
        assert!(reader(&segment).clusters().unwrap().is_some());
        let queries = queries(metric, 12, 8);
        for (rows, dead) in [(None, &none), (None, &dead), (Some(&some), &dead)] {
            let (found, compared) = measured(&segment, &queries, (10, 0.95), rows, dead);
            assert!(found >= 0.95, "{metric:?}: {found}");
            assert!(compared < 0.9, "{metric:?}: {compared} compared");
        }
        let (less, of) = measured(&segment, &queries, (10, 0.8), None, &none);
        assert!(less >= 0.8 && of < measured(&segment, &queries, (10, 0.99), None, &none).1, "{metric:?}: {less}");
    }
}

#[test]
fn what_is_known_from_elsewhere_narrows_a_search() {
    let segment = segment(Metric::CosineDistance, &documents(700, 3), 0);
    let query = &queries(Metric::CosineDistance, 3, 4)[0];
    let compared = |known: &[f32]| {
        let wanted = Wanted { k: 10, recall: 0.999, known };
        let none = RoaringBitmap::new();
        reader(&segment).nearest_by_clusters(query, &wanted, None, &none, &Allowance::unlimited()).unwrap().unwrap()
    };
    let without = compared(&[]);
    let with = compared(&[without.nearest[0].0 * 0.5; 10]);
    assert!(with.documents < without.documents, "{} and {}", with.documents, without.documents);
}

#[test]
fn merged_segments_carry_on_the_clusters_of_their_tokens() {
    let documents = documents(800, 5);
    let none = RoaringBitmap::new();
    let dead: RoaringBitmap = (100..250).collect();
    for metric in METRICS {
        let (large, small) = (segment(metric, &documents[..650], 0), segment(metric, &documents[650..], 600));
        let inputs = [Input { segment: &small, dead: &none }, Input { segment: &large, dead: &dead }];
        let mut file = Vec::new();
        merge(Uuid::nil(), &schema(metric), &inputs, Hlc(0), &mut file).unwrap();
        let merged = Segment::open(Mapping::of_bytes(file), "merged").unwrap();
        merged.verify().unwrap();
        let (found, compared) = measured(&merged, &queries(metric, 12, 6), (10, 0.95), None, &none);
        assert!(found >= 0.95 && compared < 0.9, "{metric:?}: {found}, {compared} compared");
    }
}

#[test]
fn where_clusters_cannot_tell_they_are_not_asked() {
    let none = RoaringBitmap::new();
    for metric in METRICS {
        for value in [0.0, 1e30] {
            let alike = vec![Multivector { dims: DIMS, elements: vec![value; DIMS as usize * 3] }; 1_000];
            let segment = segment(metric, &alike, 0);
            segment.verify().unwrap();
            let query = QueryTokens::new(metric, &alike[0]).unwrap();
            assert_eq!(search(&segment, &query, (5, 0.9), None, &none), None, "{metric:?} of {value}");
        }
    }
    let few = segment(Metric::DotProduct, &documents(100, 1), 0);
    assert_eq!(reader(&few).clusters().unwrap(), None);
    let stored_only =
        Schema { columns: vec![Column { late_interaction: false, ..column(DIMS) }], ..schema(METRICS[0]) };
    let mut file = Vec::new();
    build(Uuid::nil(), &stored_only, &entries(&documents(1_000, 1), 0), &mut file).unwrap();
    let segment = Segment::open(Mapping::of_bytes(file), "segment").unwrap();
    assert_eq!(reader(&segment).clusters().unwrap(), None);
}

#[test]
fn a_search_that_must_end_ends_and_one_that_takes_too_much_is_refused() {
    let segment = segment(Metric::CosineDistance, &documents(1_000, 1), 0);
    let query = &queries(Metric::CosineDistance, 3, 2)[0];
    let (wanted, none) = (Wanted { k: 5, recall: 0.95, known: &[] }, RoaringBitmap::new());
    for (allowance, code) in [
        (Allowance::new(u64::MAX, || Some(End::TimeIsUp)), "query_timeout"),
        (Allowance::new(1_000, || None), "query_too_large"),
    ] {
        let found = reader(&segment).nearest_by_clusters(query, &wanted, None, &none, &allowance);
        assert_eq!(found.unwrap_err().code(), code);
    }
}

/// A segment with clusters of tokens.
pub fn file() -> Vec<u8> {
    let random = SeededRandom::new(21);
    let documents: Vec<Multivector> = (0..440)
        .map(|_| Multivector { dims: 16, elements: (0..80).map(|_| (random.next_u64() % 9) as f32 - 4.0).collect() })
        .collect();
    let schema = Schema { columns: vec![column(16)], ..schema(Metric::CosineDistance) };
    let mut file = Vec::new();
    build(Uuid::nil(), &schema, &entries(&documents, 0), &mut file).unwrap();
    file
}

/// Which centroids there are differs from processor to processor.
#[test]
fn the_golden_clusters_of_tokens_are_read() {
    let segment = Segment::open(Mapping::of_bytes(golden("segment-tokens-clusters.seg", &file())), "golden").unwrap();
    segment.verify().unwrap();
    let tokens = segment.tokens(column(16).uid()).unwrap().unwrap();
    assert_eq!(tokens.token_count(), 2_090);
    assert!(tokens.clusters().unwrap().is_some());
}

#[test]
fn nonsense_in_clusters_of_tokens_is_no_panic() {
    let whole = file();
    let footer = decode_footer(&whole, "whole").unwrap();
    let meta = decode_meta(&whole, &footer, "whole").unwrap();
    let random = SeededRandom::new(1);
    let uid = column(16).uid();
    let elements = (0..32).map(|n| n as f32).collect();
    let query = QueryTokens::new(Metric::CosineDistance, &Multivector { dims: 16, elements }).unwrap();
    let name = column_section(SECTION, uid);
    let section = meta.sections.iter().find(|found| found.name == name).unwrap();
    for n in 0..300 {
        // Headers and entries most of all.
        let at = if n < 200 { n } else { random.next_u64() } % section.bytes;
        let change = [0xff, 0x80, 0x01, 0x7f][n as usize % 4];
        let damaged = resealed(&whole, |file, _, _| file[(section.offset + at) as usize] ^= change);
        let Ok(segment) = Segment::open(Mapping::of_bytes(damaged), "damaged") else { continue };
        let reader = segment.tokens(uid).unwrap().unwrap();
        let wanted = Wanted { k: 5, recall: 0.99, known: &[] };
        let _ = reader.nearest_by_clusters(&query, &wanted, None, &RoaringBitmap::new(), &Allowance::unlimited());
    }
}
