//! Products of rows with a weight, sums of products, and biases.

use half::bf16;
use spin_cuda::{Factor, Machine, Memory, add_scaled, column_parts, convert};

use super::set::{Buffer, Cuda, part, rows_around};
use super::weight::{DeviceNumbers, Weight};
use crate::error::Result;
use crate::ops::{Projection, View, ViewMut, Write};

/// A region as a factor. What is between its columns is there, too.
fn factor<'a, T>(numbers: spin_cuda::View<'a, T>, of: &View<'_, impl Sized>) -> Factor<'a, T> {
    Factor { stride: of.at.stride, ..Factor::new(numbers, of.at.rows, of.at.columns) }
}

impl<M: Machine> Cuda<M> {
    /// A region, and what is between its columns, rounded.
    pub(super) fn rounded(&self, x: spin_cuda::View<'_, f32>) -> Result<Memory<M, bf16>> {
        let mut to = Memory::room(self.machine(), x.len())?;
        convert(self.machine(), x, &mut to.view_mut())?;
        Ok(to)
    }

    /// As [`crate::ops::Operations::project`].
    pub(super) fn multiply(
        &self,
        out: ViewMut<'_, Buffer<M>>,
        x: View<'_, Buffer<M>>,
        by: &Projection<'_, Weight<M>>,
        write: Write,
    ) -> Result<()> {
        let (at, add) = (out.at, write == Write::Add);
        let mut to = out.buffer.view_mut().slice(at.range());
        let shape = (by.outputs, by.inputs);
        match &**by.weight {
            DeviceNumbers::F32(values) => {
                let weight = Factor::new(values.view(), shape.0, shape.1).transposed(!by.back);
                self.machine().product(&factor(part(x), &x), &weight, &mut to, at.stride, by.scale, add)?;
            }
            DeviceNumbers::Bf16(values) => {
                let rounded = self.rounded(part(x))?;
                let weight = Factor::new(values.view(), shape.0, shape.1).transposed(!by.back);
                self.machine().product(&factor(rounded.view(), &x), &weight, &mut to, at.stride, by.scale, add)?;
            }
        }
        Ok(())
    }

    /// As [`crate::ops::Operations::add_outer`].
    pub(super) fn add_product(
        &self,
        sum: &mut Buffer<M>,
        a: View<'_, Buffer<M>>,
        b: View<'_, Buffer<M>>,
        scale: f32,
        rounds: bool,
    ) -> Result<()> {
        let stride = b.at.columns;
        let mut to = sum.view_mut().slice(0..a.at.columns * stride);
        if rounds {
            let (left, right) = (self.rounded(part(a))?, self.rounded(part(b))?);
            let (left, right) = (factor(left.view(), &a).transposed(true), factor(right.view(), &b));
            self.machine().product(&left, &right, &mut to, stride, scale, true)?;
        } else {
            let (left, right) = (factor(part(a), &a).transposed(true), factor(part(b), &b));
            self.machine().product(&left, &right, &mut to, stride, scale, true)?;
        }
        Ok(())
    }

    /// As [`crate::ops::Operations::add_bias`]: kernels take whole rows, so that other
    /// columns get zeros.
    pub(super) fn add_to_rows(&self, out: ViewMut<'_, Buffer<M>>, bias: spin_cuda::View<'_, f32>) -> Result<()> {
        let (rows, column) = rows_around(out.at);
        let columns = out.at.columns;
        let mut all = out.buffer.view_mut().slice(rows.range());
        if columns == rows.stride {
            spin_cuda::add_bias(self.machine(), &mut all, bias.slice(0..columns))?;
        } else {
            let mut padded = Memory::zeros(self.machine(), rows.stride)?;
            let mut own = padded.view_mut().slice(column..column + columns);
            convert(self.machine(), bias.slice(0..columns), &mut own)?;
            spin_cuda::add_bias(self.machine(), &mut all, padded.view())?;
        }
        Ok(())
    }

    /// As [`crate::ops::Operations::add_column_sums`]: of all columns, as kernels take
    /// whole rows.
    pub(super) fn add_sums_of_rows(&self, grad: View<'_, Buffer<M>>, sum: &mut Buffer<M>) -> Result<()> {
        let (rows, column) = rows_around(grad.at);
        let columns = grad.at.columns;
        let all = grad.buffer.view().slice(rows.range());
        let mut parts = Memory::room(self.machine(), column_parts(rows.rows, rows.stride))?;
        if columns == rows.stride {
            let mut to = sum.view_mut().slice(0..columns);
            spin_cuda::add_column_sums(self.machine(), all, &mut parts.view_mut(), &mut to)?;
        } else {
            let mut sums = Memory::zeros(self.machine(), rows.stride)?;
            spin_cuda::add_column_sums(self.machine(), all, &mut parts.view_mut(), &mut sums.view_mut())?;
            let own = sums.view().slice(column..column + columns);
            add_scaled(self.machine(), &mut sum.view_mut().slice(0..columns), own, 1.0)?;
        }
        Ok(())
    }
}
