//! Puts a column's vectors into clusters and writes them.

use super::codes::ListBuilder;
use super::kmeans::Centroids;
use super::rotation::Rotation;
use crate::error::{Error, Result};
use crate::format::clusters::{
    CLUSTERS_MAX, DIMS_MULTIPLE, Entry, Header, LISTS_SECTION, ListLayout, NO_CLUSTER, NO_ROW, SECTION, Table,
};
use crate::format::segment::{Codec, column_section};
use crate::format::segment_writer::SegmentWriter;
use crate::model::schema::{ColumnUid, Metric};

/// Fewer vectors than these are compared one by one as fast.
const VECTORS_MIN: usize = 2_048;
/// Codes of fewer dimensions say too little.
const DIMS_MIN: u32 = 16;
/// Vectors of one cluster, on average, while there are few.
const CLUSTER_VECTORS: usize = 240;
/// Clusters per square root of the number of vectors, when there are many: a search looks at every centroid.
const CLUSTERS_PER_ROOT: f64 = 2.2;
/// Vectors of the sample that centroids are trained on, for each of them; and its bytes at most.
const SAMPLE_VECTORS: usize = 64;
const SAMPLE_BYTES_MAX: usize = 48 << 20;
/// Vectors that are assigned at a time.
const BATCH: usize = 1_024;
/// Vectors with larger squares are not coded: sums of them could leave the range of f32.
const SQUARES_MAX: f32 = 1e24;

/// The vectors of a column, by their places in it.
pub(in crate::segment) trait Vectors {
    fn count(&self) -> usize;
    /// Rows ascend with places.
    fn row(&self, place: usize) -> u32;
    /// Writes the elements to the front of `out`.
    fn read(&self, place: usize, out: &mut [f32]) -> Result<()>;
}

/// Writes the sections of a column's clusters; nothing where they would be of no use.
pub(in crate::segment) fn write(
    uid: ColumnUid,
    metric: Metric,
    dims: u32,
    (vectors, rows): (&dyn Vectors, u32),
    out: &mut SegmentWriter,
) -> Result<()> {
    if vectors.count() < VECTORS_MIN || dims < DIMS_MIN {
        return Ok(());
    }
    let padded = (dims as usize).next_multiple_of(DIMS_MULTIPLE);
    let source = Source::new(vectors, metric, padded);
    let Some(clustering) = Clustering::new(&source)? else { return Ok(()) };
    clustering.write(uid, &source, rows as usize, out)
}

/// Vectors as they are coded.
struct Source<'a> {
    vectors: &'a dyn Vectors,
    metric: Metric,
    rotation: Rotation,
    dims: usize,
}

impl<'a> Source<'a> {
    fn new(vectors: &'a dyn Vectors, metric: Metric, dims: usize) -> Self {
        Source { vectors, metric, rotation: Rotation::new(dims), dims }
    }

    /// The list of a cluster with the vectors at `places`.
    fn list(&self, centroid: &[f32], places: &[u32]) -> Result<Vec<u8>> {
        let layout = ListLayout::new(places.len(), self.dims);
        let mut list = ListBuilder::new(self.metric, centroid, places.len());
        let mut rows = vec![NO_ROW; layout.rows.len() / 4];
        let mut vector = vec![0.0; self.dims];
        for (place, row) in places.iter().zip(&mut rows) {
            *row = self.vectors.row(*place as usize);
            self.read(*place as usize, &mut vector)?;
            list.add(&vector);
        }
        let (blocks, residuals) = list.finish();
        let mut bytes = Vec::with_capacity(layout.bytes());
        bytes.extend_from_slice(bytemuck::cast_slice(&rows));
        bytes.extend_from_slice(&blocks);
        bytes.extend_from_slice(&residuals);
        bytes.resize(layout.bytes(), 0);
        Ok(bytes)
    }

    /// Reads one into `out`, and gives its squared norm.
    fn read(&self, place: usize, out: &mut [f32]) -> Result<f32> {
        out.fill(0.0);
        self.vectors.read(place, out)?;
        let norm_squared = prepare(self.metric, out);
        self.rotation.apply(out);
        Ok(norm_squared)
    }

    /// Reads one behind what `out` has.
    fn append(&self, place: usize, out: &mut Vec<f32>) -> Result<f32> {
        let from = out.len();
        out.resize(from + self.dims, 0.0);
        self.read(place, &mut out[from..])
    }
}

/// Gives a vector that is compared by its angle the length 1, and says the square of its length then. A zero vector stays.
pub(super) fn prepare(metric: Metric, vector: &mut [f32]) -> f32 {
    let squares: f64 = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
    if metric != Metric::CosineDistance {
        return squares as f32;
    }
    if squares == 0.0 {
        return 0.0;
    }
    let norm = squares.sqrt();
    vector.iter_mut().for_each(|x| *x = (f64::from(*x) / norm) as f32);
    1.0
}

/// Which vector is in which cluster.
struct Clustering {
    centroids: Centroids,
    clusters: Vec<Cluster>,
    /// Of the largest vector, squared.
    largest: f32,
}

/// A cluster that has vectors.
struct Cluster {
    centroid: usize,
    /// Their places, ascending.
    places: Vec<u32>,
    /// The sum of their squared norms.
    squares: f64,
}

impl Clustering {
    /// `None` when some vector is too large to be coded.
    fn new(source: &Source) -> Result<Option<Self>> {
        let count = source.vectors.count();
        let wanted = clusters_for(count);
        let sampled = (wanted * SAMPLE_VECTORS).min(SAMPLE_BYTES_MAX / (source.dims * 4)).clamp(wanted, count);
        let mut sample = Vec::with_capacity(sampled * source.dims);
        for at in 0..sampled {
            source.append(at * count / sampled, &mut sample)?;
        }
        let centroids = Centroids::train(&sample, source.dims, wanted);
        drop(sample);
        let cluster = |centroid| Cluster { centroid, places: Vec::new(), squares: 0.0 };
        let mut clusters: Vec<Cluster> = (0..centroids.len()).map(cluster).collect();
        let mut largest = 0f32;
        let (mut batch, mut squares, mut nearest) = (Vec::new(), Vec::new(), vec![0; BATCH]);
        for from in (0..count).step_by(BATCH) {
            batch.clear();
            squares.clear();
            for place in from..(from + BATCH).min(count) {
                squares.push(source.append(place, &mut batch)?);
            }
            let nearest = &mut nearest[..squares.len()];
            centroids.assign(&batch, nearest);
            for ((place, at), squares) in (from as u32..).zip(nearest).zip(&squares) {
                if squares.is_nan() || *squares > SQUARES_MAX {
                    return Ok(None);
                }
                largest = largest.max(*squares);
                let cluster = &mut clusters[*at as usize];
                cluster.places.push(place);
                cluster.squares += f64::from(*squares);
            }
        }
        clusters.retain(|cluster| !cluster.places.is_empty());
        Ok(Some(Clustering { centroids, clusters, largest }))
    }

    fn write(&self, uid: ColumnUid, source: &Source, rows: usize, out: &mut SegmentWriter) -> Result<()> {
        let metric = source.metric;
        let header = Header {
            dims: source.dims,
            clusters: self.clusters.len(),
            rows,
            vectors: source.vectors.count(),
            metric,
            largest_norm: if metric == Metric::DotProduct { self.largest.sqrt() } else { 0.0 },
        };
        out.begin(column_section(SECTION, uid), Codec::Plain)?;
        out.write(&header.encode())?;
        let mut offset = 0;
        for cluster in &self.clusters {
            let vectors = cluster.places.len();
            let entry = Entry { offset, vectors, norm_squared: self.norm_squared(metric, cluster) };
            out.write(&entry.encode())?;
            offset += ListLayout::new(vectors, source.dims).bytes();
        }
        for cluster in &self.clusters {
            out.write(bytemuck::cast_slice(self.centroids.get(cluster.centroid)))?;
        }
        let mut members = vec![NO_CLUSTER; rows];
        for (number, cluster) in (0..).zip(&self.clusters) {
            cluster.places.iter().for_each(|place| members[source.vectors.row(*place as usize) as usize] = number);
        }
        out.write(bytemuck::cast_slice(&members))?;
        out.begin(column_section(LISTS_SECTION, uid), Codec::Plain)?;
        self.clusters.iter().try_for_each(|cluster| self.write_list(cluster, source, out))
    }

    fn norm_squared(&self, metric: Metric, cluster: &Cluster) -> f32 {
        let centroid: f32 = self.centroids.get(cluster.centroid).iter().map(|x| x * x).sum();
        match metric {
            Metric::CosineDistance | Metric::EuclideanSquared => centroid,
            // Products order as distances do among vectors that one more dimension makes equally long.
            Metric::DotProduct => centroid + self.largest - (cluster.squares / cluster.places.len() as f64) as f32,
        }
    }

    fn write_list(&self, cluster: &Cluster, source: &Source, out: &mut SegmentWriter) -> Result<()> {
        out.write(&source.list(self.centroids.get(cluster.centroid), &cluster.places)?)
    }
}

/// Checks that the lists are those of the vectors.
pub(in crate::segment) fn verify(table: &Table, lists: &[u8], vectors: &dyn Vectors, name: &str) -> Result<()> {
    let header = table.header();
    let wrong = |what: String| Err(Error::corrupt(format!("{name}: clusters of vectors: {what}")));
    if table.lists_bytes() != Some(lists.len()) {
        return wrong(format!("lists of {} bytes, expected {:?}", lists.len(), table.lists_bytes()));
    }
    let mut places: Vec<Vec<u32>> = vec![Vec::new(); header.clusters];
    for place in 0..vectors.count() {
        let row = vectors.row(place);
        match table.cluster_of(row).and_then(|cluster| places.get_mut(cluster)) {
            Some(places) => places.push(place as u32),
            None => return wrong(format!("row {row} is in none")),
        }
    }
    let with_vector = (0..header.rows as u32).filter(|row| table.cluster_of(*row).is_some()).count();
    if with_vector != vectors.count() {
        return wrong(format!("{with_vector} rows are in one, expected {}", vectors.count()));
    }
    let source = Source::new(vectors, header.metric, header.dims);
    for (cluster, (entry, places)) in table.entries().zip(&places).enumerate() {
        let centroid = table.centroid(cluster).unwrap_or_default();
        let centroid: Vec<f32> = centroid.as_chunks().0.iter().map(|x| f32::from_le_bytes(*x)).collect();
        let bytes = ListLayout::new(entry.vectors, header.dims).bytes();
        if entry.vectors != places.len()
            || lists.get(entry.offset..entry.offset + bytes) != Some(&source.list(&centroid, places)?)
        {
            return wrong(format!("the list of cluster {cluster} is not that of its {} vectors", places.len()));
        }
    }
    Ok(())
}

/// How many clusters so many vectors are to have.
fn clusters_for(vectors: usize) -> usize {
    let by_root = (vectors as f64).sqrt() * CLUSTERS_PER_ROOT;
    vectors.div_ceil(CLUSTER_VECTORS).min(by_root as usize).clamp(1, CLUSTERS_MAX)
}

#[cfg(test)]
mod tests {
    use super::clusters_for;

    #[test]
    fn clusters_grow_slower_than_vectors() {
        assert_eq!([1, 2_048, 121_864, 1_000_000].map(clusters_for), [1, 9, 508, 2_200]);
    }
}
