//! Products of rows with a weight, with bias and low-rank adapter.
//!
//! y = x W^T + b + s (drop(x) A^T) B^T (Hu et al. 2021). With g the gradient of
//! y: dx = g W + s drop'(g B A), dW = g^T x, db = sum of g,
//! dB = s g^T (drop(x) A^T), dA = s (g B)^T drop(x). Gradients that nobody asked
//! for are not computed.

use crate::decoder::{Adapter, Linear};
use crate::dropout::Mask;
use crate::error::Result;
use crate::ops::{Operations, Projection, Sums, View, ViewMut, Write};

impl Linear {
    /// The weight as a factor of products.
    fn factor<'a, W>(&self, weight: &'a W, back: bool) -> Projection<'a, W> {
        Projection { weight, outputs: self.outputs, inputs: self.inputs, back, scale: 1.0 }
    }

    /// Writes (or adds) the outputs for `x` `[rows, inputs]` to `out` `[rows,
    /// outputs]`, columns of wider rows.
    pub(super) fn forward<O: Operations>(
        &self,
        ops: &O,
        x: View<'_, O::Buffer>,
        mut out: ViewMut<'_, O::Buffer>,
        write: Write,
        dropout: Option<u64>,
    ) -> Result<()> {
        ops.project(out.again(), x, self.factor(&ops.weight(&self.weight)?, false), write)?;
        if let Some(bias) = &self.bias {
            ops.add_bias(out.again(), &ops.wide(bias)?)?;
        }
        if let Some(adapter) = &self.adapter {
            let (_, low) = adapter.project(ops, x, dropout)?;
            let low = View::new(&low, x.at.rows, adapter.rank);
            ops.project(out, low, adapter.up(&ops.wide(&adapter.up)?, self, false), Write::Add)?;
        }
        Ok(())
    }

    /// Writes (or adds) the gradient of `x` to `x_grad` `[rows, inputs]`, and
    /// adds those of the trained tensors to `grads`, given that of the output.
    #[expect(clippy::too_many_arguments, reason = "the operands of one formula")]
    pub(super) fn backward<O: Operations>(
        &self,
        ops: &O,
        x: View<'_, O::Buffer>,
        grad: View<'_, O::Buffer>,
        mut x_grad: ViewMut<'_, O::Buffer>,
        write: Write,
        dropout: Option<u64>,
        grads: &mut impl Sums<O::Buffer>,
    ) -> Result<()> {
        {
            let weight = ops.weight(&self.weight)?;
            if let Some(sum) = grads.sum(&self.weight.name) {
                // Weights of bf16 are multiplied so everywhere.
                ops.add_outer(sum, grad, x, 1.0, Some(&weight))?;
            }
            ops.project(x_grad.again(), grad, self.factor(&weight, true), write)?;
        }
        if let Some(bias) = &self.bias
            && let Some(sum) = grads.sum(&bias.name)
        {
            ops.add_column_sums(grad, sum)?;
        }
        let Some(adapter) = &self.adapter else { return Ok(()) };
        let rows = x.at.rows;
        let (dropped, low) = adapter.project(ops, x, dropout)?;
        let scale = adapter.scale as f32;
        if let Some(sum) = grads.sum(&adapter.up.name) {
            ops.add_outer(sum, grad, View::new(&low, rows, adapter.rank), scale, None)?;
        }
        let mut low_grad = ops.room(rows * adapter.rank)?;
        let up = ops.wide(&adapter.up)?;
        let through_up = Projection { scale: 1.0, ..adapter.up(&up, self, true) };
        ops.project(ViewMut::new(&mut low_grad, rows, adapter.rank), grad, through_up, Write::Over)?;
        let low_grad = View::new(&low_grad, rows, adapter.rank);
        if let Some(sum) = grads.sum(&adapter.down.name) {
            let x = dropped.as_ref().map_or(x, |dropped| View::new(dropped, rows, self.inputs));
            ops.add_outer(sum, low_grad, x, scale, None)?;
        }
        let down = ops.wide(&adapter.down)?;
        match adapter.mask(dropout) {
            None => ops.project(x_grad, low_grad, adapter.down(&down, self, true, scale), Write::Add),
            Some(mask) => {
                let len = rows * self.inputs;
                let mut through = ops.room(len)?;
                let target = ViewMut::new(&mut through, rows, self.inputs);
                ops.project(target, low_grad, adapter.down(&down, self, true, 1.0), Write::Over)?;
                ops.drop_out(&mut through, len, &mask)?;
                ops.add_scaled(x_grad.buffer, &through, len, scale)
            }
        }
    }
}

impl Adapter {
    fn mask(&self, dropout: Option<u64>) -> Option<Mask> {
        Mask::new(self.dropout, dropout?, &self.down.name)
    }

    /// `[outputs, rank]`, with the adapter's scale.
    fn up<'a, W>(&self, weight: &'a W, linear: &Linear, back: bool) -> Projection<'a, W> {
        Projection { weight, outputs: linear.outputs, inputs: self.rank, back, scale: self.scale as f32 }
    }

    /// `[rank, inputs]`.
    fn down<'a, W>(&self, weight: &'a W, linear: &Linear, back: bool, scale: f32) -> Projection<'a, W> {
        Projection { weight, outputs: self.rank, inputs: linear.inputs, back, scale }
    }

    /// drop(x), if anything is dropped, and drop(x) A^T `[rows, rank]`.
    fn project<O: Operations>(
        &self,
        ops: &O,
        x: View<'_, O::Buffer>,
        dropout: Option<u64>,
    ) -> Result<(Option<O::Buffer>, O::Buffer)> {
        let (rows, inputs) = (x.at.rows, x.at.columns);
        let dropped = match self.mask(dropout) {
            None => None,
            Some(mask) => {
                let mut x = ops.copied(x)?;
                ops.drop_out(&mut x, rows * inputs, &mask)?;
                Some(x)
            }
        };
        let x = dropped.as_ref().map_or(x, |dropped| View::new(dropped, rows, inputs));
        let mut low = ops.room(rows * self.rank)?;
        let down = ops.wide(&self.down)?;
        let by = Projection { weight: &down, outputs: self.rank, inputs, back: false, scale: 1.0 };
        ops.project(ViewMut::new(&mut low, rows, self.rank), x, by, Write::Over)?;
        Ok((dropped, low))
    }
}
