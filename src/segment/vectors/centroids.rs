//! The centroids of a column as 8-bit codes: every search reads all centroids, and codes are a quarter of their bytes.
//!
//! They are made once for each open segment. A distance by codes is off by about a thousandth of the distance, which changes
//! the order in which clusters are searched, if anything.

use super::codes::Sought;
use super::fastscan::Kernels;
use crate::format::clusters::Table;

/// The largest code.
const CODE_MAX: f32 = 127.0;

/// One segment's column.
pub(in crate::segment) struct CodedCentroids {
    codes: Vec<u8>,
    /// What a code is multiplied by, and the squared norm; per centroid.
    scales: Vec<(f32, f32)>,
}

impl CodedCentroids {
    pub(super) fn new(table: &Table) -> Self {
        let dims = table.header().dims;
        let mut codes = Vec::with_capacity(table.centroids().len() / 4);
        let mut scales = Vec::with_capacity(table.header().clusters);
        let mut wide = vec![0f32; dims];
        for (entry, centroid) in table.entries().zip(table.centroids().chunks_exact(dims * 4)) {
            let (values, _) = centroid.as_chunks();
            wide.iter_mut().zip(values).for_each(|(wide, x)| *wide = f32::from_le_bytes(*x));
            let largest = wide.iter().fold(0f32, |largest, x| largest.max(x.abs()));
            let inverse = if largest > 0.0 { CODE_MAX / largest } else { 0.0 };
            codes.extend(wide.iter().map(|x| (x * inverse).round().clamp(-CODE_MAX, CODE_MAX) as i8 as u8));
            scales.push((largest / CODE_MAX, entry.norm_squared));
        }
        CodedCentroids { codes, scales }
    }

    /// The squared distance of each centroid to the query, by cluster.
    pub(super) fn distances(&self, sought: &Sought, kernels: Kernels) -> impl Iterator<Item = f32> {
        let codes = self.codes.chunks_exact(sought.narrow.len().max(1));
        codes.zip(&self.scales).map(move |(codes, (scale, norm_squared))| {
            let product = sought.product((kernels.product)(codes, &sought.narrow), *scale);
            (sought.norm_squared + norm_squared - 2.0 * product).max(0.0)
        })
    }
}
