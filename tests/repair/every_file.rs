//! Every file of a data directory is deleted, truncated and altered in turn.

use std::collections::BTreeMap;

use shoal::engine::check::{Remedy, RepairRequest, Scope};
use shoal::error::Kind;
use shoal::platform::disk::Disk as _;

use crate::node::{Damage, Documents, NAMES, all, copy, damage, files, full, open, put};

/// What may become of a file.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    /// Put back without anybody asking: the other files know it.
    Healed,
    /// Reported, and put back by `repair`.
    Restored,
    /// Reported; nothing but the file itself is lost.
    Lost,
    /// Reported; its namespaces are set apart, or answer rightly from what is left.
    SetApart,
    /// Reported; only the index names it. Its namespace is set apart; of a deleted one `repair` says that it goes on without it.
    Forgotten,
    /// Nobody can tell that anything is missing.
    Unnoticed,
}

fn fate(file: &str, cut: bool, damage: Damage, all_files: &[String], newest: &[String], named: &str) -> Fate {
    let is_named = file.split_once("/store/").is_some_and(|(_, key)| named.contains(key));
    let after = |other: &&String| {
        other.rsplit_once('/').unwrap().0 == file.rsplit_once('/').unwrap().0 && other.as_str() > file
    };
    let is_last = !all_files.iter().any(|other| after(&other));
    let is_newest = newest.iter().any(|path| path == file);
    match file {
        "/data/node.json" | "/data/meta.redb" | "/data/meta.sum" | "/data/store/_format.json" => Fate::Healed,
        _ if file.starts_with("/data/local/names/") => {
            if cut {
                Fate::Healed
            } else {
                Fate::Restored
            }
        }
        _ if file.ends_with("deleted.json") => {
            if cut {
                Fate::Healed
            } else {
                Fate::Restored
            }
        }
        _ if file.contains("/tags/") || file.contains("/bases/") => {
            if damage == Damage::Deleted {
                Fate::Unnoticed
            } else {
                Fate::Lost
            }
        }
        _ if file.starts_with("/data/local/") && is_newest => {
            // Of a deleted namespace only a repair writes it again.
            let mark = format!("{}/deleted.json", file.rsplit_once('/').unwrap().0);
            let is_damaged = damage != Damage::Deleted;
            if cut && !(all_files.contains(&mark) && is_damaged) { Fate::Healed } else { Fate::Restored }
        }
        // Of one that is not there only an index that is trusted knows, and a repair forgets it.
        _ if file.starts_with("/data/local/") => {
            if damage == Damage::Deleted {
                Fate::Unnoticed
            } else {
                Fate::Lost
            }
        }
        _ if file.ends_with(".del") => Fate::Restored,
        _ if file.contains("/wal/") && damage == Damage::Deleted && !is_named && is_last && !cut => Fate::Forgotten,
        // What a flush left behind when the power went.
        _ if file.contains("/wal/") && cut && !is_named => Fate::Unnoticed,
        // The end of the log is where a crash would have cut it.
        _ if file.starts_with("/data/log/") => Fate::Unnoticed,
        _ => Fate::SetApart,
    }
}

/// The newest manifest of every incarnation.
fn newest(all: &[String]) -> Vec<String> {
    let mut newest: BTreeMap<&str, &String> = BTreeMap::new();
    for file in all.iter().filter(|file| file.starts_with("/data/local/") && !file.contains("/names/")) {
        let (dir, name) = file.rsplit_once('/').unwrap();
        if name.starts_with('0') && !dir.contains("/tags/") && !dir.ends_with("/bases") {
            let newer = newest.entry(dir).or_insert(file);
            *newer = file.max(newer);
        }
    }
    newest.into_values().cloned().collect()
}

async fn hurt_every_file(cut: bool) {
    let whole = full(cut).await;
    let all_files: Vec<String> = files(&whole).iter().map(|file| file.display().to_string()).collect();
    let newest = newest(&all_files);
    let named: String =
        newest.iter().map(|file| String::from_utf8(whole.read(file.as_ref()).unwrap()).unwrap()).collect();
    let before = {
        let engine = open(&copy(&whole)).unwrap();
        engine.rebuild_index().unwrap();
        assert_eq!(engine.check(4).unwrap().problems, [], "nothing is damaged yet");
        NAMES.map(|name| (name, all(&engine, name).unwrap()))
    };
    let mut seen = BTreeMap::new();
    for file in &all_files {
        for how in [Damage::Deleted, Damage::Truncated, Damage::Flipped] {
            let what = format!("{how:?} {file}, power cut: {cut}");
            let expected = fate(file, cut, how, &all_files, &newest, &named);
            *seen.entry(format!("{expected:?}")).or_insert(0) += 1;
            let disk = copy(&whole);
            damage(&disk, file.as_ref(), how);
            one_file(&disk, file, expected, &what, &before).await;
        }
    }
    println!("{seen:?}");
    assert_eq!(seen.len(), if cut { 5 } else { 6 }, "{seen:?}");
}

async fn one_file(
    disk: &shoal::platform::memory_disk::MemoryDisk,
    file: &str,
    expected: Fate,
    what: &str,
    before: &[(&'static str, Documents); 3],
) {
    let engine = open(disk).unwrap_or_else(|error| panic!("{what}: {error}"));
    engine.rebuild_index().unwrap();
    let report = engine.check(4).unwrap();
    let below = file.strip_prefix("/data/").unwrap();
    let named = |problem: &&shoal::engine::check::Problem| below.starts_with(problem.file.as_str());
    let found: Vec<_> = report.problems.iter().filter(named).collect();
    match expected {
        Fate::Healed => assert_eq!(report.problems, [], "{what}"),
        // A frame that a later one says was durable is missed.
        Fate::Unnoticed => assert_eq!(report.problems.len(), found.len(), "{what}: {report:?}"),
        Fate::Restored => {
            assert!(found.iter().all(|p| p.remedy == Remedy::Restore) && !found.is_empty(), "{what}: {report:?}")
        }
        Fate::Lost => {
            let remedy = if file.contains("/bases/") { Remedy::DropDamaged } else { Remedy::Lost };
            assert!(found.iter().all(|p| p.remedy == remedy) && !found.is_empty(), "{what}: {report:?}")
        }
        // What a state of the past names, too, stays known.
        Fate::Forgotten => {
            let is_said = |p: &&shoal::engine::check::Problem| match p.namespace.ends_with(" (deleted)") {
                true => p.remedy == Remedy::Forget,
                false => matches!(p.remedy, Remedy::DropDamaged | Remedy::FromACopy),
            };
            assert!(found.iter().any(is_said), "{what}: {report:?}");
        }
        Fate::SetApart => assert!(!report.is_whole(), "{what}: {report:?}"),
    }
    let request = |dry_run| RepairRequest { scope: Scope::Store, dry_run, drop_damaged: None, force: false };
    let planned = engine.repair_in(&request(true)).unwrap();
    assert_eq!(engine.check(4).unwrap(), report, "{what}: a dry run changed something");
    let done = engine.repair_in(&request(false)).unwrap();
    assert_eq!(planned.actions, done.actions, "{what}: it did something else than it said");
    assert_eq!(planned.remaining, done.remaining, "{what}");
    let again = engine.repair_in(&request(true)).unwrap();
    assert_eq!(
        (again.actions.len(), &again.remaining),
        (1, &done.remaining),
        "{what}: a second repair has work to do"
    );
    drop(engine);
    // After a start with a new index, too.
    let engine = open(disk).unwrap();
    engine.rebuild_index().unwrap();
    for (name, documents) in before {
        let hurt = done
            .remaining
            .iter()
            .any(|problem| problem.namespace.ends_with(&format!("/{name}")) && problem.remedy != Remedy::Lost);
        match all(&engine, name) {
            // Without its newest records.
            Ok(found) if file.contains("/wal/") || file.starts_with("/data/log/") => {
                assert!(found.keys().all(|id| documents.contains_key(id)), "{what}: {name}");
            }
            Ok(found) => assert_eq!(found, *documents, "{what}: {name}"),
            Err(error) => {
                assert_eq!(error.kind(), Kind::Corrupt, "{what}: {name}: {error}");
                assert!(hurt, "{what}: {name} suffers: {error}");
            }
        }
        if !hurt {
            put(&engine, name, 90..92, 9).await.unwrap_or_else(|error| panic!("{what}: {name}: {error}"));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_clean_stop_reports_are_true_and_nothing_else_suffers() {
    hurt_every_file(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_power_cut_reports_are_true_and_nothing_else_suffers() {
    hurt_every_file(true).await;
}
