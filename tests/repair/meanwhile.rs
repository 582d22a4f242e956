//! A check while others write, branch, merge and delete finds nothing wrong that is not.

use std::sync::Arc;

use shoal::engine::Engine;
use shoal::engine::lineage::BranchRequest;
use shoal::engine::merge::MergeRequest;
use shoal::engine::merge::decide::Policy;
use tokio::task::JoinHandle;

use crate::node::{full, name, open_with, put};

const ROUNDS: u64 = 12;

async fn work(engine: Arc<Engine>, of: &'static str) {
    for round in 0..ROUNDS {
        let (main, branch) = (name(of), name(&format!("{of}-branch")));
        put(&engine, of, round % 40..round % 40 + 5, round).await.unwrap();
        engine.branch(&main, &branch, BranchRequest::default()).await.unwrap();
        put(&engine, &format!("{of}-branch"), 50..53, round).await.unwrap();
        engine.checkpoint(&main).await.unwrap();
        let request = MergeRequest { policy: Policy::Lww, ..MergeRequest::default() };
        engine.merge(&branch, &main, request).await.unwrap();
        engine.compact(&main).await.unwrap();
        engine.delete(&branch).await.unwrap();
        engine.tend().await.unwrap();
        tokio::task::block_in_place(|| engine.sweep()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_check_while_others_write_finds_nothing_wrong_that_is_not() {
    let disk = full(false).await;
    let engine = open_with(&disk, 8).unwrap();
    engine.rebuild_index().unwrap();
    let workers: Vec<_> = ["docs", "other"].map(|of| tokio::spawn(work(engine.clone(), of))).into_iter().collect();
    let mut checks = 0;
    for level in (1..=4).cycle() {
        if workers.iter().all(JoinHandle::is_finished) {
            break;
        }
        let report = tokio::task::block_in_place(|| engine.check(level)).unwrap();
        assert_eq!(report.problems, [], "level {level}");
        checks += 1;
    }
    for worker in workers {
        worker.await.unwrap();
    }
    assert!(checks > 4, "{checks} checks");
}
