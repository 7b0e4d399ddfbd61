//! Products with a weight, optionally added to a residual stream.
//!
//! Unlike candle's matmul, the backward pass gives the weight's gradient in
//! the weight's own layout, and computes no gradient nobody asked for.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

use super::math::{Matrix, matmul};
use super::slices::{self, bind_slice};

pub(super) fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op2(&weight.contiguous()?, Linear)
}

pub(super) fn linear_add(x: &Tensor, weight: &Tensor, residual: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op3(&weight.contiguous()?, &residual.contiguous()?, LinearAdd)
}

struct Linear;

struct LinearAdd;

/// (rows, inputs, outputs) of a product, checked.
fn dims(x: &Shape, weight: &Shape) -> Result<(usize, usize, usize)> {
    let (rows, inputs) = x.dims2()?;
    let (outputs, width) = weight.dims2()?;
    if width != inputs {
        candle_core::bail!("linear: rows of {x:?} do not fit a weight of {weight:?}");
    }
    Ok((rows, inputs, outputs))
}

fn gradients(x: &Tensor, weight: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
    let (rows, inputs, outputs) = dims(x.shape(), weight.shape())?;
    bind_slice!(grad, grad);
    let grad = Matrix::new(grad, rows, outputs);
    let x_grad = if x.track_op() {
        bind_slice!(weight, weight);
        let mut out = vec![0.0; rows * inputs];
        matmul(&mut out, grad, Matrix::new(weight, outputs, inputs), false);
        Some(slices::tensor(out, x)?)
    } else {
        None
    };
    let weight_grad = if weight.track_op() {
        bind_slice!(x, x);
        let mut out = vec![0.0; outputs * inputs];
        let x = Matrix::new(x, rows, inputs);
        matmul(&mut out, grad.transposed(), x, false);
        Some(slices::tensor(out, weight)?)
    } else {
        None
    };
    Ok((x_grad, weight_grad))
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, inputs, outputs) = dims(x_layout.shape(), weight_layout.shape())?;
        let x = Matrix::new(slices::of_storage(x, x_layout)?, rows, inputs);
        let weight = slices::of_storage(weight, weight_layout)?;
        let weight = Matrix::new(weight, outputs, inputs);
        let mut out = vec![0.0; rows * outputs];
        matmul(&mut out, x, weight.transposed(), false);
        Ok((CpuStorage::F32(out), (rows, outputs).into()))
    }

    fn bwd(&self, x: &Tensor, weight: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        gradients(x, weight, &grad.contiguous()?)
    }
}

impl CustomOp3 for LinearAdd {
    fn name(&self) -> &'static str {
        "linear-add"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        residual: &CpuStorage,
        residual_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, inputs, outputs) = dims(x_layout.shape(), weight_layout.shape())?;
        if residual_layout.dims() != [rows, outputs] {
            candle_core::bail!(
                "linear-add: a residual of {:?} does not fit ({rows}, {outputs})",
                residual_layout.shape()
            );
        }
        let x = Matrix::new(slices::of_storage(x, x_layout)?, rows, inputs);
        let weight = slices::of_storage(weight, weight_layout)?;
        let weight = Matrix::new(weight, outputs, inputs);
        let mut out = slices::of_storage(residual, residual_layout)?.to_vec();
        matmul(&mut out, x, weight.transposed(), true);
        Ok((CpuStorage::F32(out), (rows, outputs).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        residual: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (x_grad, weight_grad) = gradients(x, weight, &grad)?;
        let residual_grad = residual.track_op().then_some(grad);
        Ok((x_grad, weight_grad, residual_grad))
    }
}
