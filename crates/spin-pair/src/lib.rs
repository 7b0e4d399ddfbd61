//! Pairing: demonstrations joined with the samples of a window of iterations,
//! or the chosen and rejected answers of a preference set.
//!
//! What cannot teach is dropped and *counted by reason*: an answer without
//! tokens of its own, an answer identical to the human's (its gradient is
//! zero), a pair over the length limit. Tables stay in Arrow's columns from file to
//! file; this crate never sees a tensor.

pub mod chunks;
pub mod error;
pub mod ids;
pub mod join;
pub mod preferences;
pub mod stage;

pub use error::{PairError, Result};
