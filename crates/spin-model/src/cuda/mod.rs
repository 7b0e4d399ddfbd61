//! A GPU's set of [operations](crate::ops): the launches of `spin-cuda`, on a
//! machine that has memory, products and a runner of kernels. A GPU is one (feature
//! `cuda-kernels`); tests have the CPU in its place, which gets the same launches
//! and runs the same kernels. None of this has been run on a GPU.
//!
//! # What is copied when
//!
//! **Weights** go to the machine when an operation first asks for them, in the type
//! that they are kept in (f16 as f32), and stay there as long as the model lives:
//! [`crate::params`] has the copies. One of bf16 is never widened whole. A weight
//! that was [`written`](crate::written), as the optimiser does at the end of an
//! update, is copied anew when it is next asked for; frozen ones are not. Norms,
//! biases and adapters are there as f32.
//!
//! **Gradients** are added up on the machine over all backward passes of an update
//! (or of a share of it) and come back at its end, once for each trained tensor,
//! where they are added to [`crate::Gradients`]. The optimiser's step is the host's:
//! masters and state are in its memory, and several processes share them there.
//!
//! **Of a batch** token ids, spans and lists of tiles go to the machine once for a
//! pass, slopes of the loss once for a chunk of logits, log-probabilities come back;
//! of a step of growing sequences, positions and pages go there for each layer, and
//! logits come back. Everything else stays.
//!
//! # Types
//!
//! Activations, gradients, keys and values are f32; products with weights of bf16
//! round both factors to bf16 and sum in f32, as on the CPU. Attention in bf16 on
//! tensor cores (`attention_mma`) is not used.

mod attention;
mod gradients;
mod growing;
mod operations;
mod pages;
mod products;
mod set;
mod trees;
mod weight;

pub(crate) use set::Cuda;
#[cfg(feature = "cuda-kernels")]
pub(crate) use set::computes;
#[cfg(feature = "cuda-kernels")]
pub(crate) use spin_cuda::cuda::Gpu;
