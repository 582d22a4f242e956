//! A daemon with a bucket as a process, and what a person sees of it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// How long something may take that happens by itself.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn shoal() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shoal"));
    command.env_clear().env("TMPDIR", std::env::temp_dir());
    command
}

/// A daemon on this data, on a free port.
pub fn serve(data: &Path) -> Command {
    let mut command = shoal();
    command.args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json", "--data-dir"]).arg(data);
    command
}

/// A running daemon; killed when dropped.
pub struct Daemon {
    child: Child,
    pub url: String,
}

impl Daemon {
    /// With the settings that keep tests quick: calls to a bucket that is away end soon.
    pub fn start(data: &Path, bucket: &Path, settings: &[(&str, &str)]) -> Daemon {
        let mut command = serve(data);
        command
            .args(["--bucket", &format!("file://{}", bucket.display())])
            .env("SHOAL_BUCKET__ASKED_DEADLINE_MS", "2000");
        Self::spawn(command.envs(settings.iter().copied()))
    }

    pub fn spawn(command: &mut Command) -> Daemon {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut log = String::new();
        let address = loop {
            let Some(line) = lines.next() else { panic!("the daemon ended: {log}") };
            let line = line.unwrap();
            log.push_str(&line);
            let entry: Value = serde_json::from_str(&line).unwrap();
            if entry["message"] == "shoal answers requests" {
                break entry["address"].as_str().unwrap().to_owned();
            }
        };
        // Nobody else reads the log; a full pipe would stop the daemon.
        std::thread::spawn(move || lines.for_each(drop));
        Daemon { child, url: format!("http://{address}") }
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        shoal().args(arguments).args(["--url", &self.url]).output().unwrap()
    }

    pub fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["--json"]].concat());
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// A request with these lines in its head; the answer's status, head and JSON.
    pub fn ask(&self, method: &str, path: &str, head: &[&str], body: &Value) -> (u16, String, Value) {
        let address = self.url.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let lines: String = head.iter().map(|line| format!("{line}\r\n")).collect();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n{lines}\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head.to_lowercase(), serde_json::from_str(body).unwrap_or(Value::Null))
    }

    /// The body of an answer that is no JSON.
    pub fn body(&self, path: &str) -> String {
        let address = self.url.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    pub fn write(&self, ids: std::ops::Range<u64>) {
        let rows: Vec<Value> = ids.map(|id| json!({"id": id, "n": id})).collect();
        let (status, _, body) = self.ask("POST", "/v2/namespaces/docs", &[], &json!({"upsert_rows": rows}));
        assert_eq!(status, 200, "{body}");
    }

    /// How many documents there are, or none without the namespace.
    pub fn count(&self) -> Option<u64> {
        let (status, _, body) = self.ask("GET", "/v1/namespaces/docs/status", &[], &Value::Null);
        (status == 200).then(|| body["documents"].as_u64().unwrap())
    }

    pub fn is_ready(&self) -> bool {
        self.ask("GET", "/readyz", &[], &Value::Null).0 == 200
    }

    pub fn status(&self) -> Value {
        self.ask("GET", "/v1/sync", &[], &Value::Null).2
    }

    /// Asks until it is as wanted.
    pub fn until(&self, what: &str, is_so: impl Fn(&Daemon) -> bool) {
        let began = Instant::now();
        while !is_so(self) {
            assert!(began.elapsed() < PATIENCE, "{what} did not come to be: {}", self.status());
        }
    }

    /// SIGKILL; whatever it was doing.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, the exit code, and how long that took.
    pub fn stop(mut self) -> (Option<i32>, Duration) {
        let began = Instant::now();
        Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        (self.child.wait().unwrap().code(), began.elapsed())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A directory for two nodes, and one that is their bucket.
pub fn place() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let bucket = dir.path().join("bucket");
    std::fs::create_dir(&bucket).unwrap();
    (dir, bucket)
}

/// Every file below a directory.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// Whether everything is in the bucket, and the last pass went well.
pub fn is_together(daemon: &Daemon) -> bool {
    let status = daemon.status();
    status["in_bucket"] == true && status["error"].is_null()
}

/// Passes begin only when somebody asks.
pub const ON_REQUEST: [(&str, &str); 2] =
    [("SHOAL_SYNC__INTERVAL_SECONDS", "604800"), ("SHOAL_SYNC__METERED", "true")];
/// Passes begin all the time.
pub const ALL_THE_TIME: [(&str, &str); 1] = [("SHOAL_SYNC__INTERVAL_SECONDS", "1")];
