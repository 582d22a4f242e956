//! Computed attributes, as a client asks for them: scores, distances, highlights.

use serde_json::{Value, json};

use super::client::Daemon;

const TEXT: &str =
    "Puffers swim slowly. They eat clams, e.g. small ones!\n\nSmoked eel 🐡 is naïve.\nWhere do clams live? In mud.";

fn aquarium() -> Daemon {
    let daemon = Daemon::start();
    daemon.write(
        "docs",
        &json!({
            "distance_metric": "euclidean_squared",
            "schema": {
                "text": {"type": "string", "full_text_search": true},
                "tags": {"type": "[]string", "full_text_search": {"stemming": true}},
                "words": {"type": "[]string", "full_text_search": {"tokenizer": "pre_tokenized_array"}},
                "plain": "string",
                "size": "uint",
            },
            "upsert_rows": [
                {"id": 1, "text": TEXT, "tags": ["warm water", "two clams"], "vector": [1, 2], "size": 4, "plain": "x"},
                {"id": 2, "text": "No sea food here.", "tags": [], "vector": [0, 0]},
                {"id": 3, "vector": [3, 2]},
            ],
        }),
    );
    daemon
}

/// What is computed of each document, in the order of their ids.
fn computed(daemon: &Daemon, expression: Value) -> Vec<Value> {
    let query = json!({"rank_by": ["id", "asc"], "limit": 9, "compute_attributes": {"c": expression}});
    let answer = daemon.query("docs", &query);
    answer["rows"].as_array().unwrap().iter().map(|row| row["c"].clone()).collect()
}

/// The texts of the fragments of the first document that is found.
fn fragments(daemon: &Daemon, query: &str, options: Value) -> Vec<Value> {
    let body = json!({
        "rank_by": ["text", "BM25", query], "limit": 1, "compute_attributes": {"h": ["Highlight", "text", options]},
    });
    daemon.query("docs", &body)["rows"][0]["h"].as_array().unwrap().clone()
}

fn texts(fragments: &[Value]) -> Vec<&str> {
    fragments.iter().map(|fragment| fragment["text"].as_str().unwrap()).collect()
}

#[test]
fn scores_and_distances_are_computed_beside_any_order() {
    let daemon = aquarium();
    assert_eq!(computed(&daemon, json!(["vector", "VectorDist", [1, 0]])), [4.0, 1.0, 8.0]);
    assert_eq!(computed(&daemon, json!(["vector", "ANN", [1, 0]])), [4.0, 1.0, 8.0]);
    assert_eq!(computed(&daemon, json!(["Product", 0.5, ["Attribute", "size"]])), [2.0, 0.0, 0.0]);
    assert_eq!(computed(&daemon, json!(["id", "In", [2, 3]])), [0.0, 1.0, 1.0]);
    let near = json!(["Decay", ["Dist", ["Attribute", "size"], 1], {"midpoint": 3}]);
    // What has no size has no distance.
    assert_eq!(computed(&daemon, near), [json!(0.5), Value::Null, Value::Null]);
    // "here" of four tokens, alone: ln 2 times 2.2 / (1 + 1.2 (0.25 + 0.75 * 4)).
    assert_eq!(computed(&daemon, json!(["text", "BM25", "here"])), [0.0, 0.31120893, 0.0]);
    let body = json!({
        "rank_by": ["vector", "ANN", [3, 2]], "limit": 1, "include_attributes": ["vector"],
        "compute_attributes": {"a": ["vector", "VectorDist", [0, 0]], "b": ["size", "Eq", null]},
    });
    let row = json!({"id": 3, "$dist": 0.0, "vector": [3.0, 2.0], "a": 13.0, "b": 1.0});
    assert_eq!(daemon.query("docs", &body)["rows"], json!([row]));
}

#[test]
fn a_text_is_taken_apart_by_sentences_lines_words_or_not() {
    let daemon = aquarium();
    let found = fragments(&daemon, "clams swim", json!(null));
    let sentences = ["Puffers swim slowly.", "Where do clams live?", "They eat clams, e.g. small ones!"];
    assert_eq!(texts(&found), sentences);
    assert_eq!(found[0], json!({"text": sentences[0]}));
    let found = fragments(&daemon, "clams eel", json!({"fragment_by": "paragraph", "fragment_limit": 2}));
    let lines = ["Smoked eel 🐡 is naïve.", "Where do clams live? In mud."];
    assert_eq!(texts(&found), lines);
    let found = fragments(&daemon, "clams eel", json!({"fragment_by": "word", "fragment_limit": 2}));
    assert_eq!(texts(&found), ["eel", "clams"]);
    let found = fragments(&daemon, "clams", json!({"fragment_by": "none"}));
    assert_eq!(texts(&found), [TEXT]);
}

#[test]
fn places_are_counted_in_the_unit_that_is_asked_for() {
    let daemon = aquarium();
    for (unit, before) in [("utf-8", 4), ("utf-16", 2), ("codepoints", 1)] {
        let options = json!({"fragment_by": "paragraph", "fragment_limit": 1, "include_offsets": unit});
        let found = fragments(&daemon, "naïve eel", options);
        let start = TEXT.find("Smoked").unwrap();
        let naive = start + "Smoked eel ".len() + before + " is ".len();
        let naive = [naive, naive + if unit == "utf-8" { 6 } else { 5 }];
        let expected = json!([{
            "text": "Smoked eel 🐡 is naïve.",
            "fragment_range": [start, naive[1] + 1],
            "match_ranges": [[start + 7, start + 10], naive],
        }]);
        assert_eq!(json!(found), expected, "{unit}");
    }
}

#[test]
fn highlights_are_of_the_attribute_that_is_named() {
    let daemon = aquarium();
    let options = json!({"rank_fragments_by": ["$fragment", "BM25", "clam", {"last_as_prefix": true}], "include_offsets": "utf-8"});
    let tags = json!([{"text": "two clams", "fragment_range": [0, 9], "match_ranges": [[4, 9]], "array_index": 1}]);
    assert_eq!(computed(&daemon, json!(["Highlight", "tags", options])), [tags, json!([]), json!([])]);
    let body = json!({
        "rank_by": ["Sum", [["Product", 2, ["text", "BM25", "mud"]], ["tags", "BM25", "clams"]]],
        "limit": 1,
        "compute_attributes": {"h": ["Highlight", "text"], "t": ["Highlight", "tags"]},
    });
    let row = &daemon.query("docs", &body)["rows"][0];
    assert_eq!(
        (&row["h"], &row["t"]),
        (&json!([{"text": "In mud."}]), &json!([{"text": "two clams", "array_index": 1}]))
    );
    let sized = json!({"rank_fragments_by": ["Sum", [["$fragment", "BM25", "mud"], ["Attribute", "size"]]], "fragment_limit": 1});
    assert_eq!(computed(&daemon, json!(["Highlight", "text", sized]))[0], json!([{"text": "In mud."}]));
}

#[test]
fn what_cannot_be_computed_is_refused_in_the_contracts_words() {
    let daemon = aquarium();
    let many: serde_json::Map<String, Value> =
        (0..257).map(|n| (format!("c{n}"), json!(["Attribute", "size"]))).collect();
    for (compute, status, text) in [
        (
            json!({"h": ["Highlight", "plain"]}),
            400,
            "`h` references `plain`, which is not enabled for full-text search",
        ),
        (json!({"h": ["Highlight", "words"]}), 400, "pre-tokenized tokenizer that does not support highlighting"),
        (json!({"h": ["Highlight", "tags"]}), 400, "the query `rank_by` has no BM25 clause over `tags`"),
        (
            json!({"h": ["Highlight", "text", {"fragment_by": "line"}]}),
            422,
            "one of `none`, `sentence`, `paragraph`, `word`",
        ),
        (json!({"h": ["Highlight", "text", {"include_offsets": "utf8"}]}), 422, "`utf-8`, `utf-16`, `codepoints`"),
        (
            json!({"h": ["Highlight", "text", {"fragment_limit": 0}]}),
            400,
            "`fragment_limit` must be between 1 and 1024",
        ),
        (json!({"h": ["Highlight", "text", {"fragment_limit": 1025}]}), 400, "must be between 1 and 1024"),
        (
            json!({"h": ["Highlight", "text", {"limit": 1}]}),
            422,
            "unknown field `limit`, expected one of `rank_fragments_by`",
        ),
        (json!({"h": ["Highlight", "text", {"rank_fragments_by": ["$fragment", "BM25", 5]}]}), 400, "'5'"),
        (json!({"h": ["Highlight"]}), 422, "h: data did not match any variant"),
        (json!({"h": []}), 422, "h: data did not match any variant"),
        (json!({"h": "Highlight"}), 422, "h: data did not match any variant"),
        (json!({"h": ["id", "asc"]}), 400, "an order of attributes has no value"),
        (json!({"h": ["$fragment", "BM25", "a"]}), 400, "\"$fragment\" not found in schema"),
        (json!({"h": ["vector", "VectorDist", ["Embed", "text"]]}), 400, "runs no models"),
        (json!({"h": ["vector", "VectorDist", [1]]}), 400, "computed attribute `h`: invalid vector"),
        (json!({"size": ["Attribute", "size"]}), 400, "has the name of an attribute"),
        (json!({"$dist": ["Attribute", "size"]}), 400, "do not begin with `$`"),
        (json!({"id": ["Attribute", "size"]}), 400, "that are not `id`"),
        (json!(many), 400, "at most 256 computed attributes, got 257"),
        (json!([]), 422, "compute_attributes: invalid type: sequence"),
    ] {
        let body = json!({"rank_by": ["text", "BM25", "clams"], "limit": 1, "compute_attributes": compute});
        let reply = daemon.post("/v2/namespaces/docs/query", &body);
        let error = reply.error();
        assert!(reply.status == status && error.contains(text), "{body}: {} {error}", reply.status);
    }
}
