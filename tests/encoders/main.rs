//! What any call can make is read again wherever it goes: after a power cut, from a snapshot, from a bucket by a node that never was
//! there before.
//!
//! Random namespaces of extremes: values of no size, as many attributes as may be, names as long as they may be and of the characters that
//! take most room, the largest numbers, as many labels as fit, losers of merges. Then single edges, at which an encoder once gave
//! what its decoder did not take.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod edges;
#[path = "../support/node.rs"]
#[expect(dead_code, reason = "other tests need the rest")]
mod node;
mod places;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value as Json, json};
use shoal::api::wire::write::{WriteBody, parse_write};
use shoal::engine::Engine;
use shoal::engine::merge::MergeRequest;
use shoal::engine::merge::decide::Policy;
use shoal::model::schema::COLUMNS_MAX;
use shoal::model::write::{Idempotency, WriteRequest};
use shoal::platform::random::{Random, SeededRandom};

use node::{Node, branch, name};
use places::everywhere;

/// Namespaces that every change makes; `SHOAL_ENCODERS` says how many else.
const SEEDS: u64 = 4;
/// Of two bytes, of four, one that JSON writes with six, and what separates names elsewhere.
const CHARACTERS: [&str; 6] = ["é", "🐟", "\u{1}", "\"", "/", "a"];
const TYPES: [&str; 17] = [
    "bool",
    "int",
    "uint",
    "float",
    "string",
    "uuid",
    "datetime",
    "bytes",
    "[]bool",
    "[]int",
    "[]uint",
    "[]float",
    "[]string",
    "[]uuid",
    "[]datetime",
    "{}f16",
    "[][2]f32",
];

struct Draw(SeededRandom);

impl Draw {
    fn pick(&self, n: u64) -> u64 {
        self.0.next_u64() % n
    }

    fn one<'a, T: ?Sized>(&self, of: &[&'a T]) -> &'a T {
        of[self.pick(of.len() as u64) as usize]
    }

    /// A text of at most so many bytes, and of as many as go into it, begun with its number.
    fn text(&self, number: usize, bytes: usize) -> String {
        let mut text = format!("{number}");
        let character = self.one(&CHARACTERS);
        while text.len() + character.len() <= bytes {
            text.push_str(character);
        }
        text
    }

    fn value(&self, kind: &str) -> Json {
        let element = kind.strip_prefix("[]").filter(|element| !element.starts_with('['));
        if let Some(element) = element {
            let count = self.one(&[&0, &1, &3, &400]);
            return (0..*count).map(|_| self.value(element)).collect();
        }
        match kind {
            "bool" => json!(self.pick(2) == 0),
            "int" => json!(self.one(&[&i64::MIN, &-1, &0, &i64::MAX])),
            "uint" => json!(self.one(&[&0, &1, &(1 << 53), &u64::MAX])),
            "float" => json!(self.one(&[&f64::MIN, &f64::MIN_POSITIVE, &-0.0, &5e-324, &f64::MAX])),
            "string" => match self.pick(3) {
                0 => json!(""),
                1 => json!(self.text(0, 4_096)),
                _ => json!("\u{10ffff}"),
            },
            "uuid" => {
                json!(self.one(&["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"]))
            }
            "datetime" => json!(self.one(&["1677-09-21T00:12:44Z", "1970-01-01T00:00:00Z", "2262-04-11T23:47:16Z"])),
            "bytes" => json!(self.one(&["", "AA==", "/////w=="])),
            "{}f16" => match self.pick(3) {
                0 => json!({}),
                1 => json!({"": 1.0, "\u{1}": -65504.0}),
                _ => (0..1_024).map(|n| (self.text(n, 24), json!(0.000_061))).collect::<Map<_, _>>().into(),
            },
            _ => json!([[0.0, -1.5], [3.4e38, 1e-45]]),
        }
    }
}

/// The schema of a namespace, and the types of its attributes.
fn schema(draw: &Draw) -> (Map<String, Json>, Vec<(String, &'static str)>) {
    let count = *draw.one(&[&1, &TYPES.len(), &300, &COLUMNS_MAX]);
    let mut kinds = Vec::new();
    let mut declared = Map::new();
    let mut vectors = 0;
    for number in 0..count {
        let mut kind = TYPES[number % TYPES.len()];
        // Of attributes that are searched by nearness there may be few.
        let is_near = kind.starts_with("[][") || kind.starts_with('{');
        vectors += usize::from(is_near);
        if is_near && vectors > 4 {
            kind = "int";
        }
        let name = draw.text(number, 128);
        let is_plain = ["bytes", "[][2]f32", "{}f16"].contains(&kind);
        let of = if is_plain { json!(kind) } else { json!({"type": kind, "filterable": draw.pick(2) == 0}) };
        declared.insert(name.clone(), of);
        kinds.push((name, kind));
    }
    (declared, kinds)
}

fn id(draw: &Draw, is_text: bool, number: u64) -> Json {
    if is_text { json!(draw.text(number as usize, 64)) } else { json!(u64::MAX - number) }
}

fn row(draw: &Draw, id: &Json, kinds: &[(String, &'static str)]) -> Json {
    let mut row = Map::from_iter([("id".to_owned(), id.clone())]);
    for (name, kind) in kinds {
        if draw.pick(4) > 0 {
            row.insert(name.clone(), draw.value(kind));
        }
    }
    row.into()
}

fn request(body: Json) -> WriteRequest {
    let WriteBody::Write(request) = parse_write(body).unwrap() else { panic!("expected a write") };
    *request
}

async fn send(engine: &Arc<Engine>, to: &str, body: Json, key: Option<u128>) {
    let idempotency =
        key.map(|key| Idempotency { key_hash: key.to_be_bytes(), body_hash: (u128::MAX - key).to_be_bytes() });
    engine.write(&name(to), WriteRequest { idempotency, ..request(body) }).await.unwrap();
}

/// A namespace of extremes under a name that is as long as one may be, with tags, and with losers of a merge.
async fn fill(engine: &Arc<Engine>, draw: &Draw, to: &str) {
    let (declared, kinds) = schema(draw);
    let (is_text, rows) = (draw.pick(2) == 0, 1 + draw.pick(6));
    let ids: Vec<Json> = (0..rows).map(|number| id(draw, is_text, number)).collect();
    let some = |draw: &Draw| ids.iter().map(|id| row(draw, id, &kinds)).collect::<Vec<Json>>();
    let body = json!({"upsert_rows": some(draw), "schema": declared, "distance_metric": "euclidean_squared"});
    send(engine, to, body, Some(0)).await;
    let labels: BTreeMap<String, String> = (0..64).map(|n| (draw.text(n, 256), draw.text(n, 256))).collect();
    engine.set_labels(&name(to), labels).await.unwrap();
    if draw.pick(2) == 0 {
        engine.checkpoint(&name(to)).await.unwrap();
    }
    engine.tag(&name(to), &"t".repeat(128), None).await.unwrap();
    let child = "c".repeat(128);
    branch(engine, to, &child).await;
    for (at, body) in [(&*child, json!({"upsert_rows": some(draw)})), (to, json!({"upsert_rows": some(draw)}))] {
        send(engine, at, body, Some(u128::MAX)).await;
    }
    let policy = *draw.one(&[&Policy::Ours, &Policy::Theirs, &Policy::Lww, &Policy::Fields, &Policy::KeepBoth]);
    let request = MergeRequest { policy, ..MergeRequest::default() };
    let can_be_given_ids = policy != Policy::KeepBoth || !is_text;
    if can_be_given_ids {
        engine.merge(&name(&child), &name(to), request).await.unwrap();
    }
    for (name_of, _) in kinds.iter().take(2) {
        let patch = json!({"patch_rows": [{"id": ids[0], name_of: null}]});
        send(engine, to, patch, None).await;
    }
    send(engine, to, json!({"deletes": [ids[ids.len() - 1]]}), Some(1)).await;
}

#[test]
fn what_calls_make_of_extremes_is_read_again_wherever_it_goes() {
    let seeds = std::env::var("SHOAL_ENCODERS").ok().and_then(|count| count.parse().ok()).unwrap_or(SEEDS);
    for seed in 0..seeds {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            println!("seed {seed}");
            let draw = Draw(SeededRandom::new(seed));
            let node = Node::new(seed);
            let engine = node.open();
            let to = "n".repeat(128);
            fill(&engine, &draw, &to).await;
            everywhere(node, engine, &to).await;
        });
    }
}
