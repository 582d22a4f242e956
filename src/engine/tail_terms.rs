//! The terms of some rows of the tail with the rows that have them, so that ranking by text and by sparse vectors need not look
//! into every row.

use std::sync::Arc;

use half::f16;

use super::view::TailRow;
use crate::model::schema::ColumnUid;
use crate::model::value::Value;
use crate::segment::text::terms::{DocTerms, TermTable};

pub struct TailTerms {
    /// Of each full-text column whose terms all rows with a value have.
    texts: Vec<(ColumnUid, TextTerms)>,
    /// Of each sparse vector column that a row has.
    sparse: Vec<(ColumnUid, Lists<f16>)>,
}

/// One full-text column's: frequencies, and per row its number of tokens, `None` where it has no value.
pub struct TextTerms {
    pub lists: Lists<u32>,
    lengths: Vec<Option<u32>>,
}

/// Terms, each with a list of rows and what each of them has of the term.
pub struct Lists<V> {
    terms: TermTable,
    /// Rows by their place among all, ascending for each term.
    places: Vec<u8>,
    values: Vec<V>,
}

impl TailTerms {
    /// Of at most 256 rows.
    pub fn new(rows: &[Option<Arc<TailRow>>]) -> Self {
        let analysed = rows.iter().flatten().flat_map(|row| row.terms.iter().map(|(column, _)| *column));
        // The column may have become searchable after a row was written.
        let is_whole = |column: &ColumnUid| {
            rows.iter().flatten().all(|row| row.document.get(*column).is_some() == row.terms_of(*column).is_some())
        };
        let texts = distinct(analysed).into_iter().filter(is_whole);
        let fields = rows.iter().flatten().flat_map(|row| &row.document.fields);
        let sparse = fields.filter(|(_, value)| matches!(value, Value::Sparse(_))).map(|(column, _)| *column);
        TailTerms {
            texts: texts.map(|column| (column, TextTerms::new(rows, column))).collect(),
            sparse: distinct(sparse).into_iter().map(|column| (column, weights(rows, column))).collect(),
        }
    }

    /// A full-text column's terms; `None` where they are not known of all rows.
    pub fn text(&self, column: ColumnUid) -> Option<&TextTerms> {
        self.texts.iter().find(|(uid, _)| *uid == column).map(|(_, terms)| terms)
    }

    /// A sparse vector column's dimensions with the weights of rows; `None` where no row has a value.
    pub fn weights(&self, column: ColumnUid) -> Option<&Lists<f16>> {
        self.sparse.iter().find(|(uid, _)| *uid == column).map(|(_, lists)| lists)
    }
}

fn distinct(columns: impl Iterator<Item = ColumnUid>) -> Vec<ColumnUid> {
    let mut columns: Vec<ColumnUid> = columns.collect();
    columns.sort_unstable();
    columns.dedup();
    columns
}

fn weights(rows: &[Option<Arc<TailRow>>], column: ColumnUid) -> Lists<f16> {
    let mut all = Vec::new();
    for (place, row) in (0..=u8::MAX).zip(rows) {
        if let Some(Value::Sparse(vector)) = row.as_ref().and_then(|row| row.document.get(column)) {
            all.extend(vector.entries.iter().map(|(dimension, weight)| (dimension.as_str(), place, *weight)));
        }
    }
    Lists::new(all)
}

impl TextTerms {
    fn new(rows: &[Option<Arc<TailRow>>], column: ColumnUid) -> Self {
        let of_rows: Vec<Option<&DocTerms>> =
            rows.iter().map(|row| row.as_ref().and_then(|row| row.terms_of(column))).collect();
        let mut all = Vec::new();
        for (place, terms) in (0..=u8::MAX).zip(&of_rows) {
            all.extend(terms.iter().flat_map(|terms| terms.iter()).map(|(term, tf)| (term, place, tf)));
        }
        TextTerms {
            lists: Lists::new(all),
            lengths: of_rows.iter().map(|terms| terms.map(DocTerms::length)).collect(),
        }
    }

    /// The rows that have a value, with their number of tokens.
    pub fn lengths(&self) -> impl Iterator<Item = (u8, u32)> {
        (0..=u8::MAX).zip(&self.lengths).filter_map(|(place, length)| Some((place, (*length)?)))
    }
}

impl<V: Copy> Lists<V> {
    fn new(mut all: Vec<(&str, u8, V)>) -> Self {
        all.sort_unstable_by_key(|(term, place, _)| (*term, *place));
        Lists {
            terms: TermTable::of_sorted(all.iter().map(|(term, ..)| *term)),
            places: all.iter().map(|(_, place, _)| *place).collect(),
            values: all.iter().map(|(.., value)| *value).collect(),
        }
    }

    /// The rows that have a term, ascending, and what they have of it.
    pub fn rows_of(&self, term: &str) -> impl Iterator<Item = (u8, V)> {
        let range = self.terms.find(term).map_or(0..0, |at| self.terms.entries_of(at));
        self.places[range.clone()].iter().copied().zip(self.values[range].iter().copied())
    }

    /// The rows that have a term with this prefix, ascending.
    pub fn rows_with_prefix(&self, prefix: &str) -> Vec<u8> {
        let terms = self.terms.lower_bound(prefix)..self.terms.len();
        let terms = terms.take_while(|at| self.terms.term(*at).starts_with(prefix));
        let mut places: Vec<u8> = terms.flat_map(|at| &self.places[self.terms.entries_of(at)]).copied().collect();
        places.sort_unstable();
        places.dedup();
        places
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::TailTerms;
    use crate::engine::view::TailRow;
    use crate::model::document::Document;
    use crate::model::ids::{DocId, Version};
    use crate::model::schema::ColumnUid;
    use crate::model::value::Value;
    use crate::segment::text::terms::DocTerms;

    const COLUMN: ColumnUid = ColumnUid(7);

    fn row(text: &str, is_analysed: bool) -> Option<Arc<TailRow>> {
        let fields = vec![(COLUMN, Value::String(text.into()))];
        let document = Document { id: DocId::Uint(1), version: Version::default(), fields, patch: None };
        let mut tokens: Vec<&str> = text.split_whitespace().collect();
        let terms = if is_analysed { vec![(COLUMN, DocTerms::from_tokens(&mut tokens))] } else { Vec::new() };
        Some(Arc::new(TailRow { document: Arc::new(document), terms }))
    }

    #[test]
    fn rows_are_found_by_term_and_by_prefix() {
        let rows = [row("fish swim fish", true), None, row("", true), row("tank fishes", true), row("swim", true)];
        let terms = TailTerms::new(&rows);
        let terms = terms.text(COLUMN).unwrap();
        assert_eq!(terms.lists.rows_of("fish").collect::<Vec<_>>(), [(0, 2)]);
        assert_eq!(terms.lists.rows_of("swim").collect::<Vec<_>>(), [(0, 1), (4, 1)]);
        assert_eq!(terms.lists.rows_of("tank").collect::<Vec<_>>(), [(3, 1)]);
        for absent in ["", "a", "fis", "fishe", "zoo"] {
            assert_eq!(terms.lists.rows_of(absent).count(), 0, "{absent}");
        }
        assert_eq!(terms.lists.rows_with_prefix("fish"), [0, 3]);
        assert_eq!(terms.lists.rows_with_prefix("t"), [3]);
        assert_eq!(terms.lists.rows_with_prefix(""), [0, 3, 4]);
        assert!(terms.lists.rows_with_prefix("x").is_empty());
        assert_eq!(terms.lengths().collect::<Vec<_>>(), [(0, 3), (2, 0), (3, 2), (4, 1)]);
    }

    #[test]
    fn a_column_that_became_searchable_later_is_left_out() {
        assert!(TailTerms::new(&[row("fish", true), row("fish", false)]).text(COLUMN).is_none());
        assert!(TailTerms::new(&[]).text(COLUMN).is_none());
    }
}
