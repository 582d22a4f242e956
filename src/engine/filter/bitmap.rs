//! Filters as sets of rows: by attribute and text indexes, and by reading documents where there is no index.
//!
//! Every test is given the rows that still matter, so that what must be read document by document is read last and least.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::{Bound, Range};

use roaring::{MultiOps, RoaringBitmap};

use super::matches::{matches_text, matches_value, matches_with};
use super::sequence;
use super::texts::Texts;
use crate::engine::analyzers::Analyzers;
use crate::engine::view::{SegmentView, TailView, View};
use crate::error::{Error, Result};
use crate::model::filter::{Filter, IdTest, Order, Pattern, Test, TokenMode, TokenTest};
use crate::model::ids::DocId;
use crate::model::schema::{Column, ColumnUid, Schema};
use crate::model::value::Value;
use crate::platform::allowance::Allowance;
use crate::segment::Segment;
use crate::segment::attributes::AttributeReader;
use crate::segment::text::positions::PositionsReader;
use crate::segment::text::reader::TextReader;

/// With fewer than one row in so many left, rows are asked for their values rather than values for their rows.
const FEW: u64 = 32;
/// Up to so many terms of a prefix have their rows joined set by set.
const FEW_TERMS: usize = 16;

/// The live rows of a segment that match.
pub fn rows(filter: &Filter, schema: &Schema, view: &SegmentView, allowance: &Allowance) -> Result<RoaringBitmap> {
    let mut evaluation = Evaluation { schema, segment: &view.segment, analyzers: Analyzers::new(), allowance };
    evaluation.rows(filter, &view.live_rows())
}

/// The places of the tail's rows that match.
pub fn tail_rows(filter: &Filter, schema: &Schema, tail: &TailView, allowance: &Allowance) -> Result<RoaringBitmap> {
    let mut analyzers = Analyzers::new();
    let mut found = RoaringBitmap::new();
    for (place, row) in tail.iter() {
        allowance.check()?;
        if matches_with(filter, schema, &row.document, &mut Texts::of(&row.terms), &mut analyzers, allowance)? {
            found.insert(place);
        }
    }
    Ok(found)
}

/// Ids of live documents that match, at most `limit`, ascending, and whether there are more.
pub fn matching(view: &View, filter: &Filter, limit: usize, allowance: &Allowance) -> Result<(Vec<DocId>, bool)> {
    let mut parts: Vec<Ids<'_>> = Vec::new();
    for segment in &view.segments {
        let rows = rows(filter, &view.schema, segment, allowance)?;
        if !rows.is_empty() {
            parts.push(Ids::Segment(&segment.segment, Box::new(rows.into_iter())));
        }
    }
    let places = tail_rows(filter, &view.schema, &view.tail, allowance)?;
    let mut tail: Vec<DocId> =
        places.iter().filter_map(|place| Some(view.tail.at(place)?.document.id.clone())).collect();
    tail.sort_unstable();
    parts.push(Ids::Tail(tail.into_iter()));
    // Rows of a segment are in the order of their ids, so this only ever holds one id of each part.
    let mut heads = BinaryHeap::with_capacity(parts.len());
    for (at, part) in parts.iter_mut().enumerate() {
        heads.extend(part.next()?.map(|id| Reverse((id, at))));
    }
    let mut found = Vec::new();
    while let Some(Reverse((id, at))) = heads.pop() {
        if found.len() == limit {
            return Ok((found, true));
        }
        found.push(id);
        heads.extend(parts[at].next()?.map(|id| Reverse((id, at))));
    }
    Ok((found, false))
}

/// The matching ids of one part of a view, ascending.
enum Ids<'a> {
    Segment(&'a Segment, Box<roaring::bitmap::IntoIter>),
    Tail(std::vec::IntoIter<DocId>),
}

impl Ids<'_> {
    fn next(&mut self) -> Result<Option<DocId>> {
        match self {
            Ids::Segment(segment, rows) => rows.next().map(|row| segment.id_of(row)).transpose(),
            Ids::Tail(ids) => Ok(ids.next()),
        }
    }
}

/// A full-text column's index, if the segment has one that was made as the column is analysed now.
pub fn text_index<'s>(segment: &'s Segment, column: &Column) -> Result<Option<TextReader<'s>>> {
    let uid = column.uid();
    let built = segment.column(uid).and_then(|built| built.column.full_text.as_ref());
    match (built, &column.full_text) {
        (Some(built), Some(now)) if built.same_terms(now) => segment.text(uid),
        _ => Ok(None),
    }
}

/// Where a column's terms are, if the segment says so and has the column analysed as it is now.
fn positions<'s>(segment: &'s Segment, column: &Column) -> Result<Option<PositionsReader<'s>>> {
    Ok(if text_index(segment, column)?.is_some() { segment.positions(column.uid())? } else { None })
}

/// The rows that hold a term beginning with `prefix`.
pub fn rows_with_prefix(reader: &TextReader<'_>, prefix: &str) -> Result<RoaringBitmap> {
    // Their places only: texts that share a long prefix take far more than the index does.
    let mut terms = Vec::new();
    reader.for_each_with_prefix(prefix, |term| {
        terms.push(*term);
        Ok(())
    })?;
    if terms.len() <= FEW_TERMS {
        let mut found = RoaringBitmap::new();
        reader.for_each_of(&terms, |postings| {
            found |= reader.rows_of(postings)?;
            Ok(())
        })?;
        return Ok(found);
    }
    // Many short lists: a bit per row is set faster than so many sets are joined.
    let mut words: Vec<u64> = Vec::new();
    let (mut rows, mut tfs) = (Vec::new(), Vec::new());
    reader.for_each_of(&terms, |mut postings| {
        while postings.next_block(&mut rows, &mut tfs)? {
            for row in &rows {
                let word = *row as usize / 64;
                if word >= words.len() {
                    words.resize(word + 1, 0);
                }
                words[word] |= 1 << (row % 64);
            }
        }
        Ok(())
    })?;
    let mut found = RoaringBitmap::new();
    for (at, word) in (0u32..).zip(words).filter(|(_, word)| *word != 0) {
        let mut left = word;
        // A word at once: the set looks for its highest row before each call.
        let rows = std::iter::from_fn(|| {
            let bit = left.trailing_zeros();
            left &= left.wrapping_sub(1);
            (bit < 64).then_some(at * 64 + bit)
        });
        found.append(rows).map_err(|_| Error::internal("rows of a prefix do not ascend"))?;
    }
    Ok(found)
}

/// How a test is answered; later ones cost more.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    Ids,
    Postings,
    Terms,
    Positions,
    Dictionary,
    Documents,
}

/// How a filter is answered in a segment: by its costliest test.
pub fn access(filter: &Filter, schema: &Schema, segment: &Segment) -> Result<Access> {
    Ok(match filter {
        Filter::All | Filter::None | Filter::Id(_) => Access::Ids,
        Filter::And(all) | Filter::Or(all) => {
            let mut costliest = Access::Ids;
            for filter in all {
                costliest = costliest.max(access(filter, schema, segment)?);
            }
            costliest
        }
        Filter::Not(inner) => access(inner, schema, segment)?,
        Filter::Column(uid, _) if segment.column(*uid).is_none() => Access::Ids,
        Filter::Column(uid, Test::Tokens(test)) => {
            let column = schema.column_by_uid(*uid);
            match column {
                Some(column) if text_index(segment, column)?.is_none() => Access::Documents,
                Some(_) if !test.is_sequence() => Access::Terms,
                Some(column) if positions(segment, column)?.is_some() => Access::Positions,
                _ => Access::Documents,
            }
        }
        Filter::Column(uid, test) => match (segment.attribute(*uid)?, test) {
            (None, _) | (_, Test::Equals(_)) => Access::Documents,
            (_, Test::Pattern(_)) => Access::Dictionary,
            _ => Access::Postings,
        },
    })
}

struct Evaluation<'a> {
    schema: &'a Schema,
    segment: &'a Segment,
    analyzers: Analyzers,
    allowance: &'a Allowance,
}

impl Evaluation<'_> {
    /// Those of the rows `within` that match.
    fn rows(&mut self, filter: &Filter, within: &RoaringBitmap) -> Result<RoaringBitmap> {
        self.allowance.check()?;
        if within.is_empty() {
            return Ok(RoaringBitmap::new());
        }
        match filter {
            Filter::All => Ok(within.clone()),
            Filter::None => Ok(RoaringBitmap::new()),
            Filter::And(all) => {
                let mut found = within.clone();
                for filter in self.cheapest_first(all)? {
                    found = self.rows(filter, &found)?;
                }
                Ok(found)
            }
            Filter::Or(any) => {
                let (mut found, mut rest) = (RoaringBitmap::new(), within.clone());
                for filter in self.cheapest_first(any)? {
                    let more = self.rows(filter, &rest)?;
                    rest -= &more;
                    found |= more;
                }
                Ok(found)
            }
            Filter::Not(inner) => {
                let found = self.rows(inner, within)?;
                Ok(within - found)
            }
            Filter::Id(test) => self.by_id(test, within),
            Filter::Column(uid, test) => self.column(filter, *uid, test, within),
        }
    }

    fn cheapest_first<'f>(&self, filters: &'f [Filter]) -> Result<Vec<&'f Filter>> {
        let mut order = Vec::with_capacity(filters.len());
        for filter in filters {
            order.push((access(filter, self.schema, self.segment)?, filter));
        }
        order.sort_by_key(|(access, _)| *access);
        Ok(order.into_iter().map(|(_, filter)| filter).collect())
    }

    fn by_id(&self, test: &IdTest, within: &RoaringBitmap) -> Result<RoaringBitmap> {
        match test {
            IdTest::In(ids) => {
                let mut found = RoaringBitmap::new();
                for id in ids {
                    found.extend(self.segment.row_of(id)?.filter(|row| within.contains(*row)));
                }
                Ok(found)
            }
            IdTest::Compare(order, bound) => {
                let range = match order {
                    Order::Lt => 0..self.first_row(|id| id >= bound)?,
                    Order::Lte => 0..self.first_row(|id| id > bound)?,
                    Order::Gt => self.first_row(|id| id > bound)?..self.segment.rows(),
                    Order::Gte => self.first_row(|id| id >= bound)?..self.segment.rows(),
                };
                let mut found = within.clone();
                found.remove_range(..range.start);
                found.remove_range(range.end..);
                Ok(found)
            }
        }
    }

    /// The first row whose id is far enough; rows are in the order of their ids.
    fn first_row(&self, is_far: impl Fn(&DocId) -> bool) -> Result<u32> {
        let (mut low, mut high) = (0, self.segment.rows());
        while low < high {
            let middle = low.midpoint(high);
            if is_far(&self.segment.id_of(middle)?) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        Ok(low)
    }

    fn column(
        &mut self,
        filter: &Filter,
        uid: ColumnUid,
        test: &Test,
        within: &RoaringBitmap,
    ) -> Result<RoaringBitmap> {
        if self.segment.column(uid).is_none() {
            // No row has a value.
            let passes = matches_value(test, None, self.allowance)?;
            return Ok(if passes { within.clone() } else { RoaringBitmap::new() });
        }
        if let Test::Tokens(test) = test {
            return self.tokens(filter, uid, test, within);
        }
        let Some(index) = self.segment.attribute(uid)? else {
            return self.by_documents(filter, uid, within);
        };
        match test {
            Test::Equals(whole) => {
                let candidates = holding_all(&index, whole, within)?;
                self.by_documents(filter, uid, &candidates)
            }
            test => by_index(&index, test, within, self.allowance),
        }
    }

    fn tokens(
        &mut self,
        filter: &Filter,
        uid: ColumnUid,
        test: &TokenTest,
        within: &RoaringBitmap,
    ) -> Result<RoaringBitmap> {
        let column = self.schema.column_by_uid(uid);
        let Some(reader) = column.map(|column| text_index(self.segment, column)).transpose()?.flatten() else {
            return self.by_documents(filter, uid, within);
        };
        if test.is_sequence()
            && let Some(positions) = self.segment.positions(uid)?
        {
            return sequence::rows(&positions, test, within, self.allowance);
        }
        let (mut all, mut any) = (within.clone(), RoaringBitmap::new());
        for (at, token) in test.tokens.iter().enumerate() {
            self.allowance.check()?;
            let has = if test.last_as_prefix && at + 1 == test.tokens.len() {
                rows_with_prefix(&reader, token)?
            } else {
                reader.term(token)?.map_or(Ok(RoaringBitmap::new()), |term| reader.rows_with(&term))?
            };
            match test.mode {
                TokenMode::Any => any |= has,
                TokenMode::All | TokenMode::Sequence => all &= has,
            }
        }
        match test.mode {
            TokenMode::Any => Ok(any & within),
            // Postings alone do not say where the tokens are.
            TokenMode::Sequence if test.is_sequence() => self.by_documents(filter, uid, &all),
            TokenMode::All | TokenMode::Sequence => Ok(all),
        }
    }

    fn by_documents(&mut self, filter: &Filter, uid: ColumnUid, within: &RoaringBitmap) -> Result<RoaringBitmap> {
        let mut found = RoaringBitmap::new();
        let mut scan = self.segment.scan_of(within, Some(&[uid]))?;
        for row in within {
            // Each may be 64 MB of text that is analysed.
            self.allowance.check()?;
            let document = scan.document(row, Some(&[uid]))?;
            let (texts, analyzers) = (&mut Texts::default(), &mut self.analyzers);
            if matches_with(filter, self.schema, &document, texts, analyzers, self.allowance)? {
                found.insert(row);
            }
        }
        Ok(found)
    }
}

fn by_index(
    index: &AttributeReader<'_>,
    test: &Test,
    within: &RoaringBitmap,
    allowance: &Allowance,
) -> Result<RoaringBitmap> {
    let range = |order: Order, value: &Value| match order {
        Order::Lt => index.ordinals(Bound::Unbounded, Bound::Excluded(value)),
        Order::Lte => index.ordinals(Bound::Unbounded, Bound::Included(value)),
        Order::Gt => index.ordinals(Bound::Excluded(value), Bound::Unbounded),
        Order::Gte => index.ordinals(Bound::Included(value), Bound::Unbounded),
    };
    match test {
        Test::Null => Ok(within - index.present()?),
        Test::AnyOf(values) => {
            let mut ranges = Ranges::default();
            for value in values {
                index.ordinal_of(value)?.into_iter().for_each(|ordinal| ranges.push(ordinal));
            }
            rows_of(index, &ranges, within)
        }
        Test::Compare(order, value) => {
            let found = rows_of(index, &Ranges::one(range(*order, value)?), within)?;
            match order {
                // An absent value sorts below all others.
                Order::Lt | Order::Lte => Ok(found | (within - index.present()?)),
                Order::Gt | Order::Gte => Ok(found),
            }
        }
        Test::AnyCompare(order, value) => rows_of(index, &Ranges::one(range(*order, value)?), within),
        Test::Pattern(pattern) => rows_of(index, &matching_texts(index, pattern, allowance)?, within),
        // Answered from documents and terms.
        Test::Equals(_) | Test::Tokens(_) => Ok(within.clone()),
    }
}

/// The ordinals of the texts that match: each distinct text is tested once, whatever number of rows has it.
fn matching_texts(index: &AttributeReader<'_>, pattern: &Pattern, allowance: &Allowance) -> Result<Ranges> {
    let prefix = match pattern {
        Pattern::Glob(_, prefix) => prefix.as_str(),
        Pattern::Regex(_) | Pattern::Fuzzy(_) => "",
    };
    let first = match prefix {
        "" => 0,
        prefix => index.ordinals(Bound::Included(&Value::String(prefix.to_owned())), Bound::Unbounded)?.start,
    };
    let (mut ranges, mut ended) = (Ranges::default(), Ok(()));
    index.for_each_text(first, |ordinal, text| {
        let found = matches_text(pattern, text, allowance);
        if matches!(found, Ok(true)) {
            ranges.push(ordinal);
        }
        ended = found.map(drop);
        ended.is_ok() && text.starts_with(prefix)
    })?;
    ended.map(|()| ranges)
}

/// The rows that have every element of a whole array, and maybe more.
fn holding_all(index: &AttributeReader<'_>, whole: &Value, within: &RoaringBitmap) -> Result<RoaringBitmap> {
    let mut found = index.present()? & within;
    for element in elements(whole) {
        match index.ordinal_of(&element)? {
            Some(ordinal) => found &= index.rows_of(ordinal)?,
            None => return Ok(RoaringBitmap::new()),
        }
    }
    Ok(found)
}

/// The elements of an array; a scalar is its own only one.
fn elements(value: &Value) -> Vec<Value> {
    match value {
        Value::Bools(v) => v.iter().map(|x| Value::Bool(*x)).collect(),
        Value::Ints(v) => v.iter().map(|x| Value::Int(*x)).collect(),
        Value::Uints(v) => v.iter().map(|x| Value::Uint(*x)).collect(),
        Value::Floats(v) => v.iter().map(|x| Value::Float(*x)).collect(),
        Value::Strings(v) => v.iter().map(|x| Value::String(x.clone())).collect(),
        Value::Uuids(v) => v.iter().map(|x| Value::Uuid(*x)).collect(),
        Value::DateTimes(v) => v.iter().map(|x| Value::DateTime(*x)).collect(),
        scalar => vec![scalar.clone()],
    }
}

/// Ascending ordinals as ranges that do not touch.
#[derive(Default)]
struct Ranges(Vec<Range<u32>>);

impl Ranges {
    fn one(range: Range<u32>) -> Self {
        Ranges(if range.is_empty() { Vec::new() } else { vec![range] })
    }

    /// Adds an ordinal above all before it.
    fn push(&mut self, ordinal: u32) {
        match self.0.last_mut() {
            Some(last) if last.end == ordinal => last.end += 1,
            _ => self.0.push(ordinal..ordinal + 1),
        }
    }

    fn contains(&self, ordinal: u32) -> bool {
        let after = self.0.partition_point(|range| range.end <= ordinal);
        self.0.get(after).is_some_and(|range| range.start <= ordinal)
    }
}

/// Those of the rows `within` that have one of these values.
fn rows_of(index: &AttributeReader<'_>, ranges: &Ranges, within: &RoaringBitmap) -> Result<RoaringBitmap> {
    let single = ranges.0.len() == 1 && ranges.0[0].len() == 1;
    if ranges.0.is_empty() {
        return Ok(RoaringBitmap::new());
    }
    let last = within.max().unwrap_or(0);
    if !single && within.len() * FEW < u64::from(last) || ranges.0.len() > within.len() as usize {
        let mut found = RoaringBitmap::new();
        for row in within {
            if index.row_ordinals(row)?.any(|ordinal| ranges.contains(ordinal)) {
                found.insert(row);
            }
        }
        return Ok(found);
    }
    let mut found = Vec::with_capacity(ranges.0.len());
    for range in &ranges.0 {
        found.push(if range.end - range.start == 1 {
            index.rows_of(range.start)?
        } else {
            index.rows_in(range.clone())?
        });
    }
    Ok(found.union() & within)
}
