//! Where names are lost nothing that they named is taken for a leftover.

use std::path::Path;

use shoal::engine::check::{RepairReport, RepairRequest, Scope};
use shoal::platform::disk::{Disk as _, create_dirs, publish};

use crate::node::{NAMES, all, copy, files, full, open};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_lost_its_names_is_swept_by_force_only() {
    let whole = full(false).await;
    let disk = copy(&whole);
    let is_name = |path: &Path| path.starts_with("/data/local/names");
    for file in files(&disk) {
        if is_name(&file) || file.ends_with("meta.redb") {
            disk.remove(&file).unwrap();
        }
    }
    let kept = || -> Vec<_> {
        let is_kept = |path: &Path| path.starts_with("/data/store") || path.starts_with("/data/local");
        files(&disk).into_iter().filter(|path| is_kept(path) && !is_name(path)).collect()
    };
    let before = kept();
    let engine = open(&disk).unwrap();
    engine.rebuild_index().unwrap();
    assert_eq!(engine.sweep().unwrap_err().code(), "sweep_refused");
    let repair = |dry_run, force| {
        let request = RepairRequest { scope: Scope::Store, dry_run, drop_damaged: None, force };
        tokio::task::block_in_place(|| engine.repair_in(&request)).unwrap()
    };
    let sweep = |report: &RepairReport| report.actions.last().unwrap().clone();
    for dry_run in [true, false] {
        let report = repair(dry_run, false);
        let why = sweep(&report).failed.unwrap();
        assert!(why.contains("3 incarnations have no name") && why.contains("--force"), "{why}");
        assert_eq!(report.removed_objects, 0);
    }
    assert_eq!(sweep(&repair(true, true)).failed, None);
    assert_eq!(kept(), before, "a dry run removes nothing");

    // The names are put back from a copy.
    let mended = copy(&disk);
    for file in files(&whole).into_iter().filter(|path| is_name(path)) {
        create_dirs(&mended, file.parent().unwrap()).unwrap();
        publish(&mended, &file, &whole.read(&file).unwrap()).unwrap();
    }
    let (again, original) = (open(&mended).unwrap(), open(&copy(&whole)).unwrap());
    again.rebuild_index().unwrap();
    for name in NAMES {
        assert_eq!(all(&again, name).unwrap(), all(&original, name).unwrap(), "{name}");
    }
    assert!(again.check(4).unwrap().is_whole());

    let report = repair(false, true);
    assert!(report.removed_objects > 5 && sweep(&report).failed.is_none(), "{report:?}");
    assert!(kept().len() < before.len() / 2);
}
