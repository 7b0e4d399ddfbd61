//! Causal grouped-query attention with rotary positions, from the joint
//! projection of queries, keys and values to the heads' outputs.
//!
//! Sequences are independent and run in parallel; their rows follow each
//! other, so each task owns a contiguous part of every tensor. Nothing of size
//! `[seq, seq]` is kept: the forward pass stores the log-sum-exp of each row of
//! scores, from which the backward pass restores the probabilities (Dao et al.
//! 2022).
//!
//! For one query row with probabilities p, output o and gradient g:
//! dp_j = g . v_j, ds_j = p_j (dp_j - g . o), dq = scale sum_j ds_j k_j,
//! dk_j += scale ds_j q and dv_j += p_j g.

use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::math::{dot, exp, max, sum};
use super::slices::{self, bind_slice};
use super::tiles::{QUERIES, Transposed, add_outers, tile_stride, weighted_sums};
use super::{AttentionShape, RopeTable};

pub(super) fn attention(
    qkv: &Tensor,
    shape: AttentionShape,
    rope: &Arc<RopeTable>,
    lengths: &Arc<Vec<usize>>,
) -> Result<Tensor> {
    qkv.contiguous()?
        .apply_op1(AttentionOp { kernel: Attention::new(shape, rope, lengths)?, log_sums: OnceLock::new() })
}

struct AttentionOp {
    kernel: Attention,
    log_sums: OnceLock<Vec<f32>>,
}

/// Attention over the sequences of one batch, on slices.
pub(super) struct Attention {
    shape: AttentionShape,
    rope: Arc<RopeTable>,
    lengths: Arc<Vec<usize>>,
}

/// Splits a mutable slice of rows into one slice per sequence.
fn per_sequence<'a>(mut rest: &'a mut [f32], lengths: &[usize], width: usize) -> Vec<&'a mut [f32]> {
    lengths
        .iter()
        .map(|length| {
            let (own, others) = std::mem::take(&mut rest).split_at_mut(length * width);
            rest = others;
            own
        })
        .collect()
}

fn per_sequence_ref<'a>(mut rest: &'a [f32], lengths: &[usize], width: usize) -> Vec<&'a [f32]> {
    lengths
        .iter()
        .map(|length| {
            let (own, others) = rest.split_at(length * width);
            rest = others;
            own
        })
        .collect()
}

/// Calls a method that is generic over the head's width, so that common widths
/// are constants to the compiler; 0 stands for any other.
macro_rules! with_head_dim {
    ($self:ident . $method:ident ( $($argument:expr),* )) => {
        match $self.shape.head_dim {
            8 => $self.$method::<8>($($argument),*),
            16 => $self.$method::<16>($($argument),*),
            32 => $self.$method::<32>($($argument),*),
            64 => $self.$method::<64>($($argument),*),
            128 => $self.$method::<128>($($argument),*),
            _ => $self.$method::<0>($($argument),*),
        }
    };
}

impl Attention {
    pub fn new(shape: AttentionShape, rope: &Arc<RopeTable>, lengths: &Arc<Vec<usize>>) -> Result<Self> {
        let longest = lengths.iter().copied().max().unwrap_or(0);
        if rope.len() < longest || 2 * rope.half != shape.head_dim {
            candle_core::bail!("attention: the rotary table does not cover {longest} positions");
        }
        Ok(Self { shape, rope: rope.clone(), lengths: lengths.clone() })
    }

    /// Rows of all sequences.
    pub fn rows(&self) -> usize {
        self.lengths.iter().sum()
    }

    /// Writes the heads' outputs, `[rows, out_width]`, and the log-sum-exp of
    /// each row of scores, `[rows, heads]`.
    pub fn forward(&self, qkv: &[f32], out: &mut [f32], log_sums: &mut [f32]) {
        let lengths = self.lengths.as_slice();
        per_sequence_ref(qkv, lengths, self.shape.qkv_width())
            .into_par_iter()
            .zip(per_sequence(out, lengths, self.shape.out_width()))
            .zip(per_sequence(log_sums, lengths, self.shape.heads))
            .for_each(|((qkv, out), log_sums)| {
                with_head_dim!(self.forward_sequence(qkv, out, log_sums));
            });
    }

    /// Writes the gradient of `qkv`, given what the forward pass wrote.
    pub fn backward(&self, qkv: &[f32], out: &[f32], log_sums: &[f32], grad: &[f32], qkv_grad: &mut [f32]) {
        let lengths = self.lengths.as_slice();
        let out_width = self.shape.out_width();
        per_sequence(qkv_grad, lengths, self.shape.qkv_width())
            .into_par_iter()
            .zip(per_sequence_ref(qkv, lengths, self.shape.qkv_width()))
            .zip(per_sequence_ref(out, lengths, out_width))
            .zip(per_sequence_ref(grad, lengths, out_width))
            .zip(per_sequence_ref(log_sums, lengths, self.shape.heads))
            .for_each(|((((qkv_grad, qkv), out), grad), log_sums)| {
                with_head_dim!(self.backward_sequence(qkv, out, grad, log_sums, qkv_grad));
            });
    }

    fn scale(&self) -> f32 {
        1.0 / (self.shape.head_dim as f32).sqrt()
    }

    /// Copies one head out of rows of `width`, with rows of zeros after them up
    /// to a whole number of tiles.
    fn head(&self, rows: &[f32], width: usize, head: usize) -> Vec<f32> {
        let dim = self.shape.head_dim;
        let count = rows.len() / width;
        let mut values = Vec::with_capacity(count.next_multiple_of(QUERIES) * dim);
        for row in rows.chunks_exact(width) {
            values.extend_from_slice(&row[head * dim..(head + 1) * dim]);
        }
        values.resize(values.capacity(), 0.0);
        values
    }

    fn rotated_head(&self, qkv: &[f32], head: usize) -> Vec<f32> {
        let width = self.shape.qkv_width();
        let mut values = self.head(qkv, width, head);
        let rows = values.chunks_exact_mut(self.shape.head_dim);
        for (position, row) in rows.take(qkv.len() / width).enumerate() {
            self.rope.rotate(row, position, 1.0);
        }
        values
    }

    fn rotated_query(&self, qkv: &[f32], head: usize) -> Vec<f32> {
        let scale = self.scale();
        let mut values = self.rotated_head(qkv, head);
        values.iter_mut().for_each(|value| *value *= scale);
        values
    }

    fn check(&self, shape: &Shape) -> Result<usize> {
        let (rows, width) = shape.dims2()?;
        if width != self.shape.qkv_width() || self.rows() != rows {
            candle_core::bail!("attention: {shape:?} is not {} rows of {:?}", self.rows(), self.shape);
        }
        Ok(rows)
    }

    /// Outputs and log-sum-exps of one sequence.
    fn forward_sequence<const D: usize>(&self, qkv: &[f32], out: &mut [f32], log_sums: &mut [f32]) {
        let AttentionShape { heads, kv_heads, head_dim } = self.shape;
        let head_dim = if D == 0 { head_dim } else { D };
        let (group, width) = (heads / kv_heads, self.shape.qkv_width());
        let length = qkv.len() / width;
        let stride = tile_stride(length.next_multiple_of(QUERIES));
        let mut tile = vec![0.0; QUERIES * stride];
        let mut tile_out = vec![0.0; QUERIES * head_dim];
        for kv_head in 0..kv_heads {
            let keys = Transposed::new(&self.rotated_head(qkv, heads + kv_head), head_dim);
            let values = self.head(qkv, width, heads + kv_heads + kv_head);
            for head in kv_head * group..(kv_head + 1) * group {
                let queries = self.rotated_query(qkv, head);
                for (index, queries) in queries.chunks_exact(QUERIES * head_dim).enumerate() {
                    let first = index * QUERIES;
                    let count = first + QUERIES;
                    keys.products::<D>(queries, count, &mut tile);
                    let mut inverses = [0.0; QUERIES];
                    for (q, scores) in tile.chunks_exact_mut(stride).enumerate() {
                        let i = first + q;
                        let (scores, future) = scores[..count].split_at_mut(i + 1);
                        future.fill(0.0);
                        let max = max(scores);
                        scores.iter_mut().for_each(|score| *score = exp(*score - max));
                        let sum = sum(scores);
                        inverses[q] = 1.0 / sum;
                        if i < length {
                            log_sums[i * heads + head] = max + sum.ln();
                        }
                    }
                    weighted_sums::<D>(&tile, count, &values, &mut tile_out);
                    let rows = tile_out.chunks_exact(head_dim).zip(inverses).enumerate();
                    for (q, (row, inverse)) in rows.take(length - first) {
                        let at = ((first + q) * heads + head) * head_dim;
                        for (out, value) in out[at..at + head_dim].iter_mut().zip(row) {
                            *out = value * inverse;
                        }
                    }
                }
            }
        }
    }

    /// The gradient of one sequence's queries, keys and values.
    fn backward_sequence<const D: usize>(
        &self,
        qkv: &[f32],
        out: &[f32],
        out_grad: &[f32],
        log_sums: &[f32],
        qkv_grad: &mut [f32],
    ) {
        let AttentionShape { heads, kv_heads, head_dim } = self.shape;
        let head_dim = if D == 0 { head_dim } else { D };
        let (group, width, out_width) = (heads / kv_heads, self.shape.qkv_width(), self.shape.out_width());
        let length = qkv.len() / width;
        let rows = length.next_multiple_of(QUERIES);
        let (scale, stride, tile_len) = (self.scale(), tile_stride(rows), QUERIES * head_dim);
        let mut probs = vec![0.0; QUERIES * stride];
        let mut score_grads = vec![0.0; QUERIES * stride];
        let mut query_grads = vec![0.0; tile_len];
        for kv_head in 0..kv_heads {
            let keys = self.rotated_head(qkv, heads + kv_head);
            let keys_t = Transposed::new(&keys, head_dim);
            let values = self.head(qkv, width, heads + kv_heads + kv_head);
            let values_t = Transposed::new(&values, head_dim);
            let mut key_grads = vec![0.0; rows * head_dim];
            let mut value_grads = vec![0.0; rows * head_dim];
            for head in kv_head * group..(kv_head + 1) * group {
                let queries = self.rotated_query(qkv, head);
                let outs = self.head(out, out_width, head);
                let grads = self.head(out_grad, out_width, head);
                let tiles = queries.chunks_exact(tile_len).zip(outs.chunks_exact(tile_len));
                let tiles = tiles.zip(grads.chunks_exact(tile_len)).enumerate();
                for (index, ((queries, outs), grads)) in tiles {
                    let first = index * QUERIES;
                    let count = first + QUERIES;
                    keys_t.products::<D>(queries, count, &mut probs);
                    values_t.products::<D>(grads, count, &mut score_grads);
                    let tile = probs.chunks_exact_mut(stride).zip(score_grads.chunks_exact_mut(stride));
                    for (q, (probs, score_grads)) in tile.enumerate() {
                        let i = first + q;
                        // Rows beyond the sequence weigh nothing.
                        let past = if i < length { i + 1 } else { 0 };
                        let (probs, no_probs) = probs[..count].split_at_mut(past);
                        let (score_grads, no_grads) = score_grads[..count].split_at_mut(past);
                        no_probs.fill(0.0);
                        no_grads.fill(0.0);
                        if past == 0 {
                            continue;
                        }
                        let own = q * head_dim..(q + 1) * head_dim;
                        let mean = dot(&grads[own.clone()], &outs[own]);
                        let log_sum = log_sums[i * heads + head];
                        for (prob, score_grad) in probs.iter_mut().zip(score_grads) {
                            *prob = exp(*prob - log_sum);
                            *score_grad = *prob * (*score_grad - mean);
                        }
                    }
                    weighted_sums::<D>(&score_grads, count, &keys, &mut query_grads);
                    add_outers::<D>(&score_grads, count, queries, &mut key_grads);
                    add_outers::<D>(&probs, count, grads, &mut value_grads);
                    let rows = query_grads.chunks_exact_mut(head_dim).enumerate();
                    for (q, row) in rows.take(length - first) {
                        let i = first + q;
                        row.iter_mut().for_each(|value| *value *= scale);
                        self.rope.rotate(row, i, -1.0);
                        let at = i * width + head * head_dim;
                        qkv_grad[at..at + head_dim].copy_from_slice(row);
                    }
                }
            }
            let key_at = (heads + kv_head) * head_dim;
            let value_at = (heads + kv_heads + kv_head) * head_dim;
            for (i, row) in qkv_grad.chunks_exact_mut(width).enumerate() {
                let own = i * head_dim..(i + 1) * head_dim;
                self.rope.rotate(&mut key_grads[own.clone()], i, -1.0);
                row[key_at..key_at + head_dim].copy_from_slice(&key_grads[own.clone()]);
                row[value_at..value_at + head_dim].copy_from_slice(&value_grads[own]);
            }
        }
    }
}

impl CustomOp1 for AttentionOp {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let kernel = &self.kernel;
        let rows = kernel.check(layout.shape())?;
        let qkv = slices::of_storage(storage, layout)?;
        let out_width = kernel.shape.out_width();
        let mut out = vec![0.0; rows * out_width];
        let mut log_sums = vec![0.0; rows * kernel.shape.heads];
        kernel.forward(qkv, &mut out, &mut log_sums);
        // The operation is made for one call, so this is the first and only one.
        self.log_sums.get_or_init(|| log_sums);
        Ok((CpuStorage::F32(out), (rows, out_width).into()))
    }

    fn bwd(&self, arg: &Tensor, res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let Some(log_sums) = self.log_sums.get() else {
            candle_core::bail!("attention: backward before forward");
        };
        let grad = grad.contiguous()?;
        let mut qkv_grad = vec![0.0; arg.elem_count()];
        {
            bind_slice!(qkv, arg);
            bind_slice!(out, res);
            bind_slice!(grad, grad);
            self.kernel.backward(qkv, out, log_sums, grad, &mut qkv_grad);
        }
        Ok(Some(slices::tensor(qkv_grad, arg)?))
    }
}
