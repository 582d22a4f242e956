//! The first step of a write: schema, types, bounds and text, without a lock.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_json::Value as Json;

use super::infer::{VECTOR_NAME, infer, join};
use super::schema_update::{add_column, apply_schema_update, set_metric};
use super::typing;
use super::{Change, DOCUMENT_BYTES_MAX, VALUE_BYTES_MAX, of_changed, of_terms};
use crate::engine::analyzers::Analyzers;
use crate::error::{Error, Result};
use crate::format::values::encoded_bytes;
use crate::model::document::Document;
use crate::model::ids::DocId;
use crate::model::memory::{ARC_BYTES, allocated, of_vec};
use crate::model::schema::{AttributeType, Column, ColumnUid, FILTERABLE_BYTES_MAX, Schema};
use crate::model::value::Value;
use crate::model::write::{Row, WriteRequest};
use crate::segment::text::terms::DocTerms;

/// The terms of a document's full-text columns.
pub type Terms = Vec<(ColumnUid, DocTerms)>;

/// A write whose rows have their types, ready to be decided. It holds for the schema it was prepared against; when that has
/// changed, prepare the request anew.
pub struct Prepared {
    /// The schema it was prepared against.
    pub base: Arc<Schema>,
    /// The schema with what the write adds; the same `Arc` when it adds nothing.
    pub schema: Arc<Schema>,
    /// A column for ANN that the write adds, which only a namespace without documents takes.
    pub new_vector: Option<String>,
    pub upserts: Vec<NewDocument>,
    pub patches: Vec<NewPatch>,
    pub deletes: Vec<DocId>,
    pub patch_by_filter: Option<NewValues>,
    pub analyzers: Analyzers,
}

pub struct NewDocument {
    pub id: DocId,
    /// Sorted by column, each once.
    pub fields: Vec<(ColumnUid, Value)>,
    pub terms: Terms,
}

pub struct NewPatch {
    pub id: DocId,
    pub values: NewValues,
}

/// What a patch sets, or clears with `None`.
#[derive(Clone)]
pub struct NewValues {
    /// Sorted by column, each once.
    pub changed: Vec<(ColumnUid, Option<Value>)>,
    pub terms: Terms,
}

impl Prepared {
    /// What the request brings takes so much in memory, once it is on its way into the tail.
    pub fn memory_bytes(&self) -> u64 {
        let of_upsert = |row: &NewDocument| {
            let values: u64 = row.fields.iter().map(|(_, value)| value.heap_bytes()).sum();
            allocated(ARC_BYTES + size_of::<Document>()) + of_vec(&row.fields) + values + of_terms(&row.terms)
        };
        // In the document, too.
        let of_patch = |row: &NewPatch| 2 * of_changed(&row.values.changed) + of_terms(&row.values.terms);
        let ids = self.upserts.iter().map(|row| &row.id).chain(&self.deletes);
        // An id is a key as well.
        let changes = ids.map(|id| size_of::<Change>() as u64 + 2 * id.heap_bytes()).sum::<u64>();
        changes + self.upserts.iter().map(of_upsert).sum::<u64>() + self.patches.iter().map(of_patch).sum::<u64>()
    }
}

/// Prepares a write. `has_documents` says whether the namespace has any: then it takes no new dense vectors.
pub fn prepare(base: &Arc<Schema>, has_documents: bool, request: &WriteRequest) -> Result<Prepared> {
    let mut schema = Arc::clone(base);
    if let Some(update) = &request.schema {
        schema = Arc::new(apply_schema_update(base, update, has_documents)?);
    }
    if let Some(metric) = request.metric
        && schema.metric != Some(metric)
    {
        set_metric(Arc::make_mut(&mut schema), metric)?;
    }
    set_id_type(&mut schema, request)?;
    let mut attributes = Attributes::gather(&schema, request)?;
    attributes.declare(&mut schema, has_documents)?;
    let mut typist = Typist { attributes, schema: &schema, analyzers: Analyzers::new(), scratch: Vec::new() };
    let upserts = request.upserts.iter().map(|row| typist.document(row)).collect::<Result<Vec<_>>>()?;
    let patches = request.patches.iter().map(|row| typist.patch(row)).collect::<Result<Vec<_>>>()?;
    let patch_by_filter = match &request.patch_by_filter {
        Some(patch) => Some(typist.values("patch_by_filter", &patch.fields)?),
        None => None,
    };
    let deletes =
        request.deletes.iter().map(|json| typing::doc_id(json, schema.id_type)).collect::<Result<Vec<_>>>()?;
    let analyzers = typist.analyzers;
    check_unique(&upserts, &patches, &deletes)?;
    let is_new = |column: &&Column| base.column(&column.name).is_none_or(|known| known.epoch != column.epoch);
    let mut vectors = schema.columns.iter().filter(|column| column.has_ann());
    let new_vector = vectors.find(is_new).map(|column| column.name.clone());
    if *schema == **base {
        schema = Arc::clone(base);
    }
    let base = Arc::clone(base);
    Ok(Prepared { base, schema, new_vector, upserts, patches, deletes, patch_by_filter, analyzers })
}

/// The first id that is written fixes the type of all ids.
fn set_id_type(schema: &mut Arc<Schema>, request: &WriteRequest) -> Result<()> {
    if schema.id_type.is_some() {
        return Ok(());
    }
    let rows = request.upserts.iter().chain(&request.patches).map(|row| &row.id);
    if let Some(first) = rows.chain(&request.deletes).next() {
        Arc::make_mut(schema).id_type = Some(typing::id_type_of(first)?);
    } else if request.create_namespace == Some(true) {
        return Err(Error::invalid("💔 create_namespace without documents needs the type of `id` in `schema`"));
    }
    Ok(())
}

/// One request names each document once.
fn check_unique(upserts: &[NewDocument], patches: &[NewPatch], deletes: &[DocId]) -> Result<()> {
    let count = upserts.len() + patches.len() + deletes.len();
    if count < 2 {
        return Ok(());
    }
    let mut seen: HashSet<&DocId> = HashSet::with_capacity(count);
    seen.extend(upserts.iter().map(|row| &row.id).chain(patches.iter().map(|row| &row.id)).chain(deletes));
    match count - seen.len() {
        0 => Ok(()),
        duplicates => Err(Error::invalid(format!(
            "💔 This upsert contains {duplicates} duplicate document IDs and was not written. You should ensure that \
             individual upserts do not include duplicate documents."
        ))),
    }
}

/// The attributes that a request names, each looked up once.
struct Attributes<'r> {
    entries: Vec<Attribute<'r>>,
    by_name: HashMap<&'r str, usize>,
    /// By place in a row: the name last seen there. Rows mostly have the same attributes in the same order, and share the
    /// text of their names.
    places: Vec<(&'r Arc<str>, usize)>,
}

struct Attribute<'r> {
    name: &'r str,
    /// Its place in the schema and its identity.
    column: Option<(usize, ColumnUid)>,
    inferred: Option<AttributeType>,
}

impl<'r> Attributes<'r> {
    /// Looks up every attribute of a request and infers the types of those that the schema does not have.
    fn gather(schema: &Schema, request: &'r WriteRequest) -> Result<Self> {
        let mut attributes = Attributes { entries: Vec::new(), by_name: HashMap::new(), places: Vec::new() };
        let upserts = request.upserts.iter().map(|row| (row.fields.as_slice(), false));
        let patches = request.patches.iter().map(|row| (row.fields.as_slice(), true));
        let by_filter = request.patch_by_filter.iter().map(|patch| (patch.fields.as_slice(), true));
        for (fields, is_patch) in upserts.chain(patches).chain(by_filter) {
            for (place, (name, json)) in fields.iter().enumerate() {
                let at = attributes.find(schema, place, name);
                let attribute = &mut attributes.entries[at];
                if is_patch && attribute.has_vectors(schema) {
                    return Err(Error::invalid("💔 patching vectors is currently unsupported")
                        .with_attribute(&**name)
                        .with_hint("upsert the whole document"));
                }
                if attribute.column.is_none() {
                    attribute.infer(json)?;
                }
            }
        }
        Ok(attributes)
    }

    /// The attribute `name`, which stands at `place` of its row.
    fn find(&mut self, schema: &Schema, place: usize, name: &'r Arc<str>) -> usize {
        if let Some((known, at)) = self.places.get(place)
            && Arc::ptr_eq(known, name)
        {
            return *at;
        }
        let at = match self.by_name.get(&**name) {
            Some(at) => *at,
            None => {
                let column = schema.columns.iter().position(|column| column.name == **name);
                let column = column.map(|at| (at, schema.columns[at].uid()));
                self.entries.push(Attribute { name, column, inferred: None });
                self.by_name.insert(name, self.entries.len() - 1);
                self.entries.len() - 1
            }
        };
        match self.places.get_mut(place) {
            Some(known) => *known = (name, at),
            // Places fill up one after another.
            None => self.places.push((name, at)),
        }
        at
    }

    /// Adds the inferred attributes to the schema.
    fn declare(&mut self, schema: &mut Arc<Schema>, has_documents: bool) -> Result<()> {
        for attribute in &mut self.entries {
            let (None, Some(kind)) = (attribute.column, attribute.inferred) else { continue };
            let column = Column::new(attribute.name, kind, schema.epoch_of(attribute.name));
            attribute.column = Some((schema.columns.len(), column.uid()));
            add_column(Arc::make_mut(schema), column, has_documents)?;
        }
        Ok(())
    }
}

impl Attribute<'_> {
    fn has_vectors(&self, schema: &Schema) -> bool {
        match self.column {
            Some((at, _)) => schema.columns[at].kind.has_vectors(),
            None => self.name == VECTOR_NAME,
        }
    }

    fn infer(&mut self, json: &Json) -> Result<()> {
        let Some(kind) = infer(self.name, json)? else { return Ok(()) };
        let joined = join(self.inferred, kind);
        let known = self.inferred.unwrap_or(kind);
        self.inferred = Some(joined.ok_or_else(|| {
            Error::invalid(format!("attribute '{}': expected {known} as in earlier rows, got {kind}", self.name))
                .with_attribute(self.name)
        })?);
        Ok(())
    }
}

/// Gives rows the types of their columns.
struct Typist<'r, 's> {
    attributes: Attributes<'r>,
    schema: &'s Schema,
    analyzers: Analyzers,
    scratch: Vec<u8>,
}

impl<'r> Typist<'r, '_> {
    fn document(&mut self, row: &'r Row) -> Result<NewDocument> {
        let id = typing::doc_id(&row.id, self.schema.id_type)?;
        let mut fields = Vec::with_capacity(row.fields.len());
        let mut terms = Terms::new();
        for (place, (name, json)) in row.fields.iter().enumerate() {
            if let Some((uid, Some(value))) = self.value(&id, place, name, json, &mut terms)? {
                fields.push((uid, value));
            }
        }
        sort(&id, &mut fields)?;
        check_size(&id, fields.iter().map(|(_, value)| value))?;
        Ok(NewDocument { id, fields, terms })
    }

    fn patch(&mut self, row: &'r Row) -> Result<NewPatch> {
        let id = typing::doc_id(&row.id, self.schema.id_type)?;
        let values = self.values(&id, &row.fields)?;
        Ok(NewPatch { id, values })
    }

    fn values(&mut self, what: impl std::fmt::Display, fields: &'r [(Arc<str>, Json)]) -> Result<NewValues> {
        let mut changed = Vec::with_capacity(fields.len());
        let mut terms = Terms::new();
        for (place, (name, json)) in fields.iter().enumerate() {
            changed.extend(self.value(&what, place, name, json, &mut terms)?);
        }
        sort(&what, &mut changed)?;
        check_size(&what, changed.iter().filter_map(|(_, value)| value.as_ref()))?;
        Ok(NewValues { changed, terms })
    }

    /// One attribute's value, and its terms into `terms`; `None` when nothing says what the attribute is, for then it has
    /// no value anywhere.
    fn value(
        &mut self,
        what: impl std::fmt::Display,
        place: usize,
        name: &'r Arc<str>,
        json: &Json,
        terms: &mut Terms,
    ) -> Result<Option<(ColumnUid, Option<Value>)>> {
        let at = self.attributes.find(self.schema, place, name);
        let Some((column, uid)) = self.attributes.entries[at].column else {
            return if &**name == "id" { super::infer::check_name(name).map(|()| None) } else { Ok(None) };
        };
        if json.is_null() {
            return Ok(Some((uid, None)));
        }
        let column = &self.schema.columns[column];
        let value = typing::value(column.kind, json, &mut self.scratch)
            .and_then(|value| check_value(column, value))
            .map_err(|error| {
                error.context(format!("attribute '{}' of document {what}", column.name)).with_attribute(&*column.name)
            })?;
        if let Some(options) = &column.full_text {
            terms.push((uid, self.analyzers.terms(options, &value)));
        }
        if column.has_ann() && self.schema.metric.is_none() {
            return Err(Error::invalid("💔 distance_metric must be specified for write to namespace with a vector")
                .with_hint(
                    "say \"distance_metric\": \"cosine_distance\" or \"euclidean_squared\" in the write; an import takes `--metric`",
                ));
        }
        Ok(Some((uid, Some(value))))
    }
}

fn sort<T>(what: impl std::fmt::Display, fields: &mut [(ColumnUid, T)]) -> Result<()> {
    fields.sort_unstable_by_key(|(uid, _)| *uid);
    if fields.windows(2).any(|pair| pair[0].0 == pair[1].0) {
        return Err(Error::invalid(format!("document {what} has one attribute twice")));
    }
    Ok(())
}

fn check_value(column: &Column, value: Value) -> Result<Value> {
    let bytes = value.logical_bytes();
    if bytes > VALUE_BYTES_MAX {
        return Err(Error::invalid(format!(
            "value of {bytes} bytes is too large, expected at most {VALUE_BYTES_MAX}"
        )));
    }
    if column.filterable && bytes > FILTERABLE_BYTES_MAX as u64 {
        let longest = match &value {
            Value::String(text) => text.len(),
            Value::Strings(texts) => texts.iter().map(String::len).max().unwrap_or(0),
            _ => 0,
        };
        if longest > FILTERABLE_BYTES_MAX {
            return Err(Error::invalid(format!(
                "text of {longest} bytes is too long for a filterable attribute, expected at most \
                 {FILTERABLE_BYTES_MAX}"
            ))
            .with_hint("set `filterable: false` for it in the schema"));
        }
    }
    Ok(value)
}

fn check_size<'v>(what: impl std::fmt::Display, values: impl Iterator<Item = &'v Value>) -> Result<()> {
    // As a segment has them: values may be many and have no logical size, and a block of rows would not hold them.
    let bytes: u64 = values.map(encoded_bytes).sum();
    if bytes > DOCUMENT_BYTES_MAX {
        return Err(Error::invalid(format!(
            "document {what} of {bytes} bytes is too large, expected at most {DOCUMENT_BYTES_MAX}"
        )));
    }
    Ok(())
}
