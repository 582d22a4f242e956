//! The same demands on real servers, SeaweedFS and moto; see [`crate::started`].
//!
//! `SHOAL_S3` names the endpoint of a store that is running already, with the bucket `test` in it: the race on it is for stores
//! that are known to fail it.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use shoal::store::{BucketConfig, Patience};

use crate::conformance::{conforms, races};
use crate::open;
use crate::started::{START_WITHIN, moto, ports, program, seaweedfs, start};

#[tokio::test(flavor = "multi_thread")]
async fn seaweedfs_conforms() {
    if let Some((_server, bucket)) = seaweedfs().await {
        conforms(&bucket, 3).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn moto_conforms() {
    if let Some((_server, bucket)) = moto().await {
        conforms(&bucket, 16).await;
    }
}

/// A certificate for 127.0.0.1 that only itself vouches for.
fn certificate(openssl: &Path, dir: &Path) {
    let made = Command::new(openssl)
        .args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=test".split(' '))
        .args("-addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE".split(' '))
        .args(["-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_the_stores_own_is_trusted_when_it_is_configured_and_only_then() {
    let (Some(moto), Some(openssl)) = (program("SHOAL_MOTO", "moto_server"), program("SHOAL_OPENSSL", "openssl"))
    else {
        return;
    };
    let [port] = ports();
    let dir = tempfile::tempdir().unwrap();
    certificate(&openssl, dir.path());
    let arguments =
        ["-H", "127.0.0.1", "-p", &port.to_string(), "-s", "-c", "cert.pem", "-k", "key.pem"].map(str::to_owned);
    let mut server = start(&moto, &arguments, dir, port);
    let mut config = server.config("root");
    config.endpoint = Some(format!("https://127.0.0.1:{port}"));
    config.allow_http = false;
    let unknown = open(&config, 1);
    config.ca_file = Some(server.dir.path().join("cert.pem"));
    let known = open(&config, 1);
    let patience = Patience::ASKED.within(Duration::from_secs(2));
    let begun = Instant::now();
    // It begins without buckets, and to say so it has to be understood.
    let said = loop {
        if let Some(status) = server.child.try_wait().unwrap() {
            println!("SKIPPED: the server ended at once ({status})");
            return;
        }
        let error = known.get("a", &patience).await.unwrap_err();
        if !error.message().contains("cannot connect") || begun.elapsed() > START_WITHIN {
            break error;
        }
    };
    assert!(said.message().contains("there is no such bucket: NoSuchBucket"), "{said}");
    let error = unknown.get("a", &patience).await.unwrap_err();
    assert!(error.message().contains("gives no trusted TLS connection"), "{error}");
    assert!(error.hint().unwrap().contains("bucket.ca_file"));
    println!("RUN: over TLS; without the certificate: {error}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "for a store that is named by SHOAL_S3, by hand"]
async fn a_named_store_keeps_conditions_at_the_same_time() {
    let endpoint = std::env::var("SHOAL_S3").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let credentials = dir.path().join("credentials");
    std::fs::write(&credentials, "aws_access_key_id = testak\naws_secret_access_key = testsk123456\n").unwrap();
    let config = BucketConfig {
        url: format!("s3://test/race-{}", std::process::id()),
        endpoint: Some(endpoint),
        allow_http: true,
        credentials_file: Some(credentials),
        ..BucketConfig::default()
    };
    let bucket = open(&config, 11);
    println!("probe: {:?}", shoal::store::probe(&bucket, &Patience::ASKED).await);
    races(&bucket, 16).await;
}
