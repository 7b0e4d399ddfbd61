//! The dataset store that links the stages: artifacts, and nothing else.
//!
//! Everything a stage reads or writes is an *artifact*: an immutable directory
//! `<kind>/<name>/v<N>/` with a manifest that names its inputs, its files and
//! their digests. This crate owns the layout, the publishing protocol and the
//! audit. It knows nothing about runs, models, tokens or the columns of
//! tables, and depends on no other crate of the workspace.
//!
//! - [`Store`] finds, lists and publishes artifacts, [`artifact`] is one of them;
//! - [`manifest`] is the record on disk, [`kind`] the kinds of artifact;
//! - [`table`] reads and writes Parquet parts, [`row`] is what their rows can do;
//! - [`make`] is the one way to make an artifact;
//! - [`work`] holds unfinished work so that a killed stage carries on;
//! - [`journal`] is what became of each, [`retire`] removes on purpose, [`collect`] what nobody needs;
//! - [`names`] are further names of artifacts;
//! - [`bundle`] takes one with all it is from to another store;
//! - [`audit`] verifies and draws lineage.

pub mod artifact;
pub mod audit;
pub mod bundle;
pub mod collect;
pub mod digest;
pub mod error;
mod fault;
pub mod fsutil;
mod in_use;
pub mod journal;
pub mod kind;
pub mod make;
pub mod manifest;
pub mod names;
mod noting;
pub mod pages;
mod publish;
pub mod retire;
pub mod row;
pub mod schema;
pub mod store;
mod structure;
pub mod table;
mod unfinished;
mod values;
pub mod work;

pub use artifact::{Artifact, Verified};
pub use error::{Result, StoreError};
pub use journal::Journal;
pub use kind::Kind;
pub use make::{Context, Ending, Left, Making, Outcome, Share, Staged, Watch};
pub use manifest::{FileEntry, Manifest, Origin, Parent, StageId};
pub use row::Row;
pub use store::{Recipe, Reference, Store, Version};
pub use unfinished::Unfinished;
