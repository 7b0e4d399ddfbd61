//! What stored scores say: estimates with standard errors, differences that
//! are told from noise, and every table of them.
//!
//! [`stats`] turns rows into estimates, [`verdict`] is the one rule for
//! "better", "worse" and "within noise". [`table`] sets the models of a run
//! side by side, [`seeds`] several runs and seeds, [`compare`] any models on
//! the same documents, [`evaluations`] sums up leaderboard tasks and [`mt_bench`]
//! a judge's ratings; [`report`] writes all of it as one page.
//!
//! Everything here follows from rows in the store alone: no model, tokenizer
//! or network is linked, and what a report must know of tasks are [`names`].

pub mod compare;
pub mod error;
pub mod evaluations;
mod grid;
pub mod mt_bench;
pub mod names;
pub mod random;
pub mod report;
pub mod seeds;
pub mod stats;
pub mod table;
pub mod verdict;

pub use error::{ReportError, Result};
