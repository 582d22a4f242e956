//! What check and repair say of a node that was killed: its index counts what the files have let go of, and knows less than they.

use shoal::engine::check::{Remedy, RepairRequest, Scope};
use shoal::platform::disk::{Disk, publish};

use crate::node::{all, copy, files, name, open, open_with, put};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_whose_records_are_in_segments_is_not_missed_where_a_past_state_is_damaged() {
    let disk = shoal::platform::memory_disk::MemoryDisk::default();
    let engine = open(&disk).unwrap();
    engine.rebuild_index().unwrap();
    for n in 0..4 {
        for of in ["docs", "other"] {
            put(&engine, of, n * 3..n * 3 + 3, n).await.unwrap();
            engine.checkpoint(&name(of)).await.unwrap();
        }
    }
    let expected = [all(&engine, "docs").unwrap(), all(&engine, "other").unwrap()];
    let nsid = engine.status(&name("docs")).unwrap()["nsid"].as_str().unwrap().to_owned();
    let killed = copy(&disk);
    let past = format!("/local/{nsid}");
    let mut all_of = files(&killed).into_iter().filter(|file| file.display().to_string().contains(&past));
    let past = all_of.find(|file| file.ends_with("00000000000000000001.json")).unwrap();
    let mut bytes = killed.read(&past).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    publish(&killed, &past, &bytes).unwrap();
    let engine = open_with(&killed, 8).unwrap();
    engine.rebuild_index().unwrap();
    let file = past.strip_prefix("/data").unwrap().display().to_string();
    for what in ["at the start", "after a repair"] {
        for level in 2..=4 {
            let report = engine.check(level).unwrap();
            let found: Vec<_> = report.problems.iter().map(|problem| (problem.remedy, &problem.file)).collect();
            assert_eq!(found, [(Remedy::Lost, &file)], "{what}, level {level}: {report:?}");
        }
        let request = RepairRequest { scope: Scope::Store, dry_run: false, drop_damaged: None, force: false };
        let done = engine.repair_in(&request).unwrap();
        assert!(!done.actions.iter().any(|action| action.what.contains(".wal")), "{what}: {done:?}");
    }
    assert_eq!([all(&engine, "docs").unwrap(), all(&engine, "other").unwrap()], expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_of_a_directory_that_nobody_serves_knows_the_deleted_namespaces_whose_files_repair_keeps() {
    let disk = shoal::platform::memory_disk::MemoryDisk::default();
    let engine = open(&disk).unwrap();
    engine.rebuild_index().unwrap();
    put(&engine, "docs", 0..3, 1).await.unwrap();
    put(&engine, "gone", 0..3, 1).await.unwrap();
    engine.delete(&name("gone")).await.unwrap();
    let killed = copy(&disk);
    // As the command does it: nothing is rebuilt before.
    let engine = open_with(&killed, 8).unwrap();
    let report = engine.check(4).unwrap();
    assert!(report.is_whole(), "{report:?}");
    assert_eq!((report.orphans, report.namespaces), (0, 2), "{report:?}");
    let request = |dry_run| RepairRequest { scope: Scope::Store, dry_run, drop_damaged: None, force: false };
    for dry_run in [true, false] {
        let done = engine.repair_in(&request(dry_run)).unwrap();
        assert_eq!((done.removed_objects, done.remaining.len()), (0, 0), "{done:?}");
        let said = &done.actions.last().unwrap().what;
        assert!(said.contains("at most 0 objects of 0 bytes"), "{said}");
    }
    let after = engine.check(4).unwrap();
    assert_eq!((after.namespaces, after.objects, after.orphans), (report.namespaces, report.objects, 0), "{after:?}");
}
