//! A decoder block, forward and backward.

use candle_core::Result;

use super::activation;
use super::attention::Attention;
use super::linear::{Place, Rows};
use super::math::{Write, add_scaled};
use super::norm::Norm;
use crate::batch::RowPlan;
use crate::config::ModelConfig;
use crate::decoder::{Layer, Linear};
use crate::gradients::Gradients;
use crate::params::Param;
use crate::rope::RopeTable;

/// A block with what all rows share.
pub(super) struct Block<'a> {
    pub config: &'a ModelConfig,
    pub layer: &'a Layer,
    pub rope: &'a RopeTable,
    /// What decides which elements adapters drop.
    pub dropout_seed: Option<u64>,
}

/// What the backward pass needs and only matrix products or attention can
/// give; the rest it computes again.
pub(super) struct Saved {
    /// The input, `[rows, hidden]`.
    x: Vec<f32>,
    /// Before the norms of heads, `[rows, qkv_width]`.
    qkv: Vec<f32>,
    /// `[rows, heads]`.
    log_sums: Vec<f32>,
    /// `[rows, heads * head_dim]`.
    attended: Vec<f32>,
    /// Attention's output before its norm, where it has one.
    projected: Option<Vec<f32>>,
    /// The residual stream after attention, `[rows, hidden]`.
    middle: Vec<f32>,
    /// `[rows, 2 * intermediate]`.
    gate_up: Vec<f32>,
    /// The feed-forward layer's output before its norm, where it has one.
    fed: Option<Vec<f32>>,
}

/// Projections whose outputs stand side by side in rows, with their columns.
fn placed(linears: &[Linear], width: usize) -> impl Iterator<Item = (&Linear, Place)> {
    linears.iter().scan(0, move |start, linear| {
        let columns = *start..*start + linear.outputs;
        *start = columns.end;
        Some((linear, Place { width, columns }))
    })
}

impl Block<'_> {
    pub fn norm(&self, param: &Param) -> Result<Norm> {
        Ok(Norm::new(&param.read()?, self.config.norm_offset, self.config.rms_norm_eps))
    }

    pub fn attention(&self) -> Attention<'_> {
        Attention::new(self.config, self.layer.config, self.rope)
    }

    pub fn hidden<'b>(&self, values: &'b [f32]) -> Rows<'b> {
        Rows { values, width: self.config.hidden_size }
    }

    /// Writes several projections of the same rows, side by side, to `out`
    /// `[rows, width]`.
    pub fn project(&self, linears: &[Linear], x: Rows<'_>, width: usize, out: &mut [f32]) -> Result<()> {
        for (linear, place) in placed(linears, width) {
            linear.forward(x, out, &place, Write::Over, self.dropout_seed)?;
        }
        Ok(())
    }

    /// Adds a projection of `x` to `stream`, with a norm of the projection in
    /// between if there is one; then the projection is given back.
    pub fn add_projection(
        &self,
        stream: &mut [f32],
        linear: &Linear,
        x: Rows<'_>,
        post_norm: Option<&Param>,
    ) -> Result<Option<Vec<f32>>> {
        let place = Place { width: linear.outputs, columns: 0..linear.outputs };
        let Some(norm) = post_norm else {
            linear.forward(x, stream, &place, Write::Add, self.dropout_seed)?;
            return Ok(None);
        };
        let mut projected = vec![0.0; stream.len()];
        linear.forward(x, &mut projected, &place, Write::Over, self.dropout_seed)?;
        let normed = self.norm(norm)?.forward(&projected);
        add_scaled(stream, &normed, 1.0);
        Ok(Some(projected))
    }

    /// Queries and keys normalised, where the architecture does that.
    fn normed_heads(&self, attention: &Attention<'_>, qkv: &[f32]) -> Result<Option<Vec<f32>>> {
        let Some(norms) = &self.layer.head_norms else { return Ok(None) };
        let mut normed = qkv.to_vec();
        let (queries, keys) = attention.head_columns();
        for (param, heads) in norms.iter().zip([queries, keys]) {
            self.norm(param)?.forward_heads(&mut normed, attention.qkv_width(), &heads);
        }
        Ok(Some(normed))
    }

    /// The block's output for `x`, and what its backward pass needs.
    pub fn forward(&self, plan: &RowPlan, x: Vec<f32>) -> Result<(Vec<f32>, Saved)> {
        let attention = self.attention();
        let normed = self.norm(&self.layer.attention_norm)?.forward(&x);
        let rows = x.len() / self.config.hidden_size;
        let mut qkv = vec![0.0; rows * attention.qkv_width()];
        self.project(&self.layer.qkv, self.hidden(&normed), attention.qkv_width(), &mut qkv)?;
        drop(normed);
        let normed_heads = self.normed_heads(&attention, &qkv)?;
        let (attended, log_sums) = attention.forward(plan, normed_heads.as_deref().unwrap_or(&qkv));
        drop(normed_heads);
        let input = Rows { values: &attended, width: attention.out_width() };
        let post_norm = self.layer.attention_post_norm.as_ref();
        let mut middle = x.clone();
        let projected = self.add_projection(&mut middle, &self.layer.attention_output, input, post_norm)?;

        let normed = self.norm(&self.layer.feed_forward_norm)?.forward(&middle);
        let width = self.config.intermediate_size;
        let mut gate_up = vec![0.0; rows * 2 * width];
        self.project(&self.layer.gate_up, self.hidden(&normed), 2 * width, &mut gate_up)?;
        drop(normed);
        let activated = activation::forward(self.config.activation, &gate_up, width);
        let input = Rows { values: &activated, width };
        let post_norm = self.layer.feed_forward_post_norm.as_ref();
        let mut out = middle.clone();
        let fed = self.add_projection(&mut out, &self.layer.down, input, post_norm)?;
        Ok((out, Saved { x, qkv, log_sums, attended, projected, middle, gate_up, fed }))
    }

    /// The gradient of a projection that was added to the stream, from that of
    /// the sum: itself, or what its norm makes of it.
    fn projection_grad(
        &self,
        stream_grad: &[f32],
        post_norm: Option<&Param>,
        projected: Option<&Vec<f32>>,
        grads: &mut Gradients,
    ) -> Result<Option<Vec<f32>>> {
        let (Some(param), Some(projected)) = (post_norm, projected) else { return Ok(None) };
        let mut grad = vec![0.0; stream_grad.len()];
        self.norm(param)?.backward(projected, stream_grad, &mut grad, grads.host_mut(&param.name));
        Ok(Some(grad))
    }

    /// Adds the gradients of several projections of the same normalised rows
    /// and, through the norm of `x`, to that of `x`, if it is wanted.
    fn backward_normed(
        &self,
        norm: &Param,
        linears: &[Linear],
        x: &[f32],
        grad: &[f32],
        x_grad: &mut [f32],
        grads: &mut Gradients,
    ) -> Result<()> {
        let width = grad.len() / (x.len() / self.config.hidden_size);
        let param = norm;
        let norm = self.norm(norm)?;
        let normed = norm.forward(x);
        let mut normed_grad = vec![0.0; x.len()];
        for (index, (linear, place)) in placed(linears, width).enumerate() {
            let write = if index == 0 { Write::Over } else { Write::Add };
            let target = Some((normed_grad.as_mut_slice(), write));
            linear.backward(self.hidden(&normed), grad, &place, target, self.dropout_seed, grads)?;
        }
        norm.backward(x, &normed_grad, x_grad, grads.host_mut(&param.name));
        Ok(())
    }

    /// Adds the gradients of the block's weights to `grads` and turns `grad`,
    /// the gradient of the block's output, into that of its input.
    pub fn backward(
        &self,
        plan: &RowPlan,
        saved: Saved,
        mut grad: Vec<f32>,
        grads: &mut Gradients,
    ) -> Result<Vec<f32>> {
        let Saved { x, qkv, log_sums, attended, projected, middle, mut gate_up, fed } = saved;
        let layer = self.layer;
        let dropout = self.dropout_seed;
        let width = self.config.intermediate_size;
        let rows = x.len() / self.config.hidden_size;

        let own = self.projection_grad(&grad, layer.feed_forward_post_norm.as_ref(), fed.as_ref(), grads)?;
        let place = Place { width: layer.down.outputs, columns: 0..layer.down.outputs };
        let mut activated_grad = vec![0.0; rows * width];
        {
            let activated = activation::forward(self.config.activation, &gate_up, width);
            let input = Rows { values: &activated, width };
            let target = Some((activated_grad.as_mut_slice(), Write::Over));
            layer.down.backward(input, own.as_deref().unwrap_or(&grad), &place, target, dropout, grads)?;
        }
        activation::backward(self.config.activation, &mut gate_up, width, &activated_grad);
        drop(activated_grad);
        // The residual stream carries the gradient past the layer.
        self.backward_normed(&layer.feed_forward_norm, &layer.gate_up, &middle, &gate_up, &mut grad, grads)?;
        drop((gate_up, middle));

        let attention = self.attention();
        let own = self.projection_grad(&grad, layer.attention_post_norm.as_ref(), projected.as_ref(), grads)?;
        let mut attended_grad = vec![0.0; attended.len()];
        let input = Rows { values: &attended, width: attention.out_width() };
        let target = Some((attended_grad.as_mut_slice(), Write::Over));
        let output = &layer.attention_output;
        output.backward(input, own.as_deref().unwrap_or(&grad), &place, target, dropout, grads)?;
        drop(own);
        let normed_heads = self.normed_heads(&attention, &qkv)?;
        let known = normed_heads.as_deref().unwrap_or(&qkv);
        let mut qkv_grad = attention.backward(plan, known, &attended, &log_sums, &attended_grad);
        drop((attended, attended_grad, normed_heads));
        if let Some(norms) = &layer.head_norms {
            let (queries, keys) = attention.head_columns();
            for (param, heads) in norms.iter().zip([queries, keys]) {
                let sum = grads.host_mut(&param.name);
                self.norm(param)?.backward_heads(&qkv, &mut qkv_grad, attention.qkv_width(), &heads, sum);
            }
        }
        drop(qkv);
        self.backward_normed(&layer.attention_norm, &layer.qkv, &x, &qkv_grad, &mut grad, grads)?;
        Ok(grad)
    }
}
