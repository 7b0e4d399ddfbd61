//! Trainable decoder-only transformers on candle.
//!
//! A [`CausalLm`] is read from a Hugging Face model directory (or made from a
//! [`ModelConfig`] and a seed), gives the log-probabilities of answers as
//! differentiable tensors, and is written back as a Hugging Face directory.
//! This crate knows nothing about stages, files of pairs or objectives; it
//! never prints and never reads the environment.
//!
//! candle's own models cannot be trained: their fused normalisation, rotary
//! embedding and softmax drop gradients silently. Everything on the path of a
//! gradient here is either composed of differentiable operations
//! ([`ops::composed`]) or an operation with a hand-written backward pass that
//! tests compare with the composed one ([`ops`]).

mod batch;
mod config;
mod error;
mod gradients;
mod init;
mod llama;
mod model;
pub mod ops;
mod weights;

pub use batch::Batch;
pub use config::{ModelConfig, SUPPORTED_ARCHITECTURES};
pub use error::{Error, Result};
pub use gradients::{GradientValues, Gradients};
pub use model::CausalLm;
pub use ops::Kernels;
pub use weights::DEFAULT_MAX_SHARD_BYTES;
