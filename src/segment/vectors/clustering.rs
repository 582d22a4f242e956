//! Puts a column's vectors into clusters and writes them.

use std::sync::Arc;

use super::carried::Carried;
use super::codes::ListBuilder;
use super::kmeans::Centroids;
use super::lists::List;
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
/// A cluster of so many times the usual number of vectors is split; one of so many times less is dissolved in a merge.
const LARGE: usize = 2;
const SMALL: usize = 8;
/// With one in so many clusters less than vectors are to have, a merge makes all anew.
const GROWN: usize = 3;
/// After a merge so large a share of vectors may not be in the nearest cluster, and so many times farther from their centroids may
/// added ones be, by a sample; else all clusters are made anew.
const ELSEWHERE_MAX: f64 = 0.1;
const FARTHER_MAX: f64 = 1.1;
const MOVED_SAMPLE: usize = 2_048;
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

/// What is written of clusters.
#[derive(Clone, Copy, PartialEq)]
pub(in crate::segment) enum Extent {
    /// The table, and lists of codes.
    Lists,
    /// The table alone: which cluster each vector is in.
    Table,
}

/// Writes the sections of a column's clusters; nothing where they would be of no use. Most vectors may be in clusters already.
pub(in crate::segment) fn write(
    uid: ColumnUid,
    (metric, dims, extent): (Metric, u32, Extent),
    (vectors, rows): (&dyn Vectors, u32),
    carried: Option<&Carried>,
    out: &mut SegmentWriter,
) -> Result<()> {
    if vectors.count() < VECTORS_MIN || dims < DIMS_MIN {
        return Ok(());
    }
    let padded = (dims as usize).next_multiple_of(DIMS_MULTIPLE);
    let source = Source::new(vectors, metric, padded);
    let fitting = carried.filter(|carried| carried.fits(metric, padded, vectors.count()));
    let clusters = match fitting {
        Some(carried) => carry(&source, carried)?,
        None => train(&source)?,
    };
    let Some(clusters) = clusters else { return Ok(()) };
    Clustering::new(&source, clusters, fitting)?.write(uid, rows as usize, extent, out)
}

/// Vectors as they are coded.
struct Source<'a> {
    vectors: &'a dyn Vectors,
    metric: Metric,
    rotation: Arc<Rotation>,
    dims: usize,
}

impl<'a> Source<'a> {
    fn new(vectors: &'a dyn Vectors, metric: Metric, dims: usize) -> Self {
        Source { vectors, metric, rotation: Rotation::shared(dims), dims }
    }

    /// The list of a cluster with these members, some of whose codes are in `coded`.
    fn list(&self, centroid: &[f32], members: &[Member], coded: Option<&List>) -> Result<Vec<u8>> {
        let layout = ListLayout::new(members.len(), self.dims);
        let mut list = ListBuilder::new(self.metric, centroid, members.len());
        let mut rows = vec![NO_ROW; layout.rows.len() / 4];
        let mut vector = vec![0.0; self.dims];
        for (member, row) in members.iter().zip(&mut rows) {
            *row = self.vectors.row(member.place as usize);
            if !member.is_coded() || !coded.is_some_and(|coded| list.copy(coded.vector(member.coded_at as usize))) {
                self.read(member.place as usize, &mut vector)?;
                list.add(&vector);
            }
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

/// A cluster as it is put together.
pub(super) struct Cluster {
    pub(super) centroid: Vec<f32>,
    /// Ascending by place.
    pub(super) members: Vec<Member>,
    /// The cluster of an input that it carries on.
    pub(super) carried: Option<usize>,
}

/// A vector of a cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Member {
    pub(super) place: u32,
    /// Where in the list of the cluster that is carried on its codes are, or [`NOT_CODED`].
    pub(super) coded_at: u32,
}

const NOT_CODED: u32 = u32::MAX;

impl Member {
    fn new(place: u32) -> Self {
        Member { place, coded_at: NOT_CODED }
    }

    fn is_coded(&self) -> bool {
        self.coded_at != NOT_CODED
    }
}

/// Clusters of vectors that are in none yet. `None` when some vector is too large to be coded.
fn train(source: &Source) -> Result<Option<Vec<Cluster>>> {
    let count = source.vectors.count();
    let places: Vec<u32> = (0..count as u32).collect();
    let Some(mut clusters) = group(source, &places, clusters_for(count))? else { return Ok(None) };
    split_large(source, &mut clusters, count)?;
    Ok(Some(clusters))
}

/// Clusters of which most are an input's: its vectors stay where they are, others go to the nearest centroid. Clusters that became
/// too small or too large for that are dissolved or split. `None` when some vector is too large to be coded.
fn carry(source: &Source, carried: &Carried) -> Result<Option<Vec<Cluster>>> {
    let count = source.vectors.count();
    let (mut clusters, added) = carried.clusters(count)?;
    if !assign(source, &added, &mut clusters)? {
        return Ok(None);
    }
    let wanted = clusters_for(count);
    let is_small = |cluster: &Cluster| cluster.members.len() * SMALL * wanted < count;
    let (dissolved, kept): (Vec<_>, Vec<_>) = clusters.into_iter().partition(is_small);
    if kept.is_empty() || kept.len() > LARGE * wanted {
        return train(source);
    }
    clusters = kept;
    let freed: Vec<u32> = dissolved.iter().flat_map(|cluster| &cluster.members).map(|m| m.place).collect();
    assign(source, &freed, &mut clusters)?;
    split_large(source, &mut clusters, count)?;
    let is_grown = clusters.len() * GROWN < wanted * (GROWN - 1);
    if is_grown || has_moved(source, &clusters)? { train(source) } else { Ok(Some(clusters)) }
}

/// Groups vectors around `wanted` centroids of their own. `None` when some vector is too large to be coded.
fn group(source: &Source, places: &[u32], wanted: usize) -> Result<Option<Vec<Cluster>>> {
    let count = places.len();
    let sampled = (wanted * SAMPLE_VECTORS).min(SAMPLE_BYTES_MAX / (source.dims * 4)).clamp(wanted, count);
    let mut sample = Vec::with_capacity(sampled * source.dims);
    for at in 0..sampled {
        source.append(places[at * count / sampled] as usize, &mut sample)?;
    }
    let centroids = Centroids::train(&sample, source.dims, wanted);
    drop(sample);
    let cluster = |at| Cluster { centroid: centroids.get(at).to_vec(), members: Vec::new(), carried: None };
    let mut clusters: Vec<Cluster> = (0..centroids.len()).map(cluster).collect();
    if !assign(source, places, &mut clusters)? {
        return Ok(None);
    }
    clusters.retain(|cluster| !cluster.members.is_empty());
    Ok(Some(clusters))
}

/// Puts vectors, in ascending order, into the cluster whose centroid is nearest. Says whether all can be coded.
fn assign(source: &Source, places: &[u32], clusters: &mut [Cluster]) -> Result<bool> {
    let centroids = centroids_of(clusters, source.dims);
    let before: Vec<usize> = clusters.iter().map(|cluster| cluster.members.len()).collect();
    let (mut batch, mut nearest) = (Vec::new(), vec![0; BATCH]);
    for places in places.chunks(BATCH) {
        batch.clear();
        for place in places {
            let squares = source.append(*place as usize, &mut batch)?;
            if squares.is_nan() || squares > SQUARES_MAX {
                return Ok(false);
            }
        }
        let nearest = &mut nearest[..places.len()];
        centroids.assign(&batch, nearest);
        for (place, at) in places.iter().zip(nearest) {
            clusters[*at as usize].members.push(Member::new(*place));
        }
    }
    for (cluster, before) in clusters.iter_mut().zip(before) {
        if before > 0 && before < cluster.members.len() {
            cluster.members.sort_unstable();
        }
    }
    Ok(true)
}

/// The centroids of clusters, one after the other.
fn centroids_of(clusters: &[Cluster], dims: usize) -> Centroids {
    Centroids::new(clusters.iter().flat_map(|cluster| &cluster.centroid).copied().collect(), dims)
}

/// Makes several clusters of each that has many more vectors than the others.
fn split_large(source: &Source, clusters: &mut Vec<Cluster>, count: usize) -> Result<()> {
    let usual = count.div_ceil(clusters_for(count));
    for at in 0..clusters.len() {
        let members = clusters[at].members.len();
        if members <= LARGE * usual {
            continue;
        }
        let places: Vec<u32> = clusters[at].members.iter().map(|member| member.place).collect();
        // Vectors that are all alike stay together.
        if let Some(mut parts) = group(source, &places, members.div_ceil(usual))?.filter(|parts| parts.len() > 1) {
            clusters[at] = parts.swap_remove(0);
            clusters.append(&mut parts);
        }
    }
    Ok(())
}

/// Whether clusters that were carried on are no longer those of the vectors, by a sample of them: too many are not in the nearest
/// one, or what was added is much farther from its centroid than what was there.
fn has_moved(source: &Source, clusters: &[Cluster]) -> Result<bool> {
    let centroids = centroids_of(clusters, source.dims);
    let every = source.vectors.count().div_ceil(MOVED_SAMPLE);
    let all = (0..).zip(clusters).flat_map(|(at, cluster)| cluster.members.iter().map(move |member| (at, *member)));
    let sample: Vec<(u32, Member)> = all.step_by(every).collect();
    let mut vectors = Vec::with_capacity(sample.len() * source.dims);
    let (mut there, mut added) = ((0.0, 0.0), (0.0, 0.0));
    for (at, member) in &sample {
        let from = vectors.len();
        source.append(member.place as usize, &mut vectors)?;
        let centroid = &clusters[*at as usize].centroid;
        let distance: f32 = vectors[from..].iter().zip(centroid).map(|(x, c)| (x - c) * (x - c)).sum();
        let (sum, count) = if member.is_coded() { &mut there } else { &mut added };
        *sum += f64::from(distance);
        *count += 1.0;
    }
    let mut nearest = vec![0; sample.len()];
    centroids.assign(&vectors, &mut nearest);
    let elsewhere = sample.iter().zip(nearest).filter(|((at, _), nearest)| at != nearest).count();
    let is_far = added.0 * there.1 > FARTHER_MAX * there.0 * added.1;
    Ok(is_far || elsewhere as f64 > ELSEWHERE_MAX * sample.len() as f64)
}

/// Clusters that are ready to be written.
struct Clustering<'a> {
    source: &'a Source<'a>,
    clusters: Vec<Cluster>,
    carried: Option<&'a Carried<'a>>,
    /// Of each cluster, the mean of its vectors' squared norms, and the largest of all; for the dot product only.
    squares: Vec<f32>,
    largest: f32,
}

impl<'a> Clustering<'a> {
    fn new(source: &'a Source<'a>, clusters: Vec<Cluster>, carried: Option<&'a Carried<'a>>) -> Result<Self> {
        let (mut squares, mut largest) = (vec![0.0; clusters.len()], 0f32);
        if source.metric == Metric::DotProduct {
            let mut vector = vec![0.0; source.dims];
            for (cluster, mean) in clusters.iter().zip(&mut squares) {
                let mut sum = 0.0;
                for member in &cluster.members {
                    source.vectors.read(member.place as usize, &mut vector)?;
                    let squares = prepare(source.metric, &mut vector);
                    largest = largest.max(squares);
                    sum += f64::from(squares);
                }
                *mean = (sum / cluster.members.len() as f64) as f32;
            }
        }
        Ok(Clustering { source, clusters, carried, squares, largest })
    }

    fn write(&self, uid: ColumnUid, rows: usize, extent: Extent, out: &mut SegmentWriter) -> Result<()> {
        let Source { metric, dims, vectors, .. } = *self.source;
        let header = Header {
            dims,
            clusters: self.clusters.len(),
            rows,
            vectors: vectors.count(),
            metric,
            largest_norm: self.largest.sqrt(),
        };
        out.begin(column_section(SECTION, uid), Codec::Plain)?;
        out.write(&header.encode())?;
        let mut offset = 0;
        for (cluster, squares) in self.clusters.iter().zip(&self.squares) {
            let centroid: f32 = cluster.centroid.iter().map(|x| x * x).sum();
            // Products order as distances do among vectors that one more dimension makes equally long.
            let norm_squared = centroid + self.largest - squares;
            out.write(&Entry { offset, vectors: cluster.members.len(), norm_squared }.encode())?;
            if extent == Extent::Lists {
                offset += ListLayout::new(cluster.members.len(), dims).bytes();
            }
        }
        for cluster in &self.clusters {
            out.write(bytemuck::cast_slice(&cluster.centroid))?;
        }
        let mut members = vec![NO_CLUSTER; rows];
        for (number, cluster) in (0..).zip(&self.clusters) {
            cluster.members.iter().for_each(|m| members[vectors.row(m.place as usize) as usize] = number);
        }
        out.write(bytemuck::cast_slice(&members))?;
        if extent == Extent::Table {
            return Ok(());
        }
        out.begin(column_section(LISTS_SECTION, uid), Codec::Plain)?;
        self.clusters.iter().try_for_each(|cluster| {
            let coded =
                self.carried.zip(cluster.carried).map(|(carried, at)| carried.list(at)).transpose()?.flatten();
            out.write(&self.source.list(&cluster.centroid, &cluster.members, coded.as_ref())?)
        })
    }
}

/// Checks that a table, and lists where there are any, are those of the vectors.
pub(in crate::segment) fn verify(
    table: &Table,
    lists: Option<&[u8]>,
    vectors: &dyn Vectors,
    name: &str,
) -> Result<()> {
    let header = table.header();
    let wrong = |what: String| Err(Error::corrupt(format!("{name}: clusters of vectors: {what}")));
    if let Some(lists) = lists
        && table.lists_bytes() != Some(lists.len())
    {
        return wrong(format!("lists of {} bytes, expected {:?}", lists.len(), table.lists_bytes()));
    }
    let mut clusters: Vec<Vec<Member>> = vec![Vec::new(); header.clusters];
    for place in 0..vectors.count() {
        let row = vectors.row(place);
        match table.cluster_of(row).and_then(|cluster| clusters.get_mut(cluster)) {
            Some(members) => members.push(Member::new(place as u32)),
            None => return wrong(format!("row {row} is in none")),
        }
    }
    let with_vector = (0..header.rows as u32).filter(|row| table.cluster_of(*row).is_some()).count();
    if with_vector != vectors.count() {
        return wrong(format!("{with_vector} rows are in one, expected {}", vectors.count()));
    }
    let source = Source::new(vectors, header.metric, header.dims);
    for (cluster, (entry, members)) in table.entries().zip(&clusters).enumerate() {
        let is_right = entry.vectors == members.len()
            && match lists {
                Some(lists) => {
                    let bytes = ListLayout::new(entry.vectors, header.dims).bytes();
                    let list = source.list(&centroid_of(table, cluster), members, None)?;
                    lists.get(entry.offset..entry.offset + bytes) == Some(&list)
                }
                None => entry.offset == 0,
            };
        if !is_right {
            return wrong(format!("the list of cluster {cluster} is not that of its {} vectors", members.len()));
        }
    }
    Ok(())
}

/// A cluster's centroid as numbers.
pub(super) fn centroid_of(table: &Table, cluster: usize) -> Vec<f32> {
    let bytes = table.centroid(cluster).unwrap_or_default();
    bytes.as_chunks().0.iter().map(|x| f32::from_le_bytes(*x)).collect()
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
