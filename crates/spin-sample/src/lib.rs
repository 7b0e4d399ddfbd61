//! Generation of the opponent's answers with mistral.rs.
//!
//! A row's sample depends on (run seed, stream, row id, sample index) and the
//! weights alone: the noise is counter-based ([`noise`]), the token is picked
//! by our own rule ([`choose`]) inside mistral.rs's logits processor, and the
//! sequences that share a forward pass are fixed by the plan ([`batches`])
//! and not by timing ([`engine`]), because the last bits of the logits depend
//! on them. So shards, restarts and other rows change nothing.

pub mod batches;
pub mod choose;
pub mod engine;
pub mod error;
pub mod noise;
pub mod stage;

pub use error::{Result, SampleError};
