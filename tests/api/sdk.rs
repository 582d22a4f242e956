//! What the official Python SDK's live tests do, as raw requests: a subset of that suite that needs no download.
//!
//! Where a test asserts a vendor's prices, the true figures are asserted instead; `README.md` names these.

use serde_json::{Value, json};

use super::client::{Daemon, ids};

/// Little-endian f32 in base64, as the SDK sends them.
fn base64(values: &[f32]) -> String {
    use base64::Engine as _;
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn tenths(id: u64) -> f64 {
    id as f64 / 10.0
}

fn rows(answer: &Value) -> &Vec<Value> {
    answer["rows"].as_array().unwrap()
}

fn all(daemon: &Daemon, namespace: &str) -> Vec<Value> {
    let answer =
        daemon.query(namespace, &json!({"top_k": 100, "rank_by": ["id", "asc"], "include_attributes": true}));
    rows(&answer).clone()
}

/// `test_vectors`: the tests of one namespace, which depend on each other's order.
#[test]
fn vectors_are_written_read_deleted_and_queried() {
    let daemon = Daemon::start();
    daemon.write(
        "client_test",
        &json!({
            "upsert_rows": [{"id": 2, "vector": [2, 2]}, {"id": 7, "vector": [0.7, 0.7], "hello": "world"}],
            "distance_metric": "euclidean_squared",
        }),
    );
    let many: Vec<Value> =
        (10..100).map(|id| json!({"id": id, "vector": base64(&[id as f32 / 10.0; 2]), "test": "rows"})).collect();
    daemon.write("client_test", &json!({ "upsert_rows": many }));
    let single = daemon.post("/v2/namespaces/client_test", &json!({"upsert_rows": {"id": 2, "vector": [2, 2]}}));
    assert_eq!(single.status, 422);
    assert!(single.error().contains("invalid type: map, expected a sequence"), "{}", single.text());
    let found = all(&daemon, "client_test");
    assert_eq!(found.len(), 92);
    assert_eq!(found[0], json!({"id": 2, "vector": [2.0, 2.0]}));
    assert_eq!(found[1], json!({"id": 7, "vector": [0.7, 0.7], "hello": "world"}));
    for (row, id) in found[2..].iter().zip(10..100) {
        assert_eq!(*row, json!({"id": id, "vector": [tenths(id), tenths(id)], "test": "rows"}));
    }
    let recall = daemon.post("/v1/namespaces/client_test/_debug/recall", &json!({}));
    assert_eq!(recall.status, 200, "{}", recall.text());
    assert_eq!(recall.json()["avg_recall"], 1.0);

    for deletes in [json!([2]), json!([10]), json!([11]), json!([12]), json!([13]), json!([14, 15, 16])] {
        daemon.write("client_test", &json!({ "deletes": deletes }));
    }
    let found = all(&daemon, "client_test");
    assert_eq!(found.len(), 84);
    assert_eq!(found[1]["id"], 17);

    let columns = json!({
        "id": [0, 1, 2, 3],
        "vector": [[0.0, 0.0], [0.1, 0.1], [0.2, 0.2], [0.3, 0.3]],
        "key1": ["zero", "one", "two", "three"],
        "key2": [" ", "a", "b", "c"],
        "test": ["cols", "cols", "cols", "cols"],
    });
    daemon.write("client_test", &json!({ "upsert_columns": columns }));
    let columns = json!({
        "id": [4, 5, 6],
        "vector": [[0.1, 0.1], [0.2, 0.2], [0.3, 0.3]],
        "key1": ["one", "two", "three"],
        "key2": ["a", "b", "c"],
        "test": ["cols", "cols", "cols"],
    });
    daemon.write("client_test", &json!({ "upsert_columns": columns }));
    let many: Vec<Value> =
        (10..100).map(|id| json!({"id": id, "vector": [tenths(id), tenths(id)], "test": "cols"})).collect();
    daemon.write("client_test", &json!({ "upsert_rows": many }));
    let found = all(&daemon, "client_test");
    assert_eq!(found.len(), 98);
    assert_eq!(found.iter().filter(|row| row["test"] == "cols").count(), 97);

    queries_of_vectors(&daemon);

    assert_eq!(daemon.get("/v1/namespaces/client_test/schema").status, 200);
    let deleted = daemon.send("DELETE", "/v2/namespaces/client_test", &[], b"");
    assert_eq!((deleted.status, deleted.json()), (200, json!({"status": "OK"})));
    let gone = daemon.get("/v1/namespaces/client_test/schema");
    assert_eq!((gone.status, gone.error().as_str()), (404, "🤷 namespace 'client_test' was not found"));
}

fn queries_of_vectors(daemon: &Daemon) {
    let nearest = json!({
        "top_k": 5, "rank_by": ["vector", "ANN", [0.8, 0.7]], "include_attributes": ["hello", "vector"],
    });
    let answer = daemon.query("client_test", &nearest);
    assert_eq!(ids(&answer), [7, 10, 11, 3, 6]);
    let dists: Vec<f64> = rows(&answer).iter().map(|row| row["$dist"].as_f64().unwrap()).collect();
    for (dist, expected) in dists.iter().zip([0.01, 0.13, 0.25, 0.41, 0.41]) {
        assert!((dist - expected).abs() < 1e-6, "{dists:?}");
    }
    assert_eq!(rows(&answer)[0]["hello"], "world");
    assert_eq!(rows(&answer)[1].as_object().unwrap().len(), 3);
    assert_eq!(answer["billing"]["billable_logical_bytes_returned"], 105);
    let every = json!({"top_k": 5, "rank_by": ["vector", "ANN", [0.8, 0.7]], "include_attributes": true});
    let answer = daemon.query("client_test", &every);
    let widths: Vec<usize> = rows(&answer).iter().map(|row| row.as_object().unwrap().len()).collect();
    assert_eq!((ids(&answer), widths), (vec![7, 10, 11, 3, 6], vec![4, 4, 4, 6, 6]));
    assert_eq!((&rows(&answer)[3]["key1"], &rows(&answer)[3]["key2"]), (&json!("three"), &json!("c")));
    let answer = daemon.query("client_test", &json!({"top_k": 5, "rank_by": ["vector", "ANN", [1.5, 1.6]]}));
    assert_eq!(ids(&answer), [15, 16, 14, 17, 18]);
    let answer = daemon.query(
        "client_test",
        &json!({
            "rank_by": ["id", "asc"], "top_k": 3, "include_attributes": ["hello"], "filters": ["id", "In", [10, 11, 12]],
        }),
    );
    assert_eq!(answer["rows"], json!([{"id": 10}, {"id": 11}, {"id": 12}]));
    let eventual = json!({"rank_by": ["id", "asc"], "top_k": 3, "consistency": {"level": "eventual"}});
    assert_eq!(rows(&daemon.query("client_test", &eventual)).len(), 3);
    for (consistency, text) in [
        (json!("eventual"), "invalid type: string \"eventual\", expected struct Consistency"),
        (json!({"level": "nonexistentvalue"}), "unknown variant `nonexistentvalue`, expected `strong` or `eventual`"),
    ] {
        let body = json!({"rank_by": ["id", "asc"], "top_k": 3, "consistency": consistency});
        let reply = daemon.post("/v2/namespaces/client_test/query", &body);
        assert_eq!(reply.status, 422);
        assert!(reply.error().contains(text), "{}", reply.text());
    }
}

/// `test_string_ids`, `test_exists`.
#[test]
fn string_ids_are_ids() {
    let daemon = Daemon::start();
    assert_eq!(daemon.get("/v1/namespaces/string_ids/schema").status, 404);
    let names: Vec<String> = (0..8).map(|n| format!("{n}8f6a1c2-11ef-0000-8000-0123456789ab")).collect();
    let vectors: Vec<Value> = (0..8).map(|n| json!([tenths(n), tenths(n)])).collect();
    daemon.write(
        "string_ids",
        &json!({
            "upsert_columns": {"id": names, "vector": vectors, "test": vec!["cols"; 8]},
            "distance_metric": "euclidean_squared",
        }),
    );
    let query = json!({"top_k": 5, "rank_by": ["vector", "ANN", [0.0, 0.0]], "filters": ["id", "In", names]});
    let found = |answer: &Value| rows(answer).iter().map(|row| row["id"].clone()).collect::<Vec<_>>();
    assert_eq!(found(&daemon.query("string_ids", &query)), json!(names[..5]).as_array().unwrap().clone());
    daemon.write("string_ids", &json!({"deletes": [names[2]]}));
    let left: Vec<&String> = names.iter().filter(|name| **name != names[2]).take(5).collect();
    assert_eq!(found(&daemon.query("string_ids", &query)), json!(left).as_array().unwrap().clone());
    let mixed = daemon.post("/v2/namespaces/string_ids", &json!({"upsert_rows": [{"id": 1}]}));
    assert_eq!(mixed.status, 400);
    assert!(mixed.error().contains("not allowed to mix ID types"), "{}", mixed.text());
}

/// `test_attribute_types`: filters, and the texts that say what an operator expects.
#[test]
fn filters_work_on_every_kind_of_attribute() {
    let daemon = Daemon::start();
    daemon.write(
        "types",
        &json!({
            "upsert_rows": [
                {"id": 1, "vector": [0.1, 0.1], "count": 1, "users": ["jan", "simon"], "tags": ["a", "b"], "ok": true},
                {"id": 2, "vector": [0.2, 0.2], "count": 2, "users": ["bojan", "morgan"], "tags": ["b"], "ok": false},
                {"id": 3, "vector": [0.3, 0.3], "count": 3, "users": ["simon"]},
            ],
            "distance_metric": "euclidean_squared",
        }),
    );
    let found = |filter: Value| {
        ids(&daemon.query("types", &json!({"rank_by": ["id", "asc"], "limit": 10, "filters": filter})))
    };
    assert_eq!(found(json!(["users", "In", "bojan"])), [2]);
    assert_eq!(found(json!(["users", "In", ["jan", "bojan"]])), [1, 2]);
    assert_eq!(found(json!(["And", [["users", "Contains", "simon"], ["count", "Gt", 1]]])), [3]);
    assert_eq!(found(json!(["Or", [["count", "Gt", 2], ["ok", "Eq", true]]])), [1, 3]);
    assert_eq!(found(json!(["Not", ["count", "In", [1, 2]]])), [3]);
    assert_eq!(found(json!(["tags", "NotContains", "a"])), [2, 3]);
    for (filter, text) in [
        (json!(["tags", "ContainsAny", "a"]), "type mismatch, ContainsAny expects []string, but got"),
        (json!(["tags", "Contains", ["a"]]), "type mismatch, Contains expects string, but got"),
        (json!(["tags", "NotContainsAny", "a"]), "type mismatch, NotContainsAny expects []string, but got"),
        (json!(["tags", "NotContains", ["a"]]), "type mismatch, NotContains expects string, but got"),
    ] {
        let body = json!({"rank_by": ["id", "asc"], "limit": 10, "filters": filter});
        let reply = daemon.post("/v2/namespaces/types/query", &body);
        assert!((400..500).contains(&reply.status), "{}", reply.status);
        let error = reply.error();
        assert!(error.contains("filter error in key `tags`") && error.contains(text), "{error}");
    }
    let deleted = daemon.write("types", &json!({"delete_by_filter": ["count", "Gte", 2]}));
    assert_eq!(deleted["rows_affected"], 2);
    let none = daemon.write("types", &json!({"delete_by_filter": ["count", "Gte", 2]}));
    assert_eq!((&none["rows_affected"], &none["message"]), (&json!(0), &json!("filter matched 0 documents")));
}

/// `test_query_vectors_vector_encoding_format`, `test_upsert_base64_vectors`.
#[test]
fn vectors_come_back_as_numbers_or_base64() {
    let daemon = Daemon::start();
    let sent = base64(&[0.1, 0.2, 0.3]);
    daemon.write(
        "encoding",
        &json!({"upsert_rows": [{"id": 1, "vector": sent}], "distance_metric": "euclidean_squared"}),
    );
    for (encoding, expected) in
        [(None, json!([0.1, 0.2, 0.3])), (Some("float"), json!([0.1, 0.2, 0.3])), (Some("base64"), json!(sent))]
    {
        let answer = daemon.query(
            "encoding",
            &json!({
                "top_k": 1, "rank_by": ["vector", "ANN", [0.0, 0.0, 0.0]], "include_attributes": true,
                "vector_encoding": encoding,
            }),
        );
        assert_eq!(answer["rows"][0]["vector"], expected);
    }
}

/// `test_bm25`.
#[test]
fn text_is_ranked() {
    let daemon = Daemon::start();
    let schema = json!({"blabla": {"type": "string", "full_text_search": {
        "language": "english", "stemming": true, "case_sensitive": false, "remove_stopwords": true,
    }}});
    daemon.write(
        "bm25",
        &json!({
            "upsert_columns": {
                "id": [1, 2, 3, 4],
                "vector": [[0.1, 0.1], [0.2, 0.2], [0.3, 0.3], [0.4, 0.4]],
                "blabla": [
                    "the fox is quick and brown", "fox jumped over the lazy dog", "the dog is lazy and brown",
                    "walrus is slow and inferior",
                ],
                "fact_id": ["a", "b", "c", "d"],
            },
            "distance_metric": "euclidean_squared",
            "schema": schema,
        }),
    );
    let answer = daemon.query("bm25", &json!({"top_k": 10, "rank_by": ["blabla", "BM25", "fox jumping"]}));
    assert_eq!(ids(&answer), [2, 1]);
    let row = json!({"id": 7, "vector": [0.7, 0.7], "blabla": "walruses can live up to 40 years", "fact_id": "g"});
    daemon.write("bm25", &json!({"upsert_rows": [row], "schema": schema}));
    let sum = json!(["Sum", [["blabla", "BM25", "walrus slow"], ["blabla", "BM25", "jumping fox"]]]);
    let answer = daemon.query("bm25", &json!({"top_k": 2, "rank_by": sum, "filters": ["fact_id", "NotEq", "z"]}));
    assert_eq!(ids(&answer), [4, 2]);
    let halved =
        json!(["Product", 0.5, ["Sum", [["Product", ["blabla", "BM25", "fox"], 2], ["blabla", "BM25", "dog"]]]]);
    assert_eq!(ids(&daemon.query("bm25", &json!({"top_k": 10, "rank_by": halved}))).len(), 3);
    let tokens = |text: &str| {
        let filters = json!(["blabla", "ContainsAllTokens", text]);
        ids(&daemon.query("bm25", &json!({"top_k": 10, "rank_by": ["blabla", "BM25", "fox"], "filters": filters})))
    };
    assert_eq!(tokens("quick brown"), [1]);
    assert_eq!(tokens("quick brown short"), Vec::<u64>::new());
    daemon.write(
        "tokens",
        &json!({
            "upsert_rows": [
                {"id": 1, "content": ["jumped", "over", "the", "lazy", "dog"]},
                {"id": 2, "content": ["the", "lazy", "dog", "is", "brown"]},
            ],
            "schema": {"content": {"type": "[]string", "full_text_search": {"tokenizer": "pre_tokenized_array"}}},
        }),
    );
    let ask = |query: Value| json!({"top_k": 10, "rank_by": ["content", "BM25", query]});
    assert_eq!(ids(&daemon.query("tokens", &ask(json!(["jumped"])))), [1]);
    assert_eq!(ids(&daemon.query("tokens", &ask(json!(["dog"])))).len(), 2);
    let reply = daemon.post("/v2/namespaces/tokens/query", &ask(json!("jumped")));
    assert_eq!(reply.status, 400);
    let error = reply.error();
    assert!(error.contains("invalid input") && error.contains(r#"for rank_by field "content", expecting []string"#));
}

/// `test_schema`, `test_patch`, `test_order_by`.
#[test]
fn schemas_change_patches_merge_and_rows_have_an_order() {
    let daemon = Daemon::start();
    daemon.write(
        "schema",
        &json!({
            "upsert_rows": [
                {"id": 2, "vector": [2, 2]}, {"id": 7, "vector": [0.7, 0.7], "hello": "world", "test": "rows"},
            ],
            "distance_metric": "euclidean_squared",
        }),
    );
    let schema = daemon.get("/v1/namespaces/schema/schema").json();
    assert_eq!(schema["hello"], json!({"type": "string", "filterable": true, "full_text_search": null}));
    assert_eq!(schema["id"]["type"], "uint");
    let update = json!({"hello": {"type": "string", "filterable": false}});
    let updated = daemon.post("/v1/namespaces/schema/schema", &update);
    assert_eq!((updated.status, &updated.json()["hello"]["filterable"]), (200, &json!(false)));
    let body = json!({"rank_by": ["vector", "ANN", [2, 2]], "top_k": 10, "filters": ["hello", "Eq", "foobar"]});
    assert_eq!(daemon.post("/v2/namespaces/schema/query", &body).status, 400);

    let patch = |body: Value| daemon.write("schema", &body);
    assert_eq!(patch(json!({"patch_rows": [{"id": 2, "a": 1}, {"id": 7, "b": 2}]}))["rows_patched"], 2);
    patch(json!({"patch_rows": [{"id": 2, "b": 1}, {"id": 7, "a": 2}]}));
    patch(json!({"patch_columns": {"id": [2, 7], "a": [11, 22], "c": [1, 2]}}));
    let body = json!({"rank_by": ["id", "asc"], "include_attributes": ["a", "b", "c"], "top_k": 10});
    let answer = daemon.query("schema", &body);
    assert_eq!(answer["rows"], json!([{"id": 2, "a": 11, "b": 1, "c": 1}, {"id": 7, "a": 22, "b": 2, "c": 2}]));
    assert_eq!(ids(&daemon.query("schema", &json!({"rank_by": ["a", "desc"], "top_k": 10}))), [7, 2]);
    assert_eq!(ids(&daemon.query("schema", &json!({"rank_by": ["a", "asc"], "top_k": 10}))), [2, 7]);
}

/// `test_performance`, `test_namespace`, `test_no_cmek`.
#[test]
fn answers_carry_true_figures_and_keys_of_others_are_refused() {
    let daemon = Daemon::start();
    daemon.write(
        "perf",
        &json!({
            "upsert_rows": [{"id": 1, "vector": [0.1, 0.1]}, {"id": 2, "vector": [0.2, 0.2], "hello": "world"}],
            "distance_metric": "cosine_distance",
        }),
    );
    let body = json!({
        "rank_by": ["vector", "ANN", [0.0, 0.3]], "include_attributes": ["hello"],
        "filters": ["hello", "Eq", "world"], "top_k": 10,
    });
    let performance = daemon.query("perf", &body)["performance"].clone();
    assert!(performance["cache_hit_ratio"].is_f64(), "{performance}");
    assert!(["hot", "warm", "cold"].contains(&performance["cache_temperature"].as_str().unwrap()));
    assert_eq!(performance["exhaustive_search_count"], 2);
    assert_eq!(performance["approx_namespace_size"], 2);
    assert!(performance["server_total_ms"].as_u64().unwrap() > 0);
    assert!(performance["query_execution_ms"].as_u64().unwrap() > 0);
    let hint = daemon.get("/v1/namespaces/perf/hint_cache_warm");
    assert_eq!((hint.status, &hint.json()["status"]), (202, &json!("ACCEPTED")));
    assert!(hint.json()["message"].is_string());
    let reply = daemon.post(
        "/v2/namespaces/cmek",
        &json!({
            "upsert_columns": {"id": [1, 2], "vector": [[0.1, 0.1], [0.2, 0.2]]},
            "distance_metric": "cosine_distance",
            "encryption": {"key_name": "mykey", "mode": "customer-managed"},
        }),
    );
    assert_eq!(reply.status, 400);
    assert!(reply.error().contains("Malformed Cloud KMS crypto key: mykey"));
}

/// `test_copy_from_namespace`, with and without waiting.
#[test]
fn namespaces_are_copied() {
    let daemon = Daemon::start();
    daemon.write(
        "source",
        &json!({
            "upsert_columns": {"id": [1, 2, 3, 4], "vector": [[0.1, 0.1], [0.2, 0.2], [0.3, 0.3], [0.4, 0.4]]},
            "distance_metric": "euclidean_squared",
        }),
    );
    let path = "/v2/namespaces/copy?stainless_overload=copyFrom";
    let copied = daemon.post(path, &json!({"copy_from_namespace": {"source_namespace": "source"}}));
    assert_eq!(copied.status, 200, "{}", copied.text());
    let copied = copied.json();
    assert_eq!((&copied["message"], &copied["rows_affected"]), (&json!("namespace cloned successfully"), &json!(4)));
    let nearest = json!({"rank_by": ["vector", "ANN", [0.1, 0.1]], "top_k": 10});
    assert_eq!(ids(&daemon.query("copy", &nearest)), [1, 2, 3, 4]);
    daemon.write("copy", &json!({"deletes": [1]}));
    assert_eq!(ids(&daemon.query("source", &nearest)).len(), 4);
    for (to, from, status) in [("copy", "source", 400), ("source", "source", 400), ("new", "absent", 404)] {
        let reply = daemon.post(&format!("/v2/namespaces/{to}"), &json!({ "copy_from_namespace": from }));
        assert_eq!(reply.status, status, "{}", reply.text());
    }
    let started = daemon.post("/v2/namespaces/later/async", &json!({"copy_from_namespace": "source"})).json();
    let token = started["token"].as_str().unwrap();
    let path = format!("/v1/namespaces/later/operations/{token}?stainless_overload=pollCopyFrom");
    let mut polls = 0;
    let finished = loop {
        let poll = daemon.get(&path).json();
        if poll["status"] == "finished" {
            break poll;
        }
        assert!(poll["status"] == "running" && polls < 1_000, "{poll}");
        polls += 1;
    };
    assert_eq!(finished["result"]["success"]["rows_affected"], 4);
    assert!(finished["start_time"].is_string() && finished["finish_time"].is_string());
    assert_eq!(daemon.get("/v1/namespaces/later/operations/nothing").status, 404);
}

/// `test_compression`.
#[test]
fn large_answers_are_packed_where_the_client_asks() {
    let daemon = Daemon::start();
    let body = json!({
        "upsert_rows": [
            {"id": 1, "vector": vec![0.1; 4096], "title": "test doc"},
            {"id": 2, "vector": vec![0.2; 4096], "title": "test doc"},
        ],
        "distance_metric": "euclidean_squared",
    });
    let packed = super::client::gzip(body.to_string().as_bytes());
    let sent = daemon.send("POST", "/v2/namespaces/packed", &[("content-encoding", "gzip")], &packed);
    assert_eq!(sent.status, 200, "{}", sent.text());
    let ask = |encoding: &str, all: bool| {
        let body = json!({"rank_by": ["vector", "ANN", vec![0.1; 4096]], "top_k": 2, "include_attributes": all});
        let path = "/v2/namespaces/packed/query?stainless_overload=query";
        daemon.send("POST", path, &[("accept-encoding", encoding)], body.to_string().as_bytes())
    };
    assert_eq!(ask("identity", true).header("content-encoding"), None);
    let packed = ask("gzip", true);
    assert_eq!(packed.header("content-encoding"), Some("gzip"));
    assert_eq!(ids(&packed.json()), [1, 2]);
    // The SDK's tests want answers of about 350 bytes as they are.
    assert_eq!(ask("gzip", false).header("content-encoding"), None);
    assert_eq!(ask("gzip;q=0", true).header("content-encoding"), None);
    assert_eq!(packed.header("content-type"), Some("application/json"));
}
