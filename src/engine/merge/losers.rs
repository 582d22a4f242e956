//! Gathers the states that lost into objects of a bounded size.

use uuid::Uuid;

use crate::engine::namespace::absorb::Site;
use crate::error::Result;
use crate::format::conflicts::{
    ConflictsFile, Field, LOSERS_MAX, Loser, MergeSource, Side, StoredId, VERSION, encode_conflicts,
};
use crate::model::document::Document;
use crate::model::ids::{DocId, Nsid, Version};
use crate::model::schema::Schema;

/// Values of one object may count for this many logical bytes, before the last one.
const OBJECT_BYTES: u64 = 1 << 20;
/// What a value has around it in an object.
const FIELD_BYTES: usize = 64;

/// What the objects of one merge say of it.
pub struct Losers {
    pub nsid: Nsid,
    pub source: MergeSource,
    pub policy: &'static str,
    pub at_ms: u64,
    pub waiting: Vec<Loser>,
    pub bytes: u64,
    /// Where there is no room for all of them, the oldest of the namespace go, and of this merge those that come last.
    pub lets_go: bool,
}

/// A state that lost.
pub struct Lost<'a> {
    pub side: Side,
    pub version: Option<Version>,
    /// `None`: a deletion.
    pub document: Option<&'a Document>,
    pub schema: &'a Schema,
    /// Attributes that lost while others were kept.
    pub attributes: Vec<String>,
}

impl Losers {
    /// Keeps a state, and gives the name that users know it by.
    pub fn keep(&mut self, id: &DocId, lost: Lost, site: &mut Site) -> Result<Uuid> {
        let token = Uuid::from_u64_pair(site.random(), site.random());
        let fields = lost.document.map(|document| {
            let value = |column: &crate::model::schema::Column| {
                Some(Field::of(&column.name, column.kind, document.get(column.uid())?))
            };
            lost.schema.columns.iter().filter_map(value).collect::<Vec<Field>>()
        });
        // As the object has them: values may be many and have no logical size.
        let attributes = lost.attributes.iter().map(|name| name.len() + 3).sum::<usize>();
        let fields_bytes = fields.iter().flatten().map(|field| field.value.len() + field.name.len() + FIELD_BYTES);
        self.bytes += (attributes + fields_bytes.sum::<usize>()) as u64;
        self.waiting.push(Loser {
            token,
            id: StoredId::of(id),
            side: lost.side,
            version: lost.version,
            attributes: lost.attributes,
            fields,
        });
        if self.waiting.len() >= LOSERS_MAX || self.bytes >= OBJECT_BYTES {
            self.write(site)?;
        }
        Ok(token)
    }

    /// Writes what waits.
    pub fn write(&mut self, site: &mut Site) -> Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        if self.lets_go && site.is_full_of_losers() {
            site.let_go += self.waiting.len() as u64;
            self.waiting.clear();
            self.bytes = 0;
            return Ok(());
        }
        let file = ConflictsFile {
            format: VERSION,
            nsid: self.nsid,
            source: self.source.clone(),
            policy: self.policy.to_owned(),
            at_ms: self.at_ms,
            losers: std::mem::take(&mut self.waiting),
        };
        self.bytes = 0;
        site.keep_losers(&encode_conflicts(&file)?)
    }
}
