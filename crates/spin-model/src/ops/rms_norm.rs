//! Root-mean-square normalisation.
//!
//! With r = 1 / sqrt(mean(x^2) + eps), n = r x and y = w n:
//! dL/dx = r (w g - n mean(w g n)) and dL/dw = sum over rows of g n.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::math::{dot, mul_add};
use super::slices::{self, ROWS_PER_TASK, bind_slice};

pub(super) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let eps = eps as f32;
    x.contiguous()?.apply_op2(&weight.contiguous()?, RmsNorm { eps })
}

struct RmsNorm {
    eps: f32,
}

fn inverse_scale(row: &[f32], eps: f32) -> f32 {
    1.0 / (dot(row, row) / row.len() as f32 + eps).sqrt()
}

/// Writes the normalised rows of `x` to `out`.
pub(super) fn forward(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let width = weight.len();
    out.par_chunks_mut(ROWS_PER_TASK * width).zip(x.par_chunks(ROWS_PER_TASK * width)).for_each(|(out, x)| {
        for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            let inverse = inverse_scale(x, eps);
            for i in 0..width {
                out[i] = x[i] * inverse * weight[i];
            }
        }
    });
}

/// Adds the gradient of `x` to `x_grad` and writes that of the weight.
pub(super) fn backward(x: &[f32], weight: &[f32], eps: f32, grad: &[f32], x_grad: &mut [f32], weight_grad: &mut [f32]) {
    let task = ROWS_PER_TASK * weight.len();
    let partial: Vec<Vec<f32>> = x_grad
        .par_chunks_mut(task)
        .zip(x.par_chunks(task).zip(grad.par_chunks(task)))
        .map(|(x_grad, (x, grad))| backward_rows(x, weight, eps, grad, x_grad))
        .collect();
    weight_grad.fill(0.0);
    for part in &partial {
        for (sum, value) in weight_grad.iter_mut().zip(part) {
            *sum += value;
        }
    }
}

/// Adds the gradient of some rows of x and returns their share of the gradient
/// of the weight.
fn backward_rows(x: &[f32], weight: &[f32], eps: f32, grad: &[f32], x_grad: &mut [f32]) -> Vec<f32> {
    let width = weight.len();
    let mut weight_grad = vec![0.0; width];
    let mut scaled = vec![0.0; width];
    let rows = x.chunks_exact(width).zip(grad.chunks_exact(width));
    for ((x, grad), x_grad) in rows.zip(x_grad.chunks_exact_mut(width)) {
        let inverse = inverse_scale(x, eps);
        for i in 0..width {
            scaled[i] = weight[i] * grad[i];
            weight_grad[i] = mul_add(grad[i], x[i] * inverse, weight_grad[i]);
        }
        let mean = dot(&scaled, x) * inverse / width as f32;
        for i in 0..width {
            x_grad[i] += inverse * (scaled[i] - x[i] * inverse * mean);
        }
    }
    weight_grad
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, width) = x_layout.shape().dims2()?;
        if weight_layout.dims() != [width] {
            candle_core::bail!("rms-norm: a weight of {:?} does not fit rows of width {width}", weight_layout.shape());
        }
        let x = slices::of_storage(x, x_layout)?;
        let weight = slices::of_storage(weight, weight_layout)?;
        let mut out = vec![0.0; rows * width];
        forward(x, weight, self.eps, &mut out);
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, weight: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let mut out = vec![0.0; x.elem_count()];
        let mut weight_grad = vec![0.0; weight.elem_count()];
        {
            bind_slice!(x, x);
            bind_slice!(weight, weight);
            bind_slice!(grad, grad);
            backward(x, weight, self.eps, grad, &mut out, &mut weight_grad);
        }
        Ok((Some(slices::tensor(out, x)?), Some(slices::tensor(weight_grad, weight)?)))
    }
}
