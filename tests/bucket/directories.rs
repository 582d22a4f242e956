//! A directory that goes away while it is written to: no write makes it anew, and what was said to be put is in it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use shoal::store::{BucketConfig, Patience};

use super::open;

/// Gives up soon.
const SHORT: Patience = Patience { whole: Duration::from_millis(20), ..Patience::ASKED };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_goes_away_while_objects_are_put_is_not_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (there, away) = (dir.path().join("there"), dir.path().join("away"));
    std::fs::create_dir(&there).unwrap();
    let config = BucketConfig { url: format!("file://{}", there.display()), ..BucketConfig::default() };
    let bucket = open(&config, 7);
    let over = Arc::new(AtomicBool::new(false));
    let mover = tokio::task::spawn_blocking({
        let over = Arc::clone(&over);
        let (there, away): (PathBuf, PathBuf) = (there.clone(), away.clone());
        move || {
            let mut made_anew = None;
            for round in 0..20_000 {
                std::fs::rename(&there, &away).unwrap();
                for _ in 0..20 {
                    std::thread::yield_now();
                }
                if there.exists() {
                    made_anew = Some(round);
                    break;
                }
                std::fs::rename(&away, &there).unwrap();
                std::thread::yield_now();
            }
            over.store(true, Ordering::Relaxed);
            made_anew
        }
    });
    let mut put = Vec::new();
    let mut tried = 0;
    while !over.load(Ordering::Relaxed) {
        let key = format!("{tried}/below/object");
        if bucket.put(&key, Bytes::from_static(b"object"), &SHORT).await.is_ok() {
            put.push(key);
        }
        tried += 1;
    }
    assert_eq!(mover.await.unwrap(), None, "in this round there was a directory of the same path, {} put", put.len());
    assert!(!put.is_empty() && put.iter().all(|key| there.join(key).exists()), "{} of {tried}", put.len());
}
