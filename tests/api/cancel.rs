//! Searches that take long: ended when their client goes away, at their deadline, and at their share of memory.

use std::io::Write;

use serde_json::{Value, json};
use shoal::api::limits::ServerConfig;

use super::client::Daemon;

/// A query that takes minutes: thousands of phrases in long texts that have their words, but never one behind the other.
fn endless() -> Value {
    let phrases = vec![json!(["text", "ContainsTokenSequence", "deep blue"]); 4_000];
    json!({"filters": ["Or", phrases], "rank_by": ["id", "asc"], "limit": 1})
}

fn with(config: ServerConfig) -> Daemon {
    let daemon = Daemon::with(config);
    let text = "blue fish deep fish ".repeat(50);
    let rows: Vec<Value> = (0..2_000).map(|id| json!({"id": id, "text": text, "note": "x"})).collect();
    let schema = json!({
        "text": {"type": "string", "full_text_search": true}, "note": {"type": "string", "filterable": false},
    });
    daemon.write("docs", &json!({"schema": schema, "upsert_rows": rows}));
    daemon
}

/// A figure of `/metrics`.
fn figure(daemon: &Daemon, name: &str) -> u64 {
    let text = daemon.get("/metrics").text();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// Its turn is the only one, so that who comes next is answered only because it ends.
#[test]
fn a_search_ends_when_its_client_goes_away() {
    let daemon = with(ServerConfig {
        queries_concurrent_max: 1,
        query_wait_ms: 3_600_000,
        query_timeout_ms: 3_600_000,
        request_timeout_ms: 3_600_000,
        ..ServerConfig::default()
    });
    let body = endless().to_string();
    let mut stream = daemon.connect();
    let head = format!(
        "POST /v2/namespaces/docs/query HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body.as_bytes()).unwrap();
    while figure(&daemon, "shoal_searches ") == 0 {}
    drop(stream);
    let answer = daemon.query("docs", &json!({"rank_by": ["id", "asc"], "limit": 1}));
    assert_eq!(answer["rows"][0]["id"], 0);
    assert_eq!(figure(&daemon, "shoal_searches_abandoned_total"), 1);
    assert_eq!(figure(&daemon, "shoal_searches "), 0);
}

#[test]
fn a_search_ends_at_its_deadline() {
    let daemon = with(ServerConfig { query_timeout_ms: 1, ..ServerConfig::default() });
    let reply = daemon.post("/v2/namespaces/docs/query", &endless());
    assert_eq!((reply.status, reply.json()["code"].as_str().unwrap()), (400, "query_timeout"), "{}", reply.text());
    assert!(reply.json()["hint"].as_str().unwrap().contains("server.query_timeout_ms"));
    assert_eq!(figure(&daemon, "shoal_searches_abandoned_total"), 0);
}

#[test]
fn a_search_has_a_share_of_memory() {
    let daemon = with(ServerConfig { query_bytes_max: 100_000, ..ServerConfig::default() });
    let many: Vec<Value> = (0..9).map(|_| json!(["Sum", [["note", "Eq", "x"]]])).collect();
    assert_eq!(
        daemon.post("/v1/namespaces/docs/schema", &json!({"note": {"type": "string", "filterable": true}})).status,
        200
    );
    let query = json!({"rank_by": ["Sum", many], "limit": 1});
    let reply = daemon.post("/v2/namespaces/docs/query", &query);
    assert_eq!((reply.status, reply.json()["code"].as_str().unwrap()), (400, "query_too_large"), "{}", reply.text());
    daemon.query("docs", &json!({"rank_by": ["Sum", [["note", "Eq", "x"]]], "limit": 1}));
}

/// Two namespaces of one lineage, each with its own state of so many documents.
fn apart(daemon: &Daemon, documents: u64) {
    let rows = |text: &str| -> Value {
        let row = |id: u64| json!({"id": id, "a": format!("{text} {id}"), "b": vec![text; 20]});
        (0..documents).map(row).collect()
    };
    let schema =
        json!({"a": {"type": "string", "filterable": false}, "b": {"type": "[]string", "filterable": false}});
    daemon.write("main", &json!({"schema": schema, "upsert_rows": rows("common")}));
    daemon.write("side", &json!({"branch_from_namespace": "main"}));
    for name in ["main", "side"] {
        daemon.write(name, &json!({"upsert_rows": rows(name)}));
    }
}

#[test]
fn a_merge_takes_a_turn_among_the_queries() {
    let config = ServerConfig { queries_concurrent_max: 1, query_wait_ms: 100, ..ServerConfig::default() };
    let daemon = with(ServerConfig { query_timeout_ms: 3_600_000, request_timeout_ms: 3_600_000, ..config });
    daemon.write("side", &json!({"branch_from_namespace": "docs"}));
    let body = endless().to_string();
    let mut stream = daemon.connect();
    let length = body.len();
    let head = format!(
        "POST /v2/namespaces/docs/query HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all((head + &body).as_bytes()).unwrap();
    while figure(&daemon, "shoal_searches ") == 0 {}
    for dry_run in [true, false] {
        let merge = json!({"source": "side", "dry_run": dry_run});
        let reply = daemon.post("/v1/namespaces/docs/merge", &merge);
        assert_eq!(reply.status, 429, "{}", reply.text());
    }
    drop(stream);
    while figure(&daemon, "shoal_searches ") > 0 {}
    assert_eq!(daemon.post("/v1/namespaces/docs/merge", &json!({"source": "side"})).status, 200);
}

#[test]
fn a_dry_run_ends_when_its_client_goes_away_and_a_merge_does_not() {
    let daemon =
        Daemon::with(ServerConfig { queries_concurrent_max: 1, query_wait_ms: 3_600_000, ..ServerConfig::default() });
    apart(&daemon, 10_000);
    let send = |body: Value| {
        let (mut stream, body) = (daemon.connect(), body.to_string());
        let length = body.len();
        let head = format!(
            "POST /v1/namespaces/main/merge HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        );
        stream.write_all((head + &body).as_bytes()).unwrap();
        stream
    };
    // It may be over before anybody sees it begin, or its client gone before it does: then once more.
    let is_caught = || {
        let stream = send(json!({"source": "side", "policy": "lww", "dry_run": true}));
        let begins = (0..1_000).any(|_| figure(&daemon, "shoal_searches ") > 0);
        drop(stream);
        while figure(&daemon, "shoal_searches ") > 0 {}
        begins && figure(&daemon, "shoal_searches_abandoned_total") > 0
    };
    assert!((0..20).any(|_| is_caught()), "no dry run was given up");
    let seven =
        json!({"filters": ["id", "Eq", 7], "rank_by": ["id", "asc"], "limit": 1, "include_attributes": ["a"]});
    let is_merged = || {
        let stream = send(json!({"source": "side", "policy": "theirs"}));
        let _ = (0..1_000).any(|_| figure(&daemon, "shoal_http_requests_in_flight ") > 1);
        drop(stream);
        daemon.query("main", &seven)["rows"][0]["a"] == "side 7"
    };
    assert!((0..20).any(|_| is_merged()), "no merge was done");
}
