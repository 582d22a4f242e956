//! What callers ask of an engine, one namespace at a time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::catalog::UNKNOWN_BINDING;
use super::lineage::holdings::kin;
use super::namespace::head::Head;
use super::namespace::{Intake, Namespace, etag, moved, not_found};
use super::sweep::{remove_empty, remove_manifests};
use super::view::View;
use super::write::{apply_schema_update, prepare};
use super::{CreateRequest, Engine, query};
use crate::error::{Error, Kind, Result};
use crate::format::manifest::{Manifest, VERSION};
use crate::format::node::Pin;
use crate::model::ids::{CommitId, DocId, Hlc, NamespaceName, Nsid, Origin, Project};
use crate::model::query::{Query, QueryOutcome, QueryRequest, RecallOutcome, RecallRequest};
use crate::model::schema::Schema;
use crate::model::version_vector::VersionVector;
use crate::model::write::{SchemaUpdate, WriteOutcome, WriteRequest};
use crate::platform::allowance::Allowance;
use crate::platform::disk::if_there;
use crate::platform::mmap::{FULL, lacks_room};

/// The longest label name or value, in bytes, and the most labels of one namespace.
const LABEL_BYTES_MAX: usize = 256;
pub(super) const LABELS_MAX: usize = 64;
/// The code of an error for a name that is taken.
const EXISTS: &str = "exists";
/// How often a write begins anew when its name comes or goes just then.
const NAME_TRIES: usize = 16;
/// The most ids of one request.
const IDS_MAX: u32 = 10_000;
/// What warming brings at a time.
const WARM_BYTES: u64 = 8 << 20;

impl Engine {
    /// Carries out one write; it is durable and visible on return. The namespace is created when it writes documents.
    pub async fn write(self: &Arc<Self>, name: &NamespaceName, request: WriteRequest) -> Result<WriteOutcome> {
        self.catalog.settle(&*self.context.disk, name)?;
        self.check_room_for(name, &request)?;
        self.make_way_for(name).await;
        let request = Arc::new(request);
        let mut tries_left = NAME_TRIES;
        loop {
            tries_left -= 1;
            let (used, done) = self.write_once(name, &request).await;
            match done {
                // The name came, went or went over to another incarnation before this was decided.
                Err(error) if tries_left > 0 && self.has_moved(name, used, &error) => {
                    // Who is at it has done with it then.
                    drop(self.door(name).lock().await);
                }
                done => return done,
            }
        }
    }

    /// Whether this node is shared by several projects.
    pub fn has_several_projects(&self) -> bool {
        self.context.projects.are_several()
    }

    /// Whether an error is of a name that means another incarnation by now than the one that was `used`.
    fn has_moved(&self, name: &NamespaceName, used: Option<Nsid>, error: &Error) -> bool {
        error.code() == EXISTS || (error.kind() == Kind::NotFound && self.catalog.find(name) != used)
    }

    /// Which incarnation was written to, if one has the name, and what came of it.
    async fn write_once(
        self: &Arc<Self>,
        name: &NamespaceName,
        request: &Arc<WriteRequest>,
    ) -> (Option<Nsid>, Result<WriteOutcome>) {
        if let found @ Some(_) = self.catalog.find(name) {
            return match self.namespace(name) {
                Ok(namespace) => (Some(namespace.nsid), namespace.write(request).await),
                Err(error) => (found, Err(error)),
            };
        }
        if let Err(error) = self.catalog.check_name(name) {
            return (None, Err(error));
        }
        let (of, request) = (name.clone(), request.clone());
        (None, self.in_turn(name, |engine| async move { engine.first_write(&of, &request).await }).await)
    }

    /// Runs an operation of several steps in a task of its own: who asked for it may go away in the middle.
    pub(super) async fn to_the_end<T, F>(self: &Arc<Self>, work: impl FnOnce(Arc<Engine>) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let task = tokio::spawn(work(self.clone()));
        let done = task.await.map_err(|error| Error::internal(format!("the operation ended early: {error}")))?;
        let done = self.context.note_commit(done);
        if done.as_ref().is_err_and(|error| error.code() == FULL) {
            // Who tries again finds room.
            if let Err(error) = tokio::task::block_in_place(|| self.relieve()) {
                tracing::warn!(%error, "no room is made for what is read from the bucket");
            }
        }
        done
    }

    /// A write to a name that is not bound: the namespace comes to be with it, or not at all. Code `exists` where another was quicker.
    async fn first_write(&self, name: &NamespaceName, request: &WriteRequest) -> Result<WriteOutcome> {
        if let Some(expected) = &request.if_match {
            return Err(moved(expected, "is not there"));
        }
        if !request.create_namespace.unwrap_or(!request.upserts.is_empty()) {
            return Err(not_found(name));
        }
        // A request that is wrong in itself must not cost any file.
        tokio::task::block_in_place(|| prepare(&Arc::new(Schema::default()), false, request))?;
        let manifest = self.first_manifest(name, Schema::default(), BTreeMap::new());
        let outcome = match self.give_birth(name, manifest, Some(request)).await? {
            (_, Some(outcome)) => outcome,
            (namespace, None) => namespace.write(request).await?,
        };
        self.close_idle();
        Ok(outcome)
    }

    /// Creates an empty namespace, and gives its state, for `ETag`. `Invalid` with code `exists` when the name is taken.
    pub async fn create(self: &Arc<Self>, name: &NamespaceName, request: CreateRequest) -> Result<String> {
        let name = name.clone();
        self.in_turn(&name.clone(), |engine| async move { engine.create_now(&name, request).await }).await
    }

    async fn create_now(&self, name: &NamespaceName, request: CreateRequest) -> Result<String> {
        check_labels(&request.labels)?;
        self.context.check_space(0, || format!("namespace {name}"))?;
        let mut schema = Schema { metric: request.metric, ..Schema::default() };
        if let Some(update) = &request.schema {
            schema = apply_schema_update(&schema, update, false)?;
        }
        let mut manifest = self.first_manifest(name, schema, request.labels);
        manifest.expires_ms = tokio::task::block_in_place(|| self.context.expire_in(manifest.nsid, request.ttl_ms))?;
        let known = kin(&manifest, None);
        // As soon as the name is bound others may write.
        let etag = etag(manifest.data_seq, manifest.hlc, manifest.origin);
        let (namespace, _) = self.give_birth(name, manifest, None).await?;
        self.context.set_kin(namespace.nsid, known);
        drop(namespace);
        self.close_idle();
        Ok(etag)
    }

    /// What a new, empty incarnation begins with.
    pub(super) fn first_manifest(
        &self,
        name: &NamespaceName,
        schema: Schema,
        labels: BTreeMap<String, String>,
    ) -> Manifest {
        let now = self.context.clock.now_millis();
        let nsid = Nsid(self.context.random.uuid_v7(now));
        let (origin, hlc) = (Origin(self.context.random.next_u64()), Hlc::from_millis(now));
        Manifest {
            format: VERSION,
            nsid,
            name: name.to_string(),
            generation: 0,
            parent: None,
            commit_id: CommitId(self.context.random.uuid_v7(now)),
            origin,
            hlc,
            data_seq: 0,
            next_seq: 0,
            replay_from: 0,
            // What is branched off before the first write is related, too.
            version_vector: VersionVector::of(origin, hlc),
            horizon: Hlc(0),
            schema,
            labels,
            read_only: false,
            lineage: None,
            expires_ms: None,
            set_ms: BTreeMap::new(),
            logs: Vec::new(),
            segments: Vec::new(),
            conflicts: Vec::new(),
            ids_reserved: 0,
            idempotency: Vec::new(),
            created_ms: now,
            updated_ms: now,
            written_ms: now,
            committed_ms: now,
            fence: None,
            tags: 0,
        }
    }

    /// Makes an incarnation durable, with its first write where there is one, and then binds the name to it: a crash finds
    /// all of it or nothing.
    pub(super) async fn give_birth(
        &self,
        name: &NamespaceName,
        manifest: Manifest,
        first: Option<&WriteRequest>,
    ) -> Result<(Arc<Namespace>, Option<WriteOutcome>)> {
        self.make_way().await;
        let door = self.door(name);
        let _door = door.lock().await;
        if self.catalog.find(name).is_some() {
            return Err(exists(name));
        }
        let context = &self.context;
        let (nsid, hlc) = (manifest.nsid, manifest.hlc);
        let _birth = context.birth(nsid);
        let namespace = self.begin(name, manifest)?;
        let outcome = match first {
            None => Ok(None),
            Some(request) => namespace.write(request).await.map(Some),
        };
        let bound = outcome.and_then(|outcome| {
            tokio::task::block_in_place(|| {
                let bound = self.catalog.bind(&*context.disk, &context.layout, name, Some(nsid), hlc, None)?;
                context.follow(name, &bound, None);
                Ok(outcome)
            })
        });
        match bound {
            Ok(outcome) => {
                self.seat(name, namespace.clone());
                self.close_idle();
                Ok((namespace, outcome))
            }
            Err(error) => {
                // The binding may be durable in spite of the error: then the files must stay, and the next start decides.
                if error.code() != UNKNOWN_BINDING {
                    namespace.retire().await;
                    tokio::task::block_in_place(|| self.discard(&name.project, nsid));
                }
                Err(error)
            }
        }
    }

    /// Makes an incarnation that has no name yet; what fails leaves nothing.
    pub(super) fn begin(&self, name: &NamespaceName, manifest: Manifest) -> Result<Arc<Namespace>> {
        let (context, nsid) = (&self.context, manifest.nsid);
        tokio::task::block_in_place(|| {
            let head = Head::create(context, manifest);
            let opened =
                head.and_then(|head| Namespace::open(context.clone(), name.clone(), head, Intake::patience(context)));
            opened.inspect_err(|_| self.discard(&name.project, nsid))
        })
    }

    /// Removes what no index knows of: manifests, and logs of this incarnation that nobody else references.
    pub(super) fn remove_files(&self, project: &Project, nsid: Nsid) {
        let context = &self.context;
        if let Err(left) = remove_manifests(context, nsid) {
            return tracing::warn!(error = %left.error, "files of a namespace stay, a later sweep finds them");
        }
        let paths = context.layout.logs(project, nsid);
        for name in paths.names.of(&*context.disk, &paths.open, nsid).unwrap_or_default() {
            if if_there(context.disk.remove(&paths.open.join(&name))).is_ok() {
                paths.names.end(&name);
            }
        }
        for name in context.disk.names(&paths.sealed).unwrap_or_default() {
            let key = super::layout::log_key(project, nsid, &name);
            if context.meta.references(&key).is_ok_and(|count| count == 0) {
                super::namespace::head::reclaim(context, &[key]);
            }
        }
        remove_empty(context, project, nsid);
        self.ended_lately(project, nsid);
    }

    /// Answers one or several queries from one snapshot. Blocking.
    pub fn query(&self, name: &NamespaceName, request: &QueryRequest) -> Result<QueryOutcome> {
        self.on_view(name, None, |view| query::run(view, request, &Allowance::unlimited()))
    }

    /// Says how a query would be answered. Blocking.
    pub fn explain(&self, name: &NamespaceName, request: &Query) -> Result<String> {
        self.on_view(name, None, |view| query::explain(view, request, &Allowance::unlimited()))
    }

    /// Measures the recall of approximate search. Blocking.
    pub fn recall(
        &self,
        name: &NamespaceName,
        request: &RecallRequest,
        allowance: &Allowance,
    ) -> Result<RecallOutcome> {
        self.on_view(name, None, |view| query::recall(view, request, &*self.context.random, allowance))
    }

    /// The newest snapshot of a namespace.
    pub fn view(&self, name: &NamespaceName) -> Result<Arc<View>> {
        self.namespace(name).map(|namespace| namespace.view())
    }

    /// The state of a namespace, for `ETag`.
    pub fn etag(&self, name: &NamespaceName) -> Result<String> {
        self.view(name).map(|view| view.etag.clone())
    }

    /// Names of a project with this prefix, in order, and where the next page starts.
    pub fn list(
        &self,
        project: &Project,
        prefix: &str,
        cursor: Option<&str>,
        page_size: usize,
    ) -> Result<(Vec<String>, Option<String>)> {
        let found = self.catalog.list(project, prefix, cursor, page_size.saturating_add(1));
        let more = found.len() > page_size;
        let names: Vec<String> = found.into_iter().take(page_size).map(|name| name.name.to_string()).collect();
        let next = if more { names.last().cloned() } else { None };
        Ok((names, next))
    }

    pub async fn update_schema(self: &Arc<Self>, name: &NamespaceName, update: SchemaUpdate) -> Result<Arc<Schema>> {
        let namespace = self.namespace_to_change(name)?;
        self.to_the_end(|engine| async move {
            engine.context.check_space(0, || format!("a schema of {}", namespace.name))?;
            namespace.update_schema(&update).await
        })
        .await
    }

    pub async fn set_labels(self: &Arc<Self>, name: &NamespaceName, labels: BTreeMap<String, String>) -> Result<()> {
        check_labels(&labels)?;
        let namespace = self.namespace_to_change(name)?;
        let now = self.context.clock.now_millis();
        self.to_the_end(|engine| async move {
            engine.context.check_space(0, || format!("labels of {}", namespace.name))?;
            namespace.edit_head(|manifest| manifest.set_labels(labels, now)).await
        })
        .await
    }

    /// Refuses or allows writes, pins or unpins; `None` leaves as it is.
    pub async fn update_metadata(
        self: &Arc<Self>,
        name: &NamespaceName,
        read_only: Option<bool>,
        pinned: Option<bool>,
    ) -> Result<()> {
        let name = name.clone();
        self.to_the_end(|engine| async move { engine.update_metadata_now(&name, read_only, pinned).await }).await
    }

    async fn update_metadata_now(
        &self,
        name: &NamespaceName,
        read_only: Option<bool>,
        pinned: Option<bool>,
    ) -> Result<()> {
        let namespace = self.namespace_to_change(name)?;
        if pinned != Some(false) || read_only.is_some() {
            self.context.check_space(0, || format!("settings of {name}"))?;
        }
        if let Some(read_only) = read_only
            && namespace.published().read_only != read_only
        {
            namespace.set_read_only(read_only).await?;
        }
        match pinned {
            Some(true) => self.pin(name),
            Some(false) => self.unpin(name),
            None => Ok(()),
        }
    }

    fn pin(&self, name: &NamespaceName) -> Result<()> {
        let now = self.context.clock.now_millis();
        let text = name.to_string();
        self.edit_pins(name, Some(now), |pins| match pins.binary_search_by(|pin| pin.name.cmp(&text)) {
            Ok(_) => false,
            Err(at) => {
                pins.insert(at, Pin { name: text.clone(), since_ms: now });
                true
            }
        })?;
        self.warm(name)
    }

    pub(super) fn unpin(&self, name: &NamespaceName) -> Result<()> {
        let text = name.to_string();
        self.edit_pins(name, None, |pins| {
            let before = pins.len();
            pins.retain(|pin| pin.name != text);
            pins.len() != before
        })
    }

    /// Changes the pins, durably in `node.json` first.
    fn edit_pins(
        &self,
        name: &NamespaceName,
        since_ms: Option<u64>,
        edit: impl FnOnce(&mut Vec<Pin>) -> bool,
    ) -> Result<()> {
        tokio::task::block_in_place(|| {
            let mut changed = false;
            self.context.edit_node(|node| {
                changed = edit(&mut node.pins);
                changed
            })?;
            if !changed {
                return Ok(());
            }
            if let Err(error) = self.context.meta.pin(&name.to_string(), since_ms) {
                self.context.say_index_fails(&error);
            }
            Ok(())
        })
    }

    pub(super) fn pinned_since(&self, name: &NamespaceName) -> Option<u64> {
        let node = self.context.node.file();
        let text = name.to_string();
        node.pins.iter().find(|pin| pin.name == text).map(|pin| pin.since_ms)
    }

    /// Opens a namespace, so that the next query finds its segments mapped and its tail in memory; what is not here is brought as
    /// long as there is room. Blocking.
    pub fn warm(&self, name: &NamespaceName) -> Result<()> {
        let view = self.view(name)?;
        let warmed = view.segments.iter().try_for_each(|segment| segment.segment.bring_all(WARM_BYTES));
        warmed.or_else(|error| if lacks_room(&error) { Ok(()) } else { Err(error) })
    }

    /// Turns the tail into a segment, so that the next opening replays nothing.
    pub async fn checkpoint(self: &Arc<Self>, name: &NamespaceName) -> Result<()> {
        let namespace = self.namespace_to_change(name)?;
        self.to_the_end(|_| async move { namespace.flush().await.map(drop) }).await
    }

    /// Merges all segments of a namespace into one.
    pub async fn compact(self: &Arc<Self>, name: &NamespaceName) -> Result<()> {
        let namespace = self.namespace_to_change(name)?;
        self.to_the_end(|_| async move { namespace.compact().await }).await
    }

    /// Ids that no document has and nobody else is given.
    pub async fn allocate_ids(self: &Arc<Self>, name: &NamespaceName, count: u32) -> Result<Vec<DocId>> {
        if !(1..=IDS_MAX).contains(&count) {
            return Err(Error::invalid(format!("count: expected 1 to {IDS_MAX}, got {count}")));
        }
        let namespace = self.namespace_to_change(name)?;
        self.to_the_end(|engine| async move {
            engine.context.check_space(0, || format!("ids of {}", namespace.name))?;
            namespace.allocate_ids(count).await
        })
        .await
    }

    /// Whether new work is taken.
    pub fn is_ready(&self) -> bool {
        !self.context.stopping.load(Ordering::SeqCst)
    }
}

pub(super) fn exists(name: &NamespaceName) -> Error {
    Error::invalid(format!("💔 Destination namespace `{}` already exists", name.name)).with_code(EXISTS)
}

pub(crate) fn check_labels(labels: &BTreeMap<String, String>) -> Result<()> {
    if labels.len() > LABELS_MAX {
        return Err(Error::invalid(format!("{} labels, at most {LABELS_MAX} are allowed", labels.len())));
    }
    match labels.iter().find(|(name, value)| name.is_empty() || name.len().max(value.len()) > LABEL_BYTES_MAX) {
        None => Ok(()),
        Some((name, _)) => Err(Error::invalid(format!(
            "label {name:?}: names have 1 to {LABEL_BYTES_MAX} bytes, values at most {LABEL_BYTES_MAX}"
        ))),
    }
}
