//! Scoring: exact match of GSM8K-style answers, negative log-likelihood of
//! the human answers, and preference of the real over the generated answer.
//!
//! Generated answers come from `spin-sample` as artifacts; this crate only
//! reads them. [`tasks`] turns answers and log-probabilities into one value
//! per row, [`stats`] turns rows into estimates with standard errors,
//! [`report`] sets the models of a run side by side.

pub mod error;
pub mod extract;
pub mod fetch;
pub mod mt_bench;
pub mod report;
pub mod stage;
pub mod stats;
pub mod tasks;
#[cfg(test)]
mod testing;

pub use error::{BenchError, Result};
