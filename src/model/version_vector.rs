//! What a state of a namespace has seen: per origin the clock of its newest commit.
//!
//! Parker et al., "Detection of Mutual Inconsistency in Distributed Systems" (1983). Clocks take the place of counters: those
//! of one origin only grow, and a document's version has one, so a version can be compared with a vector directly.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ids::{Hlc, Origin, Version};

/// Per origin the newest clock seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VersionVector {
    clocks: BTreeMap<Origin, Hlc>,
}

impl VersionVector {
    pub fn of(origin: Origin, hlc: Hlc) -> Self {
        VersionVector { clocks: [(origin, hlc)].into() }
    }

    /// Whether this state has seen that version: it has it, or what replaced it.
    pub fn covers(&self, version: Version) -> bool {
        self.clocks.get(&version.origin).is_some_and(|seen| *seen >= version.hlc)
    }

    /// Follows the commits of `origin` up to `hlc`.
    pub fn see(&mut self, origin: Origin, hlc: Hlc) {
        let seen = self.clocks.entry(origin).or_default();
        *seen = hlc.max(*seen);
    }

    /// Takes in everything that `other` has seen.
    pub fn merge(&mut self, other: &VersionVector) {
        for (origin, hlc) in &other.clocks {
            self.see(*origin, *hlc);
        }
    }

    /// Whether everything that `other` has seen is covered here.
    pub fn covers_all(&self, other: &VersionVector) -> bool {
        other.clocks.iter().all(|(origin, hlc)| self.covers(Version { hlc: *hlc, origin: *origin }))
    }

    /// Whether everything that both `a` and `b` have seen is covered here.
    pub fn covers_common(&self, a: &VersionVector, b: &VersionVector) -> bool {
        a.iter().all(|(origin, hlc)| self.seen(origin) >= hlc.min(b.seen(origin)))
    }

    /// Whether the two have seen anything of the same writer.
    pub fn is_related(&self, other: &VersionVector) -> bool {
        self.clocks.keys().any(|origin| other.clocks.contains_key(origin))
    }

    /// Every origin with the clock of its newest commit that was seen.
    pub fn iter(&self) -> impl Iterator<Item = (Origin, Hlc)> {
        self.clocks.iter().map(|(origin, hlc)| (*origin, *hlc))
    }

    /// The newest commit of `origin` that was seen; 0 when there is none.
    pub fn seen(&self, origin: Origin) -> Hlc {
        self.clocks.get(&origin).copied().unwrap_or_default()
    }

    /// How many origins it knows.
    pub fn len(&self) -> usize {
        self.clocks.len()
    }

    pub fn is_empty(&self) -> bool {
        self.clocks.is_empty()
    }

    /// The newest clock of all.
    pub fn newest(&self) -> Hlc {
        self.clocks.values().copied().max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::VersionVector;
    use crate::model::ids::{Hlc, Origin, Version};

    #[test]
    fn a_merged_vector_covers_what_either_did_and_nothing_more() {
        let (a, b) = (Origin(1), Origin(2));
        let mut vector = VersionVector::of(a, Hlc(5));
        vector.merge(&VersionVector::of(b, Hlc(7)));
        vector.see(a, Hlc(4));
        let covers = |origin, hlc| vector.covers(Version { hlc: Hlc(hlc), origin });
        assert!(covers(a, 5) && covers(b, 7) && covers(b, 1));
        assert!(!covers(a, 6) && !covers(b, 8) && !covers(Origin(3), 0));
        assert!(vector.covers_all(&VersionVector::of(b, Hlc(7))));
        assert!(!VersionVector::of(b, Hlc(7)).covers_all(&vector));
        let mut other = VersionVector::of(a, Hlc(9));
        other.see(Origin(3), Hlc(1));
        assert!(VersionVector::of(a, Hlc(5)).covers_common(&vector, &other));
        assert!(!VersionVector::of(a, Hlc(4)).covers_common(&other, &vector));
        let json = serde_json::to_string(&vector).unwrap();
        assert_eq!(json, r#"{"0000000000000001":5,"0000000000000002":7}"#);
        assert_eq!(serde_json::from_str::<VersionVector>(&json).unwrap(), vector);
    }
}
