//! How objects in a shared bucket are reclaimed: by the chain of manifests and by holds, without a clock and without locks.
//!
//! Reference counts only find candidates. What licenses a deletion is this order of steps; `tests/reclaim_protocol.rs` walks
//! through every way in which the steps of several nodes can meet, and shows what is lost when one of them is left out or two
//! are swapped. Each may be the last one that a node ever takes: then something is left over, and nothing is lost.
//!
//! A *fence* is a commit that changes no document. It names a list of condemned keys under the namespace's prefix, and the
//! oldest commit that is still retained; every commit before that one is released. Any commit is made by creating the next
//! number's manifest, so of two only one succeeds, and the other has been overtaken.
//!
//! **A collector** of a namespace
//! 1. reads the newest manifest;
//! 2. writes the list of condemned keys: objects under the prefix that no retained manifest names. Objects on their way to a
//!    commit are among them, as nobody can tell them from leftovers;
//! 3. commits a fence on that manifest, which names the list. If it is overtaken, it begins anew: the list is stale;
//! 4. only **then** lists holds and tags, and spares what they name;
//! 5. deletes the rest. Who finds a fence whose list is not done with may carry on from step 4.
//!
//! **A committer**
//! 1. reads the newest manifest and uploads new objects, each under a name that was never used;
//! 2. commits. It names objects of its base, objects under a hold that it checked, and its own uploads;
//! 3. if it is overtaken, it reads every fence since its uploads. What they condemned is uploaded again **under a new name**, as
//!    the old name may be deleted at any time from now on; then it commits on the newest manifest.
//!
//! **A holder** (a branch, a copy, or a snapshot under way) of one commit
//! 1. writes a hold into the prefix of **every** owner of the commit's objects, of those the namespace itself only holds, too;
//! 2. only **then** reads the newest manifest of the namespace that it forks from. If a fence has released the commit, it
//!    removes its holds and starts over; if not, the hold is confirmed, and the branch's first manifest may name the objects.
//!
//! The holder writes and then looks for the fence, the collector commits the fence and then looks for holds: one of the two
//! always sees the other.
//!
//! **A tag** is a file below the namespace's own prefix, and becomes a hold by a commit that announces it on the chain: a fence that comes before
//! that commit overtakes it, and who made the tag looks at what the fence condemned; one that comes after was made by who read the tags after
//! the manifest that it follows. So it names what a retained manifest names then, and objects of its own that no fence condemned since
//! they were uploaded; anything else is uploaded under a new name. A deletion of a tag is a file, too, and goes after some time, but only once a fence
//! has condemned it by name: who still has the tag, and finds no file of it, tells by that that it was deleted and not lost.
//!
//! **Changing a hold.** A hold's revisions are created and never changed. The next is written before the last is removed, so a
//! listing always finds one that covers what is needed. It gets narrower only after a fence of the holder's own chain has
//! passed every commit that used the object: until then somebody may fork from such a commit, and finds no fence.
//!
//! **Manifests** that are released go last, the oldest first, and the lists that only they name at a later fence. Their numbers are
//! free again then. So a commit counts when the manifest that it follows is there, or one that follows it; the fence's own parent is
//! always retained, so the newest has it. Who finds that its base is gone has to take everything that it uploaded for condemned.
//!
//! **An end** is a fence that retains nothing, not even its own generation: of a namespace that was deleted. Whoever commits on it sends
//! everything under new names. Giving a deleted namespace its name again comes before a look for the end, ending it before a look at
//! the name: one of the two always sees the other.
//!
//! **Giving up a hold** of who has no state in the bucket, and may be about to commit one: only by making the end its first state.
//! Then it cannot commit what it held, and nothing else has to be known of it.
//!
//! In the code: `sync::collect` is the collector, `sync::gone` of deleted namespaces, `sync::fences` the committer's part,
//! `sync::holds` the holder's, `sync::tags` and `sync::collect_tags` what tags are in it, [`crate::format::reclaim`] what they write.
