//! Reads, puts, uploads and probes under faults, and stores that do not keep what a bucket needs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use object_store::memory::InMemory;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode};
use shoal::error::Kind;
use shoal::store::{
    Backend, Bucket, Created, Ending, FORMAT_KEY, Ledger, MISCONFIGURED, PART_BYTES, Patience,
    REQUESTS_CONCURRENT_MAX, Request, UNCONDITIONAL, UNREACHABLE, claim_identity, probe,
};
use uuid::Uuid;

use crate::faulty_store::{FAULTS, Fault, FaultyStore, Lie};
use crate::{Remembered, directory, open, over};

const PATIENCE: Patience = Patience::ASKED;

fn faulty(store: &Arc<InMemory>, plan: impl Fn(u64) -> Option<Fault> + Send + Sync + 'static) -> Bucket {
    let store = Arc::new(FaultyStore::new(Arc::clone(store), plan));
    over(Backend::direct(Arc::clone(&store) as _, Some(store as Arc<dyn MultipartStore>), "faulty"), 3)
}

#[tokio::test(start_paused = true)]
async fn one_fault_at_any_step_changes_no_answer() {
    for fault in FAULTS.into_iter().filter(|fault| !matches!(fault, Fault::Stale(_))) {
        for step in 0..9 {
            let store = Arc::new(InMemory::new());
            let bucket = faulty(&store, move |at| (at == step).then_some(fault));
            let bytes = Bytes::from_static(b"0123456789");
            bucket.put("a/b", bytes.clone(), &PATIENCE).await.unwrap();
            let what = format!("{fault:?} at {step}");
            assert_eq!(bucket.get("a/b", &PATIENCE).await.unwrap(), Some(bytes.clone()), "{what}");
            assert_eq!(bucket.get_range("a/b", 3..6, &PATIENCE).await.unwrap(), Some(bytes.slice(3..6)), "{what}");
            assert_eq!(bucket.size("a/b", &PATIENCE).await.unwrap(), Some(10), "{what}");
            assert_eq!(bucket.list("a", None, 5, &PATIENCE).await.unwrap().objects.len(), 1, "{what}");
            bucket.delete("a/b", &PATIENCE).await.unwrap();
            assert_eq!(bucket.get("a/b", &PATIENCE).await.unwrap(), None, "{what}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_fault_at_any_step_of_an_upload_is_made_up_for() {
    let bytes = Bytes::from(vec![7; 2 * PART_BYTES as usize + 5]);
    for fault in FAULTS {
        for step in 0..8 {
            let store = Arc::new(InMemory::new());
            let bucket = faulty(&store, move |at| (at == step).then_some(fault));
            let uploaded = bucket.upload("a/b", Arc::new(bytes.clone()), None, &PATIENCE).await;
            uploaded.unwrap_or_else(|error| panic!("{fault:?} at {step}: {error}"));
            let held = store.get(&"a/b".into()).await.unwrap().bytes().await.unwrap();
            assert!(held == bytes, "{fault:?} at {step}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_is_given_up_is_aborted_and_leaves_no_object() {
    let store = Arc::new(InMemory::new());
    let bucket = faulty(&store, |at| (at > 1).then_some(Fault::Before(Lie::Failed)));
    let error = bucket.upload("a", Arc::new(Bytes::from(vec![7; 9 << 20])), None, &PATIENCE).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (Kind::Unavailable, UNREACHABLE));
    assert!(store.get(&"a".into()).await.is_err());
}

/// A store that has a part or two of an upload of three and a bit, and then was away for longer than anybody waits.
async fn broken_off(bytes: &Bytes) -> (Arc<InMemory>, Arc<Remembered>) {
    let (store, ledger) = (Arc::new(InMemory::new()), Arc::new(Remembered::default()));
    let bucket = faulty(&store, |at| (at > 2).then_some(Fault::Before(Lie::Failed)));
    let error = bucket.upload("a", Arc::new(bytes.clone()), Some(ledger.clone()), &PATIENCE).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (Kind::Unavailable, UNREACHABLE));
    (store, ledger)
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_broke_off_goes_on_where_it_was() {
    let bytes = Bytes::from((0..3 * PART_BYTES + 5).map(|at| (at / 7) as u8).collect::<Vec<u8>>());
    let (store, ledger) = broken_off(&bytes).await;
    let there = ledger.read().unwrap().parts.len() as u64;
    assert!((1..3).contains(&there), "{there}");
    let bucket = faulty(&store, |_| None);
    bucket.upload("a", Arc::new(bytes.clone()), Some(ledger.clone()), &PATIENCE).await.unwrap();
    assert_eq!(bucket.traffic().snapshot().bytes_up, bytes.len() as u64 - there * PART_BYTES);
    assert!(store.get(&"a".into()).await.unwrap().bytes().await.unwrap() == bytes);
    assert_eq!(ledger.read(), None);
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_the_store_does_not_know_any_more_begins_anew() {
    let bytes = Bytes::from(vec![7; 3 * PART_BYTES as usize + 5]);
    // It is told at a part, later, or never.
    for (first, lies, tries) in [(0, 1, 1), (2, 1, 1), (0, u64::MAX, 65)] {
        let (store, ledger) = broken_off(&bytes).await;
        let lie = if tries == 1 { Lie::Absent } else { Lie::Failed };
        let away = faulty(&store, move |at| (at >= first && at - first < lies).then_some(Fault::Before(lie)));
        for _ in 1..tries {
            away.upload("a", Arc::new(bytes.clone()), Some(ledger.clone()), &PATIENCE).await.unwrap_err();
        }
        let bucket = if tries == 1 { away } else { faulty(&store, |_| None) };
        bucket.upload("a", Arc::new(bytes.clone()), Some(ledger.clone()), &PATIENCE).await.unwrap();
        assert!(bucket.traffic().snapshot().bytes_up >= bytes.len() as u64, "{first} {lies} {tries}");
        assert!(store.get(&"a".into()).await.unwrap().bytes().await.unwrap() == bytes);
        assert_eq!(ledger.read(), None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_ends_at_its_deadline_and_says_how_often_it_asked() {
    for fault in [Fault::Before(Lie::Failed), Fault::Silence, Fault::Short] {
        let store = Arc::new(InMemory::new());
        store.put(&"a".into(), "0123456789".into()).await.unwrap();
        let bucket = faulty(&store, move |_| Some(fault));
        let start = tokio::time::Instant::now();
        let error = bucket.get("a", &PATIENCE).await.unwrap_err();
        assert!(start.elapsed() <= PATIENCE.whole, "{fault:?}: {:?}", start.elapsed());
        assert_eq!((error.kind(), error.code()), (Kind::Unavailable, UNREACHABLE));
        assert!(error.message().starts_with("get a: given up after"), "{error}");
        assert!(bucket.traffic().snapshot().count(Request::Get, Ending::Lost) > 1);
    }
}

#[tokio::test(start_paused = true)]
async fn requests_beyond_the_bound_wait_for_their_turn() {
    let store = Arc::new(InMemory::new());
    let bucket = faulty(&store, |_| Some(Fault::Slow(Duration::from_secs(1))));
    let start = tokio::time::Instant::now();
    let calls: Vec<_> = (0..4 * REQUESTS_CONCURRENT_MAX)
        .map(|_| {
            let bucket = bucket.clone();
            tokio::spawn(async move { bucket.get("a", &PATIENCE).await.unwrap() })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap(), None);
    }
    assert_eq!(start.elapsed().as_secs(), 4, "each takes a second, and a quarter goes at once");
}

/// How a store that is not fit breaks its word.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Breach {
    /// Puts whatever the condition, and says so.
    Overwrites,
    /// Puts whatever the condition, and says that the key was taken.
    OverwritesAndDenies,
    NotImplemented,
}

#[derive(Debug)]
struct Unfit(InMemory, Breach, AtomicU64);

impl std::fmt::Display for Unfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Unfit")
    }
}

#[async_trait]
impl ObjectStore for Unfit {
    async fn put_opts(
        &self,
        path: &Path,
        payload: object_store::PutPayload,
        mut options: object_store::PutOptions,
    ) -> object_store::Result<object_store::PutResult> {
        let create = matches!(options.mode, PutMode::Create);
        if create && self.1 == Breach::NotImplemented {
            return Err(object_store::Error::NotImplemented {
                operation: "create".into(),
                implementer: "Unfit".into(),
            });
        }
        options.mode = PutMode::Overwrite;
        let taken = self.0.head(path).await.is_ok();
        let done = self.0.put_opts(path, payload, options).await?;
        self.2.fetch_add(1, Ordering::SeqCst);
        match create && taken && self.1 == Breach::OverwritesAndDenies {
            true => Err(object_store::Error::AlreadyExists { path: path.to_string(), source: "taken".into() }),
            false => Ok(done),
        }
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: object_store::PutMultipartOptions,
    ) -> object_store::Result<Box<dyn object_store::MultipartUpload>> {
        self.0.put_multipart_opts(path, options).await
    }

    async fn get_opts(
        &self,
        path: &Path,
        options: object_store::GetOptions,
    ) -> object_store::Result<object_store::GetResult> {
        self.0.get_opts(path, options).await
    }

    fn delete_stream(
        &self,
        paths: futures_util::stream::BoxStream<'static, object_store::Result<Path>>,
    ) -> futures_util::stream::BoxStream<'static, object_store::Result<Path>> {
        self.0.delete_stream(paths)
    }

    fn list(
        &self,
        prefix: Option<&Path>,
    ) -> futures_util::stream::BoxStream<'static, object_store::Result<object_store::ObjectMeta>> {
        self.0.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<object_store::ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, a: &Path, b: &Path, options: object_store::CopyOptions) -> object_store::Result<()> {
        self.0.copy_opts(a, b, options).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_ignores_conditions_is_refused_and_left_as_it_was() {
    for breach in [Breach::Overwrites, Breach::OverwritesAndDenies, Breach::NotImplemented] {
        let store = Arc::new(Unfit(InMemory::new(), breach, AtomicU64::new(0)));
        let bucket = over(Backend::direct(Arc::clone(&store) as _, None, "unfit"), 3);
        let error = probe(&bucket, &PATIENCE).await.unwrap_err();
        assert_eq!((error.kind(), error.code()), (Kind::Unsupported, UNCONDITIONAL), "{breach:?}: {error}");
        assert!(error.message().contains("shared writing is refused"), "{error}");
        assert_eq!(bucket.list("", None, 10, &PATIENCE).await.unwrap().objects.len(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn one_fault_at_any_step_does_not_mislead_the_probe() {
    for fault in FAULTS {
        for step in 0..12 {
            let store = Arc::new(InMemory::new());
            let bucket = faulty(&store, move |at| (at == step).then_some(fault));
            probe(&bucket, &PATIENCE).await.unwrap_or_else(|error| panic!("{fault:?} at {step}: {error}"));
            assert_eq!(bucket.list("", None, 10, &PATIENCE).await.unwrap().objects.len(), 0, "{fault:?} at {step}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_fault_at_any_step_leaves_nodes_that_attach_at_once_agreed() {
    for fault in FAULTS {
        for step in 0..8 {
            let store = Arc::new(InMemory::new());
            let bucket = faulty(&store, move |at| (at == step).then_some(fault));
            let claims = [1, 2, 3].map(|node| {
                let bucket = bucket.clone();
                tokio::spawn(async move { claim_identity(&bucket, Uuid::from_u128(node), &PATIENCE).await.unwrap() })
            });
            let mut agreed = Vec::new();
            for claim in claims {
                agreed.push(claim.await.unwrap().store);
            }
            assert!(agreed.iter().all(|store| *store == agreed[0]), "{fault:?} at {step}: {agreed:?}");
        }
    }
}

#[tokio::test]
async fn a_format_that_is_newer_or_damaged_is_refused_and_not_written_over() {
    let bucket = over(Backend::in_memory(), 1);
    claim_identity(&bucket, Uuid::from_u128(1), &PATIENCE).await.unwrap();
    let sound = bucket.get(FORMAT_KEY, &PATIENCE).await.unwrap().unwrap();
    let mut damaged = sound.to_vec();
    damaged[30] ^= 1;
    let body = br#"{"format":99,"store":"00000000-0000-0000-0000-000000000001"}"#;
    let newer =
        [format!("{{\"crc32c\":\"{:08x}\",\"body\":", crc32c::crc32c(body)).as_bytes(), body, b"}\n"].concat();
    for (bytes, kind) in [(damaged, Kind::Corrupt), (newer, Kind::Unsupported), (Vec::new(), Kind::Corrupt)] {
        bucket.put(FORMAT_KEY, bytes.clone().into(), &PATIENCE).await.unwrap();
        let error = claim_identity(&bucket, Uuid::from_u128(2), &PATIENCE).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.message().starts_with("memory: _format.json"), "{error}");
        assert_eq!(bucket.get(FORMAT_KEY, &PATIENCE).await.unwrap().unwrap(), bytes);
    }
}

#[tokio::test]
async fn a_directory_that_is_not_there_is_refused_and_not_made() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = directory(&dir);
    config.url += "/missing";
    let error = Bucket::open(&config, crate::clock(), crate::random(1)).map(|_| ()).unwrap_err();
    assert_eq!((error.kind(), error.code()), (Kind::Invalid, MISCONFIGURED));
    assert!(error.hint().unwrap().contains("mount"));
}

#[tokio::test]
async fn a_directory_that_goes_away_is_not_an_empty_bucket_and_is_not_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mounted");
    std::fs::create_dir(&path).unwrap();
    let mut config = directory(&dir);
    config.url += "/mounted";
    let bucket = open(&config, 1);
    bucket.put("a/b", Bytes::from_static(b"x"), &PATIENCE).await.unwrap();
    std::fs::rename(&path, dir.path().join("unmounted")).unwrap();
    let patience = PATIENCE.within(Duration::from_millis(300));
    assert_eq!(bucket.get("a/b", &patience).await.unwrap_err().code(), UNREACHABLE);
    assert_eq!(bucket.list("", None, 10, &patience).await.unwrap_err().code(), UNREACHABLE);
    assert_eq!(bucket.put("a/c", Bytes::new(), &patience).await.unwrap_err().code(), UNREACHABLE);
    assert!(matches!(bucket.create("a/c", Bytes::new(), &patience).await.unwrap(), Created::Unknown(_)));
    assert!(!path.exists());
    std::fs::rename(dir.path().join("unmounted"), &path).unwrap();
    assert_eq!(bucket.get("a/b", &patience).await.unwrap(), Some(Bytes::from_static(b"x")));
}
