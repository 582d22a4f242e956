//! Damaged objects are given up only where that is asked for, and the report says exactly what goes with them.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::json;
use shoal::engine::Engine;
use shoal::engine::check::{Problem, Remedy, RepairRequest, Scope};
use shoal::engine::lineage::BranchRequest;
use shoal::error::Kind;
use shoal::model::ids::DocId;
use shoal::platform::disk::Disk;
use shoal::platform::memory_disk::MemoryDisk;
use shoal::platform::random::SeededRandom;

use crate::node::{Damage, Documents, all, copy, damage, files, full, name, open, put, write};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_segment_is_given_up_by_name_only_and_its_documents_are_counted() {
    let whole = full(false).await;
    let before = all(&open(&copy(&whole)).unwrap(), "docs").unwrap();
    let segments: Vec<_> = files(&whole).into_iter().filter(|file| file.ends_with("data.seg")).collect();
    let mut lost_of_docs = 0;
    for segment in &segments {
        let disk = copy(&whole);
        damage(&disk, segment, Damage::Truncated);
        let engine = open(&disk).unwrap();
        if all(&engine, "docs").is_ok() {
            continue;
        }
        let is_shared = all(&engine, "child").is_err();
        // While it is set apart nothing is given up.
        let mut request = RepairRequest { scope: Scope::Store, dry_run: false, drop_damaged: None, force: false };
        engine.repair_in(&request).unwrap();
        assert_eq!(all(&engine, "docs").unwrap_err().kind(), Kind::Corrupt);
        request.drop_damaged = Some(name("docs"));
        let done = engine.repair_in(&request).unwrap();
        let said = done.actions.iter().find(|action| action.what.contains("documents are lost")).unwrap();
        let left = all(&engine, "docs").unwrap();
        let lost = before.len() - left.len();
        assert!(said.what.contains(&format!(": {lost} documents are lost")), "{} of {lost}", said.what);
        assert!(left.iter().all(|(id, row)| before.get(id).is_none_or(|known| known == row)));
        put(&engine, "docs", 60..61, 6).await.unwrap();
        // Its branch shares the segment and was not asked about.
        assert_eq!(all(&engine, "child").is_err(), is_shared);
        lost_of_docs += 1;
    }
    assert!(lost_of_docs >= 2, "{lost_of_docs}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_writes_nothing_and_gives_up_nothing_that_can_be_put_back() {
    let whole = full(false).await;
    for deletions in files(&whole).into_iter().filter(|file| file.extension().is_some_and(|end| end == "del")) {
        let disk = copy(&whole);
        damage(&disk, &deletions, Damage::Truncated);
        let engine = open(&disk).unwrap();
        let before = files(&disk);
        let request =
            RepairRequest { scope: Scope::Store, dry_run: true, drop_damaged: Some(name("docs")), force: false };
        let done = engine.repair_in(&request).unwrap();
        assert_eq!(files(&disk), before, "{}", deletions.display());
        assert!(done.actions.iter().all(|action| !action.what.starts_with("give up")), "{done:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_whole_is_not_given_up() {
    let disk = full(false).await;
    let engine = open(&disk).unwrap();
    let before = all(&engine, "other").unwrap();
    let request =
        RepairRequest { scope: Scope::Store, dry_run: false, drop_damaged: Some(name("other")), force: false };
    assert_eq!(engine.repair_in(&request).unwrap_err().kind(), Kind::Invalid, "it is in use");
    drop(engine);
    let engine = open(&disk).unwrap();
    let done = engine.repair_in(&request).unwrap();
    assert!(done.actions.iter().all(|action| action.namespace == "store"), "{done:?}");
    assert_eq!(all(&engine, "other").unwrap(), before);
}

/// Gives up what is damaged of a namespace, offline; gives what was said of that, after a dry run that said the same and changed nothing.
fn give_up(engine: &Arc<Engine>, disk: &MemoryDisk, of: &str) -> Vec<String> {
    let mut request =
        RepairRequest { scope: Scope::Store, dry_run: true, drop_damaged: Some(name(of)), force: false };
    let before = files(disk);
    let [dry, done] = [true, false].map(|dry_run| {
        request.dry_run = dry_run;
        let done = engine.repair_in(&request).unwrap();
        assert!(!dry_run || files(disk) == before);
        let said = done.actions.into_iter().map(|action| action.what);
        said.filter(|what| what.starts_with("give up")).collect::<Vec<_>>()
    });
    assert_eq!(dry, done);
    done
}

fn ids(documents: &Documents) -> Vec<u64> {
    let number = |id: &DocId| id.to_string().parse().unwrap();
    documents.keys().map(number).collect()
}

/// It opens after a start, takes writes, and loses nothing to a power cut.
async fn goes_on(disk: &MemoryDisk, of: &str, expected: &[u64]) {
    let engine = open(disk).unwrap();
    assert_eq!(ids(&all(&engine, of).unwrap()), expected);
    put(&engine, of, 900..901, 9).await.unwrap();
    drop(engine);
    disk.power_cut(&SeededRandom::new(5));
    let engine = open(disk).unwrap();
    engine.rebuild_index().unwrap();
    assert_eq!(ids(&all(&engine, of).unwrap()), [expected, &[900]].concat());
    assert!(engine.history(&name(of)).is_ok());
    // Past states still need what went.
    let is_over = |problem: &Problem| problem.namespace != name(of).to_string() || problem.remedy == Remedy::Lost;
    let report = engine.check(3).unwrap();
    assert!(report.problems.iter().all(is_over), "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_documents_that_are_given_up_go_and_the_rest_of_their_log_stays() {
    let whole = MemoryDisk::default();
    let engine = open(&whole).unwrap();
    put(&engine, "docs", 0..20, 1).await.unwrap();
    engine.checkpoint(&name("docs")).await.unwrap();
    write(&engine, "docs", json!({"patch_rows": [{"id": 3, "n": 7}]})).await.unwrap();
    put(&engine, "docs", 100..150, 2).await.unwrap();
    engine.branch(&name("docs"), &name("child"), BranchRequest::default()).await.unwrap();
    put(&engine, "child", 200..203, 3).await.unwrap();
    engine.shutdown().await.unwrap();
    let segment = files(&whole).into_iter().find(|file| file.ends_with("data.seg")).unwrap();
    for (of, last) in [("docs", 150..150), ("child", 200..203)] {
        let disk = copy(&whole);
        damage(&disk, &segment, Damage::Truncated);
        let engine = open(&disk).unwrap();
        let said = give_up(&engine, &disk, of);
        assert!(said.len() == 2 && said[0].contains("20 documents are lost"), "{said:?}");
        assert_eq!(said[1], "give up 1 changes of documents that are gone");
        drop(engine);
        goes_on(&disk, of, &(100..150).chain(last).collect::<Vec<u64>>()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_damaged_log_is_given_up_what_follows_the_damage() {
    let whole = MemoryDisk::default();
    let engine = open(&whole).unwrap();
    put(&engine, "docs", 0..20, 1).await.unwrap();
    engine.checkpoint(&name("docs")).await.unwrap();
    for n in 100..120 {
        put(&engine, "docs", n..n + 1, n).await.unwrap();
    }
    drop(engine);
    whole.power_cut(&SeededRandom::new(3));
    let is_log = |file: &PathBuf| file.starts_with("/data/log") && whole.size(file).unwrap() > 100;
    let log = files(&whole).into_iter().find(is_log).unwrap();
    let len = whole.size(&log).unwrap() as usize;
    // In its header, in a frame in the middle, and at the end, which cannot be told from a write that nobody acknowledged.
    for (at, left) in [(20, 0), (len / 2, 9), (len - 2, 19)] {
        let disk = copy(&whole);
        disk.rot(&log, |bytes| bytes[at] ^= 1).unwrap();
        let engine = open(&disk).unwrap();
        let is_damaged = left < 19;
        assert_eq!(all(&engine, "docs").is_err(), is_damaged);
        drop(engine);
        let engine = open(&disk).unwrap();
        if is_damaged {
            assert!(!engine.check(3).unwrap().is_whole());
            let said = give_up(&engine, &disk, "docs");
            assert!(said.len() == 1 && said[0].starts_with("give up records from "), "{said:?}");
        }
        drop(engine);
        let expected: Vec<u64> = (0..20).chain(100..100 + left).collect();
        goes_on(&disk, "docs", &expected).await;
    }
}
