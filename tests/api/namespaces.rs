//! Namespaces by HTTP: created, listed, described, pinned, labelled, frozen, deleted.

use serde_json::{Value, json};

use super::client::{Daemon, ids};

fn put(daemon: &Daemon, path: &str, body: &Value) -> super::client::Reply {
    daemon.send("PUT", path, &[], body.to_string().as_bytes())
}

fn keys(json: &Value) -> Vec<&str> {
    json.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn listings_come_in_pages_by_project() {
    let daemon = Daemon::start();
    for n in 0..7 {
        daemon.write(&format!("doc-{n}"), &json!({"upsert_rows": [{"id": 1}]}));
    }
    daemon.write("other", &json!({"upsert_rows": [{"id": 1}]}));
    let elsewhere = daemon.post("/acme/search/v2/namespaces/theirs", &json!({"upsert_rows": [{"id": 1}]}));
    assert_eq!(elsewhere.status, 200);
    let mut found = Vec::new();
    let mut path = "/v1/namespaces?page_size=3&prefix=doc-".to_owned();
    let mut cursors = Vec::new();
    loop {
        let page = daemon.get(&path).json();
        found.extend(page["namespaces"].as_array().unwrap().iter().map(|ns| ns["id"].as_str().unwrap().to_owned()));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        assert!(!cursors.contains(&cursor.to_owned()));
        cursors.push(cursor.to_owned());
        path = format!("/v1/namespaces?page_size=3&prefix=doc-&stainless_overload=x&cursor={cursor}");
    }
    assert_eq!(found, (0..7).map(|n| format!("doc-{n}")).collect::<Vec<_>>());
    assert_eq!(cursors.len(), 2);
    assert_eq!(daemon.get("/v1/namespaces").json()["namespaces"].as_array().unwrap().len(), 8);
    let theirs = daemon.get("/acme/search/v1/namespaces").json();
    assert_eq!(theirs, json!({"namespaces": [{"id": "theirs"}], "next_cursor": null}));
    for bad in ["page_size=0", "page_size=1001", "page_size=x", "cursor=%21%21", "prefix=%zz"] {
        let reply = daemon.get(&format!("/v1/namespaces?{bad}"));
        assert_eq!(reply.status, 400, "{bad}");
        reply.error();
    }
}

#[test]
fn metadata_has_the_contracts_fields_and_no_more() {
    let daemon = Daemon::start();
    daemon.write(
        "meta",
        &json!({
            "upsert_rows": [{"id": 1, "vector": [0.1, 0.2], "text": "a"}],
            "distance_metric": "cosine_distance",
            "schema": {"text": {"type": "string", "full_text_search": true}},
        }),
    );
    let expected = [
        "approx_logical_bytes",
        "approx_row_count",
        "created_at",
        "encryption",
        "index",
        "last_write_at",
        "schema",
        "updated_at",
    ];
    let second = daemon.get("/v2/namespaces/meta/metadata").json();
    assert_eq!(keys(&second), expected);
    assert_eq!(second["encryption"], json!({"mode": "default"}));
    assert_eq!(second["index"], json!({"status": "up-to-date"}));
    assert_eq!(second["schema"]["vector"], json!({"type": "[2]f32", "ann": {"distance_metric": "cosine_distance"}}));
    assert_eq!(second["schema"]["id"], json!({"type": "uint"}));
    assert_eq!(keys(&second["schema"]["text"]["full_text_search"]).len(), 10);
    let created = second["created_at"].as_str().unwrap();
    assert!(created.starts_with("20") && created.ends_with('Z'), "{created}");
    let first = daemon.get("/v1/namespaces/meta/metadata").json();
    assert_eq!(first["encryption"], json!({"mode": "default", "sse": true}));
    let schema = daemon.get("/v1/namespaces/meta/schema").json();
    assert_eq!(schema["vector"]["ann"], true);
    assert_eq!(schema["vector"]["filterable"], Value::Null);

    let patch = |body: Value| {
        let reply = daemon.send("PATCH", "/v1/namespaces/meta/metadata", &[], body.to_string().as_bytes());
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()
    };
    let pinned = patch(json!({"pinning": true, "unknown": 1}));
    assert_eq!(pinned["pinning"]["replicas"], 1);
    assert!(pinned["pinning"]["status"]["utilization"].is_f64());
    assert!(patch(json!({"read_only": false}))["pinning"].is_object());
    assert_eq!(keys(&patch(json!({ "pinning": null }))), expected);
    let read_only = patch(json!({"read_only": true}));
    assert_eq!(read_only["read_only"], true);
    let refused = daemon.post("/v2/namespaces/meta", &json!({"deletes": [1]}));
    assert_eq!(refused.status, 400);
    assert!(refused.error().contains("Writes not permitted. This namespace is read-only."));
    let refused = daemon.post("/v1/namespaces/meta/schema", &json!({"a": "string"}));
    assert_eq!(refused.status, 400);
    assert_eq!(keys(&patch(json!({"read_only": false}))), expected);
    daemon.write("meta", &json!({"deletes": [1]}));
    for bad in [json!({"pinning": {"replicas": 3}}), json!({"pinning": {"replicas": 0}})] {
        let reply = daemon.send("PATCH", "/v1/namespaces/meta/metadata", &[], bad.to_string().as_bytes());
        assert_eq!(reply.status, 400, "{bad}");
    }
}

#[test]
fn a_namespace_is_created_described_and_deleted_at_once() {
    let daemon = Daemon::start();
    let path = "/v1/namespaces/made";
    let body = json!({
        "schema": {"id": "uuid", "v": {"type": "[3]f32", "ann": true}, "tag": "string"},
        "distance_metric": "euclidean_squared",
        "labels": {"team": "fish"},
    });
    let created = put(&daemon, path, &body);
    assert_eq!(created.status, 200, "{}", created.text());
    let again = put(&daemon, path, &body);
    assert_eq!(again.status, 400, "{}", again.text());
    let status = daemon.get("/v1/namespaces/made/status").json();
    assert_eq!((&status["labels"], &status["documents"]), (&json!({"team": "fish"}), &json!(0)));
    let labels = put(&daemon, "/v1/namespaces/made/labels", &json!({"team": "whale", "site": "7"}));
    assert_eq!(labels.status, 200, "{}", labels.text());
    assert_eq!(daemon.get("/v1/namespaces/made/status").json()["labels"], json!({"team": "whale", "site": "7"}));
    assert_eq!(daemon.send("PUT", "/v1/namespaces/made/pin", &[], b"").status, 200);
    assert!(daemon.get("/v2/namespaces/made/metadata").json()["pinning"].is_object());
    assert_eq!(daemon.send("DELETE", "/v1/namespaces/made/pin", &[], b"").status, 200);
    assert!(daemon.get("/v2/namespaces/made/metadata").json()["pinning"].is_null());
    let row = json!({"id": "0190A6A0-0000-7000-8000-00000000000A", "v": [1, 2, 3], "tag": "x"});
    daemon.write("made", &json!({ "upsert_rows": [row] }));
    let answer = daemon.query("made", &json!({"rank_by": ["v", "ANN", [1, 2, 3]], "limit": 1}));
    assert_eq!(answer["rows"], json!([{"id": "0190a6a0-0000-7000-8000-00000000000a", "$dist": 0.0}]));
    for operation in ["checkpoint", "compact"] {
        let done = daemon.send("POST", &format!("/v1/namespaces/made/{operation}"), &[], b"");
        assert_eq!((done.status, &done.json()["status"]), (200, &json!("OK")), "{operation}: {}", done.text());
    }
    assert_eq!(
        daemon.query("made", &json!({"rank_by": ["id", "asc"], "limit": 5}))["rows"][0]["id"],
        answer["rows"][0]["id"]
    );
    let metadata = daemon.get("/v2/namespaces/made/metadata").json();
    assert_eq!(metadata["approx_row_count"], 1);
    assert_eq!(daemon.send("DELETE", "/v2/namespaces/made", &[], b"").status, 200);
    assert_eq!(daemon.send("DELETE", "/v2/namespaces/made", &[], b"").status, 404);
    daemon.write("made", &json!({"upsert_rows": [{"id": 1, "tag": 5}]}));
    assert_eq!(ids(&daemon.query("made", &json!({"rank_by": ["tag", "asc"], "limit": 5}))), [1]);
    for (body, text) in [
        (json!({"ttl": "soon"}), "ttl: expected 1 second"),
        (json!({"shema": {}}), "unknown field `shema`"),
        (json!({"labels": {"a": 1}}), "labels.a"),
        (json!({"distance_metric": "manhattan"}), "unknown variant `manhattan`"),
    ] {
        let reply = put(&daemon, "/v1/namespaces/bad", &body);
        assert!((400..=422).contains(&reply.status), "{body}");
        assert!(reply.error().contains(text), "{}", reply.text());
    }
    assert_eq!(daemon.get("/v1/namespaces/bad/schema").status, 404);
}

#[test]
fn ids_are_handed_out_once() {
    let daemon = Daemon::start();
    daemon.write("docs", &json!({"upsert_rows": [{"id": 7}]}));
    let take = |count: u64| daemon.post("/v1/namespaces/docs/ids", &json!({ "count": count }));
    let mut seen = vec![7];
    for _ in 0..3 {
        let reply = take(5);
        assert_eq!(reply.status, 200, "{}", reply.text());
        for id in reply.json()["ids"].as_array().unwrap() {
            let id = id.as_u64().unwrap();
            assert!(!seen.contains(&id), "{id} twice");
            seen.push(id);
        }
    }
    assert_eq!(take(0).status, 400);
    assert_eq!(take(1 << 40).status, 422);
    assert_eq!(daemon.post("/v1/namespaces/none/ids", &json!({"count": 1})).status, 404);
}

#[test]
fn several_queries_see_one_snapshot_and_explain_says_how() {
    let daemon = Daemon::start();
    daemon.write(
        "docs",
        &json!({
            "upsert_rows": [
                {"id": 1, "vector": [1, 0], "text": "fish swim", "n": 1},
                {"id": 2, "vector": [0, 1], "text": "fish fish", "n": 2},
            ],
            "distance_metric": "cosine_distance",
            "schema": {"text": {"type": "string", "full_text_search": true}},
        }),
    );
    let queries = json!([
        {"rank_by": ["vector", "ANN", [1, 0]], "limit": 2},
        {"rank_by": ["text", "BM25", "fish"], "limit": 2},
        {"aggregate_by": {"total": ["Sum", "n"], "count": ["Count"]}},
    ]);
    let answer = daemon.query("docs", &json!({ "queries": queries }));
    let results = answer["results"].as_array().unwrap();
    assert_eq!((ids(&results[0]), ids(&results[1])), (vec![1, 2], vec![2, 1]));
    assert_eq!(results[2]["aggregations"], json!({"total": 3, "count": 2}));
    let fused = json!({"queries": [queries[0], queries[1]], "rerank_by": ["RRF"], "limit": 2});
    let answer = daemon.query("docs", &fused);
    assert_eq!(answer["results"].as_array().unwrap().len(), 1);
    assert_eq!(ids(&answer["results"][0]), [1, 2]);
    let groups = json!({"aggregate_by": {"count": ["Count"]}, "group_by": ["n"], "limit": 5});
    let answer = daemon.query("docs", &groups);
    assert_eq!(answer["aggregation_groups"], json!([{"n": 1, "count": 1}, {"n": 2, "count": 1}]));
    let plan = daemon.post("/v2/namespaces/docs/explain_query", &queries[1]);
    assert!(!plan.json()["plan_text"].as_str().unwrap().is_empty());
}

#[test]
fn recall_is_of_the_attribute_called_vector_where_there_is_one() {
    let daemon = Daemon::start();
    let schema = json!({"aside": {"type": "[3]f32", "ann": true}});
    let row = json!({"id": 1, "aside": [1, 2, 3], "vector": [1, 0]});
    daemon.write("docs", &json!({"schema": schema, "distance_metric": "cosine_distance", "upsert_rows": [row]}));
    let recall = daemon.post("/v1/namespaces/docs/_debug/recall", &json!({"include_ground_truth": true}));
    assert_eq!(recall.json()["ground_truth"][0]["query_vector"], json!([1.0, 0.0]), "{}", recall.text());
}

#[test]
fn a_hint_says_which_request_makes_text_searchable() {
    let daemon = Daemon::start();
    daemon.write("docs", &json!({"upsert_rows": [{"id": 1, "text": "a walrus", "n": 1}]}));
    let search = |attribute: &str| {
        daemon.post("/v2/namespaces/docs/query", &json!({"rank_by": [attribute, "BM25", "walrus"], "limit": 1}))
    };
    let refused = search("text").json();
    let hint = refused["hint"].as_str().unwrap();
    let body = &hint[hint.find('{').unwrap()..=hint.rfind('}').unwrap()];
    let schema = daemon.post("/v1/namespaces/docs/schema", &serde_json::from_str(body).unwrap());
    assert_eq!(schema.status, 200, "{}", schema.text());
    assert_eq!(ids(&search("text").json()), [1]);
    assert!(search("n").json()["hint"].as_str().unwrap().contains("its type is int"));
}

#[test]
fn what_is_no_filter_and_no_ranking_is_shown_beside_what_was_expected() {
    let daemon = Daemon::start();
    daemon.write("docs", &json!({"upsert_rows": [{"id": 1, "n": 1}]}));
    for (key, bad, hint) in [
        ("filters", json!({"n": {"$gt": 3}}), r#"["Not", filter], got {"n":{"$gt":3}}"#),
        ("filters", json!(["And", "n"]), r#"got "n""#),
        ("filters", json!(["AND", [["n", "Eq", 1]]]), r#"got ["AND",[["n","Eq",1]]]"#),
        ("rank_by", json!("id"), r#"or a score, got "id""#),
        ("rank_by", json!(["id"]), r#"got ["id"]"#),
        ("rank_by", json!(["n", "up"]), r#"got ["n","up"]"#),
    ] {
        let mut body = json!({"rank_by": ["id", "asc"], "limit": 1});
        body[key] = bad;
        let answer = daemon.post("/v2/namespaces/docs/query", &body);
        assert_eq!(answer.status, 422, "{}", answer.text());
        assert!(answer.json()["hint"].as_str().unwrap().ends_with(hint), "{}", answer.text());
    }
}

#[test]
fn the_node_says_how_it_is() {
    let daemon = Daemon::start();
    daemon.write("docs", &json!({"upsert_rows": [{"id": 1}]}));
    assert_eq!(daemon.get("/livez").status, 200);
    assert_eq!(daemon.get("/readyz").status, 200);
    let status = daemon.get("/v1/status").json();
    assert_eq!(status["namespaces"]["total"], 1);
    let metrics = daemon.get("/metrics");
    assert!(metrics.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    let text = metrics.text();
    for line in [
        "shoal_http_requests_total{route=\"write\",class=\"2xx\"} 1",
        "shoal_namespaces 1",
        "shoal_ready 1",
        "shoal_write_seconds_count 1",
        "shoal_http_requests_in_flight 1",
    ] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn a_damaged_file_is_in_the_status_the_metrics_and_the_readiness() {
    let daemon = Daemon::start();
    daemon.write("docs", &json!({"upsert_rows": [{"id": 1, "text": "fish"}]}));
    assert_eq!(daemon.post("/v1/namespaces/docs/checkpoint", &json!({})).status, 200);
    let status = daemon.get("/v1/status").json();
    assert_eq!(status["damaged"], json!([]));
    let metric = |kind: &str, files: u32| format!("shoal_damaged_files{{kind=\"{kind}\"}} {files}\n");
    assert!(daemon.get("/metrics").text().contains(&metric("segment", 0)));
    let mut dirs = vec![std::path::Path::new(status["data_dir"].as_str().unwrap()).join("store")];
    while let Some(dir) = dirs.pop() {
        for path in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                dirs.push(path);
            } else if path.ends_with("data.seg") {
                // By a new file: the daemon has the old one mapped.
                let bytes = std::fs::read(&path).unwrap();
                std::fs::remove_file(&path).unwrap();
                std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
            }
        }
    }
    let checked = daemon.post("/v1/check", &json!({"level": 3})).json();
    assert_eq!(checked["problems"].as_array().unwrap().len(), 1, "{checked}");
    for path in ["/v1/status", "/v1/namespaces/docs/status"] {
        let damaged = &daemon.get(path).json()["damaged"];
        assert_eq!(damaged[0]["kind"], "segment", "{path}: {damaged}");
        assert_eq!(damaged[0]["namespaces"], json!(["default/default/docs"]));
        assert!(damaged[0]["file"].as_str().unwrap().ends_with("data.seg"));
    }
    let metrics = daemon.get("/metrics").text();
    assert!(metrics.contains(&metric("segment", 1)) && metrics.contains(&metric("manifest", 0)), "{metrics}");
    let ready = daemon.get("/readyz");
    assert_eq!((ready.status, &ready.json()["damaged"]), (200, &json!(1)));
}
