//! What all namespaces of one engine share: disk, clock, index, bounds.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::{Semaphore, watch};

use super::commits::Commits;
use super::damage::Damages;
use super::doubted::Doubted;
use super::expected::Expected;
use super::ids::Uuids;
use super::layout::Layout;
use super::lineage::TagTurns;
use super::made::Made;
use super::namespace::Namespace;
use super::node::Node;
use super::projects::Projects;
use super::reserve::Reserve;
use super::setbacks::Setbacks;
use super::unreadable::AllUnreadable;
use crate::error::Result;
use crate::format::node::NodeFile;
use crate::meta::tables::{Bound, Deadline, Kin};
use crate::meta::{KeptLog, Meta};
use crate::model::ids::{Hlc, NamespaceName, Nsid, Project};
use crate::model::name_patterns::NamePatterns;
use crate::model::query::Recall;
use crate::platform::clock::Clock;
use crate::platform::disk::Disk;
use crate::platform::random::Random;
use crate::platform::turns::Turns;
use crate::platform::wall::{StoreClock, Wall};
use crate::tier::Tier;

/// A namespace that is open has a descriptor for its log and a map for each segment, 128 of them at most before all are merged:
/// so many namespaces stay below 1,024 descriptors and the 65,530 maps of Linux' `vm.max_map_count`.
const OPEN_NAMESPACES_MAX: usize = 500;

/// How an engine works; the defaults suit a node of 512 MB.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    pub data_dir: PathBuf,
    /// A tail of this many bytes in memory becomes a segment.
    pub flush_bytes: u64,
    /// A tail whose logs are this long becomes a segment, too, so that overwriting does not make them grow. Writes wait while they
    /// are twice as long.
    pub log_bytes_max: u64,
    /// A tail that is older than this becomes a segment, too: a past state to ask for, and less to replay at the next start.
    pub flush_interval_ms: u64,
    /// Namespaces that nobody uses are closed while more are open.
    pub open_namespaces_max: usize,
    /// Writes to a namespace wait, and then fail, while its tail is larger.
    pub tail_bytes_max: u64,
    /// The same for all tails together.
    pub tails_bytes_max: u64,
    /// How long a write waits for room in the tail before it fails.
    pub backpressure_wait_ms: u64,
    /// How long the filters and conditions of one write may look at documents before it is refused.
    pub write_filter_ms: u64,
    /// How many segments of one size class are merged into one.
    pub compaction_fan_in: usize,
    /// A segment with more dead rows in a hundred is rewritten.
    pub compaction_dead_percent: u32,
    /// Bytes a second that compaction may write; 0 for no bound.
    pub compaction_bytes_per_second: u64,
    /// How long the answer to a write with an `Idempotency-Key` is kept.
    pub idempotency_ms: u64,
    /// Of one namespace at most so many are kept; further writes with a key are refused.
    pub idempotency_keys_max: u64,
    /// How long tombstones are kept.
    pub tombstone_ms: u64,
    /// How long states that were replaced, and deleted namespaces, can be had back; 0 keeps none.
    pub retention_ms: u64,
    /// They may keep so much of the disk, in a hundred.
    pub retention_disk_percent: u32,
    /// What approximate searches are to find where a query does not say.
    pub recall: Recall,
    /// Bytes of the bucket's segments that are kept here, the rest is read when it is wanted; 0 keeps all of them here.
    pub tier_bytes_max: u64,
    /// Namespaces that other nodes write and this one takes from a bucket only: merging their segments is left to those.
    pub followed: NamePatterns,
    /// Whether there is one that sync brings this node together with.
    pub has_bucket: bool,
}

impl EngineConfig {
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        EngineConfig {
            data_dir: data_dir.into(),
            flush_bytes: 16 << 20,
            log_bytes_max: 64 << 20,
            flush_interval_ms: 3_600 * 1_000,
            open_namespaces_max: OPEN_NAMESPACES_MAX,
            tail_bytes_max: 32 << 20,
            tails_bytes_max: 48 << 20,
            backpressure_wait_ms: 10_000,
            write_filter_ms: 30_000,
            compaction_fan_in: 8,
            compaction_dead_percent: 30,
            compaction_bytes_per_second: 0,
            idempotency_ms: 24 * 3_600 * 1_000,
            idempotency_keys_max: 131_072,
            tombstone_ms: 30 * 24 * 3_600 * 1_000,
            retention_ms: 7 * 24 * 3_600 * 1_000,
            retention_disk_percent: 20,
            recall: Recall::DEFAULT,
            tier_bytes_max: 0,
            followed: NamePatterns::default(),
            has_bucket: true,
        }
    }
}

/// Shared by all namespaces.
pub struct Context {
    pub config: EngineConfig,
    pub disk: Arc<dyn Disk>,
    pub clock: Arc<dyn Clock>,
    pub random: Arc<dyn Random>,
    pub layout: Layout,
    pub tier: Tier,
    pub meta: Meta,
    pub node: Node,
    pub uuids: Uuids,
    pub damages: Damages,
    /// Incarnations that have files and no name yet. They are listed here before their first file is made, and until
    /// after their name is bound.
    pub unborn: Mutex<BTreeMap<Nsid, usize>>,
    /// Objects of states on their way here.
    pub expected: Expected,
    /// Incarnations with files that could not be read when counts were last made.
    pub unreadable: Mutex<AllUnreadable>,
    /// Names whose binding could not be read then.
    pub names_whole: AtomicBool,
    /// Manifests that failed and may be in place all the same.
    pub doubted: Doubted,
    /// Turns of who commits, and of who needs that nobody does.
    pub commits: Commits,
    /// Held by who stages a state for the bucket, and by who takes a name away. A deletion has seen what was staged before, and nothing
    /// is staged after it. Taken before a turn of [`Self::commits`].
    pub outgoing: Mutex<()>,
    /// Turns of who changes tags.
    pub tags: TagTurns,
    /// Incarnations that are more than a bound name: branches, deleted ones, ones that expire. Whole while the index is
    /// trusted.
    pub kin: Mutex<BTreeMap<Nsid, Kin>>,
    /// Whether that was read since the start.
    pub is_kin_known: watch::Sender<bool>,
    /// Memory of all tails.
    pub tails_bytes: AtomicU64,
    /// What is set aside for writes under way, which is in no tail yet, and what waits for the disk. Its `room` is raised when that or a
    /// tail got smaller, and when an opening ended.
    pub made: Made,
    /// Openings that replay logs, by the order in which they began to.
    pub openings: Mutex<BTreeSet<u64>>,
    /// One segment is built from a tail at a time, so that memory stays bounded.
    pub flushing: Semaphore,
    /// Turns of writes that look by filters.
    pub looking: Turns<Project>,
    /// Turns of those who make and end names and tags.
    pub changing: Turns<Project>,
    /// Who shares them.
    pub projects: Projects,
    /// One write at a time holds in memory what its filter looks at and the disk has no room for.
    pub filtering: Mutex<()>,
    /// One compaction at a time, or one piece of a copy.
    pub compacting: Semaphore,
    /// One deep copy at a time. Who has this waits for `compacting` with each piece, never the other way round.
    pub copying: Semaphore,
    /// What the wall clock does.
    pub wall: Mutex<Wall>,
    /// No new work is begun.
    pub stopping: AtomicBool,
    /// What failed and is tried again.
    pub setbacks: Setbacks,
    pub reserve: Reserve,
    /// How many states of conflicts were let go of for want of room.
    pub conflicts_let_go: AtomicU64,
    /// Counts uses of namespaces, to tell which was used longest ago.
    pub uses: AtomicU64,
    /// Every namespace that somebody has open.
    pub namespaces: Mutex<Vec<Weak<Namespace>>>,
}

impl Context {
    /// Follows a tail's memory from `before` to `after` bytes.
    pub fn tail_changed(&self, before: u64, after: u64) {
        if after >= before {
            self.tails_bytes.fetch_add(after - before, Ordering::Relaxed);
        } else {
            let less = before - after;
            let _ = self
                .tails_bytes
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |bytes| Some(bytes.saturating_sub(less)));
            self.made.room.notify_waiters();
        }
    }

    /// Lists a namespace among those that are open, for as long as somebody has it.
    pub fn has_opened(&self, namespace: &Arc<Namespace>) {
        let mut all = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() == all.capacity() {
            all.retain(|namespace| namespace.strong_count() > 0);
        }
        all.push(Arc::downgrade(namespace));
    }

    /// Every namespace that somebody has open, those without a name included.
    pub fn open_namespaces(&self) -> Vec<Arc<Namespace>> {
        let all = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter_map(Weak::upgrade).collect()
    }

    /// Lists an incarnation as unborn until the guard is dropped.
    pub fn birth(self: &Arc<Self>, nsid: Nsid) -> Birth {
        *self.unborn.lock().unwrap_or_else(PoisonError::into_inner).entry(nsid).or_default() += 1;
        Birth { context: self.clone(), nsid }
    }

    /// Counts logs that their writer still needs. The caller holds `commits`.
    pub fn keep(&self, logs: &[KeptLog]) {
        if let Err(error) = self.meta.keep_logs(logs) {
            self.say_index_fails(&error);
        }
    }

    /// Remembers logs that are gone though what they hold was acknowledged. The caller holds `commits`.
    pub fn miss(&self, logs: &[KeptLog]) {
        if let Err(error) = self.meta.miss_logs(logs) {
            self.say_index_fails(&error);
        }
    }

    pub fn kin(&self) -> MutexGuard<'_, BTreeMap<Nsid, Kin>> {
        self.kin.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The incarnations that were deleted and can be had back.
    pub fn deleted(&self) -> Vec<(Nsid, Kin)> {
        let is_deleted = |(_, kin): &(&Nsid, &Kin)| kin.deleted_ms.is_some();
        self.kin().iter().filter(is_deleted).map(|(nsid, kin)| (*nsid, kin.clone())).collect()
    }

    /// Remembers what is known of an incarnation.
    pub fn set_kin(&self, nsid: Nsid, kin: Kin) {
        let kin = self.take_kin(nsid, kin);
        if let Err(error) = self.meta.set_kin(nsid, kin.as_ref()) {
            self.say_index_fails(&error);
        }
    }

    /// Lets the index follow a binding that is durable, and what is known of an incarnation with it.
    pub fn follow(&self, name: &NamespaceName, bound: &Bound, known: Option<(Nsid, Kin)>) {
        self.projects.note(&name.project);
        let known = known.map(|(nsid, kin)| (nsid, self.take_kin(nsid, kin)));
        if let Err(error) = self.meta.bind(&name.to_string(), bound, known) {
            self.say_index_fails(&error);
        }
    }

    fn take_kin(&self, nsid: Nsid, kin: Kin) -> Option<Kin> {
        let kin = Some(kin).filter(|kin| !kin.is_plain());
        match &kin {
            Some(kin) => self.kin().insert(nsid, kin.clone()),
            None => self.kin().remove(&nsid),
        };
        kin
    }

    pub fn forget_kin(&self, nsid: Nsid) {
        if self.kin().contains_key(&nsid) {
            self.set_kin(nsid, Kin::default());
        }
    }

    /// A clock in milliseconds that moves only as time passes: what the wall clock shows without its jumps. What is to last for so long
    /// from now on is measured by it.
    pub fn passed_ms(&self) -> u64 {
        let (now, steady) = (self.clock.now_millis(), self.clock.steady_millis());
        let mut wall = self.wall.lock().unwrap_or_else(PoisonError::into_inner);
        if wall.look(now, steady) {
            self.keep_clock(&wall, true);
        }
        now.saturating_add_signed(wall.jumps_ms().saturating_neg())
    }

    fn keep_clock(&self, wall: &Wall, durably: bool) {
        let kept = wall.remembered().map_or(Ok(()), |seen| self.meta.keep_clock(seen, durably));
        if let Err(error) = kept {
            self.say_now_and_then(
                "what the clock shows is not kept, a jump until the next start is not noticed",
                &error,
            );
        }
    }

    /// What the wall clock shows, and the sum of its jumps. They are known to the next process, too.
    pub fn look_at_wall(&self) -> (u64, i64) {
        let (now, steady) = (self.clock.now_millis(), self.clock.steady_millis());
        let mut wall = self.wall.lock().unwrap_or_else(PoisonError::into_inner);
        let durably = wall.look(now, steady);
        self.keep_clock(&wall, durably);
        (now, wall.jumps_ms())
    }

    /// How long ago it was that the wall clock showed `since_ms`, as far as that is known.
    pub fn age_ms(&self, since_ms: u64) -> u64 {
        let (now, _) = self.look_at_wall();
        self.wall.lock().unwrap_or_else(PoisonError::into_inner).age_ms(since_ms, now)
    }

    /// How long ago at most it was that another clock, which was right, showed `since_ms`; `None` where the wall clock does not tell.
    pub fn age_at_most_ms(&self, since_ms: u64) -> Option<u64> {
        let (now, _) = self.look_at_wall();
        self.wall.lock().unwrap_or_else(PoisonError::into_inner).age_at_most_ms(since_ms, now)
    }

    /// The time by which something may be called old, if any is believed.
    pub fn believed_time(&self, store: Option<StoreClock>) -> Option<u64> {
        self.look_at_wall();
        let (now, steady) = (self.clock.now_millis(), self.clock.steady_millis());
        self.wall.lock().unwrap_or_else(PoisonError::into_inner).believed(now, steady, store)
    }

    /// When an incarnation ends that is to live so long from now on; what this node needs to count that is durable on return.
    pub fn expire_in(&self, nsid: Nsid, ttl_ms: Option<u64>) -> Result<Option<u64>> {
        let (now, jumps_ms) = self.look_at_wall();
        let expires_ms = ttl_ms.map(|ttl| now.saturating_add(ttl));
        // Where there is none, one that was set before does no harm: it is of another time.
        if let Some(expires_ms) = expires_ms {
            self.meta.set_deadline(nsid, Some(Deadline { expires_ms, jumps_ms }))?;
        }
        Ok(expires_ms)
    }

    /// An incarnation ends when another was to, in whose place it is: what this node counts that by is the same, durably.
    pub fn carry_deadline(&self, from: Nsid, to: Nsid) -> Result<()> {
        match self.meta.deadline(from)? {
            Some(set) => self.meta.set_deadline(to, Some(set)),
            None => Ok(()),
        }
    }

    /// Tombstones older than this may be dropped from an incarnation in `project`, of the tree that began with `root`: its relatives
    /// need those made since the first of them was branched off.
    pub fn horizon(&self, project: &Project, root: Nsid) -> Hlc {
        if !self.meta.is_trusted() || self.has_unknown_kin(project) {
            // Nobody knows all relatives yet.
            return Hlc(0);
        }
        let kin = self.kin();
        let lineages = kin.values().filter_map(|kin| kin.lineage.as_ref());
        let since =
            lineages.filter(|lineage| lineage.root == *root.0.as_bytes()).map(|lineage| Hlc(lineage.since)).min();
        let due = Hlc::from_millis(self.clock.now_millis().saturating_sub(self.config.tombstone_ms));
        since.map_or(due, |since| since.min(due))
    }

    /// Keeps a copy of `node.json` in the index where it has none, or another.
    pub fn keep_node(&self) -> Result<()> {
        self.node.keep(&self.meta)
    }

    /// Incarnations that have files and no name yet.
    pub fn unborn(&self) -> BTreeSet<Nsid> {
        self.unborn.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    /// Changes `node.json`, durably; `edit` says whether there is anything to change.
    pub fn edit_node(&self, edit: impl FnOnce(&mut NodeFile) -> bool) -> Result<()> {
        self.node.edit((&*self.disk, &self.layout, &self.meta), edit)
    }

    /// A block of integer ids that nobody on this node was ever given.
    pub fn take_id_block(&self) -> Result<u32> {
        self.node.take_block((&*self.disk, &self.layout, &self.meta), &*self.random)
    }

    /// Whether counts may decide that an object goes.
    pub fn may_reclaim(&self) -> bool {
        self.meta.is_trusted()
    }

    /// Whether everything that holds objects could be read when counts were last made.
    pub fn are_counts_whole(&self) -> bool {
        self.names_whole.load(Ordering::SeqCst) && self.unreadable().is_empty()
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }
}

/// An incarnation on its way to a name.
pub struct Birth {
    context: Arc<Context>,
    nsid: Nsid,
}

impl Drop for Birth {
    fn drop(&mut self) {
        let mut unborn = self.context.unborn.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut entry) = unborn.entry(self.nsid) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}
