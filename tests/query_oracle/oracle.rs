//! What queries must answer, by the wire contract's definitions, over plain JSON documents.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value as Json, json};
use shoal::model::datetime;

pub struct Oracle {
    documents: Vec<Json>,
}

/// Checks scored rows: `keys` are smallest first and the opposite of what rows show where `opposite`. Sums may be rounded
/// otherwise than ours, so keys are compared with a tolerance; what rows show must be in order to the bit.
pub fn check_ranking(
    body: &Json,
    rows: &[Json],
    keys: &BTreeMap<u64, f64>,
    offset: usize,
    limit: usize,
    opposite: bool,
) {
    let mut expected: Vec<(f64, u64)> = keys.iter().map(|(id, key)| (*key, *id)).collect();
    expected.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let expected: Vec<(f64, u64)> = expected.into_iter().skip(offset).take(limit).collect();
    assert_eq!(rows.len(), expected.len(), "{body}: {rows:?}, expected {expected:?}");
    let mut last = (f64::MIN, 0);
    for (row, (key, _)) in rows.iter().zip(expected) {
        let id = row["id"].as_u64().unwrap();
        let found = row["$dist"].as_f64().unwrap() * if opposite { -1.0 } else { 1.0 };
        let own = *keys.get(&id).unwrap_or_else(|| panic!("{body}: {id} is no answer"));
        let near = |a: f64, b: f64| (a - b).abs() <= 1e-6 * b.abs().max(1.0);
        assert!(near(found, own), "{body}: {id} has {found}, expected {own}");
        assert!(near(own, key), "{body}: {id} with {own} stands where {key} belongs");
        assert!(last <= (found, id), "{body}: {id} with {found} comes after {last:?}");
        last = (found, id);
    }
}

impl Oracle {
    pub fn new(documents: &[Json]) -> Self {
        Oracle { documents: documents.to_vec() }
    }

    pub fn check(&self, body: &Json, answer: &Json) {
        let answer = &answer[0];
        let matching: Vec<&Json> =
            self.documents.iter().filter(|doc| body.get("filters").is_none_or(|filter| holds(filter, doc))).collect();
        if let Some(aggregates) = body["aggregate_by"].as_object() {
            return check_aggregates(body, aggregates, &matching, answer);
        }
        let rows = answer.as_array().unwrap();
        let offset = body["offset"].as_u64().unwrap_or(0) as usize;
        let limit = body["limit"].as_u64().or(body["limit"]["total"].as_u64()).unwrap() as usize;
        for row in rows {
            self.check_fields(body, row);
        }
        let rank = body["rank_by"].as_array().unwrap();
        if body["limit"].is_object() {
            return self.check_diverse(body, &matching, rows, offset, limit);
        }
        if rank[0].is_array() {
            let expected: Vec<u64> = in_order(rank, &matching).into_iter().skip(offset).take(limit).map(id).collect();
            assert_eq!(rows.iter().map(id).collect::<Vec<_>>(), expected, "{body}");
        } else if rank[1] == "ANN" {
            let name = rank[0].as_str().unwrap();
            let keys = matching.iter().filter_map(|doc| Some((id(doc), distance(&rank[2], &doc[name])?))).collect();
            check_ranking(body, rows, &keys, offset, limit, false);
        } else {
            let keys = self.scores(&body["rank_by"], &matching);
            check_ranking(body, rows, &keys, offset, limit, true);
        }
    }

    /// The opposite of each answer's score.
    fn scores(&self, clause: &Json, matching: &[&Json]) -> BTreeMap<u64, f64> {
        let keeps_zero = clause.to_string().contains("\"Attribute\"");
        let scored = matching.iter().filter_map(|doc| Some((id(doc), self.score(clause, doc, false)?)));
        scored.filter(|(_, score)| keeps_zero || *score as f32 != 0.0).map(|(id, score)| (id, -score)).collect()
    }

    /// At most so many of each combination, in the order that the query has without that limit.
    fn check_diverse(&self, body: &Json, matching: &[&Json], rows: &[Json], offset: usize, limit: usize) {
        let per = &body["limit"]["per"];
        let rank = body["rank_by"].as_array().unwrap();
        let ranked: Vec<&Json> = if rank[0].is_array() {
            in_order(rank, matching)
        } else {
            let keys = match rank[1] == "ANN" {
                true => {
                    let name = rank[0].as_str().unwrap();
                    matching.iter().filter_map(|doc| Some((id(doc), distance(&rank[2], &doc[name])?))).collect()
                }
                false => self.scores(&body["rank_by"], matching),
            };
            let mut ranked: Vec<&Json> = matching.iter().filter(|doc| keys.contains_key(&id(doc))).copied().collect();
            // Adding 0 turns -0 into 0.
            let key = |doc: &Json| keys[&id(doc)] as f32 + 0.0;
            ranked.sort_by(|a, b| key(a).total_cmp(&key(b)).then(id(a).cmp(&id(b))));
            ranked
        };
        let mut seen: BTreeMap<String, u64> = BTreeMap::new();
        let kept = ranked.into_iter().filter(|doc| {
            let key = per["attributes"].as_array().unwrap().iter().map(|name| doc.get(name.as_str().unwrap()));
            let count = seen.entry(format!("{:?}", key.collect::<Vec<_>>())).or_default();
            *count += 1;
            *count <= per["limit"].as_u64().unwrap()
        });
        let expected: Vec<u64> = kept.skip(offset).take(limit).map(id).collect();
        assert_eq!(rows.iter().map(id).collect::<Vec<_>>(), expected, "{body}");
    }

    fn check_fields(&self, body: &Json, row: &Json) {
        let doc = self.documents.iter().find(|doc| doc["id"] == row["id"]).unwrap();
        let wanted = |name: &str| match (&body["include_attributes"], &body["exclude_attributes"]) {
            (Json::Bool(all), _) => *all,
            (Json::Array(names), _) => names.iter().any(|known| known == name),
            (_, Json::Array(names)) => !names.iter().any(|known| known == name),
            _ => false,
        };
        let mut expected = json!({"id": doc["id"]});
        for (name, value) in doc.as_object().unwrap().iter().filter(|(name, _)| wanted(name)) {
            expected[name] = value.clone();
        }
        let mut found = row.clone();
        let fields = found.as_object_mut().unwrap();
        fields.remove("$dist");
        for (name, expression) in body["compute_attributes"].as_object().into_iter().flatten() {
            self.check_computed(expression, doc, fields.remove(name).as_ref());
        }
        assert!(same(&found, &expected), "{body}: {found}, expected {expected}");
    }

    /// `None` where nothing has a score: a `Dist` of what is not there.
    fn score(&self, clause: &Json, doc: &Json, alone: bool) -> Option<f64> {
        let parts = || clause[1].as_array().unwrap().iter().filter_map(|part| self.score(part, doc, alone));
        let curve = |x: f64| {
            let exponent = clause[2]["exponent"].as_f64().unwrap_or(1.0);
            let midpoint = match clause[2]["midpoint"].as_str() {
                Some(days) => days.strip_suffix('d').unwrap().parse::<f64>().unwrap() * 86_400_000.0,
                None => clause[2]["midpoint"].as_f64().unwrap(),
            };
            let (x, m) = (x.max(0.0).powf(exponent), midpoint.powf(exponent));
            if clause[0] == "Decay" { m / (x + m) } else { x / (x + m) }
        };
        Some(match (&clause[0], &clause[1]) {
            (head, _) if clause.is_number() && head.is_null() => clause.as_f64().unwrap(),
            (head, _) if head == "Sum" => parts().reduce(|a, b| a + b)?,
            (head, _) if head == "Max" => parts().reduce(f64::max)?,
            (head, weight) if head == "Product" => weight.as_f64().unwrap() * self.score(&clause[2], doc, alone)?,
            (head, name) if head == "Attribute" => doc[name.as_str().unwrap()].as_f64().unwrap_or(0.0),
            (head, of) if head == "Saturate" || head == "Decay" => curve(self.score(of, doc, alone)?),
            (head, of) if head == "Dist" => {
                let number = |json: &Json| match json.as_str() {
                    Some(time) => datetime::parse(time).map(|millis| millis as f64),
                    None => json.as_f64(),
                };
                (number(&doc[of[1].as_str().unwrap()])? - number(&clause[2]).unwrap()).abs()
            }
            (name, op) if op == "BM25" => self.bm25(name.as_str().unwrap(), clause, doc, alone),
            (name, op) if op == "SparseKNN" => {
                let Some(weights) = doc[name.as_str().unwrap()].as_object() else { return Some(0.0) };
                let query = clause[2].as_object().unwrap();
                let product = |(word, weight): (&String, &Json)| {
                    weight.as_f64().unwrap() * weights.get(word).map_or(0.0, |stored| stored.as_f64().unwrap())
                };
                query.iter().map(product).sum()
            }
            _ => f64::from(u8::from(holds(clause, doc))),
        })
    }

    /// What is computed of one document: a distance, a highlight by words, or a score.
    fn check_computed(&self, expression: &Json, doc: &Json, found: Option<&Json>) {
        if expression[0] == "Highlight" {
            let query = tokens(&expression[2]["rank_fragments_by"][2]);
            let own = doc.get("text").map_or(Vec::new(), tokens);
            let mut at = 0;
            let mut expected = Vec::new();
            for word in &own {
                if query.contains(word) {
                    expected.push((own.iter().filter(|other| *other == word).count(), at, word));
                }
                at += word.len() + 1;
            }
            // Words that are there less often tell more.
            expected.sort();
            let expected = expected.into_iter().take(3).map(|(_, at, word)| {
                let range = json!([at, at + word.len()]);
                json!({"text": word, "fragment_range": range, "match_ranges": [range]})
            });
            assert_eq!(found, Some(&expected.collect::<Json>()), "{expression} of {doc}");
            return;
        }
        let expected = match expression[1] == "VectorDist" {
            true => distance(&expression[2], &doc[expression[0].as_str().unwrap()]),
            false => self.score(expression, doc, true),
        };
        let same = match (found.map(|found| found.as_f64().unwrap()), expected) {
            (Some(found), Some(expected)) => (found - expected).abs() <= 1e-6 * expected.abs().max(1.0),
            (found, expected) => found.is_none() && expected.is_none(),
        };
        assert!(same, "{expression} of {doc} is {found:?}, expected {expected:?}");
    }

    /// `alone`: as if no other document had the terms, and all were one token long.
    fn bm25(&self, name: &str, clause: &Json, doc: &Json, alone: bool) -> f64 {
        let mut query: Vec<String> = match &clause[2] {
            Json::Array(texts) => texts.iter().flat_map(tokens).collect(),
            text => tokens(text),
        };
        let prefix = if clause[3]["last_as_prefix"] == true { query.pop() } else { None };
        if doc.get(name).is_none() {
            return 0.0;
        }
        let texts: Vec<Vec<String>> = self.documents.iter().filter_map(|doc| doc.get(name)).map(tokens).collect();
        let average = texts.iter().map(Vec::len).sum::<usize>() as f64 / texts.len() as f64;
        let own = tokens(&doc[name]);
        let count = |text: &[String], word: &String| text.iter().filter(|token| *token == word).count() as f64;
        let mut score = 0.0;
        for word in query.iter().collect::<BTreeSet<_>>() {
            let df = texts.iter().filter(|text| text.contains(word)).count() as f64;
            let (tf, qtf) = (count(&own, word), count(&query, word));
            let idf = (1.0 + (self.documents.len() as f64 - df + 0.5) / (df + 0.5)).ln();
            let idf = if alone { 2f64.ln() } else { idf };
            let length = if average > 0.0 { own.len() as f64 / average } else { 1.0 };
            let length = if alone { own.len() as f64 } else { length };
            score += qtf * 9.0 / (qtf + 8.0) * idf * tf * 2.2 / (tf + f64::from(1.2f32) * (0.25 + 0.75 * length));
        }
        let found = prefix.is_some_and(|prefix| own.iter().any(|token| token.starts_with(&prefix)));
        score + f64::from(u8::from(found))
    }
}

fn id(doc: &Json) -> u64 {
    doc["id"].as_u64().unwrap()
}

/// Equal as numbers, whole or not.
fn same(a: &Json, b: &Json) -> bool {
    match (a, b) {
        (Json::Number(a), Json::Number(b)) => a.as_f64() == b.as_f64(),
        (Json::Array(a), Json::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Json::Object(a), Json::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        (a, b) => a == b,
    }
}

/// Scalars of one type; null below everything.
fn order(a: &Json, b: &Json) -> Ordering {
    match (a, b) {
        (Json::Null, b) => {
            if b.is_null() {
                Ordering::Equal
            } else {
                Ordering::Less
            }
        }
        (_, Json::Null) => Ordering::Greater,
        (Json::Number(a), Json::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()).unwrap(),
        (Json::Bool(a), Json::Bool(b)) => a.cmp(b),
        (a, b) => a.as_str().unwrap().cmp(b.as_str().unwrap()),
    }
}

fn in_order<'d>(rank: &[Json], matching: &[&'d Json]) -> Vec<&'d Json> {
    let mut ordered = matching.to_vec();
    ordered.sort_by(|a, b| {
        let keys = rank.iter().map(|key| {
            let name = key[0].as_str().unwrap();
            let ascending = order(&a[name], &b[name]);
            if key[1] == "desc" { ascending.reverse() } else { ascending }
        });
        keys.fold(Ordering::Equal, Ordering::then).then(id(a).cmp(&id(b)))
    });
    ordered
}

/// `None` from nothing, and from no tokens. Each token of the query, where it has several, goes to the nearest.
fn distance(query: &Json, value: &Json) -> Option<f64> {
    let elements = value.as_array()?;
    if query[0].is_array() {
        let nearest =
            |token: &Json| elements.iter().filter_map(|value| distance(token, value)).min_by(f64::total_cmp);
        return query.as_array()?.iter().map(nearest).sum();
    }
    let pairs = query.as_array()?.iter().zip(elements);
    Some(pairs.map(|(a, b)| (a.as_f64().unwrap() - b.as_f64().unwrap()).powi(2)).sum())
}

/// The words of a text, or of an array of texts one after another.
fn tokens(text: &Json) -> Vec<String> {
    match text {
        Json::Array(texts) => texts.iter().flat_map(tokens).collect(),
        text => text.as_str().unwrap().split_whitespace().map(str::to_owned).collect(),
    }
}

fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, _) => text.is_empty(),
        (Some((b'*', rest)), _) => (0..=text.len()).any(|skip| glob(rest, &text[skip..])),
        (Some((b'?', rest)), Some((_, text))) => glob(rest, text),
        (Some((a, rest)), Some((b, text))) => a == b && glob(rest, text),
        (Some(_), None) => false,
    }
}

fn holds(filter: &Json, doc: &Json) -> bool {
    let all = || filter[1].as_array().unwrap().iter();
    match filter[0].as_str().unwrap() {
        "And" => all().all(|filter| holds(filter, doc)),
        "Or" => all().any(|filter| holds(filter, doc)),
        "Not" => !holds(&filter[1], doc),
        name => leaf(filter[1].as_str().unwrap(), &doc[name], &filter[2], &filter[3]),
    }
}

fn leaf(op: &str, value: &Json, operand: &Json, params: &Json) -> bool {
    if let Some(positive) = op.strip_prefix("Not") {
        return !leaf(positive, value, operand, params);
    }
    let elements: Vec<&Json> = match value {
        Json::Null => Vec::new(),
        Json::Array(items) => items.iter().collect(),
        scalar => vec![scalar],
    };
    let any_of = |operands: &Json| {
        let operands = operands.as_array().unwrap();
        elements.iter().any(|element| operands.iter().any(|operand| same(element, operand)))
    };
    let texts = || elements.iter().map(|element| element.as_str().unwrap());
    let compared = |op: &str, value: &Json| match op {
        "Lt" => order(value, operand).is_lt(),
        "Lte" => order(value, operand).is_le(),
        "Gt" => order(value, operand).is_gt(),
        _ => order(value, operand).is_ge(),
    };
    match op {
        "Eq" => same(value, operand),
        "In" | "ContainsAny" => any_of(operand),
        "Contains" => any_of(&json!([operand])),
        "Lt" | "Lte" | "Gt" | "Gte" => compared(op, value),
        "AnyLt" | "AnyLte" | "AnyGt" | "AnyGte" => elements.iter().any(|element| compared(&op[3..], element)),
        "Glob" => texts().any(|text| glob(operand.as_str().unwrap().as_bytes(), text.as_bytes())),
        "IGlob" => {
            let pattern = operand.as_str().unwrap().to_lowercase();
            texts().any(|text| glob(pattern.as_bytes(), text.to_lowercase().as_bytes()))
        }
        "Fuzzy" => texts().any(|text| is_close(operand.as_str().unwrap(), text, params)),
        _ => contains_tokens(op, value, &tokens(operand), params["last_as_prefix"] == true),
    }
}

/// Whether the fewest edits that make some part of a text of the query are allowed.
fn is_close(query: &str, text: &str, params: &Json) -> bool {
    let fold = |text: &str| match params["case_sensitive"] == true {
        true => text.to_owned(),
        false => text.to_lowercase(),
    };
    let (query, text): (Vec<char>, Vec<char>) = (fold(query).chars().collect(), fold(text).chars().collect());
    let thresholds = params["max_edit_distance"].as_array().unwrap().iter();
    let fit = thresholds.filter(|threshold| threshold["min_query_chars"].as_u64().unwrap() <= query.len() as u64);
    let Some(allowed) = fit.map(|threshold| threshold["distance"].as_u64().unwrap()).max() else { return false };
    let mut row = vec![0u64; text.len() + 1];
    for (at, wanted) in query.iter().enumerate() {
        let mut next = vec![at as u64 + 1];
        for (place, found) in text.iter().enumerate() {
            let substituted = row[place] + u64::from(wanted != found);
            next.push(substituted.min(row[place + 1] + 1).min(next[place] + 1));
        }
        row = next;
    }
    row.into_iter().min().unwrap() <= allowed
}

fn contains_tokens(op: &str, value: &Json, query: &[String], last_as_prefix: bool) -> bool {
    if query.is_empty() {
        return op != "ContainsAnyToken";
    }
    if value.is_null() {
        return false;
    }
    let own = tokens(value);
    let is = |token: &String, at: usize| match last_as_prefix && at + 1 == query.len() {
        true => token.starts_with(&query[at]),
        false => *token == query[at],
    };
    match op {
        "ContainsAllTokens" => (0..query.len()).all(|at| own.iter().any(|token| is(token, at))),
        "ContainsAnyToken" => (0..query.len()).any(|at| own.iter().any(|token| is(token, at))),
        _ => own.windows(query.len()).any(|window| window.iter().enumerate().all(|(at, token)| is(token, at))),
    }
}

/// Labels and values.
type Key = Vec<(String, Json)>;

fn check_aggregates(body: &Json, aggregates: &Map<String, Json>, matching: &[&Json], answer: &Json) {
    let totals = |docs: &[&Json]| {
        let mut out = json!({});
        for (label, aggregate) in aggregates {
            out[label] = match aggregate[1].as_str() {
                None => docs.len().into(),
                Some(name) => docs.iter().filter_map(|doc| doc[name].as_f64()).sum::<f64>().into(),
            };
        }
        out
    };
    let Some(keys) = body["group_by"].as_array() else {
        assert!(same(answer, &totals(matching)), "{body}: {answer}, expected {}", totals(matching));
        return;
    };
    let mut groups: Vec<(Key, Vec<&Json>)> = Vec::new();
    for doc in matching {
        let mut combinations: Vec<Key> = vec![Key::new()];
        for key in keys {
            let (label, values) = match key.as_str() {
                Some(name) => (name, vec![doc[name].clone()]),
                None => {
                    let elements = doc[key["each"][1].as_str().unwrap()].as_array().cloned().unwrap_or_default();
                    let mut distinct: Vec<Json> = Vec::new();
                    elements.into_iter().for_each(|e| {
                        if !distinct.contains(&e) {
                            distinct.push(e)
                        }
                    });
                    ("each", distinct)
                }
            };
            combinations = combinations
                .iter()
                .flat_map(|known| values.iter().map(move |value| (known, value)))
                .map(|(known, value)| [known.as_slice(), &[(label.to_owned(), value.clone())]].concat())
                .collect();
        }
        for combination in combinations {
            let is_same = |a: &[(String, Json)]| a.iter().zip(&combination).all(|(a, b)| same(&a.1, &b.1));
            match groups.iter_mut().find(|(known, _)| is_same(known)) {
                Some((_, docs)) => docs.push(doc),
                None => groups.push((combination, vec![doc])),
            }
        }
    }
    groups.sort_by(|a, b| {
        let pairs = a.0.iter().zip(&b.0).map(|(a, b)| order(&a.1, &b.1));
        pairs.fold(Ordering::Equal, Ordering::then)
    });
    let expected: Vec<Json> = groups
        .into_iter()
        .take(body["limit"].as_u64().unwrap() as usize)
        .map(|(key, docs)| {
            let mut out = totals(&docs);
            key.into_iter().filter(|(_, value)| !value.is_null()).for_each(|(label, value)| out[&label] = value);
            out
        })
        .collect();
    assert!(same(answer, &expected.clone().into()), "{body}: {answer}, expected {expected:?}");
}
