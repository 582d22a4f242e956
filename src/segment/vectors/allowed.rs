//! The rows of one segment that a search of its clusters may find, when a filter says which.

use std::borrow::Cow;

use roaring::RoaringBitmap;

use crate::format::clusters::Table;
use crate::segment::row_bits::RowBits;

/// Where one row in so many matches, or fewer, rows are looked at before their codes, and blocks without any are not read.
const RARE_MATCHES: u64 = 8;
/// Where so many matches or fewer are there for each cluster, they are counted first, and clusters without any are left out.
const COUNTED_MATCHES: u64 = 8;

/// The rows that match a filter and are live.
pub(super) struct Allowed {
    pub(super) rows: RowBits,
    /// How many of all rows match.
    pub(super) share: f32,
    /// Whether rows are looked at before their codes.
    pub(super) is_rare: bool,
    /// Per cluster how many match, where so few match that counting them is worth it.
    pub(super) counts: Option<Vec<u32>>,
}

impl Allowed {
    pub(super) fn new(rows: &RoaringBitmap, dead: &RoaringBitmap, table: &Table) -> Self {
        let (all, clusters) = (table.header().rows, table.header().clusters);
        let live = if dead.is_empty() { Cow::Borrowed(rows) } else { Cow::Owned(rows - dead) };
        let count = live.len();
        let counts = (count <= COUNTED_MATCHES * clusters as u64).then(|| {
            let mut counts = vec![0; clusters];
            for cluster in live.iter().filter_map(|row| table.cluster_of(row)) {
                counts.get_mut(cluster).into_iter().for_each(|count| *count += 1);
            }
            counts
        });
        Allowed {
            rows: RowBits::new(&live, all as u32),
            share: count as f32 / all.max(1) as f32,
            is_rare: count * RARE_MATCHES <= all as u64,
            counts,
        }
    }
}
