//! A namespace's schema: its id type, its columns and what each can be searched by.

use std::collections::HashMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::ids::IdType;

/// The most attributes a namespace may have.
pub const COLUMNS_MAX: usize = 1_024;
/// The most columns that ANN searches a namespace may have.
pub const VECTOR_COLUMNS_MAX: usize = 8;
/// The most dimensions of a dense vector, or of a token's.
pub const DIMS_MAX: u32 = 10_752;
/// The longest attribute name, in bytes.
pub const ATTRIBUTE_NAME_BYTES_MAX: usize = 128;
/// The longest text of a filterable attribute, or element of one, in bytes.
pub const FILTERABLE_BYTES_MAX: usize = 4 << 10;

/// A column's identity at rest: a hash of name, type and how often the name was dropped. So an attribute that is dropped
/// and declared again never shows its old values, and two nodes that infer the same attribute apart agree on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ColumnUid(pub u64);

/// The type of an attribute's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AttributeType {
    Bool,
    Int,
    Uint,
    Float,
    String,
    Uuid,
    DateTime,
    Bytes,
    Bools,
    Ints,
    Uints,
    Floats,
    Strings,
    Uuids,
    DateTimes,
    /// `[N]f32`, `[N]f16`, `[N]i8`.
    Vector {
        dims: u32,
        element: Element,
    },
    /// `{}f16`.
    Sparse,
    /// `[][N]f32`: one vector for each token of a document.
    Multivector {
        dims: u32,
    },
}

/// A dense vector's element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    F32,
    F16,
    I8,
}

/// How dense vectors are compared. Smaller is nearer for all three (`DotProduct` distances are minus the product).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    CosineDistance,
    EuclideanSquared,
    DotProduct,
}

/// One attribute.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Column {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: AttributeType,
    /// How often an attribute of this name was dropped before; part of the identity.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub epoch: u32,
    pub filterable: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full_text: Option<FullText>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub regex: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub glob: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub fuzzy: bool,
    /// Whether a multivector's tokens can be searched by those of a query.
    #[serde(default, skip_serializing_if = "is_false")]
    pub late_interaction: bool,
    /// The attribute that this one is made from, as a vector from its text: a merge that joins documents attribute by
    /// attribute takes both from the same side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub derived_from: Option<String>,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

fn is_false(b: &bool) -> bool {
    !*b
}

/// How a text column is tokenised and scored; the keys are the wire contract's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FullText {
    pub k1: f32,
    pub k3: f32,
    pub b: f32,
    pub language: Language,
    pub stemming: bool,
    pub max_token_length: u32,
    pub remove_stopwords: bool,
    pub ascii_folding: bool,
    pub case_sensitive: bool,
    pub tokenizer: Tokenizer,
    /// Whether segments say where in a row each token is: sequences of tokens are then found without reading texts.
    #[serde(default, skip_serializing_if = "is_false")]
    pub positions: bool,
}

impl FullText {
    /// Whether two configurations make the same terms of a text; they may score them otherwise, and keep positions or not.
    pub fn same_terms(&self, other: &FullText) -> bool {
        let FullText { k1, k3, b, positions, .. } = *other;
        FullText { k1, k3, b, positions, ..self.clone() } == *other
    }
}

impl Default for FullText {
    fn default() -> Self {
        FullText {
            k1: 1.2,
            k3: 8.0,
            b: 0.75,
            language: Language::English,
            stemming: false,
            max_token_length: 39,
            remove_stopwords: false,
            ascii_folding: false,
            case_sensitive: false,
            tokenizer: Tokenizer::WordV4,
            positions: false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tokenizer {
    WordV0,
    WordV1,
    WordV2,
    WordV3,
    WordV4,
    PreTokenizedArray,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    Arabic,
    Danish,
    Dutch,
    English,
    Finnish,
    French,
    German,
    Greek,
    Hungarian,
    Italian,
    Norwegian,
    Portuguese,
    Romanian,
    Russian,
    Spanish,
    Swedish,
    Tamil,
    Turkish,
}

/// The schema of a namespace at one commit. Column names are unique.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Schema {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id_type: Option<IdType>,
    /// Fixed by the first dense vector written or by explicit creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<Metric>,
    pub columns: Vec<Column>,
    /// Names that were dropped, and how often; at most [`COLUMNS_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped: Vec<(String, u32)>,
}

impl Schema {
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    pub fn column_by_uid(&self, uid: ColumnUid) -> Option<&Column> {
        self.columns.iter().find(|column| column.uid() == uid)
    }

    /// The columns whose text `next` has analysed in another way, or not at all. Costs as much as the two are long.
    pub fn analysed_otherwise(&self, next: &Schema) -> Vec<ColumnUid> {
        let known: HashMap<&str, &Column> =
            next.columns.iter().map(|column| (column.name.as_str(), column)).collect();
        let options = |column: &Column| {
            // By what the identity is made of, as that costs a hash.
            let same = known.get(column.name.as_str());
            let same = same.filter(|same| (same.kind, same.epoch) == (column.kind, column.epoch));
            same.and_then(|same| same.full_text.as_ref())
        };
        let changed = self.columns.iter().filter(|column| column.full_text.as_ref() != options(column));
        changed.map(Column::uid).collect()
    }

    /// How often `name` was dropped before.
    pub fn epoch_of(&self, name: &str) -> u32 {
        self.dropped.iter().find(|(dropped, _)| dropped == name).map_or(0, |(_, epoch)| *epoch)
    }
}

impl Column {
    /// A column of `kind` with the contract's defaults: everything is filterable but bytes and vectors.
    pub fn new(name: impl Into<String>, kind: AttributeType, epoch: u32) -> Self {
        Column {
            name: name.into(),
            kind,
            epoch,
            filterable: kind.is_filterable(),
            full_text: None,
            regex: false,
            glob: false,
            fuzzy: false,
            late_interaction: false,
            derived_from: None,
        }
    }

    /// Whether segments index the column's values: filters are answered from that, and patterns tested once for each
    /// distinct text. What is there for patterns alone is left out where a text is longer than [`FILTERABLE_BYTES_MAX`].
    pub fn is_indexed(&self) -> bool {
        self.kind.is_filterable() && (self.filterable || self.regex || self.glob || self.fuzzy)
    }

    /// Whether ANN and kNN search the column, which takes a distance metric.
    pub fn has_ann(&self) -> bool {
        self.kind.is_vector() || self.late_interaction
    }

    /// The identity: the first 8 bytes, little-endian, of BLAKE3 over `name NUL type NUL epoch` in decimal.
    pub fn uid(&self) -> ColumnUid {
        let hash = blake3::hash(format!("{}\0{}\0{}", self.name, self.kind, self.epoch).as_bytes());
        let mut first = [0; 8];
        first.copy_from_slice(&hash.as_bytes()[..8]);
        ColumnUid(u64::from_le_bytes(first))
    }
}

impl AttributeType {
    pub fn is_array(self) -> bool {
        use AttributeType::{Bools, DateTimes, Floats, Ints, Strings, Uints, Uuids};
        matches!(self, Bools | Ints | Uints | Floats | Strings | Uuids | DateTimes)
    }

    /// The type of one element of an array; the type itself for all others.
    pub fn element(self) -> AttributeType {
        match self {
            AttributeType::Bools => AttributeType::Bool,
            AttributeType::Ints => AttributeType::Int,
            AttributeType::Uints => AttributeType::Uint,
            AttributeType::Floats => AttributeType::Float,
            AttributeType::Strings => AttributeType::String,
            AttributeType::Uuids => AttributeType::Uuid,
            AttributeType::DateTimes => AttributeType::DateTime,
            other => other,
        }
    }

    /// Whether columns of this type can have an index for filters.
    pub fn is_filterable(self) -> bool {
        !matches!(self, AttributeType::Bytes | AttributeType::Sparse) && !self.has_vectors()
    }

    /// Whether values are dense vectors.
    pub fn is_vector(self) -> bool {
        matches!(self, AttributeType::Vector { .. })
    }

    /// Whether values are dense vectors, one or several: segments keep them beside the other fields of documents.
    pub fn has_vectors(self) -> bool {
        matches!(self, AttributeType::Vector { .. } | AttributeType::Multivector { .. })
    }

    /// Reads a type as the wire writes it: `string`, `[]uint`, `[384]f32`, `[][128]f32`, `{}f16`. `None` when it is none.
    pub fn parse(text: &str) -> Option<AttributeType> {
        Some(match text {
            "bool" => AttributeType::Bool,
            "int" => AttributeType::Int,
            "uint" => AttributeType::Uint,
            "float" => AttributeType::Float,
            "string" => AttributeType::String,
            "uuid" => AttributeType::Uuid,
            "datetime" => AttributeType::DateTime,
            "bytes" => AttributeType::Bytes,
            "[]bool" => AttributeType::Bools,
            "[]int" => AttributeType::Ints,
            "[]uint" => AttributeType::Uints,
            "[]float" => AttributeType::Floats,
            "[]string" => AttributeType::Strings,
            "[]uuid" => AttributeType::Uuids,
            "[]datetime" => AttributeType::DateTimes,
            "{}f16" => AttributeType::Sparse,
            _ => {
                let one = text.strip_prefix("[]");
                let (dims, element) = one.unwrap_or(text).strip_prefix('[')?.split_once(']')?;
                let element = match element {
                    "f32" => Element::F32,
                    "f16" => Element::F16,
                    "i8" => Element::I8,
                    _ => return None,
                };
                let dims = dims.parse().ok().filter(|n| (1..=DIMS_MAX).contains(n))?;
                match one {
                    None => AttributeType::Vector { dims, element },
                    Some(_) if element == Element::F32 => AttributeType::Multivector { dims },
                    Some(_) => return None,
                }
            }
        })
    }
}

impl fmt::Display for AttributeType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AttributeType::Bool => "bool",
            AttributeType::Int => "int",
            AttributeType::Uint => "uint",
            AttributeType::Float => "float",
            AttributeType::String => "string",
            AttributeType::Uuid => "uuid",
            AttributeType::DateTime => "datetime",
            AttributeType::Bytes => "bytes",
            AttributeType::Bools => "[]bool",
            AttributeType::Ints => "[]int",
            AttributeType::Uints => "[]uint",
            AttributeType::Floats => "[]float",
            AttributeType::Strings => "[]string",
            AttributeType::Uuids => "[]uuid",
            AttributeType::DateTimes => "[]datetime",
            AttributeType::Sparse => "{}f16",
            AttributeType::Vector { dims, element } => return write!(f, "[{dims}]{}", element.name()),
            AttributeType::Multivector { dims } => return write!(f, "[][{dims}]f32"),
        })
    }
}

impl Serialize for AttributeType {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for AttributeType {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        AttributeType::parse(&text)
            .ok_or_else(|| serde::de::Error::custom(format!("unknown attribute type {text:?}")))
    }
}

impl Element {
    pub fn name(self) -> &'static str {
        match self {
            Element::F32 => "f32",
            Element::F16 => "f16",
            Element::I8 => "i8",
        }
    }

    pub fn bytes(self) -> usize {
        match self {
            Element::F32 => 4,
            Element::F16 => 2,
            Element::I8 => 1,
        }
    }
}

impl Metric {
    pub fn name(self) -> &'static str {
        match self {
            Metric::CosineDistance => "cosine_distance",
            Metric::EuclideanSquared => "euclidean_squared",
            Metric::DotProduct => "dot_product",
        }
    }
}
