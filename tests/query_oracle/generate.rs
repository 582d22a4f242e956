//! Random documents and queries with few distinct values, so that ties, repeats and absent values are common.

use std::collections::BTreeSet;

use serde_json::{Map, Value as Json, json};
use shoal::platform::random::{Random, SeededRandom};

const WORDS: [&str; 9] = ["fish", "fishes", "swim", "tank", "blue", "deep", "a", "an", "water"];
const TEXTS: [&str; 9] = ["", "a", "ab", "abc", "b", "bc", "Ab", "abcbca", "cAbccab"];
const DAYS: [&str; 4] =
    ["2024-01-01T00:00:00Z", "2024-01-02T00:00:00Z", "2024-02-01T12:30:00Z", "2025-01-01T00:00:00Z"];

pub struct Generator {
    random: SeededRandom,
}

impl Generator {
    pub fn new(seed: u64) -> Self {
        Generator { random: SeededRandom::new(seed) }
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.random.next_u64() % bound.max(1) as u64) as usize
    }

    fn chance(&mut self, of: usize) -> bool {
        self.below(of) == 0
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }

    fn list<T>(&mut self, most: usize, mut one: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(most + 1)).map(|_| one(self)).collect()
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at + 1));
        }
    }

    fn int(&mut self) -> i64 {
        self.below(9) as i64 - 4
    }

    /// Quarters: sums and products of these are exact.
    fn quarter(&mut self) -> f64 {
        self.int() as f64 / 4.0
    }

    fn words(&mut self, most: usize) -> String {
        self.list(most, |g| g.pick(&WORDS)).join(" ")
    }

    fn vector(&mut self, dims: usize) -> Json {
        (0..dims).map(|_| self.quarter()).collect()
    }

    fn tokens(&mut self, least: usize) -> Json {
        (0..least + self.below(4)).map(|_| self.vector(2)).collect()
    }

    fn weights(&mut self) -> Json {
        let entries = self.list(3, |g| (g.pick(&WORDS).to_owned(), g.quarter()));
        Json::Object(entries.into_iter().map(|(word, weight)| (word, weight.into())).collect())
    }

    /// Distinct ids, in order.
    pub fn documents(&mut self, count: usize) -> Vec<Json> {
        let mut id = 0;
        (0..count)
            .map(|_| {
                id += 1 + self.below(3) as u64;
                self.document(id)
            })
            .collect()
    }

    pub fn document(&mut self, id: u64) -> Json {
        let mut out = Map::new();
        out.insert("id".into(), id.into());
        for name in [
            "n", "u", "x", "s", "t", "ok", "tags", "counts", "note", "text", "lines", "vector", "half", "weights",
            "late", "tokens", "stored",
        ] {
            if self.chance(5) {
                continue;
            }
            let value = match name {
                "late" if !self.chance(3) => continue,
                "n" | "late" => self.int().into(),
                "u" => self.below(5).into(),
                "x" => self.quarter().into(),
                "t" => self.pick(&DAYS).into(),
                "ok" => self.chance(2).into(),
                "tags" => self.list(3, |g| g.pick(&TEXTS)).into(),
                "counts" => self.list(3, |g| g.below(5)).into(),
                "text" => self.words(7).into(),
                "lines" => self.list(3, |g| g.words(4)).into(),
                "vector" => self.vector(4),
                "half" => self.vector(3),
                "weights" => self.weights(),
                "tokens" | "stored" => self.tokens(0),
                _ => self.pick(&TEXTS).into(),
            };
            out.insert(name.into(), value);
        }
        Json::Object(out)
    }

    fn compare(&mut self) -> &'static str {
        self.pick(&["Lt", "Lte", "Gt", "Gte"])
    }

    pub fn filter(&mut self, depth: usize) -> Json {
        match self.below(if depth == 0 { 1 } else { 5 }) {
            1 => json!(["And", (0..self.below(4)).map(|_| self.filter(depth - 1)).collect::<Vec<_>>()]),
            2 => json!(["Or", (0..self.below(4)).map(|_| self.filter(depth - 1)).collect::<Vec<_>>()]),
            3 => json!(["Not", self.filter(depth - 1)]),
            _ => self.leaf(),
        }
    }

    fn leaf(&mut self) -> Json {
        let names = ["id", "n", "u", "x", "s", "t", "ok", "tags", "counts", "note", "text", "lines", "late"];
        let name = self.pick(&names);
        let text = |g: &mut Self| Json::from(g.pick(&TEXTS));
        match name {
            "id" => {
                let one = |g: &mut Self| Json::from(g.below(180));
                match self.below(3) {
                    0 => json!([name, self.pick(&["In", "NotIn"]), self.list(9, one)]),
                    1 => json!([name, self.compare(), one(self)]),
                    _ => json!([name, self.pick(&["Eq", "NotEq"]), one(self)]),
                }
            }
            "tags" => match self.below(5) {
                0 => json!([name, self.pick(&["ContainsAny", "NotContainsAny", "In", "NotIn"]), self.list(3, text)]),
                1 => json!([name, self.pick(&["Contains", "NotContains"]), text(self)]),
                2 => json!([name, self.pick(&["Eq", "NotEq"]), self.list(2, text)]),
                3 => json!([name, self.pick(&["Glob", "NotGlob"]), self.glob()]),
                _ => json!([name, self.pick(&["Eq", "NotEq"]), null]),
            },
            "counts" => match self.below(3) {
                0 => json!([name, self.pick(&["AnyLt", "AnyLte", "AnyGt", "AnyGte"]), self.below(6)]),
                1 => json!([name, self.pick(&["Contains", "NotContains"]), self.below(6)]),
                _ => json!([name, self.pick(&["Eq", "NotEq"]), self.list(2, |g| g.below(5))]),
            },
            "s" | "note" if self.chance(4) => {
                let query: String = (0..3 + self.below(4)).map(|_| self.pick(&["a", "b", "c", "B"])).collect();
                let thresholds =
                    [json!({"min_query_chars": 3, "distance": 0}), json!({"min_query_chars": 6, "distance": 1})];
                let thresholds = &thresholds[self.below(2)..];
                json!([name, "Fuzzy", query, {"max_edit_distance": thresholds, "case_sensitive": self.chance(2)}])
            }
            "note" => json!([name, self.pick(&["Glob", "NotGlob", "IGlob", "NotIGlob"]), self.glob()]),
            "text" | "lines" => {
                let op = self.pick(&["ContainsAllTokens", "ContainsAnyToken", "ContainsTokenSequence"]);
                json!([name, op, self.words(3), {"last_as_prefix": self.chance(2)}])
            }
            "s" if self.chance(3) => json!([name, self.pick(&["Glob", "NotGlob", "IGlob"]), self.glob()]),
            scalar => {
                let one = |g: &mut Self| match scalar {
                    "x" => Json::from(g.quarter()),
                    "u" => g.below(6).into(),
                    "s" => g.pick(&TEXTS).into(),
                    "t" => g.pick(&DAYS).into(),
                    "ok" => g.chance(2).into(),
                    _ => g.int().into(),
                };
                match self.below(4) {
                    0 => json!([name, self.pick(&["In", "NotIn"]), self.list(4, one)]),
                    1 => json!([name, self.compare(), one(self)]),
                    2 => json!([name, self.pick(&["Eq", "NotEq"]), one(self)]),
                    _ => json!([name, self.pick(&["Eq", "NotEq"]), null]),
                }
            }
        }
    }

    fn glob(&mut self) -> &'static str {
        self.pick(&["*", "a*", "ab*", "*c", "?b", "b", "A*", "zz*"])
    }

    fn clause(&mut self, depth: usize) -> Json {
        match self.below(if depth == 0 { 5 } else { 10 }) {
            4 => match self.below(4) {
                0 => json!(["Dist", ["Attribute", "t"], self.pick(&DAYS)]),
                1 => json!(["Dist", ["Attribute", "u"], self.below(5)]),
                2 => json!(["Dist", ["Attribute", "x"], self.quarter()]),
                _ => json!(["Dist", ["Attribute", self.pick(&["n", "late"])], self.int()]),
            },
            8 => {
                let curve = self.pick(&["Saturate", "Decay"]);
                json!([curve, ["Dist", ["Attribute", "t"], self.pick(&DAYS)], {"midpoint": self.pick(&["1d", "3.5d"])}])
            }
            9 => {
                let options = self.pick(&[json!({"midpoint": 2}), json!({"midpoint": 0.5, "exponent": 2.0})]);
                json!([self.pick(&["Saturate", "Decay"]), self.clause(depth - 1), options])
            }
            0 => match self.chance(3) {
                true => json!(["text", "BM25", self.words(5), {"last_as_prefix": true}]),
                false => json!(["text", "BM25", [self.words(3), self.words(2)]]),
            },
            1 => json!(["weights", "SparseKNN", self.weights()]),
            2 => json!(["Attribute", "u"]),
            3 => self.leaf(),
            5 => json!(["Sum", (0..=self.below(3)).map(|_| self.clause(depth - 1)).collect::<Vec<_>>()]),
            6 => {
                let signed = self.pick(&["n", "x", "late"]);
                json!(["Max", [self.pick(&[0.0, 0.25]), ["Attribute", signed], self.clause(depth - 1)]])
            }
            _ => json!(["Product", self.pick(&[0.0, 0.5, 3.0]), self.clause(depth - 1)]),
        }
    }

    /// A query with one answer of rows.
    fn rows(&mut self) -> Json {
        let mut query = json!({"limit": 1 + self.below(40)});
        if self.chance(2) {
            query["filters"] = self.filter(2);
        }
        if self.chance(3) {
            query["offset"] = self.below(12).into();
        }
        match self.below(4) {
            0 => query["include_attributes"] = true.into(),
            1 => query["include_attributes"] = json!(["u", "vector", "id", "text", "tokens"]),
            2 => query["exclude_attributes"] = json!(["half", "s"]),
            _ => {}
        }
        if self.chance(4) {
            let words: BTreeSet<&str> = (0..3).map(|_| self.pick(&WORDS)).collect();
            let words: Vec<&str> = words.into_iter().collect();
            query["compute_attributes"] = json!({
                "score": self.clause(2),
                "near": ["half", "VectorDist", self.vector(3)],
                "near_tokens": ["tokens", "VectorDist", self.tokens(1)],
                "words": ["Highlight", "text", {
                    "fragment_by": "word", "include_offsets": "utf-8",
                    "rank_fragments_by": ["$fragment", "BM25", words.join(" ")],
                }],
            });
        }
        query["rank_by"] = match self.below(5) {
            4 => json!(["tokens", "ANN", self.tokens(1)]),
            0 => json!([self.pick(&["vector"]), "ANN", self.vector(4)]),
            1 => json!(["half", "ANN", self.vector(3)]),
            2 => self.clause(2),
            _ => {
                let count = 1 + self.below(3);
                let names = ["n", "u", "x", "s", "t", "ok", "note", "late", "id"];
                let keys = (0..count).map(|_| json!([self.pick(&names), self.pick(&["asc", "desc"])]));
                keys.collect()
            }
        };
        query
    }

    pub fn query(&mut self) -> Json {
        match self.below(8) {
            0 => {
                let mut query = json!({"aggregate_by": {
                    "count": ["Count"], "sum_n": ["Sum", "n"], "sum_u": ["Sum", "u"], "sum_x": ["Sum", "x"],
                }});
                if self.chance(2) {
                    query["filters"] = self.filter(2);
                }
                if !self.chance(3) {
                    let mut keys = vec![json!(self.pick(&["n", "s", "ok", "x", "t", "note", "late"]))];
                    if self.chance(2) {
                        keys.push(json!({"each": ["ForEachUnique", self.pick(&["tags", "counts"])]}));
                    }
                    query["group_by"] = keys.into();
                    query["limit"] = (1 + self.below(12)).into();
                }
                query
            }
            1 => {
                let mut query = self.rows();
                let total = query["limit"].as_u64().unwrap();
                let per = 1 + self.below(total.min(3) as usize);
                let attributes = self.pick(&[json!(["u"]), json!(["ok", "s"]), json!(["late"])]);
                query["limit"] = json!({"total": total, "per": {"attributes": attributes, "limit": per}});
                query
            }
            _ => self.rows(),
        }
    }

    /// Several queries with one answer.
    pub fn fused(&mut self) -> Json {
        let queries: Vec<Json> = (0..1 + self.below(3)).map(|_| self.rows()).collect();
        let weights: Vec<f64> = queries.iter().map(|_| self.pick(&[0.5, 1.0, 2.0])).collect();
        let fusion = self.pick(&[json!(["RRF"]), json!(["RRF", {"rank_constant": 10, "weights": weights}])]);
        let mut body = json!({"queries": queries, "rerank_by": fusion});
        if self.chance(2) {
            body["limit"] = (1 + self.below(30)).into();
        }
        body
    }
}
