//! Scoring: leaderboard tasks by the rules of lm-evaluation-harness
//! ([`harness`]), and the run's own held-out rows: exact match of GSM8K-style
//! answers, negative log-likelihood of the human answers, and preference of
//! the real over the generated answer ([`heldout`], [`stage`]).
//!
//! Generated answers come from `spin-sample` as artifacts; this crate only
//! reads them. What rows add up to, with standard errors, and all tables are
//! `spin-report`'s.

pub mod error;
pub mod extract;
pub mod fetch;
pub mod harness;
pub mod heldout;
pub mod mt_bench;
pub mod report;
pub mod stage;

pub use error::{BenchError, Result};
