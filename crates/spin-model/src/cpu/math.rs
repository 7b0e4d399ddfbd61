//! Scalar functions that compilers vectorise, and matrix products on slices.

use std::ops::Range;

use gemm::Parallelism;
use rayon::prelude::*;

pub(super) use crate::ops::Write;
use crate::ops::{View, ViewMut};

/// a * b + c, in one instruction where the target has one; elsewhere a fused
/// multiply-add would be a slow library call.
#[inline(always)]
pub(super) fn mul_add(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_feature = "fma", target_arch = "aarch64")) { a.mul_add(b, c) } else { a * b + c }
}

/// e^x to about one unit in the last place, without branches: the standard
/// library's is a call per number. Saturates beyond +-87.3, keeps NaN.
///
/// x = n ln 2 + r with |r| <= ln 2 / 2; e^r by the polynomial of Cephes' expf.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 leaves the nearest integer in the low bits.
    const ROUNDER: f32 = 12_582_912.0;
    // ln 2 in two parts, the first short enough that n times it is exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.3, 87.3);
    let shifted = mul_add(x, std::f32::consts::LOG2_E, ROUNDER);
    let n = shifted - ROUNDER;
    let r = mul_add(n, -LN_2_LOW, mul_add(n, -LN_2_HIGH, x));
    let mut p = 1.987_569_1e-4_f32;
    p = mul_add(p, r, 1.398_199_9e-3);
    p = mul_add(p, r, 8.333_452e-3);
    p = mul_add(p, r, 4.166_579_6e-2);
    p = mul_add(p, r, 1.666_666_5e-1);
    p = mul_add(p, r, 5e-1);
    let y = mul_add(p * r, r, r) + 1.0;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    y * power
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The sum of a function over a slice in eight interleaved partial sums, which
/// compilers keep in one vector register.
#[inline(always)]
pub(super) fn sum_pairs(a: &[f32], b: &[f32], f: impl Fn(f32, f32, f32) -> f32) -> f32 {
    let mut sums = [0.0_f32; 8];
    let (a_chunks, b_chunks) = (a.chunks_exact(8), b.chunks_exact(8));
    let (a_rest, b_rest) = (a_chunks.remainder(), b_chunks.remainder());
    for (a, b) in a_chunks.zip(b_chunks) {
        for lane in 0..8 {
            sums[lane] = f(a[lane], b[lane], sums[lane]);
        }
    }
    for (lane, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
        sums[lane] = f(*a, *b, sums[lane]);
    }
    sums.iter().sum()
}

/// The dot product of two slices of equal length.
#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    sum_pairs(a, b, mul_add)
}

/// The sum of a slice.
#[inline(always)]
pub(super) fn sum(values: &[f32]) -> f32 {
    sum_pairs(values, values, |value, _, sum| sum + value)
}

/// The largest element, minus infinity if there is none.
#[inline(always)]
pub(super) fn max(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 8];
    let chunks = values.chunks_exact(8);
    let rest = chunks.remainder();
    for chunk in chunks {
        for lane in 0..8 {
            lanes[lane] = if chunk[lane] > lanes[lane] { chunk[lane] } else { lanes[lane] };
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
}

/// tanh(x), from [`exp`].
#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (exp(2.0 * x) + 1.0)
}

/// `sums` += `scale` `values`, in parallel.
pub(super) fn add_scaled(sums: &mut [f32], values: &[f32], scale: f32) {
    const CHUNK: usize = 1 << 14;
    sums.par_chunks_mut(CHUNK)
        .zip(values.par_chunks(CHUNK))
        .for_each(|(sums, values)| sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += scale * value));
}

/// Writes the transpose of rows of `width`.
pub(super) fn transpose(rows: &[f32], width: usize, out: &mut [f32]) {
    const BLOCK: usize = 8;
    let count = rows.len() / width;
    assert!(rows.len() == count * width && out.len() == rows.len());
    for first in (0..count).step_by(BLOCK) {
        for start in (0..width).step_by(BLOCK) {
            let at = start * count + first;
            if first + BLOCK <= count && start + BLOCK <= width {
                // Through arrays, whose bounds are known.
                let block: [[f32; BLOCK]; BLOCK] = std::array::from_fn(|row| {
                    let at = (first + row) * width + start;
                    rows[at..at + BLOCK].try_into().expect("as many")
                });
                for column in 0..BLOCK {
                    let line: [f32; BLOCK] = std::array::from_fn(|row| block[row][column]);
                    out[at + column * count..at + column * count + BLOCK].copy_from_slice(&line);
                }
                continue;
            }
            for column in 0..BLOCK.min(width - start) {
                for row in 0..BLOCK.min(count - first) {
                    out[at + column * count + row] = rows[(first + row) * width + start + column];
                }
            }
        }
    }
}

/// Numbers as a matrix, by strides: rows, the columns of some rows, or the
/// transpose of either.
#[derive(Clone, Copy)]
pub(crate) struct Strided<V> {
    pub(super) values: V,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) row_stride: usize,
    pub(super) column_stride: usize,
}

/// A matrix over a slice.
pub(crate) type Matrix<'a> = Strided<&'a [f32]>;

impl<V> Strided<V> {
    pub fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

impl<'a> Matrix<'a> {
    /// `values` as rows.
    pub fn new(values: &'a [f32], rows: usize, columns: usize) -> Self {
        assert_eq!(values.len(), rows * columns);
        Self { values, rows, columns, row_stride: columns, column_stride: 1 }
    }

    /// Some of the columns of `values` seen as rows of `width`.
    pub fn columns(values: &'a [f32], width: usize, columns: Range<usize>) -> Self {
        let rows = values.len() / width;
        assert!(columns.end <= width && values.len() == rows * width);
        let values = if rows == 0 { values } else { &values[columns.start..] };
        Self { values, rows, columns: columns.len(), row_stride: width, column_stride: 1 }
    }

    /// Numbers of a buffer.
    pub fn of(view: View<'a, Vec<f32>>) -> Self {
        let at = view.at;
        let values = &view.buffer[at.range()];
        Self { values, rows: at.rows, columns: at.columns, row_stride: at.stride, column_stride: 1 }
    }

    fn fits(&self) -> bool {
        let last = self.rows.saturating_sub(1) * self.row_stride + self.columns.saturating_sub(1) * self.column_stride;
        self.rows == 0 || self.columns == 0 || last < self.values.len()
    }
}

/// Columns of a slice's rows, to be written.
pub(crate) struct MatrixMut<'a> {
    pub(super) values: &'a mut [f32],
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) row_stride: usize,
}

impl<'a> MatrixMut<'a> {
    /// Numbers of a buffer.
    pub fn of(view: ViewMut<'a, Vec<f32>>) -> Self {
        let at = view.at;
        let values = &mut view.buffer[at.range()];
        Self { values, rows: at.rows, columns: at.columns, row_stride: at.stride }
    }

    /// `values` as rows.
    pub fn new(values: &'a mut [f32], rows: usize, columns: usize) -> Self {
        assert_eq!(values.len(), rows * columns);
        Self { values, rows, columns, row_stride: columns }
    }

    /// Some of the columns of `values` seen as rows of `width`.
    pub fn columns(values: &'a mut [f32], width: usize, columns: Range<usize>) -> Self {
        let rows = values.len() / width;
        assert!(columns.end <= width && values.len() == rows * width);
        let values = if rows == 0 { values } else { &mut values[columns.start..] };
        Self { values, rows, columns: columns.len(), row_stride: width }
    }
}

/// `out` = `scale` `a` `b`, on all threads of the current pool; `out` += with
/// [`Write::Add`].
pub(crate) fn matmul(out: MatrixMut<'_>, a: Matrix<'_>, b: Matrix<'_>, scale: f32, write: Write) {
    let threads = rayon::current_num_threads();
    let parallelism = if threads > 1 { Parallelism::Rayon(threads) } else { Parallelism::None };
    matmul_with(out, a, b, scale, write, parallelism);
}

/// [`matmul`] on the calling thread, for work that is already parallel.
pub(super) fn matmul_here(out: MatrixMut<'_>, a: Matrix<'_>, b: Matrix<'_>, scale: f32, write: Write) {
    matmul_with(out, a, b, scale, write, Parallelism::None);
}

fn matmul_with(out: MatrixMut<'_>, a: Matrix<'_>, b: Matrix<'_>, scale: f32, write: Write, parallelism: Parallelism) {
    assert!(a.columns == b.rows && out.rows == a.rows && out.columns == b.columns);
    assert!(a.fits() && b.fits());
    let last = out.rows.saturating_sub(1) * out.row_stride + out.columns;
    assert!(out.rows == 0 || last <= out.values.len());
    // SAFETY: the assertions above cover every element that the strides reach,
    // and `out` is borrowed exclusively.
    unsafe {
        gemm::gemm(
            a.rows,
            b.columns,
            a.columns,
            out.values.as_mut_ptr(),
            1,
            out.row_stride as isize,
            write == Write::Add,
            a.values.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.values.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            1.0,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponential_is_accurate_and_saturates() {
        let mut worst = 0.0_f64;
        for step in -8_700..8_700 {
            let x = step as f32 / 100.0;
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - exact).abs() / exact);
        }
        assert!(worst < 2e-7, "{worst}");
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(-1e30) < 1e-37 && exp(f32::NEG_INFINITY) < 1e-37);
        assert!(exp(1e30).is_finite());
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn products_of_transposes() {
        let a = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let matrix = Matrix::new(&a, 2, 3);
        let mut out = [0.0; 4];
        let mut multiply = |scale, write| {
            matmul(MatrixMut::new(&mut out, 2, 2), matrix, matrix.transposed(), scale, write);
            out
        };
        assert_eq!(multiply(1.0, Write::Over), [14.0, 32.0, 32.0, 77.0]);
        assert_eq!(multiply(2.0, Write::Add), [42.0, 96.0, 96.0, 231.0]);
    }

    #[test]
    fn transposed_rows() {
        for (count, width) in [(1, 3), (8, 8), (21, 37), (16, 24)] {
            let rows: Vec<f32> = (0..count * width).map(|value| value as f32).collect();
            let mut out = vec![0.0; rows.len()];
            transpose(&rows, width, &mut out);
            let columns = out.chunks(count).enumerate();
            assert!(
                columns
                    .flat_map(|(c, column)| column.iter().zip(0..).map(move |(v, row)| (c, row, v)))
                    .all(|(column, row, value)| *value == rows[row * width + column])
            );
        }
    }

    #[test]
    fn products_of_columns() {
        let a = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let last = Matrix::columns(&a, 3, 1..3);
        let mut out = [9.0; 6];
        matmul(MatrixMut::columns(&mut out, 3, 0..2), last, last.transposed(), 1.0, Write::Over);
        assert_eq!(out, [13.0, 28.0, 9.0, 28.0, 61.0, 9.0]);
    }

    #[test]
    fn hyperbolic_tangent_is_accurate() {
        for step in -2_000..2_000 {
            let x = step as f32 / 100.0;
            assert!((tanh(x) - x.tanh()).abs() < 3e-7, "{x}");
        }
    }
}
