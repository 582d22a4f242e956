//! Holds the chapters on text and sparse sections, and their golden files, to what is written and read.
//!
//! The golden files are made once per format version with `SHOAL_WRITE_GOLDEN=1 cargo test --test segment`, and never again.

use half::f16;
use shoal::model::value::SparseVector;
use shoal::segment::sparse::{SparseBuilder, SparseReader};
use shoal::segment::text::reader::{TextBuilder, TextReader};
use shoal::segment::text::terms::DocTerms;

use crate::format::{check_layout, root};

pub const ROWS: u32 = 300;

/// Every seventh row has no value, one is long, and the terms are of several groups.
pub fn tokens_of(row: u32) -> Option<Vec<String>> {
    if row % 7 == 3 {
        return None;
    }
    let mut tokens = vec!["shared".to_owned(); 1 + row as usize % 3];
    tokens.push(format!("row-{:02}", row % 40));
    tokens.push("\u{e9}t\u{e9}".into());
    if row == 5 {
        tokens.resize(400, "long".into());
    }
    Some(tokens)
}

fn text_section() -> Vec<u8> {
    let mut builder = TextBuilder::new();
    for row in 0..ROWS {
        if let Some(tokens) = tokens_of(row) {
            let mut tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
            builder.add(row, &DocTerms::from_tokens(&mut tokens));
        }
    }
    builder.finish(ROWS).unwrap()
}

fn vector_of(row: u32) -> SparseVector {
    let weight = |n: u32| f16::from_f32((row * n % 64) as f32 / 16.0 - 1.0);
    let mut entries = vec![("fugu".to_owned(), weight(3)), (format!("t{:02}", row % 20), weight(5))];
    if row.is_multiple_of(2) {
        entries.push(("whale".to_owned(), weight(7)));
    }
    SparseVector { entries }
}

fn sparse_section() -> Vec<u8> {
    let mut builder = SparseBuilder::new();
    for row in 0..ROWS {
        builder.add(row, &vector_of(row));
    }
    builder.finish(ROWS).unwrap()
}

pub fn golden(name: &str, bytes: &[u8]) -> Vec<u8> {
    let path = root().join("tests/golden/v1").join(name);
    if std::env::var_os("SHOAL_WRITE_GOLDEN").is_some() && !path.exists() {
        std::fs::write(&path, bytes).unwrap();
    }
    let found = std::fs::read(&path).unwrap();
    assert_eq!(found, bytes, "{name} is not written any more as it was");
    found
}

#[test]
fn the_golden_text_section_is_written_and_read_to_the_byte() {
    let section = golden("text.section", &text_section());
    let reader = TextReader::open(&section, ROWS, "golden").unwrap();
    reader.verify().unwrap();
    for row in 0..ROWS {
        let tokens = tokens_of(row);
        assert_eq!(reader.length(row), tokens.as_ref().map_or(0, Vec::len) as u32);
        assert_eq!(reader.present().unwrap().contains(row), tokens.is_some());
    }
    for text in ["shared", "\u{e9}t\u{e9}", "long", "row-00", "row-39"] {
        let term = reader.term(text).unwrap().unwrap();
        let mut found = Vec::new();
        reader.for_each(&term, |row, tf| found.push((row, tf))).unwrap();
        let tf = |row| tokens_of(row).map_or(0, |tokens| tokens.iter().filter(|token| *token == text).count() as u32);
        let expected: Vec<(u32, u32)> = (0..ROWS).map(|row| (row, tf(row))).filter(|(_, tf)| *tf > 0).collect();
        assert_eq!(found, expected, "{text}");
    }
}

#[test]
fn the_golden_sparse_section_is_written_and_read_to_the_byte() {
    let section = golden("sparse.section", &sparse_section());
    let reader = SparseReader::open(&section, ROWS, "golden").unwrap();
    reader.verify().unwrap();
    for name in ["fugu", "t00", "t19", "whale"] {
        let term = reader.dimension(name).unwrap().unwrap();
        let mut found = Vec::new();
        reader.for_each(&term, |row, weight| found.push((row, weight))).unwrap();
        let weight = |row| vector_of(row).entries.into_iter().find(|(term, _)| term == name);
        let expected: Vec<_> = (0..ROWS).filter_map(|row| weight(row).map(|(_, weight)| (row, weight))).collect();
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn the_headers_of_text_and_sparse_sections_are_laid_out_as_documented() {
    let section = text_section();
    let total: usize = (0..ROWS).filter_map(tokens_of).map(|tokens| tokens.len()).sum();
    let docs = (0..ROWS).filter_map(tokens_of).count() as u32;
    let part = |section: &[u8], at: usize| u64::from_le_bytes(*section[at..].first_chunk().unwrap()) as usize;
    let (postings, terms, present) = (part(&section, 32), part(&section, 40), part(&section, 48));
    // Three groups of terms, and two bytes for each length.
    assert_eq!(section.len(), 64 + postings + terms + 3 * 16 + 2 * ROWS as usize + present);
    check_layout("Text section", &section[..64], |field, offset| match field {
        "version" => vec![1, 0, 0, 0],
        "rows" => ROWS.to_le_bytes().to_vec(),
        "docs" => docs.to_le_bytes().to_vec(),
        "terms" => vec![43, 0, 0, 0],
        "length_width" => vec![2, 0, 0, 0],
        "reserved" if offset == 20 => vec![0; 4],
        "reserved" => vec![0; 8],
        "total_length" => (total as u64).to_le_bytes().to_vec(),
        "postings_bytes" => postings.to_le_bytes().to_vec(),
        "dictionary_bytes" => terms.to_le_bytes().to_vec(),
        "present_bytes" => present.to_le_bytes().to_vec(),
        other => panic!("the header has no field {other}"),
    });
    let section = sparse_section();
    let (postings, terms) = (part(&section, 16), part(&section, 24));
    assert_eq!(section.len(), 40 + postings + terms + 2 * 16);
    check_layout("Sparse section", &section[..40], |field, offset| match field {
        "version" => vec![1, 0, 0, 0],
        "rows" => ROWS.to_le_bytes().to_vec(),
        "dimensions" => vec![22, 0, 0, 0],
        "reserved" if offset == 12 => vec![0; 4],
        "reserved" => vec![0; 8],
        "postings_bytes" => postings.to_le_bytes().to_vec(),
        "dictionary_bytes" => terms.to_le_bytes().to_vec(),
        other => panic!("the header has no field {other}"),
    });
}

#[test]
fn a_header_with_reserved_bytes_or_other_rows_is_refused() {
    let (text, sparse) = (text_section(), sparse_section());
    for at in [20, 56, 63] {
        let mut damaged = text.clone();
        damaged[at] = 1;
        assert!(TextReader::open(&damaged, ROWS, "text").is_err(), "byte {at}");
    }
    for at in [12, 32, 39] {
        let mut damaged = sparse.clone();
        damaged[at] = 1;
        assert!(SparseReader::open(&damaged, ROWS, "sparse").is_err(), "byte {at}");
    }
    assert!(TextReader::open(&text, ROWS + 1, "text").is_err());
    assert!(SparseReader::open(&sparse, ROWS - 1, "sparse").is_err());
}
