//! Holds the chapter on positions, and its golden file, to what is written and read: it lies beside the golden text section.

use shoal::segment::text::positions::PositionsReader;
use shoal::segment::text::reader::{TextBuilder, TextReader};
use shoal::segment::text::terms::DocTerms;

use crate::format::check_layout;
use crate::postings::{ROWS, golden, tokens_of};

/// The two sections of the golden rows.
fn sections() -> (Vec<u8>, Vec<u8>) {
    let mut builder = TextBuilder::with_positions();
    for row in 0..ROWS {
        if let Some(tokens) = tokens_of(row) {
            builder.add(row, &DocTerms::with_positions(&tokens.iter().map(String::as_str).collect::<Vec<_>>()));
        }
    }
    let mut positions = Vec::new();
    let text = builder.finish_with_positions(ROWS, |bytes| {
        positions.extend_from_slice(bytes);
        Ok(())
    });
    (text.unwrap(), positions)
}

fn open<'a>(text: &'a [u8], positions: &'a [u8]) -> shoal::error::Result<PositionsReader<'a>> {
    PositionsReader::open(positions, TextReader::open(text, ROWS, "text")?, "positions")
}

/// Where a row has a token.
fn expected(row: u32, text: &str) -> Vec<u32> {
    let tokens = tokens_of(row).unwrap_or_default();
    (0..).zip(&tokens).filter(|(_, token)| *token == text).map(|(position, _)| position).collect()
}

#[test]
fn the_golden_positions_are_written_and_read_to_the_byte() {
    let (text, positions) = sections();
    // Positions change nothing in the section beside them.
    let (text, positions) = (golden("text.section", &text), golden("positions.section", &positions));
    let reader = open(&text, &positions).unwrap();
    reader.text().verify().unwrap();
    reader.verify().unwrap();
    for text in ["shared", "\u{e9}t\u{e9}", "long", "row-00", "row-39"] {
        let term = reader.text().term(text).unwrap().unwrap();
        let mut places = reader.places(&term).unwrap();
        for row in (0..ROWS).filter(|row| !expected(*row, text).is_empty()) {
            assert_eq!(places.seek(row).unwrap(), Some(row));
            assert_eq!(places.positions().unwrap(), expected(row, text), "{text} in row {row}");
        }
        assert_eq!(places.seek(ROWS).unwrap(), None);
        let mut count = 0;
        reader.for_each(&term, |row, tf, _| count += u32::from(expected(row, text).len() == tf as usize)).unwrap();
        assert_eq!(count, term.df);
    }
}

#[test]
fn rows_are_passed_over_in_any_steps() {
    let (text, positions) = sections();
    let reader = open(&text, &positions).unwrap();
    for text in ["shared", "row-07"] {
        let term = reader.text().term(text).unwrap().unwrap();
        for step in 1..260 {
            let (mut places, mut row) = (reader.places(&term).unwrap(), 0);
            while let Some(found) = places.seek(row).unwrap() {
                assert!((row..found).all(|row| expected(row, text).is_empty()));
                // Some rows are gone to and not looked at.
                if found % 3 > 0 {
                    assert_eq!(
                        places.positions().unwrap(),
                        expected(found, text),
                        "{text} in row {found}, step {step}"
                    );
                    assert_eq!(places.positions().unwrap().len(), expected(found, text).len());
                }
                row = found + step;
            }
            assert!((row..ROWS).all(|row| expected(row, text).is_empty()));
        }
    }
}

#[test]
fn the_trailer_of_positions_is_laid_out_as_documented() {
    let (text, positions) = sections();
    let trailer = &positions[positions.len() - 48..];
    let part = |at: usize| u64::from_le_bytes(*trailer[at..].first_chunk().unwrap()) as usize;
    // Three groups of 43 terms.
    assert_eq!(positions.len(), part(0) + part(8) + 3 * 16 + 48);
    check_layout("Positions section", trailer, |field, _| match field {
        "positions_bytes" => (part(0) as u64).to_le_bytes().to_vec(),
        "sizes_bytes" => (part(8) as u64).to_le_bytes().to_vec(),
        "total_length" => text[24..32].to_vec(),
        "rows" => ROWS.to_le_bytes().to_vec(),
        "terms" => vec![43, 0, 0, 0],
        "reserved" => vec![0; 12],
        "version" => vec![1, 0, 0, 0],
        other => panic!("the trailer has no field {other}"),
    });
}

#[test]
fn positions_of_another_section_or_with_any_damage_are_found() {
    let (text, positions) = sections();
    let mut fewer = TextBuilder::new();
    fewer.add(0, &DocTerms::from_tokens(&mut ["a"]));
    assert!(open(&fewer.finish(ROWS).unwrap(), &positions).is_err());
    for end in 0..positions.len() {
        assert!(open(&text, &positions[..end]).is_err(), "{end} bytes");
    }
    for at in 0..positions.len() {
        let mut damaged = positions.clone();
        damaged[at] ^= 1 << (at % 8);
        assert!(open(&text, &damaged).and_then(|reader| reader.verify()).is_err(), "byte {at}");
    }
}
