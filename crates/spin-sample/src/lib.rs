//! Generation of answers with mistral.rs: the opponent's, those to the held-out
//! prompts, and those to the prompts of leaderboard tasks.
//!
//! A row's sample depends on (run seed, stream, row id, sample index) and the
//! weights alone: the noise is counter-based ([`noise`]), the token is picked
//! by our own rule ([`choose`]) inside mistral.rs's logits processor, and no two
//! rows share a forward pass ([`engine`]). So shards, restarts and other rows
//! change nothing.

pub mod choose;
pub mod engine;
pub mod error;
pub mod loadable;
pub mod noise;
pub mod parts;
pub mod prompts;
pub mod stage;
pub mod stop;

pub use error::{Result, SampleError};
