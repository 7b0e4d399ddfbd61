//! Training: SPIN, DPO, and supervised fine-tuning to make θ0 and baselines.
//!
//! The pieces are small and separate: [`objective`] maps log-probabilities to
//! losses and their slopes, [`optim`] and [`schedule`] follow PyTorch and
//! transformers, [`data`] decides which rows make which update, [`batches`] how
//! those are cut into forward passes, [`learner`] makes one update, [`trainer`]
//! runs updates with evaluations and checkpoints, [`metrics`] is what is
//! recorded, [`mod@reference`] computes the opponent's log-probabilities once,
//! [`start`] loads the model that a training starts from, [`stage`] ties them to
//! artifacts.
//!
//! [`mod@merge`] turns an adapter into whole weights.
//!
//! Without a store: a [`learner::Learner`] makes single updates on given rows,
//! a [`trainer::Trainer`] a whole training.

pub mod batches;
pub mod checkpoint;
pub mod collective;
pub mod data;
pub mod error;
pub mod learner;
pub mod merge;
pub mod metrics;
pub mod objective;
pub mod optim;
mod publish;
pub mod reference;
mod rows;
pub mod scale;
pub mod schedule;
mod shares;
pub mod stage;
pub mod start;
pub mod tabular;
#[cfg(test)]
mod tabular_tests;
#[cfg(test)]
mod testing;
mod together;
pub mod trainer;
pub mod watch;

pub use error::{FitError, Result};
pub use trainer::Trainer;
pub use watch::TrainingWatch;
