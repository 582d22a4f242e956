//! Says whether a schema from elsewhere is one that writes could have made: whoever goes on from another, a flush above all, may
//! fail for ever.

use std::collections::BTreeSet;

use super::infer::check_name;
use super::schema_update::{check_options, check_sources};
use crate::error::{Error, Result};
use crate::model::schema::{
    ATTRIBUTE_NAME_BYTES_MAX, AttributeType, COLUMNS_MAX, Column, Schema, VECTOR_COLUMNS_MAX,
};

/// A name is not dropped more often than this: nobody counts so far, and counting goes on from there.
pub const DROPS_MAX: u32 = 1 << 30;

/// `Invalid` says what no write could have made.
pub fn check_schema(schema: &Schema) -> Result<()> {
    let (columns, dropped) = (schema.columns.len(), schema.dropped.len());
    if columns > COLUMNS_MAX || dropped > COLUMNS_MAX {
        return Err(Error::invalid(format!(
            "{columns} attributes, and {dropped} that were dropped, expected at most {COLUMNS_MAX} of each"
        )));
    }
    let vectors = schema.columns.iter().filter(|column| column.has_ann()).count();
    if vectors > VECTOR_COLUMNS_MAX {
        return Err(Error::invalid(format!("{vectors} vector attributes, expected at most {VECTOR_COLUMNS_MAX}")));
    }
    let mut names = BTreeSet::new();
    for column in &schema.columns {
        check_short(&column.name)?;
        if !names.insert(&column.name) {
            return Err(refuse(column, "there are two of this name"));
        }
        check_column(column)?;
    }
    names.clear();
    for (name, times) in &schema.dropped {
        check_short(name)?;
        if !names.insert(name) || !(1..=DROPS_MAX).contains(times) {
            return Err(Error::invalid(format!(
                "attribute '{name}' was dropped {times} times, expected one count, from 1 to {DROPS_MAX}"
            )));
        }
    }
    check_sources(schema)
}

/// Does not repeat a name that is longer than any.
fn check_short(name: &str) -> Result<()> {
    if name.len() > ATTRIBUTE_NAME_BYTES_MAX {
        return Err(Error::invalid(format!(
            "an attribute's name has {} bytes, expected at most {ATTRIBUTE_NAME_BYTES_MAX}",
            name.len()
        )));
    }
    check_name(name)
}

fn check_column(column: &Column) -> Result<()> {
    let kind = column.kind;
    if column.filterable && !kind.is_filterable() {
        return Err(refuse(column, format!("attributes of type {kind} cannot be filterable")));
    }
    if column.late_interaction && !matches!(kind, AttributeType::Multivector { .. }) {
        return Err(refuse(column, format!("late_interaction is for multivectors, the type is {kind}")));
    }
    if column.epoch > DROPS_MAX {
        return Err(refuse(column, format!("it was dropped {} times, expected at most {DROPS_MAX}", column.epoch)));
    }
    check_options(column)
}

fn refuse(column: &Column, what: impl std::fmt::Display) -> Error {
    Error::invalid(format!("attribute '{}': {what}", column.name)).with_attribute(&column.name)
}
