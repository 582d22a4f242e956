//! Compares namespaces, and merges one into another: three-way, by the versions of documents.
//!
//! Nothing is compared that cannot differ. Segments that both sides have differ in their dead rows only; of the others, a row
//! whose version the other side's vector covers is known there, or what replaced it is.
//!
//! - `side` finds the state of a document on one side, `changes` the documents whose states may differ;
//! - `decide` says what becomes of one document, and is pure; `fields` joins two states attribute by attribute;
//! - `diff` renders differences.

pub mod changes;
pub mod decide;
pub mod diff;
pub mod side;
