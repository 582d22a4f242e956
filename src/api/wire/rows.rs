//! The quick way through a write's body: rows straight from its bytes, without a map for each of them.
//!
//! Rows are nearly all of what an import sends. What this reads means the same as in [`super::write::parse_write`]; whatever
//! looks odd it leaves to that one, which says what is wrong in the contract's words.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value as Json};

use crate::model::write::Row;

/// A write's body: its rows, and everything else as it is.
#[derive(Debug, Default)]
pub struct Parts {
    pub upserts: Vec<Row>,
    pub patches: Vec<Row>,
    pub rest: Map<String, Json>,
    pub names: Names,
}

/// Attribute names, each allocated once for all rows.
#[derive(Debug, Default)]
pub struct Names {
    known: HashSet<Arc<str>>,
    /// The names of the row before, in its order: mostly also the next row's.
    last: Vec<Arc<str>>,
}

impl Names {
    pub fn intern(&mut self, name: &str) -> Arc<str> {
        if let Some(shared) = self.known.get(name) {
            return Arc::clone(shared);
        }
        let shared: Arc<str> = name.into();
        self.known.insert(Arc::clone(&shared));
        shared
    }

    /// The same, with a guess which name of the row before it is.
    fn intern_at(&mut self, at: usize, name: &str) -> Arc<str> {
        if let Some(last) = self.last.get(at)
            && **last == *name
        {
            return Arc::clone(last);
        }
        let shared = self.intern(name);
        if at < self.last.len() {
            self.last[at] = Arc::clone(&shared);
        } else if at == self.last.len() {
            self.last.push(Arc::clone(&shared));
        }
        shared
    }
}

/// Reads a body; `None` when it is not plainly right.
pub fn parse(body: &[u8]) -> Option<Parts> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let parts = reader.deserialize_map(BodyVisitor).ok()?;
    reader.end().ok()?;
    Some(parts)
}

struct BodyVisitor;

impl<'de> Visitor<'de> for BodyVisitor {
    type Value = Parts;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("struct WriteRequest")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Parts, A::Error> {
        let mut parts = Parts::default();
        let mut seen = [false; 2];
        while let Some(key) = map.next_key::<String>()? {
            let (rows, seen) = match key.as_str() {
                "upsert_rows" => (&mut parts.upserts, &mut seen[0]),
                "patch_rows" => (&mut parts.patches, &mut seen[1]),
                _ => {
                    parts.rest.insert(key, map.next_value()?);
                    continue;
                }
            };
            if std::mem::replace(seen, true) {
                return Err(A::Error::custom("twice"));
            }
            map.next_value_seed(RowsSeed { rows, names: &mut parts.names })?;
        }
        Ok(parts)
    }
}

struct RowsSeed<'a> {
    rows: &'a mut Vec<Row>,
    names: &'a mut Names,
}

impl<'de> DeserializeSeed<'de> for RowsSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for RowsSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a sequence")
    }

    fn visit_none<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let RowsSeed { rows, names } = self;
        while let Some(row) = seq.next_element_seed(RowSeed { names: &mut *names })? {
            rows.push(row);
        }
        Ok(())
    }
}

struct RowSeed<'a> {
    names: &'a mut Names,
}

impl<'de> DeserializeSeed<'de> for RowSeed<'_> {
    type Value = Row;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Row, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for RowSeed<'_> {
    type Value = Row;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Row, A::Error> {
        let mut id = None;
        let mut fields: Vec<(Arc<str>, Json)> = Vec::with_capacity(self.names.last.len());
        while let Some(key) = map.next_key_seed(KeySeed { names: &mut *self.names, at: fields.len() })? {
            match key {
                Some(name) => fields.push((name, map.next_value()?)),
                None if id.is_none() => id = Some(map.next_value()?),
                None => {
                    map.next_value::<IgnoredAny>()?;
                    return Err(A::Error::custom("two ids"));
                }
            }
        }
        // A narrow row after a wide one must not keep the room of that one.
        fields.shrink_to_fit();
        match id {
            Some(id) if is_id(&id) && !has_twins(&fields) => Ok(Row { id, fields }),
            _ => Err(A::Error::custom("not a plain row")),
        }
    }
}

/// Reads a key: `None` for `id`.
struct KeySeed<'a> {
    names: &'a mut Names,
    at: usize,
}

impl<'de> DeserializeSeed<'de> for KeySeed<'_> {
    type Value = Option<Arc<str>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeySeed<'_> {
    type Value = Option<Arc<str>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok((key != "id").then(|| self.names.intern_at(self.at, key)))
    }
}

/// Whether a JSON value can be an id by its shape.
pub fn is_id(id: &Json) -> bool {
    match id {
        Json::String(_) => true,
        Json::Number(n) => !n.is_f64(),
        _ => false,
    }
}

/// Whether a name is there twice. Names are shared, so their addresses say it.
fn has_twins(fields: &[(Arc<str>, Json)]) -> bool {
    if fields.len() <= 24 {
        return fields
            .iter()
            .enumerate()
            .any(|(at, (name, _))| fields[..at].iter().any(|(n, _)| Arc::ptr_eq(n, name)));
    }
    let mut addresses: Vec<*const u8> = fields.iter().map(|(name, _)| name.as_ptr()).collect();
    addresses.sort_unstable();
    addresses.windows(2).any(|pair| pair[0] == pair[1])
}
