//! Who may come in: tokens and their scopes, hosts, origins, content types.

use serde_json::json;
use shoal::api::auth::{Scope, Token, Tokens};
use shoal::api::limits::ServerConfig;
use shoal::model::ids::Project;

use super::client::{Daemon, Reply};

fn guarded() -> Daemon {
    let acme = Some(Project::new("acme", "search").unwrap());
    let tokens = Tokens::new(vec![
        Token::new("reader", Scope::Read, None),
        Token::new("writer", Scope::Write, None),
        Token::new("admin", Scope::Admin, None),
        Token::new("acme-writer", Scope::Write, acme),
    ]);
    Daemon::with(ServerConfig { tokens: Some(tokens), ..ServerConfig::default() })
}

fn ask(daemon: &Daemon, token: Option<&str>, method: &str, path: &str, body: &str) -> Reply {
    let header = token.map(|token| format!("Bearer {token}"));
    let headers: Vec<(&str, &str)> = header.iter().map(|header| ("authorization", header.as_str())).collect();
    daemon.send(method, path, &headers, body.as_bytes())
}

#[test]
fn a_token_allows_its_scope_and_no_more() {
    let daemon = guarded();
    let write = r#"{"upsert_rows":[{"id":1,"n":1,"vector":[1,0]}],"distance_metric":"cosine_distance"}"#;
    let query = r#"{"rank_by":["id","asc"],"limit":1}"#;
    // What is asked, and the least token that may.
    let cases = [
        ("POST", "/v2/namespaces/docs", write, "writer"),
        ("POST", "/v2/namespaces/docs/query", query, "reader"),
        ("POST", "/v2/namespaces/docs/explain_query", query, "reader"),
        ("GET", "/v1/namespaces/docs/schema", "", "reader"),
        ("POST", "/v1/namespaces/docs/schema", r#"{"m":"int"}"#, "writer"),
        ("GET", "/v2/namespaces/docs/metadata", "", "reader"),
        ("PATCH", "/v1/namespaces/docs/metadata", r#"{"pinning":false}"#, "writer"),
        ("GET", "/v1/namespaces/docs/hint_cache_warm", "", "reader"),
        ("POST", "/v1/namespaces/docs/_debug/recall", "{}", "reader"),
        ("GET", "/v1/namespaces/docs/_debug/warm_cache", "", "admin"),
        ("GET", "/v1/namespaces/docs/_debug/purge_cache", "", "admin"),
        ("GET", "/v1/namespaces/docs/status", "", "reader"),
        ("PUT", "/v1/namespaces/docs/labels", r#"{"a":"b"}"#, "writer"),
        ("PUT", "/v1/namespaces/docs/pin", "", "writer"),
        ("DELETE", "/v1/namespaces/docs/pin", "", "writer"),
        ("POST", "/v1/namespaces/docs/ids", r#"{"count":1}"#, "writer"),
        ("POST", "/v1/namespaces/docs/checkpoint", "", "admin"),
        ("POST", "/v1/namespaces/docs/compact", "", "admin"),
        ("PUT", "/v1/namespaces/made", "{}", "writer"),
        ("POST", "/v2/namespaces/copy", r#"{"copy_from_namespace":"docs"}"#, "writer"),
        ("POST", "/v2/namespaces/copy2/async", r#"{"copy_from_namespace":"docs"}"#, "writer"),
        ("GET", "/v1/namespaces", "", "reader"),
        ("GET", "/metrics", "", "reader"),
        ("GET", "/v1/status", "", "admin"),
        ("DELETE", "/v2/namespaces/docs", "", "writer"),
    ];
    let tokens = ["reader", "writer", "admin"];
    for (method, path, body, least) in cases {
        for token in [None, Some(""), Some("wrong"), Some("read")] {
            let reply = ask(&daemon, token, method, path, body);
            assert_eq!(reply.status, 401, "{method} {path} with {token:?}");
            assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
            assert!(!reply.text().contains("wrong"), "the token is echoed");
        }
        let needed = tokens.iter().position(|token| *token == least).unwrap();
        for (rank, token) in tokens.iter().enumerate() {
            if rank < needed {
                assert_eq!(ask(&daemon, Some(token), method, path, body).status, 403, "{method} {path} with {token}");
            }
        }
        let reply = ask(&daemon, Some(least), method, path, body);
        assert!(reply.status < 300, "{method} {path} with {least}: {} {}", reply.status, reply.text());
    }
    assert_eq!(ask(&daemon, None, "GET", "/livez", "").status, 200);
    assert_eq!(ask(&daemon, None, "GET", "/readyz", "").status, 200);
    assert_eq!(ask(&daemon, None, "GET", "/no/such/path", "").status, 401);
    assert_eq!(ask(&daemon, Some("reader"), "GET", "/no/such/path", "").status, 404);
}

#[test]
fn a_projects_token_is_good_for_that_project() {
    let daemon = guarded();
    let write = r#"{"upsert_rows":[{"id":1}]}"#;
    assert_eq!(ask(&daemon, Some("acme-writer"), "POST", "/acme/search/v2/namespaces/docs", write).status, 200);
    for path in ["/v2/namespaces/docs", "/acme/other/v2/namespaces/docs", "/other/search/v2/namespaces/docs"] {
        assert_eq!(ask(&daemon, Some("acme-writer"), "POST", path, write).status, 403, "{path}");
    }
    assert_eq!(ask(&daemon, Some("acme-writer"), "GET", "/metrics", "").status, 403);
    assert_eq!(ask(&daemon, Some("acme-writer"), "GET", "/acme/search/v1/namespaces", "").status, 200);
}

#[test]
fn a_stranger_is_refused_before_its_body_is_read() {
    let daemon = guarded();
    // The body never comes; the answer does.
    let headers = [("content-length", "1000000"), ("content-type", "application/json"), ("expect", "100-continue")];
    let reply = daemon.send("POST", "/v2/namespaces/docs", &headers, b"");
    assert_eq!((reply.status, reply.header("connection")), (401, Some("close")));
    let headers = [("host", "evil.example"), ("content-length", "1000000"), ("expect", "100-continue")];
    assert_eq!(daemon.send("POST", "/v2/namespaces/docs", &headers, b"").status, 403);
}

#[test]
fn web_pages_reach_nothing() {
    let daemon = Daemon::start();
    let write = br#"{"upsert_rows":[{"id":1}]}"#;
    let refused = |headers: &[(&str, &str)], status: u16| {
        let reply = daemon.send("POST", "/v2/namespaces/docs", headers, write);
        assert_eq!(reply.status, status, "{headers:?}: {}", reply.text());
        assert_eq!(reply.header("access-control-allow-origin"), None);
    };
    refused(&[("host", "evil.example")], 403);
    refused(&[("host", "evil.example:7345")], 403);
    refused(&[("host", "127.0.0.1.evil.example")], 403);
    refused(&[("origin", "https://evil.example")], 403);
    refused(&[("origin", "null")], 403);
    refused(&[("sec-fetch-site", "cross-site")], 403);
    refused(&[("sec-fetch-site", "same-site")], 403);
    refused(&[("content-type", "text/plain")], 415);
    refused(&[("content-type", "application/x-www-form-urlencoded")], 415);
    refused(&[("content-type", "")], 415);
    let preflight = [("origin", "https://evil.example"), ("access-control-request-method", "POST")];
    assert_eq!(daemon.send("OPTIONS", "/v2/namespaces/docs", &preflight, b"").status, 403);
    for path in ["/v1/namespaces", "/metrics", "/livez", "/v1/status"] {
        assert_eq!(daemon.send("GET", path, &[("host", "evil.example")], b"").status, 403, "{path}");
        assert_eq!(daemon.send("GET", path, &[("sec-fetch-site", "cross-site")], b"").status, 403, "{path}");
    }
    assert_eq!(daemon.get("/v1/namespaces").json()["namespaces"], json!([]));
    let own = format!("http://{}", daemon.address);
    let headers = [("origin", own.as_str()), ("sec-fetch-site", "same-origin")];
    assert_eq!(daemon.send("POST", "/v2/namespaces/docs", &headers, write).status, 200);
}
