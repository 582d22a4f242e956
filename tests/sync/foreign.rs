//! What a node wrote into the bucket that is out of its mind, or what the bucket damaged, costs no other project anything.

use std::sync::Arc;

use serde_json::json;
use shoal::engine::Engine;
use shoal::error::Kind;
use shoal::format::manifest::{Manifest, Parent, decode_manifest, encode_manifest};
use shoal::format::names::{decode_binding, encode_binding};
use shoal::model::ids::{CommitId, NamespaceName, Nsid};
use shoal::store::{Bucket, Patience};

use crate::clones_of_projects::elsewhere;
use crate::fleet::{bucket, sync};
use crate::node::{Documents, Node, all, documents, name, put, try_write};
use crate::upkeep::reclaim;

const P: &Patience = &Patience::ASKED;

fn theirs() -> NamespaceName {
    elsewhere("theirs")
}

async fn put_theirs(engine: &Arc<Engine>, n: u64) {
    let rows: Vec<_> = (0..50).map(|id| json!({"id": id, "n": n})).collect();
    try_write(engine, &theirs(), json!({"upsert_rows": rows})).await.unwrap();
}

fn all_theirs(engine: &Engine) -> Documents {
    documents(&engine.view(&theirs()).unwrap())
}

fn nsid_of(engine: &Engine, of: &NamespaceName) -> Nsid {
    engine.named().into_iter().find(|(name, _)| name == of).unwrap().1
}

/// The newest key below a place of the bucket.
async fn last_below(bucket: &Bucket, below: &str) -> String {
    bucket.list_all(below, None, 1_000, P).await.unwrap().pop().unwrap().key
}

async fn newest(bucket: &Bucket, below: &str) -> (Manifest, u32) {
    let key = last_below(bucket, &format!("{below}/manifests")).await;
    decode_manifest(&bucket.get(&key, P).await.unwrap().unwrap(), &key).unwrap()
}

/// A bucket with a namespace of each of two projects, and the node that wrote them.
async fn two_projects(seed: u64) -> (Bucket, Node, Arc<Engine>) {
    let (bucket, node) = (bucket(seed), Node::new(1));
    let engine = node.open();
    put(&engine, "docs", 0..10, 1).await;
    put_theirs(&engine, 1).await;
    sync(&node, &engine, &bucket).await.unwrap();
    (bucket, node, engine)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_names_objects_of_another_project_is_refused_and_nothing_of_these_is_touched() {
    let (bucket, node, engine) = two_projects(1).await;
    let ours = format!("default/default/namespaces/{}", nsid_of(&engine, &name("docs")));
    let (state, crc32c) = newest(&bucket, &ours).await;
    let (other, _) = newest(&bucket, &format!("acme/other/namespaces/{}", nsid_of(&engine, &theirs()))).await;
    let mut segments = other.segments.clone();
    segments[0].bytes -= 1;
    let wrong = Manifest {
        generation: state.generation + 1,
        parent: Some(Parent { commit_id: state.commit_id, crc32c }),
        commit_id: CommitId(uuid::Uuid::from_u128(5)),
        segments,
        version_vector: other.version_vector.clone(),
        ..state
    };
    let key = format!("{ours}/manifests/{:020}.json", wrong.generation);
    bucket.put(&key, encode_manifest(&wrong).unwrap().0.into(), P).await.unwrap();
    let before = all_theirs(&engine);
    let fresh = Node::new(2);
    for (node, engine) in [(&node, engine.clone()), (&fresh, fresh.open())] {
        let error = sync(node, &engine, &bucket).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{error}");
        assert!(error.to_string().contains(&key) && error.to_string().contains("acme/other"), "{error}");
        assert_eq!(all_theirs(&engine), before);
        assert!(engine.check(4).unwrap().is_whole());
    }
    assert_eq!(all(&engine, "docs").len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_bound_to_an_incarnation_of_another_project_is_refused_and_that_one_stays_as_it_is() {
    for is_deleted in [false, true] {
        let (bucket, node, engine) = two_projects(2).await;
        let other = Node::new(2);
        let wrong = other.open();
        put(&wrong, "evil", 0..7, 9).await;
        sync(&other, &wrong, &bucket).await.unwrap();
        let (own, nsid) = (nsid_of(&wrong, &name("evil")), nsid_of(&engine, &theirs()));
        let (mut state, _) = newest(&bucket, &format!("default/default/namespaces/{own}")).await;
        (state.nsid, state.generation, state.parent) = (nsid, 0, None);
        let key = format!("default/default/namespaces/{nsid}/manifests/{:020}.json", 0);
        bucket.put(&key, encode_manifest(&state).unwrap().0.into(), P).await.unwrap();
        let key = last_below(&bucket, "default/default/names/evil").await;
        let mut bound = decode_binding(&bucket.get(&key, P).await.unwrap().unwrap(), &key).unwrap();
        bound.target = Some(nsid);
        bucket.put(&key, encode_binding(&bound).unwrap().into(), P).await.unwrap();
        // This node has the name as well, or none of it.
        let before = all_theirs(&engine);
        match is_deleted {
            true => engine.delete(&theirs()).await.unwrap(),
            false => put(&engine, "evil", 0..5, 3).await,
        }
        let error = sync(&node, &engine, &bucket).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Conflict, "{error}");
        assert!(error.to_string().contains("evil") && error.to_string().contains(&nsid.to_string()), "{error}");
        match is_deleted {
            true => engine.undelete(&theirs(), None).await.map(|_| ()).unwrap(),
            false => assert_eq!(all(&engine, "evil").len(), 5),
        }
        assert_eq!(all_theirs(&engine), before);
        let engine = node.cut_power(engine);
        assert_eq!(all_theirs(&engine), before);
        assert!(engine.check(4).unwrap().is_whole());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_in_the_bucket_that_is_damaged_keeps_what_other_projects_replaced_from_nothing() {
    let (bucket, node, engine) = two_projects(3).await;
    for n in 2..6 {
        put_theirs(&engine, n).await;
        engine.compact(&theirs()).await.unwrap();
        sync(&node, &engine, &bucket).await.unwrap();
    }
    // One that nobody ever gave a name cannot be read, either.
    let nameless = format!("default/default/namespaces/{}/manifests/{:020}.json", uuid::Uuid::from_u128(7), 0);
    bucket.put(&nameless, "nonsense".into(), P).await.unwrap();
    let run = reclaim(&node, &engine, &bucket, 0).await;
    assert!(run.failed.as_ref().is_some_and(|error| error.to_string().contains(&nameless)), "{:?}", run.failed);
    let reclaimed = run.namespaces.values().flatten().map(|done| done.objects).sum::<u64>();
    assert!(reclaimed > 0, "nothing is reclaimed");
    bucket.delete(&nameless, P).await.unwrap();
    for n in 6..9 {
        put_theirs(&engine, n).await;
        engine.compact(&theirs()).await.unwrap();
        sync(&node, &engine, &bucket).await.unwrap();
    }
    let key = last_below(&bucket, "default/default/names/docs").await;
    let sound = bucket.get(&key, P).await.unwrap().unwrap();
    let mut flipped = sound.to_vec();
    flipped[sound.len() / 2] ^= 1;
    bucket.put(&key, flipped.into(), P).await.unwrap();
    let run = reclaim(&node, &engine, &bucket, 0).await;
    let error = run.failed.as_ref().unwrap();
    assert!(error.kind() == Kind::Corrupt && error.to_string().contains(&key), "{error}");
    let reclaimed = run.namespaces.values().flatten().map(|done| done.objects).sum::<u64>();
    assert!(reclaimed > 0, "nothing is reclaimed");
    bucket.put(&key, sound, P).await.unwrap();
    let run = reclaim(&node, &engine, &bucket, 0).await;
    assert!(run.failed.is_none(), "{:?}", run.failed);
}
