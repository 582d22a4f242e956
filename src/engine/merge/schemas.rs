//! The schema of a namespace after a merge: its own, and what the other has beside it.

use std::collections::BTreeSet;

use crate::error::{Error, Result};
use crate::model::schema::{COLUMNS_MAX, Schema, VECTOR_COLUMNS_MAX};

/// Joins the source's schema into the target's. Refused, with names, where they contradict each other. Attributes that the
/// target dropped stay dropped; their names are the second value.
pub fn join(theirs: &Schema, ours: &Schema) -> Result<(Schema, Vec<String>)> {
    let mut joined = ours.clone();
    let mut left_out = Vec::new();
    if let (Some(their_type), Some(our_type)) = (theirs.id_type, ours.id_type)
        && their_type != our_type
    {
        return Err(clash("id", format!("is a {} in the source, a {} here", their_type.name(), our_type.name())));
    }
    joined.id_type = ours.id_type.or(theirs.id_type);
    if let (Some(their_metric), Some(our_metric)) = (theirs.metric, ours.metric)
        && their_metric != our_metric
    {
        return Err(Error::invalid(format!(
            "💔 distance metric mismatch, the source has {}, this namespace {}",
            their_metric.name(),
            our_metric.name()
        ))
        .with_code("schema_clash"));
    }
    joined.metric = ours.metric.or(theirs.metric);
    for column in &theirs.columns {
        match ours.column(&column.name) {
            Some(own) if own.uid() == column.uid() => {}
            Some(own) if own.kind != column.kind => {
                return Err(clash(&column.name, format!("is a {} in the source, a {} here", column.kind, own.kind)));
            }
            Some(_) => {
                let what = "was dropped and declared again on one side, so its values are not those of the other's";
                return Err(clash(&column.name, what.to_owned()));
            }
            None if ours.epoch_of(&column.name) > column.epoch => left_out.push(column.name.clone()),
            None => joined.columns.push(column.clone()),
        }
    }
    // What an attribute of theirs is derived from may have been dropped here, or be derived itself: then nobody may rely on it.
    let sources: BTreeSet<String> =
        joined.columns.iter().filter(|c| c.derived_from.is_none()).map(|c| c.name.clone()).collect();
    for column in &mut joined.columns {
        column.derived_from.take_if(|source| !sources.contains(source));
    }
    let vectors = joined.columns.iter().filter(|column| column.has_ann()).count();
    if joined.columns.len() > COLUMNS_MAX || vectors > VECTOR_COLUMNS_MAX {
        return Err(Error::invalid(format!(
            "both namespaces together have {} attributes and {vectors} vector attributes, at most {COLUMNS_MAX} and \
             {VECTOR_COLUMNS_MAX} are allowed",
            joined.columns.len()
        ))
        .with_code("schema_clash"));
    }
    Ok((joined, left_out))
}

fn clash(name: &str, what: String) -> Error {
    Error::invalid(format!("the schemas do not go together: attribute '{name}' {what}"))
        .with_code("schema_clash")
        .with_attribute(name)
        .with_hint("write one side's attribute under another name, then merge")
}

#[cfg(test)]
mod tests {
    use super::join;
    use crate::engine::write::apply_schema_update;
    use crate::model::ids::IdType;
    use crate::model::schema::{AttributeType, Column, Element, Metric, Schema};
    use crate::model::write::SchemaUpdate;

    fn with(columns: Vec<Column>) -> Schema {
        Schema { columns, ..Schema::default() }
    }

    fn vector(dims: u32, element: Element) -> Schema {
        with(vec![Column::new("vector", AttributeType::Vector { dims, element }, 0)])
    }

    #[test]
    fn what_contradicts_is_refused_by_name() {
        let text = with(vec![Column::new("a", AttributeType::String, 0)]);
        let number = with(vec![Column::new("a", AttributeType::Int, 0)]);
        let again =
            Schema { dropped: vec![("a".into(), 1)], ..with(vec![Column::new("a", AttributeType::String, 1)]) };
        for (theirs, ours) in [
            (&text, &number),
            (&text, &again),
            (&again, &text),
            (&vector(2, Element::F32), &vector(3, Element::F32)),
            (&vector(2, Element::F32), &vector(2, Element::F16)),
        ] {
            let error = join(theirs, ours).unwrap_err();
            assert_eq!((error.code(), error.attribute()), ("schema_clash", Some(ours.columns[0].name.as_str())));
        }
        let ids = |id_type| Schema { id_type: Some(id_type), ..Schema::default() };
        assert!(join(&ids(IdType::Uint), &ids(IdType::Uuid)).is_err());
        let metric = |metric| Schema { metric: Some(metric), ..Schema::default() };
        assert!(join(&metric(Metric::CosineDistance), &metric(Metric::DotProduct)).is_err());
    }

    #[test]
    fn what_is_derived_from_an_attribute_that_does_not_come_along_is_derived_from_nothing() {
        let derived =
            |from: &str| Column { derived_from: Some(from.into()), ..Column::new("v", AttributeType::Int, 0) };
        let text = || Column::new("text", AttributeType::String, 0);
        let theirs = with(vec![text(), derived("text")]);
        let dropped = Schema { dropped: vec![("text".into(), 1)], ..Schema::default() };
        let made = Column { derived_from: Some("title".into()), ..text() };
        let changed = with(vec![Column::new("title", AttributeType::String, 0), made]);
        for (ours, expected) in [(dropped, None), (changed, None), (with(vec![text()]), Some("text"))] {
            let (joined, _) = join(&theirs, &ours).unwrap();
            assert_eq!(joined.column("v").unwrap().derived_from.as_deref(), expected);
            // It is a schema that updates go on from.
            let update = SchemaUpdate { attributes: [("new".to_owned(), "string".into())].into() };
            apply_schema_update(&joined, &update, true).unwrap();
        }
    }

    #[test]
    fn what_is_new_is_added_and_what_was_dropped_stays_dropped() {
        let theirs = with(vec![Column::new("a", AttributeType::String, 0), Column::new("b", AttributeType::Int, 0)]);
        let ours = Schema { dropped: vec![("b".into(), 1)], id_type: Some(IdType::Uint), ..Schema::default() };
        let (joined, left_out) = join(&theirs, &ours).unwrap();
        assert_eq!(joined.columns, [Column::new("a", AttributeType::String, 0)]);
        assert_eq!((joined.id_type, left_out), (Some(IdType::Uint), vec!["b".to_owned()]));
    }
}
