//! Tags that are set and deleted over and over: what is kept of the deleted ones, what one more costs, and who waits for it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use shoal::engine::Engine;
use shoal::engine::lineage::TAGS_MAX;
use shoal::format::marks::{TagFile, VERSION, encode_tag};
use shoal::model::as_of::AsOf;
use shoal::platform::disk::{Disk, create_dirs, publish};

use crate::hook_disk::HookDisk;
use crate::node::{Node, all, at, name, put};

/// A test that waits longer than this for what nothing holds up has failed.
const PATIENCE: Duration = Duration::from_secs(20);

fn tags_of(engine: &Engine, namespace: &str) -> PathBuf {
    Path::new("/data/local").join(engine.nsid_of(&name(namespace)).unwrap().to_string()).join("tags")
}

/// Leaves what says that a tag was deleted, as long before now as `ago_ms`.
fn leave_deleted(node: &Node, engine: &Engine, tag: &str, ago_ms: u64) {
    let (dir, at_ms) = (tags_of(engine, "main").join(tag), 1_700_000_000_000 - ago_ms);
    create_dirs(&node.disk, &dir).unwrap();
    let file = TagFile { format: VERSION, tag: tag.to_owned(), rev: at_ms, at_ms, manifest: None };
    publish(&node.disk, &dir.join(format!("{at_ms:020}.json")), &encode_tag(&file).unwrap()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_deleted_tags_the_youngest_are_kept_and_no_more_where_no_bucket_knows() {
    let node = Node::new(93);
    let mut engine = node.open();
    put(&engine, "main", 0..20, 1).await;
    let tags = tags_of(&engine, "main");
    // The names are in the order of their age, the oldest last.
    let left = TAGS_MAX + 100;
    (0..left).for_each(|n| leave_deleted(&node, &engine, &format!("left-{n:05}"), n as u64));
    engine.tag(&name("main"), "kept", None).await.unwrap();
    let tagged = all(&engine, "main");
    for n in 0..8 {
        node.clock.advance(1);
        engine.tag(&name("main"), &format!("t{n}"), None).await.unwrap();
        engine.untag(&name("main"), &format!("t{n}")).await.unwrap();
    }
    engine = node.cut_power(engine);
    let files = |tag: &str| node.disk.names(&tags.join(tag)).unwrap_or_default().len();
    let there: Vec<String> = node.disk.names(&tags).unwrap().into_iter().filter(|tag| files(tag) > 0).collect();
    assert!(there.len() <= TAGS_MAX && there.len() > TAGS_MAX / 2, "{}", there.len());
    for n in 0..8 {
        assert!(there.contains(&format!("t{n}")), "{n}: it was deleted last");
    }
    let kept = there.iter().filter(|tag| tag.starts_with("left")).count();
    assert!((0..kept).all(|n| there.contains(&format!("left-{n:05}"))), "an older one is kept than one that went");
    assert_eq!(at(&engine, "main", AsOf::Tag("kept".into())).unwrap(), tagged);
    assert!(engine.check(4).unwrap().is_whole());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_costs_the_same_beside_many_others() {
    let mut costs = Vec::new();
    for others in [100, 900] {
        let node = Node::new(94);
        let engine = node.open();
        put(&engine, "main", 0..20, 1).await;
        (0..others).for_each(|n| leave_deleted(&node, &engine, &format!("left-{n}"), n));
        let before = node.disk.operations();
        engine.tag(&name("main"), "v1", None).await.unwrap();
        engine.untag(&name("main"), "v1").await.unwrap();
        costs.push(node.disk.operations() - before);
    }
    assert_eq!(costs[0], costs[1], "operations of the disk");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_tag_waits_for_none_of_another_namespace() {
    let node = Node::new(95);
    let disk = HookDisk::new(node.disk.mounted());
    let engine = Engine::open(node.config.clone(), Arc::new(disk.clone()), node.clock.clone(), node.random.clone());
    let engine = engine.unwrap();
    engine.rebuild_index().unwrap();
    for namespace in ["main", "other"] {
        put(&engine, namespace, 0..20, 1).await;
    }
    let (dir, other) = (tags_of(&engine, "main"), engine.clone());
    let (tell, told) = channel();
    let runtime = tokio::runtime::Handle::current();
    // In the midst of setting a tag of the one, a tag of the other is set and deleted.
    disk.before(move |_, path| {
        if !path.starts_with(&dir) {
            return false;
        }
        let (tell_end, end) = channel();
        let other = other.clone();
        runtime.spawn(async move {
            other.tag(&name("other"), "v1", None).await.unwrap();
            other.untag(&name("other"), "v1").await.unwrap();
            let _ = tell_end.send(());
        });
        tell.send(end.recv_timeout(PATIENCE)).unwrap();
        true
    });
    engine.tag(&name("main"), "v1", None).await.unwrap();
    assert_eq!(told.recv(), Ok::<_, _>(Ok::<(), RecvTimeoutError>(())));
    assert_eq!(engine.tags(&name("main")).unwrap().len(), 1);
}
