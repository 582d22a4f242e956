//! What a pass would send, as far as this node knows; nothing is asked of the bucket.

use std::collections::{BTreeMap, BTreeSet};

use super::Worker;
use crate::engine::Unsent;
use crate::error::{Error, Result};
use crate::model::ids::NamespaceName;

/// What is not in the bucket yet, by namespace; an error where that cannot be said.
pub type Plan = BTreeMap<NamespaceName, Result<Unsent>>;

impl Worker {
    /// What a pass over these namespaces, or all that take part, would send; those that are followed are left out. NotFound when one of them is not here.
    pub async fn plan(&self, names: Option<&BTreeSet<NamespaceName>>) -> Result<Plan> {
        let mut here: BTreeSet<NamespaceName> = self.engine.named().into_iter().map(|(name, _)| name).collect();
        here.extend(tokio::task::block_in_place(|| self.engine.untold()));
        if let Some(missing) = names.into_iter().flatten().find(|name| !here.contains(name)) {
            return Err(Error::not_found(format!("namespace {missing} is not here, so there is nothing to send"))
                .with_hint("a sync without --dry-run fetches what is in the bucket"));
        }
        let is_asked = |name: &NamespaceName| names.is_none_or(|names| names.contains(name));
        let sent = |name: &NamespaceName| self.takes(name) && !self.engine.follows(name) && is_asked(name);
        self.engine.unsent_of(here.into_iter().filter(sent).collect()).await
    }
}
