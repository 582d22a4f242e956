//! Rows that a node has in the bucket only, while the bucket does not answer: who wants them waits, and nobody else does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use object_store::ObjectStore;
use object_store::memory::InMemory;
use serde_json::{Value as Json, json};
use shoal::platform::random::{Random, SeededRandom};
use shoal::store::{Backend, Bucket};

use crate::faulty_store::{Fault, FaultyStore};
use crate::fleet::sync;
use crate::node::{Node, all, name, try_write, write};

const ROWS: u64 = 400;

/// Text that no compression makes small.
fn text(seed: u64) -> String {
    let random = SeededRandom::new(seed);
    (0..400).map(|_| format!("{:016x}", random.next_u64())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_write_that_wants_a_row_from_a_silent_bucket_holds_up_no_other_write() {
    let store = Arc::new(InMemory::new());
    let is_silent = Arc::new(AtomicBool::new(false));
    let says = is_silent.clone();
    let wire = Arc::new(FaultyStore::new(store, move |_| says.load(Ordering::SeqCst).then_some(Fault::Silence)));
    let (writer, mut node) = (Node::new(1), Node::new(2));
    let backend: Arc<dyn ObjectStore> = wire.clone();
    let bucket = Bucket::over(Backend::direct(backend, None, "faulty"), writer.clock.clone(), writer.random.clone());
    let whole = writer.open();
    let rows: Vec<Json> = (0..ROWS).map(|id| json!({"id": id, "n": 1, "text": text(id)})).collect();
    let schema = json!({"text": {"type": "string", "filterable": false}});
    write(&whole, "docs", json!({"upsert_rows": rows, "schema": schema})).await;
    whole.compact(&name("docs")).await.unwrap();
    sync(&writer, &whole, &bucket).await.unwrap();
    node.config.tier_bytes_max = 64 << 20;
    let engine = node.open();
    sync(&node, &engine, &bucket).await.unwrap();
    write(&engine, "docs", json!({"upsert_rows": [{"id": 1_000, "n": 1}]})).await;
    let before = engine.held_in_parts().bytes_brought;
    assert!(before < ROWS * 1_000, "{before} bytes were brought beforehand");

    is_silent.store(true, Ordering::SeqCst);
    let steps = wire.steps();
    let wanted =
        [json!({"patch_rows": [{"id": 17, "n": 2}]}), json!({"deletes": [200], "delete_condition": ["n", "Eq", 1]})];
    let waiting = wanted.map(|body| {
        let engine = engine.clone();
        tokio::spawn(async move { try_write(&engine, &name("docs"), body).await })
    });
    while wire.steps() == steps {
        tokio::task::yield_now().await;
    }
    for id in 2_000..2_010 {
        try_write(&engine, &name("docs"), json!({"upsert_rows": [{"id": id, "n": 1}]})).await.unwrap();
        try_write(&engine, &name("docs"), json!({"patch_rows": [{"id": id, "n": 2}]})).await.unwrap();
    }
    assert!(waiting.iter().all(|waiting| !waiting.is_finished()), "the others waited for these");
    is_silent.store(false, Ordering::SeqCst);
    for waiting in waiting {
        // What the bucket says in the end, in time or not.
        let _ = waiting.await.unwrap();
    }
    try_write(&engine, &name("docs"), json!({"patch_rows": [{"id": 17, "n": 2}]})).await.unwrap();
    try_write(&engine, &name("docs"), json!({"deletes": [200], "delete_condition": ["n", "Eq", 1]})).await.unwrap();
    sync(&node, &engine, &bucket).await.unwrap();
    sync(&writer, &whole, &bucket).await.unwrap();
    let found = all(&whole, "docs");
    assert_eq!(found.len() as u64, ROWS + 10);
    assert_eq!(found, all(&engine, "docs"));
    assert!(found.iter().any(|(id, fields)| id.to_string() == "17" && fields["n"] == json!(2)));
}
