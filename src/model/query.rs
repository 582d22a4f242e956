//! Queries: what a request asks for, and what the answer is.

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::compute::{Compute, Computed};
use super::filter::Expr;
use super::ids::DocId;
use super::schema::Metric;
use super::value::Value;

/// What share of the nearest vectors a search is to find, on average; in millionths. All of them is an exact search.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RecallForm", into = "RecallForm")]
pub struct Recall(u32);

impl Recall {
    pub const EXACT: Recall = Recall(1_000_000);
    /// What is promised unless somebody asks for another.
    pub const DEFAULT: Recall = Recall(950_000);

    /// `None` unless `share` is from 0.5 to 1.
    pub fn of(share: f64) -> Option<Recall> {
        (0.5..=1.0).contains(&share).then(|| Recall((share * 1e6).round() as u32))
    }

    pub fn share(self) -> f32 {
        self.0 as f32 / 1e6
    }

    pub fn is_exact(self) -> bool {
        self == Recall::EXACT
    }
}

/// How a recall is written: a share, or `"exact"`.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum RecallForm {
    Share(f64),
    Word(String),
}

impl TryFrom<RecallForm> for Recall {
    type Error = String;

    fn try_from(form: RecallForm) -> Result<Self, String> {
        let expected = "expected a number from 0.5 to 1, or \"exact\"";
        match form {
            RecallForm::Word(word) if word == "exact" => Ok(Recall::EXACT),
            RecallForm::Word(word) => Err(format!("recall is {word:?}, {expected}")),
            RecallForm::Share(share) => Recall::of(share).ok_or_else(|| format!("recall is {share}, {expected}")),
        }
    }
}

impl From<Recall> for RecallForm {
    fn from(recall: Recall) -> Self {
        if recall.is_exact() {
            RecallForm::Word("exact".into())
        } else {
            RecallForm::Share(f64::from(recall.0) / 1e6)
        }
    }
}

/// One or several queries answered from one snapshot.
#[derive(Clone, Debug)]
pub struct QueryRequest {
    pub queries: Vec<Query>,
    /// Fuses the answers of several queries into one.
    pub fusion: Option<Fusion>,
}

/// One query. Attribute names and operands are as the request has them; the engine binds them to the schema.
#[derive(Clone, Debug, Default)]
pub struct Query {
    pub rank_by: Option<Rank>,
    /// How many rows, or groups; the default and the bounds are the contract's.
    pub limit: Option<u32>,
    /// At most `limit` rows of each combination of these attributes' values.
    pub per: Option<Per>,
    pub offset: u32,
    pub filter: Option<Expr>,
    pub projection: Projection,
    /// Name and what it is, in the request's order.
    pub compute: Vec<(String, Compute)>,
    /// Label and aggregate, in the request's order.
    pub aggregate_by: Vec<(String, Aggregate)>,
    pub group_by: Vec<GroupKey>,
    pub metric: Option<Metric>,
    /// What ANN is to find; what the node's configuration says when `None`.
    pub recall: Option<Recall>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Per {
    pub attributes: Vec<String>,
    pub limit: u32,
}

/// Which attributes an answer's rows carry.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Projection {
    #[default]
    None,
    All,
    Include(Vec<String>),
    Exclude(Vec<String>),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Aggregate {
    Count,
    Sum(String),
}

#[derive(Clone, Debug, PartialEq)]
pub enum GroupKey {
    Attribute(String),
    /// `{label: ["ForEachUnique", array_attribute]}`: a document counts once for each distinct element.
    ForEachUnique {
        label: String,
        attribute: String,
    },
}

/// What rows are ordered by.
#[derive(Clone, Debug)]
pub enum Rank {
    /// Nearest first, as many of the nearest as the query's recall says.
    Ann { attribute: String, vector: Json },
    /// Nearest first, exactly; needs a filter.
    Knn { attribute: String, vector: Json },
    /// Highest score first.
    Score(Clause),
    /// By attribute values or id.
    Attributes(Vec<(String, Direction)>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Asc,
    Desc,
}

/// A scoring expression. Scores are never negative.
#[derive(Clone, Debug)]
pub enum Clause {
    Bm25 {
        attribute: String,
        query: Json,
        last_as_prefix: bool,
    },
    SparseKnn {
        attribute: String,
        vector: Json,
    },
    Sum(Vec<Clause>),
    Max(Vec<Clause>),
    Product(f64, Box<Clause>),
    /// 1 where it matches, else 0.
    Filter(Expr),
    /// A numeric attribute's value.
    Attribute(String),
    /// How far an attribute's value is from an origin: a number, or a time, whose distances are milliseconds.
    Dist {
        attribute: String,
        origin: Json,
    },
    /// Rises from 0 to 1 as the clause grows: `x^e / (x^e + m^e)`.
    Saturate(Box<Clause>, Curve),
    /// Falls from 1 to 0 as the clause grows: `m^e / (x^e + m^e)`.
    Decay(Box<Clause>, Curve),
    /// A constant, as the floor inside `Max`.
    Constant(f64),
}

/// The shape of `Saturate` and `Decay`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Curve {
    /// Where the result is one half; positive.
    pub midpoint: f64,
    /// The midpoint was given as a duration, so it is in milliseconds.
    pub is_duration: bool,
    /// How steep it is around the midpoint; positive.
    pub exponent: f64,
}

/// Reciprocal rank fusion: the score is the sum of `weight / (rank_constant + rank)` over the queries, rank from 1
/// (Cormack, Clarke and Büttcher, SIGIR 2009).
#[derive(Clone, Debug)]
pub struct Fusion {
    pub rank_constant: f64,
    /// One per query, or empty for 1 each.
    pub weights: Vec<f64>,
    pub limit: Option<u32>,
    pub offset: u32,
}

/// The answers, one per query or one fused, and what answering took.
#[derive(Clone, Debug, Default)]
pub struct QueryOutcome {
    pub answers: Vec<Answer>,
    pub stats: QueryStats,
}

#[derive(Clone, Debug)]
pub enum Answer {
    Rows(Vec<ResultRow>),
    /// Label and value, in the request's order.
    Aggregations(Vec<(String, Number)>),
    Groups(Vec<Group>),
}

/// One group: its key by label, then its aggregates by label. A key is absent where the attribute is.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    pub key: Vec<(String, Option<Value>)>,
    pub aggregates: Vec<(String, Number)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    Int(i64),
    Uint(u64),
    Float(f64),
}

#[derive(Clone, Debug, PartialEq)]
pub struct ResultRow {
    pub id: DocId,
    /// Distance or score; absent when ordered by attributes.
    pub dist: Option<f32>,
    /// The attributes asked for, by name; absent values are absent.
    pub fields: Vec<(String, Value)>,
    /// What was computed, by name; a document without what it is computed of is without it.
    pub computed: Vec<(String, Computed)>,
}

/// What answering took; true figures.
#[derive(Clone, Copy, Debug, Default)]
pub struct QueryStats {
    pub documents: u64,
    /// Documents compared one by one rather than through an index.
    pub exhaustive: u64,
    pub bytes_queried: u64,
    pub bytes_returned: u64,
    /// Share of the bytes looked at that were on this node when the query came; 1.0 where everything is.
    pub cache_hit_ratio: f64,
    /// Bytes that had to be read from the bucket, and how often the query waited for some.
    pub bytes_brought: u64,
    pub rounds: u32,
    pub execution_micros: u64,
}

/// `_debug/recall`: compares ANN with exact search over sampled or given vectors.
#[derive(Clone, Debug)]
pub struct RecallRequest {
    pub num: u32,
    pub top_k: u32,
    pub filter: Option<Expr>,
    pub include_ground_truth: bool,
    pub rank_by: Option<Rank>,
    /// As in a query.
    pub recall: Option<Recall>,
}

#[derive(Clone, Debug, Default)]
pub struct RecallOutcome {
    pub avg_recall: f64,
    pub avg_exhaustive_count: f64,
    pub avg_ann_count: f64,
    /// Query vector, or vectors, and the true nearest rows; only when asked for.
    pub ground_truth: Option<Vec<(Value, Vec<ResultRow>)>>,
}
