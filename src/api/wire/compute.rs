//! Computed attributes: expressions from JSON, and their values as JSON.

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value as Json;

use super::rank::{parse_clause, parse_rank, refuse_embed};
use super::shape::{brief, map, refuse_unknown, take, unsigned, variant, wrong};
use crate::error::{Error, Result};
use crate::model::compute::{Compute, Computed, Fragment, FragmentBy, Highlight, OffsetUnit};
use crate::model::query::Rank;
use crate::model::schema::ATTRIBUTE_NAME_BYTES_MAX;

/// The most computed attributes of one query.
pub const COMPUTED_MAX: usize = 256;
/// The most fragments of one highlight.
pub const FRAGMENTS_MAX: u32 = 1_024;
const FRAGMENTS_DEFAULT: u32 = 3;

/// Reads `compute_attributes`: names and expressions, in the request's order. Errors carry `path`.
pub fn parse_compute(path: &str, json: Json) -> Result<Vec<(String, Compute)>> {
    let expressions = map(path, json, "a map")?;
    if expressions.len() > COMPUTED_MAX {
        return Err(Error::invalid(format!(
            "{path}: at most {COMPUTED_MAX} computed attributes, got {}",
            expressions.len()
        )));
    }
    let mut clauses = 0;
    let mut read = |(name, json): (String, Json)| {
        if name.is_empty() || name.len() > ATTRIBUTE_NAME_BYTES_MAX || name.starts_with('$') || name == "id" {
            return Err(Error::invalid(format!(
                "{path}: computed attribute {name:?} has no good name, expected 1 to {ATTRIBUTE_NAME_BYTES_MAX} bytes \
                 that are not `id` and do not begin with `$`"
            )));
        }
        let compute = expression(&format!("{path}.{name}"), &name, json, &mut clauses)?;
        Ok((name, compute))
    };
    expressions.into_iter().map(&mut read).collect()
}

fn expression(path: &str, name: &str, json: Json, clauses: &mut usize) -> Result<Compute> {
    let items = json.as_array().map_or(&[][..], Vec::as_slice);
    match items {
        [Json::String(op), Json::String(attribute), options @ ..] if op == "Highlight" && options.len() <= 1 => {
            let options = options.first().cloned().unwrap_or_default();
            highlight(path, name, attribute, options, clauses).map(Compute::Highlight)
        }
        [Json::String(attribute), Json::String(op), vector] if op == "VectorDist" => {
            refuse_embed(vector)?;
            Ok(Compute::Distance { attribute: attribute.clone(), vector: vector.clone() })
        }
        [_, ..] => match parse_rank(path, json, clauses)? {
            Rank::Score(clause) => Ok(Compute::Score(clause)),
            Rank::Ann { attribute, vector } | Rank::Knn { attribute, vector } => {
                Ok(Compute::Distance { attribute, vector })
            }
            Rank::Attributes(_) => {
                Err(Error::invalid(format!("{path}: an order of attributes has no value, expected a score")))
            }
        },
        [] => Err(wrong(path, "data did not match any variant of untagged enum ComputeAttributeInput").with_hint(
            format!(
                "expected [\"Highlight\", attribute], [attribute, \"VectorDist\", vector] or a score, got {}",
                brief(&json)
            ),
        )),
    }
}

fn highlight(path: &str, name: &str, attribute: &str, options: Json, clauses: &mut usize) -> Result<Highlight> {
    let mut options = if options.is_null() { Default::default() } else { map(path, options, "a map")? };
    let at = |key: &str| format!("{path}.{key}");
    let units = [("utf-8", OffsetUnit::Utf8), ("utf-16", OffsetUnit::Utf16), ("codepoints", OffsetUnit::Codepoints)];
    let fragments = [
        ("none", FragmentBy::None),
        ("sentence", FragmentBy::Sentence),
        ("paragraph", FragmentBy::Paragraph),
        ("word", FragmentBy::Word),
    ];
    let fragment_by = take(&mut options, "fragment_by")
        .map(|json| variant(&at("fragment_by"), &json, &fragments))
        .transpose()?
        .unwrap_or(FragmentBy::Sentence);
    let offsets = take(&mut options, "include_offsets")
        .map(|json| variant(&at("include_offsets"), &json, &units))
        .transpose()?;
    let limit = take(&mut options, "fragment_limit")
        .map(|json| unsigned(&at("fragment_limit"), &json))
        .transpose()?
        .unwrap_or(FRAGMENTS_DEFAULT);
    let rank_by = take(&mut options, "rank_fragments_by")
        .map(|json| parse_clause(&at("rank_fragments_by"), json, clauses))
        .transpose()?;
    refuse_unknown(&options, "`rank_fragments_by`, `fragment_by`, `fragment_limit`, `include_offsets`")?;
    if !(1..=FRAGMENTS_MAX).contains(&limit) {
        return Err(Error::invalid(format!(
            "computed attribute `{name}`: `fragment_limit` must be between 1 and {FRAGMENTS_MAX}"
        )));
    }
    Ok(Highlight { attribute: attribute.to_owned(), fragment_by, limit, offsets, rank_by })
}

/// A computed value in an answer.
pub struct ComputedAnswer<'a>(pub &'a Computed);

impl Serialize for ComputedAnswer<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Computed::Number(number) => serializer.serialize_f32(*number),
            Computed::Fragments(fragments) => serializer.collect_seq(fragments.iter().map(FragmentAnswer)),
        }
    }
}

struct FragmentAnswer<'a>(&'a Fragment);

impl Serialize for FragmentAnswer<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_map(None)?;
        out.serialize_entry("text", &self.0.text)?;
        if let Some((fragment, matches)) = &self.0.places {
            out.serialize_entry("fragment_range", fragment)?;
            out.serialize_entry("match_ranges", matches)?;
        }
        if let Some(index) = self.0.array_index {
            out.serialize_entry("array_index", &index)?;
        }
        out.end()
    }
}
