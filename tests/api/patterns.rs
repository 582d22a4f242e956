//! Filters by pattern, as a client asks for them: in the newest writes and in a segment.

use serde_json::{Value, json};

use super::client::{Daemon, ids};

fn matching(daemon: &Daemon, filter: &Value) -> Vec<u64> {
    ids(&daemon.query("docs", &json!({"filters": filter, "rank_by": ["id", "asc"], "limit": 9})))
}

fn fuzzy(query: &str, options: Value) -> Value {
    json!(["name", "Fuzzy", query, options])
}

#[test]
fn misspelt_text_is_found() {
    let daemon = Daemon::start();
    daemon.write(
        "docs",
        &json!({
            "schema": {
                "name": {"type": "string", "fuzzy": true, "regex": true, "glob": true},
                "tags": {"type": "[]string", "fuzzy": true, "filterable": true},
            },
            "upsert_rows": [
                {"id": 1, "name": "turbopuffer", "tags": ["smoked mackerel", "cod"]},
                {"id": 2, "name": "The Turbopufer Inc", "tags": ["mackrel"]},
                {"id": 3, "name": "puffin"},
                {"id": 4, "tags": []},
            ],
        }),
    );
    let one = json!([{"min_query_chars": 6, "distance": 1}]);
    let exact = |case_sensitive| json!({"max_edit_distance": one, "case_sensitive": case_sensitive});
    for _ in 0..2 {
        assert_eq!(matching(&daemon, &fuzzy("turbopuffer", exact(true))), [1]);
        assert_eq!(matching(&daemon, &fuzzy("turbopuffer", exact(false))), [1, 2]);
        assert_eq!(matching(&daemon, &fuzzy("turbo", exact(false))), Vec::<u64>::new());
        assert_eq!(matching(&daemon, &json!(["Not", fuzzy("turbopuffer", exact(false))])), [3, 4]);
        assert_eq!(matching(&daemon, &json!(["tags", "Fuzzy", "mackerel", exact(true)])), [1, 2]);
        let rank = json!([
            "Sum",
            [fuzzy("turbopuffer", exact(false)), ["name", "Glob", "*puf*n*"], ["name", "Regex", "^t"]]
        ]);
        let answer = daemon.query("docs", &json!({"rank_by": rank, "limit": 9}));
        assert_eq!(ids(&answer), [1, 2, 3]);
        assert_eq!(answer["rows"][0]["$dist"], 2.0);
        assert_eq!(daemon.post("/v1/namespaces/docs/checkpoint", &json!({})).status, 200);
    }
}
