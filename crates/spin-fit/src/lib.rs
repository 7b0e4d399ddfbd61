//! Training: the SPIN objective, and supervised fine-tuning to make θ0 and
//! baselines.
//!
//! The pieces are small and separate: [`objective`] maps log-probabilities to
//! losses, [`optim`] and [`schedule`] follow PyTorch and transformers,
//! [`data`] decides which rows make which update, [`trainer`] runs updates and
//! checkpoints, [`mod@reference`] computes the opponent's log-probabilities once,
//! [`stage`] ties them to artifacts.

pub mod checkpoint;
pub mod data;
pub mod error;
pub mod objective;
pub mod optim;
pub mod reference;
pub mod schedule;
pub mod stage;
pub mod trainer;

pub use error::{FitError, Result};
