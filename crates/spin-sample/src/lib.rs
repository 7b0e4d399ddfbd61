//! Generation of answers: the opponent's, those to the held-out prompts, and
//! those to the prompts of leaderboard tasks.
//!
//! A row's sample depends on (run seed, stream, row id, sample index) and the
//! weights alone: the noise is counter-based ([`noise`]), the token is picked
//! by our own rule ([`choose`]) from the logits of an [`engine`], mistral.rs or
//! the trainer's forward pass, and other rows do not change these logits. So
//! shards, restarts and other rows change nothing; where an engine cannot
//! promise that, the manifest says so.

pub mod answer;
mod check;
pub mod choose;
pub mod engine;
pub mod error;
pub mod loadable;
pub mod noise;
pub mod parts;
pub mod prompts;
mod publish;
mod queue;
pub mod stage;
pub mod stop;
pub mod task;

pub use error::{Result, SampleError};
