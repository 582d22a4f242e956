//! Whatever the bytes of a segment, the answer is an error or an answer: never a panic.

use std::ops::Bound;

use roaring::RoaringBitmap;
use shoal::error::{Kind, Result};
use shoal::format::segment::{
    CHUNK_BYTES, FOOTER_BYTES, Footer, Meta, decode_footer, decode_meta, encode_footer, encode_meta,
};
use shoal::model::ids::Hlc;
use shoal::model::schema::{Metric, Schema};
use shoal::model::value::{Multivector, Value};
use shoal::platform::allowance::Allowance;
use shoal::platform::mmap::Mapping;
use shoal::platform::random::{Random, SeededRandom};
use shoal::segment::Segment;
use shoal::segment::merge::{Input, merge};
use shoal::segment::vectors::{QueryTokens, QueryVector};
use uuid::Uuid;

use crate::documents::{built, entries, schema_with_positions, schema_with_tokens as schema};

/// Asks a segment everything; answers and errors are both fine.
fn exercise(segment: &Segment) {
    let ignore = |_: Result<()>| {};
    ignore(segment.verify());
    for row in 0..segment.rows().min(40) + 1 {
        ignore(segment.document(row, None).map(drop));
        ignore(segment.version_of(row).map(drop));
        ignore(segment.logical_bytes_of(row).map(drop));
        if let Ok(id) = segment.id_of(row) {
            ignore(segment.row_of(&id).map(drop));
        }
    }
    ignore(segment.tombstones().map(drop));
    for column in segment.columns() {
        if let Ok(Some(reader)) = segment.attribute(column.uid) {
            ignore(reader.present().map(drop));
            for ordinal in 0..reader.values().min(40) + 1 {
                ignore(reader.rows_of(ordinal).map(drop));
                if let Ok(value) = reader.value(ordinal) {
                    ignore(reader.ordinals(Bound::Included(&value), Bound::Unbounded).map(drop));
                }
            }
            ignore(reader.rows_in(0..reader.values()).map(drop));
            ignore(reader.rows_in(0..2).map(drop));
            ignore(reader.ordinal_of(&Value::String("value-003".into())).map(drop));
            for row in 0..segment.rows().min(40) {
                ignore(reader.row_ordinals(row).map(|ordinals| ordinals.for_each(drop)));
            }
        }
        if let Ok(Some(reader)) = segment.vectors(column.uid) {
            let query = QueryVector::new(Metric::CosineDistance, vec![1.0, 2.0, 3.0]);
            for rows in [None, Some(&[3, 9].into_iter().collect())] {
                ignore(reader.nearest(&query, rows, &RoaringBitmap::new(), 5, &Allowance::unlimited()).map(drop));
            }
        }
        if let Ok(Some(reader)) = segment.tokens(column.uid) {
            let elements = vec![1.0; 2 * reader.dims() as usize];
            let tokens = Multivector { dims: reader.dims(), elements };
            let query = QueryTokens::new(Metric::CosineDistance, &tokens).unwrap();
            for rows in [None, Some(&[3, 9].into_iter().collect())] {
                ignore(reader.nearest(&query, rows, &RoaringBitmap::new(), 5, &Allowance::unlimited()).map(drop));
            }
            ignore(reader.value(segment.rows()).map(drop));
        }
        if let Ok(Some(reader)) = segment.text(column.uid) {
            for text in ["value", "shared"] {
                if let Ok(Some(term)) = reader.term(text) {
                    ignore(reader.rows_with(&term).map(drop));
                }
            }
            let _ = reader.length(7);
        }
        if let Ok(Some(reader)) = segment.positions(column.uid)
            && let Ok(Some(term)) = reader.text().term("shared")
            && let Ok(mut places) = reader.places(&term)
        {
            for row in 0..40 {
                ignore(places.seek(row).map(drop));
                ignore(places.positions().map(drop));
            }
        }
        if let Ok(Some(reader)) = segment.sparse(column.uid)
            && let Ok(Some(term)) = reader.dimension("a")
        {
            ignore(reader.for_each(&term, |_, _| {}));
        }
    }
    let inputs = [Input { segment, dead: &[1].into_iter().collect() }];
    let keeps_positions = segment
        .column(placed().columns[0].uid())
        .is_some_and(|column| column.column.full_text.as_ref().is_some_and(|options| options.positions));
    let schema = if keeps_positions { placed() } else { schema() };
    ignore(merge(Uuid::nil(), &schema, &inputs, Hlc(0), &mut std::io::sink()).map(drop));
}

/// Texts with positions and nothing else.
fn placed() -> Schema {
    let mut schema = schema_with_positions();
    schema.columns.retain(|column| column.full_text.is_some());
    schema
}

fn opened(bytes: &[u8]) -> Result<Segment> {
    Segment::open(Mapping::of_bytes(bytes.to_vec()), "damaged.seg")
}

#[test]
fn every_truncation_and_every_flipped_bit_is_found() {
    for (kind, schema) in [(0, schema()), (2, schema()), (0, placed())] {
        let bytes = built(&schema, &entries(&schema, kind, 12)).0;
        for end in 0..bytes.len() {
            assert!(opened(&bytes[..end]).is_err(), "{end} bytes");
        }
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (at % 8);
            let error = opened(&damaged).and_then(|segment| segment.verify()).unwrap_err();
            assert!(matches!(error.kind(), Kind::Corrupt | Kind::Unsupported), "byte {at}: {error}");
            if at % 16 == 0
                && let Ok(segment) = opened(&damaged)
            {
                exercise(&segment);
            }
        }
    }
}

/// The file with `damage` done to the bytes of its sections, and all checksums made right again.
pub fn resealed(bytes: &[u8], damage: impl FnOnce(&mut [u8], &mut Meta, &mut Footer)) -> Vec<u8> {
    let mut footer = decode_footer(bytes, "whole").unwrap();
    let mut meta = decode_meta(bytes, &footer, "whole").unwrap();
    let mut out = bytes[..footer.meta_offset as usize].to_vec();
    damage(&mut out, &mut meta, &mut footer);
    for section in &mut meta.sections {
        if let Some(stored) =
            out.get(section.offset as usize..(section.offset.saturating_add(section.bytes)) as usize)
        {
            section.checksum = crc32c::crc32c(stored);
            if !section.chunks.is_empty() {
                section.chunks = stored.chunks(CHUNK_BYTES).map(crc32c::crc32c).collect();
            }
        }
    }
    let meta = encode_meta(&meta).unwrap();
    footer.meta_bytes = meta.len() as u64;
    footer.meta_checksum = crc32c::crc32c(&meta);
    out.extend_from_slice(&meta);
    out.extend_from_slice(&encode_footer(&footer));
    out
}

#[test]
fn nonsense_with_right_checksums_is_no_panic() {
    let random = SeededRandom::new(11);
    for (kind, count, schema) in [(0, 20, schema()), (2, 70, schema()), (2, 200, placed())] {
        let bytes = built(&schema, &entries(&schema, kind, count)).0;
        let footer = decode_footer(&bytes, "whole").unwrap();
        let meta = decode_meta(&bytes, &footer, "whole").unwrap();
        assert_eq!(resealed(&bytes, |_, _, _| {}), bytes);
        let exercised = |damaged: &[u8]| {
            if let Ok(segment) = opened(damaged) {
                exercise(&segment);
            }
        };
        for section in &meta.sections {
            // Ends hold lengths and tables, so they are damaged most.
            for n in 0..15u64.min(section.bytes * 2) {
                let at = match n % 3 {
                    0 => n % section.bytes,
                    1 => section.bytes - 1 - n % section.bytes,
                    _ => random.next_u64() % section.bytes,
                };
                let change = [0xff, 0x80, 0x01, random.next_u64() as u8 | 1][n as usize % 4];
                exercised(&resealed(&bytes, |file, _, _| file[(section.offset + at) as usize] ^= change));
            }
        }
        for at in (0..meta.sections.len()).filter(|at| kind == 0 || at % 5 == 0) {
            exercised(&resealed(&bytes, |_, meta, _| drop(meta.sections.remove(at))));
            exercised(&resealed(&bytes, |_, meta, _| meta.sections[at].bytes /= 2));
            exercised(&resealed(&bytes, |_, meta, _| meta.sections[at].bytes += 64));
            exercised(&resealed(&bytes, |_, meta, _| meta.sections[at].bytes = u64::MAX));
            exercised(&resealed(&bytes, |_, meta, _| meta.sections[at].offset = u64::MAX - 63));
            exercised(&resealed(&bytes, |_, meta, _| meta.sections.swap(0, at)));
        }
        for rows in [0, 1, footer.rows + 1, u32::MAX] {
            exercised(&resealed(&bytes, |_, _, footer| footer.rows = rows));
            exercised(&resealed(&bytes, |_, _, footer| footer.tombstones = rows));
        }
        exercised(&resealed(&bytes, |_, meta, _| meta.id_type = None));
    }
}

#[test]
fn a_newer_version_is_refused_by_its_number() {
    let schema = schema();
    let mut bytes = built(&schema, &[]).0;
    bytes[8] = 2;
    let checksum = crc32c::crc32c(&bytes[..60]);
    bytes[60..64].copy_from_slice(&checksum.to_le_bytes());
    let error = opened(&bytes).err().unwrap();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert_eq!(error.message(), "damaged.seg: format version 2, this release reads up to 1");
    assert!(opened(&[0; FOOTER_BYTES]).is_err());
}

#[test]
fn weights_that_are_not_the_documents_are_found() {
    let schema = schema();
    let bytes = built(&schema, &entries(&schema, 0, 20)).0;
    let meta = decode_meta(&bytes, &decode_footer(&bytes, "whole").unwrap(), "whole").unwrap();
    let sections: Vec<_> = meta.sections.iter().filter(|section| section.name.starts_with("sparse:")).collect();
    assert!(!sections.is_empty());
    let mut found = 0;
    for section in sections {
        for at in 0..section.bytes {
            let damaged = resealed(&bytes, |file, _, _| file[(section.offset + at) as usize] ^= 1);
            let error = opened(&damaged).and_then(|segment| segment.verify()).unwrap_err();
            found += u32::from(error.message().contains("other weights in the index"));
        }
    }
    assert!(found > 0);
}
