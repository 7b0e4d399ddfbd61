//! Root-mean-square normalisation (Zhang and Sennrich 2019).
//!
//! With r = 1 / sqrt(mean(x^2) + eps), n = r x and y = w n:
//! dL/dx = r (w g - n mean(w g n)) and dL/dw = sum over rows of g n.

use rayon::prelude::*;

use super::ROWS_PER_TASK;
use super::math::{dot, mul_add};

/// A norm's scale, [`width`], with what the architecture adds to it, and eps.
pub(super) struct Norm {
    scale: Vec<f32>,
    eps: f32,
}

fn inverse_scale(row: &[f32], eps: f32) -> f32 {
    1.0 / (dot(row, row) / row.len() as f32 + eps).sqrt()
}

impl Norm {
    pub fn new(weight: &[f32], offset: f64, eps: f64) -> Self {
        Self { scale: weight.iter().map(|weight| weight + offset as f32).collect(), eps: eps as f32 }
    }

    /// Writes the normalised rows of `x` `[rows, width]`.
    pub fn forward(&self, x: &[f32], out: &mut [f32]) {
        let task = ROWS_PER_TASK * self.scale.len();
        out.par_chunks_mut(task).zip(x.par_chunks(task)).for_each(|(out, x)| {
            for (out, x) in out.chunks_exact_mut(self.scale.len()).zip(x.chunks_exact(self.scale.len())) {
                self.forward_row(x, out);
            }
        });
    }

    /// Writes one normalised row.
    pub fn forward_row(&self, x: &[f32], out: &mut [f32]) {
        let inverse = inverse_scale(x, self.eps);
        for ((out, x), scale) in out.iter_mut().zip(x).zip(&self.scale) {
            *out = x * inverse * scale;
        }
    }

    /// Adds the gradients of `x` and of the weight, given that of the output.
    pub fn backward(&self, x: &[f32], grad: &[f32], x_grad: &mut [f32], weight_grad: Option<&mut [f32]>) {
        let width = self.scale.len();
        let task = ROWS_PER_TASK * width;
        let partial: Vec<Vec<f32>> = x_grad
            .par_chunks_mut(task)
            .zip(x.par_chunks(task).zip(grad.par_chunks(task)))
            .map(|(x_grad, (x, grad))| {
                let mut sums = vec![0.0; width];
                let mut scaled = vec![0.0; width];
                let rows = x.chunks_exact(width).zip(grad.chunks_exact(width));
                for ((x, grad), x_grad) in rows.zip(x_grad.chunks_exact_mut(width)) {
                    self.backward_row(x, grad, x_grad, &mut scaled, &mut sums);
                }
                sums
            })
            .collect();
        add_all(weight_grad, &partial);
    }

    fn backward_row(&self, x: &[f32], grad: &[f32], x_grad: &mut [f32], scaled: &mut [f32], sums: &mut [f32]) {
        let width = self.scale.len();
        let (x, grad, x_grad) = (&x[..width], &grad[..width], &mut x_grad[..width]);
        let (scaled, sums) = (&mut scaled[..width], &mut sums[..width]);
        let inverse = inverse_scale(x, self.eps);
        for i in 0..width {
            scaled[i] = self.scale[i] * grad[i];
            sums[i] = mul_add(grad[i], x[i] * inverse, sums[i]);
        }
        let mean = dot(scaled, x) * inverse / width as f32;
        for i in 0..width {
            x_grad[i] += inverse * (scaled[i] - x[i] * inverse * mean);
        }
    }

    /// Normalises some heads of each row of `x` `[rows, width]` in place:
    /// those whose first numbers are at `heads` in a row.
    pub fn forward_heads(&self, x: &mut [f32], width: usize, heads: &[usize]) {
        let dim = self.scale.len();
        x.par_chunks_mut(ROWS_PER_TASK * width).for_each(|rows| {
            let mut normed = vec![0.0; dim];
            for row in rows.chunks_exact_mut(width) {
                for &at in heads {
                    self.forward_row(&row[at..at + dim], &mut normed);
                    row[at..at + dim].copy_from_slice(&normed);
                }
            }
        });
    }

    /// Turns the gradients of normalised heads into those of the heads `x`, in
    /// place, and adds that of the weight.
    pub fn backward_heads(
        &self,
        x: &[f32],
        grad: &mut [f32],
        width: usize,
        heads: &[usize],
        weight_grad: Option<&mut [f32]>,
    ) {
        let dim = self.scale.len();
        let task = ROWS_PER_TASK * width;
        let partial: Vec<Vec<f32>> = grad
            .par_chunks_mut(task)
            .zip(x.par_chunks(task))
            .map(|(grad, x)| {
                let mut sums = vec![0.0; dim];
                let (mut scaled, mut out) = (vec![0.0; dim], vec![0.0; dim]);
                for (grad, x) in grad.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                    for &at in heads {
                        out.fill(0.0);
                        self.backward_row(&x[at..at + dim], &grad[at..at + dim], &mut out, &mut scaled, &mut sums);
                        grad[at..at + dim].copy_from_slice(&out);
                    }
                }
                sums
            })
            .collect();
        add_all(weight_grad, &partial);
    }
}

/// Adds partial sums in their order, which no number of threads changes.
fn add_all(out: Option<&mut [f32]>, partial: &[Vec<f32>]) {
    if let Some(out) = out {
        for part in partial {
            out.iter_mut().zip(part).for_each(|(sum, value)| *sum += value);
        }
    }
}
