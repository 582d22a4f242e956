//! Holds storage-format.md and the golden files to what is written and read, both ways.
//!
//! The golden files are made once per format version with `SHOAL_WRITE_GOLDEN=1 cargo test --test segment`, and never again;
//! what they hold comes from `documents`, which must not change what it makes.

use std::collections::BTreeSet;
use std::path::PathBuf;

use roaring::RoaringBitmap;
use shoal::format::attributes::Trailer;
use shoal::format::deletions;
use shoal::format::segment::{Codec, Footer, Meta, decode_footer, decode_meta, encode_footer, encode_header};
use shoal::model::schema::{AttributeType, Column, Metric, Schema};
use shoal::segment::builder::Entry;
use uuid::Uuid;

use crate::documents::{
    built, documents, entries, open, schema, schema_with_positions, schema_with_tokens, token_columns,
};

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The rows of the first table of a chapter, without its two head lines.
fn table(heading: &str) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(root().join("storage-format.md")).unwrap();
    let chapter = text.split(&format!("\n## {heading}\n")).nth(1).unwrap();
    let chapter = chapter.split("\n## ").next().unwrap();
    let rows = chapter.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    rows.skip(2).map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// Every documented field is where the document says, and the fields cover all bytes.
pub fn check_layout(heading: &str, bytes: &[u8], expected: impl Fn(&str, usize) -> Vec<u8>) {
    let mut end = 0;
    for row in table(heading) {
        let offset: usize = row[0].parse().unwrap();
        let size = if row[1] == "rest" { bytes.len() - offset } else { row[1].parse().unwrap() };
        assert_eq!(offset, end, "{} starts after a gap", row[3]);
        end = offset + size;
        assert_eq!(bytes[offset..end], expected(&row[3], offset), "{} at {offset}", row[3]);
    }
    assert_eq!(end, bytes.len(), "the table of {heading} ends early");
}

const ID: u128 = 0x1112_1314_1516_1718_191a_1b1c_1d1e_1f20;

#[test]
fn header_and_footer_are_laid_out_as_documented() {
    let bytes = encode_header(&Uuid::from_u128(ID));
    check_layout("Segment header", &bytes, |field, _| match field {
        "magic" => b"SHOALSEG".to_vec(),
        "version" => vec![1, 0, 0, 0],
        "segment_id" => (0x11..=0x20).collect(),
        "reserved" => vec![0; 32],
        "checksum" => crc32c::crc32c(&bytes[..60]).to_le_bytes().to_vec(),
        other => panic!("the header has no field {other}"),
    });
    let footer = Footer {
        meta_offset: 0x2122_2324_2526_2728,
        meta_bytes: 0x3132_3334_3536_3738,
        meta_checksum: 0x4142_4344,
        rows: 0x5152_5354,
        tombstones: 0x6162_6364,
        logical_bytes: 0x7172_7374_7576_7778,
    };
    let bytes = encode_footer(&footer);
    check_layout("Segment footer", &bytes, |field, offset| match field {
        "meta_offset" => (0x21..=0x28).rev().collect(),
        "meta_bytes" => (0x31..=0x38).rev().collect(),
        "meta_checksum" => (0x41..=0x44).rev().collect(),
        "rows" => (0x51..=0x54).rev().collect(),
        "tombstones" => (0x61..=0x64).rev().collect(),
        "version" => vec![1, 0, 0, 0],
        "logical_bytes" => (0x71..=0x78).rev().collect(),
        "reserved" => vec![0; 12],
        "checksum" => crc32c::crc32c(&bytes[..52]).to_le_bytes().to_vec(),
        "magic" if offset == 56 => b"SHOALEND".to_vec(),
        other => panic!("the footer has no field {other}"),
    });
}

#[test]
fn the_trailer_of_attributes_is_laid_out_as_documented() {
    let trailer = Trailer {
        values: 0x0102_0304,
        width: 4,
        array: true,
        dictionary: 0x11,
        dictionary_index: 0x12,
        ends: 0x13,
        ordinals: 0x14,
        postings: 0x15,
        present: 0x16,
    };
    check_layout("Segment attribute", &trailer.encode(), |field, _| {
        let length = |n: u64| n.to_le_bytes().to_vec();
        match field {
            "dictionary" => length(0x11),
            "dictionary_index" => length(0x12),
            "ends" => length(0x13),
            "ordinals" => length(0x14),
            "postings" => length(0x15),
            "table" => length(8 * 0x0102_0304),
            "present" => length(0x16),
            "values" => vec![4, 3, 2, 1],
            "width" => vec![4],
            "array" => vec![1],
            "reserved" => vec![0; 2],
            other => panic!("the trailer has no field {other}"),
        }
    });
}

fn dead() -> RoaringBitmap {
    [1, 5, 99].into_iter().collect()
}

#[test]
fn the_deletions_file_is_laid_out_as_documented() {
    let bytes = deletions::encode(&Uuid::from_u128(ID), 100, &dead());
    let mut bitmap = Vec::new();
    dead().serialize_into(&mut bitmap).unwrap();
    check_layout("Deletions file", &bytes, |field, _| match field {
        "magic" => b"SHOALDEL".to_vec(),
        "version" => vec![1, 0, 0, 0],
        "segment_id" => (0x11..=0x20).collect(),
        "rows" => vec![100, 0, 0, 0],
        "checksum" => crc32c::crc32c(&[&bytes[..32], &bitmap].concat()).to_le_bytes().to_vec(),
        "bitmap" => bitmap.clone(),
        other => panic!("the file has no field {other}"),
    });
}

#[test]
fn exactly_the_documented_sections_are_written() {
    let schema = schema_with_tokens();
    let (_, meta) = parsed(&built(&schema, &entries(&schema, 2, 200)).0);
    let (_, clustered) = parsed(&crate::clusters::file());
    let placed = schema_with_positions();
    let (_, placed) = parsed(&built(&placed, &entries(&placed, 2, 20)).0);
    let name = |name: &str| name.split(':').next().unwrap().to_owned();
    assert!(!meta.sections.iter().any(|section| section.name.starts_with("positions")));
    let sections = meta.sections.iter().chain(&clustered.sections).chain(&placed.sections);
    let written: BTreeSet<String> = sections.map(|section| name(&section.name)).collect();
    let documented: BTreeSet<String> =
        table("Segment meta").iter().flat_map(|row| row[0].split(", ").map(name).collect::<Vec<_>>()).collect();
    assert_eq!(written, documented);
    let compressed: Vec<&str> =
        meta.sections.iter().filter(|s| s.codec == Codec::Lz4Blocks).map(|s| s.name.as_str()).collect();
    assert_eq!(compressed, ["rows"]);
}

fn parsed(bytes: &[u8]) -> (Footer, Meta) {
    let footer = decode_footer(bytes, "segment").unwrap();
    (footer, decode_meta(bytes, &footer, "segment").unwrap())
}

pub fn golden(name: &str, bytes: &[u8]) -> Vec<u8> {
    let path = root().join("tests/golden/v1").join(name);
    if std::env::var_os("SHOAL_WRITE_GOLDEN").is_some() && !path.exists() {
        std::fs::write(&path, bytes).unwrap();
    }
    std::fs::read(&path).unwrap()
}

/// Enough rows of few values that some have their rows as a bitmap; integer ids.
fn narrow() -> Schema {
    let column = |name: &str, kind| Column::new(name, kind, 0);
    Schema {
        columns: vec![column("bool", AttributeType::Bool), column("datetime", AttributeType::DateTime)],
        ..Schema::default()
    }
}

/// Beside fields that are in rows.
fn tokens() -> Schema {
    let mut columns = vec![Column::new("string", AttributeType::String, 0)];
    columns.extend(token_columns());
    Schema { metric: Some(Metric::EuclideanSquared), columns, ..Schema::default() }
}

#[test]
fn golden_segments_are_read_and_written_as_they_were() {
    for (name, schema, kind, count) in [
        ("segment.seg", schema(), 2, 14),
        ("segment-narrow.seg", narrow(), 0, 700),
        ("segment-tokens.seg", tokens(), 0, 12),
    ] {
        let entries: Vec<Entry> = entries(&schema, kind, count);
        let now = built(&schema, &entries).0;
        let bytes = golden(name, &now);
        let segment = open(bytes.clone());
        segment.verify().unwrap();
        for (row, document) in (0..).zip(documents(&entries)) {
            assert_eq!(segment.document(row, None).unwrap(), *document);
        }
        // All but compressed rows and their offsets, which another version of the compressor may write otherwise.
        let plain = |bytes: &[u8]| -> Vec<(String, Vec<u8>)> {
            let sections = parsed(bytes).1.sections.into_iter();
            let bytes_of = |offset: u64, length: u64| bytes[offset as usize..(offset + length) as usize].to_vec();
            sections
                .filter(|section| !section.name.starts_with("rows"))
                .map(|section| (section.name.clone(), bytes_of(section.offset, section.bytes)))
                .collect()
        };
        assert_eq!(plain(&bytes), plain(&now), "{name} is not written any more as it was");
    }
    let now = deletions::encode(&Uuid::from_u128(ID), 100, &dead());
    let bytes = golden("deletions.del", &now);
    assert_eq!(bytes, now);
    assert_eq!(deletions::decode(&bytes, "golden").unwrap(), (Uuid::from_u128(ID), 100, dead()));
}
