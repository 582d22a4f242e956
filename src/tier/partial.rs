//! One object of the bucket of which some blocks are here, in a sparse file that is mapped while it is filled.
//!
//! Invariants:
//! - A block is said to be here after its bytes are in the file, and in the map beside the file after they are synced; whatever
//!   a crash leaves, checksums decide what is used.
//! - A block that is on its way is asked for once, however many wait for it.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use roaring::RoaringBitmap;

use super::cache::Shared;
use super::remote::{Remote, no_bucket};
use super::remove_dir_of;
use super::room::Wanted;
use crate::error::{Context as _, Error, Result};
use crate::format::ranges::{self, BLOCK_BYTES};
use crate::platform::allowance::{LOOK_EVERY, check_work};
use crate::platform::disk::{RandomFile, create_dirs, if_there, publish};
use crate::platform::mmap::{Coming as Read, Fill};

/// Requests for one object at a time.
const AT_ONCE: usize = 64;
/// How often bytes are waited for that were let go of meanwhile.
const ATTEMPTS: u32 = 3;
/// When a file is begun anew, one in so many of the blocks that may go is carried over.
const CARRIED_SHARE: u64 = 4;
/// The largest range that is asked for at once, in blocks, since it is held in memory.
const PIECE_BLOCKS: u32 = 512;

/// An object that is here in part.
pub struct Partial {
    shared: Arc<Shared>,
    key: String,
    bytes: u64,
    blocks: u32,
    path: PathBuf,
    file: Box<dyn RandomFile>,
    state: Mutex<Blocks>,
    arrived: Condvar,
    /// When it was used last, by the cache's own count.
    used: AtomicU64,
    /// Its name is gone; what it takes is given back when nobody has it open any more.
    unlinked: AtomicBool,
    me: Weak<Partial>,
}

#[derive(Default)]
struct Blocks {
    here: RoaringBitmap,
    coming: RoaringBitmap,
    /// Those that are the last to go.
    kept: RoaringBitmap,
    /// Those that were wanted since the file was opened, and those of them that came since, the newest last.
    wanted: RoaringBitmap,
    came: Vec<Range<u32>>,
    /// Whether the map beside the file says less than what is here.
    is_unsaved: bool,
    /// Why blocks did not come the last time.
    failed: Option<Error>,
}

impl fmt::Debug for Partial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} bytes of {}", self.bytes_here(), self.bytes, self.key)
    }
}

impl Partial {
    /// Opens the file of an object, with the blocks that are known to be in it.
    pub(super) fn new(shared: &Arc<Shared>, key: &str, bytes: u64, here: RoaringBitmap) -> Result<Arc<Self>> {
        let path = shared.path(key);
        let blocks = ranges::blocks_of(bytes).ok_or_else(|| {
            Error::unavailable(format!("object {key}: {bytes} bytes are too many to hold in parts"))
        })?;
        let opened = create_dirs(&*shared.disk, path.parent().unwrap_or(&path))
            .and_then(|()| shared.disk.random_access(&path));
        let file = opened.context(|| format!("open {}", path.display()))?;
        let size = file.size().context(|| format!("open {}", path.display()))?;
        if size != bytes {
            file.set_len(bytes).context(|| format!("make {} of {bytes} bytes", path.display()))?;
        }
        let state = Mutex::new(Blocks { here, is_unsaved: true, ..Blocks::default() });
        Ok(Arc::new_cyclic(|me| Partial {
            shared: shared.clone(),
            key: key.to_owned(),
            bytes,
            blocks,
            path,
            file,
            state,
            arrived: Condvar::new(),
            used: AtomicU64::new(shared.tick()),
            unlinked: AtomicBool::new(false),
            me: me.clone(),
        }))
    }

    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// The object's length.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn last_used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    pub(super) fn touch(&self) {
        self.used.store(self.shared.tick(), Ordering::Relaxed);
    }

    fn state(&self) -> MutexGuard<'_, Blocks> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it takes of the disk.
    pub(super) fn bytes_here(&self) -> u64 {
        let state = self.state();
        (state.here.len() + state.coming.len()) * BLOCK_BYTES
    }

    /// The blocks to carry over to a fresh file: those that are always needed, and of the others one in [`CARRIED_SHARE`]: those that
    /// were used again, then those that came last; of these no more than make `bytes_max` with the first.
    pub(super) fn worth_keeping(&self, bytes_max: u64) -> RoaringBitmap {
        let state = self.state();
        let mut came = RoaringBitmap::new();
        state.came.iter().for_each(|range| {
            came.insert_range(range.clone());
        });
        let mut worth = &state.here & &state.kept;
        let again = &(&state.here & &state.wanted) - &came;
        let share = (state.here.len() - worth.len()) / CARRIED_SHARE;
        let mut room = share.min((bytes_max / BLOCK_BYTES).saturating_sub(worth.len()));
        let newest = state.came.iter().rev().flat_map(Clone::clone).filter(|block| state.here.contains(*block));
        for block in again.iter().chain(newest) {
            if room == 0 {
                break;
            }
            room -= u64::from(worth.insert(block));
        }
        worth
    }

    /// Copies blocks of the object from another file of it.
    pub(super) fn copy_from(&self, other: &Partial, blocks: &RoaringBitmap) -> Result<()> {
        let step = || format!("carry blocks of {} over", self.key);
        let mut buffer = Vec::new();
        for run in runs(blocks) {
            let range = self.bytes_of(&run);
            buffer.resize((range.end - range.start) as usize, 0);
            other.file.read_at(range.start, &mut buffer).context(step)?;
            self.file.write_at(range.start, &buffer).context(step)?;
            let mut state = self.state();
            state.here.insert_range(run);
            state.is_unsaved = true;
        }
        self.state().kept = other.state().kept.clone();
        Ok(())
    }

    /// Writes down which blocks are here, once they are durable. Nothing to do when nothing came since the last time.
    pub(super) fn save(&self) -> Result<()> {
        let here = {
            let mut state = self.state();
            if !state.is_unsaved || self.unlinked.load(Ordering::SeqCst) {
                return Ok(());
            }
            state.is_unsaved = false;
            state.here.clone()
        };
        let saved = self.file.sync().and_then(|()| {
            publish(&*self.shared.disk, &self.shared.map_path(&self.key), &ranges::encode(self.bytes, &here))
        });
        if saved.is_err() && self.unlinked.load(Ordering::SeqCst) {
            return Ok(());
        }
        saved.context(|| format!("write down what is here of {}", self.key)).inspect_err(|_| {
            self.state().is_unsaved = true;
        })
    }

    /// Takes its name away. Who has it mapped keeps reading what is here; its room is given back when nobody does.
    pub(super) fn unlink(&self) -> Result<()> {
        let step = || format!("remove what is here of {}", self.key);
        if_there(self.shared.disk.remove(&self.shared.map_path(&self.key))).context(step)?;
        if_there(self.shared.disk.remove(&self.path)).context(step)?;
        self.unlinked.store(true, Ordering::SeqCst);
        remove_dir_of(&*self.shared.disk, &self.path);
        Ok(())
    }

    fn bytes_of(&self, blocks: &Range<u32>) -> Range<u64> {
        u64::from(blocks.start) * BLOCK_BYTES..(u64::from(blocks.end) * BLOCK_BYTES).min(self.bytes)
    }

    fn blocks_of(&self, wanted: &[Range<u64>]) -> RoaringBitmap {
        let mut blocks = RoaringBitmap::new();
        for range in wanted.iter().filter(|range| range.start < range.end.min(self.bytes)) {
            let end = range.end.min(self.bytes).div_ceil(BLOCK_BYTES) as u32;
            blocks.insert_range((range.start / BLOCK_BYTES) as u32..end.min(self.blocks));
        }
        blocks
    }

    fn remote(&self) -> Result<Remote> {
        self.shared.remote().ok_or_else(|| no_bucket(&self.key))
    }

    /// Begins to fetch what of these blocks is neither here nor coming.
    fn begin(&self, wanted: &RoaringBitmap) -> Result<()> {
        let remote = self.remote()?;
        let Some(me) = self.me.upgrade() else { return Ok(()) };
        let (lacking, wanted_by) = {
            let state = self.state();
            let lacking = &(wanted - &state.here) - &state.coming;
            let is_kept = lacking.is_subset(&state.kept);
            (lacking, if is_kept { Wanted::Always } else { Wanted::Now })
        };
        if lacking.is_empty() {
            return Ok(());
        }
        self.shared.make_room(lacking.len() * BLOCK_BYTES, &self.key, wanted_by)?;
        let fetch = {
            let mut state = self.state();
            // Somebody else may have begun meanwhile.
            let fetch = &(&lacking - &state.here) - &state.coming;
            state.coming |= &fetch;
            state.failed = None;
            self.shared.room.give_back((lacking.len() - fetch.len()) * BLOCK_BYTES);
            fetch
        };
        let runtime = remote.runtime.clone();
        let guard = Coming { partial: me, blocks: fetch };
        runtime.spawn(guard.fetch(remote));
        Ok(())
    }

    /// Whether all of these blocks are here.
    fn are_here(&self, wanted: &RoaringBitmap) -> bool {
        let mut state = self.state();
        let are_here = wanted.is_subset(&state.here);
        if are_here {
            state.wanted |= wanted;
        }
        are_here
    }

    /// Waits for blocks that are coming, as long as the work that wants them may take.
    fn wait(&self, wanted: &RoaringBitmap) -> std::result::Result<(), Option<Error>> {
        let mut state = self.state();
        loop {
            if wanted.is_subset(&state.here) {
                state.wanted |= wanted;
                return Ok(());
            }
            if wanted.is_disjoint(&state.coming) {
                return Err(state.failed.as_ref().map(Error::duplicate));
            }
            check_work().map_err(Some)?;
            state = self.arrived.wait_timeout(state, LOOK_EVERY).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Fill for Partial {
    fn missing(&self, wanted: &[Range<u64>]) -> u64 {
        (self.blocks_of(wanted) - &self.state().here).len() * BLOCK_BYTES
    }

    fn ask(&self, wanted: &[Range<u64>]) {
        // What is wrong is said to who waits for the bytes.
        let _ = self.begin(&self.blocks_of(wanted));
    }

    fn fill(&self, wanted: &[Range<u64>]) -> Result<()> {
        let wanted = self.blocks_of(wanted);
        self.touch();
        if self.are_here(&wanted) {
            return Ok(());
        }
        for _ in 0..ATTEMPTS {
            self.begin(&wanted)?;
            match tokio::task::block_in_place(|| self.wait(&wanted)) {
                Ok(()) => return Ok(()),
                Err(Some(error)) => return Err(error),
                // They came, and were forgotten before this thread woke.
                Err(None) => {}
            }
        }
        Err(Error::busy(format!("object {}: its bytes were let go of while they were waited for", self.key))
            .with_hint("ask again"))
    }

    fn has_room(&self, bytes: u64) -> bool {
        self.shared.has_room(bytes)
    }

    fn is_wide(&self, bytes: u64) -> bool {
        self.shared.room.is_wide(bytes)
    }

    fn read(&self, ranges: Vec<Range<u64>>) -> Result<Read> {
        self.touch();
        let remote = self.remote()?;
        let (key, shared, from) = (self.key.clone(), self.shared.clone(), remote.clone());
        Ok(remote.begin(async move {
            let read = stream::iter(ranges).map(|range| from.get(&key, range)).buffered(AT_ONCE);
            let read: Vec<Bytes> = read.try_collect().await?;
            shared.read_past(read.iter().map(|bytes| bytes.len() as u64).sum());
            Ok(read)
        }))
    }

    fn forget(&self, range: Range<u64>) {
        let gone = self.blocks_of(&[range]);
        let mut state = self.state();
        let before = state.here.len();
        state.here -= &gone;
        state.is_unsaved = true;
        self.shared.room.give_back((before - state.here.len()) * BLOCK_BYTES);
    }

    fn keep(&self, ranges: &[Range<u64>]) {
        let blocks = self.blocks_of(ranges);
        self.state().kept |= blocks;
    }

    fn is_full(&self) -> bool {
        self.state().here.len() == u64::from(self.blocks)
    }

    fn is_replaced(&self) -> bool {
        self.unlinked.load(Ordering::SeqCst)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if self.unlinked.load(Ordering::SeqCst) {
            let here = self.state().here.len();
            self.shared.room.give_back(here * BLOCK_BYTES);
        }
    }
}

/// Blocks on their way. Whatever becomes of the fetch, nobody waits for them afterwards.
struct Coming {
    partial: Arc<Partial>,
    blocks: RoaringBitmap,
}

impl Coming {
    async fn fetch(mut self, remote: Remote) {
        let partial = self.partial.clone();
        let pieces: Vec<Range<u32>> = runs(&self.blocks).flat_map(pieces).collect();
        let mut fetched = stream::iter(pieces)
            .map(|piece| {
                let (partial, remote) = (&partial, &remote);
                async move {
                    let range = partial.bytes_of(&piece);
                    let bytes = remote.get(&partial.key, range.clone()).await?;
                    let written = partial.file.write_at(range.start, &bytes);
                    written.context(|| format!("write {}", partial.path.display()))?;
                    partial.shared.brought(bytes.len() as u64);
                    Ok::<_, Error>(piece)
                }
            })
            .buffer_unordered(AT_ONCE);
        while let Some(done) = fetched.next().await {
            let mut state = partial.state();
            match done {
                Ok(piece) => {
                    self.blocks.remove_range(piece.clone());
                    state.coming.remove_range(piece.clone());
                    state.here.insert_range(piece.clone());
                    state.came.push(piece);
                    state.is_unsaved = true;
                    drop(state);
                    partial.arrived.notify_all();
                }
                Err(error) => {
                    state.failed = Some(error);
                    return;
                }
            }
        }
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        let lost = self.blocks.len();
        {
            let mut state = self.partial.state();
            state.coming -= &self.blocks;
            if lost > 0 && state.failed.is_none() {
                state.failed = Some(Error::unavailable(format!("object {}: stopped reading", self.partial.key)));
            }
        }
        self.partial.shared.room.give_back(lost * BLOCK_BYTES);
        self.partial.arrived.notify_all();
    }
}

/// Blocks that follow each other.
fn runs(blocks: &RoaringBitmap) -> impl Iterator<Item = Range<u32>> + '_ {
    let mut rest = blocks.iter().peekable();
    std::iter::from_fn(move || {
        let start = rest.next()?;
        let mut end = start + 1;
        while rest.next_if_eq(&end).is_some() {
            end += 1;
        }
        Some(start..end)
    })
}

fn pieces(run: Range<u32>) -> impl Iterator<Item = Range<u32>> {
    (run.start..run.end).step_by(PIECE_BLOCKS as usize).map(move |at| at..(at + PIECE_BLOCKS).min(run.end))
}
