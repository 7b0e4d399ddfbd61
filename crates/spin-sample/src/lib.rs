//! Generation of the opponent's answers with mistral.rs.
//!
//! A row's sample depends on (run seed, stream, row id, sample index) and the
//! weights alone: the noise is counter-based ([`noise`]), the token is picked
//! by our own rule ([`choose`]) inside mistral.rs's logits processor, and no two
//! rows share a forward pass ([`engine`]). So shards, restarts and other rows
//! change nothing.

pub mod choose;
pub mod engine;
pub mod error;
pub mod noise;
pub mod parts;
pub mod stage;

pub use error::{Result, SampleError};
