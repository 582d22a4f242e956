//! Whether one document matches a filter: rows that are in memory, and conditions of writes.

use std::cmp::Ordering;

use uuid::Uuid;

use super::fuzzy;
use super::texts::Texts;
use crate::engine::analyzers::Analyzers;
use crate::error::Result;
use crate::model::document::Document;
use crate::model::filter::{Filter, IdTest, Order, Pattern, Test};
use crate::model::ids::DocId;
use crate::model::schema::{ColumnUid, Schema};
use crate::model::value::Value;
use crate::platform::allowance::Allowance;
use crate::segment::text::terms::DocTerms;

/// Whether `document` matches, however long that takes. `terms` are the document's, where the caller has them; a full-text column
/// that is not among them is analysed. Who tests many documents calls [`matches_with`] and keeps the analyzers.
pub fn matches(
    filter: &Filter,
    schema: &Schema,
    document: &Document,
    terms: &[(ColumnUid, DocTerms)],
) -> Result<bool> {
    matches_with(filter, schema, document, &mut Texts::of(terms), &mut Analyzers::new(), &Allowance::unlimited())
}

/// [`matches`], with the document's texts as far as they are analysed, with analyzers that are kept from one document to the next,
/// and within an allowance: it is asked before each test, in proportion to the value that the test goes through.
pub fn matches_with(
    filter: &Filter,
    schema: &Schema,
    document: &Document,
    texts: &mut Texts<'_>,
    analyzers: &mut Analyzers,
    allowance: &Allowance,
) -> Result<bool> {
    Ok(match filter {
        Filter::All => true,
        Filter::None => false,
        Filter::And(all) => {
            for filter in all {
                if !matches_with(filter, schema, document, texts, analyzers, allowance)? {
                    return Ok(false);
                }
            }
            true
        }
        Filter::Or(any) => {
            for filter in any {
                if matches_with(filter, schema, document, texts, analyzers, allowance)? {
                    return Ok(true);
                }
            }
            false
        }
        Filter::Not(inner) => !matches_with(inner, schema, document, texts, analyzers, allowance)?,
        Filter::Id(test) => {
            allowance.look_at(0)?;
            matches_id(test, &document.id)
        }
        Filter::Column(column, test) => {
            let value = document.get(*column);
            allowance.look_at(value.map_or(0, Value::logical_bytes) as usize)?;
            match (test, value) {
                (Test::Tokens(test), Some(value)) => {
                    let options = schema.column_by_uid(*column).and_then(|column| column.full_text.as_ref());
                    match options {
                        Some(options) => texts.pass(test, *column, options, value, analyzers, allowance)?,
                        None => false,
                    }
                }
                (test, value) => matches_value(test, value, allowance)?,
            }
        }
    })
}

/// Whether an id passes a test.
pub fn matches_id(test: &IdTest, id: &DocId) -> bool {
    match test {
        IdTest::In(ids) => ids.binary_search(id).is_ok(),
        IdTest::Compare(order, bound) => holds(*order, id.cmp(bound)),
    }
}

/// Whether a column's value passes a test; `None` is an absent value. Tests of tokens need the column's analyzer and never
/// pass here.
pub fn matches_value(test: &Test, value: Option<&Value>, allowance: &Allowance) -> Result<bool> {
    Ok(match (test, value) {
        (Test::Null, value) => value.is_none(),
        // An absent value sorts below all others.
        (Test::Compare(order, _), None) => matches!(order, Order::Lt | Order::Lte),
        (_, None) | (Test::Tokens(_), _) => false,
        (Test::AnyOf(operands), Some(value)) => any_element(value, |element| {
            let place = |operand: &Value| Scalar::of(operand).map_or(Ordering::Less, |o| o.order(&element));
            operands.binary_search_by(place).is_ok()
        }),
        (Test::Compare(order, operand) | Test::AnyCompare(order, operand), Some(value)) => {
            let Some(operand) = Scalar::of(operand) else { return Ok(false) };
            any_element(value, |element| element.is_like(&operand) && holds(*order, element.order(&operand)))
        }
        (Test::Pattern(pattern), Some(Value::String(text))) => matches_text(pattern, text, allowance)?,
        (Test::Pattern(pattern), Some(Value::Strings(texts))) => {
            for text in texts {
                if matches_text(pattern, text, allowance)? {
                    return Ok(true);
                }
            }
            false
        }
        (Test::Pattern(_), Some(_)) => false,
        (Test::Equals(operand), Some(value)) => value == operand,
    })
}

/// Whether a text matches a pattern. A text and a pattern may take minutes, so the allowance is asked within it.
pub fn matches_text(pattern: &Pattern, text: &str, allowance: &Allowance) -> Result<bool> {
    match pattern {
        Pattern::Glob(matcher, _) | Pattern::Regex(matcher) => {
            matcher.is_match(text, |bytes| allowance.look_at(bytes))
        }
        Pattern::Fuzzy(query) => fuzzy::matches(query, text, allowance),
    }
}

/// Whether two values of one type are in this order: bools false first, numbers numerically, strings and UUIDs bytewise.
/// Values that are no scalars, and values of two types, are in an order that is total but means nothing.
pub fn order_values(a: &Value, b: &Value) -> Ordering {
    match (Scalar::of(a), Scalar::of(b)) {
        (Some(a), Some(b)) => a.order(&b),
        (a, b) => a.is_some().cmp(&b.is_some()),
    }
}

fn holds(order: Order, is: Ordering) -> bool {
    match order {
        Order::Lt => is.is_lt(),
        Order::Lte => is.is_le(),
        Order::Gt => is.is_gt(),
        Order::Gte => is.is_ge(),
    }
}

/// A scalar, or one element of an array, without its owner.
#[derive(Clone, Copy)]
enum Scalar<'a> {
    Bool(bool),
    Int(i64),
    Uint(u64),
    Float(f64),
    String(&'a str),
    Uuid(Uuid),
    DateTime(i64),
}

impl<'a> Scalar<'a> {
    fn of(value: &'a Value) -> Option<Self> {
        Some(match value {
            Value::Bool(v) => Scalar::Bool(*v),
            Value::Int(v) => Scalar::Int(*v),
            Value::Uint(v) => Scalar::Uint(*v),
            Value::Float(v) => Scalar::Float(*v),
            Value::String(v) => Scalar::String(v),
            Value::Uuid(v) => Scalar::Uuid(*v),
            Value::DateTime(v) => Scalar::DateTime(*v),
            _ => return None,
        })
    }

    fn rank(&self) -> u8 {
        match self {
            Scalar::Bool(_) => 0,
            Scalar::Int(_) => 1,
            Scalar::Uint(_) => 2,
            Scalar::Float(_) => 3,
            Scalar::String(_) => 4,
            Scalar::Uuid(_) => 5,
            Scalar::DateTime(_) => 6,
        }
    }

    fn is_like(&self, other: &Scalar<'_>) -> bool {
        self.rank() == other.rank()
    }

    fn order(&self, other: &Scalar<'_>) -> Ordering {
        match (self, other) {
            (Scalar::Bool(a), Scalar::Bool(b)) => a.cmp(b),
            (Scalar::Int(a), Scalar::Int(b)) | (Scalar::DateTime(a), Scalar::DateTime(b)) => a.cmp(b),
            (Scalar::Uint(a), Scalar::Uint(b)) => a.cmp(b),
            // Adding 0 makes one zero of the two, as attribute indexes do.
            (Scalar::Float(a), Scalar::Float(b)) => (a + 0.0).total_cmp(&(b + 0.0)),
            (Scalar::String(a), Scalar::String(b)) => a.cmp(b),
            (Scalar::Uuid(a), Scalar::Uuid(b)) => a.as_bytes().cmp(b.as_bytes()),
            (a, b) => a.rank().cmp(&b.rank()),
        }
    }
}

fn any_element<'a>(value: &'a Value, mut test: impl FnMut(Scalar<'a>) -> bool) -> bool {
    match value {
        Value::Bools(v) => v.iter().any(|x| test(Scalar::Bool(*x))),
        Value::Ints(v) => v.iter().any(|x| test(Scalar::Int(*x))),
        Value::Uints(v) => v.iter().any(|x| test(Scalar::Uint(*x))),
        Value::Floats(v) => v.iter().any(|x| test(Scalar::Float(*x))),
        Value::Strings(v) => v.iter().any(|x| test(Scalar::String(x))),
        Value::Uuids(v) => v.iter().any(|x| test(Scalar::Uuid(*x))),
        Value::DateTimes(v) => v.iter().any(|x| test(Scalar::DateTime(*x))),
        scalar => Scalar::of(scalar).is_some_and(test),
    }
}

#[cfg(test)]
mod tests {
    use super::{matches, order_values};
    use crate::engine::analyzers::Analyzers;
    use crate::engine::filter::bind::bind_for_write;
    use crate::engine::write::typing;
    use crate::model::document::Document;
    use crate::model::filter::{Expr, ExprLeaf};
    use crate::model::ids::{DocId, Version};
    use crate::model::schema::{AttributeType, Column, FullText, Schema, Tokenizer};
    use crate::model::value::Value;
    use crate::platform::allowance::Allowance;
    use serde_json::{Value as Json, json};

    fn schema() -> Schema {
        let column = |name: &str, kind: &str| Column::new(name, AttributeType::parse(kind).unwrap(), 0);
        let text = Column { full_text: Some(FullText::default()), ..column("text", "string") };
        let words = FullText { tokenizer: Tokenizer::PreTokenizedArray, ..FullText::default() };
        Schema {
            columns: vec![
                column("n", "int"),
                column("x", "float"),
                column("s", "string"),
                column("t", "datetime"),
                column("u", "uuid"),
                column("ok", "bool"),
                column("tags", "[]string"),
                column("counts", "[]uint"),
                text,
                Column { full_text: Some(words), ..column("words", "[]string") },
                Column { regex: true, ..column("path", "string") },
            ],
            ..Schema::default()
        }
    }

    fn document(fields: Json) -> Document {
        let schema = schema();
        let mut document =
            Document { id: DocId::Uint(7), version: Version::default(), fields: Vec::new(), patch: None };
        for (name, json) in fields.as_object().unwrap() {
            let column = schema.column(name).unwrap();
            let value = typing::value(column.kind, json, &mut Vec::new()).unwrap();
            document.set(column.uid(), Some(value));
        }
        document
    }

    fn leaf(filter: &Json) -> Expr {
        Expr::Leaf(ExprLeaf {
            attribute: filter[0].as_str().unwrap().into(),
            op: filter[1].as_str().unwrap().into(),
            operand: filter[2].clone(),
            params: filter.get(3).cloned(),
        })
    }

    /// Both with the document's terms and without.
    fn passes(fields: Json, filter: Json) -> bool {
        let schema = schema();
        let document = document(fields);
        let bound = bind_for_write(&leaf(&filter), &schema, &Allowance::unlimited())
            .unwrap_or_else(|error| panic!("{filter}: {error}"));
        let terms: Vec<_> = schema
            .columns
            .iter()
            .filter_map(|c| {
                let (options, value) = (c.full_text.as_ref()?, document.get(c.uid())?);
                Some((c.uid(), Analyzers::new().terms(options, value)))
            })
            .collect();
        let without = matches(&bound, &schema, &document, &[]).unwrap();
        assert_eq!(matches(&bound, &schema, &document, &terms).unwrap(), without, "{filter}");
        without
    }

    fn check(fields: Json, cases: &[(Json, bool)]) {
        for (filter, expected) in cases {
            assert_eq!(passes(fields.clone(), filter.clone()), *expected, "{fields} {filter}");
        }
    }

    #[test]
    fn scalars_compare_in_their_type() {
        check(
            json!({"n": 5, "x": -0.0, "s": "b", "t": "2024-01-01", "u": "769c134d-07b8-4225-954a-b6cc5ffc320c", "ok": true}),
            &[
                (json!(["n", "Eq", 5]), true),
                (json!(["n", "Eq", 5.0]), true),
                (json!(["n", "NotEq", 5]), false),
                (json!(["n", "In", [9, 5, 1, 5]]), true),
                (json!(["n", "In", 5]), true),
                (json!(["n", "NotIn", [1, 2]]), true),
                (json!(["n", "In", []]), false),
                (json!(["n", "Lt", 5]), false),
                (json!(["n", "Lte", 5]), true),
                (json!(["n", "Gt", 4]), true),
                (json!(["n", "Gte", 6]), false),
                (json!(["x", "Eq", 0]), true),
                (json!(["x", "Gte", 0]), true),
                (json!(["x", "Lt", 0]), false),
                (json!(["s", "Gt", "a"]), true),
                (json!(["s", "Lt", "B"]), false),
                (json!(["t", "Eq", "2024-01-01T00:00:00Z"]), true),
                (json!(["t", "Gt", "2023-12-31T23:59:59.999Z"]), true),
                (json!(["u", "Eq", "769C134D-07B8-4225-954A-B6CC5FFC320C"]), true),
                (json!(["ok", "Eq", true]), true),
                (json!(["ok", "Gt", false]), true),
                (json!(["n", "Eq", null]), false),
                (json!(["n", "NotEq", null]), true),
            ],
        );
    }

    #[test]
    fn an_absent_value_is_null_which_sorts_below_everything() {
        check(
            json!({}),
            &[
                (json!(["n", "Eq", null]), true),
                (json!(["n", "NotEq", null]), false),
                (json!(["n", "Eq", 1]), false),
                (json!(["n", "NotEq", 1]), true),
                (json!(["n", "NotIn", [1]]), true),
                (json!(["n", "Lt", -9]), true),
                (json!(["n", "Lte", -9]), true),
                (json!(["n", "Gt", -9]), false),
                (json!(["n", "Lt", null]), false),
                (json!(["n", "Lte", null]), true),
                (json!(["n", "Gt", null]), false),
                (json!(["n", "Gte", null]), true),
                (json!(["tags", "Contains", "a"]), false),
                (json!(["tags", "NotContains", "a"]), true),
                (json!(["tags", "NotContainsAny", ["a"]]), true),
                (json!(["counts", "AnyLt", 9]), false),
                (json!(["s", "Glob", "*"]), false),
                (json!(["s", "NotGlob", "*"]), true),
                (json!(["text", "ContainsAllTokens", "a"]), false),
            ],
        );
    }

    #[test]
    fn arrays_match_by_their_elements() {
        check(
            json!({"tags": ["go", "rust"], "counts": [3, 8]}),
            &[
                (json!(["tags", "Contains", "rust"]), true),
                (json!(["tags", "NotContains", "rust"]), false),
                (json!(["tags", "ContainsAny", ["c", "go"]]), true),
                (json!(["tags", "ContainsAny", []]), false),
                (json!(["tags", "NotContainsAny", ["c"]]), true),
                (json!(["tags", "In", "go"]), true),
                (json!(["tags", "In", ["c"]]), false),
                (json!(["tags", "Eq", ["go", "rust"]]), true),
                (json!(["tags", "Eq", ["rust", "go"]]), false),
                (json!(["tags", "Glob", "ru*"]), true),
                (json!(["counts", "AnyLt", 4]), true),
                (json!(["counts", "AnyGt", 8]), false),
                (json!(["counts", "AnyGte", 8]), true),
                (json!(["counts", "AnyLte", 2]), false),
            ],
        );
    }

    #[test]
    fn patterns_match_text() {
        check(
            json!({"path": "src/Main.rs", "s": "src/Main.rs"}),
            &[
                (json!(["s", "Glob", "src/*.rs"]), true),
                (json!(["s", "Glob", "SRC/*"]), false),
                (json!(["s", "IGlob", "SRC/*"]), true),
                (json!(["s", "NotIGlob", "SRC/*"]), false),
                (json!(["s", "Glob", "*.{c,rs}"]), true),
                (json!(["s", "Glob", "src/[A-Z]ain.r?"]), true),
                (json!(["path", "Regex", "M.i"]), true),
                (json!(["path", "Regex", "^Main"]), false),
                (json!(["path", "Regex", "(?i)main\\.RS$"]), true),
            ],
        );
    }

    #[test]
    fn tokens_match_analysed_text() {
        check(
            json!({"text": "Walruses are large marine mammals", "words": ["Jumped", "over"]}),
            &[
                (json!(["text", "ContainsAllTokens", "MARINE large"]), true),
                (json!(["text", "ContainsAllTokens", ["marine", "large mammals"]]), true),
                (json!(["text", "ContainsAllTokens", "marine short"]), false),
                (json!(["text", "ContainsAllTokens", "large mar", {"last_as_prefix": true}]), true),
                (json!(["text", "ContainsAllTokens", "large mar"]), false),
                (json!(["text", "ContainsAllTokens", ""]), true),
                (json!(["text", "ContainsAnyToken", "short marine"]), true),
                (json!(["text", "ContainsAnyToken", "short mam", {"last_as_prefix": true}]), true),
                (json!(["text", "ContainsAnyToken", "short mam"]), false),
                (json!(["text", "ContainsAnyToken", ""]), false),
                (json!(["text", "ContainsTokenSequence", "large marine"]), true),
                (json!(["text", "ContainsTokenSequence", "marine large"]), false),
                (json!(["text", "ContainsTokenSequence", "large mar", {"last_as_prefix": true}]), true),
                (json!(["text", "ContainsTokenSequence", "marine"]), true),
                (json!(["words", "ContainsAllTokens", ["over", "Jumped"]]), true),
                (json!(["words", "ContainsAllTokens", ["jumped"]]), false),
                (json!(["words", "ContainsTokenSequence", ["Jumped", "over"]]), true),
            ],
        );
    }

    #[test]
    fn ids_are_tested_like_scalars() {
        let schema = Schema { id_type: Some(crate::model::ids::IdType::Uint), ..schema() };
        let document = document(json!({}));
        for (filter, expected) in [
            (json!(["id", "Eq", 7]), true),
            (json!(["id", "NotEq", 7]), false),
            (json!(["id", "In", [1, 7, 9]]), true),
            (json!(["id", "NotIn", [7]]), false),
            (json!(["id", "Gt", 6]), true),
            (json!(["id", "Lte", 6]), false),
            (json!(["id", "Eq", null]), false),
            (json!(["id", "NotEq", null]), true),
            (json!(["id", "Gt", null]), true),
            (json!(["id", "Lt", null]), false),
        ] {
            let bound = bind_for_write(&leaf(&filter), &schema, &Allowance::unlimited()).unwrap();
            assert_eq!(matches(&bound, &schema, &document, &[]).unwrap(), expected, "{filter}");
        }
    }

    #[test]
    fn values_of_two_types_never_match() {
        assert!(order_values(&Value::Int(1), &Value::Uint(1)).is_ne());
    }
}
