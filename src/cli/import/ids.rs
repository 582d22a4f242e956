//! Which rows of an input are of one document: batches that have one in common go one after the other, so that the last row wins.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use serde::Deserialize;
use serde_json::Value as Json;
use uuid::Uuid;

/// The ids of some rows, hashed: two that have a hash in common are taken for one, which costs a wait and no more.
#[derive(Debug, Default)]
pub struct Ids {
    hashes: HashSet<u64>,
    /// A row whose id could not be told may be any document.
    has_unknown: bool,
}

#[derive(Deserialize)]
struct Identified {
    id: Json,
}

impl Ids {
    /// Takes in the id of a row; false where it was in already.
    pub fn add(&mut self, row: &str) -> bool {
        let Ok(Identified { id }) = serde_json::from_str(row) else {
            self.has_unknown = true;
            return true;
        };
        let mut hasher = DefaultHasher::new();
        match &id {
            // A UUID is the same however it is spelt.
            Json::String(text) => match Uuid::parse_str(text) {
                Ok(uuid) => uuid.hash(&mut hasher),
                Err(_) => text.hash(&mut hasher),
            },
            other => other.to_string().hash(&mut hasher),
        }
        self.hashes.insert(hasher.finish())
    }

    /// Whether some document may be among both.
    pub fn meet(&self, other: &Ids) -> bool {
        self.has_unknown || other.has_unknown || !self.hashes.is_disjoint(&other.hashes)
    }
}

#[cfg(test)]
mod tests {
    use super::Ids;

    fn ids(rows: &[&str]) -> Ids {
        let mut ids = Ids::default();
        rows.iter().for_each(|row| assert!(ids.add(row), "{row}"));
        ids
    }

    #[test]
    fn batches_meet_where_a_document_is_in_both() {
        let ones = ids(&[r#"{"id":1,"n":1}"#, r#"{"n":1,"id":"a"}"#]);
        assert!(!ones.meet(&ids(&[r#"{"id":2}"#, r#"{"id":"b"}"#])));
        assert!(ones.meet(&ids(&[r#"{"id":2}"#, r#"{"id":"\u0061"}"#])));
        let uuid = ids(&[r#"{"id":"769c134d-07b8-4225-954a-b6cc5ffc320c"}"#]);
        assert!(uuid.meet(&ids(&[r#"{"id":"{769C134D-07B8-4225-954A-B6CC5FFC320C}"}"#])));
        // The server says what is wrong with it, or takes one of its ids.
        assert!(ones.meet(&ids(&["{}"])) && ones.meet(&ids(&[r#"{"id":2,"id":1}"#])));
    }

    #[test]
    fn a_row_of_a_document_that_is_in_already_is_told() {
        let mut ids = ids(&[r#"{"id":1}"#, r#"{"id":2}"#]);
        assert!(!ids.add(r#"{"id":1,"n":2}"#));
    }
}
