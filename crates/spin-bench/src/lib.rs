//! Scoring: leaderboard tasks by the rules of lm-evaluation-harness
//! ([`harness`]), and the run's own held-out rows: exact match of GSM8K-style
//! answers, negative log-likelihood of the human answers, and preference of
//! the real over the generated answer ([`heldout`], [`stage`]).
//!
//! Generated answers come from `spin-sample` as artifacts; this crate only
//! reads them. [`stats`] turns rows into estimates with standard errors,
//! [`report`] sets the models of a run side by side, [`compare`] tells
//! differences from noise.

pub mod compare;
pub mod error;
pub mod extract;
pub mod fetch;
mod grid;
pub mod harness;
pub mod heldout;
pub mod mt_bench;
pub mod report;
pub mod secret;
pub mod stage;
pub mod stats;
#[cfg(test)]
mod testing;

pub use error::{BenchError, Result};
