//! A file that cannot be removed for good: what is known of it is enough, so nothing is counted anew, and nobody else waits for it.

use serde_json::json;
use shoal::engine::Engine;

use crate::after_faults::hooked;
use crate::node::{Node, all, name, put};

const HOUR_MS: u64 = 3_600_000;

fn manifest(engine: &Engine, namespace: &str, generation: u64) -> String {
    let nsid = engine.status(&name(namespace)).unwrap()["nsid"].as_str().unwrap().to_owned();
    format!("/local/{nsid}/{generation:020}.json")
}

fn generations(engine: &Engine) -> Vec<u64> {
    engine.history(&name("docs")).unwrap().iter().map(|state| state.generation).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_past_state_that_cannot_be_removed_stays_with_what_it_holds_and_the_others_go() {
    for retention_ms in [0, HOUR_MS] {
        for stuck in [0, 2, 3] {
            let what = format!("retention {retention_ms}, generation {stuck}");
            let mut node = Node::new(5);
            node.config.retention_ms = retention_ms;
            (node.config.compaction_fan_in, node.config.compaction_dead_percent) = (1_000, 1_000);
            let (disk, engine) = hooked(&node);
            put(&engine, "docs", 0..20, 0).await;
            disk.let_stick(Some(manifest(&engine, "docs", stuck)));
            for n in 1..7 {
                put(&engine, "docs", n..n + 9, n).await;
                engine.checkpoint(&name("docs")).await.unwrap();
                node.clock.advance(1_000);
                assert!(engine.is_index_trusted(), "{what}");
            }
            node.clock.advance(2 * HOUR_MS);
            for _ in 0..3 {
                let error = engine.tend().await.unwrap_err();
                assert!(error.message().contains(&format!("{stuck:020}.json")), "{what}: {error}");
                engine.note_upkeep(&Err(error));
                assert!(engine.is_index_trusted(), "{what}");
                assert_eq!(generations(&engine)[1..], [stuck], "{what}");
                assert_eq!(engine.warning_codes(), ["index_failed"], "{what}");
            }
            // What it holds is counted, no more and no less.
            let expected = all(&engine, "docs");
            assert!(engine.check(4).unwrap().is_whole(), "{what}");
            assert_eq!(engine.sweep().unwrap().0, 0, "{what}");
            let held = node.disk.duplicate();
            disk.let_stick(None);
            engine.tend().await.unwrap();
            // Only the newest one, whichever that is by now.
            assert_eq!(generations(&engine).len(), 1, "{what}");
            assert_eq!(engine.sweep().unwrap().0, 0, "{what}: what it held went with it");
            assert_eq!((engine.check(4).unwrap().is_whole(), all(&engine, "docs")), (true, expected), "{what}");
            // The next process finds the same in what was left while it was stuck.
            drop(engine);
            let again = Node { disk: held, ..node };
            let engine = again.open();
            engine.tend().await.unwrap();
            assert_eq!(generations(&engine).len(), 1, "{what}");
            assert_eq!(engine.node_status()["damaged"], json!([]), "{what}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_does_not_mind_that_a_file_which_is_not_there_cannot_be_removed() {
    let node = Node::new(6);
    let (disk, engine) = hooked(&node);
    put(&engine, "docs", 0..20, 0).await;
    disk.let_stick(Some(manifest(&engine, "docs", 1)));
    for n in 1..4 {
        put(&engine, "docs", 0..9, n).await;
        engine.checkpoint(&name("docs")).await.unwrap();
        assert!(engine.is_index_trusted());
    }
    assert!(generations(&engine).contains(&1));
    assert!(engine.check(4).unwrap().is_whole());
}
