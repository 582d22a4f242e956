//! Remembers what dead rows take from statistics: every query needs it, and counting reads the postings of its terms.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use roaring::RoaringBitmap;

use crate::error::Result;
use crate::model::schema::ColumnUid;

/// Terms that are remembered, at most.
const TERMS_MAX: usize = 4_096;

/// Counts of a segment's terms, for the dead rows that were last asked about.
#[derive(Default)]
pub(in crate::segment) struct DeadCounts(Mutex<Known>);

#[derive(Default)]
struct Known {
    dead: Option<Arc<RoaringBitmap>>,
    /// By column and place of the term's postings.
    counts: HashMap<(ColumnUid, u64), u64>,
    /// By column the rows that have it, and their tokens.
    columns: HashMap<ColumnUid, (u64, u64)>,
}

impl DeadCounts {
    /// What is known of a term, or else what `count` says.
    pub(in crate::segment) fn of(
        &self,
        dead: &Arc<RoaringBitmap>,
        term: (ColumnUid, u64),
        count: impl FnOnce() -> Result<u64>,
    ) -> Result<u64> {
        if let Some(known) = self.known(dead).counts.get(&term) {
            return Ok(*known);
        }
        // Not while it is locked: others may know what they ask for.
        let found = count()?;
        let mut known = self.known(dead);
        if known.counts.len() >= TERMS_MAX {
            known.counts.clear();
        }
        known.counts.insert(term, found);
        Ok(found)
    }

    /// What is known of a column, or else what `count` says.
    pub(in crate::segment) fn of_column(
        &self,
        dead: &Arc<RoaringBitmap>,
        uid: ColumnUid,
        count: impl FnOnce() -> Result<(u64, u64)>,
    ) -> Result<(u64, u64)> {
        if let Some(known) = self.known(dead).columns.get(&uid) {
            return Ok(*known);
        }
        let found = count()?;
        self.known(dead).columns.insert(uid, found);
        Ok(found)
    }

    /// What is known for these dead rows.
    fn known(&self, dead: &Arc<RoaringBitmap>) -> std::sync::MutexGuard<'_, Known> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The one kept cannot have been freed, so the same address is the same set.
        if !known.dead.as_ref().is_some_and(|kept| Arc::ptr_eq(kept, dead)) {
            *known = Known { dead: Some(dead.clone()), ..Known::default() };
        }
        known
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{DeadCounts, TERMS_MAX};
    use crate::model::schema::ColumnUid;

    #[test]
    fn counts_are_known_for_the_dead_rows_they_were_made_for() {
        let counts = DeadCounts::default();
        let (some, more) = (Arc::new([1].into()), Arc::new([1, 2].into()));
        let term = (ColumnUid(1), 64);
        assert_eq!(counts.of(&some, term, || Ok(1)).unwrap(), 1);
        assert_eq!(counts.of(&some, term, || panic!("known")).unwrap(), 1);
        assert_eq!(counts.of(&some, (ColumnUid(2), 64), || Ok(0)).unwrap(), 0);
        assert_eq!(counts.of_column(&some, ColumnUid(1), || Ok((1, 9))).unwrap(), (1, 9));
        assert_eq!(counts.of_column(&some, ColumnUid(1), || panic!("known")).unwrap(), (1, 9));
        assert_eq!(counts.of(&more, term, || Ok(2)).unwrap(), 2);
        assert_eq!(counts.of_column(&more, ColumnUid(1), || Ok((2, 12))).unwrap(), (2, 12));
        assert_eq!(counts.of(&some, term, || Ok(1)).unwrap(), 1);
        for at in 0..=TERMS_MAX as u64 {
            counts.of(&some, (ColumnUid(3), at), || Ok(at)).unwrap();
        }
        assert!(counts.known(&some).counts.len() <= TERMS_MAX);
    }
}
