//! Forgets names that are bound to nothing, once nobody needs them any more.
//!
//! A binding to nothing says two things. That the name has no namespace: as no binding does. And, in `ended`, whose deletion the bucket
//! is to be told: where that is absent, no decision of a sync depends on it (see `sync::binding`). So a name that is bound to nothing, without
//! `ended`, may go with its files. Its revisions then begin anew, which is safe as the files are durably gone first, and as the index forgot the name
//! durably before: it puts back bindings that files lost.

use crate::engine::Engine;
use crate::error::Result;
use crate::format::names::{Ended, NameBinding};
use crate::model::ids::{NamespaceName, Nsid};

impl Engine {
    /// Forgets a name if nobody needs it. The caller holds its door. Whether it went.
    pub(in crate::engine) fn forget_name(&self, name: &NamespaceName) -> Result<bool> {
        let context = &self.context;
        if !context.meta.is_trusted() || !self.catalog.is_unbound(name) {
            return Ok(false);
        }
        let is_needed = self.binding(name)?.is_none_or(|known| known.target.is_some() || known.ended.is_some());
        if is_needed {
            return Ok(false);
        }
        // Nobody makes the index anew meanwhile.
        let _commits = context.commits.together();
        context.meta.unname(&name.to_string())?;
        self.catalog.forget(&*context.disk, &context.layout, name)?;
        Ok(true)
    }

    /// What a name means here, now that it is known what it means in the bucket: `there`. Of those that lost it before the last one did,
    /// the bucket can have to be told of that one only, and one that came back is known by it; the others are forgotten.
    pub async fn binding_beside(&self, name: &NamespaceName, there: Option<Nsid>) -> Result<Option<NameBinding>> {
        let known = tokio::task::block_in_place(|| self.binding(name))?;
        if known.as_ref().is_none_or(|known| known.before.is_empty()) {
            return Ok(known);
        }
        let door = self.door(name);
        let _door = door.lock().await;
        tokio::task::block_in_place(|| {
            let Some(known) = self.binding(name)? else { return Ok(None) };
            let matters = |lost: &&Ended| [there, known.target].contains(&Some(lost.nsid));
            let mut lost: Vec<Ended> = known.before.iter().chain(&known.ended).filter(matters).cloned().collect();
            if lost.is_empty() {
                lost.extend(known.ended.clone());
            }
            if lost.len() <= known.before.len() {
                let context = &self.context;
                let _commits = context.commits.together();
                let (disk, layout) = (&*context.disk, &context.layout);
                let bound = self.catalog.bind_as(disk, layout, name, known.target, known.hlc, lost)?;
                context.follow(name, &bound, None);
            }
            self.binding(name)
        })
    }

    /// The same for every name, and for directories of names that a crash left empty.
    pub(in crate::engine) fn forget_names(&self) {
        for name in self.catalog.unbound() {
            let door = self.door(&name);
            // Who is in the door may be about to bind it.
            let Ok(_door) = door.try_lock() else { continue };
            if let Err(error) = self.forget_name(&name) {
                tracing::warn!(%name, %error, "a name that is bound to nothing is kept");
            }
        }
    }
}
