//! Turns of writes that look by filters or long conditions, each of which keeps a processor busy for as long as that takes.
//!
//! Invariants:
//! - No project has all turns: who waits for one of its own waits before it stands in the row of all. So a project without any waits for
//!   one of few that every other project has.
//! - Who waits for a turn holds nothing that other writes need.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::namespace::stopping;
use crate::error::Result;
use crate::model::ids::Project;

/// So many writes at a time look by filters: few of the threads that one node has, so that the rest of its requests go on.
const TURNS: usize = 4;
/// So many of one project.
const TURNS_OF_PROJECT: usize = TURNS - 1;

/// The turns of one node.
pub struct Turns {
    all: Arc<Semaphore>,
    /// Of projects that have one or wait for one.
    by_project: Mutex<HashMap<Project, Arc<Semaphore>>>,
}

/// One write's turn; over when dropped.
pub struct Turn {
    _of_project: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Default for Turns {
    fn default() -> Self {
        Turns { all: Arc::new(Semaphore::new(TURNS)), by_project: Mutex::default() }
    }
}

impl Turns {
    /// Waits for a turn of this project.
    pub async fn take(&self, project: &Project) -> Result<Turn> {
        let own = {
            let mut by_project = self.by_project.lock().unwrap_or_else(PoisonError::into_inner);
            by_project.retain(|_, turns| Arc::strong_count(turns) > 1);
            let fresh = || Arc::new(Semaphore::new(TURNS_OF_PROJECT));
            by_project.entry(project.clone()).or_insert_with(fresh).clone()
        };
        // Neither is ever closed.
        let of_project = own.acquire_owned().await.map_err(|_| stopping())?;
        let of_all = self.all.clone().acquire_owned().await.map_err(|_| stopping())?;
        Ok(Turn { _of_project: of_project, _of_all: of_all })
    }
}
