//! The tests of this file again, each state that they read being read on another node, too, by way of a bucket that lasts; see
//! `through_bucket.rs`.

use std::process::Command;

use serde_json::json;
use shoal::store::BucketConfig;

#[path = "servers.rs"]
#[expect(dead_code, reason = "other tests need the rest")]
mod started;

/// What takes long with a pass of sync at each of its many steps.
const LONG: &str = "wherever_that_fails";

/// Runs them through buckets below this one.
fn again(bucket: &BucketConfig) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--skip", "again::", "--skip", LONG])
        .env("SHOAL_THROUGH_BUCKET", json!(bucket).to_string())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    let told = format!("{told}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && !told.contains(" 0 passed"), "{told}");
    println!("RUN: {}", told.lines().rfind(|line| line.starts_with("test result")).unwrap());
}

#[test]
fn everything_is_the_same_through_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    again(&BucketConfig { url: format!("file://{}", dir.path().display()), ..BucketConfig::default() });
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_the_same_through_seaweedfs() {
    if let Some((server, _)) = started::seaweedfs().await {
        tokio::task::block_in_place(|| again(&server.config("again")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_the_same_through_moto() {
    if let Some((server, _)) = started::moto().await {
        tokio::task::block_in_place(|| again(&server.config("again")));
    }
}
