//! A run: the file that describes it, the artifacts that the file stands for,
//! and how data and models get into a store.
//!
//! - [`run`] is the run file, [`graph`] the artifacts that follow from it,
//!   [`plan`] what there is to do;
//! - [`cluster`] brings a plan to a batch scheduler;
//! - [`schema`] has the rows of every kind of table, [`facts`] what manifests
//!   count;
//! - [`records`] reads the files that people have, [`import`] brings
//!   demonstrations, preferences and models in;
//! - [`recovery`] finds the run file in a manifest, [`replay`] does again what one says was done;
//! - [`prov`] is where an artifact is from, in the words of W3C PROV;
//! - [`export`] writes what others read;
//! - [`overlap`] finds what a table shares with others and with itself;
//! - [`sign`] puts signatures beside artifacts and reads them;
//! - [`settings`] describes the keys of a run file;
//! - [`url`] shows addresses without what is secret in them.

pub mod cluster;
pub mod diff;
pub mod export;
pub mod facts;
pub mod graph;
pub mod import;
mod maker;
pub mod overlap;
pub mod plan;
pub mod prov;
pub mod records;
pub mod recovery;
pub mod replay;
pub mod run;
pub mod schema;
pub mod settings;
mod shape;
pub mod sign;

pub use maker::Maker;
pub use shape::ModelShape;
