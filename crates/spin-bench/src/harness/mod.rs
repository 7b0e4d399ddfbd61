//! Leaderboard tasks, scored by the rules of lm-evaluation-harness.
//!
//! A [`Task`] says where its documents are, how one reads as a question with
//! answers ([`Doc`]), which examples precede it and what is measured. From
//! there everything is common: [`prompt`] writes the context, [`encode`] turns
//! it into tokens, `spin-model` computes log-probabilities (or `spin-sample`
//! generates), [`measure`] makes values of them, and
//! [`spin_report::evaluations`] sums up.
//!
//! Where the harness's revisions differ, a [`Profile`] decides.

pub mod dataset;
pub mod encode;
pub mod evaluator;
pub mod filter;
pub mod jinja;
pub mod literal;
pub mod measure;
pub mod pins;
pub mod prepared;
pub mod prompt;
pub mod registry;
pub mod stage;
pub mod task;
pub mod tasks;
pub mod text;

pub use spin_run::run::Profile;

pub use task::{Answer, Doc, Examples, Generation, Metric, RawRow, Reader, Source, Task};
