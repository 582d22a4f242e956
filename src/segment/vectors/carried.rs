//! The clusters of a merge's largest input, carried on in the result: vectors that stay in their cluster keep their codes.

use super::clustering::{Cluster, Member, centroid_of};
use super::search::{Clusters, List};
use crate::error::{Error, Result};
use crate::model::schema::Metric;
use crate::segment::merge::GONE;

/// An input with one in so many of the result's vectors has clusters that are worth to be kept.
const WORTH: usize = 2;

/// The clusters of one input.
pub(in crate::segment) struct Carried<'a> {
    clusters: Clusters<'a>,
    /// Of each row of the input, its vector's place among those of the result, or [`GONE`]. Places ascend with rows.
    places: Vec<u32>,
}

impl<'a> Carried<'a> {
    pub(super) fn new(clusters: Clusters<'a>, places: Vec<u32>) -> Self {
        Carried { clusters, places }
    }

    /// Whether codes are those that a result of `count` vectors is to have, and are many enough.
    pub(super) fn fits(&self, metric: Metric, dims: usize, count: usize) -> bool {
        let header = self.clusters.table.header();
        let kept = self.places.iter().filter(|place| **place != GONE).count();
        (header.metric, header.dims) == (metric, dims) && kept * WORTH >= count
    }

    /// The clusters with the vectors that stay, and the places of all others.
    pub(super) fn clusters(&self, count: usize) -> Result<(Vec<Cluster>, Vec<u32>)> {
        let mut is_there = vec![false; count];
        let mut clusters = Vec::with_capacity(self.clusters.table.header().clusters);
        for at in 0..self.clusters.table.header().clusters {
            let list = self.list(at)?;
            let mut members = Vec::with_capacity(list.vectors());
            for coded_at in 0..list.vectors() {
                let row = list.row(coded_at);
                let place = self.places.get(row as usize).copied().unwrap_or(GONE);
                let Some(is_there) = is_there.get_mut(place as usize) else { continue };
                if std::mem::replace(is_there, true) || members.last().is_some_and(|m: &Member| m.place > place) {
                    let name = self.clusters.name;
                    return Err(Error::corrupt(format!("{name}: row {row} is out of order in cluster {at}")));
                }
                members.push(Member { place, coded_at: coded_at as u32 });
            }
            clusters.push(Cluster { centroid: centroid_of(&self.clusters.table, at), members, carried: Some(at) });
        }
        let added = (0..).zip(is_there).filter(|(_, is_there)| !is_there).map(|(place, _)| place).collect();
        Ok((clusters, added))
    }

    /// The list that has the codes of a cluster's vectors.
    pub(super) fn list(&self, at: usize) -> Result<List<'a>> {
        self.clusters.list(at)
    }
}
