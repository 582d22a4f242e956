//! Sequences of tokens in two columns of the same texts, one of which keeps positions: the same rows wherever documents are, in
//! the newest writes, in segments from before positions were kept and after, and in what merges made of them.

use std::sync::Arc;

use serde_json::{Value as Json, json};
use shoal::api::wire::query::parse_query;
use shoal::engine::merge::decide::Policy;
use shoal::engine::{Engine, query};
use shoal::model::query::Answer;
use shoal::platform::allowance::Allowance;
use shoal::platform::random::Random;

use crate::node::{Node, branch, name, write};
use crate::policies::merge;

const WORDS: [&str; 6] = ["fish", "fisher", "swim", "tank", "blue", "a"];

struct Texts<'a>(&'a Node);

impl Texts<'_> {
    fn below(&self, bound: u64) -> u64 {
        self.0.random.next_u64() % bound
    }

    fn words(&self, most: u64) -> String {
        (0..self.below(most + 1)).map(|_| WORDS[self.below(6) as usize]).collect::<Vec<_>>().join(" ")
    }

    /// Some documents with the same texts in all columns, and some deleted; arrays have the text in pieces.
    async fn put(&self, engine: &Arc<Engine>, namespace: &str) {
        let rows: Vec<Json> = (0..40)
            .map(|_| {
                let lines: Vec<String> = (0..self.below(4)).map(|_| self.words(5)).collect();
                let whole = lines.join(" ");
                json!({"id": self.below(150), "n": self.below(3), "plain": whole, "placed": whole, "lines": lines})
            })
            .collect();
        let mut last: Vec<Json> = Vec::new();
        for row in rows {
            last.retain(|known| known["id"] != row["id"]);
            last.push(row);
        }
        write(engine, namespace, json!({"upsert_rows": last})).await;
        write(engine, namespace, json!({"deletes": [self.below(150)]})).await;
    }

    fn check(&self, engine: &Engine, namespace: &str) {
        for _ in 0..25 {
            let asked = self.words(3);
            let options = json!({"last_as_prefix": self.below(2) == 0});
            let phrase = json!(["plain", "ContainsTokenSequence", asked, options]);
            let filter = match self.below(4) {
                0 => json!(["And", [phrase, ["n", "Lte", 1]]]),
                1 => json!(["Not", phrase]),
                2 => json!(["Or", [phrase, ["n", "Eq", 2]]]),
                _ => phrase,
            };
            let of = |column: &str| -> Vec<_> {
                let filter: Json = serde_json::from_str(&filter.to_string().replace("plain", column)).unwrap();
                let body = json!({"filters": filter, "rank_by": ["id", "asc"], "limit": 1_000});
                let view = engine.view(&name(namespace)).unwrap();
                let request = parse_query(body).unwrap().request;
                let outcome = query::run(&view, &request, &Allowance::unlimited()).unwrap();
                let Answer::Rows(rows) = &outcome.answers[0] else { panic!("expected rows") };
                rows.iter().map(|row| row.id.clone()).collect()
            };
            let expected = of("plain");
            assert_eq!(of("placed"), expected, "{namespace}: {filter}");
            assert_eq!(of("lines"), expected, "{namespace}: {filter}");
        }
    }

    fn explained(&self, engine: &Engine, namespace: &str, column: &str) -> String {
        let body = json!({
            "filters": [column, "ContainsTokenSequence", "fish tank"], "rank_by": ["id", "asc"], "limit": 1,
        });
        engine.explain(&name(namespace), &parse_query(body).unwrap().request.queries[0]).unwrap()
    }
}

fn schema(positions: bool) -> Json {
    json!({"schema": {
        "n": "int",
        "plain": {"type": "string", "full_text_search": true},
        "placed": {"type": "string", "full_text_search": {"positions": positions}},
        "lines": {"type": "[]string", "full_text_search": {"positions": positions}},
    }, "upsert_rows": [{"id": 1_000}]})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sequences_are_found_alike_with_positions_and_without_wherever_documents_are() {
    for seed in 0..4 {
        let node = Node::new(seed);
        let mut engine = node.open();
        let texts = Texts(&node);
        let on_from = [0, 2, 3, 5][seed as usize];
        for step in 0..7 {
            write(&engine, "main", schema(step >= on_from)).await;
            texts.put(&engine, "main").await;
            texts.check(&engine, "main");
            if step == 3 {
                branch(&engine, "main", "child").await;
            }
            if step >= 4 {
                texts.put(&engine, "child").await;
                texts.check(&engine, "child");
                assert!(!merge(&engine, "child", "main", Policy::Lww).await.unwrap().refused);
                texts.check(&engine, "main");
            }
            match step {
                1..=4 | 6 => engine.checkpoint(&name("main")).await.unwrap(),
                5 => engine = node.cut_power(engine),
                _ => {}
            }
            texts.check(&engine, "main");
        }
        engine.compact(&name("main")).await.unwrap();
        texts.check(&engine, "main");
        let report = engine.check(4).unwrap();
        assert!(report.is_whole(), "{:?}", report.problems);
        assert!(texts.explained(&engine, "main", "placed").contains("by the rows of terms and their positions"));
        assert!(!texts.explained(&engine, "main", "plain").contains("positions"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_segment_gets_positions_when_it_is_compacted() {
    let node = Node::new(9);
    let engine = node.open();
    let texts = Texts(&node);
    write(&engine, "main", schema(false)).await;
    texts.put(&engine, "main").await;
    engine.compact(&name("main")).await.unwrap();
    let segments = |engine: &Engine| -> Vec<_> {
        engine.view(&name("main")).unwrap().segments.iter().map(|view| view.segment.segment_id()).collect()
    };
    let before = segments(&engine);
    engine.compact(&name("main")).await.unwrap();
    assert_eq!(segments(&engine), before);
    write(&engine, "main", json!({"schema": schema(true)["schema"], "upsert_rows": []})).await;
    // Searches by score go on from the postings that are there.
    let scored = json!({"rank_by": ["placed", "BM25", "fish"], "limit": 3});
    let request = parse_query(scored).unwrap().request;
    let view = engine.view(&name("main")).unwrap();
    assert!(query::run(&view, &request, &Allowance::unlimited()).is_ok());
    assert!(texts.explained(&engine, "main", "placed").contains("by reading the documents"));
    texts.check(&engine, "main");
    engine.compact(&name("main")).await.unwrap();
    assert_ne!(segments(&engine), before);
    assert!(texts.explained(&engine, "main", "placed").contains("positions"));
    texts.check(&engine, "main");
    let after = segments(&engine);
    engine.compact(&name("main")).await.unwrap();
    assert_eq!(segments(&engine), after);
}
