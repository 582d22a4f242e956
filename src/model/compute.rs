//! Values that a query computes for the rows of its answer.

use serde_json::Value as Json;

use super::query::Clause;

/// What stands for the text of a fragment in a clause that ranks fragments.
pub const FRAGMENT: &str = "$fragment";

/// What is computed of a document.
#[derive(Clone, Debug)]
pub enum Compute {
    /// A score, of the document by itself: text as if no other document had its terms, and all were one token long.
    Score(Clause),
    /// How far a vector attribute is from a vector.
    Distance { attribute: String, vector: Json },
    /// The parts of a text that fit a query best.
    Highlight(Highlight),
}

#[derive(Clone, Debug)]
pub struct Highlight {
    pub attribute: String,
    pub fragment_by: FragmentBy,
    /// The most fragments of one document.
    pub limit: u32,
    /// What positions are counted in, when they are asked for.
    pub offsets: Option<OffsetUnit>,
    /// Scores a fragment, which it calls [`FRAGMENT`]; the query's own clauses over the attribute when `None`.
    pub rank_by: Option<Clause>,
}

/// What a text is taken apart into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FragmentBy {
    /// Nothing: the whole text is one fragment.
    None,
    Sentence,
    Paragraph,
    Word,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetUnit {
    Utf8,
    Utf16,
    Codepoints,
}

/// A computed value.
#[derive(Clone, Debug, PartialEq)]
pub enum Computed {
    Number(f32),
    /// Best first.
    Fragments(Vec<Fragment>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Fragment {
    pub text: String,
    /// Where it is in its text, and where in that text the query's terms are; when asked for.
    pub places: Option<(Span, Vec<Span>)>,
    /// Which string of an array it is from.
    pub array_index: Option<u32>,
}

/// From the first up to but not including the second.
pub type Span = (u32, u32);

impl Computed {
    /// Logical size in bytes, as billing counts it.
    pub fn logical_bytes(&self) -> u64 {
        match self {
            Computed::Number(_) => 4,
            Computed::Fragments(fragments) => fragments.iter().map(|fragment| fragment.text.len() as u64).sum(),
        }
    }
}
