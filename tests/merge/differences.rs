//! What differs between two namespaces, against a plain comparison of all their documents.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value as Json, json};
use shoal::engine::Engine;
use shoal::model::ids::DocId;
use shoal::model::value_render::document_json;
use shoal::platform::random::Random;

use crate::node::{DAY_MS, Node, all, branch, name, put, write};

/// Every difference: id, kind, the old and the new row.
pub async fn differences(engine: &Engine, from: &str, to: &str) -> Vec<(DocId, &'static str, Json, Json)> {
    let diff = engine.diff((&name(from), None), (&name(to), None)).await.unwrap();
    let mut found = Vec::new();
    diff.for_each(|entry| {
        let old = entry.old.map_or(Json::Null, |document| document_json(&document, &diff.from.view.schema));
        let new = entry.new.map_or(Json::Null, |document| document_json(&document, &diff.to.view.schema));
        found.push((entry.id, entry.change.name(), old, new));
        Ok(())
    })
    .unwrap();
    found
}

/// The same by looking at everything.
fn expected(engine: &Engine, from: &str, to: &str) -> Vec<(DocId, &'static str, Json, Json)> {
    let row = |id: &DocId, fields: &BTreeMap<String, Json>| {
        let DocId::Uint(id) = id else { panic!("expected an integer") };
        let mut row = json!({"id": id});
        for (name, value) in fields {
            row[name] = value.clone();
        }
        row
    };
    let (old, new) = (all(engine, from), all(engine, to));
    let mut ids: Vec<&DocId> = old.keys().chain(new.keys()).collect();
    ids.sort();
    ids.dedup();
    let mut found = Vec::new();
    for id in ids {
        let (before, after) = (old.get(id), new.get(id));
        if before == after {
            continue;
        }
        let kind = match (before, after) {
            (None, _) => "insert",
            (_, None) => "delete",
            _ => "update",
        };
        let json = |fields: Option<&BTreeMap<String, Json>>| fields.map_or(Json::Null, |fields| row(id, fields));
        found.push((id.clone(), kind, json(before), json(after)));
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_diff_shows_the_old_and_the_new_row_of_what_differs_and_nothing_else() {
    let node = Node::new(1);
    let engine = node.open();
    put(&engine, "main", 0..50, 1).await;
    branch(&engine, "main", "child").await;
    assert_eq!(differences(&engine, "main", "child").await, []);
    put(&engine, "child", [3, 100], 2).await;
    write(&engine, "child", json!({"deletes": [4]})).await;
    // Written again with the same values: another version, no difference.
    put(&engine, "child", [5], 1).await;
    let row = |id: u64, n: u64| json!({"id": id, "n": n, "text": format!("fish {id}")});
    let found = differences(&engine, "main", "child").await;
    let wanted = [
        (DocId::Uint(3), "update", row(3, 1), row(3, 2)),
        (DocId::Uint(4), "delete", row(4, 1), Json::Null),
        (DocId::Uint(100), "insert", Json::Null, row(100, 2)),
    ];
    assert_eq!(found, wanted);
    let back = differences(&engine, "child", "main").await;
    assert_eq!(back.iter().map(|entry| entry.1).collect::<Vec<_>>(), ["update", "insert", "delete"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn namespaces_without_a_common_origin_are_compared_by_content() {
    let engine = Node::new(2).open();
    put(&engine, "a", 0..20, 1).await;
    put(&engine, "b", 10..30, 1).await;
    put(&engine, "b", [12], 2).await;
    engine.compact(&name("a")).await.unwrap();
    assert_eq!(differences(&engine, "a", "b").await, expected(&engine, "a", "b"));
}

/// One random change, flush or merge of one of the namespaces.
async fn change(engine: &Arc<Engine>, node: &Node, names: &[String]) {
    let pick = |n: u64| node.random.next_u64() % n;
    let at = &names[pick(names.len() as u64) as usize];
    match pick(12) {
        0..5 => {
            put(engine, at, (0..1 + pick(6)).map(|_| pick(60)).collect::<std::collections::BTreeSet<_>>(), pick(4))
                .await
        }
        5 => write(engine, at, json!({"patch_rows": [{"id": pick(60), "n": 7 + pick(3)}]})).await,
        6..8 => write(engine, at, json!({"deletes": [pick(60)]})).await,
        8 | 9 => engine.checkpoint(&name(at)).await.unwrap(),
        10 => engine.compact(&name(at)).await.unwrap(),
        _ => node.clock.advance(pick(2) * 20 * DAY_MS),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_diff_of_relatives_finds_what_a_whole_comparison_finds() {
    for seed in 1..=12 {
        let node = Node::new(seed);
        let mut engine = node.open();
        let mut names = vec!["main".to_owned()];
        put(&engine, "main", 0..30, 1).await;
        for step in 0..70 {
            let pick = node.random.next_u64();
            if pick.is_multiple_of(9) && names.len() < 5 {
                let from = names[(pick >> 32) as usize % names.len()].clone();
                let to = format!("b{step}");
                // Nobody keeps tombstones for copies.
                if pick.is_multiple_of(2) {
                    branch(&engine, &from, &to).await;
                } else {
                    engine.copy(&name(&from), &name(&to)).await.unwrap();
                }
                names.push(to);
            } else if pick % 23 == 1 {
                engine = node.cut_power(engine);
            } else {
                change(&engine, &node, &names).await;
            }
            let (from, to) = (&names[0], &names[names.len() - 1]);
            assert_eq!(differences(&engine, from, to).await, expected(&engine, from, to), "seed {seed}, step {step}");
        }
        for from in &names {
            for to in &names {
                assert_eq!(differences(&engine, from, to).await, expected(&engine, from, to), "seed {seed}");
            }
        }
    }
}
