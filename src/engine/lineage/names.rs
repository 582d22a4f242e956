//! Forgets names that are bound to nothing, once nobody needs them any more.
//!
//! A binding to nothing says two things. That the name has no namespace: as no binding does. And, in `ended`, whose deletion the bucket
//! is to be told, and for as long as it is to be told: where that is absent, no decision of a sync depends on it (see `sync::binding`). So a name that is bound to nothing, without
//! `ended`, may go with its files. Its revisions then begin anew, which is safe as the files are durably gone first, and as the index forgot the name
//! durably before: it puts back bindings that files lost.

use crate::engine::Engine;
use crate::error::Result;
use crate::format::names::{Ended, NameBinding};
use crate::model::ids::{Hlc, NamespaceName, Nsid};

/// What a name means in the bucket.
#[derive(Clone, Copy, Debug)]
pub struct There {
    pub target: Option<Nsid>,
    /// Who lost it last, as the bucket knows.
    pub ended: Option<Nsid>,
    pub hlc: Hlc,
}

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
        if context.is_stopping() {
            return Ok(false);
        }
        context.meta.unname(&name.to_string())?;
        self.catalog.forget(&*context.disk, &context.layout, name)?;
        Ok(true)
    }

    /// What a name means here, now that it is known what it means in the bucket. What the bucket knows needs not be told any more, and
    /// whoever deletes what has its name there does so after that.
    pub async fn binding_beside(&self, name: &NamespaceName, there: &There) -> Result<Option<NameBinding>> {
        let known = tokio::task::block_in_place(|| self.binding(name))?;
        let is_met = match &known {
            Some(known) => tokio::task::block_in_place(|| self.meet_binding(known, there))?.is_none(),
            None => true,
        };
        if is_met {
            return Ok(known);
        }
        self.edit_binding(name, |known| self.meet_binding(known, there)).await?;
        tokio::task::block_in_place(|| self.binding(name))
    }

    /// The bucket knows of the end of an incarnation, or that it has its name again: what becomes of it from now on is told anew.
    pub async fn forget_end(&self, name: &NamespaceName, nsid: Nsid) -> Result<()> {
        let without = |known: &NameBinding| {
            let lost = known.lost_by().filter(|lost| lost.nsid != nsid).cloned().collect();
            Ok(known.lost(nsid).map(|_| (known.hlc, lost)))
        };
        self.edit_binding(name, without).await
    }

    /// The clock and the losses that a binding has once it is known what the name means in the bucket; `None` where it has them.
    fn meet_binding(&self, known: &NameBinding, there: &There) -> Result<Option<(Hlc, Vec<Ended>)>> {
        let here = known.target.filter(|_| known.target == there.target);
        let stays = |lost: &&Ended| match Some(lost.nsid) == known.target {
            // It came back, which the bucket knows where it has its name.
            true => here.is_none(),
            false => there.ended != Some(lost.nsid),
        };
        let lost: Vec<Ended> = known.lost_by().filter(stays).cloned().collect();
        let mut hlc = known.hlc;
        if let Some(nsid) = here
            && there.hlc > hlc
        {
            // What a deletion has seen counts, too: mostly nothing has to be written for it.
            let seen = self.common(nsid)?.map(|common| common.version_vector.newest());
            hlc = if seen.is_some_and(|seen| seen >= there.hlc) { hlc } else { there.hlc };
        }
        let is_other = hlc != known.hlc || lost.len() != known.lost_by().count();
        Ok(is_other.then_some((hlc, lost)))
    }

    /// Binds a name to what it is bound to, with another clock and other losses, where `edit` gives any.
    async fn edit_binding(
        &self,
        name: &NamespaceName,
        edit: impl Fn(&NameBinding) -> Result<Option<(Hlc, Vec<Ended>)>>,
    ) -> Result<()> {
        let door = self.door(name);
        let _door = door.lock().await;
        tokio::task::block_in_place(|| {
            let Some(known) = self.binding(name)? else { return Ok(()) };
            let Some(edited) = edit(&known)? else { return Ok(()) };
            let context = &self.context;
            let _commits = context.commits.together();
            let bound = self.catalog.bind_as(&*context.disk, &context.layout, name, &known, edited)?;
            context.follow(name, &bound, None);
            Ok(())
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
