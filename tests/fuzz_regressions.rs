//! Runs the fuzz targets without a fuzzer: what was found before, and the golden files with damage that is always the same.
//!
//! Memory is bounded, so a length that is believed unchecked ends the test.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::alloc::System;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use shoal::platform::random::{Random, SeededRandom};
use shoal::segment::sparse::SparseBuilder;
use shoal::segment::text::reader::TextBuilder;
use shoal::segment::text::terms::DocTerms;

#[path = "../fuzz/targets.rs"]
mod targets;

/// More than all targets at once need for their small inputs.
const MEMORY_BYTES_MAX: usize = 512 << 20;

#[global_allocator]
static ALLOCATOR: cap::Cap<System> = cap::Cap::new(System, MEMORY_BYTES_MAX);

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn names_in(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn regressions(target: &str) -> Vec<(String, Vec<u8>)> {
    let directory = root().join("fuzz/regressions").join(target);
    let names = names_in(&directory).into_iter();
    names.map(|name| (format!("{target}/{name}"), fs::read(directory.join(name)).unwrap())).collect()
}

/// What is damaged to feed a target: its golden files, or bytes made here, and what was found before.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let files: &[&str] = match target {
        "answers" => &["answers.ans"],
        "conflicts" => &["conflicts.json"],
        "deletions" => &["deletions.del"],
        "envelope" => &["_format.json"],
        "log" => &["log.wal", "log-multivectors.wal"],
        "manifest" => &["manifest.json", "manifest-answers.json", "../v3/manifest.json", "../v5/manifest.json"],
        "names" => &["binding.json", "../v2/binding.json", "../v3/binding.json"],
        "node" => &[
            "../v2/node.json",
            "node.json",
            "_format.json",
            "traffic.json",
            "claim.json",
            "told.json",
            "../v3/node.json",
            "../v4/node.json",
        ],
        "ranges" => &["object.here"],
        "reclaim" => &["sweep.json", "hold.json"],
        "segment" => &["segment.seg", "segment-tokens.seg"],
        "snapshot" => &[
            "snapshot.snp",
            "snapshot-increment.snp",
            "../v2/snapshot-conflicts.snp",
            "../v2/snapshot-conflicts-increment.snp",
        ],
        "sparse" => &["sparse.section"],
        "text" => &["text.section"],
        _ => &[],
    };
    let golden = |name: &&str| ((*name).to_owned(), fs::read(root().join("tests/golden/v1").join(name)).unwrap());
    let mut seeds: Vec<(String, Vec<u8>)> = files.iter().map(golden).collect();
    if target == "record" {
        // The payload of each golden log's first frame, behind the header of the log and its own.
        for (name, log) in ["log.wal", "log-multivectors.wal"].iter().map(golden) {
            let length = u32::from_le_bytes(*log[72..].first_chunk().unwrap()) as usize;
            seeds.push((name, log[112..112 + length].to_vec()));
        }
    }
    if target == "positions" {
        let sections = ["text.section", "positions.section"].map(|name| golden(&name).1);
        seeds.push(("positions.section".to_owned(), beside(&sections[0], &sections[1])));
    }
    seeds.extend(regressions(target));
    seeds
}

/// What the target `positions` takes.
fn beside(text: &[u8], positions: &[u8]) -> Vec<u8> {
    [&(text.len() as u32).to_le_bytes(), text, positions].concat()
}

/// How much one target is fed; `SHOAL_FUZZ_ROUNDS=n` makes it n times as much.
fn rounds(target: &str, seed: &[u8]) -> usize {
    let times = std::env::var("SHOAL_FUZZ_ROUNDS").map_or(1, |times| times.parse().unwrap());
    times
        * match target {
            // A whole segment is read each time.
            "segment" => 160,
            _ => (4 * seed.len()).clamp(64, 1_200),
        }
}

/// The same damage every time: one bit, one byte, an extreme number, bytes lost, repeated or put elsewhere, an end.
fn damaged(seed: &[u8], round: usize, random: &SeededRandom) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    let place = |bytes: &[u8]| (random.next_u64() % bytes.len().max(1) as u64) as usize;
    // Sometimes twice, for what one damage alone does not reach.
    for _ in 0..1 + random.next_u64() % 2 {
        if bytes.is_empty() {
            break;
        }
        let at = place(&bytes);
        let end = (at + 1 + (random.next_u64() % 16) as usize).min(bytes.len());
        match round % 8 {
            0 | 1 => bytes[at] ^= 1 << (random.next_u64() % 8),
            2 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff, b'"', b'[', b'-'][(random.next_u64() % 8) as usize],
            3 => {
                let extreme = [0u64, u64::MAX, 1 << 31, 1 << 32, 1 << 63, 0xffff_ffff, 0x8080_8080_8080_8080, 65_536];
                let number = extreme[(random.next_u64() % 8) as usize].to_le_bytes();
                let width = if random.next_u64().is_multiple_of(2) { 4 } else { 8 };
                let end = (at + width).min(bytes.len());
                bytes[at..end].copy_from_slice(&number[..end - at]);
            }
            4 => drop(bytes.drain(at..end)),
            5 => {
                let copied = bytes[at..end].to_vec();
                let to = place(&bytes);
                bytes.splice(to..to, copied);
            }
            6 => {
                let to = place(&bytes);
                bytes.swap(at, to);
            }
            _ => bytes.truncate(at),
        }
    }
    bytes
}

#[test]
fn every_target_has_its_file_its_binary_and_its_regressions() {
    let targets: BTreeSet<String> = targets::TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names_in(&root().join("fuzz/regressions")), targets);
    let files = targets.iter().map(|name| format!("{name}.rs")).collect();
    assert_eq!(names_in(&root().join("fuzz/fuzz_targets")), files);
    let manifest = fs::read_to_string(root().join("fuzz/Cargo.toml")).unwrap();
    for target in &targets {
        assert!(manifest.contains(&format!("name = \"{target}\"\npath = \"fuzz_targets/{target}.rs\"")), "{target}");
        let file = fs::read_to_string(root().join(format!("fuzz/fuzz_targets/{target}.rs"))).unwrap();
        assert!(file.contains(&format!("targets::run(\"{target}\", data)")), "{target}");
    }
}

#[test]
fn what_was_found_before_is_not_found_again() {
    for (target, body) in targets::TARGETS {
        let found = regressions(target);
        assert!(!found.is_empty(), "{target} has no regressions");
        for (name, bytes) in found {
            println!("{name}");
            body(&bytes);
        }
    }
}

#[test]
fn golden_files_are_read_whole_cut_and_damaged() {
    for (target, body) in targets::TARGETS {
        let random = SeededRandom::new(0x5ea1);
        for (name, seed) in seeds(target) {
            body(&seed);
            for round in 0..rounds(target, &seed) {
                let bytes = damaged(&seed, round, &random);
                let outcome = std::panic::catch_unwind(|| body(&bytes));
                if let Err(panic) = outcome {
                    let found = std::env::temp_dir().join(format!("shoal-fuzz-{target}-{round}"));
                    fs::write(&found, &bytes).unwrap();
                    println!("{target}: round {round} of {name}, kept as {}", found.display());
                    std::panic::resume_unwind(panic);
                }
            }
        }
    }
}

#[test]
fn checksums_do_not_keep_damage_from_the_decoders() {
    let golden = |name: &str| fs::read(root().join("tests/golden/v1").join(name)).unwrap();
    let spoiled = |name: &str, places: &[usize]| {
        let mut bytes = golden(name);
        places.iter().for_each(|at| bytes[*at] ^= 0xff);
        bytes
    };
    let footer = golden("segment.seg").len() - 64;
    let segment = spoiled("segment.seg", &[60, footer + 16, footer + 52]);
    assert_eq!(targets::sealed_segment(&segment).unwrap(), golden("segment.seg"));
    assert_eq!(targets::sealed_log(&spoiled("log.wal", &[68, 76])).unwrap(), golden("log.wal"));
    assert_eq!(targets::sealed_deletions(&spoiled("deletions.del", &[32])).unwrap(), golden("deletions.del"));
    assert_eq!(targets::sealed_answers(&spoiled("answers.ans", &[32])).unwrap(), golden("answers.ans"));
    assert_eq!(targets::sealed_ranges(&spoiled("object.here", &[20])).unwrap(), golden("object.here"));
    let snapshot = golden("snapshot.snp");
    let footer = snapshot.len() - 64;
    let damaged = spoiled("snapshot.snp", &[60, 64 + 11, footer + 16, footer + 52]);
    assert_eq!(targets::sealed_snapshot(&damaged).unwrap(), snapshot);
    assert_eq!(targets::sealed_body(&spoiled("manifest.json", &[11])), golden("manifest.json"));
    // Damage to the content of a section is under its checksum, and the checksum is made right.
    let damaged = targets::sealed_segment(&spoiled("segment.seg", &[64])).unwrap();
    let name = "damaged";
    let footer = shoal::format::segment::decode_footer(&damaged, name).unwrap();
    let meta = shoal::format::segment::decode_meta(&damaged, &footer, name).unwrap();
    for section in meta.sections {
        let stored = &damaged[section.offset as usize..][..section.bytes as usize];
        assert_eq!(section.checksum, crc32c::crc32c(stored), "{}", section.name);
    }
}

#[test]
fn sections_of_many_shapes_are_read_as_sound() {
    for rows in [0, 1, 127, 128, 129, 400] {
        let (mut text, mut sparse, mut placed) =
            (TextBuilder::new(), SparseBuilder::new(), TextBuilder::with_positions());
        for row in (0..rows).filter(|row| row % 5 != 4) {
            let words: Vec<String> = (0..row % 9).map(|n| format!("word{}", n * (row % 13))).collect();
            let mut tokens: Vec<&str> = words.iter().map(String::as_str).collect();
            placed.add(row, &DocTerms::with_positions(&tokens));
            text.add(row, &DocTerms::from_tokens(&mut tokens));
            let mut entries: Vec<_> = words.into_iter().map(|word| (word, half::f16::from_f32(row as f32))).collect();
            entries.sort_by(|(a, _), (b, _)| a.cmp(b));
            entries.dedup_by(|(a, _), (b, _)| a == b);
            sparse.add(row, &shoal::model::value::SparseVector { entries });
        }
        let mut positions = Vec::new();
        let write = |bytes: &[u8]| {
            positions.extend_from_slice(bytes);
            Ok(())
        };
        let (text, placed) = (text.finish(rows).unwrap(), placed.finish_with_positions(rows, write).unwrap());
        assert_eq!(text, placed);
        targets::run("text", &text);
        targets::run("positions", &beside(&text, &positions));
        targets::run("sparse", &sparse.finish(rows).unwrap());
    }
}
