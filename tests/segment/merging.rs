//! A merge of segments is, to the byte, the segment that would be built from their live documents.

use std::sync::Arc;

use roaring::RoaringBitmap;
use shoal::model::document::{Document, PatchIntent, Tombstone};
use shoal::model::ids::{Hlc, Origin, Version};
use shoal::model::schema::{AttributeType, Column, FullText, Schema};
use shoal::model::value::Value;
use shoal::segment::Segment;
use shoal::segment::builder::{Entry, build};
use shoal::segment::merge::{Input, merge, merge_renewed};
use shoal::segment::renewal::Renewal;
use uuid::Uuid;

use crate::documents::{
    built, document, documents, entries, id, open, schema_with_positions, schema_with_tokens as schema, value,
};

fn merged(schema: &Schema, segments: &[Segment], dead: &[RoaringBitmap], horizon: Hlc) -> Vec<u8> {
    let inputs: Vec<Input> = segments.iter().zip(dead).map(|(segment, dead)| Input { segment, dead }).collect();
    let mut bytes = Vec::new();
    let summary = merge(Uuid::from_u128(6), schema, &inputs, horizon, &mut bytes).unwrap();
    assert_eq!((summary.bytes, summary.crc32c), (bytes.len() as u64, crc32c::crc32c(&bytes)));
    bytes
}

fn row(document: Document) -> Entry {
    Entry::Row { document: Arc::new(document), terms: Vec::new() }
}

/// Entries dealt out to so many segments, and the rows of each that are dead.
fn split(entries: Vec<Entry>, parts: usize, schema: &Schema) -> (Vec<Segment>, Vec<RoaringBitmap>, Vec<Entry>) {
    let mut dealt: Vec<Vec<Entry>> = (0..parts).map(|_| Vec::new()).collect();
    let mut dead = vec![RoaringBitmap::new(); parts];
    let mut rows = vec![0; parts];
    let mut live = Vec::new();
    for (n, entry) in entries.into_iter().enumerate() {
        // Runs and single entries, so that blocks are copied and mixed.
        let part = if n % 100 < 60 { n / 100 % parts } else { n * 7 % parts };
        if let Entry::Row { document, .. } = &entry {
            if n % 13 == 5 {
                dead[part].insert(rows[part]);
            } else {
                live.push(row(document.as_ref().clone()));
            }
            rows[part] += 1;
        } else if let Entry::Tombstone(tombstone) = &entry {
            live.push(Entry::Tombstone(tombstone.clone()));
        }
        dealt[part].push(entry);
    }
    (dealt.iter().map(|entries| open(built(schema, entries).0)).collect(), dead, live)
}

#[test]
fn a_segment_with_a_new_origin_is_the_one_that_would_be_built_of_its_documents() {
    let schema = schema();
    for (kind, count) in [(0, 300), (2, 200)] {
        let old = entries(&schema, kind, count);
        let versions = old.iter().map(|entry| match entry {
            Entry::Row { document, .. } => document.version,
            Entry::Tombstone(tombstone) => tombstone.version,
        });
        let mut all: Vec<Version> = versions.collect();
        all.sort_unstable();
        let middle = all[all.len() / 2];
        let mut renewal = Renewal::default();
        renewal.add(middle.origin, Hlc(middle.hlc.0 - 1), Origin(77));
        let renewed = |entry: &Entry| match entry {
            Entry::Row { document, terms } => {
                let patch = document.patch.clone().map(|patch| PatchIntent { base: renewal.of(patch.base), ..patch });
                let version = renewal.of(document.version);
                let document = Arc::new(Document { version, patch, ..document.as_ref().clone() });
                Entry::Row { document, terms: terms.clone() }
            }
            Entry::Tombstone(tombstone) => {
                Entry::Tombstone(Tombstone { version: renewal.of(tombstone.version), ..tombstone.clone() })
            }
        };
        assert!(
            all.iter().any(|version| renewal.is_of(*version)) && all.iter().any(|version| !renewal.is_of(*version))
        );
        let segment = open(built(&schema, &old).0);
        let mut bytes = Vec::new();
        let input = [Input { segment: &segment, dead: &RoaringBitmap::new() }];
        merge_renewed(Uuid::from_u128(6), &schema, &input, Hlc(0), Some(&renewal), &mut bytes).unwrap();
        let expected: Vec<Entry> = old.iter().map(renewed).collect();
        assert_eq!(bytes, built(&schema, &expected).0, "{kind} {count}");
    }
}

#[test]
fn a_merge_equals_a_build_of_the_live_documents() {
    for schema in [schema(), schema_with_positions()] {
        for (kind, count, parts) in [(0, 900, 3), (1, 40, 5), (2, 700, 4), (0, 0, 2), (2, 3, 1)] {
            let (segments, dead, live) = split(entries(&schema, kind, count), parts, &schema);
            assert_eq!(merged(&schema, &segments, &dead, Hlc(0)), built(&schema, &live).0, "{kind} {count} {parts}");
        }
    }
}

#[test]
fn positions_are_made_of_the_texts_of_segments_without() {
    let (without, with) = (crate::documents::schema(), schema_with_positions());
    for kept in [[false, false, false], [true, false, true], [true, true, true]] {
        let (mut segments, dead, live) = split(entries(&without, 0, 600), 3, &without);
        let positioned = split(entries(&with, 0, 600), 3, &with).0;
        for (at, segment) in positioned.into_iter().enumerate().filter(|(at, _)| kept[*at]) {
            assert!(!segment.lacks_indexes(&with) && segments[at].lacks_indexes(&with));
            segments[at] = segment;
        }
        assert_eq!(merged(&with, &segments, &dead, Hlc(0)), built(&with, &live).0, "{kept:?}");
        // And they go where they are not asked for any more.
        assert_eq!(merged(&without, &segments, &dead, Hlc(0)), built(&without, &live).0, "{kept:?}");
        assert!(segments.iter().all(|segment| !segment.lacks_indexes(&without)));
    }
}

#[test]
fn a_merge_of_nothing_live_is_an_empty_segment() {
    let schema = schema();
    let all: Vec<Segment> = vec![open(built(&schema, &[row(document(&schema, id(0, 1), 1))]).0)];
    let bytes = merged(&schema, &all, &[[0].into_iter().collect()], Hlc(0));
    assert_eq!(bytes, built(&schema, &[]).0);
    assert_eq!(open(bytes).rows(), 0);
}

#[test]
fn a_merge_follows_the_new_schema() {
    let before = schema();
    let mut after = schema();
    // Dropped: a string, an array, a dense vector, a multivector. Not filterable, then filterable; another analysis; a new column.
    for name in ["[]uint", "uuid", "[3]f16", "[][3]f32"] {
        after.columns.retain(|column| column.name != name);
    }
    after.columns.push(Column::new("later", AttributeType::Int, 0));
    let change = |schema: &mut Schema, name: &str, change: &dyn Fn(&mut Column)| {
        change(schema.columns.iter_mut().find(|column| column.name == name).unwrap());
    };
    let mut before_2 = before.clone();
    change(&mut before_2, "int", &|column| column.filterable = false);
    change(&mut before_2, "[]datetime", &|column| column.filterable = false);
    change(&mut before_2, "string", &|column| column.full_text = None);
    change(&mut after, "float", &|column| column.filterable = false);
    change(&mut after, "[]string", &|column| {
        column.full_text = Some(FullText { stemming: true, k1: 2.0, ..FullText::default() });
    });
    for parts in [1, 3] {
        for mixed in [false, true] {
            let (mut segments, dead, live) = split(entries(&before, 2, 500), parts, &before);
            if mixed {
                segments = split(entries(&before_2, 2, 500), parts, &before_2).0;
                if parts > 1 {
                    segments[1] = split(entries(&before, 2, 500), parts, &before).0.remove(1);
                }
            }
            let bytes = merged(&after, &segments, &dead, Hlc(0));
            assert_eq!(bytes, built(&after, &live).0);
            let segment = open(bytes);
            let documents = documents(&live);
            let stays = |uid| after.columns.iter().any(|column| column.uid() == uid);
            for (row, document) in (0..).zip(&documents) {
                let mut expected = (*document).clone();
                expected.fields.retain(|(uid, _)| stays(*uid));
                if let Some(patch) = &mut expected.patch {
                    patch.changed.retain(|uid| stays(*uid));
                }
                assert_eq!(segment.document(row, None).unwrap(), expected);
            }
        }
    }
}

/// What patterns are tested against is indexed where all of it is short, whatever the parts had.
#[test]
fn texts_for_patterns_are_indexed_where_none_is_long() {
    let plain = Column { filterable: false, ..Column::new("s", AttributeType::String, 0) };
    let uid = plain.uid();
    let of = |column: &Column| Schema { columns: vec![column.clone()], ..Schema::default() };
    let (before, after) = (of(&plain), of(&Column { fuzzy: true, ..plain.clone() }));
    let texts = |first: u64, long: bool| -> Vec<Entry> {
        let document = |n: u64| {
            let text = if long && n == first + 1 { "x".repeat(4_097) } else { format!("text {}", n % 3) };
            let mut document = document(&before, id(0, n), n);
            document.set(uid, Some(Value::String(text)));
            document.patch = None;
            row(document)
        };
        (first..first + 4).map(document).collect()
    };
    for (parts, indexed) in [
        (vec![(&after, false), (&after, false)], true),
        (vec![(&before, false), (&after, false)], true),
        (vec![(&after, true), (&after, false)], false),
        (vec![(&before, false), (&after, true)], false),
    ] {
        let (mut segments, mut all) = (Vec::new(), Vec::new());
        for (at, (schema, long)) in (0..).zip(parts) {
            let entries = texts(10 * at, long);
            let segment = open(built(schema, &entries).0);
            assert_eq!(segment.attribute(uid).unwrap().is_some(), schema == &after && !long);
            segments.push(segment);
            all.extend(entries);
        }
        let bytes = merged(&after, &segments, &[RoaringBitmap::new(), RoaringBitmap::new()], Hlc(0));
        assert_eq!(bytes, built(&after, &all).0);
        let segment = open(bytes);
        segment.verify().unwrap();
        assert_eq!(segment.attribute(uid).unwrap().map(|index| index.values()), indexed.then_some(3));
    }
}

#[test]
fn of_an_id_that_is_there_twice_the_newest_state_stays() {
    let schema = schema();
    let at = |n: u64, hlc: u64| {
        let mut document = document(&schema, id(0, n), n);
        document.version = Version { hlc: Hlc(hlc), origin: Origin(1) };
        document.set(schema.columns[2].uid(), Some(value(AttributeType::Uint, hlc)));
        document
    };
    let tombstone = |n: u64, hlc: u64| {
        Entry::Tombstone(Tombstone { id: id(0, n), version: Version { hlc: Hlc(hlc), origin: Origin(1) } })
    };
    let first = [row(at(1, 10)), row(at(2, 20)), tombstone(3, 10), row(at(4, 10)), tombstone(5, 3), tombstone(6, 50)];
    let second = [row(at(1, 20)), row(at(2, 10)), row(at(3, 20)), tombstone(4, 20), tombstone(5, 4), tombstone(7, 4)];
    let segments = [open(built(&schema, &first).0), open(built(&schema, &second).0)];
    let dead = [RoaringBitmap::new(), RoaringBitmap::new()];
    let expected = [
        row(at(1, 20)),
        row(at(2, 20)),
        row(at(3, 20)),
        tombstone(4, 20),
        tombstone(5, 4),
        tombstone(6, 50),
        tombstone(7, 4),
    ];
    assert_eq!(merged(&schema, &segments, &dead, Hlc(0)), built(&schema, &expected).0);
    let expected = [row(at(1, 20)), row(at(2, 20)), row(at(3, 20)), tombstone(4, 20), tombstone(6, 50)];
    assert_eq!(merged(&schema, &segments, &dead, Hlc(20)), built(&schema, &expected).0);
}

#[test]
fn a_failing_output_fails_the_build() {
    struct Full(usize);
    impl std::io::Write for Full {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(std::io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let schema = schema();
    let entries = entries(&schema, 0, 300);
    let error = build(Uuid::nil(), &schema, &entries, &mut Full(5_000)).unwrap_err();
    assert_eq!(error.code(), "disk_full");
}
