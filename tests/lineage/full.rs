//! What branches that are merged and deleted leave to the past is bounded, and a full disk heals by itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;
use shoal::engine::Engine;
use shoal::engine::merge::MergeRequest;
use shoal::model::as_of::AsOf;
use shoal::platform::disk::Disk;
use shoal::platform::memory_disk::{Mishap, MishapKind};
use shoal::platform::random::{Random, SeededRandom};

use crate::node::{Node, all, at, branch, name, write};
use crate::share::{self, deleted, stored};

const ROW_BYTES: usize = 10_000;
const ROWS: u64 = 20;
const PERCENT: u32 = 10;

fn a_node(seed: u64) -> Node {
    let mut node = share::a_node(seed);
    node.config.retention_disk_percent = PERCENT;
    node
}

/// Writes some rows that are like no others.
async fn edit(engine: &Arc<Engine>, namespace: &str, ids: std::ops::Range<u64>, seed: u64) {
    let random = SeededRandom::new(seed);
    let text = || (0..ROW_BYTES / 16).map(|_| format!("{:016x}", random.next_u64())).collect::<String>();
    let rows: Vec<_> = ids.map(|id| json!({"id": id, "s": text()})).collect();
    let schema = json!({"s": {"type": "string", "filterable": false}});
    write(engine, namespace, json!({"upsert_rows": rows, "schema": schema})).await;
}

async fn merge(engine: &Arc<Engine>, from: &str, to: &str) {
    engine.merge(&name(from), &name(to), MergeRequest::default()).await.unwrap();
}

/// So many days: a branch is edited, merged and deleted, and its target's segments are merged now and then.
async fn days(node: &Node, engine: &Arc<Engine>, days: std::ops::Range<u64>) {
    for day in days {
        let one = format!("b{day}");
        branch(engine, "main", &one).await;
        edit(engine, &one, 0..ROWS, 1_000 + day).await;
        if day % 2 == 1 {
            // Its segment is the target's, too.
            engine.checkpoint(&name(&one)).await.unwrap();
        }
        merge(engine, &one, "main").await;
        node.clock.advance(1_000);
        engine.delete(&name(&one)).await.unwrap();
        if day % 4 == 3 {
            engine.compact(&name("main")).await.unwrap();
        }
        node.clock.advance(1_000);
    }
}

async fn tend(engine: &Arc<Engine>) {
    for _ in 0..4 {
        engine.tend().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_merged_and_deleted_branches_share_with_the_past_of_their_target_counts_and_goes_oldest_first() {
    let node = a_node(140);
    let engine = node.open();
    edit(&engine, "main", 0..ROWS, 1).await;
    engine.compact(&name("main")).await.unwrap();
    let live = stored(&engine);
    days(&node, &engine, 0..24).await;
    let (expected, all_of_it) = (all(&engine, "main"), stored(&engine));
    let share = 8 * live;
    assert!(all_of_it > 2 * share, "{all_of_it} bytes, and a share of {share}");
    let disk = share * 100 / u64::from(PERCENT);
    node.disk.leave_free(Some(disk.checked_sub(all_of_it).unwrap()));
    tend(&engine).await;
    let left = stored(&engine);
    assert!((share / 2..share + live).contains(&left), "{left} bytes of {all_of_it} are left, of a share of {share}");
    // The youngest stay, and no more went than had to.
    let kept = deleted(&engine);
    assert!(kept.contains(&"default/default/b23".to_owned()), "{kept:?}");
    assert!(!kept.iter().any(|one| (0..12).any(|n| *one == format!("default/default/b{n}"))), "{kept:?}");
    tend(&engine).await;
    assert_eq!((stored(&engine), deleted(&engine).len()), (left, kept.len()));
    assert_eq!(all(&engine, "main"), expected);
    assert!(engine.check(4).unwrap().is_whole());
    engine.undelete(&name("b23"), None).await.unwrap();
    assert_eq!(all(&engine, "b23").len() as u64, ROWS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_tag_or_a_living_branch_holds_too_costs_no_deleted_branch_and_no_past_state() {
    let node = a_node(141);
    let engine = node.open();
    edit(&engine, "main", 0..ROWS, 1).await;
    engine.compact(&name("main")).await.unwrap();
    let live = stored(&engine);
    for day in 0..12 {
        let one = format!("b{day}");
        branch(&engine, "main", &one).await;
        edit(&engine, &one, 0..ROWS, 1_000 + day).await;
        engine.checkpoint(&name(&one)).await.unwrap();
        branch(&engine, &one, &format!("living{day}")).await;
        merge(&engine, &one, "main").await;
        engine.tag(&name("main"), &format!("t{day}"), None).await.unwrap();
        node.clock.advance(1_000);
        engine.delete(&name(&one)).await.unwrap();
    }
    let before = deleted(&engine);
    let states: Vec<u64> = engine.history(&name("main")).unwrap().iter().map(|state| state.generation).collect();
    // Less than what they name, and more than what comes free with them.
    let disk = 4 * live * 100 / u64::from(PERCENT);
    let free = disk.saturating_sub(stored(&engine));
    assert!(stored(&engine) > 10 * live, "{} of {live}", stored(&engine));
    node.disk.leave_free(Some(free));
    tend(&engine).await;
    assert_eq!(deleted(&engine), before);
    for generation in states {
        at(&engine, "main", AsOf::Generation(generation)).unwrap();
    }
}

/// Makes an index that is too large to be on a disk twice.
async fn large_index(engine: &Arc<Engine>) {
    let schema = (0..1_000).map(|n| (format!("{n:0>120}"), json!("string"))).collect();
    let schema = serde_json::Value::Object(schema);
    write(engine, "wide", json!({"schema": schema, "upsert_rows": [{"id": 1}]})).await;
    for n in 0..40 {
        branch(engine, "wide", &format!("w{n}")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_the_past_has_filled_heals_by_itself_where_the_index_is_not_trusted() {
    for is_started_again in [false, true] {
        let node = a_node(142);
        let mut engine = node.open();
        large_index(&engine).await;
        edit(&engine, "main", 0..ROWS, 1).await;
        days(&node, &engine, 0..24).await;
        let (mut expected, before) = (all(&engine, "main"), stored(&engine));
        assert!(node.disk.size(Path::new("/data/meta.redb")).unwrap() > 4 << 20);
        if is_started_again {
            // Its stop is not clean.
            drop(engine);
            node.disk.leave_free(Some(0));
            engine = node.try_open().unwrap();
        } else {
            edit(&engine, "main", 0..1, 3).await;
            // The index finds no room.
            let kind = MishapKind::Fails(std::io::ErrorKind::StorageFull);
            node.disk.set_mishap(Some(Mishap { after: 0, within: Some("meta.redb".to_owned()), kind }));
            engine.checkpoint(&name("main")).await.unwrap_err();
            assert!(!engine.is_index_trusted());
            node.disk.leave_free(Some(0));
            expected = all(&engine, "main");
        }
        engine.rebuild_index().unwrap();
        assert!(engine.is_index_trusted());
        tend(&engine).await;
        let left = stored(&engine);
        assert!(left < before / 2, "{left} bytes are left of {before}");
        assert_eq!(all(&engine, "main"), expected);
        edit(&engine, "main", 5..6, 5).await;
        engine.checkpoint(&name("main")).await.unwrap();
        assert!(engine.check(4).unwrap().is_whole());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_merge_whose_base_finds_no_room_leaves_the_counts_as_they_were() {
    let node = a_node(143);
    let engine = node.open();
    edit(&engine, "main", 0..ROWS, 1).await;
    branch(&engine, "main", "b").await;
    let mut failed = 0;
    for after in 0..6 {
        edit(&engine, "b", 0..ROWS, 2 + after).await;
        engine.checkpoint(&name("b")).await.unwrap();
        let (within, kind) = (Some(".next.json".to_owned()), MishapKind::Fails(std::io::ErrorKind::StorageFull));
        node.disk.set_mishap(Some(Mishap { after, within, kind }));
        let merged = engine.merge(&name("b"), &name("main"), MergeRequest::default()).await;
        node.disk.set_mishap(None);
        if let Err(full) = merged {
            failed += 1;
            assert_eq!(full.code(), "disk_full", "{full}");
            // From then on it is in place, and not known to last.
            assert!(engine.is_index_trusted() || after >= 3, "operation {after}");
            if !engine.is_index_trusted() {
                engine.rebuild_index().unwrap();
            }
            assert!(engine.check(4).unwrap().is_whole());
            merge(&engine, "b", "main").await;
        }
        assert_eq!(all(&engine, "main"), all(&engine, "b"));
    }
    assert!(failed >= 2, "{failed} merges met a full disk");
    // Nothing is counted that nobody holds.
    let counted = engine.check(4).unwrap();
    assert!(counted.is_whole(), "{counted:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_that_segments_have_go_however_many_of_them_were_left_while_the_index_was_not_trusted() {
    let node = a_node(144);
    let engine = node.open();
    let overwrite = async |n: u64| {
        let schema = json!({"s": {"type": "string", "filterable": false}});
        write(
            &engine,
            "main",
            json!({"upsert_rows": [{"id": 1, "s": n.to_string().repeat(7 << 20)}], "schema": schema}),
        )
        .await;
    };
    overwrite(0).await;
    let kind = MishapKind::Fails(std::io::ErrorKind::StorageFull);
    node.disk.set_mishap(Some(Mishap { after: 0, within: Some("meta.redb".to_owned()), kind }));
    engine.checkpoint(&name("main")).await.unwrap_err();
    node.disk.set_mishap(None);
    assert!(!engine.is_index_trusted());
    for n in 0..10 {
        overwrite(n).await;
        engine.checkpoint(&name("main")).await.unwrap();
    }
    let nsid = engine.named()[0].1.0;
    let sealed = PathBuf::from(format!("/data/store/default/default/namespaces/{nsid}/wal"));
    let logs = || -> u64 {
        let names = node.disk.names(&sealed).unwrap();
        names.iter().map(|name| node.disk.size(&sealed.join(name)).unwrap()).sum()
    };
    assert!(logs() > 64 << 20 && logs() > 10 * stored(&engine), "{} bytes of {}", logs(), stored(&engine));
    engine.rebuild_index().unwrap();
    engine.sweep().unwrap();
    for _ in 0..10_000 {
        // A look for what to merge, after the flush, keeps a sweep from it while it lasts.
        if logs() == 0 {
            break;
        }
        tokio::task::yield_now().await;
        engine.sweep().unwrap();
    }
    assert_eq!(logs(), 0);
    assert_eq!(all(&engine, "main").len(), 1);
    assert!(engine.check(4).unwrap().is_whole());
}

/// A node with so many namespaces that were made and deleted one after the other, after past states of one that lives.
async fn made_and_deleted(seed: u64, many: u64) -> (Node, Arc<Engine>) {
    let node = a_node(seed);
    let engine = node.open();
    for n in 0..4 {
        edit(&engine, "main", 0..1, n).await;
        engine.compact(&name("main")).await.unwrap();
        node.clock.advance(1_000);
    }
    for n in 0..many {
        let one = format!("n{n:0>3}");
        write(&engine, &one, json!({"upsert_rows": [{"id": 1}]})).await;
        engine.delete(&name(&one)).await.unwrap();
        node.clock.advance(1_000);
    }
    (node, engine)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_whose_files_small_deleted_namespaces_have_used_up_heals_by_itself() {
    const MANY: u64 = 60;
    let (node, engine) = made_and_deleted(145, MANY).await;
    let states = engine.history(&name("main")).unwrap().len();
    node.disk.leave_free_files(Some(0));
    // Its log and its directories need some.
    let refused = engine.create(&name("new"), Default::default()).await.unwrap_err();
    assert_eq!((refused.code(), refused.message().contains("inode")), ("disk_full", true), "{refused}");
    assert!(refused.hint().unwrap().contains("df -i"), "{:?}", refused.hint());
    let warning = engine.node_status()["warnings"][0].clone();
    assert_eq!((&warning["code"], &warning["disk_free_files"]), (&json!("disk_full"), &json!(0)));
    assert!(warning["message"].as_str().unwrap().contains("inode"), "{warning}");
    tend(&engine).await;
    // The oldest go, and only of who has most files.
    let kept = deleted(&engine);
    let share = MANY * u64::from(PERCENT) / 100;
    assert!((share / 2..=share).contains(&(kept.len() as u64)), "{} of {MANY} are left", kept.len());
    assert!(kept.contains(&format!("default/default/n{:0>3}", MANY - 1)), "{kept:?}");
    assert_eq!(engine.history(&name("main")).unwrap().len(), states);
    write(&engine, "new", json!({"upsert_rows": [{"id": 1}]})).await;
    assert_eq!(engine.node_status()["warnings"], json!([]));
    // It stays so.
    tend(&engine).await;
    assert_eq!(deleted(&engine), kept);
    engine.undelete(&name(&format!("n{:0>3}", MANY - 1)), None).await.unwrap();
    assert!(engine.check(4).unwrap().is_whole());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_the_past_goes_for_files_while_many_more_may_be_made() {
    let (node, engine) = made_and_deleted(146, 20).await;
    let before = deleted(&engine);
    node.disk.leave_free_files(Some(4_000));
    tend(&engine).await;
    assert_eq!((deleted(&engine), before.len()), (before.clone(), 20));
}
