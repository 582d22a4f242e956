//! Late interaction: documents and queries of several vectors, as a client writes and asks for them.

use serde_json::{Value, json};

use super::client::{Daemon, ids};

/// Two attributes of several vectors, one of which is searched.
fn passages() -> Daemon {
    let daemon = Daemon::start();
    let answer = daemon.write(
        "docs",
        &json!({
            "distance_metric": "euclidean_squared",
            "schema": {
                "tokens": {"type": "[][2]f32", "ann": {"late_interaction": true}},
                "kept": "[][3]f32",
                "shop": "string",
            },
            "upsert_rows": [
                {"id": 1, "shop": "a", "tokens": [[0.0, 0.0], [4.0, 0.0]], "kept": [[1, 2, 3]]},
                {"id": 2, "shop": "b", "tokens": ["AAAAAAAAgD8="]},
                {"id": 3, "shop": "a", "tokens": [[9, 9], [4, 1], [0, 0]]},
                {"id": 4, "shop": "a", "tokens": [], "kept": []},
                {"id": 5, "shop": "a", "tokens": null},
            ],
        }),
    );
    // Two floats a token; ids and shops.
    let bytes = answer["billing"]["billable_logical_bytes_written"].as_u64().unwrap();
    assert_eq!(bytes, 5 * (8 + 1) + 6 * 8 + 12);
    daemon
}

fn near(daemon: &Daemon, namespace: &str, extra: Value) -> Vec<(u64, f64)> {
    let mut body = json!({"rank_by": ["tokens", "ANN", [[0.0, 0.0], [4.0, 0.0]]], "limit": 9});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    let answer = daemon.query(namespace, &body);
    let rows = answer["rows"].as_array().unwrap().iter();
    rows.map(|row| (row["id"].as_u64().unwrap(), row["$dist"].as_f64().unwrap())).collect()
}

/// Answers are the same from the tail, from segments, and from a branch.
#[test]
fn documents_are_ranked_by_the_sum_of_the_smallest_distances() {
    let daemon = passages();
    let branched = json!({"branch_from_namespace": "docs"});
    let steps: [(&str, &dyn Fn()); 3] = [
        ("docs", &|| {}),
        ("docs", &|| assert!(daemon.post("/v1/namespaces/docs/checkpoint", &json!({})).status < 300)),
        ("branch", &|| assert_eq!(daemon.post("/v2/namespaces/branch", &branched).status, 200)),
    ];
    for (namespace, step) in steps {
        step();
        assert_eq!(near(&daemon, namespace, json!({})), [(1, 0.0), (3, 1.0), (2, 1.0 + 17.0)]);
        let filtered = json!({"filters": ["shop", "Eq", "a"]});
        assert_eq!(near(&daemon, namespace, filtered.clone()), [(1, 0.0), (3, 1.0)]);
        let exact = json!({"rank_by": ["tokens", "kNN", ["AAAAAAAAgD8="]], "filters": ["shop", "Eq", "a"]});
        assert_eq!(near(&daemon, namespace, exact), [(1, 1.0), (3, 1.0)]);
        assert_eq!(near(&daemon, namespace, json!({"recall": "exact", "limit": 1})), [(1, 0.0)]);
        let body = json!({
            "rank_by": ["id", "asc"], "limit": 9, "include_attributes": ["tokens", "kept"],
            "compute_attributes": {"far": ["tokens", "VectorDist", [[0, 1]]]},
        });
        let rows = daemon.query(namespace, &body)["rows"].clone();
        assert_eq!(
            rows,
            json!([
                {"id": 1, "tokens": [[0.0, 0.0], [4.0, 0.0]], "kept": [[1.0, 2.0, 3.0]], "far": 1.0},
                {"id": 2, "tokens": [[0.0, 1.0]], "far": 0.0},
                {"id": 3, "tokens": [[9.0, 9.0], [4.0, 1.0], [0.0, 0.0]], "far": 1.0},
                {"id": 4, "tokens": [], "kept": []},
                {"id": 5},
            ])
        );
        let encoded = json!({
            "rank_by": ["id", "asc"], "limit": 2, "include_attributes": ["tokens"], "vector_encoding": "base64",
        });
        assert_eq!(daemon.query(namespace, &encoded)["rows"][1]["tokens"], json!(["AAAAAAAAgD8="]));
        let plan = daemon.post(
            &format!("/v2/namespaces/{namespace}/explain_query"),
            &json!({
                "rank_by": ["tokens", "ANN", [[0, 0]]], "limit": 1,
            }),
        );
        assert!(plan.text().contains("distances of tokens to 5 documents"), "{}", plan.text());
        let recall =
            daemon.post(&format!("/v1/namespaces/{namespace}/_debug/recall"), &json!({"include_ground_truth": true}));
        assert_eq!(recall.json()["avg_recall"], json!(1.0), "{}", recall.text());
        let sampled = recall.json()["ground_truth"].as_array().unwrap().len();
        assert_eq!(sampled, 3, "{}", recall.text());
        assert!(recall.json()["ground_truth"][0]["query_vector"][0].is_array(), "{}", recall.text());
    }
}

#[test]
fn the_schema_says_what_is_searched_and_can_be_sent_back() {
    let daemon = passages();
    let schema = daemon.get("/v1/namespaces/docs/schema").json();
    let tokens = json!({
        "type": "[][2]f32", "filterable": null, "full_text_search": null, "ann": {"late_interaction": true},
    });
    assert_eq!(schema["tokens"], tokens);
    assert_eq!(schema["kept"], json!({"type": "[][3]f32", "filterable": null, "full_text_search": null}));
    let metadata = daemon.get("/v2/namespaces/docs/metadata").json()["schema"].clone();
    let ann = json!({"distance_metric": "euclidean_squared", "late_interaction": true});
    assert_eq!(metadata["tokens"], json!({"type": "[][2]f32", "ann": ann}));
    assert_eq!(metadata["kept"], json!({"type": "[][3]f32"}));
    let again =
        daemon.post("/v1/namespaces/docs/schema", &json!({"tokens": metadata["tokens"], "kept": metadata["kept"]}));
    assert_eq!(again.status, 200, "{}", again.text());
    // Stored only, it may come later.
    daemon.write(
        "docs",
        &json!({
            "schema": {"more": "[][1]f32"}, "upsert_rows": [{"id": 9, "more": [[1], [2]]}],
        }),
    );
    let answer =
        daemon.query("docs", &json!({"rank_by": ["id", "desc"], "limit": 1, "include_attributes": ["more"]}));
    assert_eq!((ids(&answer), &answer["rows"][0]["more"]), (vec![9], &json!([[1.0], [2.0]])));
}

#[test]
fn what_is_no_token_is_refused_by_its_place() {
    let daemon = passages();
    for (body, expected) in [
        (
            json!({"upsert_rows": [{"id": 6, "tokens": [[1, 2], [1, 2, 3]]}]}),
            "attribute 'tokens' of document 6: vector 1 of [][2]f32: expected [2]f32, got an array of 3 elements",
        ),
        (json!({"upsert_rows": [{"id": 6, "tokens": [1, 2]}]}), "vector 0 of [][2]f32: expected [2]f32, got int '1'"),
        (json!({"upsert_rows": [{"id": 6, "tokens": "zczM"}]}), "expected [][2]f32, got string 'zczM'"),
        (json!({"upsert_rows": [{"id": 6, "tokens": ["zczM"]}]}), "base64 of 8 bytes of f32, got 3 bytes"),
        (json!({"patch_rows": [{"id": 1, "tokens": [[1, 2]]}]}), "patching vectors is currently unsupported"),
        (json!({"patch_rows": [{"id": 1, "kept": [[1, 2, 3]]}]}), "patching vectors is currently unsupported"),
        (
            json!({"schema": {"x": {"type": "[][2]f32", "ann": {"late_interaction": true}}}, "upsert_rows": [{"id": 6}]}),
            "vector attributes cannot be added to a namespace with documents",
        ),
        (json!({"schema": {"x": {"type": "[][2]f32", "ann": true}}}), "multivector ANN needs late_interaction:true"),
        (json!({"schema": {"kept": {"type": "[][3]f32", "filterable": true}}}), "cannot be filterable"),
    ] {
        let reply = daemon.post("/v2/namespaces/docs", &body);
        assert_eq!(reply.status, 400, "{body}: {}", reply.text());
        assert!(reply.error().contains(expected), "{body}: {}", reply.text());
    }
    let without_metric = json!({
        "schema": {"tokens": {"type": "[][2]f32", "ann": {"late_interaction": true}}},
        "upsert_rows": [{"id": 1, "tokens": [[1, 2]]}],
    });
    let reply = daemon.post("/v2/namespaces/other", &without_metric);
    assert!(reply.error().contains("distance_metric must be specified"), "{}", reply.text());
    let filter = json!({"rank_by": ["id", "asc"], "limit": 1, "filters": ["tokens", "Eq", [[1, 2]]]});
    let reply = daemon.post("/v2/namespaces/docs/query", &filter);
    assert_eq!(reply.status, 400, "{}", reply.text());
}

/// What leaves a node as lines or as a snapshot comes back with every bit.
#[test]
fn tokens_are_exported_and_imported() {
    let daemon = passages();
    let lines = daemon.get("/v1/namespaces/docs/export");
    assert_eq!(lines.status, 200);
    let headers = [("content-type", "application/x-ndjson")];
    let imported = daemon.send("POST", "/v1/namespaces/lines/import", &headers, &lines.body);
    assert!(imported.status < 300, "{}", imported.text());
    let snapshot = daemon.get("/v1/namespaces/docs/snapshot");
    let headers = [("content-type", "application/octet-stream")];
    let restored = daemon.send("PUT", "/v1/namespaces/restored/restore", &headers, &snapshot.body);
    assert!(restored.status < 300, "{}", restored.text());
    let all = json!({"rank_by": ["id", "asc"], "limit": 9, "include_attributes": true});
    for namespace in ["lines", "restored"] {
        assert_eq!(daemon.query(namespace, &all)["rows"], daemon.query("docs", &all)["rows"], "{namespace}");
        assert_eq!(near(&daemon, namespace, json!({})), near(&daemon, "docs", json!({})));
    }
}

/// Where a segment has enough tokens for clusters, they choose what is compared.
#[test]
fn many_tokens_are_searched_by_clusters() {
    let daemon = Daemon::start();
    let mut state = 7u64;
    let mut tokens = |count: usize| -> Vec<Vec<f64>> {
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f64 / f64::from(1 << 24) - 0.5
        };
        let about: Vec<f64> = (0..32).map(|_| next()).collect();
        (0..count).map(|_| about.iter().map(|x| x + 0.5 * next()).collect()).collect()
    };
    let rows: Vec<Value> = (0..500).map(|id| json!({"id": id, "tokens": tokens(5)})).collect();
    let near: Vec<Value> = rows[3]["tokens"].as_array().unwrap().iter().cycle().take(128).cloned().collect();
    daemon.write(
        "docs",
        &json!({
            "distance_metric": "cosine_distance",
            "schema": {"tokens": {"type": "[][32]f32", "ann": {"late_interaction": true}}},
            "upsert_rows": rows,
        }),
    );
    assert!(daemon.post("/v1/namespaces/docs/checkpoint", &json!({})).status < 300);
    let query = json!({"rank_by": ["tokens", "ANN", near], "limit": 1});
    let plan = daemon.post("/v2/namespaces/docs/explain_query", &query);
    assert!(plan.text().contains("clusters, until 0.95 of the nearest are found"), "{}", plan.text());
    let found = daemon.query("docs", &query);
    let mut exact = query.clone();
    exact["recall"] = "exact".into();
    let truth = daemon.query("docs", &exact);
    let compared = |answer: &Value| answer["performance"]["exhaustive_search_count"].as_u64().unwrap();
    assert!(compared(&found) < compared(&truth) && compared(&truth) == 500, "{} compared", compared(&found));
    assert_eq!((ids(&found), &found["rows"]), (vec![3], &truth["rows"]));
}
