//! Everything that can be asked of a namespace, compared between a node, the same one after a power cut, and others that have it of a
//! snapshot or of a bucket.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::sync::Arc;
use std::time::Duration;

use object_store::memory::InMemory;
use serde_json::Value as Json;
use shoal::engine::Engine;
use shoal::engine::merge::LostState;
use shoal::engine::merge::decide::Policy;
use shoal::snapshot::restore::restore;
use shoal::snapshot::take::{Extent, take};
use shoal::store::{Backend, Bucket, Patience};
use shoal::sync::{Sync, SyncOptions};

use crate::node::{Documents, Node, documents, name};

const PATIENCE: Patience = Patience {
    whole: Duration::from_secs(60),
    attempt: Duration::from_secs(60),
    wait_first: Duration::from_millis(1),
    wait_max: Duration::from_millis(10),
};

/// What a node has of a namespace.
#[derive(Debug, PartialEq)]
struct Found {
    documents: Documents,
    labels: Json,
    /// As each tag has the documents.
    tags: BTreeMap<String, Documents>,
    lost: Vec<LostState>,
}

fn lost(engine: &Engine, of: &str) -> Vec<LostState> {
    let mut found = Vec::new();
    let each = |state: LostState| {
        found.push(state);
        Ok(())
    };
    engine.conflicts(&name(of), each).unwrap();
    found
}

fn found(engine: &Engine, of: &str) -> Found {
    let at = |tag: &str| {
        let as_of = shoal::model::as_of::AsOf::Tag(tag.to_owned());
        documents(&engine.view_at(&name(of), Some(&as_of)).unwrap())
    };
    let tags = engine.tags(&name(of)).unwrap();
    Found {
        documents: documents(&engine.view(&name(of)).unwrap()),
        labels: engine.status(&name(of)).unwrap()["labels"].clone(),
        tags: tags.iter().map(|tag| (tag.name.clone(), at(&tag.name))).collect(),
        lost: lost(engine, of),
    }
}

fn link(node: &Node, engine: &Arc<Engine>, store: &Arc<InMemory>) -> Sync {
    let backend = Backend::direct(store.clone(), None, "memory");
    let bucket = Bucket::over(backend, node.clock.clone(), node.random.clone());
    Sync::new(engine.clone(), bucket, SyncOptions { policy: Policy::Lww, patience: PATIENCE }, node.clock.clone())
}

/// Reads a namespace wherever it may go, and compares.
pub async fn everywhere(node: Node, engine: Arc<Engine>, of: &str) {
    let here = found(&engine, of);
    assert!(!here.documents.is_empty());
    let engine = node.cut_power(engine);
    assert_eq!(found(&engine, of), here, "after a power cut");

    let mut bytes = Vec::new();
    take(&engine, &name(of), &Extent::Full).await.unwrap().write(&mut bytes).unwrap();
    let other = Node::new(7_001);
    let elsewhere = other.open();
    restore(&elsewhere, &name(of), None, Cursor::new(bytes)).await.unwrap();
    let restored = found(&elsewhere, of);
    assert_eq!((&restored.documents, &restored.labels), (&here.documents, &here.labels), "of a snapshot");
    assert_eq!(restored.lost.len(), here.lost.len(), "of a snapshot");
    let fields = |found: &Found| found.lost.iter().map(|lost| lost.fields.clone()).collect::<Vec<_>>();
    assert_eq!(fields(&restored), fields(&here), "of a snapshot");

    let store = Arc::new(InMemory::new());
    link(&node, &engine, &store).run().await.unwrap();
    let fresh = Node::new(7_002);
    let follower = fresh.open();
    link(&fresh, &follower, &store).run().await.unwrap();
    assert_eq!(found(&follower, of), here, "of the bucket");
    let follower = fresh.cut_power(follower);
    assert_eq!(found(&follower, of), here, "of the bucket, after a power cut");

    let engine = node.cut_power(engine);
    engine.compact(&name(of)).await.unwrap();
    let engine = node.cut_power(engine);
    assert_eq!(found(&engine, of), here, "after segments were merged");
    let report = tokio::task::block_in_place(|| engine.check(3)).unwrap();
    assert!(report.is_whole(), "{:?}", report.problems);
}
