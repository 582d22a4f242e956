//! Who may go on: memory for bodies, shared by all requests, and turns for queries, by namespace and in all, these shared by
//! projects.
//!
//! What a request holds in memory is always accounted for, so a request that needs more keeps what it has while it waits.
//! Two of them may then wait for each other; every wait is bounded, and the one that gives up first lets the other go on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::limits::ServerConfig;
use crate::error::{Error, Result};
use crate::model::ids::{NamespaceName, Project};
use crate::platform::turns::{self, Turns};

/// Memory is handed out in units of this many bytes.
const UNIT_BYTES: u64 = 1 << 10;
/// Idle namespaces are forgotten when more than this many are known.
const NAMESPACES_REMEMBERED: usize = 256;
/// So many queries are answered at once at least, however few processors there are: some of them wait for the disk or for their clients.
const QUERIES_AT_ONCE_MIN: usize = 4;

/// The gates of one server.
pub struct Gates {
    memory: Arc<Semaphore>,
    memory_units: u32,
    memory_wait: Duration,
    queries: Turns<Project>,
    per_namespace: Mutex<HashMap<NamespaceName, Arc<Semaphore>>>,
    per_namespace_max: usize,
    query_wait: Duration,
}

/// A share of the memory for bodies; given back when dropped.
pub struct Share {
    permit: Option<OwnedSemaphorePermit>,
    units: u32,
}

/// A query's turn; over when dropped.
pub struct Turn {
    _namespace: OwnedSemaphorePermit,
    _node: turns::Turn<Project>,
}

impl Gates {
    pub fn new(config: &ServerConfig) -> Self {
        let units = u32::try_from(config.ingest_bytes_max / UNIT_BYTES).unwrap_or(u32::MAX >> 3).max(1);
        // Queries compute: more of them at once than this would only make each slower and hold more memory.
        let processors = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        Gates {
            memory: Arc::new(Semaphore::new(units as usize)),
            memory_units: units,
            memory_wait: Duration::from_millis(config.ingest_wait_ms),
            queries: Turns::new("queries", (2 * processors).max(QUERIES_AT_ONCE_MIN)),
            per_namespace: Mutex::default(),
            per_namespace_max: config.queries_concurrent_max.max(1),
            query_wait: Duration::from_millis(config.query_wait_ms),
        }
    }

    /// No memory yet.
    pub fn share(&self) -> Share {
        Share { permit: None, units: 0 }
    }

    /// Makes a share at least this large, waiting for others where it must. One request may have all there is, so a body
    /// that needs more waits until it is alone. `Busy` when the wait is over.
    pub async fn grow(&self, share: &mut Share, bytes: u64) -> Result<()> {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).min(self.memory_units);
        if units <= share.units {
            return Ok(());
        }
        let more = Arc::clone(&self.memory).acquire_many_owned(units - share.units);
        let Ok(Ok(more)) = tokio::time::timeout(self.memory_wait, more).await else {
            return Err(Error::busy(format!(
                "other requests hold the {} bytes of memory for request bodies",
                u64::from(self.memory_units) * UNIT_BYTES
            ))
            .with_hint("send the same again, fewer at once or in smaller batches"));
        };
        match &mut share.permit {
            Some(permit) => permit.merge(more),
            None => share.permit = Some(more),
        }
        share.units = units;
        Ok(())
    }

    /// Waits for a query's turn. `are_others`: the node has further projects. `Busy` when too many are before it.
    pub async fn turn(&self, name: &NamespaceName, are_others: bool) -> Result<Turn> {
        let gate = {
            let mut gates = self.per_namespace.lock().unwrap_or_else(PoisonError::into_inner);
            if gates.len() > NAMESPACES_REMEMBERED {
                gates.retain(|_, gate| Arc::strong_count(gate) > 1);
            }
            let fresh = || Arc::new(Semaphore::new(self.per_namespace_max));
            Arc::clone(gates.entry(name.clone()).or_insert_with(fresh))
        };
        let namespace = tokio::time::timeout(self.query_wait, gate.acquire_owned());
        let Ok(Ok(namespace)) = namespace.await else {
            return Err(Error::busy(format!(
                "namespace '{}' answers {} queries, as many as it may at once",
                name.name, self.per_namespace_max
            ))
            .with_hint("send the same again a little later"));
        };
        let node = self.queries.take(&name.project, are_others).await?;
        Ok(Turn { _namespace: namespace, _node: node })
    }
}

#[cfg(test)]
mod tests {
    use super::{Gates, ServerConfig};
    use crate::error::Kind;
    use crate::model::ids::Project;

    #[tokio::test(start_paused = true)]
    async fn memory_is_shared_and_given_back() {
        let gates = Gates::new(&ServerConfig { ingest_bytes_max: 10 << 10, ..ServerConfig::default() });
        let mut first = gates.share();
        gates.grow(&mut first, 6 << 10).await.unwrap();
        let mut second = gates.share();
        gates.grow(&mut second, 4 << 10).await.unwrap();
        assert_eq!(gates.grow(&mut second, 5 << 10).await.unwrap_err().kind(), Kind::Busy);
        drop(first);
        // Larger than all there is: it may have all, alone.
        gates.grow(&mut second, 1 << 30).await.unwrap();
        drop(second);
    }

    #[tokio::test(start_paused = true)]
    async fn two_that_wait_for_each_other_both_come_to_an_end() {
        let gates = Gates::new(&ServerConfig { ingest_bytes_max: 10 << 10, ..ServerConfig::default() });
        let gates = &gates;
        let one = |bytes: u64| async move {
            let mut share = gates.share();
            gates.grow(&mut share, 5 << 10).await.unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(bytes)).await;
            gates.grow(&mut share, bytes << 10).await
        };
        let (a, b) = tokio::join!(one(8), one(9));
        assert!(a.is_err() && b.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_query_too_many_is_refused_after_its_wait() {
        let gates = Gates::new(&ServerConfig { queries_concurrent_max: 2, ..ServerConfig::default() });
        let name = Project::default_project().namespace("docs").unwrap();
        let other = Project::default_project().namespace("other").unwrap();
        let _held = (gates.turn(&name, false).await.unwrap(), gates.turn(&name, false).await.unwrap());
        assert_eq!(gates.turn(&name, false).await.map(drop).unwrap_err().kind(), Kind::Busy);
        assert!(gates.turn(&other, false).await.is_ok());
    }
}
