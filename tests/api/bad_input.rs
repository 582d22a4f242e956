//! Bad input to every endpoint: the contract's status, a text that names field, expected and got, and nothing changed.

use serde_json::{Value, json};

use super::client::{Daemon, ids};

/// A namespace with two documents, and what it looked like before the bad input.
struct Before {
    daemon: Daemon,
    etag: String,
    schema: Value,
}

impl Before {
    fn new() -> Self {
        let daemon = Daemon::start();
        let body = json!({
            "upsert_rows": [
                {"id": 1, "vector": [1, 0], "text": "fish", "n": 1, "tags": ["a"]},
                {"id": 2, "vector": [0, 1], "text": "whale", "n": -2},
            ],
            "distance_metric": "cosine_distance",
            "schema": {"text": {"type": "string", "full_text_search": true}, "sparse": "{}f16"},
        });
        let reply = daemon.post("/v2/namespaces/docs", &body);
        assert_eq!(reply.status, 200, "{}", reply.text());
        let etag = reply.header("etag").unwrap().to_owned();
        let schema = daemon.get("/v1/namespaces/docs/schema").json();
        Before { daemon, etag, schema }
    }

    fn write(&self, body: &Value) -> (u16, String) {
        let reply = self.daemon.post("/v2/namespaces/docs", body);
        assert!(reply.status >= 400, "{body} is taken");
        (reply.status, reply.error())
    }

    fn query(&self, body: &Value) -> (u16, String) {
        let reply = self.daemon.post("/v2/namespaces/docs/query", body);
        assert!(reply.status >= 400, "{body} is taken: {}", reply.text());
        (reply.status, reply.error())
    }
}

impl Drop for Before {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let after = self.daemon.get("/v1/namespaces/docs/schema");
        assert_eq!(after.header("etag"), Some(self.etag.as_str()), "something was written");
        assert_eq!(after.json(), self.schema);
        let names = self.daemon.get("/v1/namespaces").json()["namespaces"].clone();
        assert_eq!(names, json!([{"id": "docs"}]));
    }
}

/// Every route that reads a body.
const WITH_BODY: [(&str, &str); 11] = [
    ("POST", "/v2/namespaces/docs"),
    ("POST", "/v2/namespaces/docs/query"),
    ("POST", "/v2/namespaces/docs/explain_query"),
    ("POST", "/v2/namespaces/docs/async"),
    ("POST", "/v1/namespaces/docs/schema"),
    ("PATCH", "/v1/namespaces/docs/metadata"),
    ("POST", "/v1/namespaces/docs/_debug/recall"),
    ("PUT", "/v1/namespaces/docs/labels"),
    ("POST", "/v1/namespaces/docs/ids"),
    ("PUT", "/v1/namespaces/new"),
    ("POST", "/v2/namespaces/new"),
];

#[test]
fn what_is_not_json_is_refused_everywhere() {
    let before = Before::new();
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(500), "]".repeat(500));
    let bodies: [&[u8]; 9] = [
        b"{",
        b"{\"a\":}",
        b"nonsense",
        b"{\"a\":NaN}",
        b"{\"a\":Infinity}",
        b"{\"a\":1e999}",
        b"{} trailing",
        b"{\"a\":\"\xff\"}",
        deep.as_bytes(),
    ];
    for (method, path) in WITH_BODY {
        for body in bodies {
            let reply = before.daemon.send(method, path, &[], body);
            let shown = String::from_utf8_lossy(&body[..body.len().min(40)]).into_owned();
            assert_eq!(reply.status, 400, "{method} {path} {shown}: {}", reply.text());
            assert!(reply.error().starts_with("Failed to parse the request body as JSON: "), "{}", reply.text());
        }
        for (body, got) in [("[]", "sequence"), ("7", "integer `7`"), ("\"x\"", "string \"x\""), ("null", "null")] {
            let reply = before.daemon.send(method, path, &[], body.as_bytes());
            assert_eq!(reply.status, 422, "{method} {path} {body}: {}", reply.text());
            let error = reply.error();
            assert!(error.starts_with("Failed to deserialize the JSON body into the target type: "), "{error}");
            assert!(error.contains(got), "{error}");
        }
    }
}

#[test]
fn what_is_not_there_is_not_found_everywhere() {
    let before = Before::new();
    let query = json!({"rank_by": ["id", "asc"], "limit": 1}).to_string();
    for (method, path, body) in [
        ("POST", "/v2/namespaces/none/query", query.as_str()),
        ("POST", "/v2/namespaces/none/explain_query", &query),
        ("GET", "/v1/namespaces/none/schema", ""),
        ("POST", "/v1/namespaces/none/schema", "{\"a\":\"string\"}"),
        ("GET", "/v1/namespaces/none/metadata", ""),
        ("GET", "/v2/namespaces/none/metadata", ""),
        ("PATCH", "/v1/namespaces/none/metadata", "{}"),
        ("GET", "/v1/namespaces/none/hint_cache_warm", ""),
        ("POST", "/v1/namespaces/none/_debug/recall", "{}"),
        ("GET", "/v1/namespaces/none/_debug/warm_cache", ""),
        ("GET", "/v1/namespaces/none/_debug/purge_cache", ""),
        ("GET", "/v1/namespaces/none/status", ""),
        ("PUT", "/v1/namespaces/none/labels", "{}"),
        ("PUT", "/v1/namespaces/none/pin", ""),
        ("DELETE", "/v1/namespaces/none/pin", ""),
        ("POST", "/v1/namespaces/none/checkpoint", ""),
        ("POST", "/v1/namespaces/none/compact", ""),
        ("POST", "/v1/namespaces/none/ids", "{\"count\":1}"),
        ("DELETE", "/v2/namespaces/none", ""),
        ("POST", "/v2/namespaces/none", "{\"deletes\":[1]}"),
        ("POST", "/v2/namespaces/none", "{\"patch_rows\":[{\"id\":1,\"a\":1}]}"),
        ("POST", "/v2/namespaces/none", "{\"upsert_rows\":[{\"id\":1}],\"create_namespace\":false}"),
        ("POST", "/v2/namespaces/new", "{\"copy_from_namespace\":\"none\"}"),
    ] {
        let reply = before.daemon.send(method, path, &[], body.as_bytes());
        assert_eq!(reply.status, 404, "{method} {path}: {}", reply.text());
        assert_eq!(reply.error(), "🤷 namespace 'none' was not found", "{method} {path}");
    }
}

#[test]
fn names_that_could_leave_their_directory_are_refused_in_plain_text() {
    let before = Before::new();
    let write = br#"{"upsert_rows":[{"id":1}]}"#;
    for name in ["%2e%2e", "..%2f..%2fetc", "a%2Fb", ".git", "_x", "a..b", "a%00", "%F0%9F%90%9F", "a%20b", "%zz"] {
        let reply = before.daemon.send("POST", &format!("/v2/namespaces/{name}"), &[], write);
        assert_eq!(reply.status, 400, "{name}: {}", reply.text());
        assert!(reply.text().starts_with("Invalid URL: "), "{}", reply.text());
        assert_eq!(reply.header("content-type"), Some("text/plain; charset=utf-8"));
    }
    let long = before.daemon.send("POST", &format!("/v2/namespaces/{}", "n".repeat(129)), &[], write);
    assert_eq!((long.status, long.text().as_str()), (400, "Invalid URL: Namespace too long, max 128"));
    for path in ["/..%2f/x/v2/namespaces/a", "/a/..%2f/v2/namespaces/a", "/v1/v1/v2/namespaces/a"] {
        assert!((400..=404).contains(&before.daemon.send("POST", path, &[], write).status), "{path}");
    }
    for source in ["../docs", "a/b", "", ".."] {
        let reply = before.daemon.post("/v2/namespaces/new", &json!({ "copy_from_namespace": source }));
        assert_eq!(reply.status, 400);
        assert!(reply.error().starts_with("copy_from_namespace: "), "{}", reply.text());
    }
}

#[test]
fn wrong_methods_and_unknown_paths_are_told_apart() {
    let before = Before::new();
    for (method, path, allow) in [
        ("GET", "/v2/namespaces/docs/query", "POST"),
        ("POST", "/v2/namespaces/docs/metadata", "GET, PATCH"),
        ("DELETE", "/v1/namespaces/docs/schema", "GET, POST"),
        ("PUT", "/v1/namespaces", "GET"),
        ("POST", "/metrics", "GET"),
        ("GET", "/v1/namespaces/docs/compact", "POST"),
        ("OPTIONS", "/v2/namespaces/docs", "POST, DELETE"),
    ] {
        let reply = before.daemon.send(method, path, &[], b"");
        assert_eq!((reply.status, reply.header("allow")), (405, Some(allow)), "{method} {path}: {}", reply.text());
        reply.error();
    }
    for (method, path) in
        [("GET", "/"), ("GET", "/v1"), ("GET", "/v1/namespaces/docs"), ("POST", "/v2/namespaces/docs/nothing")]
    {
        let reply = before.daemon.send(method, path, &[], b"");
        assert_eq!(reply.status, 404, "{method} {path}");
        reply.error();
    }
}

#[test]
fn writes_of_the_wrong_shape_say_where() {
    let before = Before::new();
    for (body, status, text) in [
        (json!({}), 400, "💔 no writes provided"),
        (json!({"upsert_rows": []}), 400, "💔 no writes provided"),
        (json!({"return_affected_ids": true}), 400, "💔 no writes provided"),
        (json!({"upsert_rows": {"id": 1}}), 422, "upsert_rows: invalid type: map, expected a sequence"),
        (json!({"upsert_rows": [{"n": 1}]}), 422, "upsert_rows[0]: missing field `id`"),
        (json!({"upsert_rows": [{"id": 1}, {"id": null}]}), 422, "upsert_rows[1].id: data did not match"),
        (json!({"upsert_rows": [{"id": 1.5}]}), 422, "upsert_rows[0].id: data did not match any variant"),
        (json!({"upsert_rows": [{"id": -1}]}), 400, "int is not a valid ID type"),
        (json!({"upsert_rows": [{"id": "x"}]}), 400, "namespace ID type is uint, but you sent string"),
        (json!({"upsert_rows": [{"id": 3}, {"id": 3}]}), 400, "1 duplicate document ID"),
        (json!({"upsert_rows": [{"id": 3}], "deletes": [3]}), 400, "duplicate document ID"),
        (json!({"upsert_columns": {"n": [1]}}), 422, "upsert_columns: missing field `id`"),
        (json!({"upsert_columns": {"id": [1, 2], "n": [1]}}), 400, "upsert_columns.n: has 1 values, expected 2"),
        (json!({"upsert_columns": {"id": 1}}), 422, "upsert_columns.id: invalid type: integer `1`"),
        (json!({"deletes": 7}), 422, "deletes: data did not match any variant of untagged enum IdVec"),
        (json!({"deletes": [[1]]}), 422, "deletes: data did not match"),
        (json!({"deletes": [1], "distance_metric": "x"}), 422, "unknown variant `x`"),
        (json!({"deletes": [1], "distance_metric": "euclidean_squared"}), 400, "distance metric mismatch"),
        (json!({"deletes": [1], "schema": {"n": 5}}), 422, "schema.n: data did not match"),
        (json!({"deletes": [1], "schema": {"n": "string"}}), 400, "cannot change attribute type"),
        (json!({"deletes": [1], "schema": {"m": "strin"}}), 400, "unknown type 'strin'"),
        (json!({"deletes": [1], "schema": []}), 422, "schema: invalid type: sequence"),
        (json!({"deletes": [1], "return_affected_ids": "yes"}), 422, "return_affected_ids: invalid type: string"),
        (json!({"deletes": [1], "upsert_condition": ["n", "Eq", 1]}), 400, "cannot set upsert_condition"),
        (json!({"deletes": [1], "delete_condition": ["n", "Near", 1]}), 400, "Near"),
        (json!({"deletes": [1], "delete_condition": 7}), 422, "delete_condition: data did not match"),
        (json!({"deletes": [1], "delete_condition": ["nothing", "Eq", 1]}), 400, "nothing"),
        (json!({"delete_by_filter": ["n", "Eq"]}), 422, "delete_by_filter: data did not match"),
        (json!({"patch_by_filter": {"filters": ["n", "Eq", 1]}}), 422, "patch_by_filter: missing field `patch`"),
        (json!({"patch_rows": [{"id": 1, "vector": [1, 1]}]}), 400, "patching vectors"),
        (json!({"branch_from_namespace": 7}), 422, "branch_from_namespace: invalid type: integer `7`"),
        (json!({"deletes": [1], "sharding": {"num_shards": 2}}), 400, "sharding is not offered"),
        (json!({"copy_from_namespace": {"source_namespace": "a", "source_region": "x"}}), 400, "cross-region"),
    ] {
        let (got, error) = before.write(&body);
        assert!(got == status && error.contains(text), "{body}: {got} {error}");
    }
}

#[test]
fn values_of_the_wrong_type_or_size_say_which() {
    let before = Before::new();
    let row = |field: &str, value: Value| json!({"upsert_rows": [{"id": 3, "vector": [1, 1], field: value}]});
    for (body, text) in [
        (row("vector", json!([1, 2, 3])), "vector"),
        (row("vector", json!([])), "vector"),
        (row("vector", json!(["a", "b"])), "vector"),
        (row("vector", json!([1e39, 1])), "vector"),
        (row("vector", json!([[1, 1]])), "vector"),
        (row("vector", json!("AAAA")), "vector"),
        // Base64 of NaN and of infinity beside a 1.
        (row("vector", json!("AADAfwAAgD8=")), "vector"),
        (row("vector", json!("AACAfwAAgD8=")), "vector"),
        (row("vector", json!("not base64!")), "vector"),
        (row("vector", json!({"a": 1})), "vector"),
        (row("n", json!("one")), "n"),
        (row("n", json!(1.5)), "n"),
        (row("n", json!([1])), "n"),
        (row("n", json!(18_446_744_073_709_551_615_u64)), "n"),
        (row("text", json!(5)), "text"),
        (row("text", json!(["fish"])), "text"),
        (row("tags", json!("a")), "tags"),
        (row("tags", json!(["a", 1])), "tags"),
        (row("tags", json!(["a", null])), "tags"),
        (row("sparse", json!({"a": "b"})), "sparse"),
        (row("sparse", json!({"a": 1e9})), "sparse"),
        (row("sparse", json!([1])), "sparse"),
        (row("$new", json!(1)), "$new"),
        (row("", json!(1)), "name"),
        (row(&"x".repeat(129), json!(1)), "128"),
        (row("new", json!({"a": 1})), "new"),
        (row("new", json!([1, "a"])), "new"),
        (row("new", json!("x".repeat(5_000))), "4096"),
        (row("text", json!("x".repeat(9 << 20))), "text"),
    ] {
        let (status, error) = before.write(&body);
        let shown: String = body.to_string().chars().take(100).collect();
        assert!(matches!(status, 400 | 422) && error.contains(text), "{shown}: {status} {error}");
    }
    let (status, error) = before.write(&json!({"upsert_rows": [{"id": "x".repeat(65)}]}));
    assert!(matches!(status, 400 | 422), "{error}");
}

#[test]
fn queries_of_the_wrong_shape_say_where() {
    let before = Before::new();
    let by_id = json!(["id", "asc"]);
    let with = |key: &str, value: Value| {
        let mut body = json!({"rank_by": by_id, "limit": 5});
        body[key] = value;
        body
    };
    let rank = |rank: Value| json!({"rank_by": rank, "limit": 5});
    let grouped = |label: &str, by: Value| json!({"aggregate_by": {label: ["Count"]}, "group_by": by, "limit": 5});
    let mut deep = json!(["n", "Eq", 1]);
    for _ in 0..40 {
        deep = json!(["Not", deep]);
    }
    let wide = json!(["Or", (0..5_000).map(|n| json!(["n", "Eq", n])).collect::<Vec<_>>()]);
    let signed = "rank_by clauses must produce non-negative scores, but an attribute clause on signed numeric attribute \
                  'n' was used. Wrap this clause under a [\"Max\", [0, <clause>]] to fix this.";
    for (body, status, text) in [
        (rank(json!([])), 400, "💔 rank_by cannot be empty"),
        (json!({"rank_by": by_id}), 400, "💔 rank_by queries must specify top_k or limit"),
        (with("limit", json!(0)), 400, "💔 top_k must be between 1 and 10000"),
        (with("limit", json!(10_001)), 400, "💔 top_k must be between 1 and 10000"),
        (with("limit", json!(-1)), 422, "limit: invalid value: integer `-1`, expected u32"),
        (with("limit", json!("5")), 422, "limit: invalid type: string \"5\", expected u32"),
        (with("offset", json!(9_999)), 400, "offset + limit"),
        (with("offset", json!(1.5)), 422, "offset: invalid type: floating point `1.5`"),
        (with("consistency", json!("strong")), 422, "expected struct Consistency"),
        (with("vector_encoding", json!("bad")), 422, "unknown variant `bad`, expected `float` or `base64`"),
        (with("include_attributes", json!(["nothing"])), 400, "attribute \"nothing\" not found in schema"),
        (with("include_attributes", json!(5)), 422, "include_attributes: invalid type: integer `5`"),
        (with("aggregate_by", json!({"c": ["Count"]})), 400, "cannot specify both rank_by and aggregate_by"),
        (with("group_by", json!(["n"])), 400, "group_by requires aggregate_by"),
        (grouped("n", json!(["n"])), 400, "the label \"n\" stands for two things"),
        (grouped("c", json!([{"c": ["ForEachUnique", "tags"]}])), 400, "the label \"c\" stands for two things"),
        (grouped("c", json!(["n", "n"])), 400, "the label \"n\" stands for two things"),
        (
            with("limit", json!({"total": 2, "per": {"attributes": ["id"], "limit": 1}})),
            400,
            "limit.per: every document",
        ),
        (with("rerank_by", json!(["RRF"])), 400, "RRF fuses the rankings of `queries`"),
        (with("rerank_by", json!({"model": "m"})), 400, "runs no models"),
        (with("compute_attributes", json!({"a": ["id"]})), 422, "compute_attributes.a: data did not match"),
        (with("distance_metric", json!("dot")), 422, "unknown variant `dot`"),
        (with("recall", json!(1.5)), 422, "recall: expected a number from 0.5 to 1"),
        (with("recall", json!("much")), 422, "recall: expected a number from 0.5 to 1"),
        (with("filters", json!(["n", "Near", 1])), 400, "Near"),
        (with("filters", json!(["nothing", "Eq", 1])), 400, "nothing"),
        (with("filters", json!(["n", "Eq", "one"])), 400, "n"),
        (with("filters", json!(["tags", "Contains", ["a"]])), 400, "Contains expects string, but got"),
        (with("filters", json!(["n", "Eq", 1, {}, 5])), 400, "at most 4 elements"),
        (with("filters", json!(["text", "Regex", "("])), 400, "text"),
        (with("filters", json!({"n": 1})), 422, "filters: data did not match"),
        (with("filters", deep), 400, "filter is too large"),
        (with("filters", wide), 400, "filter is too large"),
        (rank(json!(["vector", "ANN", [1, 2, 3]])), 400, "vector"),
        (rank(json!(["vector", "ANN", "x"])), 400, "vector"),
        (rank(json!(["vector", "ANN", [1, "a"]])), 400, "vector"),
        (rank(json!(["vector", "kNN", [1, 2]])), 400, "filter"),
        (rank(json!(["vector", "ANN", ["Embed", "text"]])), 400, "runs no models"),
        (rank(json!(["n", "ANN", [1, 2]])), 400, "n"),
        (rank(json!(["nothing", "ANN", [1, 2]])), 400, "nothing"),
        (rank(json!(["n", "BM25", "x"])), 400, "n"),
        (rank(json!(["text", "BM25", ["fish", 5]])), 400, "text"),
        (rank(json!(["text", "sideways"])), 422, "rank_by"),
        (rank(json!(["n", "ASC"])), 400, "unknown operator ASC behind \"n\", expected asc"),
        (rank(json!(["vector", "knn", [1, 2]])), 400, "unknown operator knn behind \"vector\", expected kNN"),
        (rank(json!(["Attribute", "n"])), 400, signed),
        (rank(json!(["Sum", [["vector", "ANN", [1, 2]]]])), 400, "ANN cannot be part of a score"),
        (rank(json!(["Product", -1, ["text", "BM25", "x"]])), 400, "must not be negative"),
        (rank(json!(["Decay", ["Attribute", "n"], {}])), 400, "Decay has no `midpoint`"),
        (
            rank(json!(["Decay", ["Attribute", "n"], {"midpoint": 0}])),
            400,
            "midpoint of Decay is 0, expected a positive",
        ),
        (
            rank(json!(["Decay", ["Attribute", "n"], {"midpoint": "1y"}])),
            400,
            "midpoint of Decay is \"1y\", expected",
        ),
        (rank(json!(["Decay", ["Attribute", "n"], {"midpoint": "1h"}])), 400, "no Dist of a datetime"),
        (rank(json!(["Decay", ["Attribute", "n"], {"midpoint": 1, "exponent": -1}])), 400, "exponent of Decay is -1"),
        (rank(json!(["Saturate", ["Attribute", "n"], {"midpoint": 1, "scale": 2}])), 422, "unknown field `scale`"),
        (rank(json!(["Saturate", ["Attribute", "n"], 5])), 422, "invalid type: integer `5`, expected a map"),
        (
            rank(json!(["Dist", ["Attribute", "n"], "2026-01-01"])),
            400,
            "invalid origin of Dist for rank_by field \"n\"",
        ),
        (rank(json!(["Dist", ["Attribute", "text"], "a"])), 400, "only numbers and datetimes have a Dist"),
        (rank(json!(["Dist", ["Sum", []], 1])), 400, "Dist measures [\"Attribute\", name]"),
        (rank(json!([["n", "asc"], ["n"]])), 422, "rank_by"),
        (rank(json!((0..9).map(|_| json!(["n", "asc"])).collect::<Vec<_>>())), 400, "at most 8 attributes"),
        (json!({"queries": []}), 400, "expected 1 to 16 queries, got 0"),
        (json!({"queries": (0..17).map(|_| rank(by_id.clone())).collect::<Vec<_>>()}), 400, "got 17"),
        (json!({"queries": [5]}), 422, "queries[0]: invalid type: integer `5`"),
        (
            json!({"queries": [rank(by_id.clone())], "filters": ["n", "Eq", 1]}),
            400,
            "filters cannot be beside queries",
        ),
        (
            json!({"queries": [rank(by_id.clone())], "rerank_by": ["RRF", {"weights": [1, 2]}]}),
            400,
            "2 weights for 1",
        ),
    ] {
        let (got, error) = before.query(&body);
        let shown: String = body.to_string().chars().take(120).collect();
        assert!(got == status && error.contains(text), "{shown}: {got} {error}");
    }
    let good = json!({"rank_by": by_id, "limit": 5, "unknown": 1});
    assert_eq!(ids(&before.daemon.query("docs", &good)), [1, 2]);
}

#[test]
fn other_bodies_of_the_wrong_shape_say_where() {
    let before = Before::new();
    for (method, path, body, status, text) in [
        ("POST", "/v1/namespaces/docs/schema", json!({"schema": {"n": "int"}}), 422, "type"),
        ("POST", "/v1/namespaces/docs/schema", json!({"n": "string"}), 400, "cannot change attribute type"),
        ("POST", "/v1/namespaces/docs/schema", json!({"n": 5}), 422, "n: data did not match"),
        ("PATCH", "/v1/namespaces/docs/metadata", json!({"read_only": "yes"}), 422, "read_only: invalid type"),
        ("PATCH", "/v1/namespaces/docs/metadata", json!({"pinning": "yes"}), 422, "pinning: data did not match"),
        ("POST", "/v1/namespaces/docs/_debug/recall", json!({"num": 0}), 400, "num must be 1 to 1000"),
        ("POST", "/v1/namespaces/docs/_debug/recall", json!({"num": "x"}), 422, "num: invalid type"),
        ("PUT", "/v1/namespaces/docs/labels", json!({"a": 1}), 422, "a: invalid type: integer `1`"),
        ("PUT", "/v1/namespaces/docs/labels", json!({"": "x"}), 400, "label"),
        ("POST", "/v1/namespaces/docs/ids", json!({}), 422, "missing field `count`"),
        ("POST", "/v1/namespaces/docs/ids", json!({"count": 1, "x": 1}), 422, "unknown field `x`"),
        ("POST", "/v2/namespaces/docs/async", json!({"deletes": [1]}), 400, "only copy_from_namespace"),
        ("POST", "/v2/namespaces/docs/explain_query", json!({"rank_by": []}), 400, "rank_by cannot be empty"),
    ] {
        let reply = before.daemon.send(method, path, &[], body.to_string().as_bytes());
        let error = reply.error();
        assert!(reply.status == status && error.contains(text), "{method} {path} {body}: {} {error}", reply.status);
    }
}
