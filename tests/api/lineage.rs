//! Branches, past states, tags and deleted namespaces by HTTP.

use serde_json::{Value, json};

use super::client::{Daemon, ids};

const ROWS: &str = "/v2/namespaces/main/query";

fn all() -> Value {
    json!({"rank_by": ["id", "asc"], "limit": 100})
}

fn as_of(state: Value) -> Value {
    json!({"rank_by": ["id", "asc"], "limit": 100, "as_of": state})
}

fn put(daemon: &Daemon, path: &str, body: &Value) -> super::client::Reply {
    daemon.send("PUT", path, &[], body.to_string().as_bytes())
}

#[test]
fn a_branch_is_made_by_the_contracts_write_and_seen_in_status_and_tree() {
    let daemon = Daemon::start();
    daemon.write("main", &json!({"upsert_rows": [{"id": 1}, {"id": 2}]}));
    let reply =
        daemon.post("/v2/namespaces/b?stainless_overload=branchFrom", &json!({"branch_from_namespace": "main"}));
    assert_eq!(reply.status, 200);
    let answer = reply.json();
    assert_eq!((&answer["message"], &answer["rows_affected"]), (&json!("namespace branch successful"), &json!(0)));
    daemon.write("b", &json!({"upsert_rows": [{"id": 3}]}));
    assert_eq!(ids(&daemon.post("/v2/namespaces/b/query", &all()).json()), [1, 2, 3]);
    assert_eq!(ids(&daemon.post(ROWS, &all()).json()), [1, 2]);
    let nested = json!({"branch_from_namespace": {"source_namespace": "b", "ttl": "2h", "as_of": {"generation": 0}}});
    assert_eq!(daemon.post("/v2/namespaces/c", &nested).status, 200);
    let status = daemon.get("/v1/namespaces/b/status").json();
    assert_eq!(status["lineage"]["parent"], "default/default/main");
    assert_eq!(status["branches"], json!(["default/default/c"]));
    let tree = daemon.get("/v1/tree").json();
    let parents: Vec<(&str, Option<&str>)> = tree["namespaces"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| (node["name"].as_str().unwrap(), node["parent"].as_str()))
        .collect();
    assert_eq!(parents, [("b", Some("main")), ("c", Some("b")), ("main", None)]);
    assert!(tree["namespaces"][1]["expires_at"].is_string());
    let forever = put(&daemon, "/v1/namespaces/c/ttl", &json!({"ttl": null}));
    assert_eq!(forever.json()["expires_at"], Value::Null);
    for (body, status) in [
        (json!({"branch_from_namespace": "x"}), 400),
        (json!({"branch_from_namespace": "gone"}), 404),
        (json!({"branch_from_namespace": "main", "upsert_rows": [{"id": 1}]}), 400),
        (json!({"branch_from_namespace": {"source": "main"}}), 422),
        (json!({"branch_from_namespace": {"source_namespace": "main", "ttl": "2 weeks"}}), 400),
        (json!({"branch_from_namespace": {"source_namespace": "main", "as_of": 99}}), 400),
    ] {
        let reply = daemon.post("/v2/namespaces/x", &body);
        assert_eq!(reply.status, status, "{body}");
        reply.error();
    }
    assert_eq!(daemon.post("/v2/namespaces/b", &json!({"branch_from_namespace": "main"})).status, 400);
}

#[test]
fn queries_ask_for_past_states_by_generation_tag_and_time() {
    let daemon = Daemon::start();
    daemon.write("main", &json!({"upsert_rows": [{"id": 1}, {"id": 2}]}));
    assert_eq!(put(&daemon, "/v1/namespaces/main/tags/before", &json!({})).status, 200);
    assert_eq!(daemon.post("/v1/namespaces/main/checkpoint", &json!({})).status, 200);
    let history = daemon.get("/v1/namespaces/main/history").json();
    let (generation, commit) = (history["history"][0]["generation"].clone(), history["history"][0]["commit"].clone());
    let instant = history["history"][0]["committed_at"].clone();
    daemon.write("main", &json!({"upsert_rows": [{"id": 3}], "deletes": [1]}));
    assert_eq!(daemon.post("/v1/namespaces/main/checkpoint", &json!({})).status, 200);
    for state in [generation, commit, json!("before"), json!({"tag": "before"}), json!({"instant": instant})] {
        let rows = daemon.post(ROWS, &as_of(state.clone())).json();
        assert_eq!(ids(&rows), [1, 2], "{state}");
    }
    assert_eq!(ids(&daemon.post(ROWS, &as_of(json!("2100-01-01T00:00:00Z"))).json()), [2, 3]);
    assert_eq!(daemon.post(ROWS, &as_of(json!("1999-01-01T00:00:00Z"))).status, 410);
    assert_eq!(daemon.post(ROWS, &as_of(json!("no-such-tag"))).status, 404);
    assert_eq!(daemon.post(ROWS, &as_of(json!([]))).status, 422);
    assert_eq!(daemon.get("/v1/namespaces/main/tags").json()["tags"][0]["tag"], "before");
    assert_eq!(put(&daemon, "/v1/namespaces/main/tags/before", &json!({})).status, 400);
    assert_eq!(put(&daemon, "/v1/namespaces/main/tags/x", &json!({"of": 1})).status, 422);
    assert_eq!(daemon.send("DELETE", "/v1/namespaces/main/tags/before", &[], b"").status, 200);
    assert_eq!(daemon.get("/v1/namespaces/main/tags/before").status, 404);
}

#[test]
fn a_misspelt_field_is_refused_before_anything_is_done() {
    let daemon = Daemon::start();
    daemon.write("main", &json!({"upsert_rows": [{"id": 1}]}));
    assert_eq!(put(&daemon, "/v1/namespaces/main/ttl", &json!({"ttl": "1h", "as_of": 0})).status, 422);
    assert_eq!(daemon.get("/v1/namespaces/main/status").json()["expires_ms"], Value::Null);
    let revert = daemon.post("/v1/namespaces/main/revert", &json!({"as_of": 0, "dry_run": true}));
    assert_eq!((revert.status, ids(&daemon.post(ROWS, &all()).json())), (422, vec![1]));
    assert_eq!(daemon.send("DELETE", "/v2/namespaces/main", &[], b"").status, 200);
    let other = "0198d3c0-0000-7000-8000-000000000001";
    assert_eq!(daemon.post("/v1/namespaces/main/undelete", &json!({"nsld": other})).status, 422);
    assert_eq!(daemon.post(ROWS, &all()).status, 404);
}

#[test]
fn a_deleted_namespace_is_listed_and_comes_back() {
    let daemon = Daemon::start();
    daemon.write("main", &json!({"upsert_rows": [{"id": 1}, {"id": 2}]}));
    assert_eq!(daemon.send("DELETE", "/v2/namespaces/main", &[], b"").status, 200);
    assert_eq!(daemon.post(ROWS, &all()).status, 404);
    assert_eq!(daemon.get("/v1/deleted").json()["deleted"][0]["name"], "main");
    assert_eq!(daemon.get("/acme/search/v1/deleted").json()["deleted"], json!([]));
    assert_eq!(daemon.post("/v1/namespaces/main/undelete", &json!({"nsid": "x"})).status, 400);
    assert_eq!(daemon.post("/v1/namespaces/main/undelete", &json!({})).status, 200);
    assert_eq!(ids(&daemon.post(ROWS, &all()).json()), [1, 2]);
    assert_eq!(daemon.post("/v1/namespaces/main/undelete", &json!({})).status, 400);
    assert_eq!(daemon.post("/v1/namespaces/never/undelete", &json!({})).status, 410);
}
