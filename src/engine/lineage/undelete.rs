//! Deleted namespaces: kept for as long as retention says, and brought back whole.

use std::sync::{Arc, PoisonError};

use super::dates::Deletions;
use super::gone;
use super::holdings::kin;
use crate::engine::Engine;
use crate::engine::catalog::read_again;
use crate::engine::merge::settings;
use crate::engine::namespace::head::Head;
use crate::engine::operations::exists;
use crate::error::{Context as _, Result};
use crate::format::manifest::Manifest;
use crate::format::marks::{DeletedFile, VERSION, encode_deleted};
use crate::format::names::Ended;
use crate::meta::tables::{Deadline, Kin};
use crate::model::ids::{Hlc, NamespaceName, Nsid, Project};
use crate::model::version_vector::VersionVector;
use crate::platform::disk::publish;

/// A deleted namespace that can be had back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeletedNamespace {
    pub name: String,
    pub nsid: Nsid,
    /// By the clock as it is now, where this node knows what that jumped by since.
    pub deleted_ms: u64,
}

/// Who tells the bucket that an incarnation lost its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) enum Told {
    ByThisNode,
    /// It was told already: this node only follows.
    Already,
}

impl Engine {
    /// Whether an incarnation was deleted on this node and can be had back.
    pub fn is_laid_aside(&self, nsid: Nsid) -> bool {
        self.context.kin().get(&nsid).is_some_and(|kin| kin.deleted_ms.is_some())
    }

    /// Deleted namespaces of a project that can be had back, newest first.
    pub fn deleted(&self, project: &Project) -> Vec<DeletedNamespace> {
        let prefix = format!("{project}/");
        let dated = Deletions::read(&self.context);
        let kin = self.context.kin();
        let mut found: Vec<DeletedNamespace> = kin
            .iter()
            .filter(|(_, kin)| kin.name.starts_with(&prefix))
            .filter_map(|(nsid, kin)| {
                let deleted_ms = dated.shown_ms(*nsid, kin.deleted_ms?);
                Some(DeletedNamespace { name: kin.name.clone(), nsid: *nsid, deleted_ms })
            })
            .collect();
        found.sort_by_key(|deleted| std::cmp::Reverse(deleted.deleted_ms));
        found
    }

    /// Brings a deleted namespace back under its name; the one deleted last, or the incarnation that is asked for. A time to live
    /// ends with that.
    pub async fn undelete(self: &Arc<Self>, name: &NamespaceName, nsid: Option<Nsid>) -> Result<()> {
        self.kin_known().await?;
        let name = name.clone();
        self.in_turn(&name.clone(), move |engine| async move { engine.undelete_now(&name, nsid, None).await }).await
    }

    /// The same of an incarnation of which the bucket has `theirs`, for which no person asked: its time to live stays, or is what somebody
    /// set there since.
    pub(in crate::engine) async fn undelete_for(
        self: &Arc<Self>,
        name: &NamespaceName,
        theirs: &Manifest,
    ) -> Result<()> {
        let (name, theirs) = (name.clone(), theirs.clone());
        let done = move |engine: Arc<Self>| async move {
            engine.undelete_now(&name, Some(theirs.nsid), Some(&theirs)).await
        };
        self.to_the_end(done).await
    }

    async fn undelete_now(&self, name: &NamespaceName, nsid: Option<Nsid>, theirs: Option<&Manifest>) -> Result<()> {
        if theirs.is_none() {
            self.context.check_space(0, || format!("namespace {name}"))?;
        }
        let door = self.door(name);
        let _door = door.lock().await;
        if self.catalog.find(name).is_some() {
            return Err(exists(name).with_hint("delete the namespace that has the name now, or branch it away first"));
        }
        let text = name.to_string();
        let wanted =
            |deleted: &DeletedNamespace| deleted.name == text && nsid.is_none_or(|nsid| deleted.nsid == nsid);
        let found = self.deleted(&name.project).into_iter().find(wanted);
        let Some(deleted) = found else {
            return Err(gone(format!("namespace '{}' was not deleted, or is not kept any more", name.name)));
        };
        tokio::task::block_in_place(|| {
            let context = &self.context;
            context.go_by_files(deleted.nsid)?;
            if let Some(head) = Head::load(context, deleted.nsid)? {
                let (own, now) = (head.manifest.expires_ms, context.clock.now_millis());
                match theirs {
                    Some(theirs) => {
                        let common = self.common(deleted.nsid)?;
                        let joined = settings::join(theirs, &head.manifest, common.as_ref()).expires_ms;
                        if joined != own {
                            head.commit(context, |manifest| manifest.take_expiry_of(theirs))?;
                        }
                    }
                    // Who brings it back wants it: its time may be what it was deleted for, and would delete it again at once.
                    None if own.is_some() => {
                        head.commit(context, |manifest| {
                            manifest.set_expiry(None, now);
                            manifest.updated_ms = now;
                        })?;
                    }
                    None => {}
                }
            }
            // A sweep sees it deleted or named. Retention stays outside the door.
            let _commits = context.commits.of(deleted.nsid);
            let Some(head) = Head::load(context, deleted.nsid)? else {
                return Err(gone(format!("namespace '{}' is not kept any more", name.name)));
            };
            let hlc = Hlc::from_millis(context.clock.now_millis());
            // By that sync knows that somebody wanted it back, whoever had the name since.
            let seen = if theirs.is_none() { self.shared(deleted.nsid)? } else { None };
            let ended = seen.map(|seen| Ended { nsid: deleted.nsid, seen });
            let bound = self.catalog.bind(&*context.disk, &context.layout, name, Some(deleted.nsid), hlc, ended)?;
            context.follow(name, &bound, Some((deleted.nsid, kin(&head.manifest, None))));
            // Best effort: the mark of an incarnation that has a name counts for nothing.
            let _ = context.disk.remove(&context.layout.deleted_mark(deleted.nsid));
            Ok(())
        })
    }

    /// Takes a name from the incarnation that it is bound to, and gives it to `next`, with what is known of that one. Gives the
    /// mark of who lost it, where that can be had back; a sweep then leaves its files alone from the first moment on.
    pub(in crate::engine) fn unseat(
        &self,
        name: &NamespaceName,
        nsid: Nsid,
        next: Option<(Nsid, Kin)>,
        (hlc, told): (Hlc, Told),
    ) -> Result<Option<DeletedFile>> {
        let context = &self.context;
        let _outgoing = context.outgoing.lock().unwrap_or_else(PoisonError::into_inner);
        // Who sweeps or counts anew sees the name gone and the incarnation deleted, or neither.
        let _commits = context.commits.of(nsid);
        let head = read_again(|| Head::load(context, nsid));
        // Other nodes are told, and of what they have: what they wrote and this one has not taken in is not deleted. A deletion that
        // they are not told of does not hold: the bucket's documents would come back with the next namespace of this name.
        let seen = match (&head, read_again(|| self.shared(nsid))) {
            (Ok(None), _) => None,
            (_, Ok(shared)) => shared,
            // It may be read again soon; what is damaged for good says nothing to anybody.
            (Err(head), Err(shared)) if head.is_unread() || shared.is_unread() => {
                let error = if head.is_unread() { head } else { &shared };
                return Err(error.duplicate().context(format!("look what the bucket has of {name}")));
            }
            (Err(_), Err(_)) => None,
            // The newest manifest covers what this node had in common with the bucket.
            (Ok(Some(head)), Err(_)) => Some(head.manifest.version_vector.clone()),
        };
        let ended = seen.map(|seen| Ended { nsid, seen });
        let is_kept = context.config.retention_ms > 0 || self.waits_for_sync(nsid);
        let marked = if is_kept { Some(self.mark_deleted(name, nsid, hlc)?) } else { None };
        // After everything that was known of it, whatever the clock says.
        let hlc = ended.as_ref().map_or(hlc, |ended: &Ended| hlc.max(ended.seen.newest()));
        let (target, ended) = (next.as_ref().map(|(nsid, _)| *nsid), ended.filter(|_| told == Told::ByThisNode));
        let bound = self.catalog.bind(&*context.disk, &context.layout, name, target, hlc, ended)?;
        context.follow(name, &bound, next);
        if let (Some((deleted, _)), Ok(Some(head))) = (&marked, head) {
            context.set_kin(nsid, kin(&head.manifest, Some(deleted)));
        }
        // Whoever lets go of what nobody deleted, or has, does not see it any more.
        if let Some((_, dated)) = &marked
            && let Err(error) = context.meta.set_deadline(nsid, Some(*dated))
        {
            context.say_now_and_then("how long what is deleted is kept is by what the clock shows", &error);
        }
        Ok(marked.map(|(deleted, _)| deleted))
    }

    /// What this node had seen of what the bucket has of an incarnation, a commit of its own counted whose answer it never heard.
    fn shared(&self, nsid: Nsid) -> Result<Option<VersionVector>> {
        let common = self.common(nsid)?.map(|common| common.version_vector);
        let Some(sent) = self.unsettled(nsid)? else { return Ok(common) };
        let mut seen = common.unwrap_or_default();
        seen.merge(&sent.version_vector);
        Ok(Some(seen))
    }

    /// What becomes of an incarnation that lost its name and is written no more: it is kept where it was marked, else removed.
    pub(in crate::engine) fn lay_aside(&self, project: &Project, nsid: Nsid, deleted: Option<DeletedFile>) {
        match (deleted, Head::load(&self.context, nsid)) {
            (Some(deleted), Ok(Some(head))) => self.context.set_kin(nsid, kin(&head.manifest, Some(&deleted))),
            // It has its mark, and is kept: what is known of it is read anew.
            (Some(_), Err(error)) => {
                tracing::warn!(%nsid, %error, "the manifest of a namespace that was just deleted could not be read");
                self.context.meta.distrust("a deleted namespace could not be read");
            }
            _ => self.end(project, nsid),
        }
    }

    /// Marks an incarnation as deleted, durably, before its name goes. Gives when that was, by a clock that may jump.
    fn mark_deleted(&self, name: &NamespaceName, nsid: Nsid, hlc: Hlc) -> Result<(DeletedFile, Deadline)> {
        let context = &self.context;
        let (deleted_ms, jumps_ms) = context.look_at_wall();
        let file = DeletedFile { format: VERSION, nsid, name: name.to_string(), deleted_ms, hlc };
        let path = context.layout.deleted_mark(nsid);
        publish(&*context.disk, &path, &encode_deleted(&file)?).context(|| format!("write {}", path.display()))?;
        Ok((file, Deadline { expires_ms: deleted_ms, jumps_ms }))
    }
}
