//! Losers of a merge, kept until a user has seen them: which state of which document lost to what, whole.
//!
//! Values are the bytes that a segment's rows have of them, since JSON numbers do not keep every bit; names and types beside
//! them say what they are without a schema.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{envelope, values};
use crate::error::{Error, Result};
use crate::model::ids::{CommitId, DocId, Nsid, STRING_ID_BYTES_MAX, Version};
use crate::model::schema::{AttributeType, COLUMNS_MAX};
use crate::model::value::Value;

pub const VERSION: u32 = 1;
/// The most losers of one object.
pub const LOSERS_MAX: usize = 256;
/// The longest object: it is ended after its first mebibyte of values, and one more document may have what one write may. What an
/// earlier release joined may be larger: then it cannot lose, and the merge that wants it to is refused.
pub const BYTES_MAX: u64 = 96 << 20;
/// Objects are joined into one while they have no more bytes together.
pub const JOINED_BYTES_MAX: u64 = 1 << 20;

/// Losers of one merge; a merge with many writes several of these. Those of several merges of the same source by the same policy may
/// be joined: what is said of the merge is then of the newest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConflictsFile {
    pub format: u32,
    /// The namespace that took part as the target, and keeps this.
    pub nsid: Nsid,
    /// What was merged into it.
    pub source: MergeSource,
    pub policy: String,
    pub at_ms: u64,
    pub losers: Vec<Loser>,
}

/// A state that was merged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MergeSource {
    pub nsid: Nsid,
    /// `org/project/name` then.
    pub name: String,
    pub commit_id: CommitId,
}

/// A state of a document that is not there any more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Loser {
    /// Names it to users, and stays when others of its object are resolved.
    pub token: Uuid,
    pub id: StoredId,
    /// `ours` or `theirs`: where the state that lost was.
    pub side: Side,
    /// `None`: a deletion whose version is not known any more.
    pub version: Option<Version>,
    /// Attributes that lost, where others were kept; empty when the whole state did.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<String>,
    /// The values; `None` for a deletion.
    pub fields: Option<Vec<Field>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    Ours,
    Theirs,
}

/// A document's id with its type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoredId {
    Uint(u64),
    Uuid(Uuid),
    String(String),
}

/// One attribute.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Field {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: AttributeType,
    /// Base64 of the bytes that a segment's rows have.
    pub value: String,
}

impl StoredId {
    pub fn of(id: &DocId) -> Self {
        match id {
            DocId::Uint(n) => StoredId::Uint(*n),
            DocId::Uuid(uuid) => StoredId::Uuid(*uuid),
            DocId::String(text) => StoredId::String(text.to_string()),
        }
    }

    pub fn to_id(&self) -> DocId {
        match self {
            StoredId::Uint(n) => DocId::Uint(*n),
            StoredId::Uuid(uuid) => DocId::Uuid(*uuid),
            StoredId::String(text) => DocId::String(text.as_str().into()),
        }
    }
}

impl Field {
    pub fn of(name: &str, kind: AttributeType, value: &Value) -> Self {
        let mut bytes = Vec::new();
        values::encode(value, &mut bytes);
        Field { name: name.to_owned(), kind, value: STANDARD.encode(bytes) }
    }

    /// The value; `what` names the place in errors.
    pub fn decode(&self, what: &str) -> Result<Value> {
        let bytes = STANDARD
            .decode(&self.value)
            .map_err(|error| Error::corrupt(format!("{what}: attribute {:?}: {error}", self.name)))?;
        values::decode(self.kind, &bytes, what)
    }
}

pub fn encode_conflicts(file: &ConflictsFile) -> Result<Vec<u8>> {
    check(file).map_err(|what| Error::internal(format!("encode conflicts: {what}")))?;
    let (bytes, _) = envelope::seal(file)?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(Error::invalid(format!(
            "the states that lose in this merge take {} bytes in one object, at most {BYTES_MAX} fit",
            bytes.len()
        ))
        .with_code("too_large")
        .with_hint("make the largest documents smaller on one side, or merge with a policy that keeps them"));
    }
    Ok(bytes)
}

/// The losers in `bytes`; all of their values can be read.
pub fn decode_conflicts(bytes: &[u8], name: &str) -> Result<ConflictsFile> {
    if bytes.len() as u64 > BYTES_MAX {
        return Err(Error::corrupt(format!("{name}: {} bytes, expected at most {BYTES_MAX}", bytes.len())));
    }
    let (file, _) = envelope::open::<ConflictsFile>(bytes, VERSION, name)?;
    check(&file).map_err(|what| Error::corrupt(format!("{name}: {what}")))?;
    Ok(file)
}

/// What must hold, checked before it is written and after it is read.
fn check(file: &ConflictsFile) -> std::result::Result<(), String> {
    if file.losers.is_empty() || file.losers.len() > LOSERS_MAX {
        return Err(format!("{} losers, expected 1 to {LOSERS_MAX}", file.losers.len()));
    }
    for loser in &file.losers {
        if matches!(&loser.id, StoredId::String(text) if text.len() > STRING_ID_BYTES_MAX) {
            return Err(format!("an id of more than {STRING_ID_BYTES_MAX} bytes"));
        }
        let fields = loser.fields.as_deref().unwrap_or_default();
        if fields.len() > COLUMNS_MAX {
            return Err(format!("{} attributes, expected at most {COLUMNS_MAX}", fields.len()));
        }
        for field in fields {
            field.decode(&field.name).map_err(|error| error.message().to_owned())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{
        ConflictsFile, Field, LOSERS_MAX, Loser, MergeSource, Side, StoredId, VERSION, decode_conflicts,
        encode_conflicts,
    };
    use crate::error::Kind;
    use crate::model::ids::{CommitId, Nsid};
    use crate::model::schema::{AttributeType, Element};
    use crate::model::value::{Value, Vector};
    use uuid::Uuid;

    fn file() -> ConflictsFile {
        let kind = AttributeType::Vector { dims: 2, element: Element::F32 };
        let vector = Value::Vector(Vector::F32(vec![0.1, f32::MIN_POSITIVE]));
        let fields = vec![Field::of("v", kind, &vector), Field::of("x", AttributeType::Float, &Value::Float(0.1))];
        let loser = Loser {
            token: Uuid::from_u128(1),
            id: StoredId::Uint(u64::MAX),
            side: Side::Theirs,
            version: None,
            attributes: Vec::new(),
            fields: Some(fields),
        };
        ConflictsFile {
            format: VERSION,
            nsid: Nsid(Uuid::from_u128(2)),
            source: MergeSource {
                nsid: Nsid(Uuid::from_u128(3)),
                name: "a/b/c".into(),
                commit_id: CommitId(Uuid::from_u128(4)),
            },
            policy: "lww".into(),
            at_ms: 5,
            losers: vec![loser],
        }
    }

    #[test]
    fn losers_come_back_with_every_bit_of_their_values() {
        let found = decode_conflicts(&encode_conflicts(&file()).unwrap(), "conflicts").unwrap();
        assert_eq!(found, file());
        let fields = found.losers[0].fields.as_ref().unwrap();
        assert_eq!(fields[0].decode("x").unwrap(), Value::Vector(Vector::F32(vec![0.1, f32::MIN_POSITIVE])));
    }

    #[test]
    fn values_that_are_not_of_their_type_are_an_error() {
        let mut wrong = file();
        wrong.losers[0].fields.as_mut().unwrap()[1].kind = AttributeType::Uuid;
        assert_eq!(encode_conflicts(&wrong).unwrap_err().kind(), Kind::Internal);
        let (bytes, _) = crate::format::envelope::seal(&wrong).unwrap();
        assert_eq!(decode_conflicts(&bytes, "conflicts").unwrap_err().kind(), Kind::Corrupt);
        wrong = file();
        wrong.losers = vec![wrong.losers[0].clone(); LOSERS_MAX + 1];
        assert!(encode_conflicts(&wrong).unwrap_err().message().contains("257 losers"));
    }
}
