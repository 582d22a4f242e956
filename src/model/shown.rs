//! The columns that a schema shows, by identity: for those who ask for many documents.

use super::document::Document;
use super::schema::{ColumnUid, Schema};
use super::value::Value;

/// A schema with the identities of its columns at hand. Each is a hash of the column's name, and costs more than a value does.
#[derive(Debug)]
pub struct Shown<'a> {
    pub schema: &'a Schema,
    /// In the order of identities, as a document's values are.
    columns: Vec<(ColumnUid, &'a str)>,
}

impl<'a> Shown<'a> {
    pub fn new(schema: &'a Schema) -> Self {
        let mut columns: Vec<_> = schema.columns.iter().map(|column| (column.uid(), column.name.as_str())).collect();
        columns.sort_unstable();
        Shown { schema, columns }
    }

    pub fn uids(&self) -> impl Iterator<Item = ColumnUid> {
        self.columns.iter().map(|(uid, _)| *uid)
    }

    fn name(&self, uid: ColumnUid) -> Option<&'a str> {
        self.columns.binary_search_by_key(&uid, |(known, _)| *known).ok().map(|at| self.columns[at].1)
    }

    pub fn shows(&self, uid: ColumnUid) -> bool {
        self.name(uid).is_some()
    }

    /// A document's value of a column that is shown.
    pub fn get<'d>(&self, document: &'d Document, uid: ColumnUid) -> Option<&'d Value> {
        document.get(uid).filter(|_| self.shows(uid))
    }

    /// The names of a document's values, in the order of the columns' identities.
    fn content<'d>(&self, document: &'d Document) -> impl Iterator<Item = (&'a str, &'d Value)> {
        document.fields.iter().filter_map(|(uid, value)| Some((self.name(*uid)?, value)))
    }
}

/// Whether two documents have the same values under the same names. Values of columns that were dropped do not count.
pub fn is_same(a: (&Document, &Shown), b: (&Document, &Shown)) -> bool {
    let mut others: Vec<(&str, &Value)> = b.1.content(b.0).collect();
    let mut own: Vec<(&str, &Value)> = a.1.content(a.0).collect();
    if own.len() != others.len() {
        return false;
    }
    if a.1.columns != b.1.columns {
        // A column that was dropped and came back has another identity, and another place.
        own.sort_unstable_by_key(|(name, _)| *name);
        others.sort_unstable_by_key(|(name, _)| *name);
    }
    own == others
}
