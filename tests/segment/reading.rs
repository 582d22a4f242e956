//! Documents, ids, values and vectors come back from a segment as they were put in.

use std::ops::Bound;

use crate::documents::{built, documents, entries, id, open, schema_with_tokens as schema};
use roaring::RoaringBitmap;
use shoal::model::ids::DocId;
use shoal::model::schema::{AttributeType, Metric};
use shoal::model::value::{Multivector, Value, Vector};
use shoal::platform::allowance::{Allowance, End};
use shoal::segment::builder::Entry;
use shoal::segment::vectors::{QueryTokens, QueryVector, distance};
use uuid::Uuid;

fn assert_shared<T: Send + Sync>(_: &T) {}

#[test]
fn every_document_comes_back_whole_and_in_part() {
    for kind in 0..3 {
        for count in [0, 1, 2, 700] {
            let schema = schema();
            let entries = entries(&schema, kind, count);
            let documents = documents(&entries);
            let (bytes, summary) = built(&schema, &entries);
            let segment = open(bytes);
            assert_shared(&segment);
            assert_eq!(segment.rows() as usize, documents.len());
            assert_eq!((summary.rows, summary.tombstones), (segment.rows(), segment.tombstone_count()));
            assert_eq!(summary.logical_bytes, documents.iter().map(|d| d.logical_bytes()).sum::<u64>());
            let mut scan = segment.scan().unwrap();
            for (row, document) in (0..).zip(&documents) {
                assert_eq!(segment.document(row, None).unwrap(), **document);
                assert_eq!(segment.row_of(&document.id).unwrap(), Some(row));
                assert_eq!(segment.id_of(row).unwrap(), document.id);
                assert_eq!(segment.version_of(row).unwrap(), document.version);
                assert_eq!(segment.logical_bytes_of(row).unwrap(), document.logical_bytes());
                let wanted = [document.fields[0].0, document.fields[document.fields.len() - 1].0];
                let part = scan.document(row, Some(&wanted)).unwrap();
                assert_eq!(part.fields.len(), 2);
                assert_eq!(part.get(wanted[1]), document.get(wanted[1]));
                assert_eq!((part.version, part.patch), (document.version, document.patch.clone()));
            }
            let absent = (0..count + 3).map(|n| match id(kind, n) {
                DocId::Uint(n) => DocId::Uint(n + 1),
                DocId::Uuid(u) => DocId::Uuid(Uuid::from_u128(u.as_u128() + 1)),
                DocId::String(s) => DocId::String(format!("{s}!").into()),
            });
            for id in absent {
                assert_eq!(segment.row_of(&id).unwrap(), None);
            }
            assert_eq!(segment.row_of(&DocId::String("~".into())).unwrap(), None);
            assert!(segment.document(segment.rows(), None).is_err());
            let tombstones = segment.tombstones().unwrap();
            let expected = entries.iter().filter_map(|entry| match entry {
                Entry::Tombstone(tombstone) => Some(tombstone.clone()),
                Entry::Row { .. } => None,
            });
            assert!(tombstones.into_iter().eq(expected));
        }
    }
}

fn elements(value: &Value) -> Vec<Value> {
    match value {
        Value::Bools(v) => v.iter().map(|v| Value::Bool(*v)).collect(),
        Value::Ints(v) => v.iter().map(|v| Value::Int(*v)).collect(),
        Value::Uints(v) => v.iter().map(|v| Value::Uint(*v)).collect(),
        Value::Floats(v) => v.iter().map(|v| Value::Float(if *v == 0.0 { 0.0 } else { *v })).collect(),
        Value::Strings(v) => v.iter().map(|v| Value::String(v.clone())).collect(),
        Value::Uuids(v) => v.iter().map(|v| Value::Uuid(*v)).collect(),
        Value::DateTimes(v) => v.iter().map(|v| Value::DateTime(*v)).collect(),
        single => vec![single.clone()],
    }
}

#[test]
fn every_value_finds_its_rows_and_every_row_its_values() {
    let schema = schema();
    let entries = entries(&schema, 0, 600);
    let documents = documents(&entries);
    let segment = open(built(&schema, &entries).0);
    let mut seen = 0;
    for column in &schema.columns {
        let reader = segment.attribute(column.uid()).unwrap();
        assert_eq!(reader.is_some(), column.filterable);
        let Some(reader) = reader else { continue };
        seen += 1;
        let holding = |test: &dyn Fn(&Value) -> bool| -> RoaringBitmap {
            let rows = (0..)
                .zip(&documents)
                .filter(|(_, d)| d.get(column.uid()).is_some_and(|v| elements(v).iter().any(test)));
            rows.map(|(row, _)| row).collect()
        };
        let present = (0..).zip(&documents).filter(|(_, d)| d.get(column.uid()).is_some()).map(|(row, _)| row);
        assert_eq!(reader.present().unwrap(), present.collect());
        for ordinal in 0..reader.values() {
            let value = reader.value(ordinal).unwrap();
            assert_eq!(reader.ordinal_of(&value).unwrap(), Some(ordinal));
            assert_eq!(reader.rows_of(ordinal).unwrap(), holding(&|v| *v == value), "{} {value:?}", column.name);
            assert_eq!(reader.ordinals(Bound::Included(&value), Bound::Unbounded).unwrap(), ordinal..reader.values());
            assert_eq!(reader.ordinals(Bound::Unbounded, Bound::Excluded(&value)).unwrap(), 0..ordinal);
        }
        for range in [0..1, 0..reader.values(), 1..reader.values().min(9), 3..3] {
            let expected =
                range.clone().map(|at| reader.rows_of(at).unwrap()).fold(RoaringBitmap::new(), |a, b| a | b);
            assert_eq!(reader.rows_in(range).unwrap(), expected);
        }
        for (row, document) in (0..).zip(&documents) {
            let mut expected: Vec<u32> = document
                .get(column.uid())
                .map_or(Vec::new(), elements)
                .iter()
                .map(|element| reader.ordinal_of(element).unwrap().unwrap())
                .collect();
            expected.sort();
            expected.dedup();
            assert_eq!(reader.scalar_ordinal(row).unwrap(), expected.first().copied());
            assert!(reader.row_ordinals(row).unwrap().eq(expected));
        }
    }
    assert_eq!(seen, 14);
    let strings = segment.attribute(schema.columns[4].uid()).unwrap().unwrap();
    assert_eq!(strings.ordinal_of(&Value::String("value".into())).unwrap(), None);
    assert_eq!(strings.ordinal_of(&Value::String("~".into())).unwrap(), None);
    let (from, to) = (Value::String("value-003".into()), Value::String("value-004".into()));
    let some = strings.ordinals(Bound::Included(&from), Bound::Excluded(&to)).unwrap();
    assert!(!some.is_empty());
    for ordinal in some {
        assert!(matches!(strings.value(ordinal).unwrap(), Value::String(s) if s.starts_with("value-003")));
    }
    assert!(strings.ordinal_of(&Value::Int(1)).is_err());
}

#[test]
fn the_nearest_are_those_of_a_sorted_list_of_all() {
    let schema = schema();
    let entries = entries(&schema, 0, 900);
    let documents = documents(&entries);
    let segment = open(built(&schema, &entries).0);
    let few: RoaringBitmap = [5, 17, 400].into_iter().collect();
    let many: RoaringBitmap = (0..800).filter(|row| row % 3 != 0).collect();
    for column in schema.columns.iter().filter(|column| column.kind.is_vector()) {
        let reader = segment.vectors(column.uid()).unwrap().unwrap();
        for metric in [Metric::CosineDistance, Metric::EuclideanSquared, Metric::DotProduct] {
            let query = QueryVector::new(metric, vec![1.0, -2.0, 0.5]);
            for rows in [None, Some(&few), Some(&many)] {
                for dead in [RoaringBitmap::new(), (0..100).chain([400]).collect()] {
                    let mut expected = Vec::new();
                    for (row, document) in (0..).zip(&documents) {
                        let Some(Value::Vector(vector)) = document.get(column.uid()) else { continue };
                        let far = distance(&query, vector);
                        assert_eq!(reader.distance(row, &query).unwrap(), Some(far));
                        if !dead.contains(row) && rows.is_none_or(|rows| rows.contains(row)) {
                            expected.push((far, row));
                        }
                    }
                    expected.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
                    expected.truncate(10);
                    assert_eq!(reader.nearest(&query, rows, &dead, 10, &Allowance::unlimited()).unwrap(), expected);
                }
            }
        }
        assert!(
            reader
                .nearest(&QueryVector::new(Metric::DotProduct, vec![1.0]), None, &few, 1, &Allowance::unlimited())
                .is_err()
        );
    }
}

#[test]
fn the_nearest_by_tokens_are_those_of_a_sorted_list_of_all() {
    let schema = schema();
    let entries = entries(&schema, 0, 500);
    let documents = documents(&entries);
    let segment = open(built(&schema, &entries).0);
    let some: RoaringBitmap = (0..400).filter(|row| row % 3 != 0).collect();
    for column in schema.columns.iter().filter(|column| matches!(column.kind, AttributeType::Multivector { .. })) {
        let reader = segment.tokens(column.uid()).unwrap().unwrap();
        let dims = reader.dims();
        let value = |row: usize| match documents[row].get(column.uid()) {
            Some(Value::Multivector(tokens)) => Some(tokens.clone()),
            _ => None,
        };
        let present: RoaringBitmap = (0..segment.rows()).filter(|row| value(*row as usize).is_some()).collect();
        assert_eq!((reader.present(), reader.count()), (present.clone(), present.len()));
        for metric in [Metric::CosineDistance, Metric::EuclideanSquared, Metric::DotProduct] {
            let of_query = Multivector { dims, elements: (0..3 * dims).map(|n| n as f32 - 3.0).collect() };
            let query = QueryTokens::new(metric, &of_query).unwrap();
            for rows in [None, Some(&some)] {
                for dead in [RoaringBitmap::new(), (0..100).chain([300]).collect()] {
                    let mut expected = Vec::new();
                    for row in 0..segment.rows() {
                        let tokens = value(row as usize);
                        assert_eq!(reader.value(row).unwrap(), tokens);
                        let naive = tokens.filter(|tokens| !tokens.elements.is_empty()).map(|tokens| {
                            let nearest = |of_query: &[f32]| {
                                let one = QueryVector::new(metric, of_query.to_vec());
                                let all = tokens.tokens().map(|token| distance(&one, &Vector::F32(token.to_vec())));
                                all.min_by(f32::total_cmp).unwrap()
                            };
                            of_query.tokens().map(|token| f64::from(nearest(token))).sum::<f64>() as f32
                        });
                        assert_eq!(reader.distance(row, &query).unwrap(), naive);
                        let is_candidate = !dead.contains(row) && rows.is_none_or(|rows| rows.contains(row));
                        expected.extend(naive.filter(|_| is_candidate).map(|distance| (distance, row)));
                    }
                    expected.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
                    expected.truncate(10);
                    assert_eq!(reader.nearest(&query, rows, &dead, 10, &Allowance::unlimited()).unwrap(), expected);
                }
            }
            let over = Allowance::new(0, || Some(End::TimeIsUp));
            let ended = reader.nearest(&query, None, &some, 1, &over).unwrap_err();
            assert_eq!(ended.code(), "query_timeout");
        }
        let other = QueryTokens::new(Metric::DotProduct, &Multivector { dims: 7, elements: vec![1.0; 7] }).unwrap();
        assert!(reader.nearest(&other, None, &some, 1, &Allowance::unlimited()).is_err());
    }
}
