//! Sums of floats: the same whatever order their rows were written in, and whatever segments these are in.

use std::sync::Arc;

use serde_json::{Value as Json, json};
use shoal::api::wire::query::parse_query;
use shoal::engine::Engine;
use shoal::model::query::{Answer, Number};

use crate::node::{Node, name};
use crate::write;

fn sum(engine: &Arc<Engine>, namespace: &str) -> Number {
    let body = json!({"aggregate_by": {"all": ["Sum", "x"]}});
    let request = parse_query(body).unwrap().request;
    match engine.query(&name(namespace), &request).unwrap().answers.remove(0) {
        Answer::Aggregations(mut sums) => sums.remove(0).1,
        other => panic!("expected a sum, got {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sum_that_leaves_the_range_of_floats_on_its_way_is_the_same_in_any_order() {
    let node = Node::new(84);
    let engine = node.open();
    let numbers = [f64::MAX, f64::MAX, -f64::MAX, -f64::MAX, 1.5];
    for shift in 0..numbers.len() {
        for is_split in [false, true] {
            let namespace = format!("n{shift}{is_split}");
            let schema = json!({"x": {"type": "float"}});
            write(&engine, &namespace, json!({"upsert_rows": [{"id": 100, "x": 0.0}], "schema": schema}))
                .await
                .unwrap();
            let rows: Vec<Json> =
                (0..numbers.len()).map(|at| json!({"id": at, "x": numbers[(at + shift) % numbers.len()]})).collect();
            for part in rows.chunks(if is_split { 2 } else { rows.len() }) {
                write(&engine, &namespace, json!({"upsert_rows": part})).await.unwrap();
                engine.checkpoint(&name(&namespace)).await.unwrap();
            }
            assert_eq!(sum(&engine, &namespace), Number::Float(1.5), "{namespace}");
        }
    }
}
