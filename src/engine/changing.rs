//! Turns of those who make and end names and tags. They wait for the disk on threads, and for one another at the index: many of them at
//! once would leave no thread to queries, flushes and the watchdog.

use std::future::Future;
use std::sync::Arc;

use super::Engine;
use crate::error::Result;
use crate::model::ids::{NamespaceName, Project};
use crate::platform::turns::Turn;

/// So many of them at a time, of all projects: a quarter of the threads that wait for something.
pub const CHANGES_AT_ONCE: usize = 8;

impl Engine {
    /// Waits for a turn.
    pub(super) async fn turn_to_change(&self, name: &NamespaceName) -> Result<Turn<Project>> {
        self.context.changing.take(&name.project, self.has_several_projects()).await
    }

    /// [`Engine::to_the_end`], in such a turn.
    pub(super) async fn in_turn<T, F>(
        self: &Arc<Self>,
        name: &NamespaceName,
        work: impl FnOnce(Arc<Engine>) -> F,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let turn = self.turn_to_change(name).await?;
        let work = work(self.clone());
        self.to_the_end(|_| async move {
            let _turn = turn;
            work.await
        })
        .await
    }
}
