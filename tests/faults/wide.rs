//! A write whose values take no bytes where they are counted, and much when they are read back: it is refused, or it is there after a
//! crash.

use std::collections::BTreeSet;

use serde_json::{Value as Json, json};
use shoal::api::wire::write::{WriteBody, parse_write};
use shoal::engine::Engine;
use shoal::error::Result;
use shoal::platform::random::SeededRandom;
use std::sync::Arc;

use crate::node::name;
use crate::run::Run;
use crate::steps::Draw;

/// Empty strings of all documents together: more than what a log once could be read back with.
const EMPTIES: u64 = 34_200_000;
/// So few that they are patched together: of more, a filter may not make so much at once.
const DOCUMENTS: u64 = 250;

async fn write(engine: &Arc<Engine>, body: Json) -> Result<u64> {
    let WriteBody::Write(request) = parse_write(body).unwrap() else { panic!("expected a write") };
    engine.write(&name("wide"), *request).await.map(|outcome| outcome.patched)
}

fn documents(engine: &Arc<Engine>) -> Result<BTreeSet<u64>> {
    let found = crate::node::documents(&*engine.view(&name("wide"))?)?;
    Ok(found.into_keys().collect())
}

/// Runs the history of a seed.
pub async fn history(seed: u64, says: bool) {
    let random = SeededRandom::new(seed ^ 0x31de);
    let draw = Draw(&random);
    let mut run = Run::new(seed, false, says);
    run.start(true).await;
    let what = format!("seed {seed}, wide");
    let engine = run.engine();
    let rows: Vec<Json> = (0..DOCUMENTS).map(|id| json!({"id": id, "n": 1, "text": "fish"})).collect();
    let schema = json!({
        "n": "int", "m": "int", "empties": "[]string", "text": {"type": "string", "full_text_search": true},
    });
    write(&engine, json!({"upsert_rows": rows, "schema": schema})).await.unwrap();
    if draw.pick(2) == 0 {
        engine.checkpoint(&name("wide")).await.unwrap();
    }
    let empties = vec![""; (EMPTIES / DOCUMENTS) as usize];
    let patched =
        write(&engine, json!({"patch_by_filter": {"filters": ["n", "Eq", 1], "patch": {"empties": empties}}})).await;
    run.say(|| format!("{patched:?}"));
    drop(engine);
    run.cut();
    run.start(true).await;
    let engine = run.engine();
    let found = documents(&engine).unwrap_or_else(|error| panic!("{what}: after a power cut: {error:?}"));
    assert_eq!(found.len() as u64, DOCUMENTS, "{what}");
    let after = write(&engine, json!({"upsert_rows": [{"id": DOCUMENTS, "n": 2, "text": "fish"}]})).await;
    assert!(after.is_ok(), "{what}: {after:?}");
}
