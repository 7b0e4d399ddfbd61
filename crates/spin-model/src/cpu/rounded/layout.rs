//! Factors of products laid out as pairs of bf16.

use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::factor::{COLUMNS, Factor, LANES, Pair, ROWS, TOGETHER, round};
use crate::params::Numbers;

/// Rows that one task lays out.
const TASK: usize = TOGETHER * ROWS;

/// Memory for factors that are laid out, used again and again: the system would clear
/// its pages each time.
pub(super) struct Buffer(pub Vec<Pair>);

/// Buffers that nobody uses.
static FREE: Mutex<Vec<Vec<Pair>>> = Mutex::new(Vec::new());
/// So many of them, and not more, are kept.
const KEPT: usize = 8;

impl Buffer {
    /// One of a length, with whatever is in it.
    fn new(len: usize) -> Self {
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        // The smallest that is large enough, or else the largest.
        let fits = |buffer: &Vec<Pair>| (buffer.capacity() < len, buffer.capacity().abs_diff(len));
        let best = (0..free.len()).min_by_key(|index| fits(&free[*index]));
        let mut buffer = best.map_or_else(Vec::new, |index| free.swap_remove(index));
        drop(free);
        buffer.resize(len, 0);
        Self(buffer)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < KEPT {
            free.push(std::mem::take(&mut self.0));
        }
    }
}

/// Lays lines side by side in panels of [`COLUMNS`]: `[panel][pair][line in panel]`, and
/// zeros where there are no lines or no second number. Lines are rows of the factor.
pub(super) fn panels(factor: Factor<'_>) -> Buffer {
    let pairs = factor.columns.div_ceil(2);
    let mut panels = Buffer::new(factor.rows.div_ceil(COLUMNS) * pairs * COLUMNS);
    panels.0.par_chunks_mut(pairs * COLUMNS).enumerate().for_each(|(panel, to)| {
        let first = panel * COLUMNS;
        let lines = COLUMNS.min(factor.rows - first);
        if lines < COLUMNS {
            to.fill(0);
        }
        side_by_side(factor, first, lines, 0, COLUMNS, to);
    });
    panels
}

/// Where the numbers of a factor's rows are in a [`Buffer`].
#[derive(Clone, Copy)]
pub(super) struct Steps {
    /// From a pair of a row to the next.
    pub pair: usize,
    /// From a row of a tile to the next.
    pub row: usize,
}

/// Lays out tiles of [`ROWS`] rows, one after the other, and zeros where there are no
/// rows or no second number: row by row, or side by side where that is how the numbers
/// lie.
pub(super) fn tiles(factor: Factor<'_>) -> (Buffer, Steps) {
    let pairs = factor.columns.div_ceil(2);
    let mut tiles = Buffer::new(factor.rows.div_ceil(ROWS) * pairs * ROWS);
    let is_row_by_row = factor.column_stride == 1;
    tiles.0.par_chunks_mut(TASK * pairs).enumerate().for_each(|(task, to)| {
        let first = task * TASK;
        if is_row_by_row {
            for (row, to) in to.chunks_exact_mut(pairs).enumerate() {
                if first + row < factor.rows { row_pairs(factor, first + row, to) } else { to.fill(0) }
            }
            return;
        }
        let is_done = by_vectors::tiles(factor, first, to);
        for (tile, to) in to.chunks_exact_mut(ROWS * pairs).enumerate() {
            let first = first + tile * ROWS;
            let lines = ROWS.min(factor.rows - first);
            if lines < ROWS {
                to.fill(0);
            }
            // What whole pairs leave, or all.
            let from = if is_done { factor.columns / 2 } else { 0 };
            side_by_side(factor, first, lines, from, ROWS, to);
        }
    });
    let steps = if is_row_by_row { Steps { pair: 1, row: pairs } } else { Steps { pair: ROWS, row: 1 } };
    (tiles, steps)
}

fn pair(low: u16, high: u16) -> Pair {
    Pair::from(low) | Pair::from(high) << 16
}

/// The pairs of a row whose numbers follow each other.
fn row_pairs(factor: Factor<'_>, row: usize, to: &mut [Pair]) {
    let at = row * factor.row_stride;
    let whole = factor.columns / 2;
    match factor.values {
        Numbers::F32(values) => {
            let values = &values[at..at + 2 * whole];
            let done = by_vectors::row(values, &mut to[..whole]);
            let pairs = values[2 * done..].chunks_exact(2);
            to[done..whole].iter_mut().zip(pairs).for_each(|(to, x)| *to = pair(round(x[0]), round(x[1])));
        }
        Numbers::Bf16(values) => {
            let pairs = values[at..at + 2 * whole].chunks_exact(2);
            to.iter_mut().zip(pairs).for_each(|(to, x)| *to = pair(x[0].to_bits(), x[1].to_bits()));
        }
    }
    if let Some(last) = to.get_mut(whole) {
        *last = Pair::from(factor.bits(row, factor.columns - 1));
    }
}

/// Some lines side by side, from some pair on: `[pair][line]`, lines of which `width` have
/// room.
fn side_by_side(factor: Factor<'_>, first: usize, lines: usize, from: usize, width: usize, to: &mut [Pair]) {
    let whole = factor.columns / 2;
    for start in (0..lines).step_by(LANES) {
        let (first, count, to) = (first + start, LANES.min(lines - start), &mut to[start..]);
        let done = if count == LANES && from == 0 { by_vectors::lines(factor, first, width, to) } else { from };
        for (index, to) in to.chunks_mut(width).enumerate().take(whole).skip(done) {
            for (line, to) in to.iter_mut().enumerate().take(count) {
                *to = pair(factor.bits(first + line, 2 * index), factor.bits(first + line, 2 * index + 1));
            }
        }
        if factor.columns % 2 == 1 {
            for (line, to) in to[whole * width..].iter_mut().enumerate().take(count) {
                *to = Pair::from(factor.bits(first + line, factor.columns - 1));
            }
        }
    }
}

/// What [`super::vectors`] can do of each, where the processor can.
#[cfg(target_arch = "x86_64")]
mod by_vectors {
    use crate::cpu::rounded::factor::{Factor, LANES, Pair, ROWS, TOGETHER};
    use crate::cpu::rounded::vectors::{self, are_there};
    use crate::params::Numbers;

    /// Of a row of numbers: how many pairs.
    pub fn row(values: &[f32], to: &mut [Pair]) -> usize {
        // SAFETY: the instructions are there.
        if are_there() { unsafe { vectors::round_row(values, to) } } else { 0 }
    }

    /// Of 16 lines: how many pairs.
    pub fn lines(factor: Factor<'_>, first: usize, width: usize, to: &mut [Pair]) -> usize {
        let pairs = factor.columns / 2;
        let is_side_by_side = factor.row_stride == 1;
        if !are_there() || to.len() < LANES {
            return 0;
        }
        // SAFETY: the instructions are there.
        unsafe {
            match factor.values {
                Numbers::F32(values) if is_side_by_side => {
                    vectors::side_by_side(values, [first, factor.column_stride], pairs, width, to);
                }
                Numbers::Bf16(values) if is_side_by_side => {
                    vectors::side_by_side(values, [first, factor.column_stride], pairs, width, to);
                }
                Numbers::Bf16(values) if factor.column_stride == 1 => {
                    return vectors::turn(values, [first * factor.row_stride, factor.row_stride], pairs, width, to);
                }
                _ => return 0,
            }
        }
        pairs
    }

    /// Of the lines of a task's tiles, all of which are there: whether that was done.
    pub fn tiles(factor: Factor<'_>, first: usize, to: &mut [Pair]) -> bool {
        let (pairs, room) = (factor.columns / 2, factor.columns.div_ceil(2));
        if !are_there() || factor.row_stride != 1 || first + TOGETHER * ROWS > factor.rows {
            return false;
        }
        let place = [first, factor.column_stride];
        // SAFETY: the instructions are there.
        unsafe {
            match factor.values {
                Numbers::F32(values) => vectors::tiles(values, place, pairs, room, to),
                Numbers::Bf16(values) => vectors::tiles(values, place, pairs, room, to),
            }
        }
        true
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod by_vectors {
    use crate::cpu::rounded::factor::{Factor, Pair};

    pub fn row(_: &[f32], _: &mut [Pair]) -> usize {
        0
    }

    pub fn lines(_: Factor<'_>, _: usize, _: usize, _: &mut [Pair]) -> usize {
        0
    }

    pub fn tiles(_: Factor<'_>, _: usize, _: &mut [Pair]) -> bool {
        false
    }
}
