//! A daemon's server on a port of its own, and a client that sends exactly the bytes it is told to.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use shoal::api::limits::ServerConfig;
use shoal::api::server::serve;
use shoal::engine::{Engine, EngineConfig};
use shoal::platform::clock::SystemClock;
use shoal::platform::random::SystemRandom;
use shoal::platform::real_disk::RealDisk;

/// A server over an empty data directory; stopped when dropped.
pub struct Daemon {
    pub address: SocketAddr,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

/// An answer, its body unpacked if it was packed.
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Daemon {
    pub fn start() -> Self {
        Self::with(ServerConfig::default())
    }

    pub fn with(config: ServerConfig) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let (ready, address) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async move {
                let served = tokio::spawn(async move {
                    let engine = tokio::task::block_in_place(|| {
                        let (clock, random) = (Arc::new(SystemClock), Arc::new(SystemRandom));
                        Engine::open(EngineConfig::new(&data), Arc::new(RealDisk), clock, random).unwrap()
                    });
                    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                    ready.send(listener.local_addr().unwrap()).unwrap();
                    serve(listener, config, Arc::clone(&engine), async {
                        let _ = stopped.await;
                    })
                    .await
                    .unwrap();
                    engine.shutdown().await.unwrap();
                });
                served.await.unwrap();
            });
        });
        Daemon { address: address.recv().unwrap(), stop: Some(stop), thread: Some(thread), _dir: dir }
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// Sends a request with these headers besides `host` and, with a body, type and length.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let has = |name: &str| headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
        let mut head = format!("{method} {path} HTTP/1.1\r\n");
        if !has("host") {
            head += &format!("host: {}\r\n", self.address);
        }
        if !body.is_empty() && !has("content-type") {
            head += "content-type: application/json\r\n";
        }
        if !body.is_empty() && !has("content-length") {
            head += &format!("content-length: {}\r\n", body.len());
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        let mut stream = self.connect();
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(b"connection: close\r\n\r\n").unwrap();
        // A server that refuses early may stop to read; its answer is there all the same.
        let _ = stream.write_all(body);
        Reply::read(&mut stream)
    }

    pub fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], b"")
    }

    pub fn post(&self, path: &str, body: &Value) -> Reply {
        self.send("POST", path, &[], body.to_string().as_bytes())
    }

    /// Writes, and expects that it is done.
    pub fn write(&self, namespace: &str, body: &Value) -> Value {
        let reply = self.post(&format!("/v2/namespaces/{namespace}"), body);
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()
    }

    /// Queries, and expects an answer.
    pub fn query(&self, namespace: &str, body: &Value) -> Value {
        let reply = self.post(&format!("/v2/namespaces/{namespace}/query"), body);
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.unwrap();
            }
        }
    }
}

impl Reply {
    /// Reads one answer; it must say its length, or where each of its pieces ends.
    pub fn read(stream: &mut TcpStream) -> Self {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read(&mut byte) {
                Ok(1) => head.push(byte[0]),
                other => panic!("no answer: {other:?} after {:?}", String::from_utf8_lossy(&head)),
            }
        }
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: Vec<(String, String)> = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let mut reply = Reply { status, headers, body: Vec::new() };
        if reply.header("transfer-encoding") == Some("chunked") {
            reply.body = chunks(stream);
        } else {
            let length = reply.header("content-length").map_or(0, |length| length.parse().unwrap());
            reply.body = vec![0; length];
            stream.read_exact(&mut reply.body).unwrap();
        }
        if reply.header("content-encoding") == Some("gzip") {
            let mut body = Vec::new();
            flate2::read::GzDecoder::new(reply.body.as_slice()).read_to_end(&mut body).unwrap();
            reply.body = body;
        }
        reply
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The text of an error in the contract's shape.
    pub fn error(&self) -> String {
        let body = self.json();
        assert_eq!(body["status"], "error", "{body}");
        assert!(body["request_id"].is_string(), "{body}");
        body["error"].as_str().unwrap().to_owned()
    }
}

/// The pieces of a body whose length is not known before.
fn chunks(stream: &mut TcpStream) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let (mut line, mut byte) = (Vec::new(), [0]);
        while !line.ends_with(b"\r\n") {
            stream.read_exact(&mut byte).unwrap();
            line.push(byte[0]);
        }
        let length = usize::from_str_radix(std::str::from_utf8(&line).unwrap().trim(), 16).unwrap();
        let mut piece = vec![0; length + 2];
        stream.read_exact(&mut piece).unwrap();
        assert!(piece.ends_with(b"\r\n"));
        body.extend_from_slice(&piece[..length]);
        if length == 0 {
            return body;
        }
    }
}

/// The ids of an answer's rows.
pub fn ids(answer: &Value) -> Vec<u64> {
    answer["rows"].as_array().unwrap().iter().map(|row| row["id"].as_u64().unwrap()).collect()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
