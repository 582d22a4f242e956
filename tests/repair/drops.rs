//! Damaged objects are given up only where that is asked for, and the report says exactly what goes with them.

use shoal::engine::check::{RepairRequest, Scope};
use shoal::error::Kind;

use crate::node::{Damage, all, copy, damage, files, full, name, open, put};

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
