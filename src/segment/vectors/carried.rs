//! The clusters of a merge's largest input, carried on in the result: vectors that stay in their cluster keep their codes.

use super::clustering::{Cluster, Member, centroid_of};
use super::lists::{Clusters, List};
use crate::error::{Error, Result};
use crate::format::clusters::Table;
use crate::model::schema::Metric;
use crate::segment::merge::GONE;

/// An input with one in so many of the result's vectors has clusters that are worth to be kept.
const WORTH: usize = 2;

/// The clusters of one input.
pub(in crate::segment) struct Carried<'a> {
    table: Table<'a>,
    /// `None` where the table is all there is.
    lists: Option<Clusters<'a>>,
    /// Of each row of the input, its vector's place among those of the result, or [`GONE`]. Places ascend with rows.
    places: Vec<u32>,
    name: &'a str,
}

impl<'a> Carried<'a> {
    pub(super) fn of_lists(clusters: Clusters<'a>, places: Vec<u32>) -> Self {
        Carried { table: clusters.table, name: clusters.name, lists: Some(clusters), places }
    }

    pub(super) fn of_table(table: Table<'a>, places: Vec<u32>, name: &'a str) -> Self {
        Carried { table, lists: None, places, name }
    }

    /// Whether codes are those that a result of `count` vectors is to have, and are many enough.
    pub(super) fn fits(&self, metric: Metric, dims: usize, count: usize) -> bool {
        let header = self.table.header();
        let kept = self.places.iter().filter(|place| **place != GONE).count();
        (header.metric, header.dims) == (metric, dims) && kept * WORTH >= count
    }

    /// The clusters with the vectors that stay, and the places of all others.
    pub(super) fn clusters(&self, count: usize) -> Result<(Vec<Cluster>, Vec<u32>)> {
        let mut is_there = vec![false; count];
        let mut clusters = Vec::with_capacity(self.table.header().clusters);
        for (at, rows) in self.rows()?.into_iter().enumerate() {
            let mut members = Vec::with_capacity(rows.len());
            for (coded_at, row) in (0..).zip(rows) {
                let place = self.places.get(row as usize).copied().unwrap_or(GONE);
                let Some(is_there) = is_there.get_mut(place as usize) else { continue };
                if std::mem::replace(is_there, true) || members.last().is_some_and(|m: &Member| m.place > place) {
                    return Err(Error::corrupt(format!("{}: row {row} is out of order in cluster {at}", self.name)));
                }
                members.push(Member { place, coded_at });
            }
            clusters.push(Cluster { centroid: centroid_of(&self.table, at), members, carried: Some(at) });
        }
        let added = (0..).zip(is_there).filter(|(_, is_there)| !is_there).map(|(place, _)| place).collect();
        Ok((clusters, added))
    }

    /// The rows of each cluster, as its list has them, or else the table.
    fn rows(&self) -> Result<Vec<Vec<u32>>> {
        let mut rows = vec![Vec::new(); self.table.header().clusters];
        match &self.lists {
            Some(lists) => {
                for (at, rows) in rows.iter_mut().enumerate() {
                    let list = lists.list(at as u32)?;
                    rows.extend((0..list.vectors()).map(|place| list.row(place)));
                }
            }
            None => {
                for row in 0..self.table.header().rows as u32 {
                    let cluster = self.table.cluster_of(row).and_then(|cluster| rows.get_mut(cluster));
                    cluster.into_iter().for_each(|rows| rows.push(row));
                }
            }
        }
        Ok(rows)
    }

    /// The list that has the codes of a cluster's vectors, where there are lists.
    pub(super) fn list(&self, at: usize) -> Result<Option<List<'a>>> {
        self.lists.as_ref().map(|lists| lists.list(at as u32)).transpose()
    }
}
