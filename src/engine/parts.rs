//! Namespaces whose segments are here in part: what of them may go, and how queries go on when it does.

use std::collections::BTreeSet;
use std::sync::PoisonError;

use super::Engine;
use super::context::Context;
use super::view::View;
use crate::error::{Error, Result};
use crate::format::manifest::{Manifest, SegmentRef};
use crate::model::as_of::AsOf;
use crate::model::ids::NamespaceName;
use crate::platform::mmap::{FULL, lacks_room};
use crate::tier::{Held, Remote};

/// Segments of fewer bytes are always here whole: that costs less than to read them in parts.
pub const PART_BYTES_MIN: u64 = 256 << 10;
/// How often a query begins anew because there was no room for what it wanted, before it reads past the disk.
const ATTEMPTS: u32 = 2;
/// How often more files are begun anew, since those before gave room for them.
const PASSES: u32 = 8;
/// Holders of an object that only one namespace and the bucket's state of it need.
const HOLDERS_OWN: u64 = 2;

impl Engine {
    /// Says where the bytes come from that are not here. Called within the runtime that carries requests out.
    pub fn read_from(&self, remote: Remote) {
        self.context.tier.cache().attach(remote);
    }

    /// What is here in part.
    pub fn held_in_parts(&self) -> Held {
        self.context.tier.cache().held()
    }

    /// Whether anything of the bucket's is here in part, or may be.
    pub fn has_parts(&self) -> bool {
        self.context.tier.reads_in_parts() || self.held_in_parts().objects > 0
    }

    /// Whether a segment of a namespace is read in parts, when it is wanted, and not brought here whole.
    pub fn is_in_parts(&self, name: &NamespaceName, segment: &SegmentRef) -> bool {
        self.context.tier.reads_in_parts() && segment.bytes >= PART_BYTES_MIN && self.pinned_since(name).is_none()
    }

    /// Segments of a namespace's newest state that are here in part at most, and that the bucket's newer state `theirs` does without: it
    /// has seen all that they have, and whoever goes over to it need not read them. By then they may be nowhere.
    pub async fn superseded(
        &self,
        name: &NamespaceName,
        common: Option<&Manifest>,
        theirs: &Manifest,
    ) -> Result<BTreeSet<String>> {
        let Some(common) = common.filter(|common| theirs.version_vector.covers_all(&common.version_vector)) else {
            return Ok(BTreeSet::new());
        };
        let keys =
            |state: &Manifest| state.segments.iter().map(|segment| segment.key.clone()).collect::<BTreeSet<_>>();
        let (before, after) = (keys(common), keys(theirs));
        let is_over = |segment: &SegmentRef| {
            before.contains(&segment.key)
                && !after.contains(&segment.key)
                && !self.has_object(&segment.key, segment.bytes)
        };
        let ours = self.newest(name).await?;
        Ok(ours.segments.into_iter().filter(is_over).map(|segment| segment.key).collect())
    }

    /// Writes down what is here in part, so that the next process need not read it again. Blocking.
    pub(super) fn remember_parts(&self) {
        say_unless_saved(self.context.tier.cache().save());
    }

    /// The same of the segments of one state. Blocking.
    pub fn remember_parts_of(&self, state: &Manifest) {
        self.context.remember_parts_of(state);
    }

    /// The bucket has all of a namespace's state `common`: what of it is large may go from here whenever room is needed. What something
    /// else on this node needs, too, stays. Blocking.
    pub fn let_go(&self, name: &NamespaceName, common: &Manifest) -> Result<()> {
        let tier = &self.context.tier;
        if !tier.reads_in_parts() || !self.context.may_reclaim() {
            return Ok(());
        }
        let mut gone = BTreeSet::new();
        for segment in common.segments.iter().filter(|segment| self.is_in_parts(name, segment)) {
            let is_ours_alone = || Ok::<_, Error>(self.context.meta.references(&segment.key)? <= HOLDERS_OWN);
            if tier.has(&segment.key, segment.bytes) && is_ours_alone()? {
                tier.let_go(&segment.key)?;
                gone.insert(segment.key.clone());
            }
        }
        if gone.is_empty() {
            return Ok(());
        }
        self.open_anew(&gone)?;
        if tier.cache().shrink() { Ok(()) } else { self.relieve() }
    }

    /// Keys of the segments of a state that are here in part although they are to be here whole. Blocking.
    pub fn to_bring_home(&self, name: &NamespaceName, state: &Manifest) -> BTreeSet<String> {
        let is_wanted = |segment: &&SegmentRef| {
            !self.is_in_parts(name, segment) && !self.context.tier.has(&segment.key, segment.bytes)
        };
        state.segments.iter().filter(is_wanted).map(|segment| segment.key.clone()).collect()
    }

    /// Segments that were in part here are here whole: who reads them reads those from now on. Blocking.
    pub fn brought_home(&self, keys: &BTreeSet<String>) -> Result<()> {
        self.open_anew(keys)?;
        keys.iter().try_for_each(|key| self.context.tier.cache().remove(key))
    }

    /// Lets open namespaces read objects by files opened anew; old ones are let go of when queries that run on them end.
    pub(super) fn open_anew(&self, keys: &BTreeSet<String>) -> Result<()> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.open_namespaces().iter().try_for_each(|namespace| namespace.open_parts_anew(keys))
    }

    /// Makes room for bytes that are wanted, where open objects take all of it. Blocking.
    pub(super) fn relieve(&self) -> Result<()> {
        self.begin_anew(self.context.tier.cache().relieved())?;
        self.context.tier.cache().shrink();
        Ok(())
    }

    /// Leaves of what is here in part what open namespaces cannot do without: for one to be opened, of which more is here than
    /// there is room for. Blocking.
    pub(super) fn empty_parts(&self) -> Result<()> {
        self.context.tier.cache().clear();
        self.begin_anew(0)?;
        self.context.tier.cache().clear();
        Ok(())
    }

    /// Begins files of open objects anew until no more than `target` is taken, as far as that can be: some after others, since old
    /// files go only when fresh ones are used.
    fn begin_anew(&self, target: u64) -> Result<()> {
        let mut done = BTreeSet::new();
        for _ in 0..PASSES {
            let renewed = self.context.tier.cache().renew(target, &done)?;
            let keys: BTreeSet<String> = renewed.keys().map(str::to_owned).collect();
            if keys.is_empty() {
                break;
            }
            self.open_anew(&keys)?;
            done.extend(keys);
        }
        Ok(())
    }

    /// Lets what queries read now take the place of what they read before, where there was no room for it. Blocking.
    fn refresh(&self) {
        if self.context.tier.cache().is_stale()
            && let Ok(_turn) = self.narrow.try_lock()
            && let Err(error) = self.begin_anew(0)
        {
            tracing::warn!(%error, "what is here of the bucket's objects stays as it is, queries read more from the bucket");
        }
    }

    /// Runs a query on a snapshot of a namespace, as it is or was; anew, on a fresh one, when there was no room for what it had to
    /// read. What room cannot be made for is held in memory then. Blocking.
    pub fn on_view<T>(
        &self,
        name: &NamespaceName,
        as_of: Option<&AsOf>,
        mut query: impl FnMut(&View) -> Result<T>,
    ) -> Result<T> {
        let mut query = |view: &View| view.believed(query(view));
        let mut found = query(&*self.view_at(name, as_of)?);
        if found.as_ref().is_err_and(lacks_room) {
            // One at a time: each may need most of the room, and memory.
            let _turn = self.narrow.lock().unwrap_or_else(PoisonError::into_inner);
            let is_full = |found: &Result<T>| found.as_ref().is_err_and(|error| error.code() == FULL);
            for _ in 0..ATTEMPTS {
                if !is_full(&found) {
                    break;
                }
                self.relieve()?;
                found = query(&*self.view_at(name, as_of)?);
                if is_full(&found) {
                    // Queries that run on old files end, and give their room back.
                    self.context.tier.cache().wait_for_room();
                }
            }
            if found.as_ref().is_err_and(lacks_room) {
                found = query(&self.view_at(name, as_of)?.past());
            }
        }
        match &found {
            Ok(_) => self.refresh(),
            Err(error) => self.note_damage(name, error),
        }
        found
    }
}

impl Context {
    /// Writes down what is here of the segments of a state.
    pub(super) fn remember_parts_of(&self, state: &Manifest) {
        say_unless_saved(self.tier.cache().save_some(state.segments.iter().map(|segment| &segment.key)));
    }
}

fn say_unless_saved(saved: Result<()>) {
    if let Err(error) = saved {
        tracing::warn!(%error, "what is here of the bucket's objects is not written down, a restart would read it again");
    }
}
