//! One column of a part by ordinals: from a segment's index, or gathered from documents where there is none.

use roaring::RoaringBitmap;

use crate::engine::filter::matches::order_values;
use crate::engine::view::TailView;
use crate::error::Result;
use crate::model::schema::ColumnUid;
use crate::model::value::Value;
use crate::platform::allowance::{Allowance, DOCUMENTS_PER_CHECK, Taken};
use crate::segment::Segment;
use crate::segment::attributes::AttributeReader;

/// What a gathered value takes at least.
const PAIR_BYTES: usize = size_of::<(Value, u32)>() + 8;

/// A column's values by row. Ordinals count its distinct values, of arrays their elements, in ascending order.
pub(super) enum Column<'a> {
    /// No row has a value.
    Absent,
    Index(AttributeReader<'a>),
    Gathered(Gathered<'a>),
}

impl<'a> Column<'a> {
    /// The column, as far as `rows` need it.
    pub(super) fn open(
        segment: &'a Segment,
        uid: ColumnUid,
        rows: &RoaringBitmap,
        allowance: &'a Allowance,
    ) -> Result<Self> {
        if segment.column(uid).is_none() {
            return Ok(Column::Absent);
        }
        Ok(match segment.attribute(uid)? {
            Some(reader) => Column::Index(reader),
            None => Column::Gathered(Gathered::read(segment, uid, rows, allowance)?),
        })
    }

    /// The column of the tail's rows at these places.
    pub(super) fn of_tail(tail: &TailView, uid: ColumnUid, places: &RoaringBitmap) -> Self {
        let mut pairs = Vec::new();
        for place in places {
            if let Some(value) = tail.at(place).and_then(|row| row.document.get(uid)) {
                for_each_element(value, |element| pairs.push((element, place)));
            }
        }
        Column::Gathered(Gathered::new(pairs, places, None))
    }

    /// A scalar's ordinal; `None` when the row has no value.
    #[inline]
    pub(super) fn scalar(&self, row: u32) -> Result<Option<u32>> {
        match self {
            Column::Absent => Ok(None),
            Column::Index(reader) => reader.scalar_ordinal(row),
            Column::Gathered(gathered) => Ok(gathered.ordinals(row).first().copied()),
        }
    }

    /// The ordinals of a row's distinct elements, ascending, into `out`.
    pub(super) fn elements(&self, row: u32, out: &mut Vec<u32>) -> Result<()> {
        out.clear();
        match self {
            Column::Absent => {}
            Column::Index(reader) => reader.push_row_ordinals(row, out)?,
            Column::Gathered(gathered) => out.extend_from_slice(gathered.ordinals(row)),
        }
        Ok(())
    }

    pub(super) fn value(&self, ordinal: u32) -> Result<Option<Value>> {
        match self {
            Column::Absent => Ok(None),
            Column::Index(reader) => reader.value(ordinal).map(Some),
            Column::Gathered(gathered) => Ok(gathered.values.get(ordinal as usize).cloned()),
        }
    }
}

/// A column as documents have it.
pub(super) struct Gathered<'a> {
    /// Distinct and ascending.
    values: Vec<Value>,
    /// Per row up to the last one asked for, where its ordinals end.
    ends: Vec<u32>,
    ordinals: Vec<u32>,
    _taken: Option<Taken<'a>>,
}

impl<'a> Gathered<'a> {
    fn read(segment: &Segment, uid: ColumnUid, rows: &RoaringBitmap, allowance: &'a Allowance) -> Result<Self> {
        let mut taken = allowance.take(0)?;
        let mut scan = segment.scan_of(rows, Some(&[uid]))?;
        let mut pairs: Vec<(Value, u32)> = Vec::new();
        for (count, row) in (0..).zip(rows) {
            allowance.check_at(count, DOCUMENTS_PER_CHECK)?;
            if let Some(value) = scan.document(row, Some(&[uid]))?.get(uid) {
                taken.grow(PAIR_BYTES + value.logical_bytes() as usize)?;
                for_each_element(value, |element| pairs.push((element, row)));
            }
        }
        Ok(Self::new(pairs, rows, Some(taken)))
    }

    fn new(mut pairs: Vec<(Value, u32)>, rows: &RoaringBitmap, taken: Option<Taken<'a>>) -> Self {
        pairs.sort_by(|(a, x), (b, y)| order_values(a, b).then(x.cmp(y)));
        pairs.dedup_by(|(a, x), (b, y)| x == y && order_values(a, b).is_eq());
        let mut ends = vec![0u32; rows.max().map_or(0, |row| row as usize + 1)];
        for (_, row) in &pairs {
            ends[*row as usize] += 1;
        }
        let mut next = Vec::with_capacity(ends.len());
        let mut total = 0;
        for end in &mut ends {
            next.push(total);
            total += *end;
            *end = total;
        }
        let mut values: Vec<Value> = Vec::new();
        let mut ordinals = vec![0; pairs.len()];
        for (value, row) in pairs {
            if values.last().is_none_or(|last| order_values(last, &value).is_ne()) {
                values.push(value);
            }
            let place = &mut next[row as usize];
            ordinals[*place as usize] = values.len() as u32 - 1;
            *place += 1;
        }
        Gathered { values, ends, ordinals, _taken: taken }
    }

    fn ordinals(&self, row: u32) -> &[u32] {
        let row = row as usize;
        let Some(end) = self.ends.get(row) else { return &[] };
        let begin = row.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.ordinals[begin as usize..*end as usize]
    }
}

/// Calls `each` with every element of an array, or with a scalar.
pub(super) fn for_each_element(value: &Value, mut each: impl FnMut(Value)) {
    match value {
        Value::Bools(v) => v.iter().for_each(|x| each(Value::Bool(*x))),
        Value::Ints(v) => v.iter().for_each(|x| each(Value::Int(*x))),
        Value::Uints(v) => v.iter().for_each(|x| each(Value::Uint(*x))),
        // Adding 0 makes one zero of the two, as attribute indexes do.
        Value::Floats(v) => v.iter().for_each(|x| each(Value::Float(*x + 0.0))),
        Value::Strings(v) => v.iter().for_each(|x| each(Value::String(x.clone()))),
        Value::Uuids(v) => v.iter().for_each(|x| each(Value::Uuid(*x))),
        Value::DateTimes(v) => v.iter().for_each(|x| each(Value::DateTime(*x))),
        Value::Float(x) => each(Value::Float(*x + 0.0)),
        scalar => each(scalar.clone()),
    }
}

/// A number as scores and sums take it.
pub(super) fn number(value: &Value) -> f64 {
    match value {
        Value::Int(n) => *n as f64,
        Value::Uint(n) => *n as f64,
        Value::Float(x) => *x,
        _ => 0.0,
    }
}
