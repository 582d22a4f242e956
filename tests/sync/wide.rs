//! Requests that look at more than a node's small tier has room for: they read past it, and answer as a node that has everything.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Cursor;
use std::sync::Arc;

use serde_json::{Value as Json, json};
use shoal::api::wire::query::parse_query;
use shoal::engine::Engine;
use shoal::engine::merge::MergeRequest;
use shoal::engine::merge::decide::Policy;
use shoal::engine::merge::diff::Difference;
use shoal::engine::query::run;
use shoal::error::Result;
use shoal::model::query::Answer;
use shoal::platform::allowance::Allowance;
use shoal::platform::random::{Random, SeededRandom};
use shoal::snapshot::export::export;
use shoal::snapshot::restore::restore;
use shoal::snapshot::take::{Extent, take};
use shoal::store::Bucket;
use tokio::sync::OnceCell;

use crate::fleet::{bucket, options, sync};
use crate::node::{Node, branch, name, write};

const ROWS: u64 = 4_000;
const DIMS: usize = 96;

fn numbers(random: &SeededRandom, count: usize) -> Vec<f32> {
    (0..count).map(|_| (random.next_u64() % 2_000) as f32 / 1_000.0 - 1.0).collect()
}

fn words(random: &SeededRandom, count: u64) -> String {
    // Some words are common, most are rare.
    let word = |at: u64| if at.is_multiple_of(2) { at % 8 } else { random.next_u64() % 3_000 };
    (0..count).map(|at| format!("w{}", word(at))).collect::<Vec<_>>().join(" ")
}

fn weights(random: &SeededRandom) -> BTreeMap<String, f32> {
    (0..40).map(|_| (format!("d{}", random.next_u64() % 400), (random.next_u64() % 8) as f32 / 8.0)).collect()
}

fn row(id: u64) -> Json {
    let random = SeededRandom::new(id);
    let mut secret = String::new();
    (0..40).for_each(|_| write!(secret, "{:016x}", random.next_u64()).unwrap());
    json!({
        "id": id,
        "n": (id * 7_919) % ROWS,
        "kind": format!("kind {}", id % 9),
        "name": format!("name {:08x} of {id}", random.next_u64() as u32),
        "tags": [format!("tag {}", id % 40), format!("tag {}", id % 23)],
        "text": words(&random, 40),
        "secret": secret,
        "vector": numbers(&random, DIMS),
        "tokens": [numbers(&random, 16), numbers(&random, 16)],
        "weights": weights(&random),
    })
}

fn schema() -> Json {
    json!({
        "n": "uint",
        "kind": "string",
        "name": {"type": "string", "regex": true, "glob": true},
        "tags": "[]string",
        "text": {"type": "string", "full_text_search": {"positions": true}},
        "secret": {"type": "string", "filterable": false},
        "vector": {"type": format!("[{DIMS}]f32"), "ann": true},
        "tokens": {"type": "[][16]f32", "ann": {"late_interaction": true}},
        "weights": "{}f16",
    })
}

/// A node that wrote the namespace and has it whole, and the bucket that it sent it to.
async fn written() -> (Arc<Engine>, Bucket) {
    static WRITTEN: OnceCell<(Arc<Engine>, Bucket)> = OnceCell::const_new();
    let make = || async {
        let (writer, bucket) = (Node::new(2), bucket(1));
        let whole = writer.open();
        for from in (0..ROWS).step_by(1_000) {
            let rows: Vec<Json> = (from..from + 1_000).map(row).collect();
            let body = json!({"upsert_rows": rows, "distance_metric": "euclidean_squared", "schema": schema()});
            write(&whole, "docs", body).await;
        }
        whole.compact(&name("docs")).await.unwrap();
        write(&whole, "docs", json!({"deletes": [3, 500, 3_999]})).await;
        branch(&whole, "docs", "side").await;
        let rows: Vec<Json> = (0..ROWS).step_by(100).map(|id| json!({"id": id, "n": 1})).collect();
        write(&whole, "side", json!({"patch_rows": rows})).await;
        sync(&writer, &whole, &bucket).await.unwrap();
        (whole, bucket)
    };
    WRITTEN.get_or_init(make).await.clone()
}

struct Meeting {
    bucket: Bucket,
    whole: Arc<Engine>,
    node: Node,
    part: Arc<Engine>,
    bound: u64,
}

/// That node, and one that may hold one byte in so many, at a bucket of their own.
async fn meeting(share: u64) -> Meeting {
    let (whole, original) = written().await;
    let (bucket, patience) = (bucket(1), options(Policy::Lww).patience);
    for object in original.list_all("", None, 10_000, &patience).await.unwrap() {
        let bytes = original.get(&object.key, &patience).await.unwrap().unwrap();
        bucket.put(&object.key, bytes, &patience).await.unwrap();
    }
    let bytes_of = |namespace| whole.status(&name(namespace)).unwrap()["bytes"].as_u64().unwrap();
    let bound = (bytes_of("docs") + bytes_of("side")) / share;
    let mut node = Node::new(3);
    node.config.tier_bytes_max = bound;
    let part = node.open();
    sync(&node, &part, &bucket).await.unwrap();
    Meeting { bucket, whole, node, part, bound }
}

fn ask_of(engine: &Engine, namespace: &str, query: &Json) -> Result<Answer> {
    let request = parse_query(query.clone()).unwrap().request;
    let found = engine.on_view(&name(namespace), None, |view| run(view, &request, &Allowance::unlimited()))?;
    Ok(found.answers.into_iter().next().unwrap())
}

fn ask(engine: &Engine, query: &Json) -> Result<Answer> {
    ask_of(engine, "docs", query)
}

/// What is asked, and in words.
fn queries() -> Vec<(&'static str, Json)> {
    let vector = numbers(&SeededRandom::new(77), DIMS);
    let tokens = [numbers(&SeededRandom::new(78), 16), numbers(&SeededRandom::new(79), 16)];
    let by_vector = |how: &str, limit: u64| json!({"rank_by": ["vector", how, vector], "limit": limit, "include_attributes": true});
    let counted = |filter: Json| json!({"filters": filter, "aggregate_by": {"c": ["Count"]}});
    let found = |filter: Json| json!({"filters": filter, "rank_by": ["id", "asc"], "limit": 1_000, "include_attributes": ["n", "secret"]});
    let ids: Vec<u64> = (0..ROWS).step_by(7).collect();
    vec![
        ("one by vector", by_vector("ANN", 1)),
        ("a thousand by vector", by_vector("ANN", 1_000)),
        ("ten thousand by vector", by_vector("ANN", 10_000)),
        (
            "a thousand of all exactly",
            json!({"rank_by": ["vector", "ANN", vector], "recall": "exact", "limit": 1_000, "include_attributes": true}),
        ),
        ("all by id", json!({"rank_by": ["id", "asc"], "limit": 10_000, "include_attributes": true})),
        ("many by ids", found(json!(["id", "In", ids]))),
        (
            "common words",
            json!({"rank_by": ["text", "BM25", "w0 w2 w4 w6 w17"], "limit": 10, "include_attributes": true}),
        ),
        (
            "a thousand by common words",
            json!({"rank_by": ["text", "BM25", "w0 w2 w4 w6"], "limit": 1_000, "include_attributes": true}),
        ),
        (
            "a prefix of most words",
            json!({"rank_by": ["text", "BM25", "w0 w", {"last_as_prefix": true}], "limit": 10}),
        ),
        ("a filter by a prefix", counted(json!(["text", "ContainsAllTokens", "w2 w1", {"last_as_prefix": true}]))),
        ("a filter by words", found(json!(["text", "ContainsAnyToken", "w0 w3"]))),
        ("a filter by a phrase", found(json!(["text", "ContainsTokenSequence", "w0 w2"]))),
        ("equal", found(json!(["kind", "Eq", "kind 3"]))),
        ("in an array", found(json!(["tags", "Contains", "tag 7"]))),
        ("a range", counted(json!(["n", "Gte", 700]))),
        ("null", counted(json!(["kind", "Eq", null]))),
        ("a glob", found(json!(["name", "Glob", "name 0*"]))),
        ("a regex", counted(json!(["name", "Regex", "of 1.*7"]))),
        (
            "a filtered vector",
            json!({"rank_by": ["vector", "ANN", vector], "filters": ["kind", "Eq", "kind 1"], "limit": 100, "include_attributes": true}),
        ),
        ("order by a number", json!({"rank_by": ["n", "desc"], "limit": 1_000, "include_attributes": ["name"]})),
        ("order by a text", json!({"rank_by": ["name", "asc"], "limit": 1_000, "include_attributes": ["n"]})),
        ("groups", json!({"aggregate_by": {"c": ["Count"], "s": ["Sum", "n"]}, "group_by": ["kind"], "limit": 100})),
        (
            "sparse",
            json!({"rank_by": ["weights", "SparseKNN", {"d3": 1.0, "d7": 0.5}], "limit": 1_000, "include_attributes": true}),
        ),
        (
            "late interaction",
            json!({"rank_by": ["tokens", "kNN", tokens], "filters": ["n", "Gte", 1], "limit": 100, "include_attributes": true}),
        ),
        (
            "diverse",
            json!({"rank_by": ["vector", "ANN", vector], "limit": {"total": 300, "per": {"attributes": ["kind"], "limit": 40}}, "include_attributes": ["n"]}),
        ),
    ]
}

/// The documents of an export. The lines before and behind them name the commit, which is each node's own.
async fn exported(engine: &Arc<Engine>, namespace: &str) -> Vec<String> {
    let moment = engine.moment_at(&name(namespace), None).await.unwrap();
    let mut bytes = Vec::new();
    tokio::task::block_in_place(|| export(&moment, &mut bytes)).unwrap();
    let lines: Vec<String> = String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect();
    lines[1..lines.len() - 1].to_vec()
}

async fn differences(engine: &Engine, from: &str, to: &str) -> Vec<String> {
    let diff = engine.diff((&name(from), None), (&name(to), None)).await.unwrap();
    let mut found = Vec::new();
    let each = |entry: Difference| {
        found.push(format!("{} {} {:?} {:?}", entry.id, entry.change.name(), entry.old, entry.new));
        Ok(())
    };
    tokio::task::block_in_place(|| diff.for_each(each)).unwrap();
    found
}

fn assert_within(engine: &Engine, bound: u64) {
    let held = engine.held_in_parts();
    assert!(held.bytes <= bound, "{held:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenth_answers_every_kind_of_query_as_all_of_it_does() {
    let Meeting { whole, part, bound, .. } = meeting(10).await;
    for (what, query) in queries() {
        let (found, expected) = (ask(&part, &query), ask(&whole, &query).unwrap());
        let found = found.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(format!("{found:?}"), format!("{expected:?}"), "{what}");
        assert_within(&part, bound);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_clients_at_once_get_wide_answers_from_a_tenth() {
    let Meeting { whole, part, bound, .. } = meeting(10).await;
    let wide =
        ["a thousand by vector", "all by id", "a thousand by common words", "order by a text", "late interaction"];
    let queries = queries().into_iter().filter(|(what, _)| wide.contains(what));
    let asked: Vec<(Json, String)> =
        queries.map(|(_, query)| (query.clone(), format!("{:?}", ask(&whole, &query).unwrap()))).collect();
    assert_eq!(asked.len(), wide.len());
    let asked = Arc::new(asked);
    let asking: Vec<_> = (0..8)
        .map(|client| {
            let (part, asked) = (part.clone(), asked.clone());
            tokio::task::spawn_blocking(move || {
                for at in 0..asked.len() {
                    let (query, expected) = &asked[(client + at) % asked.len()];
                    let found = ask(&part, query).unwrap_or_else(|error| panic!("{}: {error}", query["rank_by"]));
                    assert_eq!(&format!("{found:?}"), expected, "{}", query["rank_by"]);
                    assert_within(&part, bound);
                }
            })
        })
        .collect();
    for asking in asking {
        asking.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_rows_that_have_no_room_are_read_in_few_rounds() {
    let Meeting { part, .. } = meeting(10).await;
    let (_, query) = queries().into_iter().find(|(what, _)| *what == "all by id").unwrap();
    let request = parse_query(query).unwrap().request;
    let found = part.on_view(&name("docs"), None, |view| run(view, &request, &Allowance::unlimited())).unwrap();
    assert!((1..=4).contains(&found.stats.rounds), "{:?}", found.stats);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenth_exports_and_compares_as_all_of_it_does() {
    let Meeting { whole, part, bound, .. } = meeting(10).await;
    for namespace in ["docs", "side"] {
        let (found, expected) = (exported(&part, namespace).await, exported(&whole, namespace).await);
        assert!(found.len() as u64 > ROWS - 10 && found == expected, "{} documents of {namespace}", found.len());
        assert_within(&part, bound);
    }
    let found = differences(&part, "docs", "side").await;
    assert_eq!(found, differences(&whole, "docs", "side").await);
    assert!(found.len() > 30, "{} differ", found.len());
    assert_within(&part, bound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenth_is_copied_out_whole() {
    let Meeting { whole, part, bound, .. } = meeting(10).await;
    let (_, query) = queries().into_iter().find(|(what, _)| *what == "all by id").unwrap();
    let expected = format!("{:?}", ask_of(&whole, "side", &query).unwrap());
    let fresh = Node::new(6).open();
    for (extent, to) in [(Extent::Full, "full"), (Extent::Flattened, "flattened")] {
        let snapshot = take(&part, &name("side"), &extent).await.unwrap();
        let mut bytes = Vec::new();
        tokio::task::block_in_place(|| snapshot.write(&mut bytes)).unwrap();
        restore(&fresh, &name(to), None, Cursor::new(bytes)).await.unwrap();
        assert!(format!("{:?}", ask_of(&fresh, to, &query).unwrap()) == expected, "{to}");
        assert_within(&part, bound);
    }
    part.copy(&name("side"), &name("copy")).await.unwrap();
    assert!(format!("{:?}", ask_of(&part, "copy", &query).unwrap()) == expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenth_writes_branches_and_merges_as_all_of_it_does() {
    let Meeting { part, bound, bucket, node, .. } = meeting(10).await;
    let other = Node::new(4);
    let all = other.open();
    sync(&other, &all, &bucket).await.unwrap();
    for engine in [&all, &part] {
        let patch = json!({"filters": ["tags", "Contains", "tag 7"], "patch": {"n": 5}});
        let before = part.held_in_parts().bytes_brought;
        write(engine, "docs", json!({"patch_by_filter": patch})).await;
        let brought = part.held_in_parts().bytes_brought - before;
        assert!(brought < 10 * bound, "{brought} bytes were read for documents that lie beside each other");
        let rows: Vec<Json> = (0..150).map(|id| json!({"id": id * 25, "kind": "patched"})).collect();
        write(engine, "docs", json!({"patch_rows": rows})).await;
        write(engine, "docs", json!({"delete_by_filter": ["text", "ContainsAllTokens", "w8 w0"]})).await;
        branch(engine, "docs", "more").await;
        let rows: Vec<Json> = (1..ROWS).step_by(50).map(|id| json!({"id": id, "n": 9})).collect();
        write(engine, "more", json!({"upsert_rows": rows})).await;
        for from in ["more", "side"] {
            engine.merge(&name(from), &name("docs"), MergeRequest::default()).await.unwrap();
        }
        engine.compact(&name("docs")).await.unwrap();
        assert_within(&part, bound);
    }
    let (_, query) = queries().into_iter().find(|(what, _)| *what == "all by id").unwrap();
    let found = [&part, &all].map(|engine| format!("{:?}", ask(engine, &query).unwrap()));
    assert!(found[0] == found[1] && found[0].matches("patched").count() > 50);
    sync(&node, &part, &bucket).await.unwrap();
    assert_within(&part, bound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tier_that_is_too_small_for_tables_says_which_and_what_to_raise() {
    let Meeting { whole, bucket, .. } = meeting(10).await;
    let mut node = Node::new(5);
    node.config.tier_bytes_max = 100_000;
    let part = node.open();
    let error = sync(&node, &part, &bucket).await.unwrap_err();
    assert_eq!(error.code(), "tier_too_small", "{error}");
    assert!(error.message().contains("/segments/") && error.message().contains("bytes of"), "{error}");
    assert!(error.hint().unwrap().contains("storage.tier_bytes_max"), "{error}");
    assert_within(&part, 100_000);
    drop(whole);
}
