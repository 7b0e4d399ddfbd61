//! Kernels for NVIDIA GPUs: their sources, and typed launches with checked shapes.
//!
//! `kernels/` has the sources, CUDA C++ that a CUDA programmer can read alone, one file an operation. A launch here
//! knows a kernel's name, its grid, its shared memory and the order of its arguments; who runs it is a [`Runner`]: a GPU
//! (feature `cuda`: `cuda::Device`, which compiles the sources by NVRTC when they are first used), or, in tests, the CPU,
//! by `kernels/host.hpp`. A [`Machine`] is a runner that has memory and products, too. Launches allocate nothing on a device, so that they can be captured into graphs; memory that a
//! kernel needs besides its arguments is an argument.
//!
//! Nothing here has been run on a GPU. `docs/bench/kernels.md` says of each kernel what has been done with it.

mod attention;
mod call;
#[cfg(feature = "cuda")]
pub mod cuda;
mod draw;
mod elementwise;
mod error;
mod head;
mod machine;
mod memory;
mod norm;
mod optimizer;
mod paged;
mod plan;
mod pointwise;
mod product;
mod rows;
mod sources;

pub use attention::{
    Attention, AttentionViews, Known, TreeRows, TreeViews, attention, attention_backward, attention_mma, attention_tree,
};
pub use call::{Call, Runner};
pub use draw::{Choice, Draw, draw_tokens, penalise};
pub use elementwise::{
    DropoutMask, PART, add_bias, add_column_sums, add_scaled, column_parts, convert, dropout, scale,
};
pub use error::{Error, Result};
pub use head::{
    ChunkSlopes, Head, Rounding, Scoring, capped_logps, head_gradient, head_gradient_over, head_logps, score_targets,
};
pub use machine::{Machine, Memory, Plain};
pub use memory::{Kind, Number, View, ViewMut};
pub use norm::{Norm, NormGrads, NormScratch, Normed, Strided, StridedMut, rms_norm, rms_norm_backward, weight_parts};
pub use optimizer::{AdamW, CHUNK, RmsProp, Weights, adamw, clip_factor, rmsprop, squared_norm, squared_norm_parts};
pub use paged::{NO_ROW, NewRows, PagedScratch, Pages, SPLIT, attention_paged, cache_append, splits};
pub use plan::{AttentionPlan, Span, TreePlan};
pub use pointwise::{Gate, RotatedHeads, Rotation, gated, gated_backward, rotate};
pub use product::{Factor, product, product_shape};
pub use rows::{SegmentViews, Segments, add_segments, gather};
pub use sources::{HEADERS, SOURCES, Source, source_of};
