//! A daemon on a bucket behind a link, as a process that can be killed, and a client of it.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shoal::store::BucketConfig;

use crate::daemon;

/// How long something may take that happens by itself.
pub const WITHIN: Duration = Duration::from_secs(120);

pub struct Daemon {
    process: daemon::Daemon,
    data: PathBuf,
    bucket: BucketConfig,
}

impl Daemon {
    /// Calls to the bucket that lead nowhere end soon, and passes begin all the time.
    pub fn start(data: &Path, bucket: &BucketConfig) -> Daemon {
        Daemon { process: spawn(data, bucket), data: data.to_owned(), bucket: bucket.clone() }
    }

    /// SIGKILL; whatever it was doing.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// After a kill, on the same data.
    pub fn restart(&mut self) {
        self.process = spawn(&self.data, &self.bucket);
    }

    /// A request with these lines in its head; the answer's status, head and body.
    fn ask(&self, method: &str, path: &str, head: &[&str], body: &Value) -> Option<(u16, String, String)> {
        let address = self.process.url.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(WITHIN)).unwrap();
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let lines: String = head.iter().map(|line| format!("{line}\r\n")).collect();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n{lines}\r\n{body}",
            body.len()
        )
        .ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().unwrap();
        Some((status, head.to_lowercase(), body.to_owned()))
    }

    /// Upserts one document; whether that was acknowledged.
    pub fn put(&self, namespace: &str, id: u64, n: u64, head: &[&str]) -> bool {
        let body = json!({"upsert_rows": [{"id": id, "n": n, "text": "fish"}]});
        let answer = self.ask("POST", &format!("/v2/namespaces/{namespace}"), head, &body);
        answer.is_some_and(|(status, ..)| status == 200)
    }

    pub fn post(&self, path: &str, body: &Value) {
        let (status, _, answer) = self.ask("POST", path, &[], body).unwrap();
        assert_eq!(status, 200, "{path}: {answer}");
    }

    /// `n` of every document, or nothing without the namespace.
    pub fn all(&self, namespace: &str) -> Option<BTreeMap<u64, u64>> {
        let body = json!({"rank_by": ["id", "asc"], "limit": 10_000, "include_attributes": ["n"]});
        let (status, _, answer) = self.ask("POST", &format!("/v2/namespaces/{namespace}/query"), &[], &body)?;
        if status != 200 {
            return None;
        }
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let rows = answer["rows"].as_array().unwrap();
        Some(rows.iter().map(|row| (row["id"].as_u64().unwrap(), row["n"].as_u64().unwrap())).collect())
    }

    pub fn conflicts(&self, namespace: &str) -> usize {
        let (status, _, answer) =
            self.ask("GET", &format!("/v1/namespaces/{namespace}/conflicts"), &[], &Value::Null).unwrap();
        assert_eq!(status, 200, "{answer}");
        answer.lines().filter(|line| line.starts_with('{')).count()
    }

    /// Waits for a pass over everything, whatever it comes to. Names that are new in the bucket are looked for when somebody asks.
    pub fn sync(&self) {
        let _ = self.ask("POST", "/v1/sync", &[], &json!({"wait": true}));
    }

    pub fn status(&self) -> Value {
        let answer = self.ask("GET", "/v1/sync", &[], &Value::Null);
        answer.map_or(Value::Null, |(_, _, body)| serde_json::from_str(&body).unwrap())
    }

    pub fn is_ready(&self) -> bool {
        self.ask("GET", "/readyz", &[], &Value::Null).is_some_and(|(status, ..)| status == 200)
    }
}

fn spawn(data: &Path, bucket: &BucketConfig) -> daemon::Daemon {
    let mut command = daemon::serve(data);
    command
        .env("SHOAL_BUCKET__URL", &bucket.url)
        .env("SHOAL_BUCKET__ENDPOINT", bucket.endpoint.as_deref().unwrap())
        .env("SHOAL_BUCKET__ALLOW_HTTP", "true")
        .env("SHOAL_BUCKET__CREDENTIALS_FILE", bucket.credentials_file.as_ref().unwrap())
        .env("SHOAL_BUCKET__ASKED_DEADLINE_MS", "1000")
        .env("SHOAL_SYNC__INTERVAL_SECONDS", "1");
    daemon::Daemon::spawn(&mut command)
}

/// Asks until it is so.
pub fn until(what: &str, told: impl Fn() -> Value, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < WITHIN, "{what} did not come to be: {}", told());
        std::thread::yield_now();
    }
}
