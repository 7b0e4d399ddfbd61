//! silu(gate) * up.
//!
//! With s = sigmoid(gate): d silu / d gate = s (1 + gate (1 - s)).

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::math::sigmoid;
use super::slices::{self, ROWS_PER_TASK, bind_slice};

pub(super) fn swiglu(gate_up: &Tensor) -> Result<Tensor> {
    gate_up.contiguous()?.apply_op1(SwiGlu)
}

struct SwiGlu;

/// Writes silu(gate) * up of rows of `2 * width` to rows of `width`.
pub(super) fn forward(gate_up: &[f32], width: usize, out: &mut [f32]) {
    let double = 2 * width;
    out.par_chunks_mut(ROWS_PER_TASK * width).zip(gate_up.par_chunks(ROWS_PER_TASK * double)).for_each(
        |(out, gate_up)| {
            for (out, row) in out.chunks_exact_mut(width).zip(gate_up.chunks_exact(double)) {
                let (gate, up) = row.split_at(width);
                for i in 0..width {
                    out[i] = gate[i] * sigmoid(gate[i]) * up[i];
                }
            }
        },
    );
}

/// Writes the gradient of `gate_up`.
pub(super) fn backward(gate_up: &[f32], width: usize, grad: &[f32], gate_up_grad: &mut [f32]) {
    let double = 2 * width;
    gate_up_grad
        .par_chunks_mut(ROWS_PER_TASK * double)
        .zip(gate_up.par_chunks(ROWS_PER_TASK * double))
        .zip(grad.par_chunks(ROWS_PER_TASK * width))
        .for_each(|((out, gate_up), grad)| {
            let rows = gate_up.chunks_exact(double).zip(grad.chunks_exact(width));
            for (out, (row, grad)) in out.chunks_exact_mut(double).zip(rows) {
                let (gate, up) = row.split_at(width);
                let (gate_out, up_out) = out.split_at_mut(width);
                for i in 0..width {
                    let s = sigmoid(gate[i]);
                    let silu = gate[i] * s;
                    up_out[i] = grad[i] * silu;
                    gate_out[i] = grad[i] * up[i] * (s + silu * (1.0 - s));
                }
            }
        });
}

impl CustomOp1 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, double) = layout.shape().dims2()?;
        if double % 2 != 0 {
            candle_core::bail!("swiglu: rows of odd width {double} have no two halves");
        }
        let width = double / 2;
        let input = slices::of_storage(storage, layout)?;
        let mut out = vec![0.0; rows * width];
        forward(input, width, &mut out);
        Ok((CpuStorage::F32(out), (rows, width).into()))
    }

    fn bwd(&self, arg: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (_, double) = arg.dims2()?;
        let width = double / 2;
        let grad = grad.contiguous()?;
        let mut out = vec![0.0; arg.elem_count()];
        {
            bind_slice!(input, arg);
            bind_slice!(grad, grad);
            backward(input, width, grad, &mut out);
        }
        Ok(Some(slices::tensor(out, arg)?))
    }
}
