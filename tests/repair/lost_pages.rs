//! A part of a mapped file that cannot be read costs the file's namespace, and not the process.

use std::fs::File;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use serde_json::{Value as Json, json};
use shoal::engine::Engine;
use shoal::engine::lineage::BranchRequest;
use shoal::engine::merge::MergeRequest;
use shoal::engine::merge::decide::Policy;
use shoal::error::{Error, Result, UNREADABLE};
use shoal::platform::mmap::Mapping;
use shoal::snapshot::export::export;
use shoal::snapshot::take::{Extent, take};

use crate::daemon::{Daemon, ON_REQUEST, files, place, serve, shoal, text};
use crate::node::{all, name, write};
use crate::real::{listed, newest_segment, open, overwrite, put, rows};

/// Cuts a file, so that what lies behind cannot be read by who has mapped it.
fn cut(file: &Path, bytes: u64) {
    std::fs::File::options().write(true).open(file).unwrap().set_len(bytes).unwrap();
}

/// Everything that reads segments of `docs`.
const READS: [&str; 13] = [
    "query",
    "export",
    "diff",
    "full snapshot",
    "flattened snapshot",
    "look of a merge",
    "merge",
    "compaction",
    "patch",
    "patch by filter",
    "delete by filter",
    "upserts",
    "deletes",
];

async fn read(engine: &Arc<Engine>, what: &str) -> Result<()> {
    let (docs, old) = (name("docs"), name("old"));
    let merge = |dry_run| MergeRequest { policy: Policy::Ours, dry_run, ..MergeRequest::default() };
    let snapshot = async |extent: Extent| {
        let taken = take(engine, &docs, &extent).await?;
        tokio::task::block_in_place(|| taken.write(&mut std::io::sink())).map(drop)
    };
    match what {
        "query" => all(engine, "docs").map(drop),
        "export" => {
            let moment = engine.moment_at(&docs, None).await?;
            let mut out = Vec::new();
            let done = tokio::task::block_in_place(|| export(&moment, &mut out).map(drop));
            let told = String::from_utf8(out).unwrap();
            // What was told before is right, and nobody takes it for all.
            assert_eq!(told.contains("shoal_export_end"), done.is_ok());
            assert!(done.is_ok() || told.lines().skip(1).all(|line| line.contains("\"text\":\"fish ")), "{told}");
            done
        }
        "diff" => {
            let diff = engine.diff((&old, None), (&docs, None)).await?;
            tokio::task::block_in_place(|| diff.for_each(|_| Ok(())))
        }
        "full snapshot" => snapshot(Extent::Full).await,
        "flattened snapshot" => snapshot(Extent::Flattened).await,
        "look of a merge" => engine.merge(&docs, &old, merge(true)).await.map(drop),
        "merge" => engine.merge(&docs, &old, merge(false)).await.map(drop),
        "compaction" => engine.compact(&docs).await,
        "patch" => write(engine, "docs", json!({"patch_rows": [{"id": ROWS - 1, "n": 5}]})).await,
        "patch by filter" => {
            let body = json!({"patch_by_filter": {"filters": ["n", "Eq", 1], "patch": {"n": 6}}});
            write(engine, "docs", body).await
        }
        "delete by filter" => write(engine, "docs", json!({"delete_by_filter": ["n", "Eq", 77]})).await,
        "upserts" => put(engine, "docs", 0..ROWS, 3).await,
        "deletes" => write(engine, "docs", json!({"deletes": (0..ROWS).collect::<Vec<u64>>()})).await,
        _ => panic!("{what}"),
    }
}

/// Rows of the segment that is cut: so many that it has many pages.
const ROWS: u64 = 600;

/// A namespace of a segment of many pages and one of few, a branch that has the small one only, and another namespace.
async fn made(dir: &Path) {
    let engine = open(dir);
    put(&engine, "docs", ROWS..ROWS + 10, 1).await.unwrap();
    engine.checkpoint(&name("docs")).await.unwrap();
    engine.branch(&name("docs"), &name("old"), BranchRequest::default()).await.unwrap();
    put(&engine, "docs", 0..ROWS, 1).await.unwrap();
    put(&engine, "other", 0..ROWS, 1).await.unwrap();
    for of in ["docs", "other"] {
        engine.checkpoint(&name(of)).await.unwrap();
    }
    engine.shutdown().await.unwrap();
}

fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        let to = to.join(file.strip_prefix(from).unwrap());
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(file, to).unwrap();
    }
}

fn is_unreadable(error: &Error, key: &str) -> bool {
    error.code() == UNREADABLE && error.hint().is_some() && error.message().contains(key)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_is_lost_costs_every_request_that_reads_it_and_none_of_another_namespace() {
    let made_once = tempfile::tempdir().unwrap();
    made(made_once.path()).await;
    // Each is the first to meet it, once with every chunk checked before, and once with none.
    for (what, is_checked) in READS.into_iter().flat_map(|what| [(what, false), (what, true)]) {
        let dir = tempfile::tempdir().unwrap();
        copy(made_once.path(), dir.path());
        let engine = open(dir.path());
        let other = all(&engine, "other").unwrap();
        let segment = newest_segment(&engine, dir.path(), "docs").await;
        let key = segment.strip_prefix(dir.path().join("data/store")).unwrap().display().to_string();
        let whole = std::fs::read(&segment).unwrap();
        let before = if is_checked { Some(all(&engine, "docs").unwrap()) } else { None };
        engine.view(&name("docs")).unwrap();
        cut(&segment, 4_096);
        for again in 0..2 {
            let Err(error) = read(&engine, what).await else { panic!("{what}, {is_checked}, {again}: it went well") };
            assert!(is_unreadable(&error, &key), "{what}, {is_checked}, {again}: {error} {:?}", error.code());
            engine.note_damage(&name("docs"), &error);
            assert_eq!(listed(&engine), [format!("store/{key}")], "{what}");
        }
        assert!(all(&engine, "other").unwrap() == other, "{what}");
        engine.tend().await.unwrap();
        assert_eq!(listed(&engine), [format!("store/{key}")], "{what}: it is still cut");
        overwrite(&segment, &whole);
        for _ in 0..4 {
            engine.tend().await.unwrap();
        }
        assert_eq!(listed(&engine), Vec::<String>::new(), "{what}");
        let after = all(&engine, "docs").unwrap();
        assert!(after.len() == 610 && before.is_none_or(|before| before == after), "{what}");
        read(&engine, what).await.unwrap();
        assert!(engine.check(4).unwrap().is_whole(), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_of_a_file_that_cannot_be_read_says_so_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    made(dir.path()).await;
    let engine = open(dir.path());
    let segment = newest_segment(&engine, dir.path(), "docs").await;
    let before = all(&engine, "docs").unwrap();
    let whole = std::fs::read(&segment).unwrap();
    cut(&segment, 4_096);
    for level in 2..=4 {
        let report = engine.check(level).unwrap();
        let files: Vec<&str> = report.problems.iter().map(|problem| problem.file.as_str()).collect();
        assert_eq!(files, [segment.strip_prefix(dir.path().join("data")).unwrap().display().to_string()]);
        assert_eq!(listed(&engine), files);
    }
    overwrite(&segment, &whole);
    assert!(engine.check(4).unwrap().is_whole());
    assert!(all(&engine, "docs").unwrap() == before);
}

#[test]
fn a_daemon_outlives_a_segment_that_is_cut_and_copied_back_while_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::spawn(&mut serve(dir.path()));
    for of in ["docs", "other"] {
        let path = format!("/v2/namespaces/{of}");
        let body = json!({"distance_metric": "euclidean_squared", "upsert_rows": rows(0..600, 1)});
        assert_eq!(daemon.ask("POST", &path, &[], &body).0, 200);
        assert_eq!(daemon.ask("POST", &format!("/v1/namespaces/{of}/checkpoint"), &[], &json!({})).0, 200);
    }
    let ask = |of: &str| {
        let query = json!({"rank_by": ["id", "asc"], "limit": 600, "include_attributes": true});
        let (status, _, body) = daemon.ask("POST", &format!("/v2/namespaces/{of}/query"), &[], &query);
        (status, body)
    };
    let (docs, other) = (ask("docs").1["rows"].clone(), ask("other").1["rows"].clone());
    assert_eq!((docs.as_array().unwrap().len(), other.as_array().unwrap().len()), (600, 600));
    let nsid =
        daemon.ask("GET", "/v1/namespaces/docs/status", &[], &Json::Null).2["nsid"].as_str().unwrap().to_owned();
    let is_ours =
        |file: &std::path::PathBuf| file.ends_with("data.seg") && file.display().to_string().contains(&nsid);
    let segment = files(dir.path()).into_iter().find(is_ours).unwrap();
    let whole = std::fs::read(&segment).unwrap();
    cut(&segment, 4_096);
    for _ in 0..2 {
        let (status, body) = ask("docs");
        assert_eq!((status, body["code"].as_str()), (500, Some(UNREADABLE)), "{body}");
        assert_eq!(ask("other").1["rows"], other);
    }
    let status = daemon.ask("GET", "/v1/status", &[], &Json::Null).2;
    let file = segment.strip_prefix(dir.path()).unwrap().display().to_string();
    assert_eq!(
        (status["damaged"][0]["file"].as_str(), status["damaged"][0]["kind"].as_str()),
        (Some(&*file), Some("segment"))
    );
    assert!(
        daemon.body("/metrics").contains("shoal_damaged_files{kind=\"segment\"} 1"),
        "{}",
        daemon.body("/metrics")
    );
    let checked = shoal().args(["check", "--level", "3", "--url", &daemon.url]).output().unwrap();
    let said = text(&checked.stdout) + &text(&checked.stderr);
    assert!(!checked.status.success() && said.contains("data.seg"), "{said}");
    overwrite(&segment, &whole);
    // A check heals at once what is as it should be.
    assert!(shoal().args(["check", "--level", "3", "--url", &daemon.url]).output().unwrap().status.success());
    assert_eq!(ask("docs").1["rows"], docs);
    assert_eq!(daemon.ask("GET", "/v1/status", &[], &Json::Null).2["damaged"], json!([]));
    assert_eq!(daemon.stop().0, Some(0));
}

#[test]
fn a_segment_that_is_here_in_part_and_is_cut_comes_from_the_bucket_again() {
    let (dir, bucket) = place();
    let one = Daemon::start(&dir.path().join("one"), &bucket, &ON_REQUEST);
    let here = dir.path().join("other");
    let in_parts = [
        ON_REQUEST[0],
        ("SHOAL_SYNC__FOLLOW", "*/*/docs"),
        ("SHOAL_SYNC__FOLLOW_INTERVAL_SECONDS", "604800"),
        ("SHOAL_SYNC__FOLLOW_INTERVAL_SECONDS_MAX", "604800"),
        ("SHOAL_STORAGE__TIER_BYTES_MAX", "16777216"),
    ];
    let other = Daemon::start(&here, &bucket, &in_parts);
    let body = json!({"distance_metric": "euclidean_squared", "upsert_rows": rows(0..2_000, 1)});
    assert_eq!(one.ask("POST", "/v2/namespaces/docs", &[], &body).0, 200);
    for daemon in [&one, &other] {
        assert!(daemon.run(&["sync", "--wait"]).status.success());
    }
    let ask = || {
        let query = json!({"rank_by": ["id", "asc"], "limit": 2_000, "include_attributes": true});
        let (status, _, body) = other.ask("POST", "/v2/namespaces/docs/query", &[], &query);
        (status, body["rows"].clone(), body["code"].clone())
    };
    let before = ask();
    assert_eq!((before.0, before.1.as_array().unwrap().len()), (200, 2_000));
    let segments: Vec<_> = files(&here).into_iter().filter(|file| file.ends_with("data.seg")).collect();
    let [segment] = &segments[..] else { panic!("{segments:?}") };
    assert!(!segment.starts_with(here.join("store")), "{}: it is not here in part", segment.display());
    cut(segment, 4_096);
    for _ in 0..2 {
        let (status, _, code) = ask();
        assert_eq!((status, code), (500, UNREADABLE.into()));
    }
    assert_eq!(other.ask("GET", "/v1/status", &[], &Json::Null).2["damaged"].as_array().unwrap().len(), 1);
    assert!(other.run(&["check"]).status.success());
    assert_eq!(ask(), before);
    assert_eq!(other.ask("GET", "/v1/status", &[], &Json::Null).2["damaged"], json!([]));
}

const BYTES: usize = 1 << 16;
/// Says to [`a_fault_elsewhere_ends_the_process`] that it is to fault.
const FAULTS: &str = "SHOAL_TEST_FAULTS";

fn written() -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&vec![7; BYTES]).unwrap();
    file
}

#[test]
fn a_map_whose_file_is_cut_gives_zeros_and_is_marked_and_others_are_not() {
    let (cut, whole) = (written(), written());
    let maps: Vec<Mapping> = [&cut, &whole, &cut].map(|file| Mapping::of_file(file).unwrap()).into();
    cut.set_len(4_096).unwrap();
    assert!(maps.iter().all(|map| !map.is_lost()));
    assert_eq!((maps[0][BYTES - 1], maps[1][BYTES - 1]), (0, 7));
    assert_eq!(maps.iter().map(Mapping::is_lost).collect::<Vec<_>>(), [true, false, false]);
    assert_eq!(maps[0].check_readable("x").unwrap_err().code(), UNREADABLE);
    drop(maps);
    // A mark goes with its map.
    let again = Mapping::of_file(&whole).unwrap();
    assert!(again.iter().all(|byte| *byte == 7) && again.check_readable("x").is_ok());
}

#[test]
fn many_threads_may_meet_lost_pages_while_maps_come_and_go() {
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..20 {
                    let (cut, whole) = (written(), written());
                    let maps = [&cut, &whole].map(|file| Mapping::of_file(file).unwrap());
                    cut.set_len(0).unwrap();
                    std::thread::scope(|scope| {
                        for _ in 0..2 {
                            scope.spawn(|| assert!(maps[0].iter().all(|byte| *byte == 0) && maps[0].is_lost()));
                        }
                    });
                    assert!(maps[1].iter().all(|byte| *byte == 7) && !maps[1].is_lost());
                }
            });
        }
    });
}

#[test]
fn a_fault_elsewhere_ends_the_process() {
    if std::env::var_os(FAULTS).is_some() {
        let (ours, other) = (written(), written());
        let _ours = Mapping::of_file(&ours).unwrap();
        // SAFETY: nobody else has the file.
        let map = unsafe { memmap2::Mmap::map(&other).unwrap() };
        other.set_len(0).unwrap();
        println!("{}", map[0]);
        return;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    let ended = command.arg("a_fault_elsewhere_ends_the_process").env(FAULTS, "1").output().unwrap();
    assert_eq!(ended.status.signal(), Some(libc::SIGBUS), "{ended:?}");
}
