//! A decoder block, forward and backward.

use crate::config::ModelConfig;
use crate::decoder::{Layer, Linear};
use crate::error::Result;
use crate::ops::{Attended, Heads, Operations, RmsNorm, Sums, View, ViewMut, Write};
use crate::params::Param;

/// A block with what all rows share.
pub(super) struct Block<'a, O: Operations> {
    pub ops: &'a O,
    pub config: &'a ModelConfig,
    pub layer: &'a Layer,
    pub rope: &'a O::Rope,
    /// What decides which elements adapters drop.
    pub dropout_seed: Option<u64>,
}

/// What the backward pass needs and only matrix products or attention can
/// give; the rest it computes again.
pub(super) struct Saved<B> {
    /// The input, `[rows, hidden]`.
    x: B,
    /// Before the norms of heads, `[rows, qkv_width]`.
    qkv: B,
    /// `[rows, heads]`.
    log_sums: B,
    /// `[rows, heads * head_dim]`.
    attended: B,
    /// Attention's output before its norm, where it has one.
    projected: Option<B>,
    /// The residual stream after attention, `[rows, hidden]`.
    middle: B,
    /// `[rows, 2 * intermediate]`.
    gate_up: B,
    /// The feed-forward layer's output before its norm, where it has one.
    fed: Option<B>,
}

/// Projections whose outputs stand side by side, with their columns.
fn placed(linears: &[Linear]) -> impl Iterator<Item = (&Linear, std::ops::Range<usize>)> {
    linears.iter().scan(0, |start, linear| {
        let columns = *start..*start + linear.outputs;
        *start = columns.end;
        Some((linear, columns))
    })
}

/// A norm of this architecture.
pub(super) fn norm<'a, O: Operations>(
    ops: &O,
    config: &ModelConfig,
    param: &'a Param,
) -> Result<RmsNorm<O::Weight<'a>>> {
    Ok(RmsNorm { weight: ops.wide(param)?, offset: config.norm_offset, eps: config.rms_norm_eps })
}

impl<'a, O: Operations> Block<'a, O> {
    pub fn norm(&self, param: &'a Param) -> Result<RmsNorm<O::Weight<'a>>> {
        norm(self.ops, self.config, param)
    }

    pub fn heads(&self) -> Heads {
        Heads::new(self.config, self.layer.config)
    }

    pub fn hidden<'b>(&self, buffer: &'b O::Buffer, rows: usize) -> View<'b, O::Buffer> {
        View::new(buffer, rows, self.config.hidden_size)
    }

    /// Writes several projections of the same rows, side by side, to `out`
    /// `[rows, width]`.
    pub fn project(&self, linears: &[Linear], x: View<'_, O::Buffer>, mut out: ViewMut<'_, O::Buffer>) -> Result<()> {
        for (linear, columns) in placed(linears) {
            linear.forward(self.ops, x, out.again().columns(columns), Write::Over, self.dropout_seed)?;
        }
        Ok(())
    }

    /// Adds a projection of `x` to `stream`, with a norm of the projection in
    /// between if there is one; then the projection is given back.
    pub fn add_projection(
        &self,
        stream: &mut O::Buffer,
        linear: &Linear,
        x: View<'_, O::Buffer>,
        post_norm: Option<&'a Param>,
    ) -> Result<Option<O::Buffer>> {
        let (ops, rows, width) = (self.ops, x.at.rows, linear.outputs);
        let Some(norm) = post_norm else {
            linear.forward(ops, x, ViewMut::new(stream, rows, width), Write::Add, self.dropout_seed)?;
            return Ok(None);
        };
        let mut projected = ops.room(rows * width)?;
        linear.forward(ops, x, ViewMut::new(&mut projected, rows, width), Write::Over, self.dropout_seed)?;
        let mut normed = ops.room(rows * width)?;
        ops.norm(&self.norm(norm)?, View::new(&projected, rows, width), &mut normed)?;
        ops.add_scaled(stream, &normed, rows * width, 1.0)?;
        Ok(Some(projected))
    }

    /// Queries and keys normalised, where the architecture does that.
    fn normed_heads(&self, heads: &Heads, qkv: View<'_, O::Buffer>) -> Result<Option<O::Buffer>> {
        let Some(norms) = &self.layer.head_norms else { return Ok(None) };
        let mut normed = self.ops.copied(qkv)?;
        for (param, columns) in norms.iter().zip(heads.query_and_key_columns()) {
            let rows = ViewMut::new(&mut normed, qkv.at.rows, heads.qkv_width());
            self.ops.norm_heads(&self.norm(param)?, rows.columns(columns))?;
        }
        Ok(Some(normed))
    }

    /// The block's output for `x` `[rows, hidden]`, and what its backward pass
    /// needs.
    pub fn forward(&self, groups: &O::Groups, x: O::Buffer, rows: usize) -> Result<(O::Buffer, Saved<O::Buffer>)> {
        let (ops, heads, hidden) = (self.ops, self.heads(), self.config.hidden_size);
        let mut normed = ops.room(rows * hidden)?;
        ops.norm(&self.norm(&self.layer.attention_norm)?, self.hidden(&x, rows), &mut normed)?;
        let mut qkv = ops.room(rows * heads.qkv_width())?;
        let target = ViewMut::new(&mut qkv, rows, heads.qkv_width());
        self.project(&self.layer.qkv, self.hidden(&normed, rows), target)?;
        drop(normed);
        let normed_heads = self.normed_heads(&heads, View::new(&qkv, rows, heads.qkv_width()))?;
        let mut attended = ops.room(rows * heads.out_width())?;
        let mut log_sums = ops.room(rows * heads.heads)?;
        let known = View::new(normed_heads.as_ref().unwrap_or(&qkv), rows, heads.qkv_width());
        ops.attention(&heads, self.rope, groups, known, &mut attended, &mut log_sums)?;
        drop(normed_heads);
        let input = View::new(&attended, rows, heads.out_width());
        let post_norm = self.layer.attention_post_norm.as_ref();
        let mut middle = ops.copied(self.hidden(&x, rows))?;
        let projected = self.add_projection(&mut middle, &self.layer.attention_output, input, post_norm)?;

        let mut normed = ops.room(rows * hidden)?;
        ops.norm(&self.norm(&self.layer.feed_forward_norm)?, self.hidden(&middle, rows), &mut normed)?;
        let width = self.config.intermediate_size;
        let mut gate_up = ops.room(rows * 2 * width)?;
        let target = ViewMut::new(&mut gate_up, rows, 2 * width);
        self.project(&self.layer.gate_up, self.hidden(&normed, rows), target)?;
        drop(normed);
        let mut activated = ops.room(rows * width)?;
        ops.activate(self.config.activation, &gate_up, rows, width, &mut activated)?;
        let input = View::new(&activated, rows, width);
        let post_norm = self.layer.feed_forward_post_norm.as_ref();
        let mut out = ops.copied(self.hidden(&middle, rows))?;
        let fed = self.add_projection(&mut out, &self.layer.down, input, post_norm)?;
        Ok((out, Saved { x, qkv, log_sums, attended, projected, middle, gate_up, fed }))
    }

    /// The gradient of a projection that was added to the stream, from that of
    /// the sum: itself, or what its norm makes of it.
    fn projection_grad(
        &self,
        stream_grad: &O::Buffer,
        rows: usize,
        post_norm: Option<&'a Param>,
        projected: Option<&O::Buffer>,
        grads: &mut impl Sums<O::Buffer>,
    ) -> Result<Option<O::Buffer>> {
        let (Some(param), Some(projected)) = (post_norm, projected) else { return Ok(None) };
        let mut grad = self.ops.zeros(rows * self.config.hidden_size)?;
        let (norm, sum) = (self.norm(param)?, grads.sum(&param.name));
        self.ops.norm_backward(&norm, self.hidden(projected, rows), stream_grad, &mut grad, sum)?;
        Ok(Some(grad))
    }

    /// Adds the gradients of several projections of the same normalised rows
    /// and, through the norm of `x`, to that of `x`.
    fn backward_normed(
        &self,
        param: &'a Param,
        linears: &[Linear],
        x: View<'_, O::Buffer>,
        grad: View<'_, O::Buffer>,
        x_grad: &mut O::Buffer,
        grads: &mut impl Sums<O::Buffer>,
    ) -> Result<()> {
        let (ops, rows, hidden) = (self.ops, x.at.rows, x.at.columns);
        let norm = self.norm(param)?;
        let mut normed = ops.room(rows * hidden)?;
        ops.norm(&norm, x, &mut normed)?;
        let mut normed_grad = ops.room(rows * hidden)?;
        for (index, (linear, columns)) in placed(linears).enumerate() {
            let write = if index == 0 { Write::Over } else { Write::Add };
            let (input, grad) = (self.hidden(&normed, rows), grad.columns(columns));
            let target = ViewMut::new(&mut normed_grad, rows, hidden);
            linear.backward(ops, input, grad, target, write, self.dropout_seed, grads)?;
        }
        ops.norm_backward(&norm, x, &normed_grad, x_grad, grads.sum(&param.name))
    }

    /// Adds the gradients of the block's weights to `grads` and turns `grad`,
    /// the gradient of the block's output `[rows, hidden]`, into that of its
    /// input.
    pub fn backward(
        &self,
        groups: &O::Groups,
        saved: Saved<O::Buffer>,
        mut grad: O::Buffer,
        rows: usize,
        grads: &mut impl Sums<O::Buffer>,
    ) -> Result<O::Buffer> {
        let Saved { x, qkv, log_sums, attended, projected, middle, mut gate_up, fed } = saved;
        let (ops, layer, dropout) = (self.ops, self.layer, self.dropout_seed);
        let (width, kind) = (self.config.intermediate_size, self.config.activation);

        let own = self.projection_grad(&grad, rows, layer.feed_forward_post_norm.as_ref(), fed.as_ref(), grads)?;
        let mut activated_grad = ops.room(rows * width)?;
        {
            let mut activated = ops.room(rows * width)?;
            ops.activate(kind, &gate_up, rows, width, &mut activated)?;
            let (input, own) = (View::new(&activated, rows, width), self.hidden(own.as_ref().unwrap_or(&grad), rows));
            let target = ViewMut::new(&mut activated_grad, rows, width);
            layer.down.backward(ops, input, own, target, Write::Over, dropout, grads)?;
        }
        ops.activate_backward(kind, &mut gate_up, rows, width, &activated_grad)?;
        drop((activated_grad, own));
        // The residual stream carries the gradient past the layer.
        let gate_up_grad = View::new(&gate_up, rows, 2 * width);
        let stream = self.hidden(&middle, rows);
        self.backward_normed(&layer.feed_forward_norm, &layer.gate_up, stream, gate_up_grad, &mut grad, grads)?;
        drop((gate_up, middle));

        let heads = self.heads();
        let own = self.projection_grad(&grad, rows, layer.attention_post_norm.as_ref(), projected.as_ref(), grads)?;
        let mut attended_grad = ops.room(rows * heads.out_width())?;
        {
            let input = View::new(&attended, rows, heads.out_width());
            let own = self.hidden(own.as_ref().unwrap_or(&grad), rows);
            let target = ViewMut::new(&mut attended_grad, rows, heads.out_width());
            layer.attention_output.backward(ops, input, own, target, Write::Over, dropout, grads)?;
        }
        drop(own);
        let rows_of_qkv = View::new(&qkv, rows, heads.qkv_width());
        let normed_heads = self.normed_heads(&heads, rows_of_qkv)?;
        let known = Attended { qkv: normed_heads.as_ref().unwrap_or(&qkv), out: &attended, log_sums: &log_sums };
        let mut qkv_grad = ops.room(rows * heads.qkv_width())?;
        let out_grad = View::new(&attended_grad, rows, heads.out_width());
        ops.attention_backward(&heads, self.rope, groups, known, out_grad, &mut qkv_grad)?;
        drop((attended, attended_grad, normed_heads));
        if let Some(norms) = &layer.head_norms {
            for (param, columns) in norms.iter().zip(heads.query_and_key_columns()) {
                let (norm, sum) = (self.norm(param)?, grads.sum(&param.name));
                let target = ViewMut::new(&mut qkv_grad, rows, heads.qkv_width()).columns(columns.clone());
                ops.norm_heads_backward(&norm, rows_of_qkv.columns(columns), target, sum)?;
            }
        }
        drop(qkv);
        let qkv_grad = View::new(&qkv_grad, rows, heads.qkv_width());
        let x = self.hidden(&x, rows);
        self.backward_normed(&layer.attention_norm, &layer.qkv, x, qkv_grad, &mut grad, grads)?;
        Ok(grad)
    }
}
