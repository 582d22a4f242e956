//! Scores from expressions: sums, maxima and products of text, sparse, filter and attribute clauses, highest first.
//!
//! - Rows are scored in windows of [`WINDOW`]: every clause fills one buffer, so what a query holds does not grow with rows.
//! - Every part of the view is scored with the statistics of the whole, by the same operations in the same order, in f64; a
//!   score is rounded to f32 once, before rows are sorted.
//! - A row that no text, filter or sparse clause finds scores 0 and is no answer, unless an attribute takes part.
//! - A row without the attribute that a `Dist` measures has no score there, which is written as NaN: sums and maxima leave it
//!   out, and a row without any score is no answer.

use roaring::RoaringBitmap;

use super::candidates::Candidates;
use super::columns::{Column, number};
use super::curve;
use super::heaviest;
use super::hits::{Hit, Smallest, merge, pack, smallest_of_tail, unpack};
use super::lists::List;
use super::plan::column_to_rank;
use super::pruned::{self, Best, Expression, Listed, Weighted};
use super::sparse::{Products, SparseScorer};
use super::text::{TextCursor, TextScorer};
use super::window::{WINDOW, Window};
use crate::engine::filter::bind::bind;
use crate::engine::filter::bitmap;
use crate::engine::view::{SegmentView, View};
use crate::error::{Error, Result};
use crate::model::filter::Filter;
use crate::model::query::{Clause, Curve, Recall};
use crate::model::schema::{AttributeType, ColumnUid, Schema};
use crate::model::value::Value;
use crate::platform::allowance::{Allowance, Taken};

/// With more answers or more lists than this, every row is scored: hardly any could be passed over.
const PRUNED_ROWS_MAX: usize = 1_000;
const PRUNED_LISTS_MAX: usize = 256;

/// A bound scoring expression.
pub(super) struct Scorer {
    clause: Bound,
    keeps_zero: bool,
    /// Whether every row is scored although the best could be found without.
    pub(super) scores_all: bool,
    /// How many of the best of a sparse vector are to be found; `None` for all.
    pub(super) recall: Option<Recall>,
}

enum Bound {
    Text(Box<TextScorer>),
    Sparse(SparseScorer),
    Sum(Vec<Bound>),
    Max(Vec<Bound>),
    Product(f64, Box<Bound>),
    Filter(Filter),
    Attribute(ColumnUid),
    Dist(ColumnUid, Value),
    Saturate(Curve, Box<Bound>),
    Decay(Curve, Box<Bound>),
    Constant(f64),
}

impl Scorer {
    pub(super) fn bind(view: &View, clause: &Clause, recall: Option<Recall>, allowance: &Allowance) -> Result<Self> {
        let bound = bind_clause(view, clause, false, allowance)?;
        let recall = recall.filter(|recall| !recall.is_exact());
        Ok(Scorer { clause: bound, keeps_zero: has_attribute(clause), scores_all: false, recall })
    }
}

fn has_attribute(clause: &Clause) -> bool {
    match clause {
        Clause::Attribute(_) | Clause::Dist { .. } => true,
        Clause::Sum(parts) | Clause::Max(parts) => parts.iter().any(has_attribute),
        Clause::Product(_, part) | Clause::Saturate(part, _) | Clause::Decay(part, _) => has_attribute(part),
        Clause::Bm25 { .. } | Clause::SparseKnn { .. } | Clause::Filter(_) | Clause::Constant(_) => false,
    }
}

/// `clamped`: something around the clause takes what is negative for 0 or another constant, so it never shows.
fn bind_clause(view: &View, clause: &Clause, clamped: bool, allowance: &Allowance) -> Result<Bound> {
    allowance.check()?;
    let all = |parts: &[Clause], clamped| {
        parts.iter().map(|part| bind_clause(view, part, clamped, allowance)).collect::<Result<Vec<Bound>>>()
    };
    Ok(match clause {
        Clause::Bm25 { attribute, query, last_as_prefix } => {
            Bound::Text(Box::new(TextScorer::bind(view, attribute, query, *last_as_prefix, allowance)?))
        }
        Clause::SparseKnn { attribute, vector } => {
            Bound::Sparse(SparseScorer::bind(&view.schema, attribute, vector)?)
        }
        Clause::Sum(parts) => Bound::Sum(all(parts, clamped)?),
        Clause::Max(parts) => {
            let clamps = parts.iter().any(|part| matches!(part, Clause::Constant(_)));
            Bound::Max(all(parts, clamped || clamps)?)
        }
        Clause::Product(weight, part) => {
            Bound::Product(*weight, Box::new(bind_clause(view, part, clamped, allowance)?))
        }
        Clause::Filter(expr) => Bound::Filter(bind(expr, &view.schema, allowance)?),
        Clause::Attribute(name) => Bound::Attribute(bind_attribute(&view.schema, name, clamped)?),
        Clause::Dist { attribute, origin } => {
            let (uid, origin) = curve::bind_origin(&view.schema, attribute, origin)?;
            Bound::Dist(uid, origin)
        }
        Clause::Saturate(part, curve) => {
            curve::check(&view.schema, curve, part)?;
            Bound::Saturate(*curve, Box::new(bind_clause(view, part, true, allowance)?))
        }
        Clause::Decay(part, curve) => {
            curve::check(&view.schema, curve, part)?;
            Bound::Decay(*curve, Box::new(bind_clause(view, part, true, allowance)?))
        }
        Clause::Constant(value) => Bound::Constant(*value),
    })
}

pub(super) fn bind_attribute(schema: &Schema, name: &str, clamped: bool) -> Result<ColumnUid> {
    let column = column_to_rank(schema, name)?;
    match column.kind {
        AttributeType::Uint => {}
        AttributeType::Int | AttributeType::Float if clamped => {}
        AttributeType::Int | AttributeType::Float => {
            return Err(Error::invalid(format!(
                "rank_by clauses must produce non-negative scores, but an attribute clause on signed numeric attribute \
                 '{name}' was used. Wrap this clause under a [\"Max\", [0, <clause>]] to fix this."
            )));
        }
        other => {
            return Err(Error::invalid(format!(
                "💔 attribute \"{name}\" has type {other}, only numbers can be a score"
            )));
        }
    }
    Ok(column.uid())
}

/// The `k` highest scores, highest first.
pub(super) fn run(
    view: &View,
    scorer: &Scorer,
    candidates: &Candidates,
    k: usize,
    allowance: &Allowance,
) -> Result<Vec<Hit>> {
    allowance.check()?;
    if k == 0 {
        return Ok(Vec::new());
    }
    let (at, count) = (view.segments.len(), view.tail.places());
    let tail = Part { view, at, rows: &candidates.tail, count, allowance };
    let mut scores = Vec::new();
    tail.for_each_score(scorer, None, |score, place| scores.push((0.0 - score, place)))?;
    let of_tail = smallest_of_tail(view, scores, k);
    let mut known = Best::new(k);
    known.know(&of_tail);
    let mut parts = Vec::with_capacity(view.segments.len() + 1);
    for (at, (segment, rows)) in view.segments.iter().zip(&candidates.segments).enumerate() {
        let part = Part { view, at, rows, count: segment.segment.rows(), allowance };
        let dead = (!candidates.filtered).then_some(&*segment.dead);
        let load = |window: &mut Window, base, end| part.load(window, dead, base, end);
        if let (Bound::Sparse(sparse), false) = (&scorer.clause, scorer.scores_all) {
            let found = heaviest::run(sparse, &segment.segment, scorer.recall, k, load, allowance)?;
            parts.push(found);
            continue;
        }
        parts.push(match part.listed(scorer, k)? {
            Some(mut listed) => {
                pruned::run(&mut listed, part.count, load, &mut known, allowance)?;
                known.end_part()
            }
            None => {
                let mut best = Smallest::new(k);
                part.for_each_score(scorer, dead, |score, row| best.offer(pack(0.0 - score, row)))?;
                best.into_sorted().into_iter().map(unpack).collect()
            }
        });
    }
    parts.push(of_tail);
    merge(view, parts, k, true)
}

/// One part of a view, and its candidates.
#[derive(Clone, Copy)]
struct Part<'a> {
    view: &'a View,
    /// The segment's number; the tail comes after the last.
    at: usize,
    rows: &'a RoaringBitmap,
    /// All rows are below this.
    count: u32,
    allowance: &'a Allowance,
}

impl<'a> Part<'a> {
    fn segment(&self) -> Option<&'a SegmentView> {
        self.view.segments.get(self.at)
    }

    /// Room for the scores of a window.
    fn scratch(&self) -> Result<Held<'a, Vec<f64>>> {
        let taken = self.allowance.take(WINDOW * size_of::<f64>())?;
        Ok(Held::new(vec![0.0; WINDOW], Some(taken)))
    }

    fn column(&self, uid: ColumnUid) -> Result<Column<'a>> {
        match self.segment() {
            Some(segment) => Column::open(&segment.segment, uid, self.rows, self.allowance),
            None => Ok(Column::of_tail(&self.view.tail, uid, self.rows)),
        }
    }

    /// The expression over lists; `None` where scoring every row is as good.
    fn listed(&self, scorer: &'a Scorer, k: usize) -> Result<Option<Listed<'a>>> {
        let few = scorer.clause.lists_at_most(1.0).is_some_and(|lists| lists <= PRUNED_LISTS_MAX);
        if scorer.scores_all || k > PRUNED_ROWS_MAX || !few {
            return Ok(None);
        }
        let mut lists = Vec::new();
        let mut taken = self.allowance.take(pruned::SEARCH_BYTES)?;
        let Some(expression) = scorer.clause.listed(*self, 1.0, &mut lists, &mut taken)? else { return Ok(None) };
        Ok(Some(Listed { lists, expression, _taken: taken }))
    }

    /// Loads the candidates from `base` up to `end`. With `dead`, all rows but these are candidates.
    fn load(&self, window: &mut Window, dead: Option<&RoaringBitmap>, base: u32, end: u32) {
        match dead {
            Some(dead) => window.load_all_but(dead, base, end),
            None => window.load(self.rows, base, end),
        }
    }

    /// Calls `each` with every score that counts and its row. With `dead`, all rows but these are candidates.
    fn for_each_score(
        &self,
        scorer: &Scorer,
        dead: Option<&RoaringBitmap>,
        mut each: impl FnMut(f32, u32),
    ) -> Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let mut node = scorer.clause.cursor(*self)?;
        let mut window = Window::default();
        let mut scores = vec![0.0; WINDOW];
        for base in (0..self.count).step_by(WINDOW) {
            self.allowance.check()?;
            self.load(&mut window, dead, base, self.count.min(base.saturating_add(WINDOW as u32)));
            if window.is_empty() || !(node.fill(&window, &mut scores)? || scorer.keeps_zero) {
                continue;
            }
            window.for_each(|row, place| {
                let score = rounded(scores[place]);
                if !score.is_nan() && (score != 0.0 || scorer.keeps_zero) {
                    each(score, row);
                }
            });
        }
        Ok(())
    }
}

/// A score as it is answered: a finite f32, or NaN for none.
pub(super) fn rounded(score: f64) -> f32 {
    (score as f32).clamp(f32::MIN, f32::MAX)
}

/// A weighted score, finite; none stays none.
pub(super) fn times(weight: f64, score: f64) -> f64 {
    (weight * score).clamp(f64::MIN, f64::MAX)
}

/// Two scores as one sum, finite; that of the other where one is none.
pub(super) fn add(a: f64, b: f64) -> f64 {
    match (a.is_nan(), b.is_nan()) {
        (true, _) => b,
        (_, true) => a,
        _ => (a + b).clamp(f64::MIN, f64::MAX),
    }
}

/// What a clause holds, and its share of the query's memory.
struct Held<'a, T> {
    it: T,
    _taken: Option<Taken<'a>>,
}

impl<'a, T> Held<'a, T> {
    fn new(it: T, taken: Option<Taken<'a>>) -> Self {
        Held { it, _taken: taken }
    }
}

/// A clause over one part, window by window.
enum Node<'a> {
    Text(TextCursor<'a>),
    Sparse(Held<'a, Products<'a>>),
    /// The parts, and room for one part's scores.
    Sum(Vec<Node<'a>>, Held<'a, Vec<f64>>),
    Max(Vec<Node<'a>>, Held<'a, Vec<f64>>),
    Product(f64, Box<Node<'a>>),
    Filter(Held<'a, RoaringBitmap>),
    Attribute(Column<'a>),
    Dist(Column<'a>, &'a Value),
    Saturate(Curve, Box<Node<'a>>),
    Decay(Curve, Box<Node<'a>>),
    Constant(f64),
}

impl Bound {
    /// How many lists the clause is at most; `None` where a row may have a score without being in a list.
    fn lists_at_most(&self, factor: f64) -> Option<usize> {
        match self {
            Bound::Text(text) => Some(text.lists_at_most()),
            Bound::Sparse(sparse) => Some(sparse.lists_at_most()),
            Bound::Sum(parts) | Bound::Max(parts) => parts.iter().map(|part| part.lists_at_most(factor)).sum(),
            Bound::Product(weight, part) if *weight >= 0.0 && (factor * weight).is_finite() => {
                part.lists_at_most(factor * weight)
            }
            Bound::Filter(_) => Some(1),
            Bound::Constant(0.0) => Some(0),
            _ => None,
        }
    }

    /// The clause as lists that count `factor` times; `None` as [`Self::lists_at_most`] says.
    fn listed<'a>(
        &'a self,
        part: Part<'a>,
        factor: f64,
        lists: &mut Vec<Weighted<'a>>,
        taken: &mut Taken<'a>,
    ) -> Result<Option<Expression>> {
        part.allowance.check()?;
        let begin = lists.len();
        let mut all = |parts: &'a [Bound]| {
            let parts = parts.iter().map(|bound| bound.listed(part, factor, lists, taken));
            parts.collect::<Result<Option<Vec<Expression>>>>()
        };
        let found = match (self, part.segment()) {
            (Bound::Sum(parts), _) => return Ok(all(parts)?.map(Expression::Sum)),
            (Bound::Max(parts), _) => return Ok(all(parts)?.map(Expression::Max)),
            (Bound::Product(weight, bound), _) => {
                let inner = bound.listed(part, factor * weight, lists, taken)?;
                return Ok(inner.map(|inner| Expression::Product(*weight, Box::new(inner))));
            }
            (Bound::Constant(0.0), _) => return Ok(Some(Expression::Zero)),
            (Bound::Text(text), _) => text.lists(part.view, part.at)?,
            (Bound::Sparse(sparse), Some(segment)) => sparse.lists(&segment.segment)?,
            (Bound::Filter(filter), Some(segment)) => {
                vec![List::Set(bitmap::rows(filter, &part.view.schema, segment, part.allowance)?)]
            }
            _ => return Ok(None),
        };
        taken.grow(found.iter().map(List::bytes).sum())?;
        lists.extend(found.into_iter().map(|list| Weighted { list, factor }));
        Ok(Some(Expression::Lists(begin..lists.len())))
    }

    fn cursor<'a>(&'a self, part: Part<'a>) -> Result<Node<'a>> {
        let all =
            |parts: &'a [Bound]| parts.iter().map(|bound| bound.cursor(part)).collect::<Result<Vec<Node<'a>>>>();
        let (view, segment, allowance) = (part.view, part.segment(), part.allowance);
        allowance.check()?;
        Ok(match (self, segment) {
            (Bound::Text(text), _) => Node::Text(text.cursor(view, part.at)?),
            (Bound::Sparse(sparse), _) => {
                let products = match segment {
                    Some(segment) => sparse.of_segment(&segment.segment)?,
                    None => sparse.of_tail(&view.tail),
                };
                let taken = allowance.take(products.bytes())?;
                Node::Sparse(Held::new(products, Some(taken)))
            }
            (Bound::Sum(parts), _) => Node::Sum(all(parts)?, part.scratch()?),
            (Bound::Max(parts), _) => Node::Max(all(parts)?, part.scratch()?),
            (Bound::Product(weight, bound), _) => Node::Product(*weight, Box::new(bound.cursor(part)?)),
            (Bound::Filter(filter), Some(segment)) => {
                let rows = bitmap::rows(filter, &view.schema, segment, allowance)?;
                let taken = allowance.take(rows.serialized_size())?;
                Node::Filter(Held::new(rows, Some(taken)))
            }
            (Bound::Filter(filter), None) => {
                let rows = bitmap::tail_rows(filter, &view.schema, &view.tail, allowance)?;
                Node::Filter(Held::new(rows, None))
            }
            (Bound::Attribute(uid), _) => Node::Attribute(part.column(*uid)?),
            (Bound::Dist(uid, origin), _) => Node::Dist(part.column(*uid)?, origin),
            (Bound::Saturate(curve, bound), _) => Node::Saturate(*curve, Box::new(bound.cursor(part)?)),
            (Bound::Decay(curve, bound), _) => Node::Decay(*curve, Box::new(bound.cursor(part)?)),
            (Bound::Constant(value), _) => Node::Constant(*value),
        })
    }
}

impl Node<'_> {
    /// Replaces `out` by the scores of a window's rows; what is no candidate may be left at any score. False when all are 0.
    fn fill(&mut self, window: &Window, out: &mut [f64]) -> Result<bool> {
        if let Node::Constant(value) = self {
            out.fill(*value);
            return Ok(*value != 0.0);
        }
        if !matches!(self, Node::Sum(..) | Node::Max(..) | Node::Product(..) | Node::Saturate(..) | Node::Decay(..)) {
            out.fill(0.0);
        }
        let mut any = false;
        match self {
            Node::Text(cursor) => any = cursor.add(window.base, out)?,
            Node::Sparse(products) => any = products.it.add(window.base, out)?,
            Node::Sum(parts, scratch) => any = fold(parts, &mut scratch.it, window, out, add)?,
            Node::Max(parts, scratch) => any = fold(parts, &mut scratch.it, window, out, f64::max)?,
            Node::Product(weight, part) => {
                any = part.fill(window, out)?;
                out.iter_mut().for_each(|score| *score = times(*weight, *score));
            }
            Node::Filter(rows) => {
                let end = window.base.saturating_add(WINDOW as u32);
                for row in rows.it.range(window.base..end) {
                    out[(row - window.base) as usize] = 1.0;
                    any = true;
                }
            }
            Node::Attribute(column) => {
                any = true;
                fill_values(column, window, out, |value| value.map_or(0.0, number))?;
            }
            Node::Dist(column, origin) => {
                any = true;
                fill_values(column, window, out, |value| {
                    value.map_or(f64::NAN, |value| curve::distance(value, origin))
                })?;
            }
            Node::Saturate(curve, part) => {
                any = part.fill(window, out)?;
                out.iter_mut().for_each(|score| *score = curve::saturate(curve, *score));
            }
            Node::Decay(curve, part) => {
                part.fill(window, out)?;
                out.iter_mut().for_each(|score| *score = curve::decay(curve, *score));
                // Nothing decays to 1.
                any = true;
            }
            Node::Constant(_) => {}
        }
        Ok(any)
    }
}

/// Makes scores of the candidates' values.
fn fill_values(
    column: &Column<'_>,
    window: &Window,
    out: &mut [f64],
    score: impl Fn(Option<&Value>) -> f64,
) -> Result<()> {
    let value = |row| Ok(column.scalar(row)?.map(|ordinal| column.value(ordinal)).transpose()?.flatten());
    let mut failed = None;
    window.for_each(|row, place| match value(row) {
        Ok(value) => out[place] = score(value.as_ref()),
        Err(error) => failed = Some(error),
    });
    failed.map_or(Ok(()), Err)
}

fn fold(
    parts: &mut [Node<'_>],
    scratch: &mut [f64],
    window: &Window,
    out: &mut [f64],
    join: impl Fn(f64, f64) -> f64,
) -> Result<bool> {
    let Some((first, rest)) = parts.split_first_mut() else {
        out.fill(0.0);
        return Ok(false);
    };
    let mut any = first.fill(window, out)?;
    for part in rest {
        any |= part.fill(window, scratch)?;
        out.iter_mut().zip(&*scratch).for_each(|(score, more)| *score = join(*score, *more));
    }
    Ok(any)
}
