//! Shoal: a search store for edge nodes. One daemon, one local directory and, where there is one, one bucket.
//!
//! # Where things are
//!
//! A module imports from lower rows only; `tests/tidy.rs` keeps it so.
//!
//! ```text
//! 8  cli -> daemon                commands, above the composition root
//! 7  config                       TOML, environment, flags
//! 6  api                          HTTP
//! 5  sync   snapshot              history between places
//! 4  engine                       namespaces: writes, recovery, queries
//! 3  segment   tier               index bytes | keep bytes near
//! 2  store     meta               objects | local facts in redb
//! 1  format    ops                bytes at rest | what operators see
//! 0  model     platform            words | the operating system; `error` below both
//! ```
//!
//! # What always holds
//!
//! - **Acknowledged is durable.** [`engine::group_commit`] acknowledges a commit only after a barrier that began when its
//!   bytes were in the log; [`engine::journal`] finds every such commit again after any crash.
//! - **What is logged can be applied.** Segments are read when a write is decided, so a damaged one refuses it before it is in the log;
//!   see [`engine::namespace`]. A flush that returns has everything that was acknowledged before it in the newest manifest.
//! - **A crash can only leak.** Objects are durable before a manifest names them: [`platform::disk::publish`] puts whole
//!   files in place, and logs are sealed by a rename.
//! - **A namespace comes to be whole.** Its name is bound last, after its first write; see [`engine`].
//! - **What is to be replayed keeps what it is based on.** Manifests and merges count a row as dead only once the record that
//!   replaced it can no longer be replayed; answers leave it out at once.
//! - **Counts find what may go, files decide.** [`meta`] holds nothing that cannot be rebuilt, references are counted before
//!   the manifest that needs them, and nothing is removed while counts are not known to be right.
//! - **An object stays while somebody holds it.** Holders are runs of retained manifests, tags, and writers of logs that are
//!   in no segment yet; see [`engine::lineage`].
//! - **A document's version says what is known of it.** A state has seen every commit that its version vector covers, so a
//!   merge compares what one side has seen with what the other has; nothing else decides what is new: see [`engine::merge`].
//! - **Nodes meet by what they have seen.** A pass of [`sync`] may stop anywhere: which of two states is newer is decided by their
//!   vectors, and what a commit in the bucket came to by reading it back; see [`store`]. An origin is one disk's: a clone takes
//!   others, in all its namespaces, as soon as the bucket shows that there are two.
//! - **What is only here is here whole.** Of what the bucket has, a node may keep ranges; whoever touches others waits for them, or
//!   reads them past the disk where that has no room: see [`tier`] and [`platform::mmap::Fill`].
//! - **What the bucket loses nobody needs.** Nothing is deleted there that a retained manifest names or a hold, and nothing is committed
//!   that may be deleted: see [`engine::reclaim`].
//! - **A repeated write takes effect once.** The answer to a write with a key is in the log beside it, or in a file that is there
//!   before the manifest that makes the log superfluous; no index decides about it.
//! - **Objects never change.** Logs, segments, deletion bitmaps and manifests are written once, under names that are never
//!   used again.
//! - **Bytes from outside are hostile.** Whatever a file or a request holds, the answer is an error that says what was
//!   wrong: never a panic, never an allocation taken from an unchecked length.
//! - **Time, randomness and the disk enter through traits** ([`platform`]), which production and tests share; there are no
//!   failpoints in the product.
//!
//! # Words
//!
//! | word | meaning |
//! | --- | --- |
//! | namespace | a named set of documents: `org/project/name` |
//! | incarnation | one life of a namespace (`nsid`); deleting and creating again gives a new one |
//! | origin | random 64 bits for one node's writable copy of one incarnation, or of one after another; see [`engine`] |
//! | version | `(hlc, origin)` of a document; between two states the higher wins |
//! | record | one upsert, patch or delete, with its sequence number per origin |
//! | log object | an immutable batch of records |
//! | segment | an immutable indexed set of documents and tombstones |
//! | tail | records not yet in a segment |
//! | cluster | vectors of a segment's column that are near one centroid; searches look at the nearest clusters first |
//! | recall | the share of the nearest vectors that a search finds |
//! | commit | one new state of a namespace |
//! | generation | the number of a manifest in one chain |
//! | branch, copy | a namespace whose first manifest references another's objects, with and without lineage |
//! | version vector | of every origin the clock of its newest commit that a state has seen |
//! | conflict | a document that both sides of a merge changed without knowing of each other |
//! | base | a state that both sides of a merge once had in common |
//! | tag | a name for one commit, kept until deleted |
//! | tier | the local directory that holds objects under the bucket's keys, whole or in part |
//! | seal, flush | close a log object; tail to segment |
//! | fence | a commit in the bucket that announces what is about to be deleted there |
//! | hold | the record by which a branch keeps another incarnation's objects in the bucket |
//! | end | the fence of a deleted namespace, which retains nothing |
//!
//! The bytes at rest are described in `storage-format.md`.

pub mod api;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod engine;
pub mod error;
pub mod format;
pub mod meta;
pub mod model;
pub mod ops;
pub mod platform;
pub mod segment;
pub mod snapshot;
pub mod store;
pub mod sync;
pub mod tier;
