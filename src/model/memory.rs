//! What values and documents take in memory, as the allocator has it: capacities, not lengths, and what it rounds up to.

use super::document::Document;
use super::ids::DocId;
use super::value::{SparseVector, Value, Vector};

/// The two counters in front of what an `Arc` holds.
pub const ARC_BYTES: usize = 16;

/// What the allocator takes for so many bytes: its sizes are 16 bytes apart up to 128, and from there four between a power of two
/// and the next.
pub fn allocated(bytes: usize) -> u64 {
    let rounded = match bytes {
        0..=8 => bytes.next_multiple_of(8),
        9..=128 => bytes.next_multiple_of(16),
        129..0x10_0000 => bytes.next_multiple_of((1 << (bytes - 1).ilog2()) / 4),
        _ => bytes.next_multiple_of(64 << 10),
    };
    rounded as u64
}

/// What a vector's elements take.
pub fn of_vec<T>(elements: &Vec<T>) -> u64 {
    allocated(elements.capacity() * size_of::<T>())
}

fn of_text(text: &String) -> u64 {
    allocated(text.capacity())
}

impl DocId {
    /// What the id takes beside itself.
    pub fn heap_bytes(&self) -> u64 {
        match self {
            DocId::Uint(_) | DocId::Uuid(_) => 0,
            DocId::String(text) => allocated(text.len()),
        }
    }
}

impl Value {
    /// What the value takes beside itself.
    pub fn heap_bytes(&self) -> u64 {
        match self {
            Value::Bool(_)
            | Value::Int(_)
            | Value::Uint(_)
            | Value::Float(_)
            | Value::Uuid(_)
            | Value::DateTime(_) => 0,
            Value::String(v) => of_text(v),
            Value::Bytes(v) => of_vec(v),
            Value::Bools(v) => of_vec(v),
            Value::Ints(v) | Value::DateTimes(v) => of_vec(v),
            Value::Uints(v) => of_vec(v),
            Value::Floats(v) => of_vec(v),
            Value::Strings(v) => of_vec(v) + v.iter().map(of_text).sum::<u64>(),
            Value::Uuids(v) => of_vec(v),
            Value::Vector(Vector::F32(v)) => of_vec(v),
            Value::Vector(Vector::F16(v)) => of_vec(v),
            Value::Vector(Vector::I8(v)) => of_vec(v),
            Value::Sparse(SparseVector { entries }) => {
                of_vec(entries) + entries.iter().map(|(term, _)| of_text(term)).sum::<u64>()
            }
            Value::Multivector(v) => of_vec(&v.elements),
        }
    }
}

impl Document {
    /// What a shared document takes.
    pub fn memory_bytes(&self) -> u64 {
        let values: u64 = self.fields.iter().map(|(_, value)| value.heap_bytes()).sum();
        let patch = self.patch.as_ref().map_or(0, |patch| of_vec(&patch.changed));
        allocated(ARC_BYTES + size_of::<Document>()) + self.id.heap_bytes() + of_vec(&self.fields) + values + patch
    }
}

#[cfg(test)]
mod tests {
    use super::allocated;

    #[test]
    fn the_allocator_takes_a_little_more_than_it_is_asked_for() {
        let mut last = 0;
        for bytes in (0..4_096).chain((4_096..4 << 20).step_by(997)) {
            let taken = allocated(bytes);
            assert!(taken >= last && taken >= bytes as u64, "{bytes}");
            assert!(taken <= (bytes as u64 + 15).max(bytes as u64 * 5 / 4 + 1), "{bytes}: {taken}");
            last = taken;
        }
    }
}
