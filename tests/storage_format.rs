//! Holds storage-format.md and the golden files to the code, both ways.
//!
//! The golden files are made once per format version with `SHOAL_WRITE_GOLDEN=1 cargo test --test storage_format`, and
//! never again.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::path::PathBuf;

use half::f16;
use shoal::format::answers;
use shoal::format::claims::{self, ClaimFile, ToldFile, decode_claim, decode_told, encode_claim, encode_told};
use shoal::format::conflicts::{
    self, ConflictsFile, Field, Loser, MergeSource, Side, StoredId, decode_conflicts, encode_conflicts,
};
use shoal::format::log::{
    FRAME_HEADER_BYTES, Frame, HEADER_BYTES, LogHeader, PreviousLog, decode_log, encode_frame, encode_header,
};
use shoal::format::manifest::{
    DeletionsRef, Lineage, LogRef, Manifest, Parent, SegmentRef, StoredAnswer, VERSION, decode_manifest,
    encode_manifest,
};
use shoal::format::marks::{
    self, DeletedFile, TagFile, TagsFile, decode_deleted, decode_tag, decode_tags, encode_deleted, encode_tag,
    encode_tags,
};
use shoal::format::names::{Ended, NameBinding, decode_binding, encode_binding, parse_name};
use shoal::format::node::{
    self, FormatFile, IdBlocks, IdRange, IdTold, NodeFile, Pin, decode_format, decode_node, encode_format,
    encode_node,
};
use shoal::format::ranges;
use shoal::format::reclaim::{
    self, Fence, HoldFile, SweepFile, decode_hold, decode_sweep, encode_hold, encode_sweep,
};
use shoal::format::record::{Batch, IdempotencyEntry, Record};
use shoal::format::snapshot::{
    Base, Description, FOOTER_BYTES, INDEX_ENTRY_BYTES, Member, OBJECT_HEADER_BYTES, ObjectKind, SnapshotKind,
    SnapshotReader, carried, conflicts_id, members,
};
use shoal::format::snapshot_writer::SnapshotWriter;
use shoal::format::traffic::{self, TrafficFile, decode_traffic, encode_traffic};
use shoal::format::uploads::{self, UploadFile, decode_upload, encode_upload};
use shoal::model::ids::{CommitId, DocId, Hlc, IdType, Nsid, Origin, Version};
use shoal::model::schema::{AttributeType, Column, ColumnUid, Element, FullText, Metric, Schema};
use shoal::model::value::{Multivector, SparseVector, Value, Vector};
use shoal::model::version_vector::VersionVector;
use uuid::Uuid;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The rows of the first table under a heading of storage-format.md, without its two head lines.
fn table(heading: &str) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(root().join("storage-format.md")).unwrap();
    let chapter = text.split(&format!("\n## {heading}\n")).nth(1).unwrap();
    let chapter = chapter.split("\n## ").next().unwrap();
    let rows = chapter.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    rows.skip(2).map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

fn header() -> LogHeader {
    LogHeader {
        salt: 0x0102_0304,
        nsid: Nsid(Uuid::from_u128(0x1112_1314_1516_1718_191a_1b1c_1d1e_1f20)),
        origin: Origin(0x2122_2324_2526_2728),
        first_seq: 0x3132_3334_3536_3738,
        previous: Some(PreviousLog { first_seq: 0x4142_4344_4546_4748, bytes: 0x5152_5354_5556_5758 }),
    }
}

/// Every value and every kind of record, in two frames of one commit.
fn frames() -> Vec<Frame> {
    let values = [
        Value::Bool(true),
        Value::Int(-7),
        Value::Uint(u64::MAX),
        Value::Float(0.1),
        Value::String("shoal".into()),
        Value::Uuid(Uuid::from_u128(7)),
        Value::DateTime(1_763_700_000_000),
        Value::Bytes(vec![0, 255]),
        Value::Bools(vec![true, false]),
        Value::Ints(vec![-1, 1]),
        Value::Uints(vec![1, 2]),
        Value::Floats(vec![1.5]),
        Value::Strings(vec!["a".into(), "b".into()]),
        Value::Uuids(vec![Uuid::nil()]),
        Value::DateTimes(vec![0]),
        Value::Vector(Vector::F32(vec![0.1, -2.0])),
        Value::Vector(Vector::F16(vec![f16::from_f32(0.5)])),
        Value::Vector(Vector::I8(vec![-128, 127])),
        Value::Sparse(SparseVector { entries: vec![("fugu".into(), f16::from_f32(0.5))] }),
    ];
    let fields = values.into_iter().enumerate().map(|(n, value)| (ColumnUid(n as u64), value)).collect();
    let first = Batch {
        idempotency: Some(IdempotencyEntry {
            key_hash: [1; 16],
            body_hash: [2; 16],
            upserted: 1,
            patched: 1,
            deleted: 1,
            rows_remaining: false,
            filter_matched: Some(3),
            bytes_written: 99,
        }),
        schema: Some(schema()),
        ids_reserved: Some(1 << 32),
        records: vec![Record::Upsert { id: DocId::Uint(1), fields }],
    };
    let second = Batch {
        records: vec![
            Record::Patch {
                id: DocId::String("two".into()),
                base: Version { hlc: Hlc(5), origin: Origin(6) },
                changed: vec![(ColumnUid(3), None), (ColumnUid(9), Some(Value::Ints(vec![4])))],
            },
            Record::Delete { id: DocId::Uuid(Uuid::from_u128(3)) },
        ],
        ..Batch::default()
    };
    let first_seq = header().first_seq;
    let hlc = Hlc(0x6162_6364_6566_6768);
    vec![
        Frame { synced: HEADER_BYTES as u64, first_seq, more: true, hlc, batch: first },
        Frame { synced: HEADER_BYTES as u64, first_seq: first_seq + 1, more: false, hlc, batch: second },
    ]
}

/// Values that came after the first golden log was made.
fn later_frames() -> Vec<Frame> {
    let values = [
        Value::Multivector(Multivector { dims: 2, elements: vec![0.1, -2.0, 0.5, 0.0] }),
        Value::Multivector(Multivector { dims: 300, elements: Vec::new() }),
    ];
    let fields = values.into_iter().enumerate().map(|(n, value)| (ColumnUid(n as u64), value)).collect();
    let records = vec![Record::Upsert { id: DocId::Uint(1), fields }];
    let mut frame = frames().remove(1);
    (frame.first_seq, frame.batch) = (header().first_seq, Batch { records, ..Batch::default() });
    vec![frame]
}

fn schema() -> Schema {
    let mut title = Column::new("title", AttributeType::String, 0);
    title.full_text = Some(FullText::default());
    title.filterable = false;
    Schema {
        id_type: Some(IdType::Uint),
        metric: Some(Metric::CosineDistance),
        columns: vec![title, Column::new("vector", AttributeType::Vector { dims: 2, element: Element::F32 }, 1)],
        dropped: vec![("vector".into(), 1)],
    }
}

fn log(frames: Vec<Frame>) -> Vec<u8> {
    let mut bytes = encode_header(&header());
    for frame in frames {
        bytes.extend(encode_frame(header().salt, &frame).unwrap());
    }
    bytes
}

fn manifest() -> Manifest {
    let prefix = "acme/search/namespaces/x";
    Manifest {
        format: VERSION,
        nsid: Nsid(Uuid::from_u128(1)),
        name: "acme/search/docs".into(),
        generation: 2,
        parent: Some(Parent { commit_id: CommitId(Uuid::from_u128(2)), crc32c: 0xdead_beef }),
        commit_id: CommitId(Uuid::from_u128(3)),
        origin: Origin(0xabc),
        hlc: Hlc(9 << 16),
        data_seq: 4,
        next_seq: 20,
        replay_from: 10,
        version_vector: VersionVector::of(Origin(0xabc), Hlc(9 << 16)),
        horizon: Hlc(0),
        schema: schema(),
        labels: [("shop".to_owned(), "17".to_owned())].into(),
        read_only: true,
        lineage: Some(Lineage {
            nsid: Nsid(Uuid::from_u128(4)),
            commit_id: CommitId(Uuid::from_u128(5)),
            name: "acme/search/main".into(),
            hlc: Hlc(8 << 16),
            root: Some(Nsid(Uuid::from_u128(7))),
            since: Hlc(7 << 16),
        }),
        expires_ms: Some(9),
        set_ms: Default::default(),
        logs: vec![LogRef {
            key: format!("{prefix}/wal/00000000000000000010-000000000000000a.wal"),
            origin: Origin(0xabc),
            first_seq: 10,
            last_seq: 19,
            bytes: 400,
            crc32c: 1,
        }],
        segments: vec![SegmentRef {
            key: format!("{prefix}/segments/s/data.seg"),
            segment_id: Uuid::from_u128(6),
            level: 0,
            bytes: 4_096,
            crc32c: 2,
            rows: 9,
            tombstones: 1,
            logical_bytes: 900,
            deletions: Some(DeletionsRef {
                key: format!("{prefix}/deletions/s-1.del"),
                bytes: 40,
                crc32c: 3,
                rows: 2,
            }),
        }],
        conflicts: vec![format!("{prefix}/conflicts/1.json")],
        ids_reserved: 1 << 32,
        idempotency: Vec::new(),
        created_ms: 1,
        updated_ms: 2,
        written_ms: 3,
        committed_ms: 4,
        fence: None,
        tags: 0,
    }
}

fn manifest_with_answers() -> Manifest {
    let answer = StoredAnswer {
        key_hash: "01".repeat(16),
        body_hash: "02".repeat(16),
        at: Hlc(8 << 16),
        upserted: 1,
        patched: 2,
        deleted: 3,
        rows_remaining: true,
        filter_matched: Some(4),
        bytes_written: 99,
    };
    Manifest { idempotency: vec![answer], ..manifest() }
}

fn fence() -> Fence {
    Fence {
        generation: 2,
        sweep: "acme/search/namespaces/x/sweeps/000000000000000b.json".into(),
        retained: 1,
        at_ms: 4,
    }
}

/// As a bucket's chain has it.
fn manifest_with_fence() -> Manifest {
    manifest_with_answers().fenced(Some(fence()))
}

/// The same, once tags were sent there.
fn manifest_with_tags() -> Manifest {
    manifest_with_fence().tagged(7)
}

/// The same, once labels and the rest were set by a release that keeps when that was.
fn manifest_with_settings() -> Manifest {
    let mut manifest = manifest_with_tags();
    manifest.set_labels([("shop".to_owned(), "18".to_owned())].into(), 5);
    manifest.set_labels([("shelf".to_owned(), "3".to_owned())].into(), 6);
    manifest.set_read_only(false, 7);
    manifest.set_expiry(Some(10), 8);
    manifest
}

fn sweep_file() -> SweepFile {
    let condemned = vec!["acme/search/namespaces/x/segments/s/data.seg".into()];
    let nsid = Nsid(Uuid::from_u128(1));
    SweepFile { format: reclaim::VERSION, nsid, generation: 3, before: Some(fence()), condemned }
}

fn hold_file() -> HoldFile {
    HoldFile {
        format: reclaim::VERSION,
        holder: Nsid(Uuid::from_u128(4)),
        name: "acme/search/branch".into(),
        owner: Nsid(Uuid::from_u128(1)),
        rev: 5,
        at_ms: 6,
        objects: vec!["acme/search/namespaces/x/segments/s/data.seg".into()],
    }
}

fn conflicts_file() -> ConflictsFile {
    let vector = AttributeType::Vector { dims: 2, element: Element::F32 };
    let fields = vec![
        Field::of("title", AttributeType::String, &Value::String("lost".into())),
        Field::of("vector", vector, &Value::Vector(Vector::F32(vec![0.1, -2.0]))),
    ];
    let loser = |n: u128, id, side, fields| Loser {
        token: Uuid::from_u128(n),
        id,
        side,
        version: Some(Version { hlc: Hlc(9 << 16), origin: Origin(0xabc) }),
        attributes: Vec::new(),
        fields,
    };
    let joined = Loser {
        attributes: vec!["title".into()],
        version: None,
        ..loser(7, StoredId::Uuid(Uuid::from_u128(8)), Side::Ours, None)
    };
    ConflictsFile {
        format: conflicts::VERSION,
        nsid: Nsid(Uuid::from_u128(1)),
        source: MergeSource {
            nsid: Nsid(Uuid::from_u128(4)),
            name: "acme/search/branch".into(),
            commit_id: CommitId(Uuid::from_u128(5)),
        },
        policy: "lww".into(),
        at_ms: 9,
        losers: vec![
            loser(6, StoredId::Uint(1), Side::Theirs, Some(fields)),
            joined,
            loser(9, StoredId::String("two".into()), Side::Theirs, None),
        ],
    }
}

fn binding() -> NameBinding {
    let name = parse_name("acme/search/docs").unwrap();
    NameBinding::new(&name, 3, Some(Nsid(Uuid::from_u128(1))), Hlc(9 << 16), None)
}

fn binding_of_a_deletion() -> NameBinding {
    let seen = VersionVector::of(Origin(3), Hlc(8 << 16));
    let ended = Ended { nsid: Nsid(Uuid::from_u128(1)), seen };
    NameBinding::new(&parse_name("acme/search/docs").unwrap(), 4, None, Hlc(10 << 16), Some(ended))
}

fn binding_of_two_deletions() -> NameBinding {
    let first = Ended { nsid: Nsid(Uuid::from_u128(2)), seen: VersionVector::of(Origin(3), Hlc(7 << 16)) };
    binding_of_a_deletion().after(vec![first])
}

fn format_file() -> FormatFile {
    FormatFile { format: node::VERSION, store: Uuid::from_u128(0x57) }
}

fn claim_file() -> ClaimFile {
    ClaimFile { format: claims::VERSION, range: 31_250, node: Uuid::from_u128(0x4e), claim: Uuid::from_u128(0x1d) }
}

fn told_file() -> ToldFile {
    ToldFile {
        format: claims::VERSION,
        range: 31_250,
        number: 7,
        node: Uuid::from_u128(0x4e),
        token: Uuid::from_u128(0x70),
    }
}

fn traffic_file() -> TrafficFile {
    TrafficFile { format: traffic::VERSION, month: "2026-11".into(), bytes_up: 7, bytes_down: 1 << 40 }
}

fn tag_file() -> TagFile {
    let tag = "release-7".to_owned();
    TagFile { format: marks::VERSION, tag, rev: 2, at_ms: 5, manifest: Some(manifest()) }
}

fn tags_file() -> TagsFile {
    let revisions = [("release-7".into(), 1_763_700_000_000), ("today".into(), 5)].into();
    TagsFile { format: marks::VERSION, changes: 9, revisions }
}

fn upload_file() -> UploadFile {
    let parts = vec!["\"d41d8cd98f00b204\"".to_owned(), "2".to_owned()];
    let upload = "VXBsb2FkSWQ".to_owned();
    UploadFile { format: uploads::VERSION, bytes: 20 << 20, part_bytes: 8 << 20, upload, parts, idle_tries: 1 }
}

fn deleted_file() -> DeletedFile {
    DeletedFile {
        format: marks::VERSION,
        nsid: Nsid(Uuid::from_u128(1)),
        name: "acme/search/docs".into(),
        deleted_ms: 6,
        hlc: Hlc(6 << 16),
    }
}

fn node_file() -> NodeFile {
    let pins = vec![Pin { name: "acme/search/docs".into(), since_ms: 5 }];
    NodeFile {
        format: node::NODE_VERSION,
        node: Uuid::from_u128(0x4e),
        store: Uuid::from_u128(0x57),
        pins,
        id_blocks: Some(IdBlocks { first: 2_000_000, taken: 3 }),
        id_ranges: vec![IdRange { range: 31_250, claim: Uuid::from_u128(0x1d) }],
        id_told: Some(IdTold {
            number: 7,
            token: Uuid::from_u128(0x70),
            blocks: IdBlocks { first: 2_000_000, taken: 2 },
        }),
    }
}

/// A manifest of two objects that are these bytes: any bytes will do, what is in them is not looked at.
fn snapshot_of(objects: [&[u8]; 2]) -> Manifest {
    let mut found = manifest();
    found.logs.clear();
    let segment = &mut found.segments[0];
    (segment.bytes, segment.crc32c) = (objects[0].len() as u64, crc32c::crc32c(objects[0]));
    let dead = segment.deletions.as_mut().unwrap();
    (dead.bytes, dead.crc32c) = (objects[1].len() as u64, crc32c::crc32c(objects[1]));
    found
}

const SNAPSHOT_OBJECTS: [&[u8]; 2] = [b"bytes of a segment", b"dead rows"];

fn write_snapshot(description: &Description, manifest: &Manifest) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = SnapshotWriter::begin(&mut out, description, manifest).unwrap();
    while let Some(member) = writer.next_member() {
        let bytes = snapshot_object(&member);
        writer.object(|out| Ok(out.write_all(&bytes)?)).unwrap();
    }
    writer.finish().unwrap();
    out
}

fn snapshot_object(member: &Member) -> Vec<u8> {
    if member.kind == ObjectKind::Conflicts {
        return encode_conflicts(&conflicts_file()).unwrap();
    }
    let known = SNAPSHOT_OBJECTS.into_iter().find(|bytes| crc32c::crc32c(bytes) == member.crc32c);
    known.unwrap().to_vec()
}

fn full() -> Description {
    Description::new(SnapshotKind::Full, 5, None, Vec::new())
}

/// One object of conflicts, as the manifest names.
fn conflicts_member() -> Member {
    let bytes = encode_conflicts(&conflicts_file()).unwrap();
    let (id, crc32c) = (conflicts_id(0x1a), crc32c::crc32c(&bytes));
    Member { kind: ObjectKind::Conflicts, id, bytes: bytes.len() as u64, crc32c }
}

fn full_with_conflicts() -> Description {
    Description::new(SnapshotKind::Full, 5, None, vec![conflicts_member()])
}

/// Goes on from a base that has other conflicts.
fn increment_with_conflicts() -> Description {
    let mut base = increment().base.unwrap();
    base.objects.push(Member { id: conflicts_id(0x1b), ..conflicts_member() });
    Description::new(SnapshotKind::Incremental, 5, Some(base), vec![conflicts_member()])
}

/// Goes on from a base that has the segment and other dead rows of it.
fn increment() -> Description {
    let objects = members(&snapshot_of([SNAPSHOT_OBJECTS[0], b"fewer"]));
    let base = Base { commit_id: CommitId(Uuid::from_u128(2)), data_seq: 3, objects };
    Description { kind: SnapshotKind::Incremental, base: Some(base), ..full() }
}

#[test]
fn a_snapshot_is_laid_out_as_documented() {
    let manifest = snapshot_of(SNAPSHOT_OBJECTS);
    let bytes = write_snapshot(&full(), &manifest);
    let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let (description_bytes, manifest_bytes) = (u32_at(12), u32_at(16));
    check_layout(&table("Snapshot header"), &bytes[..64], 64, |field| match field {
        "magic" => b"SHOALSNP".to_vec(),
        "version" => vec![1, 0, 0, 0],
        "description_bytes" => description_bytes.to_le_bytes().to_vec(),
        "manifest_bytes" => manifest_bytes.to_le_bytes().to_vec(),
        "objects" => vec![2, 0, 0, 0],
        "reserved" => vec![0; 36],
        "checksum" => crc32c::crc32c(&bytes[..60]).to_le_bytes().to_vec(),
        other => panic!("storage-format.md has a field {other} that the header has not"),
    });
    let first = 64 + description_bytes as usize + manifest_bytes as usize;
    let object = &bytes[first..first + OBJECT_HEADER_BYTES];
    let id = manifest.segments[0].segment_id.as_bytes().to_vec();
    let size = (SNAPSHOT_OBJECTS[0].len() as u64).to_le_bytes().to_vec();
    check_layout(&table("Snapshot object"), object, OBJECT_HEADER_BYTES, |field| match field {
        "kind" => vec![1, 0, 0, 0],
        "id" => id.clone(),
        "bytes" => size.clone(),
        "reserved" => vec![0; 8],
        "checksum" => crc32c::crc32c(&object[..36]).to_le_bytes().to_vec(),
        other => panic!("storage-format.md has a field {other} that the object has not"),
    });
    let footer = &bytes[bytes.len() - FOOTER_BYTES..];
    let index = &bytes[bytes.len() - FOOTER_BYTES - 2 * INDEX_ENTRY_BYTES..bytes.len() - FOOTER_BYTES];
    check_layout(&table("Snapshot index"), &index[..INDEX_ENTRY_BYTES], INDEX_ENTRY_BYTES, |field| match field {
        "kind" => vec![1, 0, 0, 0],
        "id" => id.clone(),
        "offset" => ((first + OBJECT_HEADER_BYTES) as u64).to_le_bytes().to_vec(),
        "bytes" => size.clone(),
        "crc32c" => crc32c::crc32c(SNAPSHOT_OBJECTS[0]).to_le_bytes().to_vec(),
        other => panic!("storage-format.md has a field {other} that the index has not"),
    });
    check_layout(&table("Snapshot footer"), footer, FOOTER_BYTES, |field| match field {
        "index_offset" => ((bytes.len() - FOOTER_BYTES - index.len()) as u64).to_le_bytes().to_vec(),
        "index_bytes" => (index.len() as u64).to_le_bytes().to_vec(),
        "index_checksum" => crc32c::crc32c(index).to_le_bytes().to_vec(),
        "objects" => vec![2, 0, 0, 0],
        "version" => vec![1, 0, 0, 0],
        "reserved" => vec![0; 24],
        "checksum" => crc32c::crc32c(&footer[..52]).to_le_bytes().to_vec(),
        "magic" => b"SHOALSNE".to_vec(),
        other => panic!("storage-format.md has a field {other} that the footer has not"),
    });
    check_fields("Snapshot description", &full_with_conflicts());
    let bytes = write_snapshot(&full_with_conflicts(), &manifest);
    assert_eq!((bytes[8], bytes[bytes.len() - 40]), (2, 2));
    let last = &bytes[bytes.len() - FOOTER_BYTES - INDEX_ENTRY_BYTES..];
    assert_eq!(last[..4], [3, 0, 0, 0]);
    assert_eq!(last[4..20], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x1a]);
}

#[test]
fn golden_snapshots_are_read_and_written_to_the_byte() {
    let manifest = snapshot_of(SNAPSHOT_OBJECTS);
    for (version, name, description, objects) in [
        ("v1", "snapshot.snp", full(), 2),
        ("v1", "snapshot-increment.snp", increment(), 1),
        ("v2", "snapshot-conflicts.snp", full_with_conflicts(), 3),
        ("v2", "snapshot-conflicts-increment.snp", increment_with_conflicts(), 2),
    ] {
        let carried = carried(&description, &manifest);
        assert_eq!(carried.len(), objects);
        let bytes = golden(version, name, &write_snapshot(&description, &manifest));
        let mut reader = SnapshotReader::open(bytes.as_slice(), name).unwrap();
        assert_eq!((reader.description(), reader.manifest()), (&description, &manifest));
        for member in carried {
            let mut found = Vec::new();
            reader.copy_object(&mut found).unwrap();
            assert_eq!(found, snapshot_object(&member));
        }
        assert_eq!(reader.finish().unwrap(), bytes.len() as u64);
        // Every truncation and every flipped bit is an error.
        let read = |bytes: &[u8]| {
            let mut reader = SnapshotReader::open(bytes, name)?;
            while reader.next_member().is_some() {
                reader.copy_object(&mut std::io::sink())?;
            }
            reader.finish()
        };
        for end in 0..bytes.len() {
            assert!(read(&bytes[..end]).is_err(), "{name}: cut at {end}");
        }
        for at in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[at / 8] ^= 1 << (at % 8);
            assert!(read(&damaged).is_err(), "{name}: bit {at}");
        }
    }
}

#[test]
fn the_log_header_is_laid_out_as_documented() {
    let bytes = encode_header(&header());
    let checksum = crc32c::crc32c(&bytes[..68]);
    let expected = |field: &str| -> Vec<u8> {
        match field {
            "magic" => b"SHOALLOG".to_vec(),
            "version" => vec![1, 0, 0, 0],
            "salt" => vec![4, 3, 2, 1],
            "nsid" => (0x11..=0x20).collect(),
            "origin" => (0x21..=0x28).rev().collect(),
            "first_seq" => (0x31..=0x38).rev().collect(),
            "previous_first_seq" => (0x41..=0x48).rev().collect(),
            "previous_bytes" => (0x51..=0x58).rev().collect(),
            "reserved" => vec![0; 4],
            "checksum" => checksum.to_le_bytes().to_vec(),
            other => panic!("storage-format.md has a field {other} that the header has not"),
        }
    };
    check_layout(&table("Log header"), &bytes, HEADER_BYTES, expected);
}

#[test]
fn the_log_frame_is_laid_out_as_documented() {
    let frame = &frames()[0];
    let bytes = encode_frame(header().salt, frame).unwrap();
    let covered = [&header().salt.to_le_bytes(), &bytes[..4], &bytes[8..]].concat();
    let expected = |field: &str| -> Vec<u8> {
        match field {
            "length" => u32::try_from(bytes.len() - FRAME_HEADER_BYTES).unwrap().to_le_bytes().to_vec(),
            "checksum" => crc32c::crc32c(&covered).to_le_bytes().to_vec(),
            "synced" => frame.synced.to_le_bytes().to_vec(),
            "first_seq" => (0x31..=0x38).rev().collect(),
            "count" => vec![1, 0, 0, 0],
            "flags" => vec![1, 0, 0, 0],
            "hlc" => (0x61..=0x68).rev().collect(),
            other => panic!("storage-format.md has a field {other} that the frame has not"),
        }
    };
    let mut rows = table("Log frame");
    let payload = rows.pop().unwrap();
    assert_eq!((payload[0].as_str(), payload[3].as_str()), ("40", "payload"));
    check_layout(&rows, &bytes[..FRAME_HEADER_BYTES], FRAME_HEADER_BYTES, expected);
}

/// Every documented field is where the document says, and the fields cover all bytes.
#[test]
fn a_snapshot_whose_conflicts_are_not_those_of_its_manifest_is_refused() {
    let manifest = snapshot_of(SNAPSHOT_OBJECTS);
    let refused = |description: Description| {
        let mut out = Vec::new();
        let error = SnapshotWriter::begin(&mut out, &description, &manifest).map(drop).unwrap_err();
        error.message().to_owned()
    };
    let member = conflicts_member();
    let with = |conflicts| Description { conflicts, ..full_with_conflicts() };
    assert!(refused(with(vec![])).contains("0 objects of conflicts, expected the 1 of its manifest"));
    assert!(refused(with(vec![Member { id: Uuid::from_u128(1 << 64), ..member }])).contains("listed as conflicts"));
    assert!(refused(with(vec![Member { kind: ObjectKind::Segment, ..member }])).contains("listed as conflicts"));
    assert!(refused(with(vec![Member { bytes: u64::MAX, ..member }])).contains("expected at most 100663296"));
    let older = Description { format: 1, ..full_with_conflicts() };
    assert!(refused(older).contains("format version 1 has not"));
    let older = Description { format: 1, ..increment_with_conflicts() };
    assert!(refused(Description { conflicts: vec![], ..older }).contains("format version 1 has not"));
    // A description of another version than the header.
    let mut bytes = write_snapshot(&full(), &manifest);
    bytes[8] = 2;
    let checksum = crc32c::crc32c(&bytes[..60]);
    bytes[60..64].copy_from_slice(&checksum.to_le_bytes());
    let error = SnapshotReader::open(bytes.as_slice(), "s").map(drop).unwrap_err();
    assert_eq!(error.message(), "s: description of version 1, the header says 2");
}

fn check_layout(rows: &[Vec<String>], bytes: &[u8], size: usize, expected: impl Fn(&str) -> Vec<u8>) {
    let mut end = 0;
    for row in rows {
        let (offset, size): (usize, usize) = (row[0].parse().unwrap(), row[1].parse().unwrap());
        assert_eq!(offset, end, "{} starts after a gap", row[3]);
        end = offset + size;
        assert_eq!(bytes[offset..end], expected(&row[3]), "{}", row[3]);
    }
    assert_eq!(end, size, "the table ends early");
}

/// Answers with and without what is optional in them.
fn answers() -> Vec<answers::Answer> {
    let entry = IdempotencyEntry {
        key_hash: [1; 16],
        body_hash: [2; 16],
        upserted: 1,
        patched: 200,
        deleted: 0,
        rows_remaining: true,
        filter_matched: Some(300),
        bytes_written: u64::MAX,
    };
    let second = IdempotencyEntry { key_hash: [3; 16], rows_remaining: false, filter_matched: None, ..entry.clone() };
    vec![
        answers::Answer { entry, at_ms: 0x7172_7374_7576_7778 },
        answers::Answer { entry: second, at_ms: 1_763_700_000_000 },
    ]
}

#[test]
fn the_answers_file_is_laid_out_as_documented() {
    let bytes = answers::encode(header().nsid, &answers()).unwrap();
    let covered = [&bytes[..32], &bytes[36..]].concat();
    check_layout(
        &table("Answers file"),
        &bytes[..answers::HEADER_BYTES],
        answers::HEADER_BYTES,
        |field| match field {
            "magic" => b"SHOALANS".to_vec(),
            "version" => vec![1, 0, 0, 0],
            "nsid" => (0x11..=0x20).collect(),
            "count" => vec![2, 0, 0, 0],
            "checksum" => crc32c::crc32c(&covered).to_le_bytes().to_vec(),
            other => panic!("storage-format.md has a field {other} that the file has not"),
        },
    );
    let at = answers::HEADER_BYTES;
    assert_eq!(bytes[at..at + 32], [[1; 16], [2; 16]].concat());
    assert_eq!(bytes[at + 32..at + 41], [0x78, 0x77, 0x76, 0x75, 0x74, 0x73, 0x72, 0x71, 3]);
    let most = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
    assert_eq!(bytes[at + 41..at + 57], [&[1, 0xc8, 1, 0][..], &most, &[0xac, 2]].concat());
    let bytes = golden("v1", "answers.ans", &bytes);
    assert_eq!(answers::decode(&bytes, "golden").unwrap(), (header().nsid, answers()));
}

#[test]
fn the_manifest_has_exactly_the_documented_fields() {
    check_fields("Manifest", &manifest_with_settings());
}

#[test]
fn the_small_metadata_files_have_exactly_the_documented_fields() {
    check_fields("Conflicts file", &conflicts_file());
    check_fields("Name binding", &binding_of_two_deletions());
    check_fields("Format file", &format_file());
    check_fields("Node file", &node_file());
    check_fields("Claim file", &claim_file());
    check_fields("Told file", &told_file());
    check_fields("Traffic file", &traffic_file());
    check_fields("Tag file", &tag_file());
    check_fields("Tags file", &tags_file());
    check_fields("Upload file", &upload_file());
    check_fields("Deleted file", &deleted_file());
    check_fields("Sweep file", &sweep_file());
    check_fields("Hold file", &hold_file());
}

fn check_fields<T: serde::Serialize>(chapter: &str, body: &T) {
    let documented: BTreeSet<String> = table(chapter).into_iter().map(|row| row[0].clone()).collect();
    let json = serde_json::to_value(body).unwrap();
    let fields: BTreeSet<String> = json.as_object().unwrap().keys().cloned().collect();
    assert_eq!(documented, fields, "{chapter}");
}

/// The bytes of a golden file; they are what is written today.
fn golden(version: &str, name: &str, bytes: &[u8]) -> Vec<u8> {
    let path = root().join("tests/golden").join(version).join(name);
    if std::env::var_os("SHOAL_WRITE_GOLDEN").is_some() && !path.exists() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
    }
    let found = std::fs::read(&path).unwrap();
    assert_eq!(found, bytes, "{name} is not written any more as it was");
    found
}

#[test]
fn golden_files_are_read_and_written_to_the_byte() {
    for (name, frames) in [("log.wal", frames()), ("log-multivectors.wal", later_frames())] {
        let log = decode_log(&golden("v1", name, &log(frames.clone())), "golden").unwrap();
        assert_eq!((log.header, log.frames, log.torn), (header(), frames, false));
    }
    for (name, manifest) in [("manifest.json", manifest()), ("manifest-answers.json", manifest_with_answers())] {
        let bytes = golden("v2", name, &encode_manifest(&manifest).unwrap().0);
        assert_eq!(decode_manifest(&bytes, "golden").unwrap().0, manifest);
    }
    let found = golden("v3", "manifest.json", &encode_manifest(&manifest_with_fence()).unwrap().0);
    assert_eq!(decode_manifest(&found, "golden").unwrap().0, manifest_with_fence());
    let found = golden("v4", "manifest.json", &encode_manifest(&manifest_with_tags()).unwrap().0);
    assert_eq!(decode_manifest(&found, "golden").unwrap().0, manifest_with_tags());
    let found = golden("v5", "manifest.json", &encode_manifest(&manifest_with_settings()).unwrap().0);
    assert_eq!(decode_manifest(&found, "golden").unwrap().0, manifest_with_settings());
    let found = golden("v1", "sweep.json", &encode_sweep(&sweep_file()).unwrap());
    assert_eq!(decode_sweep(&found, "golden").unwrap(), sweep_file());
    let found = golden("v1", "hold.json", &encode_hold(&hold_file()).unwrap());
    assert_eq!(decode_hold(&found, "golden").unwrap(), hold_file());
    let found = golden("v1", "tag.json", &encode_tag(&tag_file()).unwrap());
    assert_eq!(decode_tag(&found, "golden").unwrap(), tag_file());
    let found = golden("v1", "tags.json", &encode_tags(&tags_file()).unwrap());
    assert_eq!(decode_tags(&found, "golden").unwrap(), tags_file());
    let found = golden("v1", "upload.json", &encode_upload(&upload_file()).unwrap());
    assert_eq!(decode_upload(&found, "golden").unwrap(), upload_file());
    let found = golden("v1", "deleted.json", &encode_deleted(&deleted_file()).unwrap());
    assert_eq!(decode_deleted(&found, "golden").unwrap(), deleted_file());
    let found = golden("v1", "conflicts.json", &encode_conflicts(&conflicts_file()).unwrap());
    assert_eq!(decode_conflicts(&found, "golden").unwrap(), conflicts_file());
    let found = golden("v1", "binding.json", &encode_binding(&binding()).unwrap());
    assert_eq!(decode_binding(&found, "golden").unwrap(), binding());
    let found = golden("v2", "binding.json", &encode_binding(&binding_of_a_deletion()).unwrap());
    assert_eq!(decode_binding(&found, "golden").unwrap(), binding_of_a_deletion());
    let found = golden("v3", "binding.json", &encode_binding(&binding_of_two_deletions()).unwrap());
    assert_eq!(decode_binding(&found, "golden").unwrap(), binding_of_two_deletions());
    let here: roaring::RoaringBitmap = (0..3).chain(700..701).collect();
    let found = golden("v1", "object.here", &ranges::encode(2_870_000, &here));
    assert_eq!(ranges::decode(&found, "golden").unwrap(), (2_870_000, here));
    let found = golden("v1", "_format.json", &encode_format(&format_file()).unwrap());
    assert_eq!(decode_format(&found, "golden").unwrap(), format_file());
    let found = golden("v1", "traffic.json", &encode_traffic(&traffic_file()).unwrap());
    assert_eq!(decode_traffic(&found, "golden").unwrap(), traffic_file());
    let found = golden("v1", "claim.json", &encode_claim(&claim_file()).unwrap());
    assert_eq!(decode_claim(&found, "golden").unwrap(), claim_file());
    let found = golden("v1", "told.json", &encode_told(&told_file()).unwrap());
    assert_eq!(decode_told(&found, "golden").unwrap(), told_file());
    let found = golden("v4", "node.json", &encode_node(&node_file()).unwrap());
    assert_eq!(decode_node(&found, "golden").unwrap(), node_file());
}

#[test]
fn node_files_of_versions_1_to_3_are_still_read() {
    let read = |version: &str| std::fs::read(root().join("tests/golden").join(version).join("node.json")).unwrap();
    let third = NodeFile { format: 3, id_told: None, ..node_file() };
    assert_eq!(decode_node(&read("v3"), "golden").unwrap(), third);
    let second = NodeFile { format: 2, id_ranges: Vec::new(), ..third };
    assert_eq!(decode_node(&read("v2"), "golden").unwrap(), second);
    let first = NodeFile { format: 1, id_blocks: None, ..second };
    assert_eq!(decode_node(&read("v1"), "golden").unwrap(), first);
}

#[test]
fn manifests_of_version_1_are_still_read() {
    for (name, today) in [("manifest.json", manifest()), ("manifest-answers.json", manifest_with_answers())] {
        let bytes = std::fs::read(root().join("tests/golden/v1").join(name)).unwrap();
        let lineage =
            Lineage { name: String::new(), hlc: Hlc(0), root: None, since: Hlc(0), ..today.lineage.unwrap() };
        let expected = Manifest { lineage: Some(lineage), expires_ms: None, committed_ms: 2, ..manifest() };
        let expected = Manifest { idempotency: today.idempotency, ..expected };
        assert_eq!(decode_manifest(&bytes, "golden").unwrap().0, expected);
    }
}

#[test]
fn a_column_keeps_its_identity_for_ever() {
    let uids: Vec<u64> = schema().columns.iter().map(|column| column.uid().0).collect();
    let by_hand = |text: &str| u64::from_le_bytes(blake3::hash(text.as_bytes()).as_bytes()[..8].try_into().unwrap());
    assert_eq!(uids, [by_hand("title\0string\x000"), by_hand("vector\0[2]f32\x001")]);
}
