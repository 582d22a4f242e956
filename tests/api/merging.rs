//! Merges, differences and conflicts over HTTP.

use serde_json::{Value, json};
use shoal::api::auth::{Scope, Token, Tokens};
use shoal::api::limits::ServerConfig;
use shoal::model::ids::Project;

use crate::client::Daemon;

fn put(daemon: &Daemon, name: &str, rows: Value) {
    let reply = daemon.post(&format!("/v2/namespaces/{name}"), &json!({ "upsert_rows": rows }));
    assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(&reply.body));
}

fn lines(body: &[u8]) -> Vec<Value> {
    std::str::from_utf8(body).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A parent and a child of it that differ in three documents, one of them changed on both sides.
fn family() -> Daemon {
    let daemon = Daemon::start();
    put(&daemon, "main", json!([{"id": 1, "n": 1}, {"id": 2, "n": 1}]));
    let branched = daemon.post("/v2/namespaces/child", &json!({"branch_from_namespace": "main"}));
    assert_eq!(branched.status, 200, "{}", String::from_utf8_lossy(&branched.body));
    put(&daemon, "main", json!([{"id": 1, "n": 2}]));
    put(&daemon, "child", json!([{"id": 1, "n": 3}, {"id": 5, "n": 5}]));
    daemon.post("/v2/namespaces/child", &json!({"deletes": [2]}));
    daemon
}

#[test]
fn a_diff_is_a_line_for_each_document_that_differs() {
    let daemon = family();
    let reply = daemon.post("/v1/namespaces/child/diff", &json!({"against": "main"}));
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), Some("application/x-ndjson"));
    let wanted = [
        json!({"id": 1, "op": "update", "old": {"id": 1, "n": 2}, "new": {"id": 1, "n": 3}}),
        json!({"id": 2, "op": "delete", "old": {"id": 2, "n": 1}, "new": null}),
        json!({"id": 5, "op": "insert", "old": null, "new": {"id": 5, "n": 5}}),
    ];
    assert_eq!(lines(&reply.body), wanted);
    let itself = json!({"against": "default/default/child", "as_of": {"generation": 0}});
    let reply = daemon.post("/v1/namespaces/child/diff", &itself);
    assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(&reply.body));
    let gone = daemon.post("/v1/namespaces/child/diff", &json!({"against": "nobody"}));
    assert_eq!(gone.status, 404);
    assert_eq!(daemon.post("/v1/namespaces/child/diff", &json!({})).status, 422);
    assert_eq!(daemon.post("/v1/namespaces/child/diff", &json!({"against": "main", "x": 1})).status, 422);
}

#[test]
fn a_diff_shows_the_attributes_that_are_asked_for() {
    let daemon = Daemon::start();
    put(&daemon, "main", json!([{"id": 1, "n": 1, "text": "long", "old": 1}, {"id": 2, "n": 1}]));
    daemon.post("/v2/namespaces/child", &json!({"branch_from_namespace": "main"}));
    put(&daemon, "child", json!([{"id": 1, "n": 2, "text": "longer", "new": 2}]));
    let diff = |projection: Value| {
        let mut body = json!({"against": "main"});
        body.as_object_mut().unwrap().extend(projection.as_object().unwrap().clone());
        let reply = daemon.post("/v1/namespaces/child/diff", &body);
        (reply.status, lines(&reply.body))
    };
    let line = |old: Value, new: Value| (200, vec![json!({"id": 1, "op": "update", "old": old, "new": new})]);
    for (projection, old, new) in [
        (json!({"include_attributes": ["n"]}), json!({"id": 1, "n": 1}), json!({"id": 1, "n": 2})),
        (json!({"include_attributes": ["id", "new"]}), json!({"id": 1}), json!({"id": 1, "new": 2})),
        (json!({"include_attributes": false}), json!({"id": 1}), json!({"id": 1})),
        (json!({"exclude_attributes": ["text", "n"]}), json!({"id": 1, "old": 1}), json!({"id": 1, "new": 2})),
        (
            json!({"include_attributes": true}),
            json!({"id": 1, "n": 1, "text": "long", "old": 1}),
            json!({"id": 1, "n": 2, "text": "longer", "new": 2}),
        ),
    ] {
        assert_eq!(diff(projection.clone()), line(old, new), "{projection}");
    }
    for projection in [
        json!({"include_attributes": ["nothing"]}),
        json!({"exclude_attributes": ["id"]}),
        json!({"include_attributes": ["n"], "exclude_attributes": ["n"]}),
    ] {
        assert_eq!(diff(projection.clone()).0, 400, "{projection}");
    }
}

/// Seven attributes of 5 MiB on each side: 35 MiB are a document, 70 are none.
#[test]
fn what_would_be_too_large_for_a_document_is_not_joined() {
    let daemon = Daemon::start();
    let wide = |prefix: &str| {
        let mut row = json!({"id": 1});
        for at in 0..7 {
            row[format!("{prefix}{at}")] = prefix.repeat(5 << 20).into();
        }
        row
    };
    let put = |name: &str, body: Value| {
        let reply = daemon.post(&format!("/v2/namespaces/{name}"), &body);
        assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(&reply.body));
    };
    let schema = |prefix: &str| -> Value {
        (0..7).map(|at| (format!("{prefix}{at}"), json!({"type": "string", "filterable": false}))).collect()
    };
    put("main", json!({"upsert_rows": [{"id": 1, "n": 1}, {"id": 2, "n": 1, "m": 1}]}));
    put("child", json!({"branch_from_namespace": "main"}));
    put("main", json!({"patch_rows": [wide("a"), {"id": 2, "n": 2}], "schema": schema("a")}));
    put("child", json!({"patch_rows": [wide("b"), {"id": 2, "m": 2}], "schema": schema("b")}));
    let merge = |policy: &str| {
        let body = json!({"source": "child", "policy": policy});
        let reply = daemon.post("/v1/namespaces/main/merge", &body);
        (reply.status, reply.json())
    };
    let (status, body) = merge("fields-or-fail");
    assert_eq!((status, &body["code"]), (412, &json!("conflicts")));
    let too_large = &body["conflicts"]["too_large"];
    assert_eq!([&too_large["total"], &too_large["first"], &too_large["bytes_max"]], [1, 1, 64 << 20], "{too_large}");
    assert!(too_large["bytes"].as_u64().unwrap() > 70 << 20, "{too_large}");
    assert_eq!(body["conflicts"]["resolutions"], json!({"fields": 1, "none": 1}));
    let hint = body["hint"].as_str().unwrap();
    assert!(hint.starts_with("document 1 would be of 734"), "{hint}");
    assert!(
        hint.contains("at most 67108864 may be in one: make it smaller on one side, or choose a policy"),
        "{hint}"
    );
    // The rows are larger than a report may be.
    assert_eq!(body["conflicts"]["listed"], json!([]));

    let (status, body) = merge("fields");
    assert_eq!(status, 200, "{body}");
    assert_eq!(body["conflicts"]["resolutions"], json!({"fields": 1, "theirs": 1}), "{body}");
    assert_eq!(body["conflicts"]["too_large"]["total"], 1);
    let shown =
        json!({"rank_by": ["id", "asc"], "limit": 9, "exclude_attributes": ["b1", "b2", "b3", "b4", "b5", "b6"]});
    let rows = daemon.post("/v2/namespaces/main/query", &shown).json();
    assert_eq!(rows["rows"][0]["b0"].as_str().map(str::len), Some(5 << 20));
    assert_eq!((&rows["rows"][0]["a0"], &rows["rows"][1]), (&Value::Null, &json!({"id": 2, "n": 2, "m": 2})));
    // The other state is kept, whole.
    let kept = lines(&daemon.get("/v1/namespaces/main/conflicts").body);
    assert_eq!((kept.len(), &kept[0]["id"], &kept[0]["lost"]), (1, &json!(1), &json!("ours")));
    assert_eq!(kept[0]["row"]["a6"].as_str().map(str::len), Some(5 << 20));
}

#[test]
fn attributes_changed_apart_are_joined_and_those_changed_on_both_sides_refused() {
    let daemon = Daemon::start();
    put(&daemon, "main", json!([{"id": 1, "a": 1, "b": 1}, {"id": 2, "a": 1, "b": 1}]));
    daemon.post("/v2/namespaces/child", &json!({"branch_from_namespace": "main"}));
    put(&daemon, "main", json!([{"id": 1, "a": 2, "b": 1}, {"id": 2, "a": 2, "b": 1}]));
    put(&daemon, "child", json!([{"id": 1, "a": 1, "b": 3}, {"id": 2, "a": 3, "b": 3}]));
    let merge = |dry_run: bool| {
        let body = json!({"source": "child", "policy": "fields-or-fail", "dry_run": dry_run});
        let reply = daemon.post("/v1/namespaces/main/merge", &body);
        (reply.status, reply.json())
    };
    for dry_run in [true, false] {
        let (status, body) = merge(dry_run);
        assert_eq!(status, 412, "{body}");
        let conflicts = &body["conflicts"];
        assert_eq!([&conflicts["total"], &conflicts["disjoint"], &conflicts["clashing"]], [2, 1, 1]);
        assert_eq!(conflicts["clashing_attributes"], json!({"a": 1}));
        assert_eq!(conflicts["resolutions"], json!({"fields": 1, "none": 1}));
        assert!(body["error"].as_str().unwrap().starts_with("1 documents were changed on both sides in the same"));
    }
    put(&daemon, "child", json!([{"id": 2, "a": 1, "b": 3}]));
    let (status, body) = merge(false);
    assert_eq!((status, &body["conflicts"]["disjoint"], &body["updated"]), (200, &json!(2), &json!(2)), "{body}");
    let rows = daemon.post(
        "/v2/namespaces/main/query",
        &json!({"rank_by": ["id", "asc"], "limit": 9, "include_attributes": true}),
    );
    let expected = json!([{"id": 1, "a": 2, "b": 3}, {"id": 2, "a": 2, "b": 3}]);
    assert_eq!(rows.json()["rows"], expected);
}

#[test]
fn a_merge_is_refused_with_its_conflicts_or_done_as_the_policy_says() {
    let daemon = family();
    let refused = daemon.post("/v1/namespaces/main/merge", &json!({"source": "child"}));
    let body = refused.json();
    assert_eq!((refused.status, &body["code"], &body["retryable"]), (412, &json!("conflicts"), &json!(false)));
    let listed = json!([{
        "id": 1, "base": {"id": 1, "n": 1}, "ours": {"id": 1, "n": 2}, "theirs": {"id": 1, "n": 3}, "resolution": "none",
        "clashing_attributes": ["n"],
    }]);
    assert_eq!(body["conflicts"]["listed"], listed);
    let dry =
        daemon.post("/v1/namespaces/main/merge", &json!({"source": "child", "policy": "theirs", "dry_run": true}));
    assert_eq!((dry.status, &dry.json()["committed"]), (200, &json!(false)));
    let done = daemon.post("/v1/namespaces/main/merge", &json!({"source": "child", "policy": "theirs"}));
    let body = done.json();
    assert_eq!((done.status, &body["committed"]), (200, &json!(true)));
    assert_eq!((&body["inserted"], &body["updated"], &body["deleted"]), (&json!(1), &json!(1), &json!(1)));
    assert!(done.header("etag").is_some());
    let same = daemon.post("/v1/namespaces/main/diff", &json!({"against": "child"}));
    assert_eq!((same.status, same.body.len()), (200, 0));
    // What lost is listed, and written again.
    let lost = lines(&daemon.get("/v1/namespaces/main/conflicts").body);
    assert_eq!((lost.len(), &lost[0]["lost"], &lost[0]["row"]["n"]), (1, &json!("ours"), &json!(2)));
    let path = format!("/v1/namespaces/main/conflicts/{}", lost[0]["token"].as_str().unwrap());
    assert_eq!(daemon.post(&format!("{path}/replay"), &json!({"id": 9})).status, 200);
    assert_eq!(daemon.get("/v1/namespaces/main/conflicts").body, b"");
    assert_eq!(daemon.send("DELETE", &path, &[], b"").status, 404);
    assert_eq!(daemon.send("DELETE", "/v1/namespaces/main/conflicts/x", &[], b"").status, 400);
    assert_eq!(daemon.send("DELETE", "/v1/namespaces/main/conflicts", &[], b"").status, 200);
}

#[test]
fn wrong_merges_are_refused_and_say_why() {
    let daemon = family();
    put(&daemon, "other", json!([{"id": 1, "n": "text"}]));
    let refused = |body: Value| {
        let reply = daemon.post("/v1/namespaces/main/merge", &body);
        (reply.status, reply.json()["error"].as_str().unwrap_or_default().to_owned())
    };
    for (body, status, text) in [
        (json!({"source": "main"}), 400, "into itself"),
        (json!({"source": "other"}), 400, "no common origin"),
        (json!({"source": "other", "policy": "lww", "allow_unrelated": true}), 400, "attribute 'n' is a string"),
        (json!({"source": "child", "policy": "newest"}), 400, "expected one of fail, lww"),
        (json!({"source": "a/b"}), 400, "org/project/name"),
        (json!({"source": "nobody"}), 404, "not found"),
        (json!({"policy": "lww"}), 422, "missing field `source`"),
        (json!({"source": "child", "polcy": "lww"}), 422, "unknown field `polcy`"),
    ] {
        let found = refused(body.clone());
        assert!(found.0 == status && found.1.contains(text), "{body}: {found:?}");
    }
}

#[test]
fn another_project_is_read_only_with_a_token_that_may() {
    let project = |name: &str| Some(Project::new("acme", name).unwrap());
    let tokens =
        Tokens::new(vec![Token::new("all", Scope::Admin, None), Token::new("mine", Scope::Write, project("mine"))]);
    let daemon = Daemon::with(ServerConfig { tokens: Some(tokens), ..ServerConfig::default() });
    let send = |token: &str, path: &str, body: Value| {
        let bearer = format!("Bearer {token}");
        daemon.send("POST", path, &[("authorization", &bearer)], body.to_string().as_bytes()).status
    };
    for project in ["mine", "theirs"] {
        let path = format!("/acme/{project}/v2/namespaces/docs");
        assert_eq!(send("all", &path, json!({"upsert_rows": [{"id": 1, "n": 1}]})), 200);
    }
    let source = json!({"source": "acme/theirs/docs", "policy": "lww", "allow_unrelated": true});
    for (what, body) in [("merge", source), ("diff", json!({"against": "acme/theirs/docs"}))] {
        let path = format!("/acme/mine/v1/namespaces/docs/{what}");
        assert_eq!(send("mine", &path, body.clone()), 403, "{what}");
        assert_eq!(send("all", &path, body), 200, "{what}");
    }
}
