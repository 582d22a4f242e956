//! What cannot be read now is not known to be damaged: it is said, listed, never given up, and costs its own namespace only.

use std::path::{Path, PathBuf};

use serde_json::Value as Json;
use shoal::engine::Engine;
use shoal::engine::check::{Remedy, RepairRequest, Scope};
use shoal::error::{Kind, UNREADABLE};
use shoal::platform::memory_disk::MemoryDisk;

use crate::node::{all, copy, files, full, name, open};

fn request(dry_run: bool, drop_damaged: Option<&str>) -> RepairRequest {
    RepairRequest { scope: Scope::Store, dry_run, drop_damaged: drop_damaged.map(name), force: false }
}

/// The files that status lists as damaged, below the data directory.
fn listed(engine: &Engine) -> Vec<String> {
    let status = engine.node_status();
    let files = status["damaged"].as_array().unwrap().iter();
    files.map(|file: &Json| file["file"].as_str().unwrap().to_owned()).collect()
}

fn below(path: &Path) -> String {
    path.strip_prefix("/data").unwrap().display().to_string()
}

/// The directory of a namespace's manifests.
fn manifests(disk: &MemoryDisk, of: &str) -> PathBuf {
    let nsid = open(disk).unwrap().status(&name(of)).unwrap()["nsid"].as_str().unwrap().to_owned();
    Path::new("/data/local").join(nsid)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_that_cannot_be_read_are_not_called_damaged_and_never_given_up() {
    let whole = full(false).await;
    let before = all(&open(&copy(&whole)).unwrap(), "docs").unwrap();
    let mut refused = 0;
    for file in files(&whole).into_iter().filter(|file| file.starts_with("/data/store/default")) {
        let disk = copy(&whole);
        disk.set_unreadable(Some(file.clone()));
        let engine = open(&disk).unwrap();
        let report = engine.check(3).unwrap();
        let found: Vec<_> = report.problems.iter().filter(|problem| problem.file == below(&file)).collect();
        let is_said = found.iter().all(|problem| matches!(problem.remedy, Remedy::Unreadable | Remedy::Restore));
        assert!(is_said, "{}: {found:?}", file.display());
        let dry = engine.repair_in(&request(true, Some("docs"))).unwrap();
        assert!(dry.actions.iter().all(|action| !action.what.starts_with("give up")), "{dry:?}");
        if found.iter().any(|problem| problem.remedy == Remedy::Unreadable && problem.namespace.ends_with("/docs"))
            && let Err(error) = engine.repair_in(&request(false, Some("docs")))
        {
            assert_eq!(error.kind(), Kind::Unavailable, "{}: {error}", file.display());
            assert!(error.hint().is_some());
            refused += 1;
        }
        disk.set_unreadable(None);
        assert_eq!(all(&engine, "docs").unwrap(), before, "{}", file.display());
    }
    assert!(refused >= 2, "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_request_could_not_read_is_listed_until_it_can_be_read() {
    let whole = full(true).await;
    let before = all(&open(&copy(&whole)).unwrap(), "docs").unwrap();
    let of_docs = manifests(&copy(&whole), "docs");
    let nsid = of_docs.file_name().unwrap().to_str().unwrap().to_owned();
    let of_kind = |part: &str| {
        let is_meant = |file: &&PathBuf| file.display().to_string().contains(part);
        files(&whole).iter().filter(is_meant).find(|file| file.display().to_string().contains(&nsid)).cloned()
    };
    for file in [of_kind("data.seg").unwrap(), of_kind("/log/").unwrap(), of_docs.clone()] {
        let disk = copy(&whole);
        disk.set_unreadable(Some(file.clone()));
        let engine = open(&disk).unwrap();
        for _ in 0..2 {
            let error = all(&engine, "docs").unwrap_err();
            engine.note_damage(&name("docs"), &error);
            assert_eq!((error.code(), error.hint().is_some()), (UNREADABLE, true), "{error}");
            assert_eq!(listed(&engine), [below(&file)], "{error}");
            engine.tend().await.unwrap();
        }
        all(&engine, "other").unwrap();
        disk.set_unreadable(None);
        // It is looked at ever more seldom.
        for _ in 0..4 {
            engine.tend().await.unwrap();
        }
        assert_eq!(listed(&engine), Vec::<String>::new(), "{}", file.display());
        assert_eq!(all(&engine, "docs").unwrap(), before);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreadable_directory_of_one_namespace_stops_no_check_and_no_repair() {
    let whole = full(false).await;
    // What a start and a check leave of it.
    open(&whole).unwrap().repair_in(&request(false, None)).unwrap();
    let left_over = open(&copy(&whole)).unwrap().check(3).unwrap().orphans;
    let dir = manifests(&copy(&whole), "docs");
    let objects = files(&whole).into_iter().find(|file| file.ends_with("data.seg")).unwrap();
    let segments = objects.parent().unwrap().parent().unwrap().to_owned();
    for dir in [dir.clone(), dir.join("tags"), dir.join("bases"), segments] {
        let disk = copy(&whole);
        disk.set_unreadable(Some(dir.clone()));
        let engine = open(&disk).unwrap();
        for level in [1, 2, 3, 4] {
            let report = engine.check(level).unwrap();
            let is_of = |name: &str| report.problems.iter().any(|problem| problem.namespace.ends_with(name));
            assert!(!is_of("/other") && !is_of("/child"), "{}: {report:?}", dir.display());
            assert!(report.orphans <= left_over, "{}: {report:?}", dir.display());
            if !dir.starts_with("/data/store") || level >= 2 {
                let found = report.problems.iter().find(|problem| problem.file == below(&dir));
                assert_eq!(found.map(|found| found.remedy), Some(Remedy::Unreadable), "{report:?}");
                assert!(listed(&engine).contains(&below(&dir)), "{:?}", listed(&engine));
            }
        }
        let before = files(&whole);
        engine.repair_in(&request(false, None)).unwrap();
        all(&engine, "other").unwrap();
        disk.set_unreadable(None);
        let after = files(&disk);
        assert!(before.iter().all(|file| after.contains(file)), "{}", dir.display());
        engine.repair_in(&request(false, None)).unwrap();
        all(&engine, "docs").unwrap();
        assert!(engine.check(4).unwrap().is_whole());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreadable_name_stops_no_start_after_an_unclean_stop() {
    let whole = full(true).await;
    let dir = PathBuf::from("/data/local/names/default/default/docs");
    let file = files(&whole).into_iter().find(|file| file.starts_with(&dir)).unwrap();
    let before = all(&open(&copy(&whole)).unwrap(), "docs").unwrap();
    for unreadable in [dir.clone(), file] {
        let disk = copy(&whole);
        disk.set_unreadable(Some(unreadable.clone()));
        let engine = open(&disk).unwrap();
        engine.rebuild_index().unwrap();
        all(&engine, "other").unwrap();
        if unreadable != dir {
            // The index knows what that very revision says.
            assert_eq!(all(&engine, "docs").unwrap(), before);
            continue;
        }
        let error = all(&engine, "docs").unwrap_err();
        assert_eq!((error.code(), error.hint().is_some()), (UNREADABLE, true), "{error}");
        assert_eq!(listed(&engine), [below(&dir)]);
        let report = engine.check(3).unwrap();
        let found = report.problems.iter().find(|problem| problem.namespace.ends_with("/docs"));
        assert_eq!(found.map(|found| found.remedy), Some(Remedy::Unreadable), "{report:?}");
        disk.set_unreadable(None);
        for _ in 0..4 {
            engine.tend().await.unwrap();
        }
        assert_eq!((listed(&engine), all(&engine, "docs").unwrap()), (Vec::new(), before.clone()));
    }
}
