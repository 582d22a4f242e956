//! The same demands on real servers, started here on free ports of 127.0.0.1: SeaweedFS and moto.
//!
//! They are found by `SHOAL_WEED` and `SHOAL_MOTO`, or on PATH as `weed` and `moto_server`; where there are none, the tests say
//! so and pass. `SHOAL_S3` names the endpoint of a store that is running already, with the bucket `test` in it: the race on it
//! is for stores that are known to fail it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use shoal::store::{Bucket, BucketConfig, Patience};

use crate::conformance::{conforms, races};
use crate::open;

const START_WITHIN: Duration = Duration::from_secs(60);
const S3_JSON: &str = r#"{"identities":[{"name":"ci","credentials":[{"accessKey":"testak","secretKey":"testsk123456"}],
    "actions":["Admin","Read","Write","List","Tagging"]}]}"#;

/// A server that ends with the test.
struct Server {
    child: Child,
    dir: tempfile::TempDir,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program, by its variable or on PATH.
fn program(variable: &str, name: &str) -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Some(path.into());
    }
    let path = std::env::var_os("PATH")?;
    let found = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| path.is_file());
    if found.is_none() {
        println!("SKIPPED: there is no {name} on PATH, and {variable} does not name one");
    }
    found
}

/// Ports that are free, and free with 10,000 added: SeaweedFS takes those too.
fn ports<const N: usize>() -> [u16; N] {
    let mut held = Vec::new();
    while held.len() < N {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let Some(low) = port.checked_sub(20_000).filter(|low| *low > 2_000) else { continue };
        if let (Ok(a), Ok(b)) =
            (TcpListener::bind(("127.0.0.1", low)), TcpListener::bind(("127.0.0.1", low + 10_000)))
        {
            held.push((low, a, b));
        }
    }
    std::array::from_fn(|at| held[at].0)
}

fn start(program: &Path, arguments: &[String], dir: tempfile::TempDir, port: u16) -> Server {
    let log = std::fs::File::create(dir.path().join("log")).unwrap();
    let child = Command::new(program)
        .args(arguments)
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    Server { child, dir, port }
}

impl Server {
    fn config(&self, root: &str) -> BucketConfig {
        let credentials = self.dir.path().join("credentials");
        std::fs::write(&credentials, "aws_access_key_id = testak\naws_secret_access_key = testsk123456\n").unwrap();
        BucketConfig {
            url: format!("s3://test/{root}"),
            endpoint: Some(format!("http://127.0.0.1:{}", self.port)),
            allow_http: true,
            credentials_file: Some(credentials),
            ..BucketConfig::default()
        }
    }

    /// Waits until a write succeeds; a port that answers is not enough. False when the server is not to be had here.
    async fn is_up(&mut self, bucket: &Bucket) -> bool {
        let start = Instant::now();
        let patience = Patience::ASKED.within(Duration::from_secs(2));
        loop {
            let log = || std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            if let Some(status) = self.child.try_wait().unwrap() {
                println!("SKIPPED: the server ended at once ({status}): {}", log());
                return false;
            }
            match bucket.put("up", Bytes::new(), &patience).await {
                Ok(()) => break,
                Err(error) => assert!(start.elapsed() < START_WITHIN, "not up: {error}\n{}", log()),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        bucket.delete("up", &patience).await.unwrap();
        println!("RUN: the server was up after {:?}", start.elapsed());
        true
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn seaweedfs_conforms() {
    let Some(weed) = program("SHOAL_WEED", "weed") else { return };
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("s3.json"), S3_JSON).unwrap();
    let data = dir.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let [s3, master, volume, filer, admin] = ports();
    // Without -ip.bind it listens on all addresses.
    let arguments = [
        "mini".into(),
        format!("-dir={}", data.display()),
        "-ip=127.0.0.1".into(),
        "-ip.bind=127.0.0.1".into(),
        "-bucket=test".into(),
        "-s3.config=s3.json".into(),
        format!("-s3.port={s3}"),
        format!("-master.port={master}"),
        format!("-volume.port={volume}"),
        format!("-filer.port={filer}"),
        format!("-admin.port={admin}"),
        "-admin.ui=false".into(),
        "-webdav=false".into(),
        "-s3.port.iceberg=0".into(),
    ];
    let mut server = start(&weed, &arguments, dir, s3);
    let bucket = open(&server.config("a/root"), 11);
    if server.is_up(&bucket).await {
        // More on one key stall for seconds there.
        conforms(&bucket, 3).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn moto_conforms() {
    let Some(moto) = program("SHOAL_MOTO", "moto_server") else { return };
    let [port] = ports();
    let arguments = ["-H".into(), "127.0.0.1".into(), "-p".into(), port.to_string()];
    let mut server = start(&moto, &arguments, tempfile::tempdir().unwrap(), port);
    let begun = Instant::now();
    while begun.elapsed() < START_WITHIN && server.child.try_wait().unwrap().is_none() {
        // It begins without buckets.
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) {
            let request = format!(
                "PUT /test HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let bucket = open(&server.config("a/root"), 11);
    if server.is_up(&bucket).await {
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
