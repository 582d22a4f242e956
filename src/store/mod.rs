//! The bucket: objects in a store that others share, over a network that may be away.
//!
//! [`bucket`] has the calls, of which [`read`], [`upload`] and [`list`] have their own files, [`commit`] the one protocol that decides between nodes. Below them: [`open`] and [`config`] lead to
//! a store, [`directory`] is one of this machine's, of which [`staged`] removes what broke off, [`connector`], [`dial`] and [`pace`] carry requests, [`runtime`] has the threads for that, [`facts`] and [`failure`] say what went wrong, [`patience`]
//! says how long to try, [`room`] what to leave alone, [`traffic`] counts. At attach: [`probe`] and [`identity`].
//!
//! - Answers to conditional writes are questions. Only the bytes under a key say who won it.
//! - An object is put under a name that is used once, or it is a hint that nobody trusts.
//! - Every call ends soon after the bucket falls silent; requests, parts in memory, pages, answers and rates have bounds.
//! - No error has a secret in it.

mod bucket;
mod commit;
mod config;
mod connector;
mod dial;
mod directory;
mod facts;
mod failure;
mod identity;
mod keys;
mod list;
mod open;
mod pace;
mod patience;
mod probe;
mod read;
mod room;
mod runtime;
mod staged;
mod sure;
mod traffic;
mod upload;

pub use bucket::{Bucket, Created};
pub use commit::{COMMIT_UNKNOWN, IsMine, KeyOf, Outcome, commit, follows, newest, read_hint, write_hint};
pub use config::{BucketConfig, Location, REQUESTS_CONCURRENT_MAX, Vendor};
pub use failure::{FULL, MISCONFIGURED, UNREACHABLE};
pub use identity::{FORMAT_KEY, OTHER_STORE, REPLACED, check_identity, claim_identity, read_identity, unclaimed};
pub use list::{Listed, PAGE_KEYS_MAX, Page, TOO_MANY_KEYS};
pub use open::Backend;
pub use patience::Patience;
pub use probe::{UNCONDITIONAL, probe};
pub use read::GET_BYTES_MAX;
pub use runtime::handle as runtime;
pub use staged::Swept;
pub use traffic::{ENDINGS, Ending, REQUESTS, Request, Traffic, TrafficSnapshot};
pub use upload::{Ledger, PART_BYTES, Source};
