//! Opens a data directory: its lock, its identity, its index, and what a crash left over.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use super::catalog::Catalog;
use super::changing::CHANGES_AT_ONCE;
use super::closing::{ByUse, WAITING_THREADS_MAX};
use super::commits::Commits;
use super::context::{Context, EngineConfig};
use super::damage::Damages;
use super::doubted::Doubted;
use super::expected::Expected;
use super::ids::Uuids;
use super::layout::Layout;
use super::lineage::TagTurns;
use super::made::Made;
use super::namespace::head::Head;
use super::namespace::{Intake, Namespace};
use super::node::{Node, latest};
use super::origins::Origins;
use super::projects::Projects;
use super::reserve::Reserve;
use super::setbacks::Setbacks;
use super::slots::{Slot, Slots};
use super::sweep::SWEEP_REFUSED;
use super::{Engine, is_damage};
use crate::error::{Context as _, DISK_FORBIDDEN, DISK_FULL, DISK_READ_ONLY, Error, Kind, Result};
use crate::format::node::{
    FormatFile, NODE_VERSION, NodeFile, VERSION, decode_format, decode_node, encode_format, encode_node,
};
use crate::meta::Meta;
use crate::meta::tables::{Bound, Kin};
use crate::model::ids::{NamespaceName, Nsid};
use crate::platform::clock::Clock;
use crate::platform::disk::{Disk, TEMPORARY_SUFFIX, create_dirs, if_there, publish, temporary};
use crate::platform::mmap::FULL;
use crate::platform::random::Random;
use crate::platform::turns::Turns;
use crate::platform::wall::Wall;
use crate::tier::Tier;

/// So many namespaces are opened at a time for requests: each may wait for the bucket in a thread.
const OPENED_AT_ONCE: usize = 4;
/// So many writes look by filters at a time, or by long conditions, each of which keeps a processor busy for as long as that takes: few of
/// the threads that one node has, so that the rest of its requests go on.
const LOOKING_AT_ONCE: usize = 4;

impl Engine {
    /// Opens a data directory, or makes one of an empty directory. Refused while another process has it, when it is of a
    /// newer format, and when the directory holds something else.
    pub fn open(
        config: EngineConfig,
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Result<Arc<Engine>> {
        Self::start(config, disk, clock, random).map_err(not_begun)
    }

    fn start(
        config: EngineConfig,
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Result<Arc<Engine>> {
        let layout = Layout::new(&config.data_dir);
        let root = layout.root().to_owned();
        create_dirs(&*disk, &root).context(|| format!("create data directory {}", root.display()))?;
        let lock = disk.lock(&root).map_err(|error| locked(&root, error))?;
        let (node, is_new) = identity(&*disk, &layout, &*clock, &*random)?;
        for dir in [layout.store(), layout.local(), layout.names(), root.join("log")] {
            create_dirs(&*disk, &dir).context(|| format!("create {}", dir.display()))?;
        }
        layout.open_logs.fill(&*disk, &layout.log()).context(|| format!("list {}", layout.log().display()))?;
        let (meta, why) = Meta::open(disk.clone(), layout.meta_file()).map_err(|error| {
            error.or_hint("meta.redb is made anew from the files, nothing is lost without it: move what is in its place away, and start again")
        })?;
        let node = put_right(&*disk, &layout, node, &meta)?;
        if let Err(error) = meta.keep_node(&encode_node(&node)?) {
            tracing::warn!(%error, "the index has no copy of node.json, it is made when it is rebuilt");
        }
        let (why, known) = known(&meta, why);
        let (catalog, kin) = match &why {
            None => (Catalog::from_index(known.names), known.kin),
            Some(why) => {
                if is_new {
                    // Where there was one, the disk it is on may not be mounted.
                    tracing::warn!(path = %root.display(), "there is no data here yet, a new data directory is made");
                } else {
                    tracing::info!(reason = %why, "the index meta.redb is rebuilt from the files, nothing is lost");
                }
                (Catalog::scan(&*disk, &layout, known.names)?.0, BTreeMap::new())
            }
        };
        let projects = Projects::default();
        catalog.all().iter().for_each(|(name, _)| projects.note(&name.project));
        let wall = match meta.clock().unwrap_or_default() {
            None if is_new => Wall::default(),
            seen => Wall::resume(seen, clock.steady_millis()),
        };
        let context = Context {
            tier: Tier::new(
                disk.clone(),
                layout.store(),
                layout.cache(),
                layout.on_their_way(),
                config.tier_bytes_max,
            ),
            config,
            disk,
            clock,
            random,
            layout,
            meta,
            node: Node::new(node),
            uuids: Uuids::default(),
            damages: Damages::default(),
            unborn: Mutex::default(),
            expected: Expected::default(),
            unreadable: Mutex::default(),
            names_whole: AtomicBool::new(true),
            commits: Commits::default(),
            doubted: Doubted::default(),
            outgoing: Mutex::new(()),
            tags: TagTurns::default(),
            kin: Mutex::new(kin),
            is_kin_known: watch::Sender::new(why.is_none() || is_new),
            tails_bytes: AtomicU64::new(0),
            made: Made::default(),
            openings: Mutex::default(),
            flushing: Semaphore::new(1),
            looking: Turns::new("writes that look by filters", LOOKING_AT_ONCE),
            changing: Turns::new("changes of names and tags", CHANGES_AT_ONCE),
            projects,
            filtering: Mutex::new(()),
            compacting: Semaphore::new(1),
            copying: Semaphore::new(1),
            wall: Mutex::new(wall),
            stopping: AtomicBool::new(false),
            setbacks: Setbacks::default(),
            reserve: Reserve::default(),
            conflicts_let_go: AtomicU64::new(0),
            uses: AtomicU64::new(0),
            namespaces: Mutex::default(),
        };
        context.look_at_wall();
        for (name, error) in catalog.damaged() {
            // Nothing would look at it again: a start that fails is tried again.
            if error.is_of_limits() {
                return Err(error);
            }
            let dir = context.layout.bindings(&name);
            let file = dir.strip_prefix(&root).unwrap_or(&dir).display().to_string();
            context.report_damage(&name.to_string(), &file, &error);
        }
        context.tier.cache().reconcile()?;
        Ok(Arc::new(Engine {
            context: Arc::new(context),
            catalog,
            open: Mutex::new(Slots::default()),
            by_use: ByUse::default(),
            ways: Semaphore::new(WAITING_THREADS_MAX),
            openings: Semaphore::new(OPENED_AT_ONCE),
            doors: Mutex::new(HashMap::new()),
            pairs: Mutex::new(HashMap::new()),
            origins: Origins::default(),
            copies: Mutex::default(),
            past: Mutex::new(VecDeque::new()),
            ended: Mutex::default(),
            bases_seen: Mutex::default(),
            looks_without: AtomicU32::new(0),
            telling: Mutex::default(),
            narrow: Mutex::new(()),
            _lock: lock,
        }))
    }

    /// What the background owes after a start, and after an error of the index: counts of references where they are not
    /// known to be right, and the removal of what nobody needs. Until it is done nothing is reclaimed. Blocking.
    pub fn rebuild_index(&self) -> Result<()> {
        let settled = self.settle_doubts();
        let mut dropped = Ok(());
        if !self.is_index_trusted() {
            self.recount()?;
            // At once: on a full disk the index may not be right for long.
            self.looks_without.store(0, Ordering::SeqCst);
            if self.context.may_reclaim() {
                dropped = self.drop_past(None);
            }
        }
        match self.sweep() {
            Err(error) if error.code() == SWEEP_REFUSED => {
                tracing::error!(%error, "nothing is swept");
                Ok(())
            }
            swept => {
                swept?;
                self.forget_names();
                settled.and(dropped)
            }
        }
    }

    /// Makes sure of bindings, manifests and tags that failed and may be in place all the same. For one that is still in doubt its
    /// namespace waits, and nobody else.
    pub(super) fn settle_doubts(&self) -> Result<()> {
        let (took_back, settled) = self.catalog.settle_all(&*self.context.disk);
        if took_back {
            self.context.meta.overcount("what a name was not bound to after all is counted");
        }
        settled.and(self.context.settle_files())
    }

    /// Whether the counts of references are known to be right. While they are not they have to be made anew, and where one of them may
    /// be too low nothing is reclaimed.
    pub fn is_index_trusted(&self) -> bool {
        self.context.meta.is_exact()
    }

    /// Opens a namespace that is bound and not open, for a request that is about to use it. Who waits for others to open it, or for a
    /// turn, takes no thread meanwhile. Whatever is wrong is said to who uses it.
    pub async fn open_for(&self, name: &NamespaceName) {
        let is_closed = || self.slots().get(name).is_none().then(|| self.catalog.find(name)).flatten();
        if is_closed().is_none() {
            return;
        }
        let door = self.door(name);
        let _door = door.lock().await;
        let Ok(_turn) = self.openings.acquire().await else { return };
        if let Some(nsid) = is_closed() {
            let _ = self.open_behind_door(name, nsid, Intake::patience(&self.context));
        }
    }

    /// Opens a bound incarnation. What is damaged is set apart and said.
    pub(super) fn open_namespace(&self, name: &NamespaceName, nsid: Nsid) -> Result<Arc<Namespace>> {
        // Who waits at the door waits for room by that.
        let until = Intake::patience(&self.context);
        let door = self.door(name);
        let _door = tokio::task::block_in_place(|| door.blocking_lock());
        self.open_behind_door(name, nsid, until)
    }

    fn open_behind_door(&self, name: &NamespaceName, nsid: Nsid, until: Instant) -> Result<Arc<Namespace>> {
        if let Some(slot) = self.slots().get(name) {
            return slot.namespace();
        }
        if self.catalog.find(name) != Some(nsid) {
            return Err(super::not_found(name));
        }
        let opened = tokio::task::block_in_place(|| {
            self.context.go_by_files(nsid).context(|| format!("open namespace {name}"))?;
            let head =
                Head::load(&self.context, nsid).context(|| format!("open namespace {name}"))?.ok_or_else(|| {
                    Error::corrupt(format!("open namespace {name}: incarnation {nsid} has no manifest"))
                })?;
            match Namespace::open(self.context.clone(), name.clone(), head.clone(), until) {
                Err(full) if full.code() == FULL => {
                    self.empty_parts()?;
                    Namespace::open(self.context.clone(), name.clone(), head, until)
                }
                opened => opened,
            }
        });
        let slot = match opened {
            Ok(namespace) => Slot::Open(namespace),
            Err(error) if is_damage(&error) => {
                self.context.report_unreadable(&name.to_string(), nsid, &error);
                let hint = "the other namespaces are served; run `shoal check` and see what `shoal repair` offers";
                let error = if error.hint().is_none() { error.with_hint(hint) } else { error };
                Slot::Quarantined(Arc::new(error))
            }
            Err(error) => {
                self.note_damage(name, &error);
                return Err(error);
            }
        };
        match &slot {
            Slot::Open(namespace) => self.seat(name, namespace.clone()),
            Slot::Quarantined(_) => self.slots().insert(name.clone(), slot.clone()),
        }
        slot.namespace()
    }

    /// Marks the index as whole, for who only looked.
    pub fn close_index(&self) -> Result<()> {
        // What could not be read is looked for anew by the next start: it must not take it for what nobody needs.
        let is_whole = self.is_index_trusted() && self.context.are_counts_whole();
        self.context.meta.close(is_whole && !self.catalog.is_in_doubt() && self.context.doubted.is_empty())
    }

    /// From now on nothing is begun that can wait for the next start.
    pub fn begin_to_stop(&self) {
        self.context.stopping.store(true, Ordering::SeqCst);
    }

    /// Seals every log and marks the stop as clean. Nothing may be written afterwards.
    pub async fn shutdown(&self) -> Result<()> {
        self.begin_to_stop();
        let mut failed = None;
        for namespace in self.open_namespaces() {
            if let Err(error) = namespace.stop().await {
                failed = Some(error);
            }
        }
        tokio::task::block_in_place(|| {
            self.remember_parts();
            // A clock that was set since the last look counts as time that passed otherwise, once another process sees it first.
            self.context.look_at_wall();
            // Whoever changes files and what the index says of them is done with both, or sees that the node is stopping.
            let _alone = self.context.commits.alone();
            self.close_index()
        })?;
        failed.map_or(Ok(()), Err)
    }
}

/// What a start takes from the index.
#[derive(Default)]
struct Known {
    names: BTreeMap<String, Bound>,
    kin: BTreeMap<Nsid, Kin>,
}

/// Reads that, and says why the files have to be read nevertheless. A file that a clean stop vouched for may have been damaged before
/// while all of it was in memory: that shows when it is read, and then it is begun anew and has nothing.
fn known(meta: &Meta, why: Option<String>) -> (Option<String>, Known) {
    if why.is_some() {
        return (why, Known { names: meta.names().unwrap_or_default(), ..Known::default() });
    }
    let read = || -> Result<Known> { Ok(Known { names: meta.names()?, kin: meta.all_kin()?.into_iter().collect() }) };
    let why = match read() {
        Ok(known) if meta.is_trusted() => return (None, known),
        Ok(_) => "it is damaged".to_owned(),
        Err(error) => format!("it cannot be read ({})", error.message()),
    };
    (Some(why), Known::default())
}

/// An error of a start with what to do. Nothing goes on by itself: the process ends.
fn not_begun(error: Error) -> Error {
    let hint = match error.code() {
        DISK_FULL => "free space, or inodes (`df -i`), for the data directory, and start again",
        DISK_READ_ONLY => "mount the data directory's file system for writing, and start again",
        DISK_FORBIDDEN => {
            "its owner, its mode and those of the directories above it must let this user read and write it; then start again"
        }
        _ => return error,
    };
    error.with_hint(hint)
}

fn locked(root: &Path, error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::WouldBlock {
        return Error::new(Kind::Conflict, format!("data directory {} is in use by another process", root.display()))
            .with_code("data_dir_locked")
            .with_hint("stop the other daemon, or give this one a directory of its own with --data-dir");
    }
    Error::from(error).context(format!("lock data directory {}", root.display()))
}

/// Reads or makes the two files that say what the directory is.
fn identity(disk: &dyn Disk, layout: &Layout, clock: &dyn Clock, random: &dyn Random) -> Result<(NodeFile, bool)> {
    let read = |path: &Path| if_there(disk.read(path)).context(|| format!("read {}", path.display()));
    let (node_path, format_path) = (layout.node_file(), layout.format_file());
    for path in [&node_path, &format_path] {
        // A power cut may have brought back what was not in place yet.
        let _ = disk.remove(&temporary(path));
    }
    let format = read(&format_path)?.map(|b| decode_format(&b, &format_path.display().to_string())).transpose();
    let node = read(&node_path)?.map(|b| decode_node(&b, &node_path.display().to_string())).transpose();
    // Either file can be made from what the other one and the index say; nobody can read a newer format from them.
    let node = match node {
        Err(error) if error.kind() == Kind::Corrupt => Some(node_from_index(disk, layout)?.ok_or_else(|| {
            error.with_hint(
                "put node.json back from a copy that is younger than the last namespace that was given integer ids, or they are given \
                 again; or remove it: the node then takes a new identity",
            )
        })?),
        Ok(None) if !matches!(format, Ok(None)) => node_from_index(disk, layout)?,
        node => node?,
    };
    let format = match (format, &node) {
        (Err(error), Some(_)) if error.kind() == Kind::Corrupt => {
            tracing::warn!(%error, "the file is written anew from node.json");
            None
        }
        (format, _) => format?,
    };
    if let Some(node) = node {
        if format.is_none() {
            put_format(disk, layout, &node)?;
        }
        return Ok((node, false));
    }
    if format.is_none() {
        check_empty(disk, layout)?;
    }
    let store = format.as_ref().map_or_else(|| random.uuid_v7(clock.now_millis()), |format| format.store);
    let node = NodeFile {
        format: NODE_VERSION,
        node: random.uuid_v7(clock.now_millis()),
        store,
        pins: Vec::new(),
        id_blocks: None,
        id_ranges: Vec::new(),
        id_told: None,
    };
    if format.is_none() {
        put_format(disk, layout, &node)?;
    }
    publish(disk, &node_path, &encode_node(&node)?).context(|| format!("write {}", node_path.display()))?;
    Ok((node, format.is_none()))
}

/// Writes `node.json` anew from the copy in the index, which is never older than the file was.
fn node_from_index(disk: &dyn Disk, layout: &Layout) -> Result<Option<NodeFile>> {
    let Some(bytes) = Meta::read_node(disk, &layout.meta_file()) else { return Ok(None) };
    let Ok(node) = decode_node(&bytes, "meta.redb") else { return Ok(None) };
    let path = layout.node_file();
    tracing::warn!(path = %path.display(), "the file is damaged or missing, it is put back from the index");
    publish(disk, &path, &bytes).context(|| format!("write {}", path.display()))?;
    Ok(Some(node))
}

/// The index has a copy that knows of more: the file was put back from somewhere, and ids would be given again.
fn put_right(disk: &dyn Disk, layout: &Layout, file: NodeFile, meta: &Meta) -> Result<NodeFile> {
    let copy = meta.node().ok().flatten().and_then(|bytes| decode_node(&bytes, "meta.redb").ok());
    let Some(copy) = copy else { return Ok(file) };
    let latest = latest(file.clone(), copy);
    if latest != file {
        let path = layout.node_file();
        tracing::warn!(path = %path.display(), "the file is older than the node is, and is put right from the index");
        publish(disk, &path, &encode_node(&latest)?).context(|| format!("write {}", path.display()))?;
    }
    Ok(latest)
}

pub(super) fn put_format(disk: &dyn Disk, layout: &Layout, node: &NodeFile) -> Result<()> {
    let path = layout.format_file();
    create_dirs(disk, &layout.store()).context(|| format!("create {}", layout.store().display()))?;
    let format = FormatFile { format: VERSION, store: node.store };
    publish(disk, &path, &encode_format(&format)?).context(|| format!("write {}", path.display()))
}

/// A directory that is not ours is not made ours by accident.
fn check_empty(disk: &dyn Disk, layout: &Layout) -> Result<()> {
    let root = layout.root();
    let entries = disk.list(root).context(|| format!("list {}", root.display()))?;
    let foreign = entries.iter().find(|entry| {
        !(entry.name.ends_with(TEMPORARY_SUFFIX) || matches!(entry.name.as_str(), "store" | "lost+found"))
    });
    match foreign {
        None => Ok(()),
        Some(entry) => Err(Error::invalid(format!(
            "{} is not a Shoal data directory, and not empty: it holds {}",
            root.display(),
            entry.name
        ))
        .with_hint("give --data-dir an empty directory, or one that Shoal made")),
    }
}
