//! Compares namespaces, and merges one into another: three-way, by the versions of documents.
//!
//! Nothing is compared that cannot differ. Segments that both sides have differ in their dead rows only; of the others, a row
//! whose version the other side's vector covers is known there, or what replaced it is.
//!
//! - `side` finds the state of a document on one side, `changes` the documents whose states may differ;
//! - `decide` says what becomes of one document, and is pure; `fields` joins two states attribute by attribute;
//! - `diff` gives differences; `promote` merges, by `work`, which walks over what differs with `walk`: `survey` looks first, `build`
//!   is what the commit will name;
//! - `schemas` joins schemas, `settings` what is set of one namespace, `bases` keeps what both once had in common, `relatives` finds
//!   what their ancestors keep of that, and `own_past` what they were themselves; `losers` keeps what a merge did not take;
//! - `conflicts` lists what a merge did not take, and writes it again; `report` says what a merge did.

pub mod bases;
mod build;
pub mod changes;
pub mod conflicts;
pub mod decide;
pub mod diff;
pub mod fields;
mod losers;
mod own_past;
mod promote;
mod relatives;
pub mod report;
pub mod schemas;
pub mod settings;
pub mod side;
mod survey;
mod walk;
mod work;

pub use bases::{kept_by, unreadable};
pub use conflicts::LostState;
pub use report::{Conflict, MergeReport, MergeRequest, TooLarge};
pub(in crate::engine) use work::{Work, newest};
