//! Says in words how a query would be answered.

use std::fmt::Write as _;

use super::scope::Scope;
use super::{check_metric, project};
use crate::engine::view::View;
use crate::error::{Context as _, Error, Result};
use crate::model::query::{Clause, Query, Rank};

/// The plan of a query, a step a line.
pub fn explain(view: &View, query: &Query) -> Result<String> {
    check_metric(&view.schema, query)?;
    project::bind(&view.schema, &query.projection)?;
    let scope = Scope::new(view, query.filter.as_ref())?;
    let mut out = String::new();
    plan(&mut out, &scope, query)
        .map_err(|_| Error::internal("the plan could not be written"))
        .context(|| "explain")?;
    Ok(out)
}

fn plan(out: &mut String, scope: &Scope<'_>, query: &Query) -> std::fmt::Result {
    let view = scope.view;
    writeln!(
        out,
        "snapshot {} of {}: {} documents in {} segments and a tail of {}",
        view.etag,
        view.name,
        view.documents(),
        view.segments.len(),
        view.tail.len()
    )?;
    if scope.is_filtered() {
        writeln!(
            out,
            "filter: {} of {} documents match, found by attribute and text indexes in segments, one by one in the tail",
            scope.count(),
            view.documents()
        )?;
    }
    match &query.rank_by {
        None => writeln!(out, "aggregate: {} values over {} documents", query.aggregate_by.len(), scope.count())?,
        Some(Rank::Ann { attribute, .. } | Rank::Knn { attribute, .. }) => {
            writeln!(out, "rank: exact distances of {attribute} to {} documents, nearest first", scope.count())?;
        }
        Some(Rank::Attributes(attributes)) => {
            let names: Vec<&str> = attributes.iter().map(|(name, _)| name.as_str()).collect();
            writeln!(out, "rank: {} documents by {}", scope.count(), names.join(", "))?;
        }
        Some(Rank::Score(clause)) => {
            writeln!(out, "rank: highest score first")?;
            describe(out, clause, 1)?;
        }
    }
    if let Some(per) = &query.per {
        writeln!(out, "limit: at most {} for each {}", per.limit, per.attributes.join(", "))?;
    }
    writeln!(out, "return: {} rows from {} on", query.limit.unwrap_or(super::LIMIT_DEFAULT), query.offset)
}

fn describe(out: &mut String, clause: &Clause, depth: usize) -> std::fmt::Result {
    let indent = "  ".repeat(depth);
    match clause {
        Clause::Bm25 { attribute, .. } => {
            writeln!(out, "{indent}BM25 of {attribute}: postings of the query's terms, statistics of live documents")
        }
        Clause::SparseKnn { attribute, .. } => {
            writeln!(out, "{indent}sparse product of {attribute}: postings of the query's dimensions")
        }
        Clause::Sum(parts) | Clause::Max(parts) => {
            writeln!(out, "{indent}{} of", if matches!(clause, Clause::Sum(_)) { "sum" } else { "maximum" })?;
            parts.iter().try_for_each(|part| describe(out, part, depth + 1))
        }
        Clause::Product(weight, part) => {
            writeln!(out, "{indent}{weight} times")?;
            describe(out, part, depth + 1)
        }
        Clause::Filter(_) => writeln!(out, "{indent}1 where a filter matches"),
        Clause::Attribute(name) => writeln!(out, "{indent}value of {name}"),
        Clause::Constant(value) => writeln!(out, "{indent}{value}"),
    }
}
