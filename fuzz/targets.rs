//! What every decoder must hold against: the bodies of the fuzz targets, shared with `tests/fuzz_regressions.rs`.
//!
//! A body takes any bytes. It must not panic, must not allocate from a length it has not checked, and what it does read
//! it must be able to write again. Checksums would keep a fuzzer out, so bodies also read the bytes with the checksums
//! made right.

use std::ops::Bound;

use roaring::RoaringBitmap;
use shoal::api::wire::filter::parse_filter;
use shoal::api::wire::query::{parse_query, parse_recall};
use shoal::api::wire::shape;
use shoal::api::wire::write::{WriteBody, parse_schema, parse_write, parse_write_bytes};
use shoal::error::Result;
use shoal::format::claims::{decode_claim, decode_told, encode_claim, encode_told};
use shoal::format::clusters::{HEADER_BYTES, Table};
use shoal::format::conflicts::{decode_conflicts, encode_conflicts};
use shoal::format::log::{Frame, decode_log, encode_frame, encode_header, peek_header};
use shoal::format::manifest::{decode_manifest, encode_manifest};
use shoal::format::marks::{decode_deleted, decode_tag, decode_tags, encode_deleted, encode_tag, encode_tags};
use shoal::format::names::{decode_binding, encode_binding, parse_name};
use shoal::format::node::{decode_format, decode_node, encode_format, encode_node};
use shoal::format::reclaim::{decode_hold, decode_sweep, encode_hold, encode_sweep};
use shoal::format::record::{decode_batch, encode_batch};
use shoal::format::snapshot::SnapshotReader;
use shoal::format::snapshot_writer::SnapshotWriter;
use shoal::format::traffic::{decode_traffic, encode_traffic};
use shoal::format::uploads::{decode_upload, encode_upload};
use shoal::format::{answers, deletions, envelope, ranges};
use shoal::model::schema::{AttributeType, Metric};
use shoal::model::value::Multivector;
use shoal::platform::allowance::Allowance;
use shoal::platform::mmap::Mapping;
use shoal::segment::Segment;
use shoal::segment::sparse::SparseReader;
use shoal::segment::text::positions::PositionsReader;
use shoal::segment::text::reader::TextReader;
use shoal::segment::vectors::{QueryTokens, QueryVector, Wanted};

/// What a target does with any bytes.
pub type Body = fn(&[u8]);

/// Every target by its name: that of its file in `fuzz_targets/` and of its directory in `regressions/`.
pub const TARGETS: [(&str, Body); 20] = [
    ("answers", answers),
    ("clusters", clusters),
    ("conflicts", conflicts),
    ("deletions", deletions),
    ("envelope", envelope),
    ("filter", filter),
    ("log", log),
    ("manifest", manifest),
    ("names", names),
    ("node", node),
    ("positions", positions),
    ("query", query),
    ("ranges", ranges),
    ("reclaim", reclaim),
    ("record", record),
    ("segment", segment),
    ("snapshot", snapshot),
    ("sparse", sparse),
    ("text", text),
    ("write", write),
];

/// The most rows, terms and values that a body looks at one by one.
const LOOKED_AT: usize = 64;

/// Runs the target `name`.
pub fn run(name: &str, data: &[u8]) {
    match TARGETS.iter().find(|(known, _)| *known == name) {
        Some((_, body)) => body(data),
        None => panic!("there is no target {name}"),
    }
}

/// An answer and an error are both fine, as long as there is one.
fn either<T>(result: Result<T>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) => {
            assert!(!error.message().is_empty(), "an error that says nothing");
            None
        }
    }
}

fn again<T>(result: Result<T>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("what was read cannot be written and read again: {error}"),
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|found| u32::from_le_bytes(*found))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<usize> {
    let found = bytes.get(at..)?.first_chunk().map(|found| u64::from_le_bytes(*found))?;
    usize::try_from(found).ok()
}

/// Puts the checksum of what `covered` gives into the four bytes at `at`.
fn put_checksum(bytes: &mut [u8], at: usize, covered: impl FnOnce(&[u8]) -> Option<u32>) -> Option<()> {
    let checksum = covered(bytes)?;
    bytes.get_mut(at..at.checked_add(4)?)?.copy_from_slice(&checksum.to_le_bytes());
    Some(())
}

fn clusters(data: &[u8]) {
    let Some(table) = either(Table::decode(data, "fuzz")) else { return };
    assert_eq!(table.header().encode(), data[..HEADER_BYTES], "a header does not come back as it was");
    let lists = table.lists_bytes();
    for (at, entry) in table.entries().enumerate().take(LOOKED_AT) {
        assert!(lists.is_none_or(|bytes| entry.offset < bytes), "a list outside the lists");
        assert_eq!(table.centroid(at).map(<[u8]>::len), Some(table.header().dims * 4));
    }
    for row in 0..LOOKED_AT as u32 {
        table.cluster_of(row);
    }
}

fn log(data: &[u8]) {
    read_log(data);
    if let Some(sealed) = sealed_log(data) {
        read_log(&sealed);
    }
}

fn read_log(data: &[u8]) {
    either(peek_header(data, "fuzz"));
    let Some(found) = either(decode_log(data, "fuzz")) else { return };
    let mut bytes = encode_header(&found.header);
    for frame in &found.frames {
        bytes.extend(again(encode_frame(found.header.salt, frame)));
    }
    let second = again(decode_log(&bytes, "again"));
    assert!(second.frames.iter().map(shown).eq(found.frames.iter().map(shown)), "a log does not come back as it was");
}

fn shown(frame: &Frame) -> String {
    format!("{frame:?}")
}

/// The log with the checksums of its header and of all its frames made right.
pub fn sealed_log(data: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = data.to_vec();
    put_checksum(&mut bytes, 68, |bytes| Some(crc32c::crc32c(bytes.get(..68)?)))?;
    let seed = crc32c::crc32c(&u32_at(&bytes, 12)?.to_le_bytes());
    let mut at = 72;
    while let Some(length) = u32_at(&bytes, at) {
        let Some(end) = at.checked_add(40 + length as usize).filter(|end| *end <= bytes.len()) else { break };
        put_checksum(&mut bytes, at + 4, |bytes| {
            let start = crc32c::crc32c_append(seed, bytes.get(at..at + 4)?);
            Some(crc32c::crc32c_append(start, bytes.get(at + 8..end)?))
        })?;
        at = end;
    }
    Some(bytes)
}

fn record(data: &[u8]) {
    let Some(batch) = either(decode_batch(data, "fuzz")) else { return };
    let bytes = again(encode_batch(&batch));
    let second = again(decode_batch(&bytes, "again"));
    // By their text: a float that is no number would not equal itself.
    assert_eq!(format!("{second:?}"), format!("{batch:?}"));
}

/// The metadata file with the checksum of its body made right; the body alone is taken for a file's body.
pub fn sealed_body(data: &[u8]) -> Vec<u8> {
    let body = data.get(28..).filter(|_| data.starts_with(b"{\"crc32c\":\""));
    let body = body.map_or(data, |body| body.strip_suffix(b"}\n").unwrap_or(body));
    let checksum = crc32c::crc32c(body);
    [format!("{{\"crc32c\":\"{checksum:08x}\",\"body\":").as_bytes(), body, b"}\n"].concat()
}

fn envelope(data: &[u8]) {
    for bytes in [data, &sealed_body(data)] {
        let Some((body, checksum)) = either(envelope::open::<serde_json::Value>(bytes, 1, "fuzz")) else { continue };
        let (written, _) = again(envelope::seal(&body));
        let (second, _) = again(envelope::open::<serde_json::Value>(&written, 1, "again"));
        assert_eq!(second, body);
        assert_eq!(checksum, crc32c::crc32c(&bytes[28..bytes.len() - 2]));
    }
}

fn manifest(data: &[u8]) {
    for bytes in [data, &sealed_body(data)] {
        let Some((found, _)) = either(decode_manifest(bytes, "fuzz")) else { continue };
        let (written, _) = again(encode_manifest(&found));
        assert_eq!(again(decode_manifest(&written, "again")).0, found);
    }
    for bytes in [data, &sealed_body(data)] {
        if let Some(found) = either(decode_tag(bytes, "fuzz")) {
            assert_eq!(again(decode_tag(&again(encode_tag(&found)), "again")), found);
        }
        if let Some(found) = either(decode_tags(bytes, "fuzz")) {
            assert_eq!(again(decode_tags(&again(encode_tags(&found)), "again")), found);
        }
        if let Some(found) = either(decode_upload(bytes, "fuzz")) {
            assert_eq!(again(decode_upload(&again(encode_upload(&found)), "again")), found);
        }
        if let Some(found) = either(decode_deleted(bytes, "fuzz")) {
            assert_eq!(again(decode_deleted(&again(encode_deleted(&found)), "again")), found);
        }
    }
}

fn conflicts(data: &[u8]) {
    for bytes in [data, &sealed_body(data)] {
        let Some(found) = either(decode_conflicts(bytes, "fuzz")) else { continue };
        for field in found.losers.iter().flat_map(|loser| loser.fields.iter().flatten()) {
            again(field.decode("again"));
        }
        assert_eq!(again(decode_conflicts(&again(encode_conflicts(&found)), "again")), found);
    }
}

fn names(data: &[u8]) {
    if let Some(name) = std::str::from_utf8(data).ok().and_then(parse_name) {
        assert!(!name.to_string().contains(".."), "{name} leads elsewhere");
    }
    for bytes in [data, &sealed_body(data)] {
        let Some(found) = either(decode_binding(bytes, "fuzz")) else { continue };
        assert_eq!(again(decode_binding(&again(encode_binding(&found)), "again")), found);
    }
}

fn reclaim(data: &[u8]) {
    for bytes in [data, &sealed_body(data)] {
        if let Some(found) = either(decode_sweep(bytes, "fuzz")) {
            assert_eq!(again(decode_sweep(&again(encode_sweep(&found)), "again")), found);
        }
        if let Some(found) = either(decode_hold(bytes, "fuzz")) {
            assert_eq!(again(decode_hold(&again(encode_hold(&found)), "again")), found);
        }
    }
}

fn node(data: &[u8]) {
    for bytes in [data, &sealed_body(data)] {
        if let Some(found) = either(decode_format(bytes, "fuzz")) {
            assert_eq!(again(decode_format(&again(encode_format(&found)), "again")), found);
        }
        if let Some(found) = either(decode_node(bytes, "fuzz")) {
            assert_eq!(again(decode_node(&again(encode_node(&found)), "again")), found);
        }
        if let Some(found) = either(decode_claim(bytes, "fuzz")) {
            assert_eq!(again(decode_claim(&again(encode_claim(&found)), "again")), found);
        }
        if let Some(found) = either(decode_told(bytes, "fuzz")) {
            assert_eq!(again(decode_told(&again(encode_told(&found)), "again")), found);
        }
        if let Some(found) = either(decode_traffic(bytes, "fuzz")) {
            assert_eq!(again(decode_traffic(&again(encode_traffic(&found)), "again")), found);
        }
    }
}

/// The deletions file with its checksum made right.
pub fn sealed_deletions(data: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = data.to_vec();
    put_checksum(&mut bytes, 32, |bytes| {
        Some(crc32c::crc32c_append(crc32c::crc32c(bytes.get(..32)?), bytes.get(36..)?))
    })?;
    Some(bytes)
}

fn deletions(data: &[u8]) {
    let sealed = sealed_deletions(data);
    for bytes in [Some(data), sealed.as_deref()].into_iter().flatten() {
        let Some((segment_id, rows, dead)) = either(deletions::decode(bytes, "fuzz")) else { continue };
        assert!(dead.max().is_none_or(|row| row < rows));
        let written = deletions::encode(&segment_id, rows, &dead);
        assert_eq!(again(deletions::decode(&written, "again")), (segment_id, rows, dead));
    }
}

/// The file of answers with its checksum made right.
pub fn sealed_answers(data: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = data.to_vec();
    put_checksum(&mut bytes, 32, |bytes| {
        Some(crc32c::crc32c_append(crc32c::crc32c(bytes.get(..32)?), bytes.get(36..)?))
    })?;
    Some(bytes)
}

fn answers(data: &[u8]) {
    let sealed = sealed_answers(data);
    for bytes in [Some(data), sealed.as_deref()].into_iter().flatten() {
        let Some((nsid, found)) = either(answers::decode(bytes, "fuzz")) else { continue };
        let written = again(answers::encode(nsid, &found));
        assert_eq!(again(answers::decode(&written, "again")), (nsid, found));
    }
}

/// The map of ranges with its checksum made right.
pub fn sealed_ranges(data: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = data.to_vec();
    put_checksum(&mut bytes, 20, |bytes| {
        Some(crc32c::crc32c_append(crc32c::crc32c(bytes.get(..20)?), bytes.get(24..)?))
    })?;
    Some(bytes)
}

fn ranges(data: &[u8]) {
    let sealed = sealed_ranges(data);
    for bytes in [Some(data), sealed.as_deref()].into_iter().flatten() {
        let Some((object_bytes, here)) = either(ranges::decode(bytes, "fuzz")) else { continue };
        assert!(here.max().is_none_or(|block| Some(block) < ranges::blocks_of(object_bytes)));
        let written = ranges::encode(object_bytes, &here);
        assert_eq!(again(ranges::decode(&written, "again")), (object_bytes, here));
    }
}

fn text(data: &[u8]) {
    let Some(rows) = u32_at(data, 4) else { return };
    let Some(reader) = either(TextReader::open(data, rows, "fuzz")) else { return };
    let is_sound = either(reader.verify()).is_some();
    let present = either(reader.present());
    let Some(mut terms) = either(reader.terms()) else { return };
    for _ in 0..LOOKED_AT {
        let Some(Some((name, term))) = either(terms.next_term()) else { break };
        let found = either(reader.rows_with(&term));
        if let Some(postings) = either(reader.postings(&term)) {
            for block in [postings.block_count(), postings.block_count().wrapping_sub(1), 0, usize::MAX] {
                let (mut found, mut tfs) = (Vec::new(), Vec::new());
                if either(postings.read(block, &mut found, &mut tfs)).is_some() {
                    assert!(found.len() == tfs.len() && found.is_sorted() && found.iter().all(|row| *row < rows));
                }
            }
        }
        if is_sound {
            assert_eq!(again(reader.term(&name)), Some(term), "{name:?} is not found");
            let Some((rows, present)) = found.zip(present.as_ref()) else { panic!("{name:?} has no rows") };
            assert_eq!(rows.len(), u64::from(term.df));
            assert!(rows.is_subset(present));
            assert!(again(reader.prefix_terms(&name, 2)).first().is_some_and(|(first, _)| *first == name));
        }
    }
    for asked in ["", "a", "\u{10ffff}"] {
        either(reader.term(asked));
        either(reader.prefix_terms(asked, LOOKED_AT));
        either(reader.for_each_with_prefix(asked, |_| Ok(())));
    }
    for row in [0, rows / 2, rows.wrapping_sub(1), rows, u32::MAX] {
        reader.length(row);
    }
}

/// A text section behind its length, then the section of positions.
fn positions(data: &[u8]) {
    let Some((length, sections)) = data.split_first_chunk() else { return };
    let Some((text, positions)) = sections.split_at_checked(u32::from_le_bytes(*length) as usize) else { return };
    let Some(rows) = u32_at(text, 4) else { return };
    let Some(text) = either(TextReader::open(text, rows, "fuzz")) else { return };
    let Some(reader) = either(PositionsReader::open(positions, text, "fuzz")) else { return };
    let is_sound = either(text.verify()).is_some() & either(reader.verify()).is_some();
    let Some(mut terms) = either(text.terms()) else { return };
    for _ in 0..LOOKED_AT {
        let Some(Some((name, term))) = either(terms.next_term()) else { break };
        let (mut places, mut seen) = (either(reader.places(&term)), 0);
        let read = either(reader.for_each(&term, |row, tf, _| {
            seen += 1;
            let Some(places) = places.as_mut().filter(|_| seen % 3 == 0 || seen < 9) else { return };
            let found = either(places.seek(row));
            assert!(!is_sound || found == Some(Some(row)), "row {row} of {name:?} is not found");
            let Some(found) = either(places.positions()) else { return };
            assert!(found.len() == tf as usize && found.is_sorted_by(|a, b| a < b));
            assert!(!is_sound || found.iter().all(|position| *position < text.length(row)));
        }));
        assert!(!is_sound || read.is_some() && seen == term.df, "{name:?} has other rows");
    }
}

fn sparse(data: &[u8]) {
    let Some(rows) = u32_at(data, 4) else { return };
    let Some(reader) = either(SparseReader::open(data, rows, "fuzz")) else { return };
    let is_sound = either(reader.verify()).is_some();
    let Some(mut dimensions) = either(reader.dimensions()) else { return };
    for _ in 0..LOOKED_AT {
        let Some(Some((name, term))) = either(dimensions.next_term()) else { break };
        if let Some(blocks) = either(reader.blocks(&term)) {
            for block in [blocks.count().wrapping_sub(1), 0, blocks.count()] {
                let (mut rows, mut weights) = (Vec::new(), Vec::new());
                if either(blocks.read(block, &mut rows, &mut weights)).is_some() {
                    assert!(rows.len() == weights.len() && rows.is_sorted());
                }
            }
        }
        let (mut last, mut count) = (None, 0);
        let walked = reader.for_each(&term, |row, weight| {
            assert!(last < Some(row) && row < rows && weight.is_finite());
            last = Some(row);
            count += 1;
        });
        if is_sound {
            again(walked);
            assert_eq!(again(reader.dimension(&name)), Some(term));
            assert_eq!(count, term.df);
        }
    }
    either(reader.dimension("a"));
}

/// The snapshot with the checksums of header, description, manifest and footer made right.
pub fn sealed_snapshot(data: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = data.to_vec();
    let mut at = 64;
    for size in [12, 16] {
        let past = at + u32_at(&bytes, size)? as usize;
        // The checksum of an envelope is text; its body is behind it.
        let checksum = crc32c::crc32c(bytes.get(at + 28..past.checked_sub(2)?)?);
        bytes.get_mut(at + 11..at + 19)?.copy_from_slice(format!("{checksum:08x}").as_bytes());
        at = past;
    }
    put_checksum(&mut bytes, 60, |bytes| Some(crc32c::crc32c(bytes.get(..60)?)))?;
    let footer = bytes.len().checked_sub(64)?;
    let (index, index_bytes) = (u64_at(&bytes, footer)?, u64_at(&bytes, footer + 8)?);
    put_checksum(&mut bytes, footer + 16, |bytes| {
        Some(crc32c::crc32c(bytes.get(index..index.checked_add(index_bytes)?)?))
    });
    put_checksum(&mut bytes, footer + 52, |bytes| Some(crc32c::crc32c(bytes.get(footer..footer + 52)?)))?;
    Some(bytes)
}

fn snapshot(data: &[u8]) {
    let sealed = sealed_snapshot(data);
    for bytes in [Some(data), sealed.as_deref()].into_iter().flatten() {
        let Some((written, length)) = either(read_snapshot(bytes)) else { continue };
        assert_eq!(length, bytes.len() as u64);
        assert_eq!(again(read_snapshot(&written)).0, written);
    }
}

/// What a snapshot is when it is written again, and its length.
fn read_snapshot(data: &[u8]) -> Result<(Vec<u8>, u64)> {
    let mut reader = SnapshotReader::open(data, "fuzz")?;
    let mut objects = Vec::new();
    while reader.next_member().is_some() {
        let mut object = Vec::new();
        reader.copy_object(&mut object)?;
        objects.push(object);
    }
    let mut out = Vec::new();
    let mut writer = again(SnapshotWriter::begin(&mut out, reader.description(), reader.manifest()));
    for object in objects {
        again(writer.object(|out| Ok(out.write_all(&object)?)));
    }
    again(writer.finish());
    Ok((out, reader.finish()?))
}

fn segment(data: &[u8]) {
    read_segment(data);
    if let Some(sealed) = sealed_segment(data) {
        read_segment(&sealed);
    }
}

/// The segment with the checksums of header, footer, meta and every section made right.
pub fn sealed_segment(data: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = data.to_vec();
    put_checksum(&mut bytes, 60, |bytes| Some(crc32c::crc32c(bytes.get(..60)?)))?;
    let footer = bytes.len().checked_sub(64)?;
    let (meta, meta_bytes) = (u64_at(&bytes, footer)?, u64_at(&bytes, footer + 8)?);
    let end = meta.checked_add(meta_bytes).filter(|end| *end <= footer)?;
    let json = u32_at(&bytes, meta)? as usize;
    let mut at = meta.checked_add(8)?.checked_add(json)?;
    // Per section: name, offset, length, codec, checksum, and of long ones the checksum of each chunk.
    while at < end {
        let entry = at + 1 + usize::from(*bytes.get(at)?);
        let (offset, length) = (u64_at(&bytes, entry)?, u64_at(&bytes, entry + 8)?);
        let Some(past) = offset.checked_add(length).filter(|past| *past <= meta) else { break };
        put_checksum(&mut bytes, entry + 17, |bytes| Some(crc32c::crc32c(bytes.get(offset..past)?)))?;
        at = entry + 21;
        if length > 65_536 {
            for chunk in (offset..past).step_by(65_536) {
                let chunk_end = past.min(chunk + 65_536);
                put_checksum(&mut bytes, at, |bytes| Some(crc32c::crc32c(bytes.get(chunk..chunk_end)?)))?;
                at += 4;
            }
        }
    }
    put_checksum(&mut bytes, footer + 16, |bytes| Some(crc32c::crc32c(bytes.get(meta..end)?)))?;
    put_checksum(&mut bytes, footer + 52, |bytes| Some(crc32c::crc32c(bytes.get(footer..footer + 52)?)))?;
    Some(bytes)
}

fn read_segment(data: &[u8]) {
    let Some(segment) = either(Segment::open(Mapping::of_bytes(data.to_vec()), "fuzz")) else { return };
    let is_sound = either(segment.verify()).is_some();
    for row in (0..segment.rows()).take(LOOKED_AT).chain([segment.rows(), u32::MAX]) {
        either(segment.document(row, None));
        either(segment.version_of(row));
        either(segment.logical_bytes_of(row));
        let Some(id) = either(segment.id_of(row)) else { continue };
        let found = either(segment.row_of(&id));
        assert!(!is_sound || found == Some(Some(row)), "row {row} is not found by its id {id}");
    }
    either(segment.tombstones());
    for column in segment.columns() {
        if let Some(Some(reader)) = either(segment.attribute(column.uid)) {
            either(reader.present());
            for ordinal in (0..reader.values()).take(LOOKED_AT).chain([reader.values(), u32::MAX]) {
                either(reader.rows_of(ordinal));
                if let Some(value) = either(reader.value(ordinal)) {
                    either(reader.ordinal_of(&value));
                    either(reader.ordinals(Bound::Excluded(&value), Bound::Unbounded));
                }
            }
            for row in (0..segment.rows()).take(LOOKED_AT) {
                either(reader.scalar_ordinal(row));
                either(reader.row_ordinals(row).map(Iterator::count));
            }
        }
        if let AttributeType::Vector { dims, .. } = column.column.kind
            && let Some(Some(reader)) = either(segment.vectors(column.uid))
        {
            let query = QueryVector::new(Metric::CosineDistance, vec![0.5; dims as usize]);
            either(reader.nearest(&query, None, &RoaringBitmap::new(), 3, &Allowance::unlimited()));
            either(reader.vector(0));
        }
        if let Some(Some(reader)) = either(segment.tokens(column.uid)) {
            let elements = vec![0.5; 2 * reader.dims() as usize];
            let tokens = Multivector { dims: reader.dims(), elements };
            if let Some(query) = QueryTokens::new(Metric::CosineDistance, &tokens) {
                let (none, allowance) = (RoaringBitmap::new(), Allowance::unlimited());
                either(reader.nearest(&query, None, &none, 3, &allowance));
                let wanted = Wanted { k: 3, recall: 0.9, known: &[] };
                either(reader.nearest_by_clusters(&query, &wanted, None, &none, &allowance));
            }
            either(reader.value(0));
        }
        if let Some(Some(reader)) = either(segment.text(column.uid)) {
            either(reader.prefix_terms("", LOOKED_AT));
        }
        if let Some(Some(reader)) = either(segment.positions(column.uid))
            && let Some(Some(term)) = either(reader.text().term("shared"))
        {
            either(reader.for_each(&term, |_, _, _| {}));
        }
        if let Some(Some(reader)) = either(segment.sparse(column.uid)) {
            either(reader.dimension("a"));
        }
    }
}

/// The body with the fields of its rows in order of name.
fn in_order(mut body: WriteBody) -> WriteBody {
    if let WriteBody::Write(request) = &mut body {
        for row in request.upserts.iter_mut().chain(&mut request.patches) {
            row.fields.sort_by(|(a, _), (b, _)| a.cmp(b));
        }
    }
    body
}

fn write(data: &[u8]) {
    // Rows are read in two ways, which must agree, but for the order of a row's fields.
    let direct = either(parse_write_bytes(data)).map(in_order);
    let by_json = either(shape::parse(data).and_then(parse_write)).map(in_order);
    assert_eq!(format!("{direct:?}"), format!("{by_json:?}"));
    if let Some(json) = either(shape::parse(data)) {
        either(parse_schema("schema", json));
    }
}

fn query(data: &[u8]) {
    let Some(json) = either(shape::parse(data)) else { return };
    either(parse_query(json.clone()));
    either(parse_recall(json));
}

fn filter(data: &[u8]) {
    let Some(json) = either(shape::parse(data)) else { return };
    either(parse_filter("filters", json));
}
