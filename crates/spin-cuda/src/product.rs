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
    /// From row to row of `numbers`: `columns`, or more where these are some of the columns of wider rows.
    pub stride: usize,
    /// Whether its transpose is meant.
    pub transposed: bool,
}

impl<'a, T> Factor<'a, T> {
    /// Rows without gaps.
    pub fn new(numbers: View<'a, T>, rows: usize, columns: usize) -> Self {
        Self { numbers, rows, columns, stride: columns, transposed: false }
    }

    /// The same numbers, of which the transpose is meant if `transposed`.
    #[must_use]
    pub fn transposed(self, transposed: bool) -> Self {
        Self { transposed, ..self }
    }

    /// Rows and columns of what is meant.
    pub fn shape(&self) -> [usize; 2] {
        if self.transposed { [self.columns, self.rows] } else { [self.rows, self.columns] }
    }

    fn strides(&self) -> [u64; 2] {
        let strides = [self.stride as u64, 1];
        if self.transposed { [strides[1], strides[0]] } else { strides }
    }

    fn check(&self, kernel: &'static str, what: &'static str) -> Result<()> {
        if self.stride < self.columns {
            return Err(Error::shape(kernel, format!("rows of {} are {} apart", self.columns, self.stride)));
        }
        self.numbers.check(kernel, what, reach(self.rows, self.columns, self.stride))
    }
}

/// Numbers from the first of a matrix to its last.
fn reach(rows: usize, columns: usize, stride: usize) -> usize {
    if rows == 0 || columns == 0 { 0 } else { (rows - 1) * stride + columns }
}

/// Checks a product whose rows are `stride` apart, and gives its m, n and k.
///
/// # Errors
///
/// If shapes do not fit.
pub fn product_shape<T>(
    kernel: &'static str,
    a: &Factor<'_, T>,
    b: &Factor<'_, T>,
    out: &ViewMut<'_, f32>,
    stride: Option<usize>,
) -> Result<[usize; 3]> {
    let ([m, k], [other, n]) = (a.shape(), b.shape());
    if k != other {
        return Err(Error::shape(kernel, format!("[{m}, {k}] by [{other}, {n}]")));
    }
    a.check(kernel, "a")?;
    b.check(kernel, "b")?;
    let stride = stride.unwrap_or(n);
    if stride < n {
        return Err(Error::shape(kernel, format!("rows of {n} are {stride} apart")));
    }
    out.check(kernel, "out", reach(m, n, stride))?;
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
    let [m, n, k] = product_shape(kernel, a, b, out, None)?;
    let ([a_row, a_column], [b_row, b_column]) = (a.strides(), b.strides());
    let call = Call::strided(kernel, m * n, 256)?.read(a.numbers).read(b.numbers).write(out);
    let call = call.count(m)?.count(n)?.count(k)?.u64(a_row).u64(a_column).u64(b_row).u64(b_column);
    call.u32(u32::from(add)).on(on)
}
