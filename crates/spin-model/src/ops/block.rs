//! A whole Llama block as one operation.
//!
//! candle's backward pass fills a gradient with zeros and adds to it for every
//! edge of the graph, on one thread; with the block as one node that is paid
//! once per block instead of ten times. It also makes recomputation simple:
//! the block's input is all that its backward pass needs.

use std::sync::{Arc, Mutex};

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use super::attention::Attention;
use super::math::{Matrix, matmul, product};
use super::slices::{self, bind_slice};
use super::{AttentionShape, RopeTable, rms_norm, swiglu};

/// The sizes of a block and what to do with its intermediate results.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BlockShape {
    /// The heads.
    pub attention: AttentionShape,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward layer.
    pub intermediate: usize,
    /// Added to the mean square in RMSNorm.
    pub eps: f64,
    /// Whether the backward pass computes intermediate results again instead
    /// of keeping them: a third more work, and memory that grows with the
    /// number of blocks only by their inputs.
    pub recompute: bool,
}

/// The weights of a block.
#[derive(Debug, Clone)]
pub struct BlockWeights {
    /// Scale of the normalisation before attention, `[hidden]`.
    pub attention_norm: Tensor,
    /// Queries, `[heads * head_dim, hidden]`.
    pub query: Tensor,
    /// Keys, `[kv_heads * head_dim, hidden]`.
    pub key: Tensor,
    /// Values, `[kv_heads * head_dim, hidden]`.
    pub value: Tensor,
    /// Output of attention, `[hidden, heads * head_dim]`.
    pub attention_output: Tensor,
    /// Scale of the normalisation before the feed-forward layer, `[hidden]`.
    pub feed_forward_norm: Tensor,
    /// Gate, `[intermediate, hidden]`.
    pub gate: Tensor,
    /// Up, `[intermediate, hidden]`.
    pub up: Tensor,
    /// Down, `[hidden, intermediate]`.
    pub down: Tensor,
}

impl BlockWeights {
    /// The same weights, to be computed with but not trained.
    pub fn detach(&self) -> Self {
        Self {
            attention_norm: self.attention_norm.detach(),
            query: self.query.detach(),
            key: self.key.detach(),
            value: self.value.detach(),
            attention_output: self.attention_output.detach(),
            feed_forward_norm: self.feed_forward_norm.detach(),
            gate: self.gate.detach(),
            up: self.up.detach(),
            down: self.down.detach(),
        }
    }

    /// All weights as one vector, in the order of [`BlockShape::sizes`]:
    /// an operation of candle has at most three operands.
    fn joined(&self) -> Result<Tensor> {
        let parts = [
            &self.attention_norm,
            &self.query,
            &self.key,
            &self.value,
            &self.attention_output,
            &self.feed_forward_norm,
            &self.gate,
            &self.up,
            &self.down,
        ];
        let parts = parts.map(|part| part.flatten_all());
        Tensor::cat(&parts.into_iter().collect::<Result<Vec<_>>>()?, 0)
    }
}

impl BlockShape {
    /// Lengths of the parts of the joined weights: attention norm; queries,
    /// keys and values; attention output; feed-forward norm; gate and up; down.
    fn sizes(&self) -> [usize; 6] {
        [
            self.hidden,
            self.attention.qkv_width() * self.hidden,
            self.hidden * self.attention.out_width(),
            self.hidden,
            2 * self.intermediate * self.hidden,
            self.hidden * self.intermediate,
        ]
    }
}

pub(super) fn block(
    x: &Tensor,
    weights: &BlockWeights,
    shape: BlockShape,
    rope: &Arc<RopeTable>,
    lengths: &Arc<Vec<usize>>,
) -> Result<Tensor> {
    let op = Block { shape, attention: Attention::new(shape.attention, rope, lengths)?, saved: Mutex::new(None) };
    x.contiguous()?.apply_op2(&weights.joined()?, op)
}

struct Block {
    shape: BlockShape,
    attention: Attention,
    saved: Mutex<Option<Saved>>,
}

/// What the backward pass needs and only matrix products or attention can
/// give; the rest it computes again.
struct Saved {
    /// `[rows, qkv_width]`.
    qkv: Vec<f32>,
    /// `[rows, heads]`.
    log_sums: Vec<f32>,
    /// `[rows, out_width]`.
    attended: Vec<f32>,
    /// The residual stream after attention, `[rows, hidden]`.
    middle: Vec<f32>,
    /// `[rows, 2 * intermediate]`.
    gate_up: Vec<f32>,
}

/// The parts of the joined weights as matrices `[out, in]` and scales.
struct Parts<'a> {
    attention_norm: &'a [f32],
    qkv: Matrix<'a>,
    output: Matrix<'a>,
    feed_forward_norm: &'a [f32],
    gate_up: Matrix<'a>,
    down: Matrix<'a>,
}

impl Block {
    fn parts<'a>(&self, weights: &'a [f32]) -> Parts<'a> {
        let mut rest = weights;
        let [attention_norm, qkv, output, feed_forward_norm, gate_up, down] = self.shape.sizes().map(|size| {
            let (part, others) = rest.split_at(size);
            rest = others;
            part
        });
        let BlockShape { attention, hidden, intermediate, .. } = self.shape;
        Parts {
            attention_norm,
            qkv: Matrix::new(qkv, attention.qkv_width(), hidden),
            output: Matrix::new(output, hidden, attention.out_width()),
            feed_forward_norm,
            gate_up: Matrix::new(gate_up, 2 * intermediate, hidden),
            down: Matrix::new(down, hidden, intermediate),
        }
    }

    /// (rows, hidden) of the input, checked.
    fn dims(&self, x: &Shape, weights: &Shape) -> Result<(usize, usize)> {
        let (rows, hidden) = x.dims2()?;
        let expected: usize = self.shape.sizes().iter().sum();
        if hidden != self.shape.hidden || weights.elem_count() != expected || self.attention.rows() != rows {
            candle_core::bail!("block: rows of {x:?} and {} weights do not fit {:?}", weights.elem_count(), self.shape);
        }
        Ok((rows, hidden))
    }

    fn normed(&self, x: &[f32], weight: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; x.len()];
        rms_norm::forward(x, weight, self.shape.eps as f32, &mut out);
        out
    }

    fn activated(&self, gate_up: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; gate_up.len() / 2];
        swiglu::forward(gate_up, self.shape.intermediate, &mut out);
        out
    }

    /// Everything up to the feed-forward layer's down projection.
    fn forward(&self, x: &[f32], weights: &Parts<'_>, rows: usize) -> Saved {
        let hidden = self.shape.hidden;
        let out_width = self.shape.attention.out_width();
        let normed = self.normed(x, weights.attention_norm);
        let qkv = product(Matrix::new(&normed, rows, hidden), weights.qkv.transposed());
        let mut attended = vec![0.0; rows * out_width];
        let mut log_sums = vec![0.0; rows * self.shape.attention.heads];
        self.attention.forward(&qkv, &mut attended, &mut log_sums);
        let mut middle = x.to_vec();
        let attended_rows = Matrix::new(&attended, rows, out_width);
        matmul(&mut middle, attended_rows, weights.output.transposed(), true);

        let normed = self.normed(&middle, weights.feed_forward_norm);
        let normed = Matrix::new(&normed, rows, hidden);
        let gate_up = product(normed, weights.gate_up.transposed());
        Saved { qkv, log_sums, attended, middle, gate_up }
    }

    /// The gradients of the input and of the joined weights.
    fn backward(&self, x: &[f32], weights: &Parts<'_>, saved: &Saved, grad: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let BlockShape { attention, hidden, intermediate, .. } = self.shape;
        let eps = self.shape.eps as f32;
        let rows = x.len() / hidden;
        let sizes = self.shape.sizes();
        let mut weights_grad = vec![0.0; sizes.iter().sum()];
        let mut rest = weights_grad.as_mut_slice();
        let [norm_grad, qkv_weight_grad, output_grad, second_norm_grad, gate_up_weight_grad, down_grad] =
            sizes.map(|size| {
                let (part, others) = std::mem::take(&mut rest).split_at_mut(size);
                rest = others;
                part
            });

        let grad_rows = Matrix::new(grad, rows, hidden);
        let activated = self.activated(&saved.gate_up);
        let activated = Matrix::new(&activated, rows, intermediate);
        matmul(down_grad, grad_rows.transposed(), activated, false);
        let activated_grad = product(grad_rows, weights.down);
        let mut gate_up_grad = vec![0.0; saved.gate_up.len()];
        swiglu::backward(&saved.gate_up, intermediate, &activated_grad, &mut gate_up_grad);
        let gate_up_grad = Matrix::new(&gate_up_grad, rows, 2 * intermediate);
        let normed = self.normed(&saved.middle, weights.feed_forward_norm);
        let normed = Matrix::new(&normed, rows, hidden);
        matmul(gate_up_weight_grad, gate_up_grad.transposed(), normed, false);
        let normed_grad = product(gate_up_grad, weights.gate_up);
        // The residual stream carries the gradient past the layer.
        let mut stream_grad = grad.to_vec();
        rms_norm::backward(
            &saved.middle,
            weights.feed_forward_norm,
            eps,
            &normed_grad,
            &mut stream_grad,
            second_norm_grad,
        );

        let middle_grad = Matrix::new(&stream_grad, rows, hidden);
        let attended = Matrix::new(&saved.attended, rows, attention.out_width());
        matmul(output_grad, middle_grad.transposed(), attended, false);
        let attended_grad = product(middle_grad, weights.output);
        let mut qkv_grad = vec![0.0; saved.qkv.len()];
        self.attention.backward(&saved.qkv, &saved.attended, &saved.log_sums, &attended_grad, &mut qkv_grad);
        let qkv_grad = Matrix::new(&qkv_grad, rows, attention.qkv_width());
        let normed = self.normed(x, weights.attention_norm);
        let normed = Matrix::new(&normed, rows, hidden);
        matmul(qkv_weight_grad, qkv_grad.transposed(), normed, false);
        let normed_grad = product(qkv_grad, weights.qkv);
        rms_norm::backward(x, weights.attention_norm, eps, &normed_grad, &mut stream_grad, norm_grad);
        (stream_grad, weights_grad)
    }
}

impl CustomOp2 for Block {
    fn name(&self) -> &'static str {
        "llama-block"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weights: &CpuStorage,
        weights_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, _) = self.dims(x_layout.shape(), weights_layout.shape())?;
        let x = slices::of_storage(x, x_layout)?;
        let weights = self.parts(slices::of_storage(weights, weights_layout)?);
        let saved = self.forward(x, &weights, rows);
        let activated = self.activated(&saved.gate_up);
        let activated = Matrix::new(&activated, rows, self.shape.intermediate);
        let mut out = saved.middle.clone();
        matmul(&mut out, activated, weights.down.transposed(), true);
        if !self.shape.recompute {
            *self.saved.lock().expect("no holder panics") = Some(saved);
        }
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, weights: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (rows, _) = self.dims(x.shape(), weights.shape())?;
        let grad = grad.contiguous()?;
        let (x_grad, weights_grad) = {
            bind_slice!(x, x);
            bind_slice!(weights, weights);
            bind_slice!(grad, grad);
            let weights = self.parts(weights);
            // Taken, so that memory is given back block by block; a second
            // backward pass over the same graph computes them again.
            let kept = self.saved.lock().expect("no holder panics").take();
            let saved = kept.unwrap_or_else(|| self.forward(x, &weights, rows));
            self.backward(x, &weights, &saved, grad)
        };
        Ok((Some(slices::tensor(x_grad, x)?), Some(slices::tensor(weights_grad, weights)?)))
    }
}
