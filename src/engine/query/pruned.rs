//! The highest scores without scoring every row: what cannot reach the best known so far is passed over.
//!
//! Block-max MaxScore (Turtle and Flood, "Query evaluation: strategies and optimizations", 1995; Ding and Suel, "Faster top-k
//! document retrieval using block-max indexes", SIGIR 2011) over windows of rows:
//!
//! 1. Every list says what a row of the window adds at most. Lists that together cannot lift a row above the floor, the score
//!    of the worst row among the best, are optional: only rows of the other lists are looked at.
//! 2. Those are added up. Then the optional lists are, most telling first, and only for the rows that they may still lift above
//!    the floor.
//!    Where the optional lists are the shorter ones, nothing is gained by that, and all are added up.
//! 3. What is left is scored by the expression itself, by the same operations in the same order as when every row is.
//!
//! - Sums of bounds only decide what is passed over, with a margin for their rounding; they never become scores.
//! - A row that ties with the worst of the best loses to those before it in its segment, but may win over other segments'.

use std::collections::BinaryHeap;
use std::ops::Range;

use super::hits::{pack, unpack};
use super::lists::List;
use super::score::{add, rounded, times};
use super::window::{WINDOW, Window, for_each_bit};
use crate::error::Result;
use crate::platform::allowance::{Allowance, Taken};

/// More than all roundings in adding up as many lists as there may be.
const MARGIN: f64 = 1.0 + 1e-9;
/// Looking one row up in a list takes as long as walking so many rows of it.
const ROWS_PER_LOOK_UP: usize = 8;
/// As many lists as there may be, each adding as much as an f32 holds, stay finite when they grow so much.
const GROWTH_MAX: f64 = 1e200;
/// What a search holds besides its lists.
pub(super) const SEARCH_BYTES: usize = WINDOW * (2 * size_of::<f64>() + size_of::<u16>());
/// Rows of the first window; each is twice as long as the one before, so that there soon is a floor.
const FIRST_WINDOW: u32 = 256;

/// A scoring expression over lists.
pub(super) struct Listed<'a> {
    pub(super) lists: Vec<Weighted<'a>>,
    pub(super) expression: Expression,
    pub(super) _taken: Taken<'a>,
}

impl Listed<'_> {
    /// Whether a row's score is the sum of its lists, as they are.
    fn is_one_sum(&self) -> bool {
        matches!(&self.expression, Expression::Lists(range) if *range == (0..self.lists.len()))
            && self.lists.iter().all(|of| of.factor == 1.0)
    }
}

/// A list, and how many times it counts: the product of all weights around it.
pub(super) struct Weighted<'a> {
    pub(super) list: List<'a>,
    pub(super) factor: f64,
}

/// How a row's score comes of what the lists add. Never more than the sum of the lists, each times its factor.
pub(super) enum Expression {
    /// The sum of a clause's lists.
    Lists(Range<usize>),
    Sum(Vec<Expression>),
    Max(Vec<Expression>),
    Product(f64, Box<Expression>),
    Zero,
}

impl Expression {
    fn score(&self, values: &[f64]) -> f64 {
        let joined = |parts: &[Expression], join: fn(f64, f64) -> f64| {
            parts.iter().map(|part| part.score(values)).reduce(join).unwrap_or(0.0)
        };
        match self {
            Expression::Lists(range) => values[range.clone()].iter().fold(0.0, |sum, value| sum + value),
            Expression::Sum(parts) => joined(parts, add),
            Expression::Max(parts) => joined(parts, f64::max),
            Expression::Product(weight, part) => times(*weight, part.score(values)),
            Expression::Zero => 0.0,
        }
    }

    /// Whether a row's score is never less than what some of the lists add to it: they are only added up, and nothing
    /// within is so large that it is cut to what is finite.
    fn only_adds(&self) -> bool {
        self.growth().is_some_and(|growth| growth <= GROWTH_MAX)
    }

    /// How many times what a list adds is at most inside the expression; `None` where lists are not added up.
    fn growth(&self) -> Option<f64> {
        match self {
            Expression::Sum(parts) => {
                parts.iter().map(Expression::growth).try_fold(1.0, |most, of| Some(f64::max(most, of?)))
            }
            Expression::Product(weight, part) => part.growth().map(|growth| growth * weight.max(1.0)),
            Expression::Max(_) => None,
            Expression::Lists(_) | Expression::Zero => Some(1.0),
        }
    }
}

/// The best rows of all parts so far.
pub(super) struct Best {
    k: usize,
    /// This part's best, the worst on top.
    rows: BinaryHeap<u64>,
    /// The scores of all parts' best, as `rows` has them.
    scores: BinaryHeap<u64>,
    /// Scores up to this do not matter, neither by other parts' best nor by this one's.
    floor: f64,
}

impl Best {
    pub(super) fn new(k: usize) -> Self {
        Best { k, rows: BinaryHeap::new(), scores: BinaryHeap::new(), floor: f64::NEG_INFINITY }
    }

    fn offer(&mut self, score: f32, row: u32) {
        let packed = pack(0.0 - score, row);
        if self.rows.len() < self.k {
            self.rows.push(packed);
        } else if let Some(mut worst) = self.rows.peek_mut()
            && packed < *worst
        {
            *worst = packed;
        }
        if self.rows.len() == self.k
            && let Some(worst) = self.rows.peek()
        {
            // Rows come in ascending order, so another with this score loses.
            self.floor = self.floor.max(0.0 - f64::from(unpack(*worst).0));
        }
    }

    /// Takes this part's best, best first; the next part starts with what is known of all scores.
    pub(super) fn end_part(&mut self) -> Vec<(f32, u32)> {
        let rows: Vec<(f32, u32)> =
            std::mem::take(&mut self.rows).into_sorted_vec().into_iter().map(unpack).collect();
        self.know(&rows);
        rows
    }

    /// Counts a part's best rows, by the opposite of their scores.
    pub(super) fn know(&mut self, rows: &[(f32, u32)]) {
        self.floor = f64::NEG_INFINITY;
        for (key, _) in rows {
            self.scores.push(pack(*key, 0));
            if self.scores.len() > self.k {
                self.scores.pop();
            }
        }
        if self.scores.len() == self.k
            && let Some(worst) = self.scores.peek()
        {
            self.floor = below(0.0 - unpack(*worst).0);
        }
    }
}

/// Whether no score that adds up to this at most is above the floor. What is not a number does not stay under.
#[inline]
fn stays_under(most: f64, floor: f64) -> bool {
    most * MARGIN <= floor
}

/// What rounds to less than a score.
fn below(score: f32) -> f64 {
    f64::from(score.min(f32::MAX).next_down())
}

/// Offers the best of a part's rows, all below `count`; `load` gives the candidates of the rows from one up to another.
pub(super) fn run(
    listed: &mut Listed<'_>,
    count: u32,
    mut load: impl FnMut(&mut Window, u32, u32),
    best: &mut Best,
    allowance: &Allowance,
) -> Result<()> {
    let mut search = Search {
        only_adds: listed.expression.only_adds(),
        only_lists: listed.is_one_sum(),
        values: vec![0.0; listed.lists.len()],
        lists: &mut listed.lists,
        expression: &listed.expression,
        sums: vec![0.0; WINDOW],
        touched: [0; WINDOW / 64],
        touched_all: false,
        order: Vec::new(),
        places: Vec::new(),
        lows: Vec::new(),
    };
    let mut window = Window::default();
    let (mut base, mut rows) = (0, FIRST_WINDOW);
    while base < count {
        allowance.check()?;
        let end = count.min(base.saturating_add(rows));
        load(&mut window, base, end);
        if !window.is_empty() {
            search.window(&window, end, best)?;
        }
        base = end;
        rows = (2 * rows).min(WINDOW as u32);
    }
    Ok(())
}

/// What a search keeps from window to window.
struct Search<'s, 'a> {
    lists: &'s mut [Weighted<'a>],
    expression: &'s Expression,
    /// Whether a row's score is at least what has been added up of it.
    only_adds: bool,
    /// Whether a row's score is the sum of its lists.
    only_lists: bool,
    /// What has been added up of each row, 0 between windows.
    sums: Vec<f64>,
    /// The rows that something was added to; with `touched_all` there may be others.
    touched: [u64; WINDOW / 64],
    touched_all: bool,
    /// The lists, those that add least first.
    order: Vec<Entered>,
    /// The rows that may still be among the best.
    places: Vec<u16>,
    values: Vec<f64>,
    lows: Vec<f64>,
}

/// A list in a window.
#[derive(Clone, Copy)]
struct Entered {
    at: usize,
    /// About how many rows it has there.
    rows: usize,
    /// What it adds at most, and all that add less together.
    most: f64,
    before: f64,
}

impl Search<'_, '_> {
    fn window(&mut self, window: &Window, end: u32, best: &mut Best) -> Result<()> {
        let optional = self.enter(window.base, end, best.floor)?;
        if optional == self.order.len() {
            return Ok(());
        }
        let [rows_optional, rows_needed] = [&self.order[..optional], &self.order[optional..]]
            .map(|lists| lists.iter().map(|list| list.rows).sum::<usize>());
        self.places.clear();
        let by_candidates = window.count() * ROWS_PER_LOOK_UP < rows_needed;
        if self.only_lists && !by_candidates && rows_optional < rows_needed {
            self.touched_all = true;
            self.add_all(window, end, best)?;
        } else {
            let mut optional = optional;
            if by_candidates {
                optional = self.order.len();
                self.touched = window.bits;
                for_each_bit(&window.bits, |place| self.places.push(place as u16));
            } else {
                self.add_needed(optional, window, end)?;
            }
            self.narrow(optional, window.base, end, best)?;
        }
        self.clear((end - window.base) as usize);
        Ok(())
    }

    /// Forgets what was added up of a window of so many rows.
    fn clear(&mut self, rows: usize) {
        let Search { sums, touched, touched_all, .. } = self;
        match std::mem::take(touched_all) {
            true => sums[..rows].fill(0.0),
            false => for_each_bit(touched, |place| sums[place] = 0.0),
        }
        touched.fill(0);
    }

    /// Goes on to a window and orders the lists; gives how many of them are optional.
    fn enter(&mut self, base: u32, end: u32, floor: f64) -> Result<usize> {
        self.order.clear();
        for (at, Weighted { list, factor }) in self.lists.iter_mut().enumerate() {
            let (most, rows) = list.enter(base, end)?;
            self.order.push(Entered { at, rows, most: *factor * most, before: 0.0 });
        }
        self.order.sort_unstable_by(|a, b| a.most.total_cmp(&b.most));
        let (mut before, mut optional) = (0.0, 0);
        for (at, list) in self.order.iter_mut().enumerate() {
            list.before = before;
            before += list.most;
            if stays_under(before, floor) {
                optional = at + 1;
            }
        }
        Ok(optional)
    }

    /// Adds up all lists, in the order of the expression, and offers what is above the floor.
    fn add_all(&mut self, window: &Window, end: u32, best: &mut Best) -> Result<()> {
        let Search { lists, sums, .. } = self;
        for Weighted { list, .. } in lists.iter_mut() {
            list.for_each(window.base, end, |row, value| sums[(row - window.base) as usize] += value)?;
        }
        for (word, (sums, bits)) in sums.as_chunks::<64>().0.iter().zip(&window.bits).enumerate() {
            let floor = best.floor;
            if !sums.iter().fold(false, |any, sum| any | (*sum > floor)) {
                continue;
            }
            for_each_bit(&[*bits], |place| {
                let score = rounded(sums[place]);
                if sums[place] > best.floor && score != 0.0 {
                    best.offer(score, window.base + (word * 64 + place) as u32);
                }
            });
        }
        Ok(())
    }

    /// Adds up the lists that are not optional, and notes their rows that are candidates.
    fn add_needed(&mut self, optional: usize, window: &Window, end: u32) -> Result<()> {
        let Search { lists, order, places, sums, touched, .. } = self;
        let base = window.base;
        for Entered { at, .. } in &order[optional..] {
            let Weighted { list, factor } = &mut lists[*at];
            list.for_each(base, end, |row, value| {
                let place = (row - base) as usize;
                sums[place] += *factor * value.max(0.0);
                touched[place / 64] |= 1 << (place % 64);
            })?;
        }
        for (word, (touched, bits)) in touched.iter().zip(&window.bits).enumerate() {
            for_each_bit(&[touched & bits], |place| places.push((word * 64 + place) as u16));
        }
        Ok(())
    }

    /// Adds the optional lists, most telling first, to the rows that they may lift above the floor, and offers what is left.
    fn narrow(&mut self, optional: usize, base: u32, end: u32, best: &mut Best) -> Result<()> {
        let Search { lists, order, places, sums, touched_all, .. } = self;
        for Entered { at, rows, most, before } in order[..optional].iter().rev() {
            // Walking a short list takes less than asking which rows it may still matter for.
            if *rows * 2 <= places.len() {
                let Weighted { list, factor } = &mut lists[*at];
                *touched_all = true;
                list.for_each(base, end, |row, value| sums[(row - base) as usize] += *factor * value.max(0.0))?;
                continue;
            }
            places.retain(|place| !stays_under(sums[usize::from(*place)] + before + most, best.floor));
            if places.is_empty() {
                return Ok(());
            }
            let Weighted { list, factor } = &mut lists[*at];
            if places.len() * ROWS_PER_LOOK_UP > *rows {
                *touched_all = true;
                list.for_each(base, end, |row, value| sums[(row - base) as usize] += *factor * value.max(0.0))?;
                continue;
            }
            for place in places.iter() {
                let (row, sum) = (base + u32::from(*place), &mut sums[usize::from(*place)]);
                if !stays_under(*sum + before + *factor * list.at_most(row).max(0.0), best.floor) {
                    *sum += *factor * list.at(row)?.max(0.0);
                }
            }
        }
        self.offer(base, best)
    }

    /// Scores the rows that are left, if what was added up of them may be among the best.
    fn offer(&mut self, base: u32, best: &mut Best) -> Result<()> {
        if best.k < self.places.len() && self.only_adds && !self.lists.iter().any(|of| of.list.is_signed()) {
            self.lows.clear();
            self.lows.extend(self.places.iter().map(|place| self.sums[usize::from(*place)]));
            let (_, least, _) = self.lows.select_nth_unstable_by(best.k - 1, |a, b| b.total_cmp(a));
            best.floor = best.floor.max(below((*least / MARGIN) as f32));
        }
        self.lists.iter_mut().for_each(|of| of.list.rewind());
        for place in &self.places {
            if stays_under(self.sums[usize::from(*place)], best.floor) {
                continue;
            }
            let row = base + u32::from(*place);
            for (Weighted { list, .. }, value) in self.lists.iter_mut().zip(&mut self.values) {
                *value = list.at(row)?;
            }
            let score = rounded(self.expression.score(&self.values));
            if score != 0.0 {
                best.offer(score, row);
            }
        }
        Ok(())
    }
}
