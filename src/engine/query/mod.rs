//! Queries: what a request asks for becomes a plan, the plan's ranking gives hits, and hits become rows.
//!
//! | file | what it does |
//! | --- | --- |
//! | `plan` | binds names and operands to the schema |
//! | `candidates` | the rows that pass the filter |
//! | `nearest` (with `late`), `order`, `score` (with `text`, `sparse`) | hits by distance, by attributes, by score |
//! | `pruned`, `lists`, `window` | the highest scores without scoring every row; rows that are scored at a time |
//! | `heaviest` | the highest products of sparse vectors: all, or as many as a wanted recall needs |
//! | `hits` | rows by their place, the best of many, the parts' best as one |
//! | `curve` | distances from an origin, and the curves that make scores of them |
//! | `columns`, `postings` | a segment's attribute or terms, from an index or from documents |
//! | `diverse`, `fuse` | at most so many rows per value; several answers as one |
//! | `aggregate`, `group` | counts and sums, of everything or by groups |
//! | `project` | hits to rows |
//! | `compute` (with `alone`, `highlight`) | what rows carry besides their attributes |
//! | `explain`, `recall` | how a query is answered, and how well |
//!
//! All parts of a view give one answer together: what a document scores and where it stands does not depend on whether it
//! is in the tail or in which segment. `tests/query_oracle` holds queries to that.

mod aggregate;
mod alone;
mod candidates;
mod columns;
mod compute;
mod curve;
mod diverse;
mod exact_sum;
mod explain;
mod fuse;
mod group;
mod heaviest;
mod highlight;
mod hits;
mod late;
mod lists;
mod nearest;
mod order;
mod plan;
mod postings;
mod project;
mod pruned;
mod recall;
mod score;
mod sparse;
mod text;
mod window;

use std::time::Instant;

pub use self::explain::explain;
pub use self::recall::recall;

use self::candidates::Candidates;
use self::hits::Hit;
use self::plan::{Output, Plan, Ranking};
use super::view::View;
use crate::error::{Error, Result};
use crate::model::query::{Answer, QueryOutcome, QueryRequest, QueryStats, ResultRow};
use crate::model::schema::ColumnUid;
use crate::platform::allowance::Allowance;
use crate::platform::reads;

/// Answers one or several queries from one snapshot, within an allowance.
pub fn run(view: &View, request: &QueryRequest, allowance: &Allowance) -> Result<QueryOutcome> {
    answer_all(view, request, allowance, false)
}

/// Answers as [`run`] does, and scores every row for it: what finding the best without that is measured and tested against.
pub fn run_scoring_all(view: &View, request: &QueryRequest, allowance: &Allowance) -> Result<QueryOutcome> {
    answer_all(view, request, allowance, true)
}

fn answer_all(view: &View, request: &QueryRequest, allowance: &Allowance, scores_all: bool) -> Result<QueryOutcome> {
    let (outcome, reads) =
        reads::measured(|| allowance.limit().doing(|| answer_each(view, request, allowance, scores_all)));
    let mut outcome = outcome?;
    outcome.stats.cache_hit_ratio = reads.hit_ratio();
    outcome.stats.rounds = reads.rounds;
    outcome.stats.bytes_brought = reads.brought;
    Ok(outcome)
}

fn answer_each(view: &View, request: &QueryRequest, allowance: &Allowance, scores_all: bool) -> Result<QueryOutcome> {
    let start = Instant::now();
    let mut work = Work::new(allowance);
    let bind = |at: usize| {
        let mut plan =
            Plan::bind(view, &request.queries[at], allowance).map_err(|error| in_query(request, at, error))?;
        if let Output::Rows { ranking: Ranking::Score(scorer), .. } = &mut plan.output {
            scorer.scores_all = scores_all;
        }
        Ok(plan)
    };
    let answers = match &request.fusion {
        Some(fusion) => {
            let plans = (0..request.queries.len()).map(bind).collect::<Result<Vec<Plan>>>()?;
            vec![Answer::Rows(fuse::run(view, &plans, fusion, &mut work)?)]
        }
        None => (0..request.queries.len())
            .map(|at| answer(view, &bind(at)?, &mut work))
            .collect::<Result<Vec<Answer>>>()?,
    };
    let stats = QueryStats {
        documents: view.documents(),
        exhaustive: work.exhaustive,
        bytes_queried: work.bytes,
        bytes_returned: answers.iter().map(bytes_returned).sum(),
        cache_hit_ratio: 1.0,
        rounds: 0,
        bytes_brought: 0,
        execution_micros: u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX),
    };
    Ok(QueryOutcome { answers, stats })
}

fn in_query(request: &QueryRequest, at: usize, error: Error) -> Error {
    if request.queries.len() == 1 { error } else { error.context(format_args!("queries[{at}]")) }
}

/// What answering took, and what it may take.
struct Work<'a> {
    allowance: &'a Allowance,
    /// Documents compared one by one: the tail's, and vectors that were compared.
    exhaustive: u64,
    /// Logical bytes of the vectors compared and of the values read for the answer.
    bytes: u64,
    /// Logical bytes of the attributes in the answer's rows.
    returned: u64,
    /// The columns that the answer's rows are made of, sorted; none where they are ids and distances alone.
    columns: Option<Vec<ColumnUid>>,
}

impl<'a> Work<'a> {
    fn new(allowance: &'a Allowance) -> Self {
        Work { allowance, exhaustive: 0, bytes: 0, returned: 0, columns: None }
    }
}

fn answer(view: &View, plan: &Plan, work: &mut Work) -> Result<Answer> {
    let candidates = Candidates::new(view, plan.filter.as_ref(), work.allowance)?;
    work.exhaustive += view.tail.len();
    work.columns = plan.row_columns();
    match &plan.output {
        Output::Rows { .. } => {
            let hits = page(view, plan, &candidates, work)?;
            project::rows(view, &hits, plan, work).map(Answer::Rows)
        }
        Output::Aggregates(aggregates) => {
            aggregate::run(view, aggregates, &candidates, work.allowance).map(Answer::Aggregations)
        }
        Output::Groups { keys, aggregates, limit } => {
            group::run(view, keys, aggregates, *limit, &candidates, work.allowance).map(Answer::Groups)
        }
    }
}

/// The hits that a plan's limit and offset leave, best first.
fn page(view: &View, plan: &Plan, candidates: &Candidates, work: &mut Work) -> Result<Vec<Hit>> {
    let Output::Rows { ranking, limit, offset, per } = &plan.output else { return Ok(Vec::new()) };
    let wanted = limit.saturating_add(*offset);
    let mut hits = match per {
        None => ranked(view, ranking, candidates, wanted, work)?,
        Some(per) => {
            diverse::run(view, per, wanted, work, |depth, work| ranked(view, ranking, candidates, depth, work))?
        }
    };
    hits.drain(..(*offset).min(hits.len()));
    Ok(hits)
}

/// The `k` best hits.
fn ranked(view: &View, ranking: &Ranking, candidates: &Candidates, k: usize, work: &mut Work) -> Result<Vec<Hit>> {
    match ranking {
        Ranking::Nearest(target) => nearest::run(view, target, candidates, k, work),
        Ranking::Order(keys) => order::run(view, keys, candidates, k, work.allowance),
        Ranking::Score(scorer) => score::run(view, scorer, candidates, k, work.allowance),
    }
}

/// Per row the id, 4 for a distance or score, and the values; numbers of aggregates are free.
fn bytes_returned(answer: &Answer) -> u64 {
    let of_row = |row: &ResultRow| {
        let values: u64 = row.fields.iter().map(|(_, value)| value.logical_bytes()).sum();
        let computed: u64 = row.computed.iter().map(|(_, value)| value.logical_bytes()).sum();
        row.id.logical_bytes() + if row.dist.is_some() { 4 } else { 0 } + values + computed
    };
    match answer {
        Answer::Rows(rows) => rows.iter().map(of_row).sum(),
        Answer::Aggregations(_) | Answer::Groups(_) => 0,
    }
}
