//! Attributes that one side dropped, and declared again.

use serde_json::json;
use shoal::engine::merge::decide::Policy;
use shoal::model::ids::DocId;

use crate::node::{Node, all, branch, name, write};
use crate::policies::merge;

/// How often it was dropped comes along with an attribute.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_dropped_after_a_merge_brought_it_stays_dropped() {
    let node = Node::new(71);
    let engine = node.open();
    write(&engine, "main", json!({"upsert_rows": [{"id": 1, "n": 1}, {"id": 2, "n": 2}]})).await;
    branch(&engine, "main", "child").await;
    let drop_it = json!({"schema": {"secret": {"drop": true}}});
    write(&engine, "child", json!({"patch_rows": [{"id": 1, "secret": "first"}]})).await;
    write(&engine, "child", drop_it.clone()).await;
    write(&engine, "child", json!({"patch_rows": [{"id": 1, "secret": "second"}]})).await;
    let shows = || all(&engine, "main")[&DocId::Uint(1)].get("secret").cloned();
    merge(&engine, "child", "main", Policy::Fail).await.unwrap();
    assert_eq!(shows(), Some(json!("second")));
    branch(&engine, "main", "other").await;
    write(&engine, "main", drop_it.clone()).await;
    assert_eq!(shows(), None);
    // Neither what was branched before nor the one that brought it brings it back.
    for from in ["other", "child"] {
        write(&engine, from, json!({"upsert_rows": [{"id": 3, "n": 3, "secret": "third"}]})).await;
        let report = merge(&engine, from, "main", Policy::Lww).await.unwrap();
        assert_eq!((report.left_out, shows()), (vec!["secret".to_owned()], None), "{from}");
    }
    write(&engine, "main", json!({"schema": {"secret": "string"}})).await;
    assert_eq!(shows(), None);
    engine.compact(&name("main")).await.unwrap();
    assert_eq!(shows(), None);
}
