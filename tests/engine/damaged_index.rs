//! The index is damaged below a node: it is derived from the files, so nothing of that stops anybody for long.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::json;
use shoal::engine::{CreateRequest, Engine};
use shoal::format::node::decode_node;
use shoal::platform::disk::Disk;
use shoal::platform::random::{Random, SeededRandom};

use crate::node::{Node, all, branch, name, put};

const INDEX: &str = "/data/meta.redb";
const PAGE: u64 = 4_096;

/// What happens to the file.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Harm {
    Emptied,
    Zeros,
    Truncated,
    EveryOtherPage,
}

const ALL: [Harm; 4] = [Harm::Emptied, Harm::Zeros, Harm::Truncated, Harm::EveryOtherPage];

fn harm(node: &Node, harm: Harm) {
    let path = Path::new(INDEX);
    let bytes = node.disk.size(path).unwrap();
    let file = node.disk.random_access(path).unwrap();
    let random = SeededRandom::new(7);
    match harm {
        Harm::Emptied => file.set_len(0).unwrap(),
        Harm::Zeros => file.write_at(0, &vec![0; bytes as usize]).unwrap(),
        Harm::Truncated => file.set_len(2 * PAGE).unwrap(),
        Harm::EveryOtherPage => {
            for page in (1..bytes / PAGE).filter(|_| random.next_u64() & 1 == 0) {
                let noise: Vec<u8> = (0..PAGE / 8).flat_map(|_| random.next_u64().to_le_bytes()).collect();
                file.write_at(page * PAGE, &noise).unwrap();
            }
        }
    }
    file.sync().unwrap();
}

/// A node with namespaces to write to, and so many others that redb does not have its whole index in memory.
async fn filled(idle: u64) -> (Node, Arc<Engine>) {
    let node = Node::new(3);
    let engine = node.open();
    let labels: BTreeMap<String, String> =
        (0..64).map(|n| (format!("{n:03}{}", "k".repeat(240)), "v".repeat(250))).collect();
    for n in 0..idle {
        let request = CreateRequest { labels: labels.clone(), ..CreateRequest::default() };
        engine.create(&name(&format!("idle{n}")), request).await.unwrap();
    }
    for n in 0..4 {
        put(&engine, &format!("docs{n}"), 0..20, 1).await;
        engine.checkpoint(&name(&format!("docs{n}"))).await.unwrap();
    }
    branch(&engine, "docs0", "child").await;
    (node, engine)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_that_is_damaged_below_a_running_node_is_begun_anew() {
    for how in ALL {
        let (node, engine) = filled(100).await;
        harm(&node, how);
        // Whoever meets the damage may fail, once or twice; the others do not.
        let mut failed = 0;
        for round in 0..12 {
            let namespace = format!("docs{}", round % 4);
            put(&engine, &namespace, 0..10, round).await;
            failed += u32::from(engine.checkpoint(&name(&namespace)).await.is_err());
            let _ = engine.set_ttl(&name(&format!("idle{}", round * 7)), Some(1_000_000)).await;
            let _ = engine.rebuild_index();
        }
        assert!(failed <= 3, "{how:?}: {failed} checkpoints failed");
        engine.rebuild_index().unwrap();
        assert!(engine.is_index_trusted(), "{how:?}");
        let found = engine.check(4).unwrap();
        assert!(found.is_whole(), "{how:?}: {found:?}");
        // What a rebuild does not make is there, too: node.json can be put back from it.
        let path = Path::new("/data/node.json");
        let file = node.disk.read(path).unwrap();
        let expected: Vec<_> = (0..4).map(|n| all(&engine, &format!("docs{n}"))).collect();
        engine.shutdown().await.unwrap();
        drop(engine);
        node.disk.remove(path).unwrap();
        let engine = node.open();
        let restored = node.disk.read(path).unwrap();
        assert_eq!(decode_node(&restored, "").unwrap().node, decode_node(&file, "").unwrap().node, "{how:?}");
        for (n, expected) in expected.iter().enumerate() {
            assert_eq!(all(&engine, &format!("docs{n}")), *expected, "{how:?}");
        }
        assert_eq!(all(&engine, "child").len(), 20, "{how:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_below_a_node_that_has_its_index_in_memory_costs_the_next_start_a_count() {
    for how in ALL {
        let (node, engine) = filled(0).await;
        harm(&node, how);
        for n in 0..4 {
            put(&engine, &format!("docs{n}"), 5..9, 2).await;
        }
        let expected: Vec<_> = (0..4).map(|n| all(&engine, &format!("docs{n}"))).collect();
        // Whether the stop is clean then is another matter.
        let _ = engine.shutdown().await;
        drop(engine);
        let engine = node.try_open().unwrap_or_else(|error| panic!("{how:?}: {error}"));
        assert!(engine.is_index_trusted(), "{how:?}");
        for (n, expected) in expected.iter().enumerate() {
            assert_eq!(all(&engine, &format!("docs{n}")), *expected, "{how:?}");
        }
        assert_eq!(all(&engine, "child").len(), 20, "{how:?}");
        let found = engine.check(4).unwrap();
        assert!(found.is_whole(), "{how:?}: {found:?}");
        assert_eq!(engine.node_status()["damaged"], json!([]), "{how:?}");
    }
}
