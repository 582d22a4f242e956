//! The same demands on real servers, SeaweedFS, moto and Azurite; see [`crate::started`].
//!
//! `SHOAL_S3` names the endpoint of a store that is running already, with the bucket `test` in it: the race on it is for stores
//! that are known to fail it.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use shoal::store::{Bucket, BucketConfig, MISCONFIGURED, Patience, probe};

use crate::conformance::{conforms, races};
use crate::started::{AZURE_ACCOUNT, START_WITHIN, azure_sas, azurite, moto, ports, program, seaweedfs, start};
use crate::{clock, open, random};

#[tokio::test(flavor = "multi_thread")]
async fn seaweedfs_conforms() {
    if let Some((_server, bucket)) = seaweedfs().await {
        conforms(&bucket, 3).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn moto_conforms() {
    if let Some((_server, bucket)) = moto().await {
        // It looks whether an object is there, and puts it later, in threads that take turns: of two at once both may win.
        conforms(&bucket, 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn azurite_conforms() {
    if let Some((_server, bucket)) = azurite().await {
        conforms(&bucket, 16).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_azurite_refuses_is_told_at_once_and_in_words() {
    let Some((server, _)) = azurite().await else { return };
    let patience = Patience::ASKED.within(Duration::from_secs(5));
    let sound = server.config("refused");
    let with = |name: &str, credentials: String| {
        let file = server.dir.path().join(name);
        std::fs::write(&file, format!("azure_storage_account_name = {AZURE_ACCOUNT}\n{credentials}\n")).unwrap();
        BucketConfig { credentials_file: Some(file), ..sound.clone() }
    };
    let sas = |allowed: &str, until: &str| format!("azure_storage_sas_token = {}", azure_sas(allowed, until));
    let at = |endpoint: &str| BucketConfig { endpoint: Some(endpoint.into()), ..sound.clone() };
    let host = sound.endpoint.as_ref().unwrap().strip_suffix(&format!("/{AZURE_ACCOUNT}")).unwrap();
    let credentials = "wrong or expired credentials: AuthorizationFailure";
    for (config, told, hint) in [
        (with("another", "azure_storage_account_key = c2VjcmV0".into()), credentials, "AZURE_STORAGE_ACCOUNT_KEY"),
        (with("expired", sas("rwdlac", "2020-01-01T00:00:00Z")), credentials, "AZURE_STORAGE_ACCOUNT_KEY"),
        (
            with("reader", sas("rl", "2099-01-01T00:00:00Z")),
            "not allowed: AuthorizationPermissionMismatch",
            "need to read, write, delete and list",
        ),
        (
            BucketConfig { url: "az://missing/refused".into(), ..sound.clone() },
            "there is no such bucket: ContainerNotFound",
            "create the bucket",
        ),
        (
            BucketConfig { url: "az://no.container/refused".into(), ..sound.clone() },
            "there is no such bucket: InvalidResourceName",
            "correct bucket.url",
        ),
    ] {
        let bucket = open(&config, 1);
        let error = bucket.put("a", "x".into(), &patience).await.unwrap_err();
        let begins = format!("put a: {}: {told}", bucket.name());
        assert!(error.message().starts_with(&begins), "{error}");
        assert_eq!(error.code(), MISCONFIGURED, "{error}");
        assert!(error.hint().unwrap().contains(hint), "{error}: {:?}", error.hint());
        let error = probe(&bucket, &patience).await.unwrap_err();
        assert!(error.code() == MISCONFIGURED && error.message().contains(told), "{error}");
        println!("RUN: {error}");
    }
    // Without the account in the endpoint's path the container is taken for it, which is not there; and no bucket is found empty.
    let elsewhere = open(&at(host), 1);
    let put = elsewhere.put("a", "x".into(), &patience).await.unwrap_err();
    let list = elsewhere.list("", None, 1, &patience).await.unwrap_err();
    for error in [put, list] {
        assert!(error.message().contains("there is no such place"), "{error}");
        assert!(error.hint().unwrap().contains("bucket.endpoint"));
    }
    open(&at(&format!("{host}/{AZURE_ACCOUNT}/")), 1).put("a", "x".into(), &patience).await.unwrap();
    for (text, told) in [
        ("azure_storage_account_key = notTheKey!\n", "Invalid Access Key"),
        ("azure_storage_sas_token = notTheKey", "Missing component in SAS"),
    ] {
        let refused = Bucket::open(&with("broken", text.into()), clock(), random(1));
        let Err(error) = refused else { panic!("{text:?} was taken") };
        assert!(error.code() == MISCONFIGURED && error.message().contains(told), "{error}");
        assert!(
            !error.message().contains("notTheKey") && error.hint().unwrap().contains("AZURE_STORAGE_ACCOUNT_KEY")
        );
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
