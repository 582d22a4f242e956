//! What a durable write costs: over HTTP against the bare append and barrier, alone and with many writers.
//!
//! `cargo bench --bench writes`; the data directory is made in the current directory's file system (`TMPDIR` elsewhere).
//! Prints three comparisons, each a ratio or difference within this run:
//! - p50 of a single-document write over HTTP, and of the log's own append and fdatasync of the same bytes;
//! - writes a second of 64 writers and of one, with a barrier of 4 ms put in through `Disk`;
//! - barriers per write of 64 writers on the real disk.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on fails")]

mod measured;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::json;
use shoal::api::limits::ServerConfig;
use shoal::api::server::serve;
use shoal::engine::{Engine, EngineConfig};
use shoal::platform::clock::SystemClock;
use shoal::platform::disk::Disk;
use shoal::platform::random::SystemRandom;
use shoal::platform::real_disk::RealDisk;
use tokio::net::{TcpListener, TcpStream};

use self::measured::MeasuredDisk;

const WRITES: usize = 2_000;
const WRITERS: usize = 64;

/// A server of its own, and how to reach it.
struct Server {
    address: std::net::SocketAddr,
    barriers: Arc<AtomicU64>,
    _dir: tempfile::TempDir,
}

async fn start(barrier: Duration) -> Server {
    let dir = tempfile::tempdir_in(std::env::var("TMPDIR").unwrap_or_else(|_| ".".into())).unwrap();
    let barriers = Arc::new(AtomicU64::new(0));
    let disk = Arc::new(MeasuredDisk { barrier, barriers: barriers.clone() });
    let config = EngineConfig::new(dir.path().join("data"));
    let engine = Engine::open(config, disk, Arc::new(SystemClock), Arc::new(SystemRandom)).unwrap();
    engine.rebuild_index().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { serve(listener, ServerConfig::default(), engine, std::future::pending()).await });
    Server { address, barriers, _dir: dir }
}

struct Client {
    sender: SendRequest<Full<Bytes>>,
    address: std::net::SocketAddr,
}

impl Client {
    async fn connect(address: std::net::SocketAddr) -> Client {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Client { sender, address }
    }

    async fn write(&mut self, id: usize) {
        let body = json!({"upsert_rows": [{"id": id, "text": "a durable document", "n": id}]}).to_string();
        let request = Request::builder()
            .method(Method::POST)
            .uri("/v2/namespaces/docs")
            .header("host", self.address.to_string())
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .unwrap();
        self.sender.ready().await.unwrap();
        let answer = self.sender.send_request(request).await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.into_body().collect().await.unwrap();
    }
}

fn percentile(times: &mut [Duration], share: f64) -> Duration {
    times.sort_unstable();
    times[((times.len() - 1) as f64 * share) as usize]
}

/// Appends as many bytes as a write's frame has and makes them durable, as the log does.
fn bare_barriers(dir: &Path) -> Vec<Duration> {
    let path = dir.join("bare");
    let mut file = RealDisk.create(&path).unwrap();
    let frame = [7u8; 160];
    (0..WRITES)
        .map(|_| {
            let began = Instant::now();
            file.write(&frame).unwrap();
            file.sync().unwrap();
            began.elapsed()
        })
        .collect()
}

async fn writers_per_second(server: &Server, writers: usize, each: usize) -> f64 {
    let mut tasks = tokio::task::JoinSet::new();
    let began = Instant::now();
    for writer in 0..writers {
        let mut client = Client::connect(server.address).await;
        tasks.spawn(async move {
            for n in 0..each {
                client.write(writer * 1_000_000 + n).await;
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    (writers * each) as f64 / began.elapsed().as_secs_f64()
}

/// The clients have threads of their own, as they have in real life.
fn main() {
    let server_runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let clients = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let start = |barrier| server_runtime.block_on(async move { tokio::spawn(start(barrier)).await.unwrap() });
    clients.block_on(measure(start(Duration::ZERO), start(Duration::from_millis(4))));
}

async fn measure(server: Server, slow: Server) {
    let mut client = Client::connect(server.address).await;
    for n in 0..200 {
        client.write(n).await;
    }
    // Taken in turns, so that what else the machine does hits both.
    let (mut bare, mut http) = (Vec::new(), Vec::new());
    for round in 0..4 {
        bare.extend(bare_barriers(&server._dir.path().join("data")));
        std::fs::remove_file(server._dir.path().join("data/bare")).unwrap();
        for n in 0..WRITES {
            let began = Instant::now();
            client.write(round * WRITES + n).await;
            http.push(began.elapsed());
        }
    }
    let (bare_p50, http_p50) = (percentile(&mut bare, 0.5), percentile(&mut http, 0.5));
    println!("append and fdatasync: p50 {bare_p50:?}, p99 {:?}", percentile(&mut bare, 0.99));
    println!("durable write over HTTP: p50 {http_p50:?}, p99 {:?}", percentile(&mut http, 0.99));
    println!("above the bare barrier at p50: {:?} (bound: 150 us)", http_p50.saturating_sub(bare_p50));

    let before = server.barriers.load(Ordering::Relaxed);
    let rate = writers_per_second(&server, WRITERS, 200).await;
    let barriers = server.barriers.load(Ordering::Relaxed) - before;
    let per_barrier = (WRITERS * 200) as f64 / barriers as f64;
    println!(
        "{WRITERS} writers on this disk: {rate:.0} writes a second, {per_barrier:.1} writes a barrier (bound: 8)"
    );

    let one = writers_per_second(&slow, 1, 200).await;
    let many = writers_per_second(&slow, WRITERS, 100).await;
    println!(
        "barrier of 4 ms: one writer {one:.0}, {WRITERS} writers {many:.0} a second: {:.1} times (bound: 20)",
        many / one
    );
}
