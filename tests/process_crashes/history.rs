//! Mixed histories of clients, the states that may be found after them, and the look at what is there.
//!
//! Each client has ids of its own in a namespace that all share, and a namespace of its own which it also drops. So its
//! history is sequential, and at most the write that was under way is in doubt.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use serde_json::{Value as Json, json};
use shoal::platform::random::{Random, SeededRandom};

use super::daemon::Client;

pub type Documents = BTreeMap<u64, Json>;

/// Ids of a client: from its number times this.
const IDS: u64 = 1_000;

/// What one client sees of its documents. An empty namespace is as good as none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    shared: Documents,
    own: Documents,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Shared,
    Own,
}

#[derive(Clone, Debug)]
enum Step {
    Upsert(Place, Documents),
    Patch(Place, Vec<u64>, i64),
    Delete(Place, Vec<u64>),
    DeleteByFilter(Place, i64),
    PatchByFilter(Place, i64, i64),
    Checkpoint(Place),
    Compact(Place),
    Drop,
}

/// A client with its history.
pub struct Actor {
    number: u64,
    random: SeededRandom,
    /// Every state that may be found.
    pub possible: Vec<State>,
    pub acknowledged: u64,
    /// When the last change was acknowledged, and what was possible before it.
    before: Option<(Instant, Vec<State>)>,
}

impl Actor {
    pub fn new(number: u64, seed: u64) -> Self {
        let random = SeededRandom::new(seed * 1_000 + number);
        Actor { number, random, possible: vec![State::default()], acknowledged: 0, before: None }
    }

    fn path(&self, place: Place) -> String {
        match place {
            Place::Shared => "/v2/namespaces/shared".to_owned(),
            Place::Own => format!("/v2/namespaces/own-{}", self.number),
        }
    }

    fn next(&self) -> Step {
        let pick = |n: u64| self.random.next_u64() % n;
        let place = if pick(4) == 0 { Place::Own } else { Place::Shared };
        let id = || self.number * IDS + pick(30);
        let ids = || (0..1 + pick(4)).map(|_| id()).collect::<BTreeSet<_>>().into_iter().collect();
        match pick(20) {
            0..9 => Step::Upsert(place, (0..1 + pick(8)).map(|_| (id(), self.document(pick(50)))).collect()),
            9..12 => Step::Patch(place, ids(), -1 - pick(9) as i64),
            12..14 => Step::Delete(place, ids()),
            14 => Step::DeleteByFilter(place, 40),
            15 => Step::PatchByFilter(place, 30, 10 + pick(20) as i64),
            16 | 17 => Step::Checkpoint(place),
            18 => Step::Compact(place),
            _ => Step::Drop,
        }
    }

    fn document(&self, n: u64) -> Json {
        // Now and then a document of several pages.
        let filling = "fish ".repeat(if self.random.next_u64().is_multiple_of(6) { 2_000 } else { 2 });
        json!({"n": n, "client": self.number, "text": format!("{filling}word{}", n % 7), "vector": [n as f64 + 1.0, 0.5]})
    }

    /// Does one step after the other until there is no answer, or `steps` are done. Whether there was always one.
    pub fn run(&mut self, client: &mut Client, steps: usize) -> bool {
        (0..steps).all(|_| self.step(client))
    }

    /// Carries out one step and follows it in the model. Whether there was an answer.
    pub fn step(&mut self, client: &mut Client) -> bool {
        let step = self.next();
        let answer = match &step {
            Step::Upsert(place, documents) => {
                let rows = documents.iter().map(|(id, document)| {
                    let mut row = document.clone();
                    row["id"] = json!(id);
                    row
                });
                let rows: Vec<Json> = rows.collect();
                let schema = json!({"text": {"type": "string", "full_text_search": true}});
                let body = json!({"upsert_rows": rows, "schema": schema, "distance_metric": "cosine_distance"});
                client.post(&self.path(*place), &body)
            }
            Step::Patch(place, ids, n) => {
                let rows: Vec<Json> = ids.iter().map(|id| json!({"id": id, "n": n})).collect();
                client.post(&self.path(*place), &json!({"patch_rows": rows}))
            }
            Step::Delete(place, ids) => client.post(&self.path(*place), &json!({"deletes": ids})),
            Step::DeleteByFilter(place, least) => {
                client.post(&self.path(*place), &json!({"delete_by_filter": self.mine(*least)}))
            }
            Step::PatchByFilter(place, least, n) => {
                let body = json!({"patch_by_filter": {"filters": self.mine(*least), "patch": {"n": n}}});
                client.post(&self.path(*place), &body)
            }
            Step::Checkpoint(place) => client.post(&format!("{}/checkpoint", self.path(*place)), &Json::Null),
            Step::Compact(place) => client.post(&format!("{}/compact", self.path(*place)), &Json::Null),
            Step::Drop => client.send("DELETE", &self.path(Place::Own), &Json::Null),
        };
        let after = || self.possible.iter().map(|state| state.after(&step)).collect::<Vec<_>>();
        match &answer {
            Ok((200, _)) => {
                self.acknowledged += 1;
                let after = after();
                if after != self.possible {
                    self.before = Some((Instant::now(), std::mem::replace(&mut self.possible, after)));
                }
            }
            // A namespace that is not there, or without the attribute; only an upsert would make them.
            Ok((400 | 404, why)) => {
                let is_upsert = matches!(step, Step::Upsert(..));
                assert!(!is_upsert && self.possible.iter().all(|s| s.after(&step) == *s), "{step:?}: {why}");
            }
            Ok((429 | 500 | 503, _)) | Err(_) => {
                let after = after();
                self.possible.extend(after);
            }
            Ok((status, why)) => panic!("{step:?}: {status}: {why}"),
        }
        self.possible.dedup();
        answer.is_ok()
    }

    fn mine(&self, least: i64) -> Json {
        json!(["And", [["client", "Eq", self.number], ["n", "Gte", least]]])
    }

    fn look(&self, client: &mut Client) -> State {
        let mut shared = look(client, "shared");
        shared.retain(|id, _| id / IDS == self.number);
        State { shared, own: look(client, &format!("own-{}", self.number)) }
    }

    /// The power began to go then: the sync that was under way may have been called done and be lost, no other.
    pub fn doubt_the_last_since(&mut self, began: Instant) {
        if let Some((at, before)) = self.before.take()
            && at >= began
        {
            self.possible.extend(before);
        }
    }

    /// What is there is one of the states that may be; nothing else may be from then on.
    pub fn settle(&mut self, client: &mut Client, when: &str) {
        let found = self.look(client);
        assert!(
            self.possible.contains(&found),
            "{when}, client {}: {}",
            self.number,
            self.possible.iter().map(|state| state.differences(&found)).collect::<Vec<_>>().join("\nor: ")
        );
        self.possible = vec![found];
    }
}

impl State {
    fn documents(&mut self, place: Place) -> &mut Documents {
        match place {
            Place::Shared => &mut self.shared,
            Place::Own => &mut self.own,
        }
    }

    /// What a step makes of a state when it takes effect.
    fn after(&self, step: &Step) -> State {
        let mut next = self.clone();
        match step {
            Step::Upsert(place, documents) => next.documents(*place).extend(documents.clone()),
            Step::Patch(place, ids, n) => {
                for (_, document) in next.documents(*place).iter_mut().filter(|(id, _)| ids.contains(id)) {
                    document["n"] = json!(n);
                }
            }
            Step::Delete(place, ids) => next.documents(*place).retain(|id, _| !ids.contains(id)),
            Step::DeleteByFilter(place, least) => next.documents(*place).retain(|_, d| number(d) < *least),
            Step::PatchByFilter(place, least, n) => {
                for document in next.documents(*place).values_mut().filter(|d| number(d) >= *least) {
                    document["n"] = json!(n);
                }
            }
            Step::Drop => next.own.clear(),
            Step::Checkpoint(_) | Step::Compact(_) => {}
        }
        next
    }

    fn differences(&self, found: &State) -> String {
        let mut text = String::new();
        for (name, expected, found) in [("shared", &self.shared, &found.shared), ("own", &self.own, &found.own)] {
            let ids: BTreeSet<&u64> = expected.keys().chain(found.keys()).collect();
            for id in ids.into_iter().filter(|id| expected.get(id) != found.get(id)) {
                let short = |d: Option<&Json>| {
                    d.map_or("nothing".to_owned(), |d| {
                        format!("n {}, text of {}", d["n"], d["text"].as_str().unwrap().len())
                    })
                };
                text +=
                    &format!("{name} {id}: expected {}, found {}; ", short(expected.get(id)), short(found.get(id)));
            }
        }
        text
    }
}

fn number(document: &Json) -> i64 {
    document["n"].as_i64().unwrap()
}

/// All documents of a namespace. Its indexes must say the same as its documents.
pub fn look(client: &mut Client, namespace: &str) -> Documents {
    let path = format!("/v2/namespaces/{namespace}/query");
    let all = json!({"rank_by": ["id", "asc"], "limit": 10_000, "include_attributes": true});
    let (status, answer) = client.post(&path, &all).unwrap();
    if status == 404 {
        return Documents::new();
    }
    assert_eq!(status, 200, "{namespace}: {answer}");
    let mut documents = Documents::new();
    for row in answer["rows"].as_array().unwrap() {
        let mut row = row.clone();
        let id = row.as_object_mut().unwrap().remove("id").unwrap().as_u64().unwrap();
        assert!(documents.insert(id, row).is_none(), "{namespace}: {id} twice");
    }
    if documents.is_empty() {
        return documents;
    }
    let mut same = |what: &str, query: Json, expected: &dyn Fn(&Json) -> bool| {
        let (status, answer) = client.post(&path, &query).unwrap();
        assert_eq!(status, 200, "{namespace}, {what}: {answer}");
        let rows = answer["rows"].as_array().unwrap();
        let found: BTreeSet<u64> = rows.iter().map(|row| row["id"].as_u64().unwrap()).collect();
        let expected: BTreeSet<u64> = documents.iter().filter(|(_, d)| expected(d)).map(|(id, _)| *id).collect();
        assert_eq!(found.len(), rows.len(), "{namespace}, {what}: a document twice");
        assert_eq!(found, expected, "{namespace}, {what}");
    };
    let bm25 = |word: &str| json!({"rank_by": ["text", "BM25", word], "limit": 10_000});
    same("BM25 of every text", bm25("fish"), &|_| true);
    for word in ["word1", "word4"] {
        same(word, bm25(word), &|d| d["text"].as_str().unwrap().ends_with(word));
    }
    let filtered = |filter: Json| json!({"rank_by": ["id", "asc"], "limit": 10_000, "filters": filter});
    same("a range", filtered(json!(["n", "Gte", 20])), &|d| number(d) >= 20);
    same("an equality", filtered(json!(["n", "Eq", -3])), &|d| number(d) == -3);
    same("the nearest", json!({"rank_by": ["vector", "ANN", [1.0, 0.5]], "limit": 10_000}), &|_| true);
    documents
}
