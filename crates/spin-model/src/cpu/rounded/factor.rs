//! Factors of products, and what is multiplied of them at a time.

use crate::cpu::math::{Matrix, Strided};
use crate::params::Numbers;

/// Rows of a tile.
pub(in super::super) const ROWS: usize = 6;
/// Columns of a tile: four registers of sums a row.
pub(in super::super) const COLUMNS: usize = 64;
/// Numbers of a register.
pub(super) const LANES: usize = 16;
/// Tiles that are laid out together: their rows fill whole registers.
pub(super) const TOGETHER: usize = 8;

/// Two numbers that are multiplied with two others: the first in the lower half.
pub(super) type Pair = u32;

/// A factor of a product.
pub(in super::super) type Factor<'a> = Strided<Numbers<'a>>;

impl<'a> From<Matrix<'a>> for Factor<'a> {
    fn from(matrix: Matrix<'a>) -> Self {
        let Matrix { values, rows, columns, row_stride, column_stride } = matrix;
        Self { values: Numbers::F32(values), rows, columns, row_stride, column_stride }
    }
}

impl<'a> Factor<'a> {
    /// Numbers as rows.
    pub fn new(values: Numbers<'a>, rows: usize, columns: usize) -> Self {
        let len = match values {
            Numbers::F32(values) => values.len(),
            Numbers::Bf16(values) => values.len(),
        };
        assert_eq!(len, rows * columns);
        Self { values, rows, columns, row_stride: columns, column_stride: 1 }
    }

    /// The bits of a number; of what is not finite, too.
    #[inline(always)]
    pub(super) fn bits(&self, row: usize, column: usize) -> u16 {
        let at = row * self.row_stride + column * self.column_stride;
        match self.values {
            Numbers::F32(values) => round(values[at]),
            Numbers::Bf16(values) => values[at].to_bits(),
        }
    }
}

/// To the nearest bf16, of two equally near to the even one.
#[inline(always)]
pub(super) fn round(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16;
    if x.is_nan() { (bits >> 16) as u16 | 0x40 } else { rounded }
}
