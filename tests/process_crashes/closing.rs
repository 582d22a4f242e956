//! Namespaces that nobody uses are closed while too many are open: nobody notices but the machine.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shoal::engine::{CreateRequest, EngineConfig};
use shoal::platform::disk::Disk as _;

use super::room::{Node, config, name};

const OPEN_MAX: usize = 4;
/// What takes longer than this does not come to an end.
const PATIENCE: Duration = Duration::from_secs(20);

fn few() -> Node {
    Node::new(EngineConfig { open_namespaces_max: OPEN_MAX, ..config() })
}

/// Logs that are open: each is a descriptor.
fn open_logs(node: &Node) -> usize {
    node.disk.list(std::path::Path::new("/data/log")).unwrap().len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_namespaces_are_open_than_the_bound_and_all_of_them_answer() {
    let node = few();
    for n in 0..40 {
        let text = format!("docs-{n}");
        node.write(&text, 1).await.unwrap();
        node.engine.checkpoint(&name(&text)).await.unwrap();
    }
    for n in 0..40 {
        node.engine.create(&name(&format!("empty-{n}")), CreateRequest::default()).await.unwrap();
    }
    assert!(node.engine.open_count() <= OPEN_MAX, "{} are open", node.engine.open_count());
    for round in 0..3 {
        for n in 0..40 {
            assert_eq!(node.count(&format!("docs-{n}")), 1, "round {round}");
            assert_eq!(node.count(&format!("empty-{n}")), 0, "round {round}");
        }
        assert!(node.engine.open_count() <= OPEN_MAX, "{} are open", node.engine.open_count());
    }
    // The one that is used all the time stays.
    for n in 0..40 {
        assert_eq!((node.count("docs-0"), node.count(&format!("docs-{n}"))), (1, 1));
    }
    assert!(node.engine.check(4).unwrap().is_whole());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_memory_only_is_flushed_before_its_namespace_is_closed() {
    let node = few();
    for n in 0..40 {
        node.write(&format!("docs-{n}"), 1).await.unwrap();
    }
    // Flushes run beside; each upkeep closes some.
    for n in 0..40 {
        node.engine.checkpoint(&name(&format!("docs-{n}"))).await.unwrap();
        node.engine.tend().await.unwrap();
    }
    assert!(node.engine.open_count() <= OPEN_MAX, "{} are open", node.engine.open_count());
    assert!(open_logs(&node) <= OPEN_MAX, "{} logs are open", open_logs(&node));
    for n in 0..40 {
        assert_eq!(node.count(&format!("docs-{n}")), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn for_one_namespace_over_the_bound_one_small_tail_is_flushed() {
    let node = few();
    for n in 0..OPEN_MAX {
        node.write(&format!("docs-{n}"), 1).await.unwrap();
    }
    node.engine.create(&name("empty"), CreateRequest::default()).await.unwrap();
    // The one used longest ago is flushed. Whoever asks for it when it is closed has another one flushed for that.
    let until = Instant::now() + PATIENCE;
    while (node.engine.open_count() > OPEN_MAX || node.segments().0 == 0) && Instant::now() < until {
        node.engine.tend().await.unwrap();
        tokio::task::yield_now().await;
    }
    let waiting = (1..OPEN_MAX).filter(|n| node.tail_bytes(&format!("docs-{n}")) > 0).count();
    assert_eq!((node.segments().0, waiting), (1, OPEN_MAX - 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_quickly_namespaces_are_made_no_more_are_open_than_four_times_the_bound() {
    const WRITERS: usize = 8;
    let node = Arc::new(few());
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let node = node.clone();
        writers.spawn(async move {
            let mut most = 0;
            for n in 0..25 {
                node.write(&format!("docs-{writer}-{n}"), 1).await.unwrap();
                most = most.max(node.engine.open_count());
            }
            most
        });
    }
    while let Some(most) = writers.join_next().await {
        // Each of the others may have made one, and waits for the flush of another.
        let most = most.unwrap();
        assert!(most <= 4 * OPEN_MAX + 2 * WRITERS, "{most} were open");
    }
    // When nothing is written any more a look is enough, or one after what is still done in the background has let go.
    let until = Instant::now() + PATIENCE;
    while node.engine.open_count() > OPEN_MAX && Instant::now() < until {
        node.engine.tend().await.unwrap();
        tokio::task::yield_now().await;
    }
    assert!(node.engine.open_count() <= OPEN_MAX, "{} are open", node.engine.open_count());
    assert!(open_logs(&node) <= OPEN_MAX, "{} logs are open", open_logs(&node));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_quickly_namespaces_are_written_and_read_no_more_are_open_than_four_times_the_bound() {
    const CLIENTS: usize = 8;
    const EACH: usize = 25;
    let node = Arc::new(few());
    for n in 0..2 * CLIENTS * EACH {
        node.engine.create(&name(&format!("docs-{n}")), CreateRequest::default()).await.unwrap();
    }
    node.engine.tend().await.unwrap();
    assert!(node.engine.open_count() <= OPEN_MAX, "{} are open", node.engine.open_count());
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..CLIENTS {
        let node = node.clone();
        clients.spawn(async move {
            let mut most = 0;
            for n in 0..EACH {
                let (written, read) = (client * EACH + n, CLIENTS * EACH + client * EACH + n);
                node.write(&format!("docs-{written}"), 1).await.unwrap();
                most = most.max(node.engine.open_count());
                let reader = node.clone();
                let count = tokio::task::spawn_blocking(move || reader.count(&format!("docs-{read}")));
                assert_eq!(count.await.unwrap(), 0);
                most = most.max(node.engine.open_count());
            }
            most
        });
    }
    while let Some(most) = clients.join_next().await {
        // Each of the others may have opened one just now.
        let most = most.unwrap();
        assert!(most <= 4 * OPEN_MAX + CLIENTS, "{most} were open");
    }
    for n in 0..CLIENTS * EACH {
        assert_eq!(node.count(&format!("docs-{n}")), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writers_and_readers_never_meet_a_namespace_that_is_closed_under_them() {
    const NAMES: u64 = 12;
    const WRITES: u64 = 60;
    let node = Arc::new(Node::new(EngineConfig { open_namespaces_max: 1, flush_bytes: 32 << 10, ..config() }));
    for n in 0..NAMES {
        node.engine.create(&name(&format!("docs-{n}")), CreateRequest::default()).await.unwrap();
    }
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..4 {
        let node = node.clone();
        writers.spawn(async move {
            for id in 0..WRITES {
                let text = format!("docs-{}", (writer * 5 + id) % NAMES);
                node.write(&text, writer * WRITES + id).await.unwrap();
                let found = tokio::task::block_in_place(|| node.count(&text));
                assert!(found > 0, "{text} has what was acknowledged");
                if id % 3 == 0 {
                    node.engine.checkpoint(&name(&text)).await.unwrap();
                }
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    let all: usize = (0..NAMES).map(|n| node.count(&format!("docs-{n}"))).sum();
    assert_eq!(all as u64, 4 * WRITES);
    let report = node.engine.check(4).unwrap();
    assert!(report.is_whole(), "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_whose_log_cannot_be_sealed_stays_open_until_it_can() {
    let node = few();
    for n in 0..10 {
        let text = format!("docs-{n}");
        node.write(&text, 1).await.unwrap();
        node.engine.checkpoint(&name(&text)).await.unwrap();
        // Ids are in the log, and in no segment.
        node.engine.allocate_ids(&name(&text), 1).await.unwrap();
        if n == OPEN_MAX - 1 {
            node.disk.fail(Some(("rename", "/wal/", ErrorKind::Other)));
            assert_eq!(node.engine.open_count(), OPEN_MAX);
            assert_eq!(
                node.engine
                    .create(&name("more"), CreateRequest::default())
                    .await
                    .map(drop)
                    .map_err(|e| e.to_string()),
                Ok(())
            );
            assert_eq!(node.engine.open_count(), OPEN_MAX, "only what was just made could be closed");
            node.disk.fail(None);
        }
    }
    for n in 0..10 {
        assert_eq!(node.count(&format!("docs-{n}")), 1);
        node.write(&format!("docs-{n}"), 2).await.unwrap();
        assert_eq!(node.count(&format!("docs-{n}")), 2);
    }
}
