//! Matrix products of numbers rounded to bf16, summed in f32.
//!
//! Both factors are laid out anew as pairs of bf16 that follow each other in the
//! sum: one instruction of AVX512-BF16 multiplies 16 pairs and adds both products.
//! Without it the same is done step by step, in the same order and with the same
//! roundings, so that results do not depend on the processor: Intel's manual of
//! VDPBF16PS has them, and a test compares.
//!
//! An element of the result is a sum over the pairs in their order. It depends on
//! nothing else: not on the other rows and columns, not on threads.

mod factor;
mod layout;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod vectors;

use std::ops::Range;

use rayon::prelude::*;

pub(super) use factor::{COLUMNS, Factor, ROWS};
use factor::{LANES, Pair};
use layout::{Buffer, Steps};

use super::attention::SharedRows;
use super::math::{MatrixMut, Write};
use crate::params::Numbers;

/// Pairs that are multiplied before the sums are put down: what a task reads of both
/// factors stays in its core's cache.
const PAIRS: usize = 1024;
/// Row tiles of a task.
const TILES: usize = 16;

/// The second factor of products, laid out: `[inputs, outputs]`.
pub(crate) struct Panels {
    pairs: Buffer,
    inputs: usize,
    outputs: usize,
}

impl Panels {
    /// Of a factor `[inputs, outputs]`.
    pub fn new(factor: Factor<'_>) -> Self {
        Self { pairs: layout::panels(factor.transposed()), inputs: factor.rows, outputs: factor.columns }
    }

    /// Number of inputs.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Number of outputs.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// One output's numbers, `[inputs]`.
    pub fn read(&self, output: usize, to: &mut [f32]) {
        let pairs = self.inputs.div_ceil(2);
        let panel = &self.pairs.0[output / COLUMNS * pairs * COLUMNS..][output % COLUMNS..];
        for (to, pair) in to.chunks_mut(2).zip(panel.iter().step_by(COLUMNS)) {
            let numbers = [f32::from_bits(pair << 16), f32::from_bits(pair & 0xffff_0000)];
            to.iter_mut().zip(numbers).for_each(|(to, number)| *to = number);
        }
    }

    /// `out` = (or +=) `a` times this, on all threads of the current pool.
    pub fn multiply(&self, out: MatrixMut<'_>, a: Factor<'_>, write: Write) {
        let MatrixMut { values, rows, columns, row_stride } = out;
        assert!(a.columns == self.inputs && rows == a.rows && columns == self.outputs);
        if rows == 0 || columns == 0 {
            return;
        }
        assert!((rows - 1) * row_stride + columns <= values.len());
        let a = Tiles::new(a);
        let shared = SharedRows::new(values, row_stride);
        let (row_tasks, panels) = (a.count().div_ceil(TILES), self.count());
        (0..row_tasks * panels).into_par_iter().for_each(|task| {
            let (row_task, panel) = (task / panels, task % panels);
            let tiles = row_task * TILES..((row_task + 1) * TILES).min(a.count());
            // SAFETY: rows of these tiles and columns of this panel are this task's.
            unsafe { self.multiply_panel(&a, tiles, panel, 0..panel * COLUMNS, &shared, write) };
        });
    }

    /// The same for some tiles of rows and some panels on the calling thread; `out` has
    /// the tiles' rows and the panels' columns alone.
    pub fn multiply_here(&self, out: &mut [f32], a: &Tiles, tiles: Range<usize>, panels: Range<usize>) {
        let width = self.outputs.min(panels.end * COLUMNS) - panels.start * COLUMNS;
        let rows = a.rows.min(tiles.end * ROWS) - tiles.start * ROWS;
        assert_eq!(out.len(), rows * width);
        let shared = SharedRows::new(out, width);
        for panel in panels.clone() {
            let before = tiles.start * ROWS..(panel - panels.start) * COLUMNS;
            // SAFETY: nobody else has `out`.
            unsafe { self.multiply_panel(a, tiles.clone(), panel, before, &shared, Write::Over) };
        }
    }

    /// Panels of outputs.
    pub fn count(&self) -> usize {
        self.outputs.div_ceil(COLUMNS)
    }

    /// Products of some tiles with a panel; `place` is the row of `out` that is counted
    /// from, and the panel's first column there.
    ///
    /// # Safety
    ///
    /// As [`SharedRows::row`] for these rows and columns.
    unsafe fn multiply_panel(
        &self,
        a: &Tiles,
        tiles: Range<usize>,
        panel: usize,
        place: Range<usize>,
        out: &SharedRows,
        write: Write,
    ) {
        let pairs = self.inputs.div_ceil(2);
        let b = &self.pairs.0[panel * pairs * COLUMNS..(panel + 1) * pairs * COLUMNS];
        let width = COLUMNS.min(self.outputs - panel * COLUMNS);
        let columns = place.end..place.end + width;
        for start in (0..pairs).step_by(PAIRS) {
            let part = start..(start + PAIRS).min(pairs);
            let b = &b[part.start * COLUMNS..part.end * COLUMNS];
            let is_sum = write == Write::Add || start > 0;
            for tile in tiles.clone() {
                let rows = tile * ROWS..((tile + 1) * ROWS).min(a.rows);
                let pairs = &a.pairs.0[tile * pairs * ROWS..(tile + 1) * pairs * ROWS];
                let a = TilePart { pairs: &pairs[part.start * a.steps.pair..], steps: a.steps };
                // SAFETY: as the caller promises; one row at a time.
                let row = |row: usize| unsafe { out.row(row - place.start, columns.clone()) };
                if rows.len() == ROWS && width == COLUMNS {
                    let mut sums: [&mut [f32; COLUMNS]; ROWS] =
                        std::array::from_fn(|at| row(rows.start + at).try_into().expect("a whole panel"));
                    add_products(a, b, &mut sums, is_sum);
                    continue;
                }
                let mut sums = [[0.0; COLUMNS]; ROWS];
                if is_sum {
                    rows.clone().zip(&mut sums).for_each(|(at, sums)| sums[..width].copy_from_slice(row(at)));
                }
                add_products(a, b, &mut sums.each_mut(), true);
                rows.zip(&sums).for_each(|(at, sums)| row(at).copy_from_slice(&sums[..width]));
            }
        }
    }
}

/// The first factor of products, laid out: `[rows, inputs]`.
pub(crate) struct Tiles {
    pairs: Buffer,
    steps: Steps,
    rows: usize,
}

impl Tiles {
    pub fn new(factor: Factor<'_>) -> Self {
        let (pairs, steps) = layout::tiles(factor);
        Self { pairs, steps, rows: factor.rows }
    }

    /// Tiles of rows.
    pub fn count(&self) -> usize {
        self.rows.div_ceil(ROWS)
    }
}

/// `out` = (or +=) `a` `b`, both rounded, on all threads of the current pool.
pub(super) fn matmul(out: MatrixMut<'_>, a: Factor<'_>, b: Factor<'_>, write: Write) {
    if a.columns > 0 {
        Panels::new(b).multiply(out, a, write);
    }
}

/// The square of a matrix `[size, size]`, as products of bf16 numbers are made on
/// the CPU: to measure how fast they can be.
pub fn bf16_square(matrix: &[half::bf16], size: usize) -> Vec<f32> {
    let factor = Factor::new(Numbers::Bf16(matrix), size, size);
    let mut out = vec![0.0; size * size];
    matmul(MatrixMut::new(&mut out, size, size), factor, factor, Write::Over);
    out
}

/// Some pairs of a tile, from its first row's on.
#[derive(Clone, Copy)]
struct TilePart<'a> {
    pairs: &'a [Pair],
    steps: Steps,
}

impl TilePart<'_> {
    /// Whether it has so many pairs of each row.
    fn has(&self, pairs: usize) -> bool {
        pairs == 0 || (ROWS - 1) * self.steps.row + (pairs - 1) * self.steps.pair < self.pairs.len()
    }
}

/// The sums of a tile, row by row.
type Sums<'a> = [&'a mut [f32; COLUMNS]; ROWS];

/// Adds the products of a tile with `b` `[pairs, COLUMNS]`, to zeros unless these are
/// sums already.
fn add_products(a: TilePart<'_>, b: &[Pair], sums: &mut Sums<'_>, is_sum: bool) {
    #[cfg(target_arch = "x86_64")]
    if has_instructions() {
        // SAFETY: the processor has them.
        unsafe { with_instructions(a, b, sums, is_sum) };
        return;
    }
    step_by_step(a, b, sums, is_sum);
}

/// Whether this processor multiplies pairs of bf16.
#[cfg(target_arch = "x86_64")]
pub(super) fn has_instructions() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16")
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn with_instructions(a: TilePart<'_>, b: &[Pair], sums: &mut Sums<'_>, is_sum: bool) {
    use std::arch::x86_64::{
        __m512bh, __m512i, _mm512_dpbf16_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_setzero_ps,
        _mm512_storeu_ps,
    };
    let pairs = b.len() / COLUMNS;
    assert!(b.len() == pairs * COLUMNS && a.has(pairs));
    // SAFETY: loads and stores are within `sums`, `a` and `b`, whose lengths are
    // asserted; registers of 512 bits are reinterpreted as such.
    unsafe {
        let mut acc = [[_mm512_setzero_ps(); COLUMNS / LANES]; ROWS];
        if is_sum {
            acc = std::array::from_fn(|row| {
                std::array::from_fn(|column| _mm512_loadu_ps(sums[row].as_ptr().add(column * LANES)))
            });
        }
        let rows: [*const Pair; ROWS] = std::array::from_fn(|row| a.pairs.as_ptr().wrapping_add(row * a.steps.row));
        let mut b = b.as_ptr();
        for pair in 0..pairs {
            let columns: [__m512bh; COLUMNS / LANES] = std::array::from_fn(|column| {
                std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(b.add(column * LANES).cast()))
            });
            for (row, acc) in rows.iter().zip(&mut acc) {
                let x = _mm512_set1_epi32(*row.add(pair * a.steps.pair) as i32);
                let x = std::mem::transmute::<__m512i, __m512bh>(x);
                for (acc, column) in acc.iter_mut().zip(columns) {
                    *acc = _mm512_dpbf16_ps(*acc, x, column);
                }
            }
            b = b.add(COLUMNS);
        }
        for (sums, acc) in sums.iter_mut().zip(acc) {
            for (column, acc) in acc.into_iter().enumerate() {
                _mm512_storeu_ps(sums.as_mut_ptr().add(column * LANES), acc);
            }
        }
    }
}

/// What the instruction does: the second number of a pair first, each product added
/// in one rounding; what is too small for a normal number is zero.
fn step_by_step(a: TilePart<'_>, b: &[Pair], sums: &mut Sums<'_>, is_sum: bool) {
    if !is_sum {
        sums.iter_mut().for_each(|sums| sums.fill(0.0));
    }
    for (pair, b) in b.chunks_exact(COLUMNS).enumerate() {
        for (row, sums) in sums.iter_mut().enumerate() {
            let [a_low, a_high] = numbers(a.pairs[row * a.steps.row + pair * a.steps.pair]);
            for (sum, b) in sums.iter_mut().zip(b) {
                let [b_low, b_high] = numbers(*b);
                let first = normal(a_high.mul_add(b_high, normal(*sum)));
                *sum = normal(a_low.mul_add(b_low, first));
            }
        }
    }
}

/// The two numbers of a pair, the first first.
#[inline(always)]
fn numbers(pair: Pair) -> [f32; 2] {
    [normal(f32::from_bits(pair << 16)), normal(f32::from_bits(pair & 0xffff_0000))]
}

/// Zero of the same sign for what is below the normal numbers.
#[inline(always)]
fn normal(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE { f32::from_bits(x.to_bits() & 0x8000_0000) } else { x }
}
