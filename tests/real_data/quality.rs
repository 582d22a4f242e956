//! Ranking quality on judged collections: BM25, dense, their fusion, and sparse vectors against published references.
//!
//! Title and text are one field, `title text`, in English with stems, without stop words, k1 1.2 and b 0.75.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::daemon::{Client, Daemon};
use crate::data::{Vectors, folder, json_lines, judgements, sparse};
use crate::measure::{Quality, quality};

/// How far below its reference a ranking may be.
const TOLERANCE: f64 = 0.01;
/// Rows of one write.
const BATCH_ROWS: usize = 1_000;
/// Depth of every ranking, also of those that are fused.
const DEPTH: usize = 100;

/// A judged collection in a daemon, as namespace of its own name.
struct Collection {
    name: &'static str,
    daemon: Daemon,
    rows: Vec<Value>,
    /// The judged queries: text, grades, and place in the files.
    queries: Vec<(String, HashMap<String, f64>, usize)>,
    vectors: Vectors,
}

impl Collection {
    fn import(folder: &Path, name: &'static str) -> Self {
        let folder = folder.join(name);
        let documents = json_lines(&folder.join("docs.jsonl.zst"));
        let vectors = Vectors::read(&folder.join("base.f16.npy"));
        assert_eq!(documents.len(), vectors.len());
        let splade = folder.join("splade_docs.npz");
        let splade = splade.exists().then(|| sparse(&splade));
        let schema = json!({
            "body": { "type": "string", "full_text_search":
                { "language": "english", "stemming": true, "remove_stopwords": true, "k1": 1.2, "b": 0.75 } },
            "splade": { "type": "{}f16", "sparse_knn": { "distance_metric": "dot_product" } },
        });
        let rows: Vec<Value> = documents
            .iter()
            .enumerate()
            .map(|(row, document)| {
                let field = |name: &str| document[name].as_str().unwrap_or_default();
                let body = format!("{} {}", field("title"), field("text"));
                let mut out = json!({ "id": document["id"], "body": body, "vector": vectors.base64(row) });
                if let Some(splade) = &splade {
                    out["splade"] = weights(&splade[row]);
                }
                out
            })
            .collect();
        let daemon = Daemon::start();
        let mut client = daemon.client();
        // A segment for every batch but the last, which stays in the log.
        for (number, rows) in rows.chunks(BATCH_ROWS).enumerate() {
            if number > 0 {
                client.post(&format!("/v1/namespaces/{name}/checkpoint"), &json!({}));
            }
            let body = json!({ "upsert_rows": rows, "distance_metric": "cosine_distance", "schema": schema });
            client.write(name, body.to_string().as_bytes());
        }
        assert_eq!(client.count(name), documents.len() as u64);
        let mut grades = judgements(&folder.join("qrels.tsv"));
        let queries = json_lines(&folder.join("queries.jsonl"));
        let queries: Vec<_> = queries
            .iter()
            .enumerate()
            .filter_map(|(place, query)| {
                let grades = grades.remove(query["id"].as_str().unwrap())?;
                Some((query["text"].as_str().unwrap().to_owned(), grades, place))
            })
            .collect();
        let vectors = Vectors::read(&folder.join("queries.f16.npy"));
        Collection { name, daemon, rows, queries, vectors }
    }

    /// Writes the first rows once more, as they are.
    fn write_again(&self, rows: usize) {
        let body = json!({ "upsert_rows": self.rows[..rows] });
        self.daemon.client().write(self.name, body.to_string().as_bytes());
    }

    fn post(&self, action: &str) {
        self.daemon.client().post(&format!("/v1/namespaces/{}/{action}", self.name), &json!({}));
    }

    fn segments(&self) -> usize {
        let status = self.daemon.client().get(&format!("/v1/namespaces/{}/status", self.name));
        status["segments"].as_array().unwrap().len()
    }

    fn bm25(&self, query: usize) -> Value {
        json!({ "rank_by": ["body", "BM25", self.queries[query].0], "top_k": DEPTH })
    }

    fn dense(&self, query: usize) -> Value {
        json!({ "rank_by": ["vector", "ANN", self.vectors.row(self.queries[query].2)], "top_k": DEPTH, "recall": "exact" })
    }

    fn fused(&self, query: usize) -> Value {
        json!({ "queries": [self.bm25(query), self.dense(query)], "rerank_by": ["RRF", { "rank_constant": 60 }],
            "limit": DEPTH })
    }

    /// Measures the rankings of every judged query, and says so.
    fn measure(&self, what: &str, body: impl Fn(usize) -> Value + Sync) -> Quality {
        let ask = |client: &mut Client, query: usize| ids(&client.rows(self.name, &body(query)));
        let rankings = self.daemon.parallel(self.queries.len(), ask);
        let got = quality(rankings.iter().zip(&self.queries).map(|(ranking, query)| (ranking.as_slice(), &query.1)));
        println!("{} {what}: {got} ({} queries)", self.name, self.queries.len());
        got
    }
}

fn ids(rows: &[Value]) -> Vec<String> {
    rows.iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
}

/// A sparse vector as the API takes it.
fn weights(vector: &[(u16, f32)]) -> Value {
    Value::Object(
        vector.iter().map(|(dimension, weight)| (dimension.to_string(), json!(weight))).collect::<Map<_, _>>(),
    )
}

fn assert_at_least(got: Quality, reference: f64, what: &str) {
    assert!(got.ndcg_at_10 >= reference, "{what}: expected nDCG@10 of {reference:.3} or better, got {got}");
}

#[test]
fn scifact_is_ranked_as_well_as_by_the_references() {
    let Some(folder) = folder("scifact") else { return };
    let set = Collection::import(&folder, "scifact");
    let queries = sparse(&folder.join("scifact/splade_queries.npz"));
    let bm25 = set.measure("BM25", |query| set.bm25(query));
    let dense = set.measure("dense", |query| set.dense(query));
    let fused = set.measure("RRF of BM25 and dense", |query| set.fused(query));
    let splade = set.measure("SPLADE", |query| {
        json!({ "rank_by": ["splade", "SparseKNN", weights(&queries[set.queries[query].2])], "top_k": DEPTH })
    });
    assert_at_least(bm25, 0.679 - TOLERANCE, "BM25");
    assert_at_least(dense, 0.622 - TOLERANCE, "dense");
    assert_at_least(fused, 0.70, "RRF");
    assert_at_least(splade, 0.650 - TOLERANCE, "SPLADE");
}

#[test]
fn hybrid_answers_are_the_same_after_compaction_and_restart() {
    let Some(folder) = folder("hybrid") else { return };
    let mut set = Collection::import(&folder, "scifact");
    // Rows written twice leave dead rows in older segments.
    set.write_again(BATCH_ROWS / 2);
    let hybrid = |set: &Collection| {
        set.daemon.parallel(set.queries.len(), |client, query| client.rows(set.name, &set.fused(query)))
    };
    let before = hybrid(&set);
    let segments = set.segments();
    set.post("checkpoint");
    assert!(hybrid(&set) == before, "a checkpoint changed hybrid answers");
    set.post("compact");
    assert!(hybrid(&set) == before, "a compaction changed hybrid answers");
    let compacted = set.segments();
    assert!(compacted < segments, "expected fewer segments than {segments}, got {compacted}");
    set.daemon.restart();
    assert!(hybrid(&set) == before, "a restart changed hybrid answers");
    println!(
        "scifact: {} hybrid answers the same from {segments} segments and the tail, from {compacted}, and after a restart",
        before.len()
    );
}

#[test]
fn cranfield_is_ranked_as_well_as_by_the_references() {
    let Some(folder) = folder("cranfield") else { return };
    let set = Collection::import(&folder, "cranfield");
    let bm25 = set.measure("BM25", |query| set.bm25(query));
    set.measure("RRF of BM25 and dense", |query| set.fused(query));
    assert_at_least(bm25, 0.376 - TOLERANCE, "BM25");
}

#[test]
fn cacm_is_ranked_as_well_as_by_the_references() {
    let Some(folder) = folder("cacm") else { return };
    let set = Collection::import(&folder, "cacm");
    let bm25 = set.measure("BM25", |query| set.bm25(query));
    set.measure("RRF of BM25 and dense", |query| set.fused(query));
    assert_at_least(bm25, 0.524 - TOLERANCE, "BM25");
}
