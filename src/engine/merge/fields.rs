//! Joins two states of a document attribute by attribute.
//!
//! Against a base, who changed an attribute is who has another value than it. Without one, a state that came from a patch says
//! itself what it changed, when the other side has what it was patched on. Where both changed an attribute to different values,
//! the newer state has its way, and the attribute is a clash. An attribute that is derived from another, such as a vector from
//! a text, goes with it: a text and a vector of different sides would not belong together.

use crate::model::document::Document;
use crate::model::schema::{ColumnUid, Schema};
use crate::model::shown::Shown;
use crate::model::value::Value;

/// What is known of the state that both began with.
#[derive(Clone, Copy)]
pub enum Ground<'a> {
    /// The document then; `None`: there was none.
    Base(Option<&'a Document>),
    /// The attributes that each side says it changed; `None` when it does not say. `is_union`: where neither does, a value that
    /// only one side has is one that it gave; else it may be one that the other took away.
    Changes { theirs: Option<&'a [ColumnUid]>, ours: Option<&'a [ColumnUid]>, is_union: bool },
}

/// A state of the document, and the columns that its side shows.
#[derive(Clone, Copy)]
pub struct Seen<'a> {
    pub document: &'a Document,
    pub shown: &'a Shown<'a>,
}

impl<'a> Seen<'a> {
    fn shows(&self, uid: ColumnUid) -> bool {
        self.shown.shows(uid)
    }

    fn get(&self, uid: ColumnUid) -> Option<&'a Value> {
        self.shown.get(self.document, uid)
    }
}

/// The joined state, and the columns in which the newer state had its way over the other's change.
#[derive(Clone, Debug, PartialEq)]
pub struct Joined {
    pub fields: Vec<(ColumnUid, Value)>,
    pub clashes: Vec<ColumnUid>,
}

/// Who decides about an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pick {
    /// Nobody changed it, or both alike.
    Same,
    Theirs,
    Ours,
    /// Both changed it, to different values.
    Newer,
}

/// Joins two states. `schema` is that of the result.
pub fn join(schema: &Schema, ground: Ground, theirs: Seen, ours: Seen, theirs_is_newer: bool) -> Joined {
    let mut joined = Joined { fields: Vec::new(), clashes: Vec::new() };
    for column in &schema.columns {
        let uid = column.uid();
        let source = column.derived_from.as_deref().and_then(|name| schema.column(name));
        let by_source = source.map(|source| pick(source.uid(), ground, theirs, ours));
        let pick = match by_source {
            Some(decided @ (Pick::Theirs | Pick::Ours | Pick::Newer)) => decided,
            _ => pick(uid, ground, theirs, ours),
        };
        let takes_theirs = match pick {
            Pick::Theirs => true,
            Pick::Newer => theirs_is_newer,
            Pick::Same | Pick::Ours => false,
        };
        let value = if takes_theirs { theirs.get(uid) } else { ours.get(uid) };
        if pick == Pick::Newer && theirs.get(uid) != ours.get(uid) {
            joined.clashes.push(uid);
        }
        joined.fields.extend(value.map(|value| (uid, value.clone())));
    }
    joined.fields.sort_unstable_by_key(|(uid, _)| *uid);
    joined
}

fn pick(uid: ColumnUid, ground: Ground, theirs: Seen, ours: Seen) -> Pick {
    // A side that does not show a column says nothing about it.
    match (theirs.shows(uid), ours.shows(uid)) {
        (true, false) => return Pick::Theirs,
        (false, _) => return Pick::Ours,
        (true, true) => {}
    }
    let (s, t) = (theirs.get(uid), ours.get(uid));
    if s == t {
        return Pick::Same;
    }
    let (theirs_changed, ours_changed) = match ground {
        Ground::Base(base) => {
            let before = base.and_then(|base| base.get(uid));
            (s != before, t != before)
        }
        // What a patch left alone is as it was; then the other side changed it, since they differ.
        Ground::Changes { theirs, ours, is_union } => {
            let left = |list: Option<&[ColumnUid]>| list.is_some_and(|list| !list.contains(&uid));
            match (left(theirs), left(ours)) {
                (true, _) => (false, true),
                (false, true) => (true, false),
                // Nothing is known: who has a value gave it.
                (false, false) if is_union => (s.is_some() || theirs.is_some(), t.is_some() || ours.is_some()),
                (false, false) => (true, true),
            }
        }
    };
    match (theirs_changed, ours_changed) {
        (true, true) => Pick::Newer,
        (true, false) => Pick::Theirs,
        (false, _) => Pick::Ours,
    }
}

#[cfg(test)]
mod tests {
    use super::{Ground, Joined, Seen, join};
    use crate::model::document::Document;
    use crate::model::ids::{DocId, Version};
    use crate::model::schema::{AttributeType, Column, ColumnUid, Schema};
    use crate::model::shown::Shown;
    use crate::model::value::Value;

    fn schema() -> Schema {
        let mut vector = Column::new("vector", AttributeType::Int, 0);
        vector.derived_from = Some("text".into());
        let columns = vec![
            Column::new("a", AttributeType::Int, 0),
            Column::new("b", AttributeType::Int, 0),
            Column::new("text", AttributeType::Int, 0),
            vector,
        ];
        Schema { columns, ..Schema::default() }
    }

    fn uid(name: &str) -> ColumnUid {
        schema().column(name).unwrap().uid()
    }

    fn document(fields: &[(&str, i64)]) -> Document {
        let mut fields: Vec<(ColumnUid, Value)> =
            fields.iter().map(|(name, value)| (uid(name), Value::Int(*value))).collect();
        fields.sort_by_key(|(uid, _)| *uid);
        Document { id: DocId::Uint(1), version: Version::default(), fields, patch: None }
    }

    fn joined(ground: Ground, theirs: &Document, ours: &Document, theirs_is_newer: bool) -> Joined {
        let schema = schema();
        let shown = Shown::new(&schema);
        let seen = |document| Seen { document, shown: &shown };
        join(&schema, ground, seen(theirs), seen(ours), theirs_is_newer)
    }

    fn names(clashes: &[ColumnUid]) -> Vec<String> {
        clashes.iter().map(|uid| schema().column_by_uid(*uid).unwrap().name.clone()).collect()
    }

    #[test]
    fn changes_of_different_attributes_are_both_kept() {
        let base = document(&[("a", 1), ("b", 1), ("text", 1)]);
        let theirs = document(&[("a", 2), ("b", 1), ("text", 1)]);
        let ours = document(&[("a", 1), ("b", 3)]);
        let found = joined(Ground::Base(Some(&base)), &theirs, &ours, false);
        assert_eq!(found, Joined { fields: document(&[("a", 2), ("b", 3)]).fields, clashes: Vec::new() });
    }

    #[test]
    fn the_newer_state_has_its_way_where_both_changed_an_attribute() {
        let base = document(&[("a", 1), ("b", 1)]);
        let (theirs, ours) = (document(&[("a", 2), ("b", 5)]), document(&[("a", 3), ("b", 5)]));
        for (theirs_is_newer, a) in [(true, 2), (false, 3)] {
            let found = joined(Ground::Base(Some(&base)), &theirs, &ours, theirs_is_newer);
            assert_eq!(found.fields, document(&[("a", a), ("b", 5)]).fields);
            assert_eq!(names(&found.clashes), ["a"]);
        }
        // Set by one and cleared by the other is a clash, too.
        let found = joined(Ground::Base(Some(&base)), &document(&[("b", 1)]), &document(&[("a", 3), ("b", 1)]), true);
        assert_eq!((found.fields, names(&found.clashes)), (document(&[("b", 1)]).fields, vec!["a".to_owned()]));
    }

    #[test]
    fn both_inserted_without_a_base_is_a_union() {
        let (theirs, ours) = (document(&[("a", 2)]), document(&[("b", 3)]));
        let none = Ground::Changes { theirs: None, ours: None, is_union: true };
        for ground in [Ground::Base(None), none] {
            let found = joined(ground, &theirs, &ours, true);
            assert_eq!(found, Joined { fields: document(&[("a", 2), ("b", 3)]).fields, clashes: Vec::new() });
        }
        // Unless it is to be known that nobody took anything away.
        let unsure = Ground::Changes { theirs: None, ours: None, is_union: false };
        assert_eq!(names(&joined(unsure, &theirs, &ours, true).clashes), ["a", "b"]);
    }

    #[test]
    fn patches_say_what_they_changed_when_the_base_is_not_there() {
        let (theirs, ours) = (document(&[("a", 2), ("b", 1)]), document(&[("a", 1), ("b", 3)]));
        let (their_list, our_list) = ([uid("a")], [uid("b")]);
        let all = document(&[("a", 2), ("b", 3)]).fields;
        for (theirs_say, ours_say) in
            [(Some(&their_list[..]), Some(&our_list[..])), (Some(&their_list[..]), None), (None, Some(&our_list[..]))]
        {
            let ground = Ground::Changes { theirs: theirs_say, ours: ours_say, is_union: true };
            let found = joined(ground, &theirs, &ours, false);
            // A side that does not say may have changed what the other says it changed; the newer one is ours.
            let expected = match (theirs_say, ours_say) {
                (Some(_), Some(_)) => (all.clone(), vec![]),
                (Some(_), None) => (document(&[("a", 1), ("b", 3)]).fields, vec!["a".to_owned()]),
                _ => (all.clone(), vec!["b".to_owned()]),
            };
            assert_eq!((found.fields, names(&found.clashes)), expected);
        }
    }

    #[test]
    fn who_decides_about_a_text_decides_about_its_vector() {
        let base = document(&[("text", 1), ("vector", 1)]);
        let (theirs, ours) = (document(&[("text", 2), ("vector", 2)]), document(&[("text", 1), ("vector", 9)]));
        let found = joined(Ground::Base(Some(&base)), &theirs, &ours, false);
        assert_eq!(found.fields, theirs.fields);
        let both = document(&[("text", 3), ("vector", 3)]);
        let found = joined(Ground::Base(Some(&base)), &theirs, &both, true);
        assert_eq!(found.fields, theirs.fields);
        assert_eq!(names(&found.clashes), ["text", "vector"]);
        // The text is as it was: the vector is an attribute like any other.
        let vector_only = document(&[("text", 1), ("vector", 7)]);
        let found = joined(Ground::Base(Some(&base)), &vector_only, &base, false);
        assert_eq!(found.fields, vector_only.fields);
    }
}
