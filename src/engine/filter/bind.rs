//! Filters bound to a schema: names become columns, operands take the columns' types, operators are checked.

use serde_json::Value as Json;

use super::matches::order_values;
use super::{fuzzy, glob, patterns};
use crate::engine::analyzers::Analyzers;
use crate::engine::write::typing;
use crate::error::{Error, Result};
use crate::model::document::Document;
use crate::model::filter::{Expr, ExprLeaf, Filter, IdTest, Order, Pattern, Test, TokenMode, TokenTest};
use crate::model::ids::{DocId, IdType};
use crate::model::matcher::{Reading, Refusal};
use crate::model::schema::{AttributeType, Column, FullText, Schema, Tokenizer};
use crate::model::value::Value;
use crate::model::value_render;
use crate::platform::allowance::Allowance;

/// The longest pattern of `Glob` and `Regex`, in bytes.
pub const PATTERN_BYTES_MAX: usize = 4_096;
/// What the patterns of a write's filter or condition, and the values that it refers to, may take together, in bytes.
const WRITE_BYTES_MAX: u64 = 64 << 20;
/// The key of an operand that stands for an incoming value.
const REF_NEW: &str = "$ref_new";

/// Every operator, as errors list them.
const OPERATORS: &str = "Eq, NotEq, In, NotIn, Contains, NotContains, ContainsAny, NotContainsAny, Lt, Lte, Gt, Gte, \
                         AnyLt, AnyLte, AnyGt, AnyGte, Glob, NotGlob, IGlob, NotIGlob, Regex, Fuzzy, ContainsAllTokens, \
                         ContainsAnyToken, ContainsTokenSequence";

/// Binds a query's filter, within its allowance.
pub fn bind(expr: &Expr, schema: &Schema, allowance: &Allowance) -> Result<Filter> {
    Binder { schema, new: New::Refused, allowance }.expr(expr)
}

/// Binds the filter of a by-filter write, within the time of the write's allowance.
pub fn bind_for_write(expr: &Expr, schema: &Schema, allowance: &Allowance) -> Result<Filter> {
    bind(expr, schema, &allowance.with_bytes(WRITE_BYTES_MAX))
}

/// Binds a write's condition, within the time of the write's allowance: `{"$ref_new": "attr"}` is the value in `new`, and null where
/// that has none or there is no new document. Attributes need not be filterable, because conditions read the document itself.
pub fn bind_condition(expr: &Expr, schema: &Schema, new: Option<&Document>, allowance: &Allowance) -> Result<Filter> {
    Binder { schema, new: New::Row(new), allowance: &allowance.with_bytes(WRITE_BYTES_MAX) }.expr(expr)
}

/// Whether an expression has a `$ref_new`, so that it must be bound anew for every document.
pub fn refers_to_new(expr: &Expr) -> bool {
    match expr {
        Expr::And(all) | Expr::Or(all) => all.iter().any(refers_to_new),
        Expr::Not(inner) => refers_to_new(inner),
        Expr::Leaf(leaf) => ref_new(&leaf.operand).is_some(),
    }
}

fn ref_new(operand: &Json) -> Option<&Json> {
    operand.as_object().filter(|map| map.len() == 1).and_then(|map| map.get(REF_NEW))
}

/// What `$ref_new` may stand for.
enum New<'a> {
    Refused,
    Row(Option<&'a Document>),
}

struct Binder<'a> {
    schema: &'a Schema,
    new: New<'a>,
    allowance: &'a Allowance,
}

/// One leaf's attribute and operator, for errors.
pub(super) struct Leaf<'a> {
    pub(super) key: &'a str,
    pub(super) op: &'a str,
}

impl Leaf<'_> {
    pub(super) fn error(&self, what: impl std::fmt::Display) -> Error {
        Error::invalid(format!("filter error in key `{}`: {what}", self.key))
    }

    fn mismatch(&self, expects: impl std::fmt::Display, got: &Json) -> Error {
        self.error(format!("type mismatch, {} expects {expects}, but got '{}'", self.op, typing::show(got)))
    }
}

impl Binder<'_> {
    fn expr(&self, expr: &Expr) -> Result<Filter> {
        let bind_all = |all: &[Expr]| all.iter().map(|expr| self.expr(expr)).collect::<Result<Vec<Filter>>>();
        Ok(match expr {
            Expr::And(all) => and(bind_all(all)?),
            Expr::Or(any) => or(bind_all(any)?),
            Expr::Not(inner) => not(self.expr(inner)?),
            Expr::Leaf(leaf) => self.leaf(leaf)?,
        })
    }

    fn leaf(&self, leaf: &ExprLeaf) -> Result<Filter> {
        let at = Leaf { key: &leaf.attribute, op: &leaf.op };
        let resolved;
        let operand = match ref_new(&leaf.operand) {
            None => &leaf.operand,
            Some(name) => {
                resolved = self.resolve(&at, name)?;
                &resolved
            }
        };
        if leaf.attribute == "id" {
            no_params(&at, leaf.params.as_ref())?;
            return self.id(&at, operand);
        }
        let Some(column) = self.schema.column(&leaf.attribute) else {
            return Err(at.error("attribute not found"));
        };
        let takes_null = matches!(at.op, "Eq" | "NotEq" | "Lt" | "Lte" | "Gt" | "Gte");
        if leaf.operand.is_object() && operand.is_null() && !takes_null && is_operator(at.op) {
            // The incoming row has no such value: nothing contains it, and no pattern is it.
            return Ok(if at.op.starts_with("Not") { Filter::All } else { Filter::None });
        }
        let (indexed, allowance) = (matches!(self.new, New::Refused), self.allowance);
        ColumnBinder { at, column, indexed, allowance }.bind(operand, leaf.params.as_ref())
    }

    fn resolve(&self, at: &Leaf<'_>, name: &Json) -> Result<Json> {
        let New::Row(new) = self.new else {
            return Err(at.error("$ref_new is allowed in the conditions of writes only"));
        };
        let Some(name) = name.as_str() else {
            return Err(at.error(format!("$ref_new expects an attribute's name, but got '{}'", typing::show(name))));
        };
        if name == "id" {
            return Ok(new.map_or(Json::Null, |document| value_render::id_json(&document.id)));
        }
        let Some(column) = self.schema.column(name) else {
            return Err(at.error(format!("$ref_new refers to attribute `{name}`, which was not found")));
        };
        let value = new.and_then(|document| document.get(column.uid()));
        // Thousands of tests may each be against an array of a million elements.
        let bytes = value.map_or(0, Value::logical_bytes) as usize;
        self.allowance.look_at(bytes).and_then(|()| self.allowance.keep(bytes))?;
        Ok(value.map_or(Json::Null, |value| value_render::to_json(value, true)))
    }

    fn id(&self, at: &Leaf<'_>, operand: &Json) -> Result<Filter> {
        let one = |json: &Json, expects: &str| {
            typing::doc_id(json, self.schema.id_type).map_err(|_| at.mismatch(expects, operand))
        };
        let name = self.schema.id_type.map_or("uint or string", IdType::name);
        let compare = |order: Order| -> Result<Filter> {
            Ok(match order {
                // Ids are never null, which sorts below everything.
                Order::Lt | Order::Lte if operand.is_null() => Filter::None,
                Order::Gt | Order::Gte if operand.is_null() => Filter::All,
                order => Filter::Id(IdTest::Compare(order, one(operand, name)?)),
            })
        };
        let equals = || -> Result<Filter> {
            Ok(if operand.is_null() { Filter::None } else { ids(vec![one(operand, name)?]) })
        };
        let any_of = || -> Result<Filter> {
            let expects = format!("{name} or []{name}");
            let items = operand.as_array().map_or(std::slice::from_ref(operand), Vec::as_slice);
            Ok(ids(items.iter().map(|json| one(json, &expects)).collect::<Result<Vec<DocId>>>()?))
        };
        match at.op {
            "Eq" => equals(),
            "NotEq" => equals().map(not),
            "In" => any_of(),
            "NotIn" => any_of().map(not),
            "Lt" => compare(Order::Lt),
            "Lte" => compare(Order::Lte),
            "Gt" => compare(Order::Gt),
            "Gte" => compare(Order::Gte),
            op if is_operator(op) => Err(at.error(format!(
                "{op} does not apply to ids, expected one of Eq, NotEq, In, NotIn, Lt, Lte, Gt, Gte"
            ))),
            _ => Err(unknown(at)),
        }
    }
}

fn ids(mut ids: Vec<DocId>) -> Filter {
    ids.sort_unstable();
    ids.dedup();
    if ids.is_empty() { Filter::None } else { Filter::Id(IdTest::In(ids)) }
}

/// Whether filters have an operator of this name.
pub fn is_operator(op: &str) -> bool {
    OPERATORS.split(", ").any(|known| known == op)
}

fn unknown(at: &Leaf<'_>) -> Error {
    at.error(format!("unknown operator {}, expected one of {OPERATORS}", at.op))
}

fn no_params(at: &Leaf<'_>, params: Option<&Json>) -> Result<()> {
    match params {
        None => Ok(()),
        Some(params) => Err(at.error(format!("{} takes no options, but got '{}'", at.op, typing::show(params)))),
    }
}

/// One leaf on one column.
struct ColumnBinder<'a> {
    at: Leaf<'a>,
    column: &'a Column,
    /// Answered from indexes: what the schema does not index is refused.
    indexed: bool,
    allowance: &'a Allowance,
}

impl ColumnBinder<'_> {
    fn bind(&self, operand: &Json, params: Option<&Json>) -> Result<Filter> {
        if let Some(mode) = token_mode(self.at.op) {
            return self.tokens(mode, operand, params);
        }
        if self.at.op == "Fuzzy" {
            return self.fuzzy(operand, params);
        }
        no_params(&self.at, params)?;
        match self.at.op {
            "Eq" => self.equals(operand),
            "NotEq" => self.equals(operand).map(not),
            "In" => self.any_of(operand),
            "NotIn" => self.any_of(operand).map(not),
            "Contains" => self.contains(operand),
            "NotContains" => self.contains(operand).map(not),
            "ContainsAny" => self.contains_any(operand),
            "NotContainsAny" => self.contains_any(operand).map(not),
            "Lt" => self.compare(Order::Lt, operand),
            "Lte" => self.compare(Order::Lte, operand),
            "Gt" => self.compare(Order::Gt, operand),
            "Gte" => self.compare(Order::Gte, operand),
            "AnyLt" => self.any_compare(Order::Lt, operand),
            "AnyLte" => self.any_compare(Order::Lte, operand),
            "AnyGt" => self.any_compare(Order::Gt, operand),
            "AnyGte" => self.any_compare(Order::Gte, operand),
            "Glob" => self.glob(operand, false),
            "NotGlob" => self.glob(operand, false).map(not),
            "IGlob" => self.glob(operand, true),
            "NotIGlob" => self.glob(operand, true).map(not),
            "Regex" => self.regex(operand),
            _ => Err(unknown(&self.at)),
        }
    }

    fn test(&self, test: Test) -> Filter {
        Filter::Column(self.column.uid(), test)
    }

    fn kind(&self) -> AttributeType {
        self.column.kind
    }

    fn check_filterable(&self) -> Result<()> {
        if self.column.filterable || !self.indexed {
            return Ok(());
        }
        let kind = self.kind();
        if !kind.is_filterable() {
            return Err(self.at.error(format!("attribute is not filterable, no {kind} is")));
        }
        Err(self.at.error("attribute is not filterable").with_hint("set `filterable: true` for it in the schema"))
    }

    fn check_array(&self) -> Result<()> {
        self.check_filterable()?;
        if self.kind().is_array() {
            return Ok(());
        }
        Err(self.at.error(format!(
            "type mismatch, {} expects an array attribute, but it is {}",
            self.at.op,
            self.kind()
        )))
    }

    fn check_text(&self) -> Result<()> {
        if matches!(self.kind(), AttributeType::String | AttributeType::Strings) {
            return Ok(());
        }
        let op = self.at.op;
        Err(self
            .at
            .error(format!("type mismatch, {op} expects a string or []string attribute, but it is {}", self.kind())))
    }

    fn one(&self, operand: &Json) -> Result<Value> {
        let element = self.kind().element();
        typing::scalar(element, operand).ok_or_else(|| self.at.mismatch(element, operand))
    }

    fn many(&self, items: &[Json], expects: impl std::fmt::Display, operand: &Json) -> Result<Filter> {
        let element = self.kind().element();
        let values = items.iter().map(|item| typing::scalar(element, item)).collect::<Option<Vec<Value>>>();
        Ok(self.in_values(values.ok_or_else(|| self.at.mismatch(expects, operand))?))
    }

    fn in_values(&self, mut values: Vec<Value>) -> Filter {
        values.sort_by(order_values);
        values.dedup_by(|a, b| order_values(a, b).is_eq());
        if values.is_empty() { Filter::None } else { self.test(Test::AnyOf(values)) }
    }

    fn equals(&self, operand: &Json) -> Result<Filter> {
        self.check_filterable()?;
        if operand.is_null() {
            return Ok(self.test(Test::Null));
        }
        let kind = self.kind();
        if typing::is_scalar(kind) {
            return Ok(self.in_values(vec![self.one(operand)?]));
        }
        let value = typing::value(kind, operand, &mut Vec::new()).map_err(|_| self.at.mismatch(kind, operand))?;
        Ok(self.test(Test::Equals(value)))
    }

    fn any_of(&self, operand: &Json) -> Result<Filter> {
        self.check_filterable()?;
        let element = self.kind().element();
        let items = operand.as_array().map_or(std::slice::from_ref(operand), Vec::as_slice);
        self.many(items, format_args!("{element} or []{element}"), operand)
    }

    fn contains(&self, operand: &Json) -> Result<Filter> {
        self.check_array()?;
        Ok(self.in_values(vec![self.one(operand)?]))
    }

    fn contains_any(&self, operand: &Json) -> Result<Filter> {
        self.check_array()?;
        let Json::Array(items) = operand else { return Err(self.at.mismatch(self.kind(), operand)) };
        self.many(items, self.kind(), operand)
    }

    fn compare(&self, order: Order, operand: &Json) -> Result<Filter> {
        self.check_filterable()?;
        if !typing::is_scalar(self.kind()) {
            let op = self.at.op;
            return Err(self
                .at
                .error(format!("type mismatch, {op} expects a scalar attribute, but it is {}", self.kind())));
        }
        if operand.is_null() {
            // Null sorts below everything and equals itself.
            return Ok(match order {
                Order::Lt => Filter::None,
                Order::Lte => self.test(Test::Null),
                Order::Gt => not(self.test(Test::Null)),
                Order::Gte => Filter::All,
            });
        }
        Ok(self.test(Test::Compare(order, self.one(operand)?)))
    }

    fn any_compare(&self, order: Order, operand: &Json) -> Result<Filter> {
        self.check_array()?;
        Ok(self.test(Test::AnyCompare(order, self.one(operand)?)))
    }

    fn pattern<'j>(&self, operand: &'j Json) -> Result<&'j str> {
        let Some(pattern) = operand.as_str() else { return Err(self.at.mismatch("string", operand)) };
        if pattern.len() > PATTERN_BYTES_MAX {
            return Err(self.at.error(format!(
                "pattern of {} bytes is too long, expected at most {PATTERN_BYTES_MAX}",
                pattern.len()
            )));
        }
        Ok(pattern)
    }

    fn glob(&self, operand: &Json, ignore_case: bool) -> Result<Filter> {
        self.check_text()?;
        if !self.column.glob {
            self.check_filterable()?;
        }
        let pattern = self.pattern(operand)?;
        let glob = glob::compile(pattern, ignore_case, self.allowance)?;
        let glob = glob.map_err(|error| self.at.error(format!("not a glob: {error}")))?;
        let prefix = if ignore_case { String::new() } else { literal_prefix(pattern) };
        Ok(self.test(Test::Pattern(Pattern::Glob(glob, prefix))))
    }

    /// That the schema says the index `key` of the column, where filters go by indexes.
    fn check_index(&self, is_there: bool, key: &str) -> Result<()> {
        if !self.indexed || is_there {
            return Ok(());
        }
        let error = self.at.error(format!("attribute has no {key} index"));
        Err(error.with_hint(format!("set `{key}: true` for it in the schema")))
    }

    fn regex(&self, operand: &Json) -> Result<Filter> {
        self.check_text()?;
        self.check_index(self.column.regex, "regex")?;
        let regex = patterns::compile(self.pattern(operand)?, Reading::default(), self.allowance)?;
        let regex = regex.map_err(|refusal| match refusal {
            Refusal::Syntax(why) => self.at.error(format!("not a regular expression: {why}")),
            Refusal::TooLarge => {
                let max = patterns::COMPILED_BYTES_MAX;
                let error =
                    self.at.error(format!("not a regular expression: compiled it takes more than {max} bytes"));
                error.with_hint("write it shorter, with less that is repeated `{n,m}` times")
            }
        })?;
        Ok(self.test(Test::Pattern(Pattern::Regex(regex))))
    }

    fn fuzzy(&self, operand: &Json, params: Option<&Json>) -> Result<Filter> {
        self.check_text()?;
        self.check_index(self.column.fuzzy, "fuzzy")?;
        let fuzzy = fuzzy::bind(&self.at, self.pattern(operand)?, params)?;
        Ok(fuzzy.map_or(Filter::None, |fuzzy| self.test(Test::Pattern(Pattern::Fuzzy(fuzzy)))))
    }

    fn tokens(&self, mode: TokenMode, operand: &Json, params: Option<&Json>) -> Result<Filter> {
        let Some(options) = &self.column.full_text else {
            return Err(self
                .at
                .error(format!("{} needs full_text_search, which the attribute does not have", self.at.op))
                .with_hint("set `full_text_search: true` for it in the schema"));
        };
        let last_as_prefix = self.last_as_prefix(params)?;
        let tokens = self.query_tokens(options, operand)?;
        Ok(match (tokens.is_empty(), mode) {
            // Every document has all of no tokens, and none has any of them.
            (true, TokenMode::All | TokenMode::Sequence) => Filter::All,
            (true, TokenMode::Any) => Filter::None,
            (false, _) => self.test(Test::Tokens(TokenTest { mode, tokens, last_as_prefix })),
        })
    }

    fn query_tokens(&self, options: &FullText, operand: &Json) -> Result<Vec<String>> {
        let analyzed = options.tokenizer != Tokenizer::PreTokenizedArray;
        let fits = match operand {
            Json::String(_) => analyzed,
            Json::Array(items) => items.iter().all(Json::is_string),
            _ => false,
        };
        if !fits {
            return Err(self.at.mismatch(if analyzed { "string" } else { "[]string" }, operand));
        }
        Analyzers::new().get(options).query_tokens(operand)
    }

    fn last_as_prefix(&self, params: Option<&Json>) -> Result<bool> {
        let Some(params) = params else { return Ok(false) };
        let known = params.as_object().filter(|map| map.keys().all(|key| key == "last_as_prefix"));
        let flag = known.map(|map| map.get("last_as_prefix").map_or(Some(false), Json::as_bool));
        flag.flatten().ok_or_else(|| {
            let got = typing::show(params);
            self.at.error(format!("{} expects options {{\"last_as_prefix\": bool}}, but got '{got}'", self.at.op))
        })
    }
}

fn token_mode(op: &str) -> Option<TokenMode> {
    match op {
        "ContainsAllTokens" => Some(TokenMode::All),
        "ContainsAnyToken" => Some(TokenMode::Any),
        "ContainsTokenSequence" => Some(TokenMode::Sequence),
        _ => None,
    }
}

/// What every match of a glob starts with.
fn literal_prefix(pattern: &str) -> String {
    pattern.chars().take_while(|c| !matches!(c, '*' | '?' | '[' | ']' | '{' | '}' | '\\')).collect()
}

fn and(mut all: Vec<Filter>) -> Filter {
    all.retain(|filter| !matches!(filter, Filter::All));
    match all.len() {
        _ if all.iter().any(|filter| matches!(filter, Filter::None)) => Filter::None,
        0 => Filter::All,
        1 => all.remove(0),
        _ => Filter::And(all),
    }
}

fn or(mut any: Vec<Filter>) -> Filter {
    any.retain(|filter| !matches!(filter, Filter::None));
    match any.len() {
        _ if any.iter().any(|filter| matches!(filter, Filter::All)) => Filter::All,
        0 => Filter::None,
        1 => any.remove(0),
        _ => Filter::Or(any),
    }
}

fn not(filter: Filter) -> Filter {
    match filter {
        Filter::All => Filter::None,
        Filter::None => Filter::All,
        Filter::Not(inner) => *inner,
        other => Filter::Not(Box::new(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::{bind_condition, bind_for_write, literal_prefix, refers_to_new};
    use crate::engine::filter::matches::matches;
    use crate::error::Kind;
    use crate::model::document::Document;
    use crate::model::filter::{Expr, ExprLeaf, Filter};
    use crate::model::ids::{DocId, IdType, Version};
    use crate::model::schema::{AttributeType, Column, FullText, Schema, Tokenizer};
    use crate::model::value::{Value, Vector};
    use crate::platform::allowance::Allowance;
    use serde_json::{Value as Json, json};

    fn schema() -> Schema {
        let column = |name: &str, kind: &str| Column::new(name, AttributeType::parse(kind).unwrap(), 0);
        let words = FullText { tokenizer: Tokenizer::PreTokenizedArray, ..FullText::default() };
        Schema {
            id_type: Some(IdType::Uuid),
            columns: vec![
                column("n", "int"),
                column("tags", "[]string"),
                Column { filterable: false, ..column("hidden", "string") },
                Column { full_text: Some(FullText::default()), filterable: false, ..column("body", "string") },
                Column { full_text: Some(words), ..column("tokens", "[]string") },
                column("vector", "[2]f32"),
                column("at", "datetime"),
                Column { fuzzy: true, filterable: false, ..column("near", "string") },
            ],
            ..Schema::default()
        }
    }

    fn leaf(filter: Json) -> Expr {
        Expr::Leaf(ExprLeaf {
            attribute: filter[0].as_str().unwrap().into(),
            op: filter[1].as_str().unwrap().into(),
            operand: filter[2].clone(),
            params: filter.get(3).cloned(),
        })
    }

    fn refused(filter: Json) -> String {
        let error = bind_for_write(&leaf(filter), &schema(), &Allowance::unlimited()).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        error.to_string()
    }

    #[test]
    fn operands_of_another_type_are_refused_in_the_contracts_words() {
        for (filter, text) in [
            (json!(["tags", "ContainsAny", "python"]), "ContainsAny expects []string, but got 'python'"),
            (json!(["tags", "NotContainsAny", "python"]), "NotContainsAny expects []string, but got 'python'"),
            (json!(["tags", "Contains", ["a", "b"]]), "Contains expects string, but got '[a, b]'"),
            (json!(["tags", "NotContains", ["a", "b"]]), "NotContains expects string, but got '[a, b]'"),
            (json!(["tags", "In", [1]]), "In expects string or []string, but got '[1]'"),
            (json!(["tags", "In", ["a", null]]), "In expects string or []string, but got '[a, null]'"),
            (json!(["n", "Eq", "1"]), "Eq expects int, but got '1'"),
            (json!(["n", "Gt", 1.5]), "Gt expects int, but got '1.5'"),
            (json!(["at", "Gt", "soon"]), "Gt expects datetime, but got 'soon'"),
            (json!(["id", "Eq", "not-a-uuid"]), "Eq expects uuid, but got 'not-a-uuid'"),
            (json!(["id", "In", ["x"]]), "In expects uuid or []uuid, but got '[x]'"),
            (json!(["tokens", "ContainsAllTokens", "Foo"]), "ContainsAllTokens expects []string, but got 'Foo'"),
            (json!(["body", "ContainsAllTokens", 7]), "ContainsAllTokens expects string, but got '7'"),
            (json!(["tags", "Glob", 7]), "Glob expects string, but got '7'"),
        ] {
            let key = filter[0].as_str().unwrap().to_owned();
            assert_eq!(refused(filter), format!("filter error in key `{key}`: type mismatch, {text}"));
        }
    }

    #[test]
    fn attributes_must_be_there_and_fit_the_operator() {
        let distance = |chars: u64, edits: u64| {
            let threshold = json!({"min_query_chars": chars, "distance": edits});
            json!(["near", "Fuzzy", "a", {"max_edit_distance": [threshold]}])
        };
        for (filter, text) in [
            (json!(["x", "Eq", 1]), "filter error in key `x`: attribute not found"),
            (json!(["hidden", "Eq", "a"]), "filter error in key `hidden`: attribute is not filterable"),
            (json!(["hidden", "Eq", null]), "attribute is not filterable"),
            (json!(["vector", "Eq", [1, 2]]), "attribute is not filterable, no [2]f32 is"),
            (json!(["hidden", "Glob", "a*"]), "attribute is not filterable"),
            (json!(["n", "Contains", 1]), "expects an array attribute, but it is int"),
            (json!(["n", "AnyGt", 1]), "expects an array attribute"),
            (json!(["tags", "Gt", "a"]), "expects a scalar attribute, but it is []string"),
            (json!(["n", "Glob", "a"]), "expects a string or []string attribute, but it is int"),
            (json!(["tags", "Regex", "a"]), "attribute has no regex index"),
            (json!(["tags", "ContainsAnyToken", "a"]), "needs full_text_search"),
            (json!(["n", "Equals", 1]), "unknown operator Equals, expected one of Eq, NotEq"),
            (json!(["id", "Glob", "a"]), "Glob does not apply to ids"),
            (json!(["n", "Eq", 1, {"a": 1}]), "Eq takes no options"),
            (json!(["body", "ContainsAllTokens", "a", {"prefix": true}]), "expects options"),
            (json!(["tags", "Fuzzy", "a", {}]), "attribute has no fuzzy index"),
            (json!(["near", "Fuzzy", 7, {}]), "Fuzzy expects string, but got '7'"),
            (json!(["near", "Fuzzy", "a"]), "Fuzzy expects options"),
            (json!(["near", "Fuzzy", "a", {"max_edit_distance": 1}]), "Fuzzy expects options"),
            (json!(["near", "Fuzzy", "a", {"max_edit_distance": [], "prefix": 1}]), "Fuzzy expects options"),
            (json!(["near", "Fuzzy", "a", {"max_edit_distance": []}]), "has 0 thresholds, expected 1 to 16"),
            (distance(9, 3), "distance of max_edit_distance is 3, expected 0 to 2"),
            (distance(5, 1), "min_query_chars of max_edit_distance is 5, expected at least 6 for a distance of 1"),
            (json!(["tags", "Glob", "["]), "not a glob"),
            (json!(["tags", "Glob", "{a,".repeat(300) + &"}".repeat(300)]), "not a glob"),
            (json!(["tags", "Glob", "a".repeat(5_000)]), "pattern of 5000 bytes is too long"),
        ] {
            let error = refused(filter);
            assert!(error.contains(text), "{error}");
        }
    }

    #[test]
    fn a_hostile_regex_is_refused_before_it_takes_memory() {
        let mut schema = schema();
        schema.columns[1].regex = true;
        let error =
            bind_for_write(&leaf(json!(["tags", "Regex", "(a{1000}){1000}"])), &schema, &Allowance::unlimited())
                .unwrap_err();
        assert!(error.to_string().contains("not a regular expression"));
    }

    #[test]
    fn empty_groups_are_decided_at_once() {
        assert!(matches!(
            bind_for_write(&Expr::And(vec![]), &schema(), &Allowance::unlimited()).unwrap(),
            Filter::All
        ));
        assert!(matches!(
            bind_for_write(&Expr::Or(vec![]), &schema(), &Allowance::unlimited()).unwrap(),
            Filter::None
        ));
        let not = Expr::Not(Box::new(Expr::Not(Box::new(leaf(json!(["n", "Eq", 1]))))));
        assert!(matches!(bind_for_write(&not, &schema(), &Allowance::unlimited()).unwrap(), Filter::Column(..)));
        let none = Expr::And(vec![leaf(json!(["n", "Eq", 1])), leaf(json!(["n", "In", []]))]);
        assert!(matches!(bind_for_write(&none, &schema(), &Allowance::unlimited()).unwrap(), Filter::None));
    }

    fn document(n: Option<i64>, vector: [f32; 2]) -> Document {
        let schema = schema();
        let mut document =
            Document { id: DocId::Uint(1), version: Version::default(), fields: Vec::new(), patch: None };
        document.set(schema.column("n").unwrap().uid(), n.map(Value::Int));
        let vector = Value::Vector(Vector::F32(vector.to_vec()));
        document.set(schema.column("vector").unwrap().uid(), Some(vector));
        document
    }

    #[test]
    fn ref_new_is_the_incoming_value() {
        let schema = schema();
        let newer = leaf(json!(["n", "Lt", {"$ref_new": "n"}]));
        let holds = |expr: &Expr, old: &Document, new: Option<&Document>| {
            matches(&bind_condition(expr, &schema, new, &Allowance::unlimited()).unwrap(), &schema, old, &[]).unwrap()
        };
        let (old, new) = (document(Some(1), [1.0, 0.1]), document(Some(2), [1.0, 0.1]));
        assert!(refers_to_new(&newer) && holds(&newer, &old, Some(&new)) && !holds(&newer, &new, Some(&old)));
        assert!(holds(&newer, &document(None, [0.0; 2]), Some(&new)));
        assert!(!holds(&newer, &old, Some(&document(None, [0.0; 2]))));
        assert!(!holds(&newer, &old, None));
        let changed = leaf(json!(["vector", "NotEq", {"$ref_new": "vector"}]));
        assert!(!holds(&changed, &old, Some(&new)) && holds(&changed, &old, Some(&document(None, [0.0; 2]))));
        let tagged = leaf(json!(["tags", "Contains", {"$ref_new": "hidden"}]));
        assert!(matches!(bind_condition(&tagged, &schema, None, &Allowance::unlimited()).unwrap(), Filter::None));
        let untagged = leaf(json!(["tags", "NotContains", {"$ref_new": "hidden"}]));
        assert!(matches!(
            bind_condition(&untagged, &schema, Some(&new), &Allowance::unlimited()).unwrap(),
            Filter::All
        ));
        let error = bind_for_write(&newer, &schema, &Allowance::unlimited()).unwrap_err().to_string();
        assert!(error.contains("$ref_new is allowed in the conditions of writes only"));
        let unknown = leaf(json!(["n", "Lt", {"$ref_new": "m"}]));
        assert!(
            bind_condition(&unknown, &schema, None, &Allowance::unlimited())
                .unwrap_err()
                .to_string()
                .contains("`m`, which was not found")
        );
    }

    #[test]
    fn conditions_may_read_what_is_not_indexed() {
        let schema = schema();
        for filter in [
            json!(["hidden", "Eq", "a"]),
            json!(["hidden", "Glob", "a*"]),
            json!(["hidden", "Regex", "a"]),
            json!(["body", "NotEq", "a"]),
            json!(["vector", "Eq", [1, 2]]),
        ] {
            assert!(bind_condition(&leaf(filter), &schema, None, &Allowance::unlimited()).is_ok());
        }
    }

    #[test]
    fn the_literal_prefix_ends_at_the_first_wildcard() {
        for (pattern, prefix) in
            [("src/*.rs", "src/"), ("a?b", "a"), ("{a,b}", ""), ("a\\*", "a"), ("plain", "plain")]
        {
            assert_eq!(literal_prefix(pattern), prefix);
        }
    }
}
