//! The dataset store that links the stages, and the run file they share.
//!
//! Everything a stage reads or writes is an *artifact*: an immutable directory
//! `<kind>/<name>/v<N>/` with a manifest that names its inputs, its files and
//! their digests. This crate owns the layout, the schemas of the tables, the
//! publishing protocol, the audit, and the run file with the graph of
//! artifacts that follows from it. It knows nothing about models or tokens.
//!
//! - [`Store`] finds, lists and publishes artifacts, [`artifact`] is one of them;
//! - [`manifest`] is the record on disk, [`kind`] the kinds of artifact;
//! - [`table`] and [`schema`] read and write the Parquet parts;
//! - [`work`] holds unfinished work so that a killed stage carries on;
//! - [`audit`] verifies and draws lineage;
//! - [`records`] reads the files that people have, [`import`] brings
//!   demonstrations, preferences and models in;
//! - [`url`] shows addresses without what is secret in them;
//! - [`run`] is the run file, [`graph`] the artifacts it stands for.

pub mod artifact;
pub mod audit;
pub mod digest;
pub mod error;
pub mod fsutil;
pub mod graph;
pub mod import;
pub mod kind;
pub mod manifest;
mod publish;
pub mod records;
pub mod run;
pub mod schema;
mod shape;
pub mod store;
pub mod table;
pub mod url;
pub mod work;

pub use artifact::Artifact;
pub use error::{Result, StoreError};
pub use kind::Kind;
pub use manifest::{FileEntry, Manifest, Parent, StageId};
pub use shape::ModelShape;
pub use store::{Recipe, Reference, Store, Version};
