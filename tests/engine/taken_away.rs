//! Files that somebody takes away under a running node, and puts back: nothing of what was acknowledged is missed in silence.

use std::path::Path;

use serde_json::json;
use shoal::error::Kind;
use shoal::platform::disk::{Disk, publish};

use crate::files;
use crate::node::{Node, documents, name, put, try_write};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_log_that_is_taken_away_is_missed_until_it_is_back() {
    for is_restarted in [false, true] {
        let node = Node::new(51);
        let mut engine = node.open();
        for to in ["docs", "other"] {
            put(&engine, to, 0..10, 0).await;
            engine.checkpoint(&name(to)).await.unwrap();
            put(&engine, to, 10..12, 1).await;
        }
        let nsid = engine.status(&name("docs")).unwrap()["nsid"].as_str().unwrap().to_owned();
        if is_restarted {
            engine = node.cut_power(engine);
            assert_eq!(documents(&engine.view(&name("docs")).unwrap()).len(), 12);
        }
        let is_its = |file: &String| file.starts_with(&format!("/data/log/{nsid}"));
        let log = files(&node.disk, Path::new("/data")).into_iter().find(is_its).unwrap();
        let bytes = node.disk.read(Path::new(&log)).unwrap();
        node.disk.remove(Path::new(&log)).unwrap();
        // Something is to be done with it sooner or later.
        assert!(engine.checkpoint(&name("docs")).await.is_err());
        for n in 0..4 {
            let body = json!({"upsert_rows": [{"id": 20 + n}]});
            let error = try_write(&engine, &name("docs"), body).await.unwrap_err();
            assert!(n == 0 || error.kind() == Kind::Corrupt && error.message().contains("missing"), "{error}");
            if let Ok(view) = engine.view(&name("docs")) {
                assert_eq!(documents(&view).len(), 12, "what was acknowledged is not there");
            }
        }
        assert!(engine.node_status()["damaged"].to_string().contains(&nsid), "{}", engine.node_status()["damaged"]);
        put(&engine, "other", [20], 2).await;
        if is_restarted {
            engine = node.cut_power(engine);
        }
        engine.check(3).unwrap();
        assert!(engine.view(&name("docs")).is_err());
        publish(&node.disk, Path::new(&log), &bytes).unwrap();
        engine.check(3).unwrap();
        assert_eq!(documents(&engine.view(&name("docs")).unwrap()).len(), 12);
        assert_eq!(engine.node_status()["damaged"].to_string(), "[]");
        put(&engine, "docs", [20], 2).await;
        engine.checkpoint(&name("docs")).await.unwrap();
        assert!(engine.check(4).unwrap().is_whole());
        let engine = node.cut_power(engine);
        for to in ["docs", "other"] {
            assert_eq!(documents(&engine.view(&name(to)).unwrap()).len(), 13, "{to}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_file_that_says_which_store_this_is_heals_once_it_can_be_read() {
    let node = Node::new(52);
    let engine = node.open();
    let file = Path::new("/data/store/_format.json");
    node.disk.set_unreadable(Some(file.into()));
    assert!(!engine.check(1).unwrap().is_whole());
    assert!(engine.node_status()["damaged"].to_string().contains("_format.json"));
    node.disk.set_unreadable(None);
    assert!(engine.check(1).unwrap().is_whole());
    assert_eq!(engine.node_status()["damaged"].to_string(), "[]");
}
