//! Says in words how a query would be answered.

use super::candidates::Candidates;
use super::late;
use super::nearest::{self, Method};
use super::plan::{Operand, Output, Plan, Ranking};
use crate::engine::filter::bitmap::{self, Access};
use crate::engine::view::View;
use crate::error::Result;
use crate::model::query::{Clause, Query, Rank};
use crate::platform::allowance::Allowance;

/// The plan of a query, a step a line.
pub fn explain(view: &View, query: &Query, allowance: &Allowance) -> Result<String> {
    let plan = Plan::bind(view, query, allowance)?;
    let candidates = Candidates::new(view, plan.filter.as_ref(), allowance)?;
    let (all, matching) = (view.documents(), candidates.count());
    let segments = view.segments.len();
    let mut lines = vec![format!(
        "snapshot: {all} documents of {}, {segments} segments, {} in the tail",
        view.name,
        view.tail.len()
    )];
    if let Some(filter) = &plan.filter {
        lines.push(format!("filter: {matching} of {all} documents match"));
        for (at, segment) in view.segments.iter().enumerate() {
            let how = match bitmap::access(filter, &view.schema, &segment.segment)? {
                Access::Ids => "by ids",
                Access::Postings => "by the rows of attribute values",
                Access::Terms => "by the rows of terms",
                Access::Positions => "by the rows of terms and their positions in them",
                Access::Dictionary => "by testing every distinct value once",
                Access::Documents => "by indexes, then by reading the documents that are left",
            };
            let found = candidates.segments.get(at).map_or(0, |rows| rows.len());
            lines.push(format!("  segment {at}: {how}, {found} of {} rows", segment.live()));
        }
        lines.push(format!("  tail: one by one, {} of {} rows", candidates.tail.len(), view.tail.len()));
    }
    match &query.rank_by {
        None => {
            let groups = if query.group_by.is_empty() { "" } else { " by groups" };
            lines.push(format!("aggregate: {} values over {matching} documents{groups}", query.aggregate_by.len()));
        }
        Some(Rank::Ann { attribute, .. } | Rank::Knn { attribute, .. }) => {
            lines.push(format!("rank: distances of {attribute} to {matching} documents, nearest first"));
            describe_nearest(&mut lines, view, &plan, &candidates)?;
        }
        Some(Rank::Attributes(attributes)) => {
            let names: Vec<&str> = attributes.iter().map(|(name, _)| name.as_str()).collect();
            lines.push(format!("rank: {matching} documents by {}", names.join(", ")));
        }
        Some(Rank::Score(clause)) => {
            lines.push("rank: highest score first".to_owned());
            describe(&mut lines, clause, 1);
        }
    }
    if !query.compute.is_empty() {
        let names: Vec<&str> = query.compute.iter().map(|(name, _)| name.as_str()).collect();
        lines.push(format!("compute: {} of each row that is returned", names.join(", ")));
    }
    if let Some(per) = &query.per {
        lines.push(format!("limit: at most {} for each {}", per.limit, per.attributes.join(", ")));
    }
    match query.limit {
        Some(limit) => lines.push(format!("return: {limit} from {} on", query.offset)),
        None => lines.push("return: all".to_owned()),
    }
    lines.push(String::new());
    Ok(lines.join("\n"))
}

/// How each part's vectors are searched, and why.
fn describe_nearest(lines: &mut Vec<String>, view: &View, plan: &Plan, candidates: &Candidates) -> Result<()> {
    let Output::Rows { ranking: Ranking::Nearest(target), limit, offset, .. } = &plan.output else { return Ok(()) };
    for (at, (segment, rows)) in view.segments.iter().zip(&candidates.segments).enumerate() {
        if let (Operand::Tokens(query), Some(tokens)) = (&target.operand, segment.segment.tokens(target.column)?) {
            let compared = tokens.count().min(rows.len());
            let how = match late::method(&tokens, target, query, rows, limit.saturating_add(*offset))?.0 {
                Method::Exact => format!("all tokens of {compared} compared"),
                Method::Clusters => format!(
                    "those of {compared} whose tokens are in the nearest of {} clusters, until {} of the nearest are found",
                    tokens.clusters()?.unwrap_or(0),
                    target.recall.share()
                ),
            };
            lines.push(format!("  segment {at}: {how}"));
        }
        let Some(vectors) = segment.segment.vectors(target.column)? else { continue };
        let compared = vectors.count().min(rows.len());
        let how = match nearest::method(&vectors, target, compared, limit.saturating_add(*offset))? {
            Method::Exact => format!("all {compared} compared"),
            Method::Clusters => format!(
                "the nearest of {} clusters, until {} of the nearest are found",
                vectors.clusters()?.unwrap_or(0),
                target.recall.share()
            ),
        };
        lines.push(format!("  segment {at}: {how}"));
    }
    lines.push(format!("  tail: all {} compared", candidates.tail.len()));
    Ok(())
}

fn describe(lines: &mut Vec<String>, clause: &Clause, depth: usize) {
    let indent = "  ".repeat(depth);
    let mut parts: &[Clause] = &[];
    let text = match clause {
        Clause::Bm25 { attribute, .. } => {
            format!("BM25 of {attribute}: postings of the query's terms, statistics of live documents")
        }
        Clause::SparseKnn { attribute, .. } => {
            format!("sparse product of {attribute}: postings of the query's dimensions")
        }
        Clause::Sum(of) => {
            parts = of;
            "sum of".to_owned()
        }
        Clause::Max(of) => {
            parts = of;
            "maximum of".to_owned()
        }
        Clause::Product(weight, of) => {
            parts = std::slice::from_ref(of);
            format!("{weight} times")
        }
        Clause::Filter(_) => "1 where a filter matches".to_owned(),
        Clause::Attribute(name) => format!("value of {name}"),
        Clause::Dist { attribute, .. } => format!("distance of {attribute} from an origin"),
        Clause::Saturate(of, curve) => {
            parts = std::slice::from_ref(of);
            format!("rising to one half at {} of", curve.midpoint)
        }
        Clause::Decay(of, curve) => {
            parts = std::slice::from_ref(of);
            format!("falling to one half at {} of", curve.midpoint)
        }
        Clause::Constant(value) => value.to_string(),
    };
    lines.push(format!("{indent}{text}"));
    parts.iter().for_each(|part| describe(lines, part, depth + 1));
}
