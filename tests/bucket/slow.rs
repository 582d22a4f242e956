//! Links that are slow, break off or fall silent: bytes that move are waited for, silence is not.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use shoal::error::Error;
use shoal::store::{Backend, Bucket, BucketConfig, Patience, UNREACHABLE};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::faulty_store::{Fault, FaultyStore};
use crate::http::{OBJECT, reply, serve, serve_at};
use crate::over;

const PATIENCE: Patience = Patience::ASKED;
/// What a bad link carries in a second.
const PACE: u64 = 20_000;
const OBJECT_BYTES: usize = 4 << 20;

fn content(bytes: usize) -> Bytes {
    (0..bytes).map(|at| (at / 7) as u8).collect()
}

/// A bucket that holds `a`, and fails by the plan.
async fn holding(plan: impl Fn(u64) -> Option<Fault> + Send + Sync + 'static) -> (Bucket, Bytes) {
    let (store, bytes) = (Arc::new(InMemory::new()), content(OBJECT_BYTES));
    store.put(&"a".into(), bytes.clone().into()).await.unwrap();
    let store: Arc<dyn ObjectStore> = Arc::new(FaultyStore::new(store, plan));
    (over(Backend::direct(store, None, "faulty"), 3), bytes)
}

async fn whole(bucket: &Bucket) -> Result<Option<Bytes>, Error> {
    bucket.get_range("a", 0..OBJECT_BYTES as u64, &PATIENCE).await
}

#[tokio::test(start_paused = true)]
async fn what_comes_slowly_is_waited_for_as_long_as_it_comes() {
    let (bucket, bytes) = holding(|_| Some(Fault::Slowly(PACE))).await;
    let begun = Instant::now();
    assert_eq!(whole(&bucket).await.unwrap(), Some(bytes.clone()));
    assert!(begun.elapsed() > PATIENCE.whole * 10, "{:?}", begun.elapsed());
    assert_eq!(bucket.get("a", &PATIENCE).await.unwrap(), Some(bytes));
}

#[tokio::test(start_paused = true)]
async fn what_came_before_a_break_is_not_fetched_again() {
    for fault in [Fault::Breaks(1 << 20), Fault::Stops(1 << 20)] {
        let (bucket, bytes) = holding(move |at| (at < 2).then_some(fault)).await;
        let mut came = Vec::new();
        let patience = Patience { attempt: Duration::from_secs(5), ..PATIENCE };
        let take = |piece: Bytes| {
            came.extend_from_slice(&piece);
            Ok(())
        };
        assert!(bucket.read("a", 0..OBJECT_BYTES as u64, &patience, take).await.unwrap());
        assert_eq!(came, bytes, "{fault:?}");
        assert_eq!(bucket.traffic().snapshot().bytes_down, OBJECT_BYTES as u64, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_bucket_that_falls_silent_in_the_middle_is_told_as_soon_as_one_that_never_was_there() {
    let (bucket, _) = holding(|at| Some(if at == 0 { Fault::Stops(1 << 20) } else { Fault::Silence })).await;
    let begun = Instant::now();
    assert_eq!(whole(&bucket).await.unwrap_err().code(), UNREACHABLE);
    assert!(begun.elapsed() <= PATIENCE.whole, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn who_takes_the_bytes_may_refuse_them() {
    let (bucket, _) = holding(|_| None).await;
    let refuse = |_| Err(Error::unavailable("no room").with_code("disk_full"));
    let error = bucket.read("a", 0..9, &PATIENCE, refuse).await.unwrap_err();
    assert_eq!(error.code(), "disk_full");
    assert!(!bucket.read("b", 0..9, &PATIENCE, refuse).await.unwrap(), "nothing is handed on of what is not there");
}

#[tokio::test(start_paused = true)]
async fn a_large_body_is_sent_over_a_paced_link_whatever_it_takes() {
    let received = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&received);
    let (config, _dir) = serve(move |_, asked| {
        count.fetch_add(asked.body.len() as u64, Ordering::SeqCst);
        reply(200, "ETag: \"1\"\r\n", "")
    })
    .await;
    let bucket = crate::open(&BucketConfig { bytes_per_second_up: PACE, ..config }, 5);
    let begun = Instant::now();
    bucket.upload("a", Arc::new(content(OBJECT_BYTES)), None, &PATIENCE).await.unwrap();
    assert!(begun.elapsed() > PATIENCE.whole * 10, "{:?}", begun.elapsed());
    assert_eq!(received.load(Ordering::SeqCst), OBJECT_BYTES as u64, "once, and all of it");
}

#[tokio::test(start_paused = true)]
async fn a_large_answer_is_read_over_a_paced_link_whatever_it_takes() {
    let text = "x".repeat(OBJECT_BYTES);
    let (config, _dir) = serve(move |_, _| reply(200, OBJECT, &text)).await;
    let bucket = crate::open(&BucketConfig { bytes_per_second_down: PACE, ..config }, 5);
    let begun = Instant::now();
    assert_eq!(bucket.get("a", &PATIENCE).await.unwrap().unwrap().len(), OBJECT_BYTES);
    assert!(begun.elapsed() > PATIENCE.whole * 10, "{:?}", begun.elapsed());
    assert_eq!(bucket.traffic().snapshot().bytes_down, OBJECT_BYTES as u64);
}

/// A host that begins uploads, takes so many bytes of what is put there, and is silent then.
async fn dying_after(bytes: usize) -> (BucketConfig, tempfile::TempDir) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut taken = Vec::new();
            while taken.len() < bytes && stream.read_buf(&mut taken).await.is_ok_and(|read| read > 0) {
                if taken.starts_with(b"POST") && taken.ends_with(b"\r\n\r\n") {
                    let begun =
                        "<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>";
                    stream.write_all(&reply(200, "", begun)).await.unwrap();
                }
            }
            held.push(stream);
        }
    });
    serve_at(address)
}

#[tokio::test(start_paused = true)]
async fn a_bucket_that_dies_in_the_middle_of_an_upload_is_told_soon() {
    // In one request, and in parts.
    for (bytes, patience, within) in
        [(4 << 20, PATIENCE, 90), (20 << 20, PATIENCE, 90), (20 << 20, Patience::BACKGROUND, 700)]
    {
        let (config, _dir) = dying_after(100_000).await;
        let bucket = crate::open(&config, 5);
        let begun = Instant::now();
        let error = bucket.upload("a", Arc::new(content(bytes)), None, &patience).await.unwrap_err();
        assert_eq!(error.code(), UNREACHABLE, "{error}");
        assert!(begun.elapsed() <= Duration::from_secs(within), "{:?} of {patience:?}", begun.elapsed());
    }
}
