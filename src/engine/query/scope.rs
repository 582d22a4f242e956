//! Which rows of a snapshot a query is about.

use std::sync::Arc;

use roaring::RoaringBitmap;

use super::place::Place;
use crate::engine::analyzers::Analyzers;
use crate::engine::filter::bind::bind;
use crate::engine::filter::bitmap;
use crate::engine::filter::matches::matches_with;
use crate::engine::view::{SegmentView, TailRow, View};
use crate::error::Result;
use crate::model::document::Document;
use crate::model::filter::{Expr, Filter};
use crate::model::ids::DocId;
use crate::model::schema::ColumnUid;

/// The matching rows of every part.
pub struct Scope<'a> {
    pub view: &'a View,
    /// Per segment its matching live rows; `None` when all live rows match.
    pub segments: Vec<(&'a SegmentView, Option<RoaringBitmap>)>,
    /// Matching rows of the tail.
    pub tail: Vec<&'a Arc<TailRow>>,
    filtered: bool,
}

impl<'a> Scope<'a> {
    pub fn new(view: &'a View, filter: Option<&Expr>) -> Result<Self> {
        let filter = match filter {
            Some(expr) => bind(expr, &view.schema)?,
            None => Filter::All,
        };
        let filtered = !matches!(filter, Filter::All);
        let mut segments = Vec::with_capacity(view.segments.len());
        for segment in &view.segments {
            let rows = if filtered { Some(bitmap::rows(&filter, &view.schema, segment)?) } else { None };
            segments.push((segment, rows));
        }
        let mut analyzers = Analyzers::new();
        let tail = view
            .tail
            .iter()
            .map(|(_, row)| row)
            .filter(|r| !filtered || matches_with(&filter, &view.schema, &r.document, &r.terms, &mut analyzers))
            .collect();
        Ok(Scope { view, segments, tail, filtered })
    }

    /// Whether the query said which rows it is about.
    pub fn is_filtered(&self) -> bool {
        self.filtered
    }

    /// How many rows match.
    pub fn count(&self) -> u64 {
        let in_segments: u64 = self
            .segments
            .iter()
            .map(|(segment, rows)| rows.as_ref().map_or_else(|| segment.live(), RoaringBitmap::len))
            .sum();
        in_segments + self.tail.len() as u64
    }

    /// The matching rows of one segment.
    pub fn rows(&self, segment: usize) -> RoaringBitmap {
        let (view, rows) = &self.segments[segment];
        match rows {
            Some(rows) => rows.clone(),
            None => {
                let mut all = RoaringBitmap::new();
                all.insert_range(0..view.segment.rows());
                all - &*view.dead
            }
        }
    }

    pub fn id(&self, place: &Place) -> Result<DocId> {
        match place {
            Place::Segment { segment, row } => self.segments[*segment].0.segment.id_of(*row),
            Place::Tail(at) => Ok(self.tail[*at].document.id.clone()),
        }
    }

    /// A row's document with these columns, or all.
    pub fn document(&self, place: &Place, columns: Option<&[ColumnUid]>) -> Result<Arc<Document>> {
        match place {
            Place::Segment { segment, row } => {
                self.segments[*segment].0.segment.document(*row, columns).map(Arc::new)
            }
            Place::Tail(at) => Ok(self.tail[*at].document.clone()),
        }
    }
}
