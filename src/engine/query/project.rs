//! The rows of an answer: ids, distances, and the attributes asked for.

use super::place::Ranked;
use super::scope::Scope;
use crate::error::{Error, Result};
use crate::model::query::{Projection, QueryStats, ResultRow};
use crate::model::schema::{ColumnUid, Schema};

/// Bytes that a distance or score counts for.
const DIST_BYTES: u64 = 4;

/// The columns that rows carry, sorted, with their names.
pub struct Columns {
    uids: Vec<ColumnUid>,
    names: Vec<(ColumnUid, String)>,
}

pub fn bind(schema: &Schema, projection: &Projection) -> Result<Columns> {
    let all = || schema.columns.iter().map(|column| (column.uid(), column.name.clone()));
    let mut names: Vec<(ColumnUid, String)> = match projection {
        Projection::None => Vec::new(),
        Projection::All => all().collect(),
        Projection::Exclude(names) => all().filter(|(_, name)| !names.contains(name)).collect(),
        Projection::Include(names) => {
            let mut found = Vec::with_capacity(names.len());
            for name in names.iter().filter(|name| *name != "id") {
                let Some(column) = schema.column(name) else {
                    return Err(Error::invalid(format!(
                        "💔 attribute \"{name}\" not found in schema, cannot be part of `include_attributes`. consider \
                         passing `include_attributes=True` to include all attributes"
                    )));
                };
                found.push((column.uid(), column.name.clone()));
            }
            found
        }
    };
    names.sort_unstable();
    names.dedup();
    Ok(Columns { uids: names.iter().map(|(uid, _)| *uid).collect(), names })
}

/// Reads the rows of a ranking.
pub fn rows(
    scope: &Scope<'_>,
    ranked: &[Ranked],
    columns: &Columns,
    stats: &mut QueryStats,
) -> Result<Vec<ResultRow>> {
    let mut out = Vec::with_capacity(ranked.len());
    for row in ranked {
        let mut fields = Vec::with_capacity(columns.names.len());
        if !columns.uids.is_empty() {
            let document = scope.document(&row.place, Some(&columns.uids))?;
            for (uid, name) in &columns.names {
                if let Some(value) = document.get(*uid) {
                    stats.bytes_returned += value.logical_bytes();
                    fields.push((name.clone(), value.clone()));
                }
            }
        }
        stats.bytes_returned += row.id.logical_bytes() + if row.dist.is_some() { DIST_BYTES } else { 0 };
        out.push(ResultRow { id: row.id.clone(), dist: row.dist, fields });
    }
    Ok(out)
}
