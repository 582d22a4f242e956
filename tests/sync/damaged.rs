//! Objects in the bucket that somebody changed, swapped or removed: a node says which and what is wrong with it, overwrites nothing,
//! goes on with other namespaces, and takes everything in once the object is put back.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::json;
use shoal::error::Kind;
use shoal::store::{Bucket, Patience};

use crate::fleet::{bucket, meet, sync};
use crate::node::{Node, all, put, write};

const PATIENCE: Patience = Patience::ASKED;

async fn contents(bucket: &Bucket) -> BTreeMap<String, Bytes> {
    let mut found = BTreeMap::new();
    for listed in bucket.list_all("", None, 10_000, &PATIENCE).await.unwrap() {
        let bytes = bucket.get(&listed.key, &PATIENCE).await.unwrap().unwrap();
        found.insert(listed.key, bytes);
    }
    found
}

/// A bucket with every kind of object in it: segments, deletions, conflicts, manifests, names.
async fn filled() -> Bucket {
    let (bucket, nodes) = (bucket(1), [Node::new(1), Node::new(2)]);
    let engines = [nodes[0].open(), nodes[1].open()];
    let both = [(&nodes[0], &engines[0]), (&nodes[1], &engines[1])];
    put(&engines[0], "docs", 0..20, 1).await;
    put(&engines[0], "other", 0..5, 1).await;
    meet(&both, &bucket).await;
    write(&engines[0], "docs", json!({"deletes": [3]})).await;
    put(&engines[0], "docs", [5], 2).await;
    put(&engines[1], "docs", [5], 3).await;
    meet(&both, &bucket).await;
    bucket
}

/// The newest object of a kind below the namespace of these bytes.
fn newest<'a>(objects: &'a BTreeMap<String, Bytes>, nsid: &str, part: &str) -> &'a String {
    objects.keys().filter(|key| key.contains(nsid) && key.contains(part)).max().unwrap()
}

/// What became of a fresh node's pass while `key` holds `bytes`, or nothing.
async fn refused(bucket: &Bucket, key: &str, bytes: Option<Bytes>) -> (Kind, String) {
    let sound = bucket.get(key, &PATIENCE).await.unwrap().unwrap();
    match &bytes {
        Some(bytes) => bucket.put(key, bytes.clone(), &PATIENCE).await.unwrap(),
        None => bucket.delete(key, &PATIENCE).await.unwrap(),
    }
    let before = contents(bucket).await;
    let node = Node::new(9);
    let engine = node.open();
    let error = sync(&node, &engine, bucket).await.unwrap_err();
    assert_eq!(contents(bucket).await, before, "{key}: something was overwritten");
    assert_eq!(all(&engine, "other").len(), 5, "{key}: other namespaces go on");
    assert!(engine.check(3).unwrap().is_whole());
    bucket.put(key, sound, &PATIENCE).await.unwrap();
    sync(&node, &engine, bucket).await.unwrap();
    assert_eq!(all(&engine, "docs").len(), 19, "{key}: put back, and not taken in");
    (error.kind(), format!("{error} {}", error.hint().unwrap_or_default()))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_damaged_swapped_or_gone_is_named_and_nothing_is_overwritten() {
    let bucket = filled().await;
    let objects = contents(&bucket).await;
    let nsid = |name: &str| {
        let bytes = &objects[&format!("default/default/names/{name}/00000000000000000000.json")];
        let found: serde_json::Value = serde_json::from_slice(bytes).unwrap();
        found["body"]["target"].as_str().unwrap().to_owned()
    };
    let (docs, other) = (nsid("docs"), nsid("other"));
    for part in ["/segments/", "/deletions/", "/conflicts/", "/manifests/"] {
        let key = newest(&objects, &docs, part);
        let sound = &objects[key];
        let half = sound.slice(..sound.len() / 2);
        let mut flipped = sound.to_vec();
        flipped[sound.len() / 2] ^= 1;
        let beside = [other.as_str(), docs.as_str()].into_iter().find_map(|nsid| {
            objects
                .iter()
                .find(|(at, _)| at.contains(nsid) && at.contains(part) && *at != key)
                .map(|(_, bytes)| bytes)
        });
        let mut cases =
            vec![("truncated", Some(half)), ("flipped", Some(flipped.into())), ("emptied", Some(Bytes::new()))];
        cases.extend(beside.map(|bytes| ("swapped", Some(bytes.clone()))));
        if part != "/manifests/" {
            // A chain whose newest manifest is gone is an older one, and whole.
            cases.push(("gone", None));
        }
        for (what, bytes) in cases {
            let (kind, told) = refused(&bucket, key, bytes).await;
            // A newer state may not need it any more.
            let expected = if what == "gone" { Kind::Unavailable } else { Kind::Corrupt };
            assert_eq!(kind, expected, "{what} {key}: {told}");
            assert!(told.contains(key.as_str()), "{what} {key}: {told}");
            assert!(told.contains("default/default/docs"), "{what} {key}: {told}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_of_a_newer_format_is_refused_as_such() {
    let bucket = filled().await;
    let objects = contents(&bucket).await;
    let key = objects.keys().filter(|key| key.contains("/manifests/")).max().unwrap();
    let text = String::from_utf8(objects[key].to_vec()).unwrap();
    let body = text.split_once("\"body\":").unwrap().1.trim_end().strip_suffix('}').unwrap();
    let newer = body.replacen("\"format\":", "\"format\":99", 1);
    let newer = format!("{{\"crc32c\":\"{:08x}\",\"body\":{newer}}}\n", crc32c::crc32c(newer.as_bytes()));
    let node = Node::new(9);
    let engine = node.open();
    bucket.put(key, newer.into(), &PATIENCE).await.unwrap();
    let before = contents(&bucket).await;
    let error = sync(&node, &engine, &bucket).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported, "{error}");
    assert!(error.to_string().contains(key.as_str()), "{error}");
    assert_eq!(contents(&bucket).await, before);
}
