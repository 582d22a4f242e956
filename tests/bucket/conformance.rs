//! What a store must do to be a bucket: one function, run against each.

use std::sync::Arc;

use bytes::Bytes;
use shoal::error::Kind;
use shoal::store::{
    Backend, Bucket, Created, Ledger, Outcome, PART_BYTES, Patience, Request, claim_identity, commit, newest, probe,
    read_hint, read_identity, write_hint,
};
use uuid::Uuid;

use crate::{Remembered, directory, open, over};

const PATIENCE: Patience = Patience::ASKED.within(std::time::Duration::from_secs(60));

/// Everything, on an empty bucket.
pub(crate) async fn conforms(bucket: &Bucket, contenders: u64) {
    probe(bucket, &PATIENCE).await.unwrap();
    assert_eq!(keys(bucket, "").await, Vec::<String>::new(), "the probe leaves nothing behind");
    objects(bucket).await;
    listings(bucket).await;
    uploads(bucket).await;
    uploads_that_break_off(bucket).await;
    identity(bucket).await;
    commits(bucket).await;
    races(bucket, contenders).await;
}

async fn keys(bucket: &Bucket, prefix: &str) -> Vec<String> {
    bucket.list_all(prefix, None, 100_000, &PATIENCE).await.unwrap().into_iter().map(|listed| listed.key).collect()
}

async fn objects(bucket: &Bucket) {
    let p = &PATIENCE;
    assert_eq!(bucket.get("o/a", p).await.unwrap(), None);
    assert_eq!(bucket.size("o/a", p).await.unwrap(), None);
    assert_eq!(bucket.get_range("o/a", 0..1, p).await.unwrap(), None);
    bucket.delete("o/a", p).await.unwrap();

    let bytes = Bytes::from_static(b"0123456789");
    bucket.put("o/a", bytes.clone(), p).await.unwrap();
    bucket.put("o/a", bytes.clone(), p).await.unwrap();
    assert_eq!(bucket.get("o/a", p).await.unwrap(), Some(bytes.clone()));
    assert_eq!(bucket.size("o/a", p).await.unwrap(), Some(10));
    assert_eq!(bucket.get_range("o/a", 2..5, p).await.unwrap(), Some(bytes.slice(2..5)));
    assert_eq!(bucket.get_range("o/a", 0..10, p).await.unwrap(), Some(bytes.clone()));
    for beyond in [9..11, 10..11, 50..60] {
        let error = bucket.get_range("o/a", beyond.clone(), p).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{beyond:?}: {error}");
    }
    #[expect(clippy::reversed_empty_ranges, reason = "such a range is what is refused")]
    for none in [3..3, 5..3] {
        assert_eq!(bucket.get_range("o/a", none, p).await.unwrap_err().kind(), Kind::Invalid);
    }
    bucket.put("o/empty", Bytes::new(), p).await.unwrap();
    assert_eq!(bucket.get("o/empty", p).await.unwrap(), Some(Bytes::new()));
    assert_eq!(bucket.size("o/empty", p).await.unwrap(), Some(0));

    assert!(matches!(bucket.create("o/a", Bytes::from_static(b"x"), p).await.unwrap(), Created::Exists));
    assert_eq!(bucket.get("o/a", p).await.unwrap(), Some(bytes));
    assert!(matches!(bucket.create("o/b", Bytes::from_static(b"x"), p).await.unwrap(), Created::Done));
    bucket.put("o/b", Bytes::from_static(b"yy"), p).await.unwrap();
    assert_eq!(bucket.get("o/b", p).await.unwrap(), Some(Bytes::from_static(b"yy")));

    bucket.delete("o/b", p).await.unwrap();
    bucket.delete("o/b", p).await.unwrap();
    assert_eq!(bucket.get("o/b", p).await.unwrap(), None);
    assert_eq!(bucket.get("../o/a", p).await.unwrap_err().kind(), Kind::Invalid);
}

async fn listings(bucket: &Bucket) {
    // Among them those whose order differs between bytes and a walk of directories.
    let mut expected: Vec<String> = ["a/x", "a-b/x", "a.b/x", "a0", "a-c", "aA/y", "a/x-/z", "a_/b", "a=/b", "a/x0"]
        .iter()
        .map(|key| format!("l/{key}"))
        .collect();
    for key in &expected {
        bucket.put(key, Bytes::from(key.clone()), &PATIENCE).await.unwrap();
    }
    bucket.put("lx/a", Bytes::new(), &PATIENCE).await.unwrap();
    expected.sort();
    assert_eq!(keys(bucket, "l").await, expected);
    for size in [1, 3, 9, 10, 11] {
        let mut all = Vec::new();
        loop {
            let after = all.last().cloned();
            let page = bucket.list("l", after.as_deref(), size, &PATIENCE).await.unwrap();
            assert!(page.objects.len() <= size && (page.more || all.len() + page.objects.len() == expected.len()));
            assert!(page.objects.iter().all(|listed| listed.bytes == listed.key.len() as u64));
            all.extend(page.objects.into_iter().map(|listed| listed.key));
            if !page.more {
                break;
            }
        }
        assert_eq!(all, expected, "in pages of {size}");
    }
    assert_eq!(keys(bucket, "l/a").await, ["l/a/x", "l/a/x-/z", "l/a/x0"], "a prefix is whole parts of a key");
    assert_eq!(keys(bucket, "nothing").await, Vec::<String>::new());
    let behind = bucket.list("l", Some("l/a.b"), 2, &PATIENCE).await.unwrap();
    assert_eq!(behind.objects.iter().map(|listed| listed.key.as_str()).collect::<Vec<_>>(), ["l/a.b/x", "l/a/x"]);
}

async fn uploads(bucket: &Bucket) {
    for size in [0, 1, PART_BYTES, PART_BYTES + 1, 2 * PART_BYTES + 12_345] {
        let bytes: Vec<u8> = (0..size).map(|at| (at % 251) as u8 ^ (at >> 13) as u8).collect();
        let (bytes, key) = (Bytes::from(bytes), format!("u/{size}"));
        bucket.upload(&key, Arc::new(bytes.clone()), None, &PATIENCE).await.unwrap();
        assert_eq!(bucket.get(&key, &PATIENCE).await.unwrap().map(|got| got == bytes), Some(true), "{size} bytes");
    }
    assert!(bucket.traffic().snapshot().bytes_up > 4 * PART_BYTES);
    let parts = bucket.traffic().snapshot().count(Request::Part, shoal::store::Ending::Done);
    assert!(parts == 0 || parts == 9, "{parts} requests for two uploads of two and three parts");
}

/// Who goes away in the middle of an upload, and comes back.
async fn uploads_that_break_off(bucket: &Bucket) {
    let bytes: Bytes = (0..4 * PART_BYTES).map(|at| (at % 241) as u8 ^ (at >> 11) as u8).collect();
    let ledger = Arc::new(Remembered::default());
    let up = || bucket.traffic().snapshot().bytes_up;
    let upload = || bucket.upload("v", Arc::new(bytes.clone()), Some(ledger.clone()), &PATIENCE);
    tokio::select! {
        done = upload() => done.unwrap(),
        () = ledger.grown.notified() => {}
    }
    // A store that is quick may have put it together before who uploaded it heard of that.
    let is_through = bucket.get("v", &PATIENCE).await.unwrap().is_some();
    if let Some(known) = ledger.read().filter(|_| !is_through) {
        let before = up();
        upload().await.unwrap();
        let rest = bytes.len() as u64 - known.parts.len() as u64 * PART_BYTES;
        // Some of what was under way when it broke off is counted late.
        assert!(up() - before < rest + PART_BYTES, "{} bytes, of {rest}", up() - before);
    }
    assert!(bucket.get("v", &PATIENCE).await.unwrap().unwrap() == bytes);
    // One that nobody goes on with.
    let ledger = Arc::new(Remembered::default());
    tokio::select! {
        done = bucket.upload("w", Arc::new(bytes.clone()), Some(ledger.clone()), &PATIENCE) => done.unwrap(),
        () = ledger.grown.notified() => {
            let known = ledger.read().unwrap();
            let mut given_up = bucket.give_up("w", &known, &PATIENCE).await;
            // A store that was about to put it together may fail at first.
            for _ in 0..3 {
                if given_up.is_err() {
                    given_up = bucket.give_up("w", &known, &PATIENCE).await;
                }
            }
            // A store that is quick may have all of it by now.
            let is_there = bucket.get("w", &PATIENCE).await.unwrap().is_some();
            assert!(given_up.is_ok() || is_there, "{given_up:?}");
        }
    }
}

async fn identity(bucket: &Bucket) {
    assert_eq!(read_identity(bucket, &PATIENCE).await.unwrap(), None);
    let proposals = [1, 2, 3].map(Uuid::from_u128);
    let claims = proposals.map(|proposed| {
        let bucket = bucket.clone();
        tokio::spawn(async move { claim_identity(&bucket, proposed, &PATIENCE).await.unwrap() })
    });
    let mut agreed = Vec::new();
    for claim in claims {
        agreed.push(claim.await.unwrap());
    }
    assert!(proposals.contains(&agreed[0].store) && agreed.iter().all(|file| *file == agreed[0]));
    assert_eq!(read_identity(bucket, &PATIENCE).await.unwrap().as_ref(), Some(&agreed[0]));
    assert_eq!(claim_identity(bucket, Uuid::from_u128(9), &PATIENCE).await.unwrap(), agreed[0]);
}

fn manifest(generation: u64) -> String {
    format!("c/manifests/{generation:020}.json")
}

async fn commits(bucket: &Bucket) {
    let p = &PATIENCE;
    assert_eq!(newest(bucket, &manifest, None, "c/manifests", p).await.unwrap(), None);
    assert_eq!(newest(bucket, &manifest, Some(3), "c/manifests", p).await.unwrap(), None);
    for generation in 0..40 {
        let bytes = Bytes::from(format!("mine {generation}"));
        let outcome = commit(bucket, &manifest, generation, bytes, &|_| Ok(false), p).await.unwrap();
        assert_eq!(outcome, Outcome::Won);
    }
    let lost =
        commit(bucket, &manifest, 7, Bytes::from_static(b"late"), &|found| Ok(found == b"late"), p).await.unwrap();
    assert_eq!(lost, Outcome::Lost(Bytes::from_static(b"mine 7")));
    let last = Some((39, Bytes::from_static(b"mine 39")));
    for from in [None, Some(0), Some(20), Some(38), Some(39), Some(40), Some(u64::MAX)] {
        assert_eq!(newest(bucket, &manifest, from, "c/manifests", p).await.unwrap(), last, "from {from:?}");
    }
    bucket.delete(&manifest(0), p).await.unwrap();
    assert_eq!(newest(bucket, &manifest, Some(0), "c/manifests", p).await.unwrap(), last, "from a hint that is gone");

    assert_eq!(read_hint(bucket, "c/CURRENT", p).await.unwrap(), None);
    write_hint(bucket, "c/CURRENT", 39, p).await.unwrap();
    write_hint(bucket, "c/CURRENT", 38, p).await.unwrap();
    assert_eq!(read_hint(bucket, "c/CURRENT", p).await.unwrap(), Some(38));
    bucket.put("c/CURRENT", Bytes::from_static(b"nonsense"), p).await.unwrap();
    assert_eq!(read_hint(bucket, "c/CURRENT", p).await.unwrap(), None);
}

const RACES: u64 = 20;

/// Contenders at once for one key, again and again: each time one wins, and the others get its bytes.
pub(crate) async fn races(bucket: &Bucket, contenders: u64) {
    for round in 0..RACES {
        let racers: Vec<_> = (0..contenders)
            .map(|racer| {
                let bucket = bucket.clone();
                tokio::spawn(async move {
                    let bytes = Bytes::from(format!("racer {racer}"));
                    let mine = bytes.clone();
                    let is_mine = move |found: &[u8]| Ok(found == mine);
                    commit(&bucket, &|g| format!("r/{g:020}"), round, bytes, &is_mine, &PATIENCE).await.unwrap()
                })
            })
            .collect();
        let mut winners = Vec::new();
        let mut losers = Vec::new();
        for (racer, task) in racers.into_iter().enumerate() {
            match task.await.unwrap() {
                Outcome::Won => winners.push(Bytes::from(format!("racer {racer}"))),
                Outcome::Lost(bytes) => losers.push(bytes),
            }
        }
        assert_eq!(winners.len(), 1, "round {round}: {} of {contenders} won", winners.len());
        assert!(losers.iter().all(|bytes| *bytes == winners[0]), "round {round}");
        assert_eq!(bucket.get(&format!("r/{round:020}"), &PATIENCE).await.unwrap().as_ref(), winners.first());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_conforms() {
    conforms(&over(Backend::in_memory(), 1), 16).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_conforms() {
    let dir = tempfile::tempdir().unwrap();
    conforms(&open(&directory(&dir), 1), 16).await;
}
