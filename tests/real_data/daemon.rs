//! The real binary on a temporary directory, and clients that keep their connection.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// How long the daemon may take to answer, to stop, or to index what was written.
const PATIENCE: Duration = Duration::from_secs(120);
/// Clients that send at the same time.
const CLIENTS: usize = 3;

/// A daemon process over a data directory of its own; killed when dropped.
pub struct Daemon {
    pub address: SocketAddr,
    child: Child,
    dir: tempfile::TempDir,
}

impl Daemon {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (child, address) = spawn(&dir);
        Daemon { address, child, dir }
    }

    /// Stops the daemon in order and starts it again on the same directory.
    pub fn restart(&mut self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let asked = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(asked.elapsed() < PATIENCE, "the daemon does not stop");
            std::thread::sleep(Duration::from_millis(20));
        };
        assert!(status.success(), "the daemon stopped with {status}");
        (self.child, self.address) = spawn(&self.dir);
    }

    pub fn client(&self) -> Client {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client { stream: BufReader::new(stream) }
    }

    /// Calls `each` with every number below `count` and a connected client, several at the same time; the results are
    /// in order.
    pub fn parallel<T: Send>(&self, count: usize, each: impl Fn(&mut Client, usize) -> T + Sync) -> Vec<T> {
        let next = AtomicUsize::new(0);
        let mut done: Vec<(usize, T)> = std::thread::scope(|scope| {
            let work = || {
                let mut client = self.client();
                let mut done = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return done;
                    }
                    done.push((number, each(&mut client, number)));
                }
            };
            let threads: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(work)).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        done.sort_by_key(|(number, _)| *number);
        done.into_iter().map(|(_, result)| result).collect()
    }

    /// Waits until everything written is in segments.
    pub fn wait_until_indexed(&self, namespace: &str) {
        let began = Instant::now();
        let mut client = self.client();
        client.post(&format!("/v1/namespaces/{namespace}/checkpoint"), &serde_json::json!({}));
        loop {
            let metadata = client.get(&format!("/v2/namespaces/{namespace}/metadata"));
            if metadata["index"]["status"] == "up-to-date" {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "not indexed: {metadata}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(dir: &tempfile::TempDir) -> (Child, SocketAddr) {
    let binary = std::env::var_os("SHOAL_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_shoal").into());
    let mut child = Command::new(binary)
        .arg("serve")
        .arg("--data-dir")
        .arg(dir.path().join("data"))
        .args(["--listen", "127.0.0.1:0"])
        .env("SHOAL_LOG__FORMAT", "json")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The log may go to either stream; both are read to their end so that the daemon never waits for a reader.
    let (found, address) = mpsc::channel();
    let streams: [Box<dyn Read + Send>; 2] =
        [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
    for stream in streams {
        let found = found.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                if let Some(address) = address_in(&line) {
                    let _ = found.send(address);
                } else if line.contains("\"WARN\"") || line.contains("\"ERROR\"") {
                    eprintln!("daemon: {line}");
                }
            }
        });
    }
    (child, address.recv_timeout(PATIENCE).unwrap())
}

/// The address in the log line that says requests are answered.
fn address_in(line: &str) -> Option<SocketAddr> {
    if !line.contains("shoal answers requests") {
        return None;
    }
    let (_, rest) = line.split_once("127.0.0.1:")?;
    let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some(SocketAddr::from(([127, 0, 0, 1], port.parse().ok()?)))
}

/// One connection, kept.
pub struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    pub fn get(&mut self, path: &str) -> Value {
        self.send("GET", path, b"")
    }

    pub fn post(&mut self, path: &str, body: &Value) -> Value {
        self.send("POST", path, body.to_string().as_bytes())
    }

    /// Writes a body that is JSON already.
    pub fn write(&mut self, namespace: &str, body: &[u8]) -> Value {
        self.send("POST", &format!("/v2/namespaces/{namespace}"), body)
    }

    pub fn query(&mut self, namespace: &str, body: &Value) -> Value {
        self.post(&format!("/v2/namespaces/{namespace}/query"), body)
    }

    /// The rows of a query.
    pub fn rows(&mut self, namespace: &str, body: &Value) -> Vec<Value> {
        let mut answer = self.query(namespace, body);
        let rows =
            if answer["results"].is_array() { answer["results"][0]["rows"].take() } else { answer["rows"].take() };
        let Value::Array(rows) = rows else { panic!("{body}: no rows") };
        rows
    }

    pub fn count(&mut self, namespace: &str) -> u64 {
        let answer = self.query(namespace, &json!({ "aggregate_by": { "n": ["Count"] } }));
        answer["aggregations"]["n"].as_u64().unwrap()
    }

    /// Sends a request and expects success; waits and repeats where the daemon asks for it.
    fn send(&mut self, method: &str, path: &str, body: &[u8]) -> Value {
        let began = Instant::now();
        loop {
            let (status, answer) = self.once(method, path, body);
            let text = || String::from_utf8_lossy(&answer).into_owned();
            match status {
                200..=202 => return serde_json::from_slice(&answer).unwrap(),
                429 | 503 if began.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(100)),
                _ => panic!("{method} {path}: {status} {}", text()),
            }
        }
    }

    fn once(&mut self, method: &str, path: &str, body: &[u8]) -> (u16, Vec<u8>) {
        let stream = self.stream.get_mut();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let (mut status, mut length) = (0, 0);
        for number in 0.. {
            let mut line = String::new();
            assert_ne!(self.stream.read_line(&mut line).unwrap(), 0, "the daemon closed the connection");
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            if number == 0 {
                status = line.split(' ').nth(1).unwrap().parse().unwrap();
            } else if let Some((name, value)) = line.split_once(": ")
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.parse().unwrap();
            }
        }
        let mut answer = vec![0; length];
        self.stream.read_exact(&mut answer).unwrap();
        (status, answer)
    }
}
