//! A run: the file that describes it, the artifacts that the file stands for,
//! and how data and models get into a store.
//!
//! - [`run`] is the run file, [`graph`] the artifacts that follow from it,
//!   [`plan`] what there is to do;
//! - [`schema`] has the rows of every kind of table, [`facts`] what manifests
//!   count;
//! - [`records`] reads the files that people have, [`import`] brings
//!   demonstrations, preferences and models in;
//! - [`settings`] describes the keys of a run file;
//! - [`url`] shows addresses without what is secret in them.

pub mod diff;
pub mod facts;
pub mod graph;
pub mod import;
mod maker;
pub mod plan;
pub mod records;
pub mod run;
pub mod schema;
pub mod settings;
mod shape;

pub use maker::Maker;
pub use shape::ModelShape;
