//! Scores from expressions, as a client asks for them.

use serde_json::{Value, json};

use super::client::{Daemon, ids};

/// Documents with a time and numbers; the last has neither.
fn shop() -> Daemon {
    let daemon = Daemon::start();
    daemon.write(
        "docs",
        &json!({
            "schema": {"at": "datetime", "price": "float", "text": {"type": "string", "full_text_search": true}},
            "upsert_rows": [
                {"id": 1, "at": "2026-01-31", "price": 1.234567891234, "sold": 3, "text": "smoked fish"},
                {"id": 2, "at": "2026-01-30T12:00:00Z", "price": -2.0, "sold": 1, "text": "fish tank"},
                {"id": 3, "at": "2026-01-24", "price": 0.5, "sold": -4, "text": "tank top"},
                {"id": 4, "text": "fish"},
            ],
        }),
    );
    daemon
}

/// Ids and scores.
fn ranked(daemon: &Daemon, rank_by: Value) -> Vec<(u64, f64)> {
    let answer = daemon.query("docs", &json!({"rank_by": rank_by, "limit": 9}));
    let rows = answer["rows"].as_array().unwrap().iter();
    rows.map(|row| (row["id"].as_u64().unwrap(), row["$dist"].as_f64().unwrap())).collect()
}

#[test]
fn distances_and_curves_rank() {
    let daemon = shop();
    let price = json!(["Attribute", "price"]);
    let found = ranked(&daemon, json!(["Saturate", price, {"midpoint": 0.5}]));
    assert_eq!(found, [(1, 0.7117438), (3, 0.5), (2, 0.0), (4, 0.0)]);
    let fresh = json!(["Dist", ["Attribute", "at"], "2026-01-31T00:00:00Z"]);
    assert_eq!(ranked(&daemon, fresh.clone()), [(3, 604_800_000.0), (2, 43_200_000.0), (1, 0.0)]);
    for midpoint in [json!("12h"), json!("720m"), json!("0.5d"), json!(43_200_000)] {
        let found = ranked(&daemon, json!(["Decay", fresh, {"midpoint": midpoint}]));
        assert_eq!(found, [(1, 1.0), (2, 0.5), (3, 0.06666667)], "{midpoint}");
    }
    let found = ranked(&daemon, json!(["Decay", ["Dist", ["Attribute", "sold"], 1], {"midpoint": 5, "exponent": 2}]));
    assert_eq!(found, [(2, 1.0), (1, 0.86206895), (3, 0.5)]);
}

/// What has no time is found by its text all the same.
#[test]
fn freshness_adds_to_text_and_takes_nothing_away() {
    let daemon = shop();
    let fresh = json!(["Decay", ["Dist", ["Attribute", "at"], "2026-01-31"], {"midpoint": "1w"}]);
    let alone = ranked(&daemon, json!(["text", "BM25", "smoked fish"]));
    let both = ranked(&daemon, json!(["Sum", [["text", "BM25", "smoked fish"], ["Product", 3, fresh]]]));
    assert_eq!(both.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 2, 3, 4]);
    let score = |found: &[(u64, f64)], id| found.iter().find(|(known, _)| *known == id).unwrap().1;
    assert_eq!(score(&both, 4), score(&alone, 4));
    assert_eq!(score(&both, 3), 1.5);
    let answer = daemon.query("docs", &json!({"rank_by": ["Max", [0, fresh]], "limit": 1}));
    assert_eq!(ids(&answer), [1]);
}
