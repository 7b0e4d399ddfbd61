//! The whole model, forward and backward.
//!
//! The backward pass keeps each block's intermediate results, or only the
//! inputs of every k-th block, from which it computes the rest again (Chen et
//! al. 2016): a third more work for memory that hardly grows with depth.

use candle_core::Result;
use rayon::prelude::*;

use super::ROWS_PER_TASK;
use super::block::{Block, Saved};
use super::head;
use super::norm::Norm;
use crate::batch::RowPlan;
use crate::decoder::Decoder;
use crate::gradients::Gradients;
use crate::rope::RopeTable;

/// A decoder with the rows it is to compute.
struct Pass<'a> {
    decoder: &'a Decoder,
    plan: &'a RowPlan,
    rope: RopeTable,
}

/// Blocks whose intermediate results are kept or computed again together.
enum Segment {
    Kept(Vec<Saved>),
    /// The first block's input.
    Input(Vec<f32>),
}

/// The logits after the plan's response rows, `[response rows, vocab]`.
pub(crate) fn logits(decoder: &Decoder, plan: &RowPlan) -> Result<Vec<f32>> {
    head::logits(decoder, &hidden_states(decoder, plan)?)
}

/// The normalised hidden states of the plan's response rows,
/// `[response rows, hidden]`.
fn hidden_states(decoder: &Decoder, plan: &RowPlan) -> Result<Vec<f32>> {
    let pass = Pass::new(decoder, plan);
    let mut x = embed(decoder, &plan.ids)?;
    for layer in 0..decoder.layers.len() {
        x = pass.block(layer).forward(plan, x)?.0;
    }
    Ok(final_norm(decoder)?.forward(&gather(&x, decoder.config.hidden_size, &plan.response_rows)))
}

/// The log-probability of each of the plan's targets.
pub(crate) fn row_logps(decoder: &Decoder, plan: &RowPlan) -> Result<Vec<f32>> {
    head::logps(decoder, &hidden_states(decoder, plan)?, &plan.targets, 0.0)
}

/// Sums of the sequences' log-probabilities, and the gradient of the loss
/// added to `grads`: see [`crate::CausalLm::accumulate_gradients`].
/// Intermediate results are kept every `recompute_every` blocks, all of them
/// with 0.
pub(crate) fn accumulate_gradients(
    decoder: &Decoder,
    plan: &RowPlan,
    smoothing: f64,
    recompute_every: usize,
    slopes: &mut dyn FnMut(usize, &[f64]) -> Vec<f64>,
    grads: &mut Gradients,
) -> Result<Vec<f64>> {
    let pass = Pass::new(decoder, plan);
    let first = decoder.first_trained(|name| grads.wants(name));
    let mut x = embed(decoder, &plan.ids)?;
    for layer in 0..first {
        x = pass.block(layer).forward(plan, x)?.0;
    }
    let mut segments = Vec::new();
    let trained: Vec<usize> = (first..decoder.layers.len()).collect();
    for layers in trained.chunks(recompute_every.max(1)) {
        if recompute_every == 0 {
            let (out, saved) = pass.segment(layers, x)?;
            segments.push((layers, Segment::Kept(saved)));
            x = out;
        } else {
            segments.push((layers, Segment::Input(x.clone())));
            for layer in layers {
                x = pass.block(*layer).forward(plan, x)?.0;
            }
        }
    }

    let rows = x.len();
    let responses = gather(&x, decoder.config.hidden_size, &plan.response_rows);
    drop(x);
    let norm = final_norm(decoder)?;
    let hidden = norm.forward(&responses);
    let (sums, hidden_grad) = head::backward(decoder, &hidden, plan, smoothing, slopes, grads)?;
    drop(hidden);
    let mut response_grad = vec![0.0; responses.len()];
    norm.backward(&responses, &hidden_grad, &mut response_grad, grads.host_mut(&decoder.norm.name));
    let mut grad = vec![0.0; rows];
    pass.add_response_rows(&response_grad, &mut grad);
    drop((responses, hidden_grad, response_grad));

    while let Some((layers, segment)) = segments.pop() {
        let saved = match segment {
            Segment::Kept(saved) => saved,
            Segment::Input(x) => pass.segment(layers, x)?.1,
        };
        for (layer, saved) in layers.iter().zip(saved).rev() {
            grad = pass.block(*layer).backward(plan, saved, grad, grads)?;
        }
    }
    pass.add_embedding_grads(&grad, grads);
    Ok(sums)
}

/// The embeddings of tokens, `[tokens, hidden]`.
pub(super) fn embed(decoder: &Decoder, ids: &[u32]) -> Result<Vec<f32>> {
    let width = decoder.config.hidden_size;
    let scale = decoder.config.embedding_scale as f32;
    let table = decoder.embedding.kept()?;
    let table = table.numbers();
    let mut x = vec![0.0; ids.len() * width];
    x.par_chunks_mut(ROWS_PER_TASK * width).zip(ids.par_chunks(ROWS_PER_TASK)).for_each(|(rows, ids)| {
        for (row, id) in rows.chunks_exact_mut(width).zip(ids) {
            table.read(*id as usize * width, row);
            row.iter_mut().for_each(|x| *x *= scale);
        }
    });
    Ok(x)
}

/// The norm before the output projection.
pub(super) fn final_norm(decoder: &Decoder) -> Result<Norm> {
    let config = &decoder.config;
    Ok(Norm::new(&decoder.norm.read()?, config.norm_offset, config.rms_norm_eps))
}

/// Some of the rows of `x`, each `width` wide.
pub(super) fn gather(x: &[f32], width: usize, rows: &[u32]) -> Vec<f32> {
    let mut out = vec![0.0; rows.len() * width];
    out.par_chunks_mut(ROWS_PER_TASK * width).zip(rows.par_chunks(ROWS_PER_TASK)).for_each(|(out, rows)| {
        for (out, row) in out.chunks_exact_mut(width).zip(rows) {
            let at = *row as usize * width;
            out.copy_from_slice(&x[at..at + width]);
        }
    });
    out
}

impl<'a> Pass<'a> {
    fn new(decoder: &'a Decoder, plan: &'a RowPlan) -> Self {
        Self { decoder, plan, rope: RopeTable::new(&decoder.config.rope, plan.longest()) }
    }

    fn block(&self, layer: usize) -> Block<'_> {
        Block {
            config: &self.decoder.config,
            layer: &self.decoder.layers[layer],
            rope: &self.rope,
            dropout_seed: self.plan.dropout_seed,
        }
    }

    /// Runs some blocks and keeps what their backward passes need.
    fn segment(&self, layers: &[usize], mut x: Vec<f32>) -> Result<(Vec<f32>, Vec<Saved>)> {
        let mut all = Vec::with_capacity(layers.len());
        for layer in layers {
            let (out, saved) = self.block(*layer).forward(self.plan, x)?;
            all.push(saved);
            x = out;
        }
        Ok((x, all))
    }

    /// Adds the gradient of the rows to those of their embeddings, row by row
    /// in their order: a token may stand in many rows.
    fn add_embedding_grads(&self, grad: &[f32], grads: &mut Gradients) {
        let width = self.decoder.config.hidden_size;
        let scale = self.decoder.config.embedding_scale as f32;
        if let Some(sums) = grads.host_mut(&self.decoder.embedding.name) {
            for (grad, id) in grad.chunks_exact(width).zip(&self.plan.ids) {
                let at = *id as usize * width;
                sums[at..at + width].iter_mut().zip(grad).for_each(|(sum, value)| *sum += value * scale);
            }
        }
    }

    /// The reverse of [`gather`]: a row may have been taken twice,
    /// so rows are added one after the other, which is one pass over them.
    fn add_response_rows(&self, responses: &[f32], x: &mut [f32]) {
        let width = self.decoder.config.hidden_size;
        for (row, values) in self.plan.response_rows.iter().zip(responses.chunks_exact(width)) {
            let at = *row as usize * width;
            x[at..at + width].iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
        }
    }
}
