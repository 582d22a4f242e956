//! What merges did not take is kept until a user has seen it: listed, written again, let go of.

use serde_json::json;
use shoal::engine::Engine;
use shoal::engine::merge::LostState;
use shoal::engine::merge::decide::Policy;
use shoal::error::Kind;
use shoal::model::ids::DocId;
use uuid::Uuid;

use crate::node::{Node, all, branch, name, put, write};
use crate::policies::merge;

fn lost(engine: &Engine, namespace: &str) -> Vec<LostState> {
    let mut found = Vec::new();
    engine
        .conflicts(&name(namespace), |state| {
            found.push(state);
            Ok(())
        })
        .unwrap();
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn losers_are_listed_until_they_are_acknowledged_or_written_again() {
    let node = Node::new(1);
    let engine = node.open();
    put(&engine, "main", 0..10, 1).await;
    branch(&engine, "main", "child").await;
    put(&engine, "child", 0..4, 2).await;
    node.clock.advance(1);
    put(&engine, "main", 0..3, 3).await;
    write(&engine, "main", json!({"deletes": [3]})).await;
    let report = merge(&engine, "child", "main", Policy::Theirs).await.unwrap();
    assert_eq!(report.conflicts, 4);
    let engine = node.cut_power(engine);
    let states = lost(&engine, "main");
    let tokens: Vec<Option<Uuid>> = states.iter().map(|state| Some(state.token)).collect();
    assert_eq!(tokens, report.listed.iter().map(|conflict| conflict.token).collect::<Vec<_>>());
    assert!(states.iter().all(|state| state.was_ours && state.policy == "theirs"));
    assert_eq!(states[0].fields.as_ref().unwrap()["n"], json!(3));
    assert_eq!(states[3].fields, None);
    let row = |id: u64| all(&engine, "main").remove(&DocId::Uint(id));
    assert_eq!(row(0).unwrap()["n"], json!(2));
    // As the newest state, beside it, and a deletion.
    engine.replay(&name("main"), states[0].token, None).await.unwrap();
    assert_eq!(row(0).unwrap()["n"], json!(3));
    engine.replay(&name("main"), states[1].token, Some(json!(100))).await.unwrap();
    assert_eq!((row(1).unwrap()["n"].clone(), row(100).unwrap()["n"].clone()), (json!(2), json!(3)));
    assert!(engine.replay(&name("main"), states[3].token, Some(json!(101))).await.is_err());
    engine.replay(&name("main"), states[3].token, None).await.unwrap();
    assert_eq!(row(3), None);
    let engine = node.cut_power(engine);
    assert_eq!(lost(&engine, "main").iter().map(|state| state.token).collect::<Vec<_>>(), [states[2].token]);
    assert_eq!(engine.acknowledge(&name("main"), Some(states[2].token)).await.unwrap(), 1);
    let again = engine.acknowledge(&name("main"), Some(states[2].token)).await.unwrap_err();
    assert_eq!(again.kind(), Kind::NotFound);
    assert_eq!(lost(&engine, "main"), []);
    assert!(engine.check(3).unwrap().is_whole(), "{:?}", engine.check(3).unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_losers_share_objects_and_go_together() {
    let node = Node::new(2);
    let engine = node.open();
    put(&engine, "main", 0..700, 1).await;
    branch(&engine, "main", "child").await;
    put(&engine, "child", 0..700, 2).await;
    put(&engine, "main", 0..700, 3).await;
    merge(&engine, "child", "main", Policy::Ours).await.unwrap();
    assert_eq!(lost(&engine, "main").len(), 700);
    engine.compact(&name("main")).await.unwrap();
    assert_eq!(engine.acknowledge(&name("main"), Some(lost(&engine, "main")[300].token)).await.unwrap(), 1);
    assert_eq!(engine.acknowledge(&name("main"), None).await.unwrap(), 699);
    assert_eq!(engine.acknowledge(&name("main"), None).await.unwrap(), 0);
    assert!(engine.check(3).unwrap().is_whole(), "{:?}", engine.check(3).unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_base_holds_what_it_names_and_goes_with_its_source() {
    let mut node = Node::new(3);
    node.config.retention_ms = 0;
    let engine = node.open();
    put(&engine, "main", 0..10, 1).await;
    for round in 0..4 {
        let child = format!("child{round}");
        branch(&engine, "main", &child).await;
        put(&engine, &child, [round, round + 20], 2 + round).await;
        merge(&engine, &child, "main", Policy::Fail).await.unwrap();
        engine.compact(&name(&child)).await.unwrap();
        put(&engine, &child, [round], 90).await;
        put(&engine, "main", [round], 80).await;
        let report = merge(&engine, &child, "main", Policy::Fail).await.unwrap();
        assert_eq!(report.listed[0].base.as_ref().unwrap()["n"], json!(2 + round), "the state at the last merge");
        assert!(engine.check(3).unwrap().is_whole(), "{:?}", engine.check(3).unwrap());
        engine.delete(&name(&child)).await.unwrap();
        engine.tend().await.unwrap();
    }
    let engine = node.cut_power(engine);
    assert!(engine.check(3).unwrap().is_whole(), "{:?}", engine.check(3).unwrap());
}
