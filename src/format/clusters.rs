//! Clusters of a dense vector column: a table with their centroids, and per cluster one list of rows and codes.
//!
//! ```text
//! table section   header (64 bytes); per cluster where its list is; centroids; the cluster of each row
//! lists section   per cluster, from a multiple of 64 bytes on:
//!                 rows       u32 each, padded to whole blocks
//!                 blocks     per 32 vectors three factors each, then 1-bit codes of four dimensions a half byte
//!                 residuals  per vector 8-bit codes, then scale and base
//! ```

use std::ops::Range;

use super::bytes::Reader;
use super::segment::check_reserved;
use crate::error::{Error, Result};
use crate::model::schema::Metric;

/// The table of a column's clusters; no such section when the column's vectors are in none.
pub const SECTION: &str = "vectors.clusters";
/// The lists of a column's clusters.
pub const LISTS_SECTION: &str = "vectors.lists";
pub const VERSION: u32 = 1;
pub const HEADER_BYTES: usize = 64;
/// Per cluster: offset of its list (u64), number of vectors (u32), squared norm of its centroid (f32).
pub const ENTRY_BYTES: usize = 16;
/// Vectors whose codes lie side by side.
pub const BLOCK: usize = 32;
/// Three f32 for each vector of a block.
pub const FACTORS_BYTES: usize = 3 * 4 * BLOCK;
/// Codes have a multiple of so many dimensions; those beyond the column's are 0 before the rotation.
pub const DIMS_MULTIPLE: usize = 32;
/// The cluster of each row is a u16, of which one value is kept free.
pub const CLUSTERS_MAX: usize = u16::MAX as usize;
/// The cluster of a row that has no vector.
pub const NO_CLUSTER: u16 = u16::MAX;
/// Lists begin at multiples of so many bytes.
const LIST_ALIGNMENT: usize = 64;
/// The row of a place that only fills a block.
pub const NO_ROW: u32 = u32::MAX;

/// What the numbers of a table and its lists are about.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Header {
    /// Dimensions of centroids and codes.
    pub dims: usize,
    pub clusters: usize,
    /// Of the segment.
    pub rows: usize,
    /// Vectors in all clusters together: all of the column.
    pub vectors: usize,
    /// Factors and bases are those of this metric.
    pub metric: Metric,
    /// Of the largest vector; 0 unless the metric is the dot product.
    pub largest_norm: f32,
}

/// One cluster.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Entry {
    /// Where its list begins.
    pub offset: usize,
    pub vectors: usize,
    /// Of its centroid. Under the dot product with what its vectors' squared norms lack to the largest one, on average.
    pub norm_squared: f32,
}

/// The parts of a list of `vectors` codes of `dims` dimensions, by their places in it.
#[derive(Clone, Debug, PartialEq)]
pub struct ListLayout {
    pub rows: Range<usize>,
    pub blocks: Range<usize>,
    pub residuals: Range<usize>,
}

impl ListLayout {
    pub fn new(vectors: usize, dims: usize) -> Self {
        let blocks = vectors.div_ceil(BLOCK);
        let rows_end = blocks * BLOCK * 4;
        let blocks_end = rows_end + blocks * block_bytes(dims);
        ListLayout {
            rows: 0..rows_end,
            blocks: rows_end..blocks_end,
            residuals: blocks_end..blocks_end + vectors * residual_bytes(dims),
        }
    }

    /// The length of a list, what fills it up to the next included.
    pub fn bytes(&self) -> usize {
        self.residuals.end.next_multiple_of(LIST_ALIGNMENT)
    }
}

/// The length of a block's factors and codes.
pub fn block_bytes(dims: usize) -> usize {
    FACTORS_BYTES + dims * BLOCK / 8
}

/// The length of a vector's 8-bit codes with scale and base.
pub fn residual_bytes(dims: usize) -> usize {
    dims + 8
}

fn metric_byte(metric: Metric) -> u32 {
    match metric {
        Metric::CosineDistance => 0,
        Metric::EuclideanSquared => 1,
        Metric::DotProduct => 2,
    }
}

impl Header {
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        let fields = [VERSION, self.dims as u32, self.clusters as u32, self.rows as u32, self.vectors as u32];
        for (at, field) in fields.into_iter().enumerate() {
            out[at * 4..at * 4 + 4].copy_from_slice(&field.to_le_bytes());
        }
        out[20..24].copy_from_slice(&metric_byte(self.metric).to_le_bytes());
        out[24..28].copy_from_slice(&self.largest_norm.to_le_bytes());
        out
    }
}

impl Entry {
    pub fn encode(&self) -> [u8; ENTRY_BYTES] {
        let mut out = [0; ENTRY_BYTES];
        out[..8].copy_from_slice(&(self.offset as u64).to_le_bytes());
        out[8..12].copy_from_slice(&(self.vectors as u32).to_le_bytes());
        out[12..].copy_from_slice(&self.norm_squared.to_le_bytes());
        out
    }
}

/// A table section, its lengths checked.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a> {
    header: Header,
    entries: &'a [[u8; ENTRY_BYTES]],
    centroids: &'a [u8],
    members: &'a [[u8; 2]],
}

impl<'a> Table<'a> {
    /// Reads the section of `bytes`.
    pub fn decode(bytes: &'a [u8], what: &'a str) -> Result<Self> {
        let mut reader = Reader::new(bytes, what);
        let mut fields = Reader::new(reader.take(HEADER_BYTES)?, what);
        let version = fields.u32()?;
        if version != VERSION {
            let message = format!("{what}: clusters of version {version}, this release reads up to {VERSION}");
            return Err(Error::unsupported(message).with_hint("use a release of Shoal that knows this version"));
        }
        let (dims, clusters) = (fields.u32()? as usize, fields.u32()? as usize);
        let (rows, vectors) = (fields.u32()? as usize, fields.u32()? as usize);
        let metric = match fields.u32()? {
            0 => Metric::CosineDistance,
            1 => Metric::EuclideanSquared,
            2 => Metric::DotProduct,
            other => return Err(Error::corrupt(format!("{what}: clusters under unknown metric {other}"))),
        };
        let largest_norm = f32::from_bits(fields.u32()?);
        check_reserved(fields.take(HEADER_BYTES - 28)?, || format!("{what}: clusters"))?;
        let header = Header { dims, clusters, rows, vectors, metric, largest_norm };
        let wrong = || Error::corrupt(format!("{what}: {header:?} in a table of {} bytes", bytes.len()));
        let is_sound = dims > 0
            && dims.is_multiple_of(DIMS_MULTIPLE)
            && (1..=CLUSTERS_MAX).contains(&clusters)
            && vectors <= rows
            && largest_norm.is_finite();
        let expected = dims
            .checked_mul(clusters * 4)
            .and_then(|bytes| bytes.checked_add(HEADER_BYTES + clusters * ENTRY_BYTES))
            .and_then(|bytes| bytes.checked_add(rows.checked_mul(2)?));
        if !is_sound || expected != Some(bytes.len()) {
            return Err(wrong());
        }
        let (entries, _) = reader.take(clusters * ENTRY_BYTES)?.as_chunks();
        let centroids = reader.take(clusters * dims * 4)?;
        let (members, _) = reader.take(rows * 2)?.as_chunks();
        Ok(Table { header, entries, centroids, members })
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    pub fn entry(&self, cluster: usize) -> Option<Entry> {
        let entry = self.entries.get(cluster)?;
        let [offset @ .., _, _, _, _, _, _, _, _] = *entry;
        let [_, _, _, _, _, _, _, _, a, b, c, d, norm @ ..] = *entry;
        Some(Entry {
            offset: u64::from_le_bytes(offset) as usize,
            vectors: u32::from_le_bytes([a, b, c, d]) as usize,
            norm_squared: f32::from_le_bytes(norm),
        })
    }

    pub fn entries(&self) -> impl Iterator<Item = Entry> {
        (0..self.entries.len()).filter_map(|cluster| self.entry(cluster))
    }

    /// A centroid, as little-endian f32.
    pub fn centroid(&self, cluster: usize) -> Option<&'a [u8]> {
        let bytes = self.header.dims * 4;
        self.centroids.get(cluster * bytes..(cluster + 1) * bytes)
    }

    /// All centroids, one after the other.
    pub fn centroids(&self) -> &'a [u8] {
        self.centroids
    }

    /// The cluster of a row's vector; `None` when the row has none.
    pub fn cluster_of(&self, row: u32) -> Option<usize> {
        let cluster = u16::from_le_bytes(*self.members.get(row as usize)?);
        (cluster != NO_CLUSTER).then_some(usize::from(cluster))
    }

    /// The length that the lists section is to have, when entries say so one after the other.
    pub fn lists_bytes(&self) -> Option<usize> {
        let (mut end, mut vectors) = (0usize, 0usize);
        for entry in self.entries() {
            if entry.offset != end || entry.vectors == 0 {
                return None;
            }
            vectors = vectors.checked_add(entry.vectors).filter(|n| *n <= self.header.vectors)?;
            end = end.checked_add(ListLayout::new(entry.vectors, self.header.dims).bytes())?;
        }
        (vectors == self.header.vectors).then_some(end)
    }
}

#[cfg(test)]
mod tests {
    use super::{CLUSTERS_MAX, Entry, Header, ListLayout, NO_CLUSTER, Table};
    use crate::model::schema::Metric;

    fn table() -> Vec<u8> {
        let header = Header {
            dims: 32,
            clusters: 2,
            rows: 41,
            vectors: 40,
            metric: Metric::EuclideanSquared,
            largest_norm: 0.0,
        };
        let second = ListLayout::new(33, 32).bytes();
        let entries = [
            Entry { offset: 0, vectors: 33, norm_squared: 1.5 },
            Entry { offset: second, vectors: 7, norm_squared: 2.0 },
        ];
        let mut bytes = header.encode().to_vec();
        entries.iter().for_each(|entry| bytes.extend_from_slice(&entry.encode()));
        bytes.extend((0..64).flat_map(|n| (n as f32).to_le_bytes()));
        bytes.extend((0..41u16).flat_map(|n| if n == 40 { NO_CLUSTER } else { n / 33 }.to_le_bytes()));
        bytes
    }

    #[test]
    fn a_table_says_where_lists_are() {
        let bytes = table();
        let table = Table::decode(&bytes, "table").unwrap();
        assert_eq!(table.entry(0).unwrap(), Entry { offset: 0, vectors: 33, norm_squared: 1.5 });
        assert_eq!(table.centroid(1).unwrap()[..4], 32f32.to_le_bytes());
        assert_eq!((table.cluster_of(32), table.cluster_of(33), table.cluster_of(40)), (Some(0), Some(1), None));
        assert_eq!(table.cluster_of(41), None);
        assert_eq!(table.lists_bytes(), Some(ListLayout::new(33, 32).bytes() + ListLayout::new(7, 32).bytes()));
    }

    #[test]
    fn a_table_that_contradicts_itself_is_corrupt() {
        let whole = table();
        for cut in 0..whole.len() {
            assert!(Table::decode(&whole[..cut], "table").is_err(), "{cut} bytes");
        }
        for (at, value) in
            [(0, 2), (4, 33), (4, 0), (8, 3), (8, CLUSTERS_MAX as u32 + 1), (12, 42), (16, 42), (20, 3)]
        {
            let mut wrong = whole.clone();
            wrong[at..at + 4].copy_from_slice(&value.to_le_bytes());
            assert!(Table::decode(&wrong, "table").is_err(), "{value} at {at}");
        }
        let mut wrong = whole.clone();
        wrong[64 + 8] = 34;
        assert_eq!(Table::decode(&wrong, "table").unwrap().lists_bytes(), None);
    }
}
