//! The second step of a write: what it changes, given the current documents.
//!
//! The order is the contract's: `delete_by_filter`, `patch_by_filter`, then upserts, patches and deletes under their
//! conditions. Later steps see what earlier ones did; what comes out is the net effect, one change per document.

use std::collections::HashMap;
use std::sync::Arc;

use super::prepare::{NewDocument, NewPatch, NewValues, Prepared, Terms};
use super::schema_update::vector_comes_late;
use super::{
    Change, Current, DELETE_BY_FILTER_MAX, DELETE_PARTIAL_MAX, DOCUMENT_BYTES_MAX, Decision, PATCH_BY_FILTER_MAX,
    Patch, apply_patch, of_changed, of_terms,
};
use crate::engine::analyzers::Analyzers;
use crate::engine::filter::bind::{bind_condition, bind_for_write, refers_to_new};
use crate::engine::filter::matches::matches_with;
use crate::engine::filter::texts::Texts;
use crate::error::{Error, Result};
use crate::format::record::encoded_bytes;
use crate::model::document::Document;
use crate::model::filter::{Expr, Filter};
use crate::model::ids::{DocId, Version};
use crate::model::schema::{ColumnUid, FullText, Schema};
use crate::model::write::{ByFilter, WriteOutcome, WriteRequest};
use crate::platform::allowance::Allowance;

/// Decides a prepared write against the current state. Every document it writes gets `version`.
pub fn decide(
    prepared: Prepared,
    request: &WriteRequest,
    current: &dyn Current,
    version: Version,
) -> Result<Decision> {
    if let Some(name) = &prepared.new_vector
        && current.has_documents()
    {
        return Err(vector_comes_late(name));
    }
    let schema_changes = !Arc::ptr_eq(&prepared.base, &prepared.schema);
    let schema = Arc::clone(&prepared.schema);
    let mut write = Write {
        schema: &schema,
        current,
        version,
        full_text: full_text_columns(&schema),
        analyzers: prepared.analyzers,
        changes: Vec::with_capacity(prepared.upserts.len() + prepared.patches.len() + prepared.deletes.len()),
        by_filter: HashMap::new(),
        has_more_steps: request.delete_by_filter.is_none()
            || request.patch_by_filter.is_some()
            || !(request.upserts.is_empty() && request.patches.is_empty() && request.deletes.is_empty()),
        wants_ids: request.return_affected_ids,
        made: 0,
        outcome: WriteOutcome::default(),
    };
    if let Some(by) = &request.delete_by_filter {
        write.delete_by_filter(by)?;
    }
    if let (Some(patch), Some(values)) = (&request.patch_by_filter, prepared.patch_by_filter) {
        write.patch_by_filter(&patch.by, values)?;
    }
    let condition = Condition::new(request.upsert_condition.as_ref(), &schema, current.allowance())?;
    write.each(
        prepared.upserts,
        condition.is_some(),
        |row| &row.id,
        |write, row, current| write.upsert(row, current, &condition),
    )?;
    let condition = Condition::new(request.patch_condition.as_ref(), &schema, current.allowance())?;
    write.each(prepared.patches, true, |row| &row.id, |write, row, current| write.patch(row, current, &condition))?;
    let condition = Condition::new(request.delete_condition.as_ref(), &schema, current.allowance())?;
    write.each(
        prepared.deletes,
        condition.is_some(),
        |id| id,
        |write, id, current| write.delete(id, current, &condition),
    )?;
    let Write { changes, mut outcome, .. } = write;
    let schema_only = request.schema.is_some() && !asks_for_documents(request);
    outcome.schema_updated = request.schema.is_some() && (schema_changes || schema_only);
    Ok(Decision { changes, schema: schema_changes.then_some(schema), outcome })
}

fn asks_for_documents(request: &WriteRequest) -> bool {
    !request.upserts.is_empty()
        || !request.patches.is_empty()
        || !request.deletes.is_empty()
        || request.delete_by_filter.is_some()
        || request.patch_by_filter.is_some()
}

fn full_text_columns(schema: &Schema) -> Vec<(ColumnUid, &FullText)> {
    schema.columns.iter().filter_map(|c| c.full_text.as_ref().map(|options| (c.uid(), options))).collect()
}

/// A condition, bound once where it can be.
enum Condition<'a> {
    None,
    Bound(Filter),
    /// Has a `$ref_new`: bound for every row.
    PerRow(&'a Expr),
}

impl<'a> Condition<'a> {
    fn is_some(&self) -> bool {
        !matches!(self, Condition::None)
    }

    fn new(expr: Option<&'a Expr>, schema: &Schema, allowance: &Allowance) -> Result<Self> {
        Ok(match expr {
            None => Condition::None,
            Some(expr) if refers_to_new(expr) => {
                // Bound once without a row, so that a wrong condition is refused whatever the rows are.
                bind_condition(expr, schema, None, allowance)?;
                Condition::PerRow(expr)
            }
            Some(expr) => Condition::Bound(bind_condition(expr, schema, None, allowance)?),
        })
    }
}

/// Documents that are read at a time.
pub const DOCUMENTS_AT_ONCE: usize = 256;

struct Write<'a> {
    schema: &'a Schema,
    current: &'a dyn Current,
    version: Version,
    full_text: Vec<(ColumnUid, &'a FullText)>,
    analyzers: Analyzers,
    changes: Vec<Change>,
    /// The changes that by-filter steps made. Rows name each document once, so only these can meet another change.
    by_filter: HashMap<DocId, usize>,
    /// There is more than one step, so changes of by-filter steps may be met again.
    has_more_steps: bool,
    wants_ids: bool,
    /// What the changes of documents that are there take, beyond what the request came with.
    made: u64,
    outcome: WriteOutcome,
}

impl Write<'_> {
    /// Takes rows one after another, with the documents that they meet as the steps before have left them: read some at a time, if
    /// they are wanted.
    fn each<T>(
        &mut self,
        rows: Vec<T>,
        are_wanted: bool,
        id_of: impl Fn(&T) -> &DocId,
        mut take: impl FnMut(&mut Self, T, Option<Arc<Document>>) -> Result<()>,
    ) -> Result<()> {
        if !are_wanted {
            return rows.into_iter().try_for_each(|row| take(self, row, None));
        }
        let mut rows = rows.into_iter();
        loop {
            let some: Vec<T> = rows.by_ref().take(DOCUMENTS_AT_ONCE).collect();
            if some.is_empty() {
                return Ok(());
            }
            let current = self.documents(&some.iter().map(&id_of).collect::<Vec<_>>())?;
            some.into_iter().zip(current).try_for_each(|(row, current)| take(self, row, current))?;
        }
    }

    fn delete_by_filter(&mut self, by: &ByFilter) -> Result<()> {
        let limit = if by.allow_partial { DELETE_PARTIAL_MAX } else { DELETE_BY_FILTER_MAX };
        let ids = self.matching("delete_by_filter", by, limit)?;
        self.changes.reserve_exact(ids.len());
        let mut left = ids.len() as u64;
        for id in ids {
            let bytes = id.logical_bytes();
            let change = Change::Delete { id };
            if !self.makes(change.memory_bytes())? {
                return self.stop("delete_by_filter", by, left);
            }
            self.queried(bytes);
            self.note_deleted(change.id());
            self.put_by_filter(change);
            left -= 1;
        }
        Ok(())
    }

    fn patch_by_filter(&mut self, by: &ByFilter, values: NewValues) -> Result<()> {
        let ids = self.matching("patch_by_filter", by, PATCH_BY_FILTER_MAX)?;
        let mut left = ids.len() as u64;
        for ids in ids.chunks(DOCUMENTS_AT_ONCE) {
            let documents = self.current.documents(&ids.iter().collect::<Vec<_>>())?;
            for (at, document) in (0..).zip(documents) {
                // Filters run on a snapshot: a document may be gone by now.
                let Some(document) = document else { continue };
                let Some(change) = self.patched(&document, values.clone(), 0)? else {
                    return self.stop("patch_by_filter", by, left - at);
                };
                self.queried(document.logical_bytes());
                self.put_by_filter(change);
            }
            left -= ids.len() as u64;
        }
        Ok(())
    }

    /// Counts what a change of a document that is there takes. False, and nothing is counted, where one write may not make as much.
    fn makes(&mut self, bytes: u64) -> Result<bool> {
        if self.made > 0 && self.made.saturating_add(bytes) > self.current.made_bytes_max() {
            return Ok(false);
        }
        self.current.set_aside(bytes)?;
        self.made += bytes;
        Ok(true)
    }

    /// Ends a by-filter step with so many documents `left`, as the write makes no more.
    fn stop(&mut self, name: &str, by: &ByFilter, left: u64) -> Result<()> {
        if !by.allow_partial {
            return Err(self.makes_too_much(name).with_hint(format!(
                "narrow the filter, or set {name}_allow_partial and repeat the request while rows_remaining is true"
            )));
        }
        self.outcome.rows_remaining = true;
        self.outcome.filter_matched = self.outcome.filter_matched.map(|matched| matched.saturating_sub(left));
        Ok(())
    }

    fn makes_too_much(&self, name: &str) -> Error {
        Error::invalid(format!(
            "{name} makes more than {} bytes of documents in memory, which is what one write may make of those that are there",
            self.current.made_bytes_max()
        ))
        .with_code("too_large")
    }

    /// The documents of a by-filter step that no earlier step has changed.
    fn matching(&mut self, name: &str, by: &ByFilter, limit: usize) -> Result<Vec<DocId>> {
        let filter = bind_for_write(&by.filter, self.schema, self.current.allowance())?;
        self.queried(0);
        // Ids of what could not be changed by one write are not even listed.
        let fits =
            usize::try_from(self.current.made_bytes_max() / size_of::<Change>() as u64).unwrap_or(usize::MAX).max(1);
        let is_made_less = fits < limit;
        let limit = limit.min(fits);
        let (mut ids, mut more) = match filter {
            Filter::None => (Vec::new(), false),
            filter => self.current.matching(&filter, limit + self.by_filter.len())?,
        };
        ids.retain(|id| !self.by_filter.contains_key(id));
        more |= ids.len() > limit;
        ids.truncate(limit);
        if more && !by.allow_partial {
            if is_made_less {
                return self.stop(name, by, 0).map(|()| Vec::new());
            }
            return Err(Error::invalid(format!("💔 {name} matches more documents than allowed, at most {limit}"))
                .with_hint(format!(
                    "set {name}_allow_partial, and repeat the request while rows_remaining is true"
                )));
        }
        self.outcome.rows_remaining |= more;
        *self.outcome.filter_matched.get_or_insert(0) += ids.len() as u64;
        Ok(ids)
    }

    fn upsert(&mut self, row: NewDocument, current: Option<Arc<Document>>, condition: &Condition<'_>) -> Result<()> {
        let NewDocument { id, fields, terms } = row;
        let document = Document { id, version: self.version, fields, patch: None };
        if let Some(current) = current
            && !self.holds(condition, &current, Some(&document))?
        {
            return Ok(());
        }
        self.outcome.upserted += 1;
        self.outcome.bytes_written += document.logical_bytes();
        if self.wants_ids {
            self.outcome.upserted_ids.push(document.id.clone());
        }
        self.put(Change::Put { document: Arc::new(document), terms, patch: None });
        Ok(())
    }

    fn patch(&mut self, row: NewPatch, current: Option<Arc<Document>>, condition: &Condition<'_>) -> Result<()> {
        let NewPatch { id, values } = row;
        let Some(current) = current else { return Ok(()) };
        let holds = match condition {
            Condition::PerRow(_) => {
                let set = values.changed.iter().filter_map(|(uid, value)| Some((*uid, value.clone()?)));
                let new = Document { id, version: self.version, fields: set.collect(), patch: None };
                self.holds(condition, &current, Some(&new))?
            }
            _ => self.holds(condition, &current, None)?,
        };
        if holds {
            // What the request itself brought is no more than its body, in the document and in what the patch meant.
            let given = 2 * of_changed(&values.changed) + of_terms(&values.terms);
            let Some(change) = self.patched(&current, values, given)? else {
                return Err(self.makes_too_much("patch").with_hint("send smaller batches"));
            };
            self.put(change);
        }
        Ok(())
    }

    fn delete(&mut self, id: DocId, current: Option<Arc<Document>>, condition: &Condition<'_>) -> Result<()> {
        if condition.is_some() {
            let Some(current) = current else { return Ok(()) };
            if !self.holds(condition, &current, None)? {
                return Ok(());
            }
        }
        self.note_deleted(&id);
        self.put(Change::Delete { id });
        Ok(())
    }

    /// Documents as the steps before have left them.
    fn documents(&self, ids: &[&DocId]) -> Result<Vec<Option<Arc<Document>>>> {
        let mut found = self.current.documents(ids)?;
        for (id, found) in ids.iter().zip(&mut found) {
            match self.by_filter.get(*id).map(|at| &self.changes[*at]) {
                Some(Change::Put { document, .. }) => *found = Some(Arc::clone(document)),
                Some(Change::Delete { .. }) => *found = None,
                None => {}
            }
        }
        Ok(found)
    }

    fn holds(&mut self, condition: &Condition<'_>, current: &Document, new: Option<&Document>) -> Result<bool> {
        let bound;
        let allowance = self.current.allowance();
        // Reading a document may take long, and so may binding for it.
        if condition.is_some() {
            allowance.check()?;
        }
        let filter = match condition {
            Condition::None => return Ok(true),
            Condition::Bound(filter) => filter,
            Condition::PerRow(expr) => {
                bound = bind_condition(expr, self.schema, new, allowance)?;
                &bound
            }
        };
        self.queried(current.logical_bytes());
        matches_with(filter, self.schema, current, &mut Texts::default(), &mut self.analyzers, allowance)
    }

    /// The change that a patch of `current` is; counts it. So many bytes of it the request brought. `None`, and nothing is counted,
    /// where the write may not make as much.
    fn patched(&mut self, current: &Document, values: NewValues, given: u64) -> Result<Option<Change>> {
        let NewValues { changed, terms } = values;
        let document = apply_patch(current, &changed, self.version);
        // No patch may make a document that a single write could not have made: no block of a segment would hold it.
        let bytes = document.fields.iter().map(|(_, value)| encoded_bytes(value) as u64).sum::<u64>();
        if bytes > DOCUMENT_BYTES_MAX {
            return Err(Error::invalid(format!(
                "patch of document {}: makes it {bytes} bytes large, expected at most {DOCUMENT_BYTES_MAX}",
                document.id
            ))
            .with_code("too_large"));
        }
        let terms = self.terms(&document, &changed, terms);
        let written: u64 = changed.iter().filter_map(|(_, value)| value.as_ref()).map(|v| v.logical_bytes()).sum();
        let id = document.id.clone();
        let patch = Some(Box::new(Patch { base: current.version, changed }));
        let change = Change::Put { document: Arc::new(document), terms, patch };
        if !self.makes(change.memory_bytes().saturating_sub(given))? {
            return Ok(None);
        }
        self.outcome.patched += 1;
        self.outcome.bytes_written += id.logical_bytes() + written;
        if self.wants_ids {
            self.outcome.patched_ids.push(id);
        }
        Ok(Some(change))
    }

    /// The terms of a patched document: what the patch set is analysed already.
    fn terms(
        &mut self,
        document: &Document,
        changed: &[(ColumnUid, Option<crate::model::value::Value>)],
        new: Terms,
    ) -> Terms {
        let mut terms = new;
        for (uid, options) in &self.full_text {
            let is_new = changed.binary_search_by_key(uid, |(uid, _)| *uid).is_ok();
            if !is_new && let Some(value) = document.get(*uid) {
                terms.push((*uid, self.analyzers.terms(options, value)));
            }
        }
        terms
    }

    fn put_by_filter(&mut self, change: Change) {
        if self.has_more_steps {
            self.by_filter.insert(change.id().clone(), self.changes.len());
        }
        self.changes.push(change);
    }

    /// Takes a row's change, in the place of an earlier one of the same document.
    fn put(&mut self, change: Change) {
        let Some(at) = self.by_filter.get(change.id()) else { return self.changes.push(change) };
        let earlier = std::mem::replace(&mut self.changes[*at], change);
        if let (Change::Put { patch: Some(patch), .. }, Change::Put { patch: Some(earlier), .. }) =
            (&mut self.changes[*at], earlier)
        {
            // Two patches in one write are one patch of what was there before.
            patch.base = earlier.base;
            for (uid, value) in earlier.changed {
                if let Err(at) = patch.changed.binary_search_by_key(&uid, |(uid, _)| *uid) {
                    patch.changed.insert(at, (uid, value));
                }
            }
        }
    }

    fn note_deleted(&mut self, id: &DocId) {
        self.outcome.deleted += 1;
        self.outcome.bytes_written += id.logical_bytes();
        if self.wants_ids {
            self.outcome.deleted_ids.push(id.clone());
        }
    }

    fn queried(&mut self, bytes: u64) {
        *self.outcome.bytes_queried.get_or_insert(0) += bytes;
    }
}
