//! Trainable decoder-only transformers on candle.
//!
//! A [`CausalLm`] is read from a Hugging Face model directory (or made from a
//! [`ModelConfig`] and a seed), gives the log-probabilities of answers as
//! differentiable tensors, and is written back as a Hugging Face directory.
//! This crate knows nothing about stages, files of pairs or objectives; it
//! never prints and never reads the environment.
//!
//! candle's own models cannot be trained: their fused normalisation, rotary
//! embedding and softmax drop gradients silently. Here a model on the CPU is
//! computed by operations with hand-written backward passes that record no
//! graph, and so it is on an NVIDIA GPU with the feature `cuda`, over weights that
//! stay in memory, where they are trained; elsewhere it is composed of candle's
//! differentiable operations, which are also what tests
//! compare the former with.

mod backend;
mod batch;
mod composed;
mod config;
mod cpu;
#[cfg(any(test, feature = "cuda-kernels"))]
mod cuda;
mod decoder;
mod device;
mod dropout;
mod dry;
mod engine;
mod error;
mod generate;
mod gradients;
mod init;
mod logits;
mod lora;
mod model;
mod neutral;
mod ops;
mod params;
mod request;
mod rope;
mod score;
#[cfg(test)]
mod testing;
mod weights;

pub use backend::Kernels;
pub use batch::Batch;
pub use config::{
    Activation, Architecture, LayerConfig, ModelConfig, RopeConfig, RopeScaling, SUPPORTED_ARCHITECTURES,
};
pub use cpu::bf16_square;
pub use device::open_device;
pub use dry::Footprint;
pub use error::{Error, Result};
pub use generate::{Generator, Sequence, StepInput};
pub use gradients::{CHUNK, GradientValues, Gradients, clip_factor, never_reached, squares};
pub use logits::{largest_logit, softmax_weights};
pub use lora::{LoraConfig, LoraPatterns};
pub use model::{Accumulation, CausalLm};
pub use params::{times_written, written};
pub use request::{Rounding, ScoreOptions};
pub use score::{ContinuationScore, ScoreRequest, ScoreStats};
pub use weights::DEFAULT_MAX_SHARD_BYTES;
