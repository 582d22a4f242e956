//! Filters from JSON, shape only: `["And", [..]]`, `["Not", f]`, `[attribute, op, operand, params?]`.

use serde_json::Value as Json;

use super::shape::{brief, string, wrong};
use crate::error::{Error, Result};
use crate::model::filter::{Expr, ExprLeaf};

/// The most operators one filter may have.
pub const FILTER_NODES_MAX: usize = 4_096;
/// How deep filters may nest.
pub const FILTER_DEPTH_MAX: usize = 32;

/// Reads a filter; errors carry `path`.
pub fn parse_filter(path: &str, json: Json) -> Result<Expr> {
    let mut nodes = 0;
    parse(path, json, 0, &mut nodes)
}

fn parse(path: &str, json: Json, depth: usize, nodes: &mut usize) -> Result<Expr> {
    *nodes += 1;
    if depth > FILTER_DEPTH_MAX || *nodes > FILTER_NODES_MAX {
        return Err(Error::invalid(format!(
            "{path}: filter is too large, at most {FILTER_NODES_MAX} operators nested {FILTER_DEPTH_MAX} deep"
        )));
    }
    let mut items = match json {
        Json::Array(items) => items,
        other => return Err(no_filter(path, &other)),
    };
    let head = items.first().and_then(Json::as_str).map(str::to_owned);
    match (head.as_deref(), items.len()) {
        (Some("And" | "Or"), 2) => {
            let children = match items.pop() {
                Some(Json::Array(children)) => children,
                other => return Err(no_filter(path, &other.unwrap_or(Json::Null))),
            };
            let children = children
                .into_iter()
                .map(|child| parse(path, child, depth + 1, nodes))
                .collect::<Result<Vec<Expr>>>()?;
            Ok(if head.as_deref() == Some("And") { Expr::And(children) } else { Expr::Or(children) })
        }
        (Some("Not"), 2) => {
            let inner = items.pop().unwrap_or(Json::Null);
            Ok(Expr::Not(Box::new(parse(path, inner, depth + 1, nodes)?)))
        }
        (Some(_), 3 | 4) => {
            let params = if items.len() == 4 { items.pop().filter(|json| !json.is_null()) } else { None };
            let operand = items.pop().unwrap_or(Json::Null);
            let op = string(path, items.pop().unwrap_or(Json::Null))?;
            Ok(Expr::Leaf(ExprLeaf { attribute: head.unwrap_or_default(), op, operand, params }))
        }
        (_, n) if n > 4 => Err(Error::invalid(format!("{path}: a filter has at most 4 elements, got {n}"))),
        _ => Err(no_filter(path, &Json::Array(items))),
    }
}

fn no_filter(path: &str, got: &Json) -> Error {
    wrong(path, "data did not match any variant of untagged enum Filter").with_hint(format!(
        "expected [\"attribute\", \"Eq\", value], [\"And\", [filters]], [\"Or\", [filters]] or [\"Not\", filter], got {}",
        brief(got)
    ))
}
