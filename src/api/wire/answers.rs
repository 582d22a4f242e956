//! Answers to queries, written straight from their rows: id first, then `$dist`, then the attributes.

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value as Json;

use super::compute::ComputedAnswer;
use super::query::VectorEncoding;
use super::response::{billing_json, number_json, performance_json};
use crate::model::query::{Answer, Group, QueryOutcome, QueryStats, RecallOutcome, ResultRow};
use crate::model::value::{Value, Vector};
use crate::model::value_render::{id_json, to_json};

/// The answer to a query or multi-query body.
pub struct QueryAnswer<'a> {
    pub outcome: &'a QueryOutcome,
    pub encoding: VectorEncoding,
    /// The body had `queries`, so the answer has `results`.
    pub multi: bool,
    pub micros: u64,
}

impl Serialize for QueryAnswer<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let base64 = self.encoding == VectorEncoding::Base64;
        let stats: &QueryStats = &self.outcome.stats;
        let mut out = serializer.serialize_map(None)?;
        if self.multi {
            let results: Vec<OneAnswer> =
                self.outcome.answers.iter().map(|answer| OneAnswer { answer, base64 }).collect();
            out.serialize_entry("results", &results)?;
        } else if let Some(answer) = self.outcome.answers.first() {
            entry(answer, base64, &mut out)?;
        }
        out.serialize_entry("billing", &billing_json(stats))?;
        out.serialize_entry("performance", &performance_json(stats, self.micros))?;
        out.end()
    }
}

struct OneAnswer<'a> {
    answer: &'a Answer,
    base64: bool,
}

impl Serialize for OneAnswer<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_map(Some(1))?;
        entry(self.answer, self.base64, &mut out)?;
        out.end()
    }
}

fn entry<M: SerializeMap>(answer: &Answer, base64: bool, out: &mut M) -> Result<(), M::Error> {
    match answer {
        Answer::Rows(rows) => out.serialize_entry("rows", &Rows { rows, base64 }),
        Answer::Aggregations(values) => {
            let values: Vec<(&str, Json)> =
                values.iter().map(|(label, number)| (label.as_str(), number_json(*number))).collect();
            out.serialize_entry("aggregations", &Entries(&values))
        }
        Answer::Groups(groups) => {
            let groups: Vec<GroupAnswer> = groups.iter().map(GroupAnswer).collect();
            out.serialize_entry("aggregation_groups", &groups)
        }
    }
}

struct Entries<'a>(&'a [(&'a str, Json)]);

impl Serialize for Entries<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(label, value)| (label, value)))
    }
}

/// Keys, null where the attribute is absent, then aggregates.
struct GroupAnswer<'a>(&'a Group);

impl Serialize for GroupAnswer<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_map(None)?;
        for (label, value) in &self.0.key {
            let value = value.as_ref().map_or(Json::Null, |value| to_json(value, false));
            out.serialize_entry(label, &value)?;
        }
        for (label, number) in &self.0.aggregates {
            out.serialize_entry(label, &number_json(*number))?;
        }
        out.end()
    }
}

struct Rows<'a> {
    rows: &'a [ResultRow],
    base64: bool,
}

impl Serialize for Rows<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.rows.iter().map(|row| OneRow { row, base64: self.base64 }))
    }
}

struct OneRow<'a> {
    row: &'a ResultRow,
    base64: bool,
}

impl Serialize for OneRow<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_map(None)?;
        out.serialize_entry("id", &id_json(&self.row.id))?;
        if let Some(dist) = self.row.dist {
            out.serialize_entry("$dist", &dist)?;
        }
        for (name, value) in &self.row.fields {
            out.serialize_entry(name, &OneValue { value, base64: self.base64 })?;
        }
        for (name, value) in &self.row.computed {
            out.serialize_entry(name, &ComputedAnswer(value))?;
        }
        out.end()
    }
}

/// Text and vectors without a JSON value of them in between: they are most of an answer.
struct OneValue<'a> {
    value: &'a Value,
    base64: bool,
}

impl Serialize for OneValue<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.value {
            Value::String(text) => serializer.serialize_str(text),
            Value::Strings(texts) => serializer.collect_seq(texts),
            Value::Vector(Vector::F32(v)) if !self.base64 => serializer.collect_seq(v),
            Value::Vector(Vector::F16(v)) if !self.base64 => serializer.collect_seq(v.iter().map(|x| x.to_f32())),
            Value::Multivector(v) if !self.base64 => serializer.collect_seq(v.tokens()),
            other => to_json(other, self.base64).serialize(serializer),
        }
    }
}

/// The answer to `_debug/recall`.
pub struct RecallAnswer<'a>(pub &'a RecallOutcome);

impl Serialize for RecallAnswer<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let outcome = self.0;
        let mut out = serializer.serialize_map(None)?;
        out.serialize_entry("avg_recall", &outcome.avg_recall)?;
        out.serialize_entry("avg_exhaustive_count", &outcome.avg_exhaustive_count)?;
        out.serialize_entry("avg_ann_count", &outcome.avg_ann_count)?;
        if let Some(truth) = &outcome.ground_truth {
            let truth: Vec<Truth> = truth.iter().map(|(query, rows)| Truth { query, rows }).collect();
            out.serialize_entry("ground_truth", &truth)?;
        }
        out.end()
    }
}

/// One query of a recall measurement, and its exact answer.
struct Truth<'a> {
    query: &'a Value,
    rows: &'a [ResultRow],
}

impl Serialize for Truth<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_map(Some(2))?;
        out.serialize_entry("query_vector", &OneValue { value: self.query, base64: false })?;
        out.serialize_entry("nearest_neighbors", &Rows { rows: self.rows, base64: false })?;
        out.end()
    }
}

#[cfg(test)]
mod tests {
    use super::{Answer, Group, QueryAnswer, QueryOutcome, ResultRow, Value, Vector, VectorEncoding};
    use crate::model::ids::DocId;
    use crate::model::query::{Number, QueryStats};

    fn text(answers: Vec<Answer>, encoding: VectorEncoding, multi: bool) -> String {
        let stats = QueryStats { cache_hit_ratio: 1.0, ..QueryStats::default() };
        let outcome = QueryOutcome { answers, stats };
        serde_json::to_string(&QueryAnswer { outcome: &outcome, encoding, multi, micros: 1_500 }).unwrap()
    }

    fn row() -> ResultRow {
        let fields = vec![
            ("vector".to_owned(), Value::Vector(Vector::F32(vec![0.7, 2.0]))),
            ("hello".to_owned(), Value::String("wörld".into())),
        ];
        ResultRow { id: DocId::Uint(7), dist: Some(0.258_030_24), fields, computed: Vec::new() }
    }

    #[test]
    fn rows_have_the_fewest_decimals_and_every_required_block() {
        let body = text(vec![Answer::Rows(vec![row()])], VectorEncoding::Float, false);
        let start = r#"{"rows":[{"id":7,"$dist":0.25803024,"vector":[0.7,2.0],"hello":"wörld"}],"billing":{"#;
        assert!(body.starts_with(start), "{body}");
        assert!(body.contains(r#""cache_hit_ratio":1.0"#) && body.contains(r#""server_total_ms":2"#), "{body}");
        let body = text(vec![Answer::Rows(vec![row()])], VectorEncoding::Base64, false);
        assert!(body.contains(r#""vector":"MzMzPwAAAEA=""#), "{body}");
    }

    #[test]
    fn several_answers_are_results_and_groups_keep_the_requests_order() {
        let group = Group {
            key: vec![("z".to_owned(), Some(Value::Int(1))), ("a".to_owned(), None)],
            aggregates: vec![("n".to_owned(), Number::Uint(3))],
        };
        let body = text(
            vec![Answer::Groups(vec![group]), Answer::Aggregations(vec![("b".to_owned(), Number::Float(1.0))])],
            VectorEncoding::Float,
            true,
        );
        let start = r#"{"results":[{"aggregation_groups":[{"z":1,"a":null,"n":3}]},{"aggregations":{"b":1.0}}],"#;
        assert!(body.starts_with(start), "{body}");
    }
}
