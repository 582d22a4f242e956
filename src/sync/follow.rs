//! A namespace that this node follows: what the bucket has comes here, and nothing goes there.
//!
//! What was written here before the namespace was followed stays on top of what comes, and is sent once it is followed no
//! more. What is only here is left alone.

use super::Sync;
use super::binding::{self, Choice};
use super::namespace::Done;
use crate::error::Result;
use crate::model::ids::{NamespaceName, Nsid};

/// What becomes of a choice where nothing may be sent.
pub fn without_sending(choice: Choice) -> Choice {
    match choice {
        Choice::Bind(_) | Choice::Delete(..) => Choice::Nothing,
        other => other,
    }
}

impl Sync {
    /// Takes in what the bucket has of an incarnation.
    pub(super) async fn follow(&self, name: &NamespaceName, nsid: Nsid) -> Result<Done> {
        let common = tokio::task::block_in_place(|| self.engine.common(nsid))?;
        let Some(found) = self.newest_after(&name.project, nsid, common.as_ref()).await? else {
            self.check_name(name, nsid).await?;
            return Err(binding::no_manifest(name, nsid));
        };
        let mut done = Done { generation: Some(found.manifest.generation), ..Done::default() };
        self.take_in_tags(name, (common.as_ref(), &found.manifest), &mut done).await?;
        if common.as_ref().is_none_or(|common| common.commit_id != found.manifest.commit_id) {
            self.take_in(name, common.as_ref(), &found.manifest, &mut done).await?;
        }
        Ok(done)
    }
}
