//! The `ETag` of an answer is that of the state which was made for it, whatever others write meanwhile.

use std::sync::{Arc, Mutex};

use serde_json::json;
use shoal::engine::layout::Layout;
use shoal::engine::merge::MergeRequest;
use shoal::engine::{CreateRequest, Engine};
use shoal::error::Result;
use shoal::model::write::WriteOutcome;
use tokio::runtime::Handle;

use crate::after_faults::hooked;
use crate::node::{Node, branch, name, put};
use crate::request;

async fn write_at(engine: &Arc<Engine>, etag: &str, n: u64) -> Result<WriteOutcome> {
    let mut write = request(json!({"upsert_rows": [{"id": 1, "n": n}]}));
    write.if_match = Some(etag.to_owned());
    engine.write(&name("docs"), write).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_merge_gives_that_of_its_own_commit_though_another_writes_before_it_answers() {
    let node = Node::new(95);
    let (disk, engine) = hooked(&node);
    put(&engine, "docs", 0..3, 1).await;
    branch(&engine, "docs", "child").await;
    put(&engine, "child", 5..7, 2).await;
    let nsid = |of| engine.nsid_of(&name(of)).unwrap();
    let base = Layout::new("/data").base(nsid("docs"), nsid("child"));
    let (other, written, runtime) = (engine.clone(), Arc::new(Mutex::new(None)), Handle::current());
    let kept = written.clone();
    disk.before(move |operation, path| {
        // What both have in common now is put in place once the merge is committed.
        let is_committed = operation == "rename" && path == base;
        if is_committed {
            let write = request(json!({"upsert_rows": [{"id": 1, "n": 7}]}));
            *kept.lock().unwrap() = Some(runtime.block_on(other.write(&name("docs"), write)).unwrap().etag);
        }
        is_committed
    });
    let merge = async || engine.merge(&name("child"), &name("docs"), MergeRequest::default()).await;
    let report = merge().await.unwrap();
    let written = written.lock().unwrap().take().unwrap();
    assert!(report.commit.is_some() && report.etag != written, "{report:?}");
    assert_eq!(write_at(&engine, &report.etag, 8).await.unwrap_err().code(), "precondition_failed");
    // Where nothing is to be merged it is that of the state which was looked at.
    let report = merge().await.unwrap();
    assert_eq!((report.commit, &report.etag), (None, &written));
    write_at(&engine, &report.etag, 8).await.unwrap();
    put(&engine, "child", 7..9, 2).await;
    let report = merge().await.unwrap();
    assert!(report.commit.is_some());
    write_at(&engine, &report.etag, 9).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_creation_gives_that_of_the_empty_namespace() {
    let node = Node::new(96);
    let engine = node.open();
    let made = engine.create(&name("docs"), CreateRequest::default()).await.unwrap();
    assert_eq!(made, engine.etag(&name("docs")).unwrap());
    put(&engine, "docs", 0..3, 1).await;
    assert_eq!(write_at(&engine, &made, 8).await.unwrap_err().code(), "precondition_failed");
}
