//! Takes JSON apart and says, in serde's words and with a path, where its shape is wrong.

use std::fmt;

use serde_json::{Map, Value as Json};

use crate::error::{Error, Result};

/// How much of a value errors show.
const SHOWN_CHARS: usize = 60;

/// Reads a body. The parser's own bound on nesting (128) is the depth limit.
pub fn parse(body: &[u8]) -> Result<Json> {
    serde_json::from_slice(body)
        .map_err(|error| Error::invalid(format!("Failed to parse the request body as JSON: {error}")))
}

/// A 422: well-formed JSON of the wrong shape at `path`.
pub fn wrong(path: &str, message: impl fmt::Display) -> Error {
    let at = if path.is_empty() { String::new() } else { format!("{path}: ") };
    Error::invalid(format!("Failed to deserialize the JSON body into the target type: {at}{message}"))
        .with_code("unprocessable")
}

/// What serde calls a value that it did not expect.
pub fn unexpected(json: &Json) -> String {
    match json {
        Json::Null => "null".into(),
        Json::Bool(b) => format!("boolean `{b}`"),
        Json::Number(n) if n.is_f64() => format!("floating point `{n}`"),
        Json::Number(n) => format!("integer `{n}`"),
        Json::String(s) => format!("string {s:?}"),
        Json::Array(_) => "sequence".into(),
        Json::Object(_) => "map".into(),
    }
}

/// The beginning of a JSON text, for errors to show.
pub fn brief(json: &Json) -> String {
    let text = json.to_string();
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

fn mismatch(path: &str, json: &Json, expected: &str) -> Error {
    wrong(path, format!("invalid type: {}, expected {expected}", unexpected(json)))
}

pub fn map(path: &str, json: Json, expected: &str) -> Result<Map<String, Json>> {
    match json {
        Json::Object(map) => Ok(map),
        other => Err(mismatch(path, &other, expected)),
    }
}

pub fn sequence(path: &str, json: Json) -> Result<Vec<Json>> {
    match json {
        Json::Array(items) => Ok(items),
        other => Err(mismatch(path, &other, "a sequence")),
    }
}

pub fn string(path: &str, json: Json) -> Result<String> {
    match json {
        Json::String(text) => Ok(text),
        other => Err(mismatch(path, &other, "a string")),
    }
}

pub fn strings(path: &str, json: Json) -> Result<Vec<String>> {
    sequence(path, json)?.into_iter().enumerate().map(|(at, item)| string(&format!("{path}[{at}]"), item)).collect()
}

pub fn boolean(path: &str, json: &Json) -> Result<bool> {
    json.as_bool().ok_or_else(|| mismatch(path, json, "a boolean"))
}

pub fn unsigned(path: &str, json: &Json) -> Result<u32> {
    match json.as_u64().map(u32::try_from) {
        Some(Ok(n)) => Ok(n),
        Some(Err(_)) => Err(wrong(path, format!("invalid value: integer `{json}`, expected u32"))),
        None if json.is_i64() => Err(wrong(path, format!("invalid value: integer `{json}`, expected u32"))),
        None => Err(mismatch(path, json, "u32")),
    }
}

pub fn number(path: &str, json: &Json) -> Result<f64> {
    json.as_f64().ok_or_else(|| mismatch(path, json, "f64"))
}

/// One of a closed set of words.
pub fn variant<T: Copy>(path: &str, json: &Json, variants: &[(&str, T)]) -> Result<T> {
    let Json::String(text) = json else { return Err(mismatch(path, json, "a string")) };
    if let Some((_, value)) = variants.iter().find(|(name, _)| name == text) {
        return Ok(*value);
    }
    let names: Vec<String> = variants.iter().map(|(name, _)| format!("`{name}`")).collect();
    let expected = match names.as_slice() {
        [a, b] => format!("{a} or {b}"),
        [one] => one.clone(),
        many => format!("one of {}", many.join(", ")),
    };
    Err(wrong(path, format!("unknown variant `{text}`, expected {expected}")))
}

/// Takes a field out of an object; `null` counts as absent.
pub fn take(map: &mut Map<String, Json>, key: &str) -> Option<Json> {
    map.remove(key).filter(|json| !json.is_null())
}

/// Refuses what is left of a body. Ours are strict: a misspelt field must not be taken for done.
pub fn refuse_unknown(rest: &Map<String, Json>, expected: &str) -> Result<()> {
    match rest.keys().next() {
        None => Ok(()),
        Some(field) => Err(wrong("", format!("unknown field `{field}`, expected one of {expected}"))),
    }
}
