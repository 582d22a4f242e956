//! Writes that depend on a state or may be sent twice: ETag, If-Match, Idempotency-Key, and names of requests.

use serde_json::json;

use super::client::{Daemon, ids};

const PATH: &str = "/v2/namespaces/docs";

#[test]
fn a_write_on_an_old_state_is_refused_and_changes_nothing() {
    let daemon = Daemon::start();
    let row = |id: u64| json!({"upsert_rows": [{"id": id}]}).to_string();
    let first = daemon.send("POST", PATH, &[], row(1).as_bytes());
    let old = first.header("etag").unwrap().to_owned();
    assert!(old.len() > 2 && old.starts_with('"') && old.ends_with('"') && !old[1..old.len() - 1].contains('"'));
    let second = daemon.send("POST", PATH, &[("if-match", &old)], row(2).as_bytes());
    assert_eq!(second.status, 200, "{}", second.text());
    let new = second.header("etag").unwrap().to_owned();
    assert_ne!(old, new);
    let late = daemon.send("POST", PATH, &[("if-match", &old)], row(3).as_bytes());
    assert_eq!((late.status, &late.json()["code"]), (412, &json!("precondition_failed")), "{}", late.text());
    let query = json!({"rank_by": ["id", "asc"], "limit": 9});
    let answer = daemon.post("/v2/namespaces/docs/query", &query);
    assert_eq!(ids(&answer.json()), [1, 2]);
    assert_eq!(answer.header("etag"), Some(new.as_str()));
    for path in ["/v2/namespaces/docs/metadata", "/v1/namespaces/docs/schema", "/v1/namespaces/docs/status"] {
        assert_eq!(daemon.get(path).header("etag"), Some(new.as_str()), "{path}");
    }
    assert_eq!(daemon.send("POST", PATH, &[("if-match", "*")], row(3).as_bytes()).status, 200);
    let absent = daemon.send("POST", "/v2/namespaces/absent", &[("if-match", "*")], row(3).as_bytes());
    assert_eq!(absent.status, 412);
    let absent = daemon.send("POST", "/v2/namespaces/absent", &[("if-match", &new)], row(3).as_bytes());
    assert_eq!(absent.status, 412);
    assert!(absent.error().ends_with("but the namespace is not there"), "{}", absent.error());
    assert_eq!(daemon.get("/v1/namespaces/absent/schema").status, 404);
    let list = format!("\"other\", {}", daemon.get("/v1/namespaces/docs/status").header("etag").unwrap());
    assert_eq!(daemon.send("POST", PATH, &[("if-match", &list)], row(5).as_bytes()).status, 200);
    for bad in ["", "x", "\"a\",", "\"", "\"a\"b\""] {
        let reply = daemon.send("POST", PATH, &[("if-match", bad)], row(4).as_bytes());
        assert_eq!(reply.status, 400, "{bad}: {}", reply.text());
    }
    let delete = daemon.send("DELETE", PATH, &[("if-match", &old)], b"");
    assert_eq!(delete.status, 400);
    assert!(delete.error().contains("If-Match is not offered for delete"));
    let copy = json!({"copy_from_namespace": "docs"}).to_string();
    let copy = daemon.send("POST", "/v2/namespaces/copy", &[("if-match", "*")], copy.as_bytes());
    assert_eq!((copy.status, daemon.get("/v1/namespaces/copy/schema").status), (400, 404), "{}", copy.text());
    let unless = daemon.send("POST", PATH, &[("if-none-match", "*")], row(1).as_bytes());
    assert_eq!(unless.status, 400);
    assert!(unless.error().contains("If-None-Match is not offered"));
}

#[test]
fn a_write_sent_twice_under_one_key_happens_once() {
    let daemon = Daemon::start();
    let body = json!({"upsert_rows": [{"id": 1, "n": 1}], "return_affected_ids": true}).to_string();
    let key = [("idempotency-key", "import-1")];
    let first = daemon.send("POST", PATH, &key, body.as_bytes());
    assert_eq!((first.status, first.header("idempotency-replayed")), (200, None), "{}", first.text());
    daemon.write("docs", &json!({"upsert_rows": [{"id": 1, "n": 2}]}));
    let again = daemon.send("POST", PATH, &key, body.as_bytes());
    assert_eq!((again.status, again.header("idempotency-replayed")), (200, Some("true")), "{}", again.text());
    assert_eq!(again.json()["rows_upserted"], first.json()["rows_upserted"]);
    // What it would name is not what the first one made: the next conditional write would replace what another wrote since.
    assert_eq!((again.header("etag"), again.json().get("upserted_ids")), (None, None), "{}", again.text());
    assert!(first.header("etag").is_some());
    let answer = daemon.query("docs", &json!({"rank_by": ["id", "asc"], "limit": 9, "include_attributes": true}));
    assert_eq!(answer["rows"], json!([{"id": 1, "n": 2}]));
    let other = json!({"upsert_rows": [{"id": 9}]}).to_string();
    let reused = daemon.send("POST", PATH, &key, other.as_bytes());
    assert_eq!((reused.status, &reused.json()["code"]), (422, &json!("idempotency_key_reused")), "{}", reused.text());
    for key in ["", &"k".repeat(300)] {
        assert_eq!(daemon.send("POST", PATH, &[("idempotency-key", key)], body.as_bytes()).status, 400);
    }
}

#[test]
fn requests_have_names() {
    let daemon = Daemon::start();
    let given = daemon.send("GET", "/v1/namespaces", &[("x-request-id", "tpreq_0a-1")], b"");
    assert_eq!(given.header("x-request-id"), Some("tpreq_0a-1"));
    let odd = daemon.send("GET", "/v1/namespaces/none/schema", &[("x-request-id", "a b\"<script>")], b"");
    let name = odd.header("x-request-id").unwrap();
    assert!(name.len() > 8 && !name.contains('<'));
    assert_eq!(odd.json()["request_id"], name);
    assert_ne!(daemon.get("/livez").header("x-request-id"), daemon.get("/livez").header("x-request-id"));
}
