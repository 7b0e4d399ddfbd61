//! The heavy operations of a transformer, each in two implementations.
//!
//! [`composed`] builds them from candle's differentiable operations: slow, but
//! right on every device and type, and the oracle of the tests. The fused ones
//! are custom operations for f32 on the CPU, parallel and with explicit
//! backward passes. [`Kernels`] chooses between them.

mod attention;
mod block;
pub mod composed;
mod linear;
mod linear_logps;
mod math;
mod rms_norm;
mod rope;
mod slices;
mod swiglu;
#[cfg(test)]
mod tests;
mod tiles;

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};

pub use block::{BlockShape, BlockWeights};
pub use rope::RopeTable;

/// Which implementation of the heavy operations computes a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernels {
    /// Custom operations with hand-written backward passes; f32 on the CPU.
    Fused,
    /// Compositions of candle's operations; any device and type.
    Composed,
}

/// The heads of grouped-query attention.
///
/// A row of `qkv` holds all query heads, then all key heads, then all value
/// heads, each `head_dim` wide; query head `h` attends with key and value head
/// `h / (heads / kv_heads)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionShape {
    /// Number of query heads.
    pub heads: usize,
    /// Number of key and value heads.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
}

impl AttentionShape {
    /// Width of a row of queries, keys and values.
    pub fn qkv_width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Width of a row of outputs.
    pub fn out_width(&self) -> usize {
        self.heads * self.head_dim
    }
}

impl Kernels {
    /// The fastest implementation that covers a device and type.
    pub fn for_tensors(device: &Device, dtype: DType) -> Self {
        if device.is_cpu() && dtype == DType::F32 { Self::Fused } else { Self::Composed }
    }

    /// Root-mean-square normalisation of `x` `[rows, width]`, scaled by
    /// `weight` `[width]` (Zhang and Sennrich 2019).
    ///
    /// # Errors
    ///
    /// If shapes or types do not fit; likewise for the other operations.
    pub fn rms_norm(self, x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
        match self {
            Self::Fused => rms_norm::rms_norm(x, weight, eps),
            Self::Composed => composed::rms_norm(x, weight, eps),
        }
    }

    /// `x` `[rows, in]` times `weight` `[out, in]` transposed: `[rows, out]`.
    ///
    /// # Errors
    ///
    /// As [`Kernels::rms_norm`].
    pub fn linear(self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        match self {
            Self::Fused => linear::linear(x, weight),
            Self::Composed => composed::linear(x, weight),
        }
    }

    /// [`Kernels::linear`] plus `residual` `[rows, out]`.
    ///
    /// # Errors
    ///
    /// As [`Kernels::rms_norm`].
    pub fn linear_add(self, x: &Tensor, weight: &Tensor, residual: &Tensor) -> Result<Tensor> {
        match self {
            Self::Fused => linear::linear_add(x, weight, residual),
            Self::Composed => composed::linear(x, weight)?.add(residual),
        }
    }

    /// silu(gate) * up for `gate_up` `[rows, 2 * width]`, whose rows hold the
    /// gate, then up: `[rows, width]` (Shazeer 2020).
    ///
    /// # Errors
    ///
    /// As [`Kernels::rms_norm`].
    pub fn swiglu(self, gate_up: &Tensor) -> Result<Tensor> {
        match self {
            Self::Fused => swiglu::swiglu(gate_up),
            Self::Composed => composed::swiglu(gate_up),
        }
    }

    /// Causal grouped-query attention with rotary positions: `qkv`
    /// `[rows, qkv_width]` to `[rows, out_width]`.
    ///
    /// `lengths` are the rows of each sequence, in order, and add up to
    /// `rows`. The composed implementation needs them equal.
    ///
    /// # Errors
    ///
    /// As [`Kernels::rms_norm`].
    pub fn attention(
        self,
        qkv: &Tensor,
        shape: AttentionShape,
        rope: &Arc<RopeTable>,
        lengths: &Arc<Vec<usize>>,
    ) -> Result<Tensor> {
        match self {
            Self::Fused => attention::attention(qkv, shape, rope, lengths),
            Self::Composed => composed::attention(qkv, shape, rope, lengths),
        }
    }

    /// A Llama block: attention and feed-forward layer, each after a
    /// normalisation and added to the residual stream `x` `[rows, hidden]`.
    ///
    /// # Errors
    ///
    /// As [`Kernels::rms_norm`].
    pub fn block(
        self,
        x: &Tensor,
        weights: &BlockWeights,
        shape: BlockShape,
        rope: &Arc<RopeTable>,
        lengths: &Arc<Vec<usize>>,
    ) -> Result<Tensor> {
        match self {
            Self::Fused => block::block(x, weights, shape, rope, lengths),
            Self::Composed => composed::block(x, weights, shape, rope, lengths),
        }
    }

    /// log softmax(`hidden` `weight`^T) at `targets`: `hidden` `[rows, width]`,
    /// `weight` `[vocab, width]`, `targets` `[rows]` u32, result `[rows]` f32.
    ///
    /// # Errors
    ///
    /// As [`Kernels::rms_norm`].
    pub fn linear_logps(self, hidden: &Tensor, weight: &Tensor, targets: &Tensor) -> Result<Tensor> {
        match self {
            Self::Fused => linear_logps::linear_logps(hidden, weight, targets),
            Self::Composed => composed::linear_logps(hidden, weight, targets),
        }
    }
}
