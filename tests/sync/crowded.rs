//! Conflicts that nobody resolves: their objects are joined, and where there is no more room the oldest go. Sync goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Cursor;
use std::sync::Arc;

use serde_json::json;
use shoal::engine::Engine;
use shoal::engine::merge::MergeRequest;
use shoal::engine::merge::decide::Policy;
use shoal::format::conflicts::{ConflictsFile, LOSERS_MAX, StoredId, decode_conflicts, encode_conflicts};
use shoal::format::manifest::CONFLICTS_MAX;
use shoal::format::snapshot::{Member, ObjectKind, SnapshotReader, conflicts_id};
use shoal::format::snapshot_writer::SnapshotWriter;
use shoal::snapshot::restore::restore;
use shoal::snapshot::take::{Extent, take};
use uuid::Uuid;

use crate::fleet::{bucket, fresh, lost, meet};
use crate::node::{Node, all, branch, name, put, write};

async fn merge(engine: &Arc<Engine>, source: &str, target: &str) -> u64 {
    let request = MergeRequest { policy: Policy::Ours, ..MergeRequest::default() };
    engine.merge(&name(source), &name(target), request).await.unwrap().conflicts
}

/// The namespace `docs` with so many objects of one unresolved conflict each, all of merges of `child`.
async fn crowd(engine: &Arc<Engine>, objects: usize) {
    put(engine, "main", [1, 2], 1).await;
    branch(engine, "main", "child").await;
    put(engine, "child", [1], 2).await;
    put(engine, "main", [1], 3).await;
    assert_eq!(merge(engine, "child", "main").await, 1);
    let mut whole = Vec::new();
    take(engine, &name("main"), &Extent::Full).await.unwrap().write(&mut whole).unwrap();
    let mut reader = SnapshotReader::open(&whole[..], "snapshot").unwrap();
    let (mut description, mut manifest) = (reader.description().clone(), reader.manifest().clone());
    let mut objects_by_id: BTreeMap<(ObjectKind, Uuid), Vec<u8>> = BTreeMap::new();
    while let Some(member) = reader.next_member() {
        let mut object = Vec::new();
        reader.copy_object(&mut object).unwrap();
        objects_by_id.insert((member.kind, member.id), object);
    }
    let (of_one, prefix) = (description.conflicts[0], manifest.conflicts[0].rsplit_once('/').unwrap().0.to_owned());
    let one = decode_conflicts(&objects_by_id[&(of_one.kind, of_one.id)], "one").unwrap();
    (description.conflicts, manifest.conflicts) = (Vec::new(), Vec::new());
    for n in 0..objects as u64 {
        let mut losers = one.losers.clone();
        (losers[0].token, losers[0].id) = (Uuid::from_u128(u128::from(n) + 1), StoredId::Uint(1_000 + n));
        let bytes = encode_conflicts(&ConflictsFile { losers, ..one.clone() }).unwrap();
        let (id, crc32c) = (conflicts_id(n), crc32c::crc32c(&bytes));
        description.conflicts.push(Member { kind: of_one.kind, id, bytes: bytes.len() as u64, crc32c });
        manifest.conflicts.push(format!("{prefix}/{n:016x}.json"));
        objects_by_id.insert((of_one.kind, id), bytes);
    }
    let mut crowded = Vec::new();
    let mut writer = SnapshotWriter::begin(&mut crowded, &description, &manifest).unwrap();
    while let Some(member) = writer.next_member() {
        let object = &objects_by_id[&(member.kind, member.id)];
        writer.object(|out| Ok(out.write_all(object)?)).unwrap();
    }
    writer.finish().unwrap();
    restore(engine, &name("docs"), None, Cursor::new(crowded)).await.unwrap();
}

async fn objects(engine: &Engine) -> usize {
    engine.moment_at(&name("docs"), None).await.unwrap().manifest.conflicts.len()
}

/// The values that lost of document 1.
fn lost_values(engine: &Engine) -> BTreeSet<u64> {
    let states = lost(engine, "docs").into_iter().filter(|state| state.id == shoal::model::ids::DocId::Uint(1));
    states.map(|state| state.fields.unwrap()["n"].as_u64().unwrap()).collect()
}

fn let_go(engine: &Engine) -> u64 {
    let of_namespace = engine.status(&name("docs")).unwrap()["conflicts_let_go"].as_u64().unwrap();
    assert_eq!(engine.node_status()["conflicts_let_go"], json!(of_namespace));
    of_namespace
}

#[tokio::test(flavor = "multi_thread")]
async fn sync_goes_on_where_conflicts_have_no_more_room() {
    let (nodes, bucket) = ([Node::new(1), Node::new(2)], bucket(3));
    let engines = [nodes[0].open(), nodes[1].open()];
    let both = [(&nodes[0], &engines[0]), (&nodes[1], &engines[1])];
    crowd(&engines[0], CONFLICTS_MAX).await;
    meet(&both, &bucket).await;
    for round in 0..4 {
        put(&engines[0], "docs", [1], 10 + round).await;
        nodes[1].clock.advance(1);
        put(&engines[1], "docs", [1], 20 + round).await;
        nodes[0].clock.advance(1);
        meet(&both, &bucket).await;
        assert_eq!(all(&engines[0], "docs"), all(&engines[1], "docs"));
    }
    for engine in &engines {
        assert_eq!(objects(engine).await, CONFLICTS_MAX);
        assert_eq!(lost_values(engine), (10..14).collect(), "the newest are kept");
        let oldest = lost(engine, "docs").into_iter().map(|state| state.token).min().unwrap();
        assert!(oldest >= Uuid::from_u128(2), "the oldest went");
    }
    // The first of them took the place of the oldest, and the others that of the one before, joined with it.
    assert_eq!(let_go(&engines[0]) + let_go(&engines[1]), 1);
    assert_eq!(fresh(4, &bucket, "docs").await, all(&engines[0], "docs"));
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_few_conflicts_are_joined_and_none_of_them_is_lost() {
    let node = Node::new(5);
    let engine = node.open();
    crowd(&engine, 600).await;
    put(&engine, "child", [1], 7).await;
    put(&engine, "docs", [1], 8).await;
    let before: Vec<Uuid> = lost(&engine, "docs").into_iter().map(|state| state.token).collect();
    assert_eq!(merge(&engine, "child", "docs").await, 1);
    assert_eq!(objects(&engine).await, 601 - LOSERS_MAX + 1);
    let after: Vec<Uuid> = lost(&engine, "docs").into_iter().map(|state| state.token).collect();
    assert_eq!((after.len(), &after[..600]), (601, &before[..]), "in their order");
    // The joined ones are found by their names, as ever.
    assert_eq!(engine.acknowledge(&name("docs"), Some(after[599])).await.unwrap(), 1);
    engine.replay(&name("docs"), after[600], None).await.unwrap();
    assert_eq!(engine.acknowledge(&name("docs"), None).await.unwrap(), 599);
    assert_eq!(let_go(&engine), 0);
    write(&engine, "docs", json!({"deletes": [1]})).await;
    engine.tend().await.unwrap();
    assert!(engine.check(3).unwrap().is_whole(), "{:?}", engine.check(3).unwrap());
}
