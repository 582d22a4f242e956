//! Branches and copies that share objects: a first manifest that names what another incarnation's does.
//!
//! Nothing of the source is copied or opened, so the cost is that of two small files and one count per object. The source's
//! open log is sealed, so that its newest writes are part of the branch. Where its logs are long, or many, the source makes a segment of
//! them first, once: every branch would replay them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::holdings::{kin, read_manifest};
use crate::engine::namespace::head::Head;
use crate::engine::namespace::not_found;
use crate::engine::operations::exists;
use crate::engine::{Engine, catalog::UNKNOWN_BINDING};
use crate::error::{Error, Result};
use crate::format::manifest::{Lineage, Manifest};
use crate::model::as_of::AsOf;
use crate::model::ids::{CommitId, NamespaceName, Nsid, Origin, Project};
use uuid::Uuid;

/// How long a request waits for what a start reads in the background.
const KIN_WAIT: Duration = Duration::from_secs(10);

/// How a branch is made.
#[derive(Clone, Debug, Default)]
pub struct BranchRequest {
    /// The state to begin with; the newest one when `None`.
    pub as_of: Option<AsOf>,
    /// After so many milliseconds the branch is deleted by itself.
    pub ttl_ms: Option<u64>,
}

/// One namespace in the tree of branches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeNode {
    pub name: String,
    /// The parent's name now; `None` for roots, and where the parent was deleted.
    pub parent: Option<String>,
    pub is_parent_deleted: bool,
    pub expires_ms: Option<u64>,
}

impl Engine {
    /// Makes `to` a branch of `from`: the same documents, then each side on its own. Refused with `exists` when the name is
    /// taken, NotFound with code `gone` when the state is not kept any more.
    pub async fn branch(
        self: &Arc<Self>,
        from: &NamespaceName,
        to: &NamespaceName,
        request: BranchRequest,
    ) -> Result<()> {
        let (from, to) = (from.clone(), to.clone());
        self.in_turn(&to.clone(), |engine| async move { engine.fork(&from, &to, &request, true).await.map(drop) })
            .await
    }

    /// Copies a namespace: a new one without lineage that references the same objects. Gives its documents.
    pub async fn copy(self: &Arc<Self>, from: &NamespaceName, to: &NamespaceName) -> Result<u64> {
        let (from, to) = (from.clone(), to.clone());
        let request = BranchRequest::default();
        self.in_turn(&to.clone(), |engine| async move { engine.fork(&from, &to, &request, false).await }).await
    }

    async fn fork(
        self: &Arc<Self>,
        from: &NamespaceName,
        to: &NamespaceName,
        request: &BranchRequest,
        is_branch: bool,
    ) -> Result<u64> {
        if from == to {
            return Err(Error::invalid("💔 Source and destination namespace can't be the same"));
        }
        if from.project != to.project {
            return Err(Error::unsupported(
                "branches and copies share their source's objects and stay in its project",
            )
            .with_hint("make a deep copy, which shares nothing"));
        }
        self.context.check_space(0, || format!("namespace {to}"))?;
        let source = self.namespace(from)?;
        let door = self.door(to);
        let _door = door.lock().await;
        if self.catalog.find(to).is_some() {
            return Err(exists(to));
        }
        // The source's head is held until the new references are counted: nothing it names can go meanwhile.
        let shared = source.share_at(request.as_of.as_ref()).await?;
        let documents = source.view().documents();
        let (manifest, past) = match &request.as_of {
            None => (shared.manifest.clone(), None),
            Some(as_of) => {
                let past = tokio::task::block_in_place(|| self.past_manifest(&source, as_of))?;
                (past.clone(), Some(past))
            }
        };
        let origin = match is_branch {
            true => tokio::task::block_in_place(|| self.origin_after(&manifest))?,
            false => Origin(self.context.random.next_u64()),
        };
        let mut child = self.child(&manifest, (from, to), origin, is_branch);
        let (nsid, hlc) = (child.nsid, child.hlc);
        let context = &self.context;
        let _birth = context.birth(nsid);
        let bound = tokio::task::block_in_place(|| {
            child.expires_ms = context.expire_in(nsid, request.ttl_ms)?;
            Head::create(context, child.clone())?;
            // Retention, or another node's revision of the tag, may have let go of it before its objects were counted.
            match (&past, &request.as_of) {
                (Some(past), Some(tag @ AsOf::Tag(_))) => {
                    if self.past_manifest(&source, tag)?.commit_id != past.commit_id {
                        return Err(super::gone("as_of: the tag was changed meanwhile"));
                    }
                }
                (Some(past), _) => drop(read_manifest(context, past.nsid, past.generation)?),
                (None, _) => {}
            }
            drop(shared);
            self.catalog.bind(&*context.disk, &context.layout, to, Some(nsid), hlc, None)
        });
        match bound {
            Ok(bound) => {
                context.follow(to, &bound, Some((nsid, kin(&child, None))));
                Ok(documents)
            }
            Err(error) => {
                if error.code() != UNKNOWN_BINDING {
                    tokio::task::block_in_place(|| self.discard(&to.project, nsid));
                }
                Err(error)
            }
        }
    }

    fn child(
        &self,
        manifest: &Manifest,
        (from, to): (&NamespaceName, &NamespaceName),
        origin: Origin,
        is_branch: bool,
    ) -> Manifest {
        let now = self.context.clock.now_millis();
        let parent = manifest.lineage.as_ref();
        let lineage = is_branch.then(|| Lineage {
            nsid: manifest.nsid,
            commit_id: manifest.commit_id,
            name: from.to_string(),
            hlc: manifest.hlc,
            root: Some(parent.map_or(manifest.nsid, |lineage| lineage.root.unwrap_or(lineage.nsid))),
            since: parent.map_or(manifest.hlc, |lineage| lineage.since),
        });
        Manifest {
            nsid: Nsid(self.context.random.uuid_v7(now)),
            name: to.to_string(),
            generation: 0,
            parent: None,
            commit_id: CommitId(self.context.random.uuid_v7(now)),
            origin,
            next_seq: 0,
            replay_from: 0,
            lineage,
            expires_ms: None,
            // Ids of its own: what the source hands out next must not meet what the branch does.
            ids_reserved: 0,
            idempotency: Vec::new(),
            conflicts: Vec::new(),
            created_ms: now,
            updated_ms: now,
            committed_ms: now,
            ..manifest.clone()
        }
    }

    /// Waits until it is known again what was branched from what, and what was deleted: after a stop that was not clean that is read from
    /// the files while the node serves.
    pub async fn kin_known(&self) -> Result<()> {
        let mut known = self.context.is_kin_known.subscribe();
        let is_known = tokio::time::timeout(KIN_WAIT, known.wait_for(|known| *known)).await;
        if is_known.is_ok() {
            return Ok(());
        }
        Err(Error::unavailable("what was branched and deleted is being read anew after a stop that was not clean")
            .with_code("index_rebuilding")
            .with_hint(
                "send the same again a little later; `index_trusted` of the node's status says when it is done",
            ))
    }

    /// The namespaces of a project in order of name, each with its parent.
    pub fn tree(&self, project: &Project) -> Result<Vec<TreeNode>> {
        let all = self.catalog.all();
        let names: BTreeMap<Nsid, &NamespaceName> = all.iter().map(|(name, nsid)| (*nsid, name)).collect();
        let kin = self.context.kin();
        let of_project = all.iter().filter(|(name, _)| name.project == *project);
        Ok(of_project
            .map(|(name, nsid)| {
                let known = kin.get(nsid);
                let parent = known.and_then(|kin| kin.lineage.as_ref()).map(|l| Nsid(Uuid::from_bytes(l.parent)));
                let parent_name = parent.as_ref().and_then(|parent| names.get(parent));
                TreeNode {
                    name: name.name.to_string(),
                    is_parent_deleted: parent.is_some() && parent_name.is_none(),
                    parent: parent_name.map(|name| name.name.to_string()),
                    expires_ms: known.and_then(|kin| kin.expires_ms),
                }
            })
            .collect())
    }

    /// Namespaces that were branched from this one and are still there, in order of name.
    pub fn branches(&self, name: &NamespaceName) -> Result<Vec<String>> {
        let nsid = self.catalog.find(name).ok_or_else(|| not_found(name))?;
        let parent = *nsid.0.as_bytes();
        let mut found: Vec<String> = self
            .context
            .kin()
            .values()
            .filter(|kin| kin.deleted_ms.is_none() && kin.lineage.as_ref().is_some_and(|l| l.parent == parent))
            .map(|kin| kin.name.clone())
            .collect();
        found.sort();
        Ok(found)
    }
}
