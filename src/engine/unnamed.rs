//! Objects that are in place before the manifest that is to name them: they go at once where it does not come to be.

use std::sync::Arc;

use super::context::Context;
use super::merge::bases::Staging;
use crate::error::Result;
use crate::tier::Placed;

/// Keys of new objects. Dropped before [`Unnamed::keep`] it removes them.
pub struct Unnamed {
    context: Arc<Context>,
    keys: Vec<String>,
    /// Those of them that are not durable yet.
    placed: Vec<Placed>,
    /// What is to be in place, too.
    staging: Option<Staging>,
}

impl Unnamed {
    pub fn new(context: &Arc<Context>) -> Self {
        Unnamed { context: context.clone(), keys: Vec::new(), placed: Vec::new(), staging: None }
    }

    /// Adds an object that was never named by anybody, before its first byte is written.
    pub fn add(&mut self, key: &str) {
        self.keys.push(key.to_owned());
    }

    /// One of them is in place, and to be durable before it is named.
    pub fn place(&mut self, object: Placed) {
        self.placed.push(object);
    }

    /// Something else is on its way that the manifest needs.
    pub fn wait_for(&mut self, staging: Staging) {
        self.staging = Some(staging);
    }

    /// Takes an object away where it is one of these: something else is in its place.
    pub fn give_up(&mut self, key: &str) {
        let Some(at) = self.keys.iter().position(|known| known == key) else { return };
        if let Err(error) = self.context.tier.remove(&self.keys.swap_remove(at)) {
            tracing::debug!(%error, key, "an object that nothing names stays, a later sweep finds it");
        }
    }

    /// Makes durable what is not, all at once.
    pub fn settle(&mut self) -> Result<()> {
        let settled = self.context.tier.settle(std::mem::take(&mut self.placed));
        // Waited for in any case: who takes it away again must not come before it.
        let staged = self.staging.take().map_or(Ok(()), Staging::wait);
        settled.and(staged)
    }

    /// A manifest names them, or may do so.
    pub fn keep(&mut self) {
        self.keys.clear();
    }
}

impl Drop for Unnamed {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.staging.take().map(Staging::wait) {
            tracing::debug!(%error, "what a manifest would have needed is not in place");
        }
        for key in &self.keys {
            if let Err(error) = self.context.tier.remove(key) {
                tracing::debug!(%error, key, "an object that nothing names stays, a later sweep finds it");
            }
        }
    }
}
