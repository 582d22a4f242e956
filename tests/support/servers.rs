//! Object stores that tests start on free ports of 127.0.0.1: SeaweedFS, moto, and Azurite, which speaks as Azure does.
//!
//! They are found by `SHOAL_WEED`, `SHOAL_MOTO` and `SHOAL_AZURITE`, or on PATH as `weed`, `moto_server` and `azurite-blob`; where there
//! are none, tests say so and pass.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use shoal::platform::clock::SystemClock;
use shoal::platform::random::SeededRandom;
use shoal::store::{Bucket, BucketConfig, Patience};

pub const START_WITHIN: Duration = Duration::from_secs(60);
const S3_JSON: &str = r#"{"identities":[{"name":"ci","credentials":[{"accessKey":"testak","secretKey":"testsk123456"}],
    "actions":["Admin","Read","Write","List","Tagging"]}]}"#;

/// How a server is spoken to.
pub struct Speech {
    bucket: &'static str,
    /// What the endpoint has behind its port.
    path: &'static str,
    credentials: String,
}

fn s3() -> Speech {
    let credentials = "aws_access_key_id = testak\naws_secret_access_key = testsk123456\n".to_owned();
    Speech { bucket: "s3://test", path: "", credentials }
}

/// The account that Azurite has from the start, and its key, which are everybody's.
pub const AZURE_ACCOUNT: &str = "devstoreaccount1";
const AZURE_KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

fn azure() -> Speech {
    let credentials =
        format!("azure_storage_account_name = {AZURE_ACCOUNT}\nazure_storage_account_key = {AZURE_KEY}\n");
    Speech { bucket: "az://test", path: "/devstoreaccount1", credentials }
}

/// The query that allows who has it so much of Azurite's blobs, such as `rl` to read and to list, until then.
pub fn azure_sas(allowed: &str, until: &str) -> String {
    let version = "2019-12-12";
    let text = format!("{AZURE_ACCOUNT}\n{allowed}\nb\nsco\n\n{until}\n\n\n{version}\n");
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &BASE64_STANDARD.decode(AZURE_KEY).unwrap());
    let signature = BASE64_STANDARD.encode(ring::hmac::sign(&key, text.as_bytes()));
    let signature = signature.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    format!("sv={version}&ss=b&srt=sco&sp={allowed}&se={}&sig={signature}", until.replace(':', "%3A"))
}

/// A server that ends with the test.
pub struct Server {
    pub child: Child,
    pub dir: tempfile::TempDir,
    port: u16,
    speech: Speech,
    command: (PathBuf, Vec<String>),
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program, by its variable or on PATH.
pub fn program(variable: &str, name: &str) -> Option<PathBuf> {
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
pub fn ports<const N: usize>() -> [u16; N] {
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

/// One that speaks as S3 does.
pub fn start(program: &Path, arguments: &[String], dir: tempfile::TempDir, port: u16) -> Server {
    let child = spawn(program, arguments, dir.path());
    Server { child, dir, port, speech: s3(), command: (program.to_owned(), arguments.to_owned()) }
}

fn spawn(program: &Path, arguments: &[String], dir: &Path) -> Child {
    let log = std::fs::File::options().append(true).create(true).open(dir.join("log")).unwrap();
    Command::new(program)
        .args(arguments)
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

impl Server {
    /// SIGKILL; whatever it was doing.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// After a kill, on the same data.
    pub fn restart(&mut self) {
        self.child = spawn(&self.command.0, &self.command.1, self.dir.path());
    }

    pub fn config(&self, root: &str) -> BucketConfig {
        let credentials = self.dir.path().join("credentials");
        std::fs::write(&credentials, &self.speech.credentials).unwrap();
        BucketConfig {
            url: format!("{}/{root}", self.speech.bucket),
            endpoint: Some(format!("http://127.0.0.1:{}{}", self.port, self.speech.path)),
            allow_http: true,
            credentials_file: Some(credentials),
            ..BucketConfig::default()
        }
    }

    /// Makes the bucket of a server that begins without, by one request; waits until it listens.
    async fn make_bucket(&mut self, target: &str) {
        let port = self.port;
        let begun = Instant::now();
        while begun.elapsed() < START_WITHIN && self.child.try_wait().unwrap().is_none() {
            if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) {
                let request = format!(
                    "PUT {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                );
                stream.write_all(request.as_bytes()).unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).unwrap();
                assert!(answer.starts_with("HTTP/1.1 20"), "{answer}");
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until a write succeeds; a port that answers is not enough. False when the server is not to be had here.
    pub async fn is_up(&mut self, bucket: &Bucket) -> bool {
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

fn open(config: &BucketConfig) -> Bucket {
    Bucket::open(config, Arc::new(SystemClock), Arc::new(SeededRandom::new(11))).unwrap()
}

/// SeaweedFS; not more than 3 should contend on one key: more stall for seconds there.
pub async fn seaweedfs() -> Option<(Server, Bucket)> {
    let weed = program("SHOAL_WEED", "weed")?;
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
    let bucket = open(&server.config("a/root"));
    server.is_up(&bucket).await.then_some((server, bucket))
}

pub async fn moto() -> Option<(Server, Bucket)> {
    let moto = program("SHOAL_MOTO", "moto_server")?;
    let [port] = ports();
    let arguments = ["-H".into(), "127.0.0.1".into(), "-p".into(), port.to_string()];
    let mut server = start(&moto, &arguments, tempfile::tempdir().unwrap(), port);
    server.make_bucket("/test").await;
    let bucket = open(&server.config("a/root"));
    server.is_up(&bucket).await.then_some((server, bucket))
}

/// Azurite; what it has is lost when it is killed.
pub async fn azurite() -> Option<(Server, Bucket)> {
    let azurite = program("SHOAL_AZURITE", "azurite-blob")?;
    let [port] = ports();
    let options = "--blobHost 127.0.0.1 --location . --silent --skipApiVersionCheck --disableTelemetry --blobPort";
    let arguments: Vec<String> = options.split(' ').map(str::to_owned).chain([port.to_string()]).collect();
    let mut server = start(&azurite, &arguments, tempfile::tempdir().unwrap(), port);
    server.speech = azure();
    let allowed = azure_sas("rwdlac", "2099-01-01T00:00:00Z");
    server.make_bucket(&format!("/{AZURE_ACCOUNT}/test?restype=container&{allowed}")).await;
    let bucket = open(&server.config("a/root"));
    server.is_up(&bucket).await.then_some((server, bucket))
}
