//! What a client can make the server spend: bytes, memory, time, connections, turns.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use serde_json::json;
use shoal::api::limits::ServerConfig;

use super::client::{Daemon, Reply, gzip};

fn head(daemon: &Daemon, rest: &str) -> String {
    format!(
        "POST /v2/namespaces/docs HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\n{rest}",
        daemon.address
    )
}

#[test]
fn bodies_are_bounded_in_bytes_before_and_after_unpacking() {
    let daemon = Daemon::with(ServerConfig { body_bytes_max: 2 << 20, ..ServerConfig::default() });
    let padded = |bytes: usize| format!("{{\"deletes\":[1],\"x\":\"{}\"}}", "y".repeat(bytes));
    let large = padded(3 << 20);
    let declared = daemon.send("POST", "/v2/namespaces/docs", &[], large.as_bytes());
    assert_eq!((declared.status, &declared.json()["code"]), (413, &json!("too_large")));
    assert!(declared.error().contains("larger than 2097152 bytes"));
    let mut stream = daemon.connect();
    stream.write_all(head(&daemon, "transfer-encoding: chunked\r\n\r\n").as_bytes()).unwrap();
    for piece in large.as_bytes().chunks(64 << 10) {
        if stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).is_err() {
            break;
        }
        let _ = stream.write_all(piece);
        let _ = stream.write_all(b"\r\n");
    }
    let _ = stream.write_all(b"0\r\n\r\n");
    assert_eq!(Reply::read(&mut stream).status, 413);
    // Noise that does not compress, so that its size is what is refused.
    let noise: String = (0..700_000_u32).map(|n| format!("{:04x}", n.wrapping_mul(2_654_435_761) >> 16)).collect();
    let packed = gzip(format!("{{\"x\":\"{noise}\"}}").as_bytes());
    let encoding = [("content-encoding", "gzip")];
    let unpacked = daemon.send("POST", "/v2/namespaces/docs", &encoding, &packed);
    assert_eq!((unpacked.status, &unpacked.json()["code"]), (413, &json!("too_large")), "{}", unpacked.text());
    let bomb = daemon.send("POST", "/v2/namespaces/docs", &encoding, &gzip(padded(16 << 20).as_bytes()));
    assert_eq!((bomb.status, &bomb.json()["code"]), (413, &json!("too_large")), "{}", bomb.text());
    let values = format!("{{\"deletes\":[{}1]}}", "1,".repeat(300_000));
    let many = daemon.send("POST", "/v2/namespaces/docs", &[], values.as_bytes());
    assert_eq!(many.status, 413);
    assert!(many.error().contains("JSON values"), "{}", many.text());
    assert_eq!(daemon.send("POST", "/v2/namespaces/docs", &[("content-encoding", "br")], b"{}").status, 415);
    assert_eq!(daemon.send("POST", "/v2/namespaces/docs", &encoding, b"{}").status, 400);
    assert_eq!(daemon.get("/v1/namespaces").json()["namespaces"], json!([]));
}

#[test]
fn slow_clients_are_ended() {
    let daemon = Daemon::with(ServerConfig {
        header_timeout_ms: 300,
        body_idle_timeout_ms: 300,
        request_timeout_ms: 1_000,
        ..ServerConfig::default()
    });
    let began = Instant::now();
    let mut stream = daemon.connect();
    stream.write_all(b"POST /v2/namespaces/docs HTTP/1.1\r\nhost: loc").unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert!(began.elapsed() < Duration::from_secs(10), "a head may not take for ever");

    let mut stream = daemon.connect();
    stream.write_all(head(&daemon, "content-length: 100\r\n\r\n{").as_bytes()).unwrap();
    let reply = Reply::read(&mut stream);
    assert_eq!((reply.status, reply.header("connection")), (408, Some("close")));
    assert!(reply.error().contains("paused for more than 300 ms"), "{}", reply.text());

    // Never a long pause, and never an end.
    let mut stream = daemon.connect();
    stream.write_all(head(&daemon, "content-length: 100\r\n\r\n").as_bytes()).unwrap();
    let mut drip = stream.try_clone().unwrap();
    let dripping = std::thread::spawn(move || {
        while drip.write_all(b" ").is_ok() && began.elapsed().as_secs() < 10 {
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let reply = Reply::read(&mut stream);
    assert_eq!(reply.status, 408);
    assert!(reply.error().contains("was not complete after 1000 ms"), "{}", reply.text());
    drop(stream);
    dripping.join().unwrap();
}

#[test]
fn idle_connections_make_room_for_new_ones() {
    let daemon = Daemon::with(ServerConfig { connections_max: 4, ..ServerConfig::default() });
    let request = format!("GET /livez HTTP/1.1\r\nhost: {}\r\n\r\n", daemon.address);
    let mut idle = Vec::new();
    for _ in 0..12 {
        let mut stream = daemon.connect();
        stream.write_all(request.as_bytes()).unwrap();
        assert_eq!(Reply::read(&mut stream).status, 200);
        idle.push(stream);
    }
    // The newest is still there.
    let newest = idle.last_mut().unwrap();
    newest.write_all(request.as_bytes()).unwrap();
    assert_eq!(Reply::read(newest).status, 200);
    // The oldest was ended.
    let mut rest = Vec::new();
    assert_eq!(idle[0].read_to_end(&mut rest).unwrap(), 0);
}

#[test]
fn a_connection_is_kept_and_pipelined_requests_are_answered_in_order() {
    let daemon = Daemon::start();
    daemon.write("docs", &json!({"upsert_rows": [{"id": 1}]}));
    let mut stream = daemon.connect();
    let host = daemon.address;
    let both = format!(
        "GET /v1/namespaces HTTP/1.1\r\nhost: {host}\r\n\r\nGET /v1/namespaces/none/schema HTTP/1.1\r\nhost: {host}\r\n\r\n"
    );
    stream.write_all(both.as_bytes()).unwrap();
    assert_eq!(Reply::read(&mut stream).status, 200);
    assert_eq!(Reply::read(&mut stream).status, 404);
    stream.write_all(format!("HEAD /livez HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes()).unwrap();
    let mut start = [0; 15];
    stream.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"HTTP/1.1 200 OK");
}

#[test]
fn what_is_no_http_ends_its_connection_only() {
    let daemon = Daemon::start();
    for noise in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"GET\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
    ] {
        let mut stream = daemon.connect();
        let _ = stream.write_all(noise);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&answer));
    }
    let long = "x".repeat(100_000);
    let mut stream = daemon.connect();
    let _ = stream.write_all(format!("GET /livez HTTP/1.1\r\nhost: localhost\r\nx: {long}\r\n\r\n").as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(daemon.get("/livez").status, 200);
}

#[test]
fn requests_under_way_finish_when_the_server_stops() {
    let daemon = Daemon::start();
    let mut stream = daemon.connect();
    let body = br#"{"upsert_rows":[{"id":1}]}"#;
    stream.write_all(head(&daemon, &format!("content-length: {}\r\n\r\n", body.len())).as_bytes()).unwrap();
    stream.write_all(&body[..10]).unwrap();
    // An idle connection does not hold the server up.
    let _idle = daemon.connect();
    while !daemon.get("/metrics").text().contains("shoal_http_requests_in_flight 2") {
        std::thread::yield_now();
    }
    let began = Instant::now();
    let stopping = std::thread::spawn(move || drop(daemon));
    stream.write_all(&body[10..]).unwrap();
    let reply = Reply::read(&mut stream);
    assert_eq!(reply.status, 200, "{}", reply.text());
    stopping.join().unwrap();
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[test]
fn slow_readers_of_one_project_leave_turns_for_the_queries_of_another() {
    const QUERIES: usize = 20;
    let daemon = Daemon::start();
    let wide = "x".repeat(1 << 20);
    for id in 0..24 {
        let written = daemon.post(
            "/acme/slow/v2/namespaces/docs",
            &json!({"upsert_rows": [{"id": id, "text": wide}],
            "schema": {"text": {"type": "string", "filterable": false}}}),
        );
        assert_eq!(written.status, 200, "{}", written.text());
    }
    for path in ["/acme/slow/v2/namespaces/few", "/acme/other/v2/namespaces/docs"] {
        assert_eq!(daemon.post(path, &json!({"upsert_rows": [{"id": 1}]})).status, 200);
    }
    // More than there are turns, each with an answer that no buffer takes.
    let turns = (2 * std::thread::available_parallelism().map_or(2, |n| n.get())).max(4);
    let body = json!({"against": "few"}).to_string();
    let request = format!(
        "POST /acme/slow/v1/namespaces/docs/diff HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        daemon.address,
        body.len()
    );
    let mut readers: Vec<_> = (0..=turns).map(|_| daemon.connect()).collect();
    for reader in &mut readers {
        reader.write_all(request.as_bytes()).unwrap();
    }
    // Each turn that the project may have is taken once as many answers have begun.
    for reader in &mut readers {
        reader.set_nonblocking(true).unwrap();
    }
    let began = Instant::now();
    let has_begun = |reader: &std::net::TcpStream| reader.peek(&mut [0]).is_ok_and(|bytes| bytes == 1);
    while readers.iter().filter(|reader| has_begun(reader)).count() < turns / 2 {
        assert!(began.elapsed() < Duration::from_secs(20), "no answers");
        std::thread::yield_now();
    }
    for n in 0..QUERIES {
        let body = json!({"rank_by": ["id", "asc"], "limit": 1});
        let reply = daemon.post("/acme/other/v2/namespaces/docs/query", &body);
        assert_eq!(reply.status, 200, "query {n}: {}", reply.text());
    }
}
