//! Namespaces: writes made durable, crashes recovered from, queries answered.
//!
//! - `namespace` is one of them; `catalog` says which there are, `slots` which are open, `context` is what they share;
//! - `start` opens a data directory, `recount` makes the index anew, `commits` gives turns to who commits, `closing` closes namespaces that nobody uses, `operations` is what callers ask for, `status` what they are told;
//! - `merge` compares namespaces and merges them;
//! - `write` decides, `filter` and `query` answer, `view` is the snapshot they answer from, with
//!   `tail_terms` for the rows that are in no segment yet;
//! - `projects` says whether a node has several, which share turns then, `changing` gives turns to who makes and ends names and tags;
//! - `group_commit` and `journal` are the log, `log_frames` what is on its way there, `made` counts it and what writes make, `recovery` reads it back, `open_logs` has the names of its files; `node` is what belongs to this node alone, `traffic` what it counted, `ids` what it makes ids from and
//!   `id_ranges` which of them no other node gives;
//! - `remote` is what moves history to and from a bucket, `expected` what it needs on its way, `unsent` what is to be sent yet;
//! - `succession` gives names to what the bucket has, `parting` new origins to a disk that was cloned; `origins` are those that are used again;
//! - `damage` lists the files that are damaged, `unreadable` says what they may hold, `missing_logs` which logs are gone;
//! - `copies` are those made in the background, `copy_tokens` says which are under way and what became of the others;
//! - `setbacks` is what failed and is tried again, `unnamed` what goes where its manifest does not come to be;
//! - `lineage` is where namespaces come from and what stays of them.

pub mod analyzers;
pub mod catalog;
mod changing;
pub mod check;
mod closing;
pub mod commits;
pub mod context;
mod copies;
mod copy_tokens;
pub mod damage;
mod deleting;
mod doubted;
mod expected;
pub mod filter;
pub mod group_commit;
mod id_ranges;
pub mod ids;
pub mod journal;
pub mod layout;
pub mod lineage;
mod log_frames;
mod made;
pub mod merge;
mod missing_logs;
pub mod namespace;
mod node;
pub mod open_logs;
mod operations;
mod origins;
mod parting;
pub mod parts;
mod projects;
pub mod query;
pub mod reclaim;
mod recount;
pub mod recovery;
mod refused;
pub mod remote;
mod reserve;
pub mod setbacks;
mod slots;
mod start;
mod status;
mod succession;
mod sweep;
pub mod tail_terms;
mod traffic;
pub mod transfer;
mod unnamed;
pub mod unreadable;
mod unsent;
mod untold;
pub mod view;
pub mod write;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;

pub(crate) use self::closing::WAITED_TIMES;
pub use self::context::EngineConfig;
pub use self::copy_tokens::{COPY_UNDER_WAY, CopyStatus};
pub(crate) use self::operations::check_labels;
pub use self::status::Metadata;
pub use self::succession::{HandedOver, Handover};
pub use self::unsent::Unsent;

use self::catalog::Catalog;
use self::closing::ByUse;
use self::context::Context;
use self::copy_tokens::CopyTokens;
use self::namespace::{Moment, Namespace, not_found};
use self::origins::Origins;
use self::slots::{Slot, Slots};
use self::untold::Telling;
use crate::error::{Error, Kind, Result};
use crate::model::ids::{NamespaceName, Nsid, Project};
use crate::model::schema::Metric;
use crate::model::write::SchemaUpdate;

/// All namespaces of one data directory.
pub struct Engine {
    context: Arc<Context>,
    catalog: Catalog,
    open: Mutex<Slots>,
    by_use: ByUse,
    /// Threads that may wait until others are closed.
    ways: Semaphore,
    /// Turns of requests that open a namespace.
    openings: Semaphore,
    /// One name is created, deleted or opened at a time, per name.
    doors: Mutex<HashMap<NamespaceName, Door>>,
    /// One merge of a source (the second) into a target goes on at a time, per pair.
    pairs: Mutex<HashMap<(Nsid, Nsid), Door>>,
    /// Origins of incarnations that are gone, which branches may go on with.
    origins: Origins,
    copies: Mutex<CopyTokens>,
    /// Past states that were asked for last, and the bytes of their tails in memory.
    past: Mutex<VecDeque<(Arc<Moment>, u64)>>,
    /// Incarnations that ended lately, and how often their directories are looked at still.
    ended: Mutex<VecDeque<(Project, Nsid, u32)>>,
    /// Whose bases of merges were looked at last in the background.
    bases_seen: Mutex<Option<Nsid>>,
    /// So many of the next looks at what is due go by in which nothing of the past goes for its share of the disk.
    looks_without: AtomicU32,
    /// What the bucket knows of names.
    telling: Mutex<Telling>,
    /// Held by a query that reads again what there was no room for.
    narrow: Mutex<()>,
    /// Held for as long as this process uses the directory.
    _lock: Box<dyn Send + Sync>,
}

/// Who holds it is alone with what it is of.
type Door = Arc<tokio::sync::Mutex<()>>;

/// What a namespace is created with.
#[derive(Clone, Debug, Default)]
pub struct CreateRequest {
    pub schema: Option<SchemaUpdate>,
    pub metric: Option<Metric>,
    pub labels: BTreeMap<String, String>,
    /// After so many milliseconds it is deleted by itself.
    pub ttl_ms: Option<u64>,
}

impl Engine {
    /// An open namespace. NotFound when the name is not bound; `Corrupt` while its files are damaged.
    fn namespace(&self, name: &NamespaceName) -> Result<Arc<Namespace>> {
        if let Some(opened) = self.opened(name) {
            return opened;
        }
        self.catalog.check_name(name)?;
        if self.catalog.find(name).is_some() {
            self.make_way_here();
        }
        // By now it may be another one.
        let Some(nsid) = self.catalog.find(name) else { return Err(not_found(name)) };
        let opened = self.open_namespace(name, nsid).inspect(|namespace| namespace.touch());
        self.close_idle();
        opened
    }

    /// The same for who is about to change it: by then it is known what the next start finds the name bound to.
    fn namespace_to_change(&self, name: &NamespaceName) -> Result<Arc<Namespace>> {
        self.catalog.settle(&*self.context.disk, name)?;
        self.namespace(name)
    }

    /// An open namespace, where it was opened before.
    fn opened(&self, name: &NamespaceName) -> Option<Result<Arc<Namespace>>> {
        let mut slots = self.slots();
        slots.follow(name);
        slots.get(name).map(|slot| slot.namespace().inspect(|namespace| namespace.touch()))
    }

    fn telling(&self) -> MutexGuard<'_, Telling> {
        self.telling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The namespaces that are open, in the same order every time, so that a history can be repeated.
    fn open_namespaces(&self) -> Vec<Arc<Namespace>> {
        let mut open: Vec<Arc<Namespace>> =
            self.slots().all().filter_map(|(_, slot)| slot.namespace().ok()).collect();
        open.sort_unstable_by_key(|namespace| namespace.nsid);
        open
    }

    /// Who holds it has the base of a source's merges into a target for itself.
    fn pair(&self, target: Nsid, source: Nsid) -> Arc<tokio::sync::Mutex<()>> {
        let mut pairs = self.pairs.lock().unwrap_or_else(PoisonError::into_inner);
        pairs.retain(|_, pair| Arc::strong_count(pair) > 1);
        pairs.entry((target, source)).or_default().clone()
    }

    /// The door of a name: who holds it creates, opens or deletes.
    fn door(&self, name: &NamespaceName) -> Arc<tokio::sync::Mutex<()>> {
        let mut doors = self.doors.lock().unwrap_or_else(PoisonError::into_inner);
        doors.retain(|_, door| Arc::strong_count(door) > 1);
        doors.entry(name.clone()).or_default().clone()
    }
}

/// Whether an error says that stored bytes are damaged, so that its namespace is set apart.
fn is_damage(error: &Error) -> bool {
    matches!(error.kind(), Kind::Corrupt | Kind::Unsupported)
}
