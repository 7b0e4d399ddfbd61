//! The operations as compositions of candle's differentiable ones.
//!
//! These run on every device and in every type, rounding where transformers
//! rounds: normalisation, softmax and log-probabilities are computed in f32.

use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::ops::{log_softmax, sigmoid, softmax};

use super::{AttentionShape, BlockShape, BlockWeights, RopeTable};

/// As [`super::Kernels::rms_norm`].
///
/// # Errors
///
/// If shapes or types do not fit; likewise for the other functions.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let dtype = x.dtype();
    let x = x.to_dtype(DType::F32)?;
    let scale = (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
    let normed = x.broadcast_div(&scale)?.to_dtype(dtype)?;
    normed.broadcast_mul(weight)
}

/// As [`super::Kernels::linear`]. Keep `x` two-dimensional: the gradient of a
/// weight that meets a batch dimension would get that dimension too.
///
/// # Errors
///
/// As [`rms_norm`].
pub fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    x.matmul(&weight.t()?)
}

/// As [`super::Kernels::swiglu`].
///
/// # Errors
///
/// As [`rms_norm`].
pub fn swiglu(gate_up: &Tensor) -> Result<Tensor> {
    let width = gate_up.dim(D::Minus1)? / 2;
    let gate = gate_up.narrow(D::Minus1, 0, width)?.contiguous()?;
    let up = gate_up.narrow(D::Minus1, width, width)?.contiguous()?;
    (sigmoid(&gate)? * &gate)? * up
}

/// As [`super::Kernels::attention`], for sequences of equal length.
///
/// # Errors
///
/// If lengths differ, and as [`rms_norm`].
pub fn attention(qkv: &Tensor, shape: AttentionShape, rope: &RopeTable, lengths: &[usize]) -> Result<Tensor> {
    let seq = lengths.first().copied().unwrap_or(0);
    if lengths.iter().any(|length| *length != seq) {
        candle_core::bail!("composed attention needs sequences padded to equal lengths");
    }
    let AttentionShape { heads, kv_heads, head_dim } = shape;
    let batch = lengths.len();
    let group = heads / kv_heads;
    // [batch, heads + 2 kv_heads, seq, head_dim]
    let qkv = qkv.reshape((batch, seq, heads + 2 * kv_heads, head_dim))?.transpose(1, 2)?;
    let query = rotate(&qkv.narrow(1, 0, heads)?.contiguous()?, rope)?;
    let key = rotate(&qkv.narrow(1, heads, kv_heads)?.contiguous()?, rope)?;
    let value = qkv.narrow(1, heads + kv_heads, kv_heads)?.contiguous()?;
    let repeat = |x: &Tensor| {
        x.unsqueeze(2)?.broadcast_as((batch, kv_heads, group, seq, head_dim))?.contiguous()?.reshape((
            batch * heads,
            seq,
            head_dim,
        ))
    };
    let query = query.reshape((batch * heads, seq, head_dim))?;
    let (key, value) = (repeat(&key)?, repeat(&value)?);

    let scale = 1.0 / (head_dim as f64).sqrt();
    let scores = (query.matmul(&key.transpose(1, 2)?.contiguous()?)? * scale)?;
    let scores = scores.to_dtype(DType::F32)?;
    let scores = scores.broadcast_add(&causal_mask(seq, qkv.device())?)?;
    let weights = softmax(&scores, D::Minus1)?.to_dtype(qkv.dtype())?;
    weights
        .matmul(&value)?
        .reshape((batch, heads, seq, head_dim))?
        .transpose(1, 2)?
        .contiguous()?
        .reshape((batch * seq, heads * head_dim))
}

/// Rotates `x` `[batch, heads, seq, head_dim]` by position.
fn rotate(x: &Tensor, rope: &RopeTable) -> Result<Tensor> {
    let (_, _, seq, head_dim) = x.dims4()?;
    let half = head_dim / 2;
    let (cos, sin) = rope.tensors(seq, x.device(), x.dtype())?;
    let first = x.narrow(D::Minus1, 0, half)?.contiguous()?;
    let second = x.narrow(D::Minus1, half, half)?.contiguous()?;
    let rotated_first = (first.broadcast_mul(&cos)? - second.broadcast_mul(&sin)?)?;
    let rotated_second = (second.broadcast_mul(&cos)? + first.broadcast_mul(&sin)?)?;
    Tensor::cat(&[rotated_first, rotated_second], D::Minus1)
}

/// 0 where key <= query, and minus infinity elsewhere: `[seq, seq]` f32.
fn causal_mask(seq: usize, device: &Device) -> Result<Tensor> {
    let mask: Vec<f32> = (0..seq)
        .flat_map(|query| (0..seq).map(move |key| if key <= query { 0.0 } else { f32::NEG_INFINITY }))
        .collect();
    Tensor::from_vec(mask, (seq, seq), device)
}

/// As [`super::Kernels::block`]; intermediate results are always kept.
///
/// # Errors
///
/// As [`attention`].
pub fn block(
    x: &Tensor,
    weights: &BlockWeights,
    shape: BlockShape,
    rope: &RopeTable,
    lengths: &[usize],
) -> Result<Tensor> {
    let normed = rms_norm(x, &weights.attention_norm, shape.eps)?;
    // One product for all three projections: the weights are small beside the
    // rows, so joining them costs little.
    let joined = Tensor::cat(&[&weights.query, &weights.key, &weights.value], 0)?;
    let attended = attention(&linear(&normed, &joined)?, shape.attention, rope, lengths)?;
    let x = (linear(&attended, &weights.attention_output)? + x)?;

    let normed = rms_norm(&x, &weights.feed_forward_norm, shape.eps)?;
    let joined = Tensor::cat(&[&weights.gate, &weights.up], 0)?;
    let activated = swiglu(&linear(&normed, &joined)?)?;
    linear(&activated, &weights.down)? + x
}

/// As [`super::Kernels::linear_logps`].
///
/// # Errors
///
/// As [`rms_norm`].
pub fn linear_logps(hidden: &Tensor, weight: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let logits = linear(hidden, weight)?.to_dtype(DType::F32)?;
    log_softmax(&logits, D::Minus1)?.gather(&targets.unsqueeze(1)?, 1)?.squeeze(1)
}
