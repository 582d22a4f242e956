//! What a request's misspelt words become: a warning, or an error that names them; and answers that say what is so.

use serde_json::json;

use super::client::Daemon;

fn filled() -> Daemon {
    let daemon = Daemon::start();
    let rows: Vec<_> = (0..8).map(|id| json!({"id": id, "vector": [0.1 * f64::from(id), 0.7], "n": id})).collect();
    daemon.write("docs", &json!({"upsert_rows": rows, "distance_metric": "cosine_distance"}));
    daemon
}

#[test]
fn keys_that_mean_nothing_are_ignored_with_a_warning() {
    let daemon = filled();
    let query = json!({"rank_by": ["id", "asc"], "limit": 9, "filter": ["n", "Eq", 1]});
    let reply = daemon.post("/v2/namespaces/docs/query", &query);
    assert_eq!(reply.status, 200);
    let warning = "ignored unknown keys: filter (did you mean filters?)";
    assert_eq!(reply.header("shoal-warning"), Some(warning));
    let multi =
        json!({"queries": [{"rank_by": ["id", "asc"], "top_k": 1, "Limits": 1}], "vector_encodings": "float"});
    let reply = daemon.post("/v2/namespaces/docs/query", &multi);
    let warning = "ignored unknown keys: queries[0].Limits (did you mean limit?), \
                   vector_encodings (did you mean vector_encoding?)";
    assert_eq!(reply.header("shoal-warning"), Some(warning), "{}", reply.text());
    let reply = daemon.post("/v2/namespaces/docs", &json!({"upsert_row": [], "deletes": [7]}));
    assert_eq!(reply.header("shoal-warning"), Some("ignored unknown keys: upsert_row (did you mean upsert_rows?)"));
    let right = json!({
        "rank_by": ["id", "asc"], "limit": 9, "filters": ["n", "Eq", 1], "include_attributes": true,
        "consistency": {"level": "strong"}, "vector_encoding": "float", "offset": 0,
    });
    let reply = daemon.post("/v2/namespaces/docs/query", &right);
    assert_eq!((reply.status, reply.header("shoal-warning")), (200, None));
    let fused = json!({
        "queries": [{"rank_by": ["id", "asc"], "limit": 2}, {"rank_by": ["n", "desc"], "limit": 2}],
        "rerank_by": ["RRF"], "limit": 2, "offset": 1,
    });
    let reply = daemon.post("/v2/namespaces/docs/query", &fused);
    assert_eq!((reply.status, reply.header("shoal-warning")), (200, None), "{}", reply.text());
}

#[test]
fn keys_that_mean_nothing_inside_of_others_are_named_with_their_place() {
    let daemon = filled();
    let path = "/v2/namespaces/new";
    for (what, key, meant) in [
        ("branch_from_namespace", "asof", " (did you mean as_of?)"),
        ("branch_from_namespace", "time_to_live", ""),
        ("copy_from_namespace", "as_of", ""),
    ] {
        let body = json!({what: {"source_namespace": "docs", key: "x"}});
        let reply = daemon.post(path, &body);
        let warning = format!("ignored unknown keys: {what}.{key}{meant}");
        assert_eq!((reply.status, reply.header("shoal-warning")), (200, Some(warning.as_str())), "{}", reply.text());
        let again = daemon.send("DELETE", path, &[], b"");
        assert_eq!(again.status, 200, "{}", again.text());
    }
    let filter = json!({"filters": ["n", "Eq", 1], "patch": {"n": 1}, "condition": ["n", "Eq", 7]});
    let reply = daemon.post("/v2/namespaces/docs", &json!({"patch_by_filter": filter, "upsert_row": []}));
    let warning = "ignored unknown keys: upsert_row (did you mean upsert_rows?), patch_by_filter.condition";
    assert_eq!((reply.status, reply.header("shoal-warning")), (200, Some(warning)), "{}", reply.text());
    for right in [
        json!({"branch_from_namespace": {"source_namespace": "docs", "as_of": null, "ttl": "1h"}}),
        json!({"copy_from_namespace": {"source_namespace": "docs", "dest_encryption": {"mode": "default"}}}),
    ] {
        let reply = daemon.post(path, &right);
        assert_eq!((reply.status, reply.header("shoal-warning")), (200, None), "{}", reply.text());
        assert_eq!(daemon.send("DELETE", path, &[], b"").status, 200);
    }
}

#[test]
fn an_operator_that_nobody_knows_is_named() {
    let daemon = filled();
    for (rank_by, operator) in [(json!(["n", "Nearest", [1, 2]]), "Nearest"), (json!(["n", "BM26", "x", {}]), "BM26")]
    {
        let reply = daemon.post("/v2/namespaces/docs/query", &json!({"rank_by": rank_by, "limit": 1}));
        let said = reply.error();
        assert_eq!(reply.status, 400);
        let expected = format!("rank_by: unknown operator {operator} behind \"n\", expected ANN, kNN, BM25");
        assert!(said.starts_with(&expected), "{said}");
    }
}

#[test]
fn ground_truth_has_the_numbers_that_queries_answer_with() {
    let daemon = filled();
    let reply = daemon.post("/v1/namespaces/docs/_debug/recall", &json!({"num": 3, "include_ground_truth": true}));
    let body = reply.text();
    assert_eq!(reply.status, 200, "{body}");
    let truth = reply.json()["ground_truth"].clone();
    let query = json!({"rank_by": ["vector", "ANN", truth[0]["query_vector"]], "limit": 8});
    let answer = daemon.post("/v2/namespaces/docs/query", &query);
    for hit in answer.json()["rows"].as_array().unwrap() {
        let shown = format!("\"$dist\":{}", hit["$dist"]);
        assert!(answer.text().contains(&shown) && body.contains(&shown), "{shown}: {body}");
    }
    assert!(truth[0]["query_vector"][1] == json!(0.7), "{body}");
}

#[test]
fn thousands_of_rows_without_an_index_are_said() {
    let daemon = Daemon::start();
    let rows: Vec<_> = (0..3_000).map(|id| json!({"id": id, "n": id})).collect();
    daemon.write("docs", &json!({ "upsert_rows": rows }));
    let status = daemon.get("/v1/namespaces/docs/status").json();
    assert_eq!(status["index"]["status"], "updating", "{status}");
    assert_eq!(status["index"]["unindexed_rows"], 3_000);
    let metadata = daemon.get("/v2/namespaces/docs/metadata").json();
    assert_eq!(metadata["index"]["unindexed_rows"], 3_000, "{metadata}");
    assert_eq!(daemon.post("/v1/namespaces/docs/checkpoint", &json!({})).status, 200);
    assert_eq!(daemon.get("/v2/namespaces/docs/metadata").json()["index"], json!({"status": "up-to-date"}));
}
