//! Prints answers: text as it is, JSON for scripts, tables for people.

use std::io::{ErrorKind, Write};

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde_json::Value;

use crate::error::{Context, Error, Result};

/// Writes to standard output. A reader that went away, such as `head`, is not an error.
pub(super) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other.context(|| "write to standard output"),
    }
}

/// Indented JSON and a line break.
pub(super) fn print_json(value: &Value) -> Result<()> {
    let text =
        serde_json::to_string_pretty(value).map_err(|error| Error::internal(format!("print JSON: {error}")))?;
    print(&format!("{text}\n"))
}

/// `key  value` lines of an object, nested keys joined with dots.
pub(super) fn print_pairs(value: &Value) -> Result<()> {
    let mut table = Table::new();
    table.load_style(NOTHING);
    add_pairs(&mut table, "", value);
    print(&format!("{table}\n"))
}

fn add_pairs(table: &mut Table, path: &str, value: &Value) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                add_pairs(table, &path, value);
            }
        }
        other => {
            table.add_row([path, &cell(other)]);
        }
    }
}

/// Search results, one a line: score first, then the id, then the other attributes but vectors.
pub(super) fn rows_table(rows: &[Value]) -> String {
    let mut columns = vec!["$dist".to_owned(), "id".to_owned()];
    for key in rows.iter().filter_map(Value::as_object).flat_map(serde_json::Map::keys) {
        if !columns.contains(key) && key != "vector" {
            columns.push(key.clone());
        }
    }
    if rows.iter().all(|row| row.get("$dist").is_none()) {
        columns.remove(0);
    }
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(&columns);
    for row in rows {
        table.add_row(columns.iter().map(|column| row.get(column).map(cell).unwrap_or_default()));
    }
    table.to_string()
}

/// The longest text a table cell shows, in characters.
const CELL_CHARACTERS_MAX: usize = 72;

fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => format!("{:.4}", number.as_f64().unwrap_or_default()),
        other => other.to_string(),
    };
    // A stored text must not be able to steer the terminal.
    let mut plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if let Some((cut, _)) = plain.char_indices().nth(CELL_CHARACTERS_MAX) {
        plain.truncate(cut);
        plain.push('…');
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_text_cannot_steer_the_terminal() {
        assert_eq!(cell(&Value::String("a\u{1b}[2Jb".into())), "a [2Jb");
    }

    #[test]
    fn the_score_comes_first_and_vectors_are_left_out() {
        let rows = [serde_json::json!({"id": 1, "vector": [1], "title": "t", "$dist": 0.5})];
        let table = rows_table(&rows);
        assert!(table.contains("0.5000") && table.contains('t') && !table.contains("[1]"), "{table}");
    }
}
