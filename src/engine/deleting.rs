//! Deletes namespaces, and on a full disk lets go of them.

use std::sync::Arc;

use super::lineage::Told;
use super::namespace::not_found;
use super::setbacks::Work;
use super::{Engine, Slot};
use crate::error::Result;
use crate::format::names::parse_name;
use crate::meta::tables::Kin;
use crate::model::ids::{Hlc, NamespaceName, Nsid, Project};
use crate::model::write::WriteRequest;

impl Engine {
    /// Deletes a namespace; its name can be used again at once.
    pub async fn delete(self: &Arc<Self>, name: &NamespaceName) -> Result<()> {
        let name = name.clone();
        self.in_turn(&name.clone(), |engine| async move {
            engine.delete_now(&name).await?;
            tokio::task::block_in_place(|| engine.drop_deleted_for_room());
            Ok(())
        })
        .await
    }

    async fn delete_now(&self, name: &NamespaceName) -> Result<()> {
        let door = self.door(name);
        let _door = door.lock().await;
        let Some(nsid) = self.catalog.find(name) else { return Err(not_found(name)) };
        self.delete_behind_door(name, nsid).await
    }

    /// Deletes the incarnation that has a name. The caller holds its door.
    pub(super) async fn delete_behind_door(&self, name: &NamespaceName, nsid: Nsid) -> Result<()> {
        let (context, hlc) = (&self.context, Hlc::from_millis(self.context.clock.now_millis()));
        context.note_deletion(&name.project);
        let unseat = || self.unseat(name, nsid, None, (hlc, Told::ByThisNode));
        let deleted = tokio::task::block_in_place(|| context.freeing(unseat))?;
        let slot = self.slots().remove(name);
        if let Some(Ok(namespace)) = slot.as_ref().map(Slot::namespace) {
            namespace.retire().await;
        }
        tokio::task::block_in_place(|| context.freeing(|| self.unpin(name)))?;
        let is_kept = deleted.is_some();
        tokio::task::block_in_place(|| {
            self.lay_aside(&name.project, nsid, deleted);
            if !is_kept && let Err(error) = self.forget_name(name) {
                tracing::warn!(%name, %error, "a name that is bound to nothing is kept");
            }
        });
        Ok(())
    }

    /// Makes the reserve for a full disk, where it is not there and there is room.
    pub async fn make_reserve(self: &Arc<Self>) {
        let context = self.context.clone();
        // It may take as long as a disk takes for so many files; who stops waits for it no longer. It fails with a panic only.
        let _ = tokio::task::spawn_blocking(move || context.make_reserve()).await;
    }

    /// Lets go of deleted namespaces of projects in which somebody deletes for want of room for good, the oldest first, while there is not
    /// enough. Blocking.
    pub(super) fn drop_deleted_for_room(&self) {
        let context = &self.context;
        let projects = context.room_wanted_by();
        if !context.may_reclaim() || projects.is_empty() {
            return;
        }
        let theirs = |kin: Kin, nsid: Nsid| {
            let project = parse_name(&kin.name).map(|name| name.project)?;
            projects.contains(&project).then_some((kin.deleted_ms?, nsid, project))
        };
        let mut all: Vec<(u64, Nsid, Project)> =
            context.deleted().into_iter().filter_map(|(nsid, kin)| theirs(kin, nsid)).collect();
        all.sort_unstable();
        for (_, nsid, project) in all {
            let wanted_by = context.room_wanted_by();
            if !context.may_reclaim() || wanted_by.is_empty() {
                return;
            }
            // What the bucket is to be told of is needed for that.
            if wanted_by.contains(&project)
                && context.why_not_yet(nsid, Work::Removal).is_none()
                && !self.waits_for_sync(nsid)
            {
                self.discard_deleted(nsid);
            }
        }
    }

    /// Fails where the disk is too full for a write. One that only deletes takes of the last room.
    pub(super) fn check_room_for(&self, name: &NamespaceName, request: &WriteRequest) -> Result<()> {
        let what = || format!("a write to {name}");
        let has_room = match request.only_deletes() {
            true => self.context.check_last_room(what),
            false => self.context.check_space(request.body_bytes, what),
        };
        let Err(full) = has_room else { return Ok(()) };
        self.context.note_write(&name.to_string(), request.body_bytes, Err(full))
    }
}
