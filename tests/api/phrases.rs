//! Sequences of tokens by positions, as a client asks for them, and the option that keeps positions.

use serde_json::{Value, json};

use super::client::{Daemon, ids};

fn schema(full_text: Value) -> Value {
    json!({"text": {"type": "string", "full_text_search": full_text}})
}

#[test]
fn positions_are_an_option_that_may_be_set_later_and_is_shown_where_it_is_set() {
    let daemon = Daemon::start();
    daemon.write(
        "docs",
        &json!({
            "schema": schema(json!(true)),
            "upsert_rows": [
                {"id": 1, "text": "the walrus and the carpenter"},
                {"id": 2, "text": "the carpenter and the walrus"},
                {"id": 3, "text": "walrus, the"},
                {"id": 4},
            ],
        }),
    );
    let matching = |operand: &str, options: Value| {
        let filter = json!(["text", "ContainsTokenSequence", operand, options]);
        ids(&daemon.query("docs", &json!({"filters": filter, "rank_by": ["id", "asc"], "limit": 9})))
    };
    let how = || {
        let query =
            json!({"filters": ["text", "ContainsTokenSequence", "the walrus"], "rank_by": ["id", "asc"], "limit": 1});
        daemon.post("/v1/namespaces/docs/explain_query", &query).text()
    };
    let shown = || daemon.get("/v1/namespaces/docs/schema").json()["text"]["full_text_search"]["positions"].clone();
    let check = || {
        assert_eq!(matching("the walrus", json!({})), [1, 2]);
        assert_eq!(matching("The Walrus and", json!({})), [1]);
        assert_eq!(matching("walrus the", json!({})), [3]);
        assert_eq!(matching("and the c", json!({"last_as_prefix": true})), [1]);
        assert_eq!(matching("the the", json!({})), Vec::<u64>::new());
    };
    check();
    assert_eq!(daemon.post("/v1/namespaces/docs/checkpoint", &json!({})).status, 200);
    check();
    assert_eq!(shown(), Value::Null);
    assert!(!how().contains("positions"), "{}", how());
    daemon.write("docs", &json!({"schema": schema(json!({"positions": true}))}));
    assert_eq!(shown(), true);
    check();
    assert!(!how().contains("positions"), "{}", how());
    assert_eq!(daemon.post("/v1/namespaces/docs/compact", &json!({})).status, 200);
    check();
    assert!(how().contains("by the rows of terms and their positions in them"), "{}", how());
    let refused = daemon.post("/v2/namespaces/docs", &json!({"schema": schema(json!({"positions": "yes"}))}));
    assert_eq!(refused.status, 422, "{}", refused.text());
}
