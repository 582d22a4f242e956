//! Filters: as a request says them ([`Expr`]), and bound to a schema ([`Filter`]).

use serde_json::Value as Json;

use super::ids::DocId;
use super::matcher::Matcher;
use super::schema::{ColumnUid, Schema};
use super::value::Value;

/// The operators that compare a scalar with what they are given, and an array's elements where they are of an array.
const QUICK: [&str; 8] = ["Eq", "NotEq", "In", "NotIn", "Lt", "Lte", "Gt", "Gte"];
/// More tests of one document than these are not quick, whatever they are.
const QUICK_TESTS_MAX: usize = 16;

/// A filter as the request has it: names and JSON operands, shape checked, meaning not yet.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    And(Vec<Expr>),
    Or(Vec<Expr>),
    Not(Box<Expr>),
    Leaf(ExprLeaf),
}

impl Expr {
    /// Whether one document may keep its tests busy for long: a test goes through whole texts or arrays, or they are many.
    pub fn may_take_long(&self, schema: &Schema) -> bool {
        let mut tests = 0;
        !self.are_quick(schema, &mut tests)
    }

    /// Whether all tests are of a scalar against given ones; counts them, and is false once they are many.
    fn are_quick(&self, schema: &Schema, tests: &mut usize) -> bool {
        match self {
            Expr::And(all) | Expr::Or(all) => all.iter().all(|expr| expr.are_quick(schema, tests)),
            Expr::Not(inner) => inner.are_quick(schema, tests),
            Expr::Leaf(leaf) => {
                *tests += 1;
                let is_scalar = || schema.column(&leaf.attribute).is_none_or(|column| !column.kind.is_array());
                *tests <= QUICK_TESTS_MAX && QUICK.contains(&leaf.op.as_str()) && is_scalar()
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct ExprLeaf {
    /// `id` or an attribute's name.
    pub attribute: String,
    /// The operator's wire name, such as `ContainsAny`.
    pub op: String,
    /// The operand; in write conditions it may be `{"$ref_new": "attr"}`.
    pub operand: Json,
    /// The fourth element where there is one, such as `{"last_as_prefix": true}`.
    pub params: Option<Json>,
}

/// A filter bound to one schema. Negated operators are `Not` around their positive form.
#[derive(Clone, Debug)]
pub enum Filter {
    /// Matches every document.
    All,
    /// Matches none.
    None,
    And(Vec<Filter>),
    Or(Vec<Filter>),
    Not(Box<Filter>),
    Id(IdTest),
    Column(ColumnUid, Test),
}

impl Filter {
    /// Calls `each` with every column that is tested.
    pub fn for_each_column(&self, each: &mut impl FnMut(ColumnUid)) {
        match self {
            Filter::And(all) | Filter::Or(all) => all.iter().for_each(|filter| filter.for_each_column(each)),
            Filter::Not(inner) => inner.for_each_column(each),
            Filter::Column(uid, _) => each(*uid),
            Filter::All | Filter::None | Filter::Id(_) => {}
        }
    }
}

/// A test of the document's id.
#[derive(Clone, Debug)]
pub enum IdTest {
    /// Ascending, each once.
    In(Vec<DocId>),
    Compare(Order, DocId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Lt,
    Lte,
    Gt,
    Gte,
}

/// A test of one column's value. Operands have the column's element type.
#[derive(Clone, Debug)]
pub enum Test {
    /// The value is absent.
    Null,
    /// A scalar equals one of these, or any element of an array does. `Eq`, `In`, `Contains`, `ContainsAny`. A whole
    /// array never equals an operand. Ascending, each once.
    AnyOf(Vec<Value>),
    /// A scalar compares so; absent values sort below everything, so `Lt` and `Lte` match them.
    Compare(Order, Value),
    /// Any element of an array compares so.
    AnyCompare(Order, Value),
    /// A string, or any string of an array, matches the pattern.
    Pattern(Pattern),
    /// Tokens of a full-text column.
    Tokens(TokenTest),
    /// The whole array equals this (`Eq` on an array column), element by element.
    Equals(Value),
}

#[derive(Clone, Debug)]
pub enum Pattern {
    /// The matcher, and the literal prefix every match starts with (empty when there is none or case is ignored).
    Glob(Matcher, String),
    Regex(Matcher),
    Fuzzy(Fuzzy),
}

/// A text that is looked for with edits.
#[derive(Clone, Debug)]
pub struct Fuzzy {
    /// In lower case where case does not count.
    pub query: Vec<char>,
    /// The query in one piece more than edits are allowed: whatever matches has one of them whole.
    pub pieces: Vec<String>,
    /// How many edits are allowed.
    pub distance: usize,
    pub case_sensitive: bool,
}

/// What a full-text column's tokens must contain; the tokens are already analysed as the column's are.
#[derive(Clone, Debug)]
pub struct TokenTest {
    pub mode: TokenMode,
    pub tokens: Vec<String>,
    /// The last token is a prefix.
    pub last_as_prefix: bool,
}

impl TokenTest {
    /// Whether it matters where the tokens are: one alone may be anywhere.
    pub fn is_sequence(&self) -> bool {
        self.mode == TokenMode::Sequence && self.tokens.len() > 1
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenMode {
    All,
    Any,
    /// One after another, in this order.
    Sequence,
}

#[cfg(test)]
mod tests {
    use super::{Expr, ExprLeaf, QUICK_TESTS_MAX};
    use crate::model::schema::{AttributeType, Column, Schema};
    use serde_json::{Value as Json, json};

    fn leaf(attribute: &str, op: &str, operand: Json) -> Expr {
        Expr::Leaf(ExprLeaf { attribute: attribute.into(), op: op.into(), operand, params: None })
    }

    #[test]
    fn few_tests_of_scalars_are_quick_and_what_goes_through_texts_and_arrays_is_not() {
        let column = |name: &str, kind: &str| Column::new(name, AttributeType::parse(kind).unwrap(), 0);
        let columns = vec![column("n", "int"), column("s", "string"), column("a", "[]int")];
        let schema = Schema { columns, ..Schema::default() };
        let newer = || leaf("n", "Lt", json!({"$ref_new": "n"}));
        for quick in [
            newer(),
            leaf("s", "NotEq", json!({"$ref_new": "s"})),
            leaf("id", "In", json!([1, 2])),
            leaf("s", "NotIn", json!(["a"])),
            leaf("not there yet", "Eq", json!(null)),
            Expr::Or(vec![leaf("n", "Eq", json!(null)), Expr::Not(Box::new(newer()))]),
            Expr::And((0..QUICK_TESTS_MAX).map(|_| newer()).collect()),
        ] {
            assert!(!quick.may_take_long(&schema), "{quick:?}");
        }
        for op in
            ["Contains", "NotContainsAny", "AnyGt", "Glob", "NotIGlob", "Regex", "Fuzzy", "ContainsTokenSequence"]
        {
            assert!(leaf("a", op, json!(1)).may_take_long(&schema), "{op}");
            assert!(Expr::Or(vec![newer(), Expr::Not(Box::new(leaf("s", op, json!("a"))))]).may_take_long(&schema));
        }
        for op in ["In", "NotIn", "Eq", "NotEq"] {
            assert!(leaf("a", op, json!([1])).may_take_long(&schema), "{op}");
        }
        let many = (0..=QUICK_TESTS_MAX).map(|_| Expr::And(vec![newer()]));
        assert!(Expr::Or(many.collect()).may_take_long(&schema));
    }
}
