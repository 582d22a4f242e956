//! What a node that goes on leaves behind: deleted tags, bases of merges with who is gone, files where nothing is retained.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use shoal::engine::Engine;
use shoal::engine::merge::MergeRequest;
use shoal::format::marks::{TagFile, VERSION, encode_tag};
use shoal::model::as_of::AsOf;
use shoal::platform::disk::{Disk, create_dirs, publish};
use shoal::platform::memory_disk::Fault;

use crate::node::{DAY_MS, Node, all, at, branch, name, put};

/// The local directory of a namespace.
fn local(engine: &Engine, of: &str) -> PathBuf {
    let status = engine.status(&name(of)).unwrap();
    Path::new("/data/local").join(status["nsid"].as_str().unwrap())
}

/// Everything below a directory, directories too.
fn below(node: &Node, dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in node.disk.list(dir).unwrap_or_default() {
        let path = dir.join(&entry.name);
        found.extend(if entry.is_dir { below(node, &path) } else { Vec::new() });
        found.push(path);
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleted_tags_leave_nothing_where_no_bucket_knows_of_them() {
    let node = Node::new(90);
    let mut engine = node.open();
    put(&engine, "main", 0..20, 1).await;
    let tags = local(&engine, "main").join("tags");
    // As releases before left them.
    for n in 0..100 {
        let dir = tags.join(format!("left-{n}"));
        create_dirs(&node.disk, &dir).unwrap();
        let file = TagFile { format: VERSION, tag: format!("left-{n}"), rev: 7, at_ms: 7, manifest: None };
        publish(&node.disk, &dir.join("00000000000000000007.json"), &encode_tag(&file).unwrap()).unwrap();
    }
    for n in 0..10 {
        put(&engine, "main", [n], n).await;
        let tag = format!("t{}", n % 3);
        engine.tag(&name("main"), &tag, None).await.unwrap();
        let tagged = all(&engine, "main");
        put(&engine, "main", [n], 100).await;
        engine.compact(&name("main")).await.unwrap();
        assert_eq!(at(&engine, "main", AsOf::Tag(tag.clone())).unwrap(), tagged);
        engine.untag(&name("main"), &tag).await.unwrap();
        assert!(engine.untag(&name("main"), &tag).await.is_err());
        if n % 4 == 3 {
            engine = node.cut_power(engine);
        }
        assert!(engine.tags(&name("main")).unwrap().is_empty());
    }
    node.clock.advance(node.config.retention_ms + 1);
    engine.tag(&name("main"), "last", None).await.unwrap();
    engine.tag(&name("main"), "very-last", None).await.unwrap();
    // A power cut may bring an empty directory back.
    let files = below(&node, &tags).into_iter().filter(|path| path.extension().is_some());
    assert_eq!(files.count(), 2, "{:?}", below(&node, &tags));
    assert!(engine.check(4).unwrap().is_whole());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_whose_deletion_is_cut_short_is_there_whole_or_gone() {
    let mut gone = 0;
    for at_operation in 0..40 {
        let node = Node::new(91 + at_operation);
        let mut engine = node.open();
        put(&engine, "main", 0..20, 1).await;
        engine.tag(&name("main"), "monday", None).await.unwrap();
        let tagged = all(&engine, "main");
        put(&engine, "main", 0..20, 2).await;
        engine.compact(&name("main")).await.unwrap();
        node.disk.set_fault(Some(Fault {
            at: node.disk.operations() + at_operation,
            forever: at_operation % 2 == 0,
            kind: std::io::ErrorKind::Other,
        }));
        let untagged = engine.untag(&name("main"), "monday").await.is_ok();
        node.disk.set_fault(None);
        engine = node.cut_power(engine);
        match engine.tags(&name("main")).unwrap().len() {
            0 => gone += 1,
            _ => {
                assert!(!untagged, "operation {at_operation}: it came back");
                assert_eq!(at(&engine, "main", AsOf::Tag("monday".into())).unwrap(), tagged);
            }
        }
        // A tag of that name is another one.
        if engine.tags(&name("main")).unwrap().is_empty() {
            engine.tag(&name("main"), "monday", None).await.unwrap();
            assert_eq!(at(&engine, "main", AsOf::Tag("monday".into())).unwrap(), all(&engine, "main"));
        }
        assert!(engine.check(4).unwrap().is_whole(), "operation {at_operation}: {:?}", engine.check(4));
    }
    assert!(gone > 0 && gone < 40, "{gone}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bases_of_branches_that_are_gone_go_though_nothing_is_merged_any_more() {
    let node = Node::new(92);
    let engine = node.open();
    put(&engine, "main", 0..20, 1).await;
    for branch_of in ["gone", "kept"] {
        branch(&engine, "main", branch_of).await;
        put(&engine, branch_of, 30..40, 2).await;
        engine.merge(&name(branch_of), &name("main"), MergeRequest::default()).await.unwrap();
    }
    let (bases, kept) = (local(&engine, "main").join("bases"), local(&engine, "kept"));
    engine.delete(&name("gone")).await.unwrap();
    engine.tend().await.unwrap();
    assert_eq!(below(&node, &bases).len(), 2, "it can be had back");
    node.clock.advance(8 * DAY_MS);
    for _ in 0..3 {
        engine.tend().await.unwrap();
    }
    let left = below(&node, &bases);
    let of_kept = bases.join(kept.file_name().unwrap()).with_extension("json");
    assert_eq!(left, [of_kept]);
    assert!(engine.check(4).unwrap().is_whole());
    put(&engine, "kept", 50..60, 3).await;
    engine.merge(&name("kept"), &name("main"), MergeRequest::default()).await.unwrap();
}

/// Makes and ends namespaces in all ways.
async fn churn(engine: &Arc<Engine>, round: u64) {
    let (branched, plain) = (format!("branch-{round}"), format!("plain-{round}"));
    put(engine, "main", round..round + 5, round).await;
    for merged in [true, false] {
        branch(engine, "main", &branched).await;
        put(engine, &branched, 30..32, round).await;
        if merged {
            engine.merge(&name(&branched), &name("main"), MergeRequest::default()).await.unwrap();
        } else {
            engine.checkpoint(&name(&branched)).await.unwrap();
        }
        engine.delete(&name(&branched)).await.unwrap();
    }
    put(engine, &plain, 0..20, round).await;
    engine.checkpoint(&name(&plain)).await.unwrap();
    put(engine, &plain, 0..20, round + 1).await;
    engine.delete(&name(&plain)).await.unwrap();
    engine.compact(&name("main")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nothing_is_retained_nothing_waits_for_a_start() {
    let mut node = Node::new(93);
    node.config.retention_ms = 0;
    let engine = node.open();
    put(&engine, "main", 0..20, 1).await;
    let mut left = Vec::new();
    for round in 1..8 {
        churn(&engine, round).await;
        for _ in 0..3 {
            node.clock.advance(3_600_000);
            engine.tend().await.unwrap();
        }
        left.push(below(&node, Path::new("/data")));
    }
    assert_eq!(left[6].len(), left[2].len(), "{:#?}", left[6]);
}
