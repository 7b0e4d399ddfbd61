//! Products of rows with a weight, with bias and low-rank adapter.
//!
//! y = x W^T + b + s (drop(x) A^T) B^T (Hu et al. 2021). With g the gradient of
//! y: dx = g W + s drop'(g B A), dW = g^T x, db = sum of g,
//! dB = s g^T (drop(x) A^T), dA = s (g B)^T drop(x). Gradients that nobody asked
//! for are not computed.

use std::ops::Range;

use candle_core::Result;
use rayon::prelude::*;

use super::ROWS_PER_TASK;
use super::math::{Matrix, MatrixMut, Write, add_scaled, matmul, product};
use super::rounded::{by_weight, matmul_as};
use crate::decoder::{Adapter, Linear};
use crate::dropout::Mask;
use crate::gradients::Gradients;

/// Rows of `inputs` numbers.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub values: &'a [f32],
    pub width: usize,
}

impl<'a> Rows<'a> {
    fn count(&self) -> usize {
        self.values.len() / self.width
    }

    fn matrix(&self) -> Matrix<'a> {
        Matrix::new(self.values, self.count(), self.width)
    }
}

/// Columns of rows that are `width` wide.
#[derive(Clone)]
pub(super) struct Place {
    pub width: usize,
    pub columns: Range<usize>,
}

impl Linear {
    /// Writes to (or adds to) the columns `place` of `out`.
    pub(super) fn forward(
        &self,
        x: Rows<'_>,
        out: &mut [f32],
        place: &Place,
        write: Write,
        dropout: Option<u64>,
    ) -> Result<()> {
        {
            let weight = self.weight.kept()?;
            let target = MatrixMut::columns(out, place.width, place.columns.clone());
            by_weight(target, x.matrix(), weight.numbers(), [self.outputs, self.inputs], true, write);
        }
        if let Some(bias) = &self.bias {
            let bias = bias.read()?;
            let bias: &[f32] = &bias;
            out.par_chunks_mut(place.width * ROWS_PER_TASK).for_each(|rows| {
                for row in rows.chunks_exact_mut(place.width) {
                    let own = &mut row[place.columns.clone()];
                    own.iter_mut().zip(bias).for_each(|(out, bias)| *out += bias);
                }
            });
        }
        if let Some(adapter) = &self.adapter {
            let (_, low) = adapter.project(x, dropout)?;
            let up = adapter.up.read()?;
            let low = Matrix::new(&low, x.count(), adapter.rank);
            let up = Matrix::new(&up, self.outputs, adapter.rank).transposed();
            let target = MatrixMut::columns(out, place.width, place.columns.clone());
            matmul(target, low, up, adapter.scale as f32, Write::Add);
        }
        Ok(())
    }

    /// Adds the gradient of `x` to `x_grad`, if given, and those of the
    /// trainable tensors to `grads`, given that of the output in the columns
    /// `place` of `grad`.
    pub(super) fn backward(
        &self,
        x: Rows<'_>,
        grad: &[f32],
        place: &Place,
        x_grad: Option<(&mut [f32], Write)>,
        dropout: Option<u64>,
        grads: &mut Gradients,
    ) -> Result<()> {
        let count = x.count();
        let grad_rows = Matrix::columns(grad, place.width, place.columns.clone());
        if let Some(sum) = grads.host_mut(&self.weight.name) {
            let sum = MatrixMut::new(sum, self.outputs, self.inputs);
            // Weights of bf16 are multiplied so everywhere.
            matmul_as(self.weight.kept()?.numbers(), sum, grad_rows.transposed(), x.matrix(), Write::Add);
        }
        if let Some(bias) = &self.bias
            && let Some(sum) = grads.host_mut(&bias.name)
        {
            add_column_sums(grad, place, sum);
        }
        let x_grad = match x_grad {
            None => None,
            Some((x_grad, write)) => {
                let weight = self.weight.kept()?;
                let target = MatrixMut::new(x_grad, count, self.inputs);
                by_weight(target, grad_rows, weight.numbers(), [self.outputs, self.inputs], false, write);
                Some(x_grad)
            }
        };
        if let Some(adapter) = &self.adapter {
            let (dropped, low) = adapter.project(x, dropout)?;
            let low = Matrix::new(&low, count, adapter.rank);
            let scale = adapter.scale as f32;
            if let Some(sum) = grads.host_mut(&adapter.up.name) {
                let sum = MatrixMut::new(sum, self.outputs, adapter.rank);
                matmul(sum, grad_rows.transposed(), low, scale, Write::Add);
            }
            let up = adapter.up.read()?;
            let low_grad = product(grad_rows, Matrix::new(&up, self.outputs, adapter.rank));
            let low_grad = Matrix::new(&low_grad, count, adapter.rank);
            if let Some(sum) = grads.host_mut(&adapter.down.name) {
                let sum = MatrixMut::new(sum, adapter.rank, self.inputs);
                let x = dropped.as_deref().unwrap_or(x.values);
                matmul(sum, low_grad.transposed(), Matrix::new(x, count, self.inputs), scale, Write::Add);
            }
            if let Some(x_grad) = x_grad {
                let down = adapter.down.read()?;
                let down = Matrix::new(&down, adapter.rank, self.inputs);
                match adapter.mask(dropout) {
                    None => matmul(MatrixMut::new(x_grad, count, self.inputs), low_grad, down, scale, Write::Add),
                    Some(mask) => {
                        let mut through = product(low_grad, down);
                        mask.apply(&mut through);
                        add_scaled(x_grad, &through, scale);
                    }
                }
            }
        }
        Ok(())
    }
}

impl Adapter {
    fn mask(&self, dropout: Option<u64>) -> Option<Mask> {
        Mask::new(self.dropout, dropout?, &self.down.name)
    }

    /// drop(x), if anything is dropped, and drop(x) A^T.
    fn project(&self, x: Rows<'_>, dropout: Option<u64>) -> Result<(Option<Vec<f32>>, Vec<f32>)> {
        let dropped = self.mask(dropout).map(|mask| {
            let mut x = x.values.to_vec();
            mask.apply(&mut x);
            x
        });
        let down = self.down.read()?;
        let down = Matrix::new(&down, self.rank, x.width).transposed();
        let low = product(Matrix::new(dropped.as_deref().unwrap_or(x.values), x.count(), x.width), down);
        Ok((dropped, low))
    }
}

/// Adds the sums of columns, in an order that no number of threads changes.
fn add_column_sums(values: &[f32], place: &Place, sums: &mut [f32]) {
    let partial: Vec<Vec<f32>> = values
        .par_chunks(place.width * ROWS_PER_TASK)
        .map(|rows| {
            let mut sums = vec![0.0; place.columns.len()];
            for row in rows.chunks_exact(place.width) {
                sums.iter_mut().zip(&row[place.columns.clone()]).for_each(|(sum, value)| *sum += value);
            }
            sums
        })
        .collect();
    for part in &partial {
        sums.iter_mut().zip(part).for_each(|(sum, value)| *sum += value);
    }
}
