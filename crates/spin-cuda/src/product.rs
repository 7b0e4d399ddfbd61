//! `product.cu`: a matrix product for tests; `cuda::Blas` has the real ones.

use crate::call::{Call, Runner, of_type};
use crate::error::{Error, Result};
use crate::memory::{Number, View, ViewMut};

/// A factor: rows of numbers, or their transpose.
#[derive(Debug, Clone, Copy)]
pub struct Factor<'a, T> {
    /// Row-major.
    pub numbers: View<'a, T>,
    /// Of `numbers`.
    pub rows: usize,
    /// Of `numbers`.
    pub columns: usize,
    /// Whether its transpose is meant.
    pub transposed: bool,
}

impl<T> Factor<'_, T> {
    /// Rows and columns of what is meant.
    pub fn shape(&self) -> [usize; 2] {
        if self.transposed { [self.columns, self.rows] } else { [self.rows, self.columns] }
    }

    fn strides(&self) -> [u64; 2] {
        let strides = [self.columns as u64, 1];
        if self.transposed { [strides[1], strides[0]] } else { strides }
    }
}

/// Checks a product and gives its m, n and k.
pub(crate) fn product_shape<T>(
    kernel: &'static str,
    a: &Factor<'_, T>,
    b: &Factor<'_, T>,
    out: usize,
) -> Result<[usize; 3]> {
    let ([m, k], [other, n]) = (a.shape(), b.shape());
    if k != other {
        return Err(Error::shape(kernel, format!("[{m}, {k}] by [{other}, {n}]")));
    }
    a.numbers.check(kernel, "a", m * k)?;
    b.numbers.check(kernel, "b", k * n)?;
    if out < m * n {
        return Err(Error::Length { kernel, what: "out", found: out, wanted: m * n });
    }
    Ok([m, n, k])
}

/// `out` `[m, n]` = `a` `b`, or += that.
///
/// # Errors
///
/// If shapes do not fit or the device refuses.
pub fn product<T: Number>(
    on: &(impl Runner + ?Sized),
    a: &Factor<'_, T>,
    b: &Factor<'_, T>,
    out: &mut ViewMut<'_, f32>,
    add: bool,
) -> Result<()> {
    let kernel = of_type!("product", T);
    let [m, n, k] = product_shape(kernel, a, b, out.len())?;
    let ([a_row, a_column], [b_row, b_column]) = (a.strides(), b.strides());
    let call = Call::strided(kernel, m * n, 256)?.read(a.numbers).read(b.numbers).write(out);
    let call = call.count(m)?.count(n)?.count(k)?.u64(a_row).u64(a_column).u64(b_row).u64(b_column);
    call.u32(u32::from(add)).on(on)
}
