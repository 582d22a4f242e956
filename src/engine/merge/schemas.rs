//! The schema of a namespace after a merge: its own, and what the other has beside it; and that of one namespace after two nodes changed it
//! apart.

use std::collections::BTreeSet;

use crate::error::{Error, Result};
use crate::model::schema::{COLUMNS_MAX, Column, Schema, VECTOR_COLUMNS_MAX};

/// The code of what is refused as two schemas contradict each other.
pub const SCHEMA_CLASH: &str = "schema_clash";

/// What the two sides are to a person, theirs first: of a merge, and of one namespace that two nodes share, where what is written
/// anew comes on top of the bucket's.
const OF_A_MERGE: [&str; 2] = ["in the source", "here"];
const OF_SYNC: [&str; 2] = ["on this node", "in the bucket"];

/// Joins the source's schema into the target's. Refused, with names, where they contradict each other. Attributes that the
/// target dropped stay dropped; their names are the second value.
pub fn join(theirs: &Schema, ours: &Schema) -> Result<(Schema, Vec<String>)> {
    let mut joined = joined_types(theirs, ours, OF_A_MERGE)?;
    let mut left_out = Vec::new();
    for column in &theirs.columns {
        match ours.column(&column.name) {
            Some(own) if own.uid() == column.uid() => {}
            Some(own) if own.kind == column.kind => {
                let what = "was dropped and declared again on one side, so its values are not those of the other's";
                return Err(clash(&column.name, what.to_owned()));
            }
            Some(own) => return Err(kinds_clash(column, own, OF_A_MERGE)),
            None if ours.epoch_of(&column.name) > column.epoch => left_out.push(column.name.clone()),
            None => {
                joined.columns.push(column.clone());
                // As often was it dropped: the next drop counts on from there.
                raise(&mut joined, &column.name, column.epoch);
            }
        }
    }
    bounded(&joined)?;
    checked(joined).map(|joined| (joined, left_out))
}

/// An attribute was dropped so often at least.
fn raise(schema: &mut Schema, name: &str, epoch: u32) {
    match schema.dropped.iter_mut().find(|(dropped, _)| dropped == name) {
        Some((_, known)) => *known = (*known).max(epoch),
        None if epoch > 0 => schema.dropped.push((name.to_owned(), epoch)),
        None => {}
    }
}

fn bounded(joined: &Schema) -> Result<()> {
    let count = joined.dropped.len();
    if count <= COLUMNS_MAX {
        return Ok(());
    }
    let what = format!("both sides together dropped {count} attributes, at most {COLUMNS_MAX} may be dropped");
    Err(Error::invalid(what).with_code(SCHEMA_CLASH))
}

/// The schema of one namespace that two nodes changed apart, since the state `common`: what either changed counts. An attribute that one of
/// them dropped is dropped, and one that was declared again after that takes its place. Of two changes of one option that of `ours` stays. The
/// second value is as for [`join`].
pub fn join_changes(theirs: &Schema, ours: &Schema, common: Option<&Schema>) -> Result<(Schema, Vec<String>)> {
    let mut joined = joined_types(theirs, ours, OF_SYNC)?;
    let mut left_out = Vec::new();
    for (name, epoch) in &theirs.dropped {
        raise(&mut joined, name, *epoch);
    }
    bounded(&joined)?;
    let gone = joined.dropped.clone();
    let is_gone = |column: &Column| gone.iter().any(|(name, epoch)| *name == column.name && *epoch > column.epoch);
    joined.columns.retain(|column| !is_gone(column));
    for column in &theirs.columns {
        let known = joined.columns.iter_mut().find(|known| known.name == column.name);
        match known {
            _ if is_gone(column) => left_out.push(column.name.clone()),
            Some(own) if own.kind != column.kind => return Err(kinds_clash(column, own, OF_SYNC)),
            Some(own) => {
                let before = common.and_then(|common| common.column_by_uid(own.uid()));
                *own = joined_options(column, own, before);
            }
            None => joined.columns.push(column.clone()),
        }
    }
    checked(joined).map(|joined| (joined, left_out))
}

/// What one attribute can be searched by: what one side changed, and what both have. Where nobody knows what it was, what either can.
fn joined_options(theirs: &Column, ours: &Column, common: Option<&Column>) -> Column {
    fn pick<T: Clone + PartialEq>(of: impl Fn(&Column) -> &T, sides: (&Column, &Column, Option<&Column>)) -> T {
        let (theirs, ours, common) = (of(sides.0), of(sides.1), sides.2.map(&of));
        if common == Some(ours) { theirs.clone() } else { ours.clone() }
    }
    let Some(common) = common else {
        return Column {
            filterable: ours.filterable || theirs.filterable,
            full_text: ours.full_text.clone().or_else(|| theirs.full_text.clone()),
            regex: ours.regex || theirs.regex,
            glob: ours.glob || theirs.glob,
            fuzzy: ours.fuzzy || theirs.fuzzy,
            late_interaction: ours.late_interaction || theirs.late_interaction,
            ..ours.clone()
        };
    };
    let sides = (theirs, ours, Some(common));
    Column {
        name: ours.name.clone(),
        kind: ours.kind,
        epoch: ours.epoch,
        filterable: pick(|column| &column.filterable, sides),
        full_text: pick(|column| &column.full_text, sides),
        regex: pick(|column| &column.regex, sides),
        glob: pick(|column| &column.glob, sides),
        fuzzy: pick(|column| &column.fuzzy, sides),
        late_interaction: pick(|column| &column.late_interaction, sides),
        derived_from: pick(|column| &column.derived_from, sides),
    }
}

/// The target's schema, with what a namespace has one of.
fn joined_types(theirs: &Schema, ours: &Schema, [at_theirs, at_ours]: [&str; 2]) -> Result<Schema> {
    let mut joined = ours.clone();
    if let (Some(their_type), Some(our_type)) = (theirs.id_type, ours.id_type)
        && their_type != our_type
    {
        let (one, other) = (their_type.name(), our_type.name());
        return Err(clash("id", format!("is a {one} {at_theirs}, a {other} {at_ours}")));
    }
    joined.id_type = ours.id_type.or(theirs.id_type);
    if let (Some(their_metric), Some(our_metric)) = (theirs.metric, ours.metric)
        && their_metric != our_metric
    {
        return Err(Error::invalid(format!(
            "💔 distance metric mismatch, it is {} {at_theirs}, {} {at_ours}",
            their_metric.name(),
            our_metric.name()
        ))
        .with_code(SCHEMA_CLASH));
    }
    joined.metric = ours.metric.or(theirs.metric);
    Ok(joined)
}

/// A joined schema, where it is one that updates go on from.
fn checked(mut joined: Schema) -> Result<Schema> {
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
        .with_code(SCHEMA_CLASH));
    }
    Ok(joined)
}

fn kinds_clash(theirs: &Column, ours: &Column, [at_theirs, at_ours]: [&str; 2]) -> Error {
    clash(&theirs.name, format!("is a {} {at_theirs}, a {} {at_ours}", theirs.kind, ours.kind))
}

fn clash(name: &str, what: String) -> Error {
    Error::invalid(format!("the schemas do not go together: attribute '{name}' {what}"))
        .with_code(SCHEMA_CLASH)
        .with_attribute(name)
        .with_hint("write one side's attribute under another name, then merge")
}

#[cfg(test)]
mod tests {
    use super::{join, join_changes};
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

    #[test]
    fn what_either_node_changed_of_a_namespace_counts() {
        let update = |schema: &Schema, attribute: &str, to: serde_json::Value| {
            let update = SchemaUpdate { attributes: [(attribute.to_owned(), to)].into() };
            apply_schema_update(schema, &update, true).unwrap()
        };
        let column = |name: &str, kind| Column::new(name, kind, 0);
        let common = with(vec![
            column("t", AttributeType::String),
            column("x", AttributeType::Int),
            column("y", AttributeType::Int),
        ]);
        let searched = update(&common, "t", serde_json::json!({"type": "string", "full_text_search": true}));
        let plain = update(&common, "x", serde_json::json!({"type": "int", "filterable": false}));
        let dropped = update(&common, "x", serde_json::json!({"drop": true}));
        let again = update(&dropped, "x", "string".into());
        let beside = update(&update(&common, "y", serde_json::json!({"drop": true})), "z", "string".into());
        for changed in [&searched, &plain, &dropped, &again] {
            for (theirs, ours) in [(changed, &common), (&common, changed)] {
                let (joined, _) = join_changes(theirs, ours, Some(&common)).unwrap();
                assert_eq!(&joined, changed);
            }
            // What the other changed counts as well, whoever comes first.
            let sorted = |(mut schema, _): (Schema, _)| {
                schema.columns.sort_by(|one, other| one.name.cmp(&other.name));
                schema.dropped.sort();
                schema
            };
            let joined = sorted(join_changes(changed, &beside, Some(&common)).unwrap());
            assert_eq!(joined, sorted(join_changes(&beside, changed, Some(&common)).unwrap()));
            assert_eq!((joined.column("t"), joined.column("x")), (changed.column("t"), changed.column("x")));
            assert_eq!((joined.column("y"), joined.epoch_of("y")), (None, 1));
            assert_eq!(joined.column("z"), beside.column("z"));
        }
        // Where nobody knows what both had, nothing is lost that either can be searched by.
        let (joined, _) = join_changes(&searched, &plain, None).unwrap();
        assert!(joined.column("t").unwrap().full_text.is_some() && joined.column("x").unwrap().filterable);
        let number = with(vec![column("t", AttributeType::Int)]);
        assert_eq!(join_changes(&number, &common, None).unwrap_err().code(), "schema_clash");
    }
}
