//! Deletions and returns of one name on two nodes: what was told is not told again, and whoever acts last with knowledge of the rest decides.

use std::io::ErrorKind;
use std::sync::Arc;

use shoal::engine::Engine;
use shoal::platform::memory_disk::{Mishap, MishapKind};
use shoal::store::Bucket;

use crate::fleet::{bucket, fresh, meet, sync};
use crate::node::{Node, all, name, put};

struct Two {
    nodes: [Node; 2],
    engines: [Arc<Engine>; 2],
    bucket: Bucket,
}

impl Two {
    /// Both have `docs`; the clock of the first is ahead.
    async fn apart(ahead_ms: u64) -> Self {
        let (nodes, bucket) = ([Node::new(1), Node::new(2)], bucket(1));
        let engines = [nodes[0].open(), nodes[1].open()];
        nodes[0].clock.advance(ahead_ms);
        put(&engines[0], "docs", 0..5, 1).await;
        meet(&[(&nodes[0], &engines[0]), (&nodes[1], &engines[1])], &bucket).await;
        let two = Two { nodes, engines, bucket };
        two.wait();
        two
    }

    /// A moment passes.
    fn wait(&self) {
        self.nodes.iter().for_each(|node| node.clock.advance(10));
    }

    async fn pass(&self, at: usize) {
        sync(&self.nodes[at], &self.engines[at], &self.bucket).await.unwrap();
        self.wait();
    }

    async fn delete(&self, at: usize) {
        self.engines[at].delete(&name("docs")).await.unwrap();
        self.wait();
    }

    async fn undelete(&self, at: usize) {
        self.engines[at].undelete(&name("docs"), None).await.unwrap();
        self.wait();
    }

    async fn write(&self, at: usize, ids: std::ops::Range<u64>) {
        put(&self.engines[at], "docs", ids, 2).await;
        self.wait();
    }

    /// One deletes it, and passes: it is gone everywhere.
    async fn is_deleted_for_good(&self, at: usize, what: &str) {
        self.delete(at).await;
        self.pass(at).await;
        assert_eq!(self.end().await, [None; 2], "{what}");
    }

    /// How many documents each node has once all have met; none where the name is bound to nothing.
    async fn end(&self) -> [Option<usize>; 2] {
        let all_nodes = [0, 1].map(|at| (&self.nodes[at], &self.engines[at]));
        meet(&all_nodes, &self.bucket).await;
        let of = |engine: &Engine| engine.nsid_of(&name("docs")).map(|_| all(engine, "docs").len());
        let found = [of(&self.engines[0]), of(&self.engines[1])];
        if let Some(count) = found[0] {
            assert_eq!(fresh(9, &self.bucket, "docs").await.len(), count);
        }
        found
    }
}

const AHEAD_MS: [u64; 3] = [0, 5_000, 600_000];

#[tokio::test(flavor = "multi_thread")]
async fn who_only_followed_a_deletion_does_not_delete_what_came_back() {
    for ahead_ms in AHEAD_MS {
        let two = Two::apart(ahead_ms).await;
        two.delete(1).await;
        two.pass(1).await;
        two.undelete(1).await;
        for at in [0, 1, 0, 1] {
            two.pass(at).await;
        }
        assert_eq!(two.end().await, [Some(5); 2], "ahead by {ahead_ms} ms");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_holds_on_a_node_whose_clock_is_behind() {
    for ahead_ms in AHEAD_MS {
        // A second life, made by the node that is behind.
        let two = Two::apart(ahead_ms).await;
        two.delete(1).await;
        two.write(1, 10..13).await;
        two.pass(1).await;
        two.is_deleted_for_good(1, &format!("a second life, ahead by {ahead_ms} ms")).await;
        // One that the node that is behind brought back.
        let two = Two::apart(ahead_ms).await;
        two.delete(0).await;
        two.pass(0).await;
        two.pass(1).await;
        two.undelete(1).await;
        two.pass(1).await;
        two.pass(1).await;
        two.is_deleted_for_good(1, &format!("brought back, ahead by {ahead_ms} ms")).await;
        // A name that only the node that is ahead has used before.
        let two = Two::apart(ahead_ms).await;
        two.delete(0).await;
        two.pass(0).await;
        two.pass(1).await;
        two.write(1, 10..13).await;
        two.pass(1).await;
        two.is_deleted_for_good(1, &format!("used before, ahead by {ahead_ms} ms")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_of_what_came_back_is_not_undone_by_who_has_just_fetched_it() {
    for ahead_ms in AHEAD_MS {
        for (back, fetcher) in [(0, 1), (1, 0)] {
            let two = Two::apart(ahead_ms).await;
            two.delete(fetcher).await;
            two.pass(fetcher).await;
            two.pass(back).await;
            two.undelete(back).await;
            two.pass(back).await;
            two.pass(fetcher).await;
            two.pass(back).await;
            two.delete(back).await;
            two.pass(back).await;
            two.pass(fetcher).await;
            assert_eq!(two.end().await, [None; 2], "back on {back}, ahead by {ahead_ms} ms");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_back_elsewhere_is_not_deleted_by_who_uses_the_name_again() {
    for ahead_ms in AHEAD_MS {
        for is_written in [false, true] {
            let two = Two::apart(ahead_ms).await;
            two.delete(0).await;
            two.pass(0).await;
            two.pass(1).await;
            two.undelete(1).await;
            if is_written {
                two.write(1, 20..22).await;
            }
            two.pass(1).await;
            two.write(0, 100..102).await;
            two.pass(0).await;
            let back = if is_written { 7 } else { 5 };
            let what = format!("written {is_written}, ahead by {ahead_ms} ms");
            assert_eq!(two.end().await, [Some(back); 2], "{what}");
            // What was written without knowing of that is beside, everywhere.
            for engine in &two.engines {
                let beside: Vec<_> = engine.named().into_iter().filter(|(named, _)| *named != name("docs")).collect();
                assert_eq!(beside.len(), 1, "{what}: {beside:?}");
                assert_eq!(all(engine, &beside[0].0.name).len(), 2, "{what}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_kept_from_following_a_deletion_to_the_end_does_not_delete_what_came_back() {
    for ahead_ms in AHEAD_MS {
        let (mut after, mut is_through) = (0, false);
        while !is_through {
            let two = Two::apart(ahead_ms).await;
            two.delete(1).await;
            two.pass(1).await;
            let disk = &two.nodes[0].disk;
            disk.take_happened();
            let kind = MishapKind::Fails(ErrorKind::Other);
            disk.set_mishap(Some(Mishap { after, within: Some("/names/".to_owned()), kind }));
            let _ = sync(&two.nodes[0], &two.engines[0], &two.bucket).await;
            disk.set_mishap(None);
            is_through = disk.take_happened().is_empty();
            two.wait();
            two.undelete(1).await;
            two.pass(1).await;
            assert_eq!(two.end().await, [Some(5); 2], "operation {after}, ahead by {ahead_ms} ms");
            after += 1;
        }
        assert!(after > 3, "{after} operations");
    }
}
