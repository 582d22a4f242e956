//! Histories in which one file of one namespace is damaged for good: its namespace answers rightly or not at all, the others do not
//! notice, and when the file is back all is as it was.

use std::io;
use std::path::{Path, PathBuf};

use shoal::platform::disk::Disk;
use shoal::platform::random::{Random, SeededRandom};

use crate::model::CLASS_IDS;
use crate::model::{Edit, What};
use crate::node::{name, write};
use crate::run::{Run, left};
use crate::steps::{Draft, Draw, HOUR_MS, NAMES, Step};

const DAY_MS: u64 = 24 * HOUR_MS;
/// Rounds in which everything is overwritten and what is due is let go of; what is kept is the same from the middle on.
const ROUNDS: usize = 8;

/// What became of a file.
enum Damage {
    /// One bit is another.
    Bit(u64),
    /// The bytes that it had before.
    Changed(Vec<u8>),
    Unreadable,
}

/// Runs the history of a seed.
pub async fn history(seed: u64, says: bool) {
    let random = SeededRandom::new(seed ^ 0xda3a);
    let draw = Draw(&random);
    let mut run = Run::new(seed, draw.pick(2) == 0, says);
    run.start(true).await;
    for (number, at) in NAMES.into_iter().chain((0..9).map(|_| NAMES[draw.pick(3) as usize])).enumerate() {
        let step = match number {
            0..3 => Step::Write(at, Draft::Put { seed: draw.pick(1_000), empties: 0 }, true),
            _ => step(&draw, at, run.has_bucket),
        };
        run.what = format!("seed {seed}, damage, before, {step:?}");
        run.carry_out(&draw, &step, None).await;
        run.clock.advance(1 + draw.pick(1_000));
        run.look().await;
    }
    let victim = NAMES[draw.pick(3) as usize];
    run.what = format!("seed {seed}, damage of {victim}");
    let (path, damage) = harm(&mut run, victim, &draw).await;
    let is_unreadable = matches!(damage, Damage::Unreadable);
    let what = format!("seed {seed}, {} is damaged, unreadable: {is_unreadable}", path.display());
    run.say(|| what.clone());
    run.victim = Some(victim);
    // It is found at the next start, by who opens it, or by nobody for a while.
    match draw.pick(3) {
        0 => run.carry_out(&draw, &Step::Restart, None).await,
        1 => run.carry_out(&draw, &Step::Cut, None).await,
        _ => {}
    }
    for number in 0..10 {
        // Who is damaged is written to as well.
        let at = if draw.pick(2) == 0 { victim } else { NAMES[draw.pick(3) as usize] };
        let step = step(&draw, at, run.has_bucket);
        run.what = format!("{what}, step {number}, {step:?}");
        run.carry_out(&draw, &step, None).await;
        run.clock.advance(1 + draw.pick(1_000));
        run.look().await;
    }
    run.what = format!("{what}, then");
    stay_small(&mut run, victim).await;
    run.say(|| "the file is put back".to_owned());
    mend(&run, &path, damage);
    run.carry_out(&draw, &Step::Restart, None).await;
    run.victim = None;
    run.what = format!("{what}, put back");
    run.look().await;
    run.end(&draw).await;
}

fn step(draw: &Draw<'_>, at: &'static str, has_bucket: bool) -> Step {
    match draw.pick(if has_bucket { 30 } else { 27 }) {
        0..7 => Step::Write(at, draw.draft(), draw.pick(2) == 0),
        7..10 => Step::Retry(at, draw.0.next_u64()),
        10..13 => Step::AtOnce(at, 4),
        13..17 => Step::Flush(at),
        17 => Step::Compact(at),
        18 => Step::Tag(at, "t"),
        19 => Step::Snapshot(at, false),
        20 => Step::Label(at, draw.pick(100)),
        21 => Step::Hours(1 + draw.pick(20)),
        22 => Step::Tend,
        23 => Step::Rebuild,
        24 => Step::Recount,
        25 => Step::Restart,
        26 => Step::Cut,
        _ => Step::WaitBucket(at),
    }
}

/// Damages one of a namespace's files.
async fn harm(run: &mut Run, victim: &'static str, draw: &Draw<'_>) -> (PathBuf, Damage) {
    let nsid = run.engine().status(&name(victim)).unwrap()["nsid"].as_str().unwrap().to_owned();
    let mut files = left(&run.node.disk, "/data");
    files.retain(|path| path.contains(&nsid) && !path.ends_with(".tmp"));
    // Of each kind one is as likely as another, however many of its kind there are.
    let kinds = ["/local/", "/segments/", "/wal/", "/log/", "/tags/"];
    let is_manifest = |path: &&String| {
        let rest = path.strip_prefix(&format!("/data/local/{nsid}/"));
        rest.and_then(|rest| rest.strip_suffix(".json")).is_some_and(|number| number.parse::<u64>().is_ok())
    };
    let of_kind: Vec<String> = match kinds.get(draw.pick(6) as usize) {
        Some(kind) => files.iter().filter(|path| path.contains(kind)).cloned().collect(),
        // The newest one, which is the state itself: those before it are of the past, and cost only that.
        None => files.iter().filter(is_manifest).max().cloned().into_iter().collect(),
    };
    let files = if of_kind.is_empty() { files } else { of_kind };
    let mut path = PathBuf::from(&files[draw.pick(files.len() as u64) as usize]);
    if draw.pick(3) == 0 {
        run.node.disk.set_unreadable(Some(path.clone()));
        return (path, Damage::Unreadable);
    }
    let bytes = run.node.disk.read(&path).unwrap();
    let is_log = path.starts_with("/data/log");
    if is_log {
        // The newest frame of a log that is damaged is one that never was acknowledged, as far as anybody can tell.
        let edit = run.edit(victim, Draft::Put { seed: draw.pick(1_000), empties: 0 });
        run.send(victim, &edit, None).await;
        // A log that was opened and not written to yet is sealed by the write.
        path = whereabouts(run, &path).unwrap_or(path);
    } else if draw.pick(6) == 0 {
        let len = draw.pick(bytes.len() as u64) as usize;
        run.node.disk.rot(&path, |now| now.truncate(len)).unwrap();
        return (path, Damage::Changed(bytes));
    }
    let bit = draw.pick(bytes.len() as u64 * 8);
    run.node.disk.rot(&path, |now| flip(now, bit)).unwrap();
    // A log may have grown when it is put right; what else was put right by the node itself meanwhile stays so.
    (path, if is_log { Damage::Bit(bit) } else { Damage::Changed(bytes) })
}

fn flip(bytes: &mut [u8], bit: u64) {
    if let Some(byte) = bytes.get_mut((bit / 8) as usize) {
        *byte ^= 1 << (bit % 8);
    }
}

/// Where a file is now: a log is moved when it is sealed.
fn whereabouts(run: &Run, path: &Path) -> Option<PathBuf> {
    let is_it = |known: &String| {
        let file = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
        let (known_file, file) = (file(known), file(&path.display().to_string()));
        *known == path.display().to_string() || known.contains("/wal/") && file.ends_with(&known_file)
    };
    left(&run.node.disk, "/data").into_iter().find(is_it).map(PathBuf::from)
}

/// Puts a file right again, wherever it is now.
fn mend(run: &Run, path: &Path, damage: Damage) {
    run.node.disk.set_unreadable(None);
    let Some(found) = whereabouts(run, path) else { return };
    let mended = match damage {
        Damage::Unreadable => Ok(()),
        Damage::Bit(bit) => run.node.disk.rot(&found, |now| flip(now, bit)),
        Damage::Changed(bytes) => run.node.disk.rot(&found, |now| *now = bytes),
    };
    mended.unwrap();
}

/// Bytes and files that a namespace has.
fn kept(run: &Run, of: &str) -> io::Result<(u64, usize)> {
    let nsid = run.engine().status(&name(of)).map_err(io::Error::other)?["nsid"].as_str().unwrap().to_owned();
    let mut files = left(&run.node.disk, "/data/store");
    files.extend(left(&run.node.disk, "/data/local"));
    files.retain(|path| path.contains(&nsid));
    let bytes = files.iter().map(|path| run.node.disk.size(Path::new(path)).unwrap_or_default()).sum();
    Ok((bytes, files.len()))
}

/// The others are overwritten again and again, in spite of what is damaged: what they keep does not grow.
async fn stay_small(run: &mut Run, victim: &'static str) {
    let what = run.what.clone();
    let others: Vec<&'static str> = NAMES.into_iter().filter(|at| *at != victim).collect();
    let mut early = Vec::new();
    for round in 0..ROUNDS {
        for at in &others {
            let Edit { value, .. } = run.edit(at, Draft::PatchAll);
            let first = run.of(at).class * CLASS_IDS;
            let edit = Edit { value, what: What::Put { ids: (first..first + 24).collect(), empties: 0 } };
            run.send(at, &edit, None).await;
            run.flush(at).await;
            let engine = run.engine();
            engine.compact(&name(at)).await.unwrap_or_else(|error| panic!("{what}: compact {at}: {error:?}"));
        }
        run.clock.advance(3 * DAY_MS);
        let engine = run.engine();
        // As the background does; what is damaged may be told here, the others are taken care of all the same.
        if !engine.is_index_trusted()
            && let Err(error) = tokio::task::block_in_place(|| engine.rebuild_index())
        {
            run.say(|| format!("rebuild: {error:?}"));
        }
        assert!(engine.is_index_trusted(), "{what}: the index is not rebuilt");
        if let Err(error) = engine.tend().await {
            run.say(|| format!("tend: {error:?}"));
        }
        run.look().await;
        if round == ROUNDS / 2 {
            early = others.iter().map(|at| kept(run, at).unwrap()).collect();
        }
    }
    for (at, (bytes, files)) in others.iter().zip(early) {
        let late = kept(run, at).unwrap();
        let may = (bytes + bytes / 8 + 512, files + 1);
        assert!(
            late.0 <= may.0 && late.1 <= may.1,
            "{what}: {at} kept {bytes} bytes in {files} files, then {late:?}"
        );
    }
    let written =
        write(&run.engine(), "after", &Edit { value: 1, what: What::Put { ids: vec![1], empties: 0 } }, None).await;
    assert!(written.is_ok(), "{what}: a new namespace: {written:?}");
    run.engine().delete(&name("after")).await.unwrap_or_else(|error| panic!("{what}: delete: {error:?}"));
}
