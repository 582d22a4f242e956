//! The same by the command, which opens the data directory itself.

use std::path::Path;

use serde_json::json;

use crate::daemon::{shoal, text};
use crate::node::{all, name, write};
use crate::real::{newest_segment, open, overwrite, put};

/// Runs `shoal COMMAND --data-dir DIR`: its exit code, and what it said.
fn run(words: &[&str], dir: &Path) -> (Option<i32>, String) {
    let done = shoal().args(words).arg("--data-dir").arg(dir.join("data")).output().unwrap();
    (done.status.code(), text(&[done.stdout, done.stderr].concat()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_documents_that_are_gone_are_given_up_and_the_rest_of_the_log_stays() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    put(&engine, "docs", 0..100, 1).await.unwrap();
    engine.checkpoint(&name("docs")).await.unwrap();
    write(&engine, "docs", json!({"patch_rows": [{"id": 3, "n": 2}]})).await.unwrap();
    put(&engine, "docs", 1_000..1_200, 1).await.unwrap();
    let segment = newest_segment(&engine, dir.path(), "docs").await;
    engine.shutdown().await.unwrap();
    drop(engine);
    overwrite(&segment, b"nothing of it is left");
    let (code, said) = run(&["repair", "--yes", "--drop-damaged", "default/default/docs"], dir.path());
    assert_eq!(code, Some(0), "{said}");
    let left = all(&open(dir.path()), "docs").unwrap();
    assert!(
        left.keys().eq(&(1_000..1_200).map(shoal::model::ids::DocId::Uint).collect::<Vec<_>>()),
        "{}",
        left.len()
    );
}
