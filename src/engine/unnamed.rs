//! Objects that are in place before the manifest that is to name them: they go at once where it does not come to be.

use std::sync::Arc;

use super::context::Context;

/// Keys of new objects. Dropped before [`Unnamed::keep`] it removes them.
pub struct Unnamed {
    context: Arc<Context>,
    keys: Vec<String>,
}

impl Unnamed {
    pub fn new(context: &Arc<Context>) -> Self {
        Unnamed { context: context.clone(), keys: Vec::new() }
    }

    /// Adds an object that was never named by anybody, before its first byte is written.
    pub fn add(&mut self, key: &str) {
        self.keys.push(key.to_owned());
    }

    /// A manifest names them, or may do so.
    pub fn keep(&mut self) {
        self.keys.clear();
    }
}

impl Drop for Unnamed {
    fn drop(&mut self) {
        for key in &self.keys {
            if let Err(error) = self.context.tier.remove(key) {
                tracing::debug!(%error, key, "an object that nothing names stays, a later sweep finds it");
            }
        }
    }
}
