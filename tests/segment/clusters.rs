//! Clusters of vectors: found as they are, by the recall that is asked for, under filters, and after merges.

use std::sync::Arc;

use roaring::RoaringBitmap;
use shoal::format::clusters::{Header, LISTS_SECTION, SECTION, Table};
use shoal::format::segment::{column_section, decode_footer, decode_meta};
use shoal::model::document::Document;
use shoal::model::ids::{DocId, Hlc, Version};
use shoal::model::schema::{AttributeType, Column, Element, Metric, Schema};
use shoal::model::value::{Value, Vector};
use shoal::platform::allowance::{Allowance, End};
use shoal::platform::mmap::Mapping;
use shoal::platform::random::{Random, SeededRandom};
use shoal::segment::Segment;
use shoal::segment::builder::{Entry, build};
use shoal::segment::merge::{Input, merge};
use shoal::segment::vectors::{ClusterQuery, ClusterSearch, NearByCodes, Probed, QueryVector, Source, Wanted};
use uuid::Uuid;

use crate::damage::resealed;
use crate::format::{check_layout, golden};

const METRICS: [Metric; 3] = [Metric::CosineDistance, Metric::EuclideanSquared, Metric::DotProduct];

fn schema(dims: u32, element: Element, metric: Metric) -> Schema {
    let column = |name: &str| Column::new(name, AttributeType::Vector { dims, element }, 0);
    Schema { metric: Some(metric), columns: vec![column("vector"), column("other")], ..Schema::default() }
}

/// Of elements that are stored in eight bits.
const I8_SCALE: f32 = 40.0;

/// Vectors around some centres, as embeddings are; of different lengths.
fn vectors(count: usize, dims: usize, seed: u64) -> Vec<Vec<f32>> {
    let random = SeededRandom::new(seed);
    let noise = || (random.next_u64() >> 40) as f32 / (1 << 23) as f32 - 1.0;
    let centres: Vec<Vec<f32>> = (0..40).map(|_| (0..dims).map(|_| noise()).collect()).collect();
    (0..count)
        .map(|_| {
            let centre = &centres[random.next_u64() as usize % centres.len()];
            let length = 1.0 + 0.3 * noise();
            centre.iter().map(|x| length * (x + 0.7 * noise())).collect()
        })
        .collect()
}

fn value(element: Element, vector: &[f32]) -> Value {
    Value::Vector(match element {
        Element::F32 => Vector::F32(vector.to_vec()),
        Element::F16 => Vector::F16(vector.iter().map(|x| half::f16::from_f32(*x)).collect()),
        Element::I8 => Vector::I8(vector.iter().map(|x| (x * I8_SCALE) as i8).collect()),
    })
}

/// Rows with a vector each, but for every tenth; every fiftieth has a second one.
fn entries(schema: &Schema, vectors: &[Vec<f32>], first: u64) -> Vec<Entry> {
    let AttributeType::Vector { element, .. } = schema.columns[0].kind else { panic!("expected vectors") };
    let mut row = 0;
    let mut next = |vector: &Vec<f32>| {
        row += 1;
        let mut fields = Vec::new();
        if row % 10 != 0 {
            fields.push((schema.columns[0].uid(), value(element, vector)));
        }
        if row % 50 == 0 {
            fields.push((schema.columns[1].uid(), value(element, vector)));
        }
        fields.sort_unstable_by_key(|(uid, _)| *uid);
        let (id, version) = (DocId::Uint(first + row), Version::default());
        Entry::Row { document: Arc::new(Document { id, version, fields, patch: None }), terms: Vec::new() }
    };
    vectors.iter().map(&mut next).collect()
}

fn segment(schema: &Schema, entries: &[Entry]) -> Segment {
    let mut file = Vec::new();
    build(Uuid::nil(), schema, entries, &mut file).unwrap();
    Segment::open(Mapping::of_bytes(file), "segment").unwrap()
}

fn search(
    segment: &Segment,
    schema: &Schema,
    query: &QueryVector,
    (k, recall): (usize, f32),
    rows: Option<&RoaringBitmap>,
    dead: &RoaringBitmap,
) -> Probed {
    let reader = segment.vectors(schema.columns[0].uid()).unwrap().unwrap();
    let wanted = Wanted { k, recall, known: &[] };
    reader
        .nearest_in_clusters(query, &ClusterQuery::new(query), &wanted, rows, dead, &Allowance::unlimited())
        .unwrap()
        .unwrap()
}

/// The mean recall of some queries, and how many of all vectors were looked at.
fn measured(
    segment: &Segment,
    schema: &Schema,
    queries: &[Vec<f32>],
    (k, recall): (usize, f32),
    rows: Option<&RoaringBitmap>,
    dead: &RoaringBitmap,
) -> (f64, f64) {
    let reader = segment.vectors(schema.columns[0].uid()).unwrap().unwrap();
    let (mut hits, mut all, mut scanned) = (0, 0, 0);
    for values in queries {
        let query = QueryVector::new(schema.metric.unwrap(), values.clone());
        let truth = reader.nearest(&query, rows, dead, k, &Allowance::unlimited()).unwrap();
        let probed = search(segment, schema, &query, (k, recall), rows, dead);
        let found = &probed.nearest;
        assert!(found.is_sorted_by(|a, b| (a.0, a.1) < (b.0, b.1)), "{found:?}");
        for (distance, row) in found {
            assert_eq!(reader.distance(*row, &query).unwrap(), Some(*distance));
            assert!(!dead.contains(*row) && rows.is_none_or(|rows| rows.contains(*row)), "{row} is no candidate");
        }
        hits += truth.iter().filter(|near| found.contains(near)).count();
        all += truth.len();
        scanned += probed.scanned;
    }
    (hits as f64 / all as f64, scanned as f64 / (queries.len() as u64 * reader.count()) as f64)
}

#[test]
fn the_recall_that_is_asked_for_is_found_under_every_metric_and_element() {
    for (element, dims, count) in [(Element::F32, 96, 5_000), (Element::F16, 40, 4_000), (Element::I8, 50, 4_000)] {
        let mut all = vectors(count + 40, dims, 7);
        if element == Element::I8 {
            all[count..].iter_mut().flatten().for_each(|x| *x *= I8_SCALE);
        }
        let (base, queries) = all.split_at(count);
        for metric in METRICS {
            let schema = schema(dims as u32, element, metric);
            let segment = segment(&schema, &entries(&schema, base, 0));
            for recall in [0.9, 0.99] {
                let (found, scanned) =
                    measured(&segment, &schema, queries, (10, recall), None, &RoaringBitmap::new());
                let what = format!("{element:?} {metric:?}: {found} for {recall}, {scanned} scanned");
                assert!(found >= f64::from(recall) - 0.01, "{what}");
                assert!(scanned < 0.9, "{what}");
            }
            segment.verify().unwrap();
        }
    }
}

#[test]
fn a_filter_that_leaves_few_and_dead_rows_takes_no_recall_away() {
    let all = vectors(6_040, 64, 9);
    let (base, queries) = all.split_at(6_000);
    let schema = schema(64, Element::F32, Metric::CosineDistance);
    let segment = segment(&schema, &entries(&schema, base, 0));
    let dead: RoaringBitmap = (0..6_000).filter(|row| row % 7 == 3).collect();
    for every in [2, 9, 30] {
        let rows: RoaringBitmap = (0..6_000).filter(|row| row % every == 1).collect();
        for dead in [&RoaringBitmap::new(), &dead] {
            let (found, _) = measured(&segment, &schema, queries, (10, 0.95), Some(&rows), dead);
            assert!(found >= 0.93, "every {every}: {found}");
        }
    }
    let (found, _) = measured(&segment, &schema, queries, (10, 0.95), None, &dead);
    assert!(found >= 0.94, "{found}");
    // Matches in one corner of the space, and queries everywhere.
    let corner: RoaringBitmap = (0..6_000u32).filter(|row| base[*row as usize][5] > 0.9).collect();
    let (found, _) = measured(&segment, &schema, queries, (10, 0.95), Some(&corner), &RoaringBitmap::new());
    assert!(found >= 0.93, "{found} in a corner of {}", corner.len());
}

#[test]
fn what_is_known_from_elsewhere_narrows_a_search() {
    let all = vectors(8_001, 64, 3);
    let (base, query) = all.split_at(8_000);
    let schema = schema(64, Element::F32, Metric::EuclideanSquared);
    let segment = segment(&schema, &entries(&schema, base, 0));
    let query = QueryVector::new(Metric::EuclideanSquared, query[0].clone());
    let reader = segment.vectors(schema.columns[0].uid()).unwrap().unwrap();
    let by_codes = ClusterQuery::new(&query);
    let probed = |known: &[f32]| {
        let wanted = Wanted { k: 10, recall: 0.95, known };
        reader
            .nearest_in_clusters(&query, &by_codes, &wanted, None, &RoaringBitmap::new(), &Allowance::unlimited())
            .unwrap()
            .unwrap()
    };
    let without = probed(&[]);
    let with = probed(&[without.nearest[0].0 * 0.1; 20]);
    assert!(with.refined < without.refined && with.clusters <= without.clusters, "{with:?}, {without:?}");
}

#[test]
fn several_segments_are_searched_as_if_they_were_one() {
    let all = vectors(12_060, 64, 11);
    let (base, queries) = all.split_at(12_000);
    for metric in METRICS {
        let schema = schema(64, Element::F32, metric);
        let (uid, none) = (schema.columns[0].uid(), RoaringBitmap::new());
        let one = segment(&schema, &entries(&schema, base, 0));
        let several: Vec<Segment> = [0..5_000, 5_000..9_000, 9_000..12_000]
            .map(|rows| segment(&schema, &entries(&schema, &base[rows.clone()], rows.start as u64)))
            .into();
        let whole = one.vectors(uid).unwrap().unwrap();
        let readers: Vec<_> = several.iter().map(|segment| segment.vectors(uid).unwrap().unwrap()).collect();
        let (mut hits, mut scanned, mut apart) = (0, 0, 0);
        for values in queries {
            let query = QueryVector::new(metric, values.clone());
            let by_codes = ClusterQuery::new(&query);
            let wanted = Wanted { k: 10, recall: 0.95, known: &[] };
            let sources: Vec<Source> = readers
                .iter()
                .map(|reader| reader.source(&query, &by_codes, None, &none).unwrap().unwrap())
                .collect();
            let (near, probed) =
                ClusterSearch::new(&by_codes, sources).run(&wanted, &Allowance::unlimited()).unwrap();
            let distance = |near: &NearByCodes| readers[near.source].distance(near.row, &query).unwrap().unwrap();
            let mut found: Vec<f32> = near.iter().map(distance).collect();
            found.sort_unstable_by(f32::total_cmp);
            let truth = whole.nearest(&query, None, &none, 10, &Allowance::unlimited()).unwrap();
            hits += found.iter().take(10).filter(|found| truth.iter().any(|(near, _)| near == *found)).count();
            scanned += probed.scanned;
            apart += several
                .iter()
                .map(|segment| search(segment, &schema, &query, (10, 0.95), None, &none).scanned)
                .sum::<u64>();
        }
        let recall = hits as f64 / (10 * queries.len()) as f64;
        assert!(recall >= 0.94, "{metric:?}: {recall}");
        assert!(scanned < apart / 4 * 3, "{metric:?}: {scanned}, apart {apart}");
    }
}

#[test]
fn merged_segments_have_the_clusters_of_their_live_rows() {
    let all = vectors(9_060, 48, 5);
    let (base, queries) = all.split_at(9_000);
    for metric in METRICS {
        let schema = schema(48, Element::F32, metric);
        let parts: Vec<Segment> = (0..3)
            .map(|part| {
                segment(&schema, &entries(&schema, &base[part * 3_000..(part + 1) * 3_000], part as u64 * 3_000))
            })
            .collect();
        let dead: RoaringBitmap = (100..900).collect();
        let inputs: Vec<_> = parts.iter().map(|segment| (segment, &dead)).collect();
        let merged = merged(&schema, &inputs);
        merged.verify().unwrap();
        let (found, _) = measured(&merged, &schema, queries, (10, 0.95), None, &RoaringBitmap::new());
        assert!(found >= 0.94, "{metric:?}: {found}");
    }
}

fn merged(schema: &Schema, inputs: &[(&Segment, &RoaringBitmap)]) -> Segment {
    let inputs: Vec<Input> = inputs.iter().map(|(segment, dead)| Input { segment, dead }).collect();
    let mut file = Vec::new();
    merge(Uuid::nil(), schema, &inputs, Hlc(0), &mut file).unwrap();
    Segment::open(Mapping::of_bytes(file), "merged").unwrap()
}

/// The centroids of the first column, each as its bytes.
fn centroids(segment: &Segment, schema: &Schema) -> Vec<Vec<u8>> {
    let file = segment.file().unwrap();
    let meta = decode_meta(file, &decode_footer(file, "file").unwrap(), "file").unwrap();
    let name = column_section(SECTION, schema.columns[0].uid());
    let section = meta.sections.iter().find(|section| section.name == name).unwrap();
    let bytes = &file[section.offset as usize..(section.offset + section.bytes) as usize];
    let table = Table::decode(bytes, "table").unwrap();
    (0..table.header().clusters).map(|cluster| table.centroid(cluster).unwrap().to_vec()).collect()
}

#[test]
fn a_merge_carries_on_the_clusters_of_its_largest_input() {
    let all = vectors(12_040, 48, 6);
    let (base, queries) = all.split_at(12_000);
    for metric in METRICS {
        let schema = schema(48, Element::F32, metric);
        let large = segment(&schema, &entries(&schema, &base[..9_000], 0));
        // Some replace rows of the large one, others are new.
        let small = segment(&schema, &entries(&schema, &base[9_000..], 8_000));
        let dead: RoaringBitmap = (500..800).collect();
        let merged = merged(&schema, &[(&small, &RoaringBitmap::new()), (&large, &dead)]);
        assert_eq!(merged.rows(), 11_000 - 300);
        // Makes every code anew and compares.
        merged.verify().unwrap();
        let (before, after) = (centroids(&large, &schema), centroids(&merged, &schema));
        let kept = before.iter().filter(|centroid| after.contains(centroid)).count();
        assert!(kept * 10 >= before.len() * 7, "{metric:?}: {kept} of {} are kept", before.len());
        let (found, _) = measured(&merged, &schema, queries, (10, 0.95), None, &RoaringBitmap::new());
        assert!(found >= 0.94, "{metric:?}: {found}");
    }
}

#[test]
fn clusters_follow_data_that_moves_from_merge_to_merge() {
    let schema = schema(48, Element::F32, Metric::CosineDistance);
    let none = RoaringBitmap::new();
    let mut whole = segment(&schema, &entries(&schema, &vectors(4_000, 48, 100), 0));
    for round in 1..5 {
        // Around other centres than before.
        let all = vectors(2_540, 48, 100 + round);
        let (added, queries) = all.split_at(2_500);
        let added = segment(&schema, &entries(&schema, added, round * 10_000));
        // What came first goes.
        let dead: RoaringBitmap = (0..1_500).collect();
        whole = merged(&schema, &[(&whole, &dead), (&added, &none)]);
        whole.verify().unwrap();
        let reader = whole.vectors(schema.columns[0].uid()).unwrap().unwrap();
        let each = reader.count() / reader.clusters().unwrap().unwrap() as u64;
        assert!((60..480).contains(&each), "{each} vectors in a cluster");
        let (found, scanned) = measured(&whole, &schema, queries, (10, 0.95), None, &none);
        assert!(found >= 0.94 && scanned < 0.9, "round {round}: {found} found, {scanned} scanned");
    }
}

#[test]
fn vectors_that_are_all_alike_zero_or_huge_are_found_too() {
    let none = RoaringBitmap::new();
    for metric in METRICS {
        let schema = schema(32, Element::F32, metric);
        for value in [0.0f32, 1.0, 1e30] {
            let segment = segment(&schema, &entries(&schema, &vec![vec![value; 32]; 2_500], 0));
            segment.verify().unwrap();
            let reader = segment.vectors(schema.columns[0].uid()).unwrap().unwrap();
            let query = QueryVector::new(metric, vec![1.0; 32]);
            let wanted = Wanted { k: 5, recall: 0.95, known: &[] };
            let by_codes = ClusterQuery::new(&query);
            let found =
                reader.nearest_in_clusters(&query, &by_codes, &wanted, None, &none, &Allowance::unlimited()).unwrap();
            let expected: Vec<f32> = reader
                .nearest(&query, None, &none, 5, &Allowance::unlimited())
                .unwrap()
                .iter()
                .map(|near| near.0)
                .collect();
            match found {
                Some(probed) => {
                    let found: Vec<f32> = probed.nearest.iter().map(|near| near.0).collect();
                    assert_eq!(found, expected, "{metric:?} {value}");
                }
                // Too large for codes.
                None => assert_eq!((value, metric == Metric::CosineDistance), (1e30, false)),
            }
        }
        // A query that is at one distance from everything is for the exact search.
        let segment = segment(&schema, &entries(&schema, &vectors(2_500, 32, 1), 0));
        let reader = segment.vectors(schema.columns[0].uid()).unwrap().unwrap();
        let query = QueryVector::new(metric, vec![0.0; 32]);
        let wanted = Wanted { k: 5, recall: 0.95, known: &[] };
        assert!(
            reader
                .nearest_in_clusters(
                    &query,
                    &ClusterQuery::new(&query),
                    &wanted,
                    None,
                    &none,
                    &Allowance::unlimited()
                )
                .unwrap()
                .is_none()
        );
    }
}

#[test]
fn a_search_that_must_end_ends_while_it_looks_at_vectors() {
    let schema = schema(32, Element::F32, Metric::CosineDistance);
    let segment = segment(&schema, &entries(&schema, &vectors(6_000, 32, 1), 0));
    let reader = segment.vectors(schema.columns[0].uid()).unwrap().unwrap();
    let query = QueryVector::new(Metric::CosineDistance, vectors(1, 32, 2)[0].clone());
    let over = Allowance::new(0, || Some(End::TimeIsUp));
    let none = RoaringBitmap::new();
    let some: RoaringBitmap = (0..3_000).collect();
    for rows in [None, Some(&some)] {
        let wanted = Wanted { k: 5, recall: 0.95, known: &[] };
        let by_codes = ClusterQuery::new(&query);
        let found = reader.nearest_in_clusters(&query, &by_codes, &wanted, rows, &none, &over);
        assert_eq!(found.unwrap_err().code(), "query_timeout");
        assert_eq!(reader.nearest(&query, rows, &none, 5, &over).unwrap_err().code(), "query_timeout");
    }
}

#[test]
fn few_vectors_are_in_no_clusters() {
    let schema = schema(32, Element::F32, Metric::CosineDistance);
    let segment = segment(&schema, &entries(&schema, &vectors(2_100, 32, 1), 0));
    for column in &schema.columns {
        let reader = segment.vectors(column.uid()).unwrap().unwrap();
        assert_eq!(reader.clusters().unwrap(), None, "{} vectors", reader.count());
    }
}

#[test]
fn the_table_of_clusters_is_laid_out_as_documented() {
    let metric = Metric::DotProduct;
    let header = Header { dims: 64, clusters: 2, rows: 9, vectors: 7, metric, largest_norm: 1.5 };
    check_layout("Clusters of vectors", &header.encode(), |field, _| match field {
        "version" => vec![1, 0, 0, 0],
        "dims" => vec![64, 0, 0, 0],
        "clusters" => vec![2, 0, 0, 0],
        "rows" => vec![9, 0, 0, 0],
        "vectors" => vec![7, 0, 0, 0],
        "metric" => vec![2, 0, 0, 0],
        "largest_norm" => 1.5f32.to_le_bytes().to_vec(),
        "reserved" => vec![0; 36],
        other => panic!("the header has no field {other}"),
    });
}

#[test]
fn nonsense_in_clusters_is_no_panic() {
    let whole = file();
    let footer = decode_footer(&whole, "whole").unwrap();
    let meta = decode_meta(&whole, &footer, "whole").unwrap();
    let random = SeededRandom::new(1);
    let column = schema(16, Element::I8, Metric::CosineDistance).columns[0].uid();
    let query = QueryVector::new(Metric::CosineDistance, vectors(1, 16, 2)[0].clone());
    let by_codes = ClusterQuery::new(&query);
    for section in [SECTION, LISTS_SECTION].map(|name| column_section(name, column)) {
        let section = meta.sections.iter().find(|found| found.name == section).unwrap();
        for n in 0..400 {
            // Headers and entries most of all.
            let at = if n < 200 { n } else { random.next_u64() } % section.bytes;
            let change = [0xff, 0x80, 0x01, 0x7f][n as usize % 4];
            let damaged = resealed(&whole, |file, _, _| file[(section.offset + at) as usize] ^= change);
            let Ok(segment) = Segment::open(Mapping::of_bytes(damaged), "damaged") else { continue };
            let reader = segment.vectors(column).unwrap().unwrap();
            for rows in [None, Some(&(0..90).collect()), Some(&(0..2_000).collect())] {
                let wanted = Wanted { k: 5, recall: 0.99, known: &[] };
                let _ = reader.nearest_in_clusters(
                    &query,
                    &by_codes,
                    &wanted,
                    rows,
                    &RoaringBitmap::new(),
                    &Allowance::unlimited(),
                );
            }
        }
    }
}

/// A segment with clusters.
pub fn file() -> Vec<u8> {
    let schema = schema(16, Element::I8, Metric::CosineDistance);
    let mut file = Vec::new();
    build(Uuid::nil(), &schema, &entries(&schema, &vectors(2_400, 16, 21), 0), &mut file).unwrap();
    file
}

/// Which centroids there are differs from processor to processor; what is coded with them does not.
#[test]
fn the_golden_clusters_are_read_and_their_codes_made_as_they_were() {
    let schema = schema(16, Element::I8, Metric::CosineDistance);
    let bytes = golden("segment-clusters.seg", &file());
    let footer = decode_footer(&bytes, "golden").unwrap();
    let meta = decode_meta(&bytes, &footer, "golden").unwrap();
    let name = column_section(SECTION, schema.columns[0].uid());
    let section = meta.sections.iter().find(|section| section.name == name).unwrap();
    let table = &bytes[section.offset as usize..(section.offset + section.bytes) as usize];
    assert_eq!(Table::decode(table, "golden").unwrap().header().vectors, 2_160);
    let segment = Segment::open(Mapping::of_bytes(bytes), "golden").unwrap();
    // Makes every code anew and compares.
    segment.verify().unwrap();
    let (found, _) = measured(&segment, &schema, &vectors(20, 16, 22), (10, 0.9), None, &RoaringBitmap::new());
    assert!(found > 0.85, "{found}");
}
