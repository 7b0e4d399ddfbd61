//! Rows taken from tables and put back, and what is added to each.

use rayon::prelude::*;

use super::ROWS_PER_TASK;
use crate::params::Numbers;

/// Writes the rows `ids` of a table, scaled, to `out`, each `width` wide.
pub(super) fn embed(table: Numbers<'_>, ids: &[u32], width: usize, scale: f32, out: &mut [f32]) {
    out.par_chunks_mut(ROWS_PER_TASK * width).zip(ids.par_chunks(ROWS_PER_TASK)).for_each(|(rows, ids)| {
        for (row, id) in rows.chunks_exact_mut(width).zip(ids) {
            table.read(*id as usize * width, row);
            row.iter_mut().for_each(|x| *x *= scale);
        }
    });
}

/// Adds the rows of `values`, scaled, to rows of `sums`, each `width` wide, one
/// after the other: a row may be named twice, and this is one pass over them.
pub(super) fn scatter_add(values: &[f32], width: usize, rows: &[u32], scale: f32, sums: &mut [f32]) {
    for (values, row) in values.chunks_exact(width).zip(rows) {
        let at = *row as usize * width;
        sums[at..at + width].iter_mut().zip(values).for_each(|(sum, value)| *sum += value * scale);
    }
}

/// Writes some of the rows of `x`, each `width` wide.
pub(super) fn gather(x: &[f32], width: usize, rows: &[u32], out: &mut [f32]) {
    out.par_chunks_mut(ROWS_PER_TASK * width).zip(rows.par_chunks(ROWS_PER_TASK)).for_each(|(out, rows)| {
        for (out, row) in out.chunks_exact_mut(width).zip(rows) {
            let at = *row as usize * width;
            out.copy_from_slice(&x[at..at + width]);
        }
    });
}

/// Adds a bias to every row; rows are `stride` apart.
pub(super) fn add_bias(rows: &mut [f32], stride: usize, bias: &[f32]) {
    rows.par_chunks_mut(stride * ROWS_PER_TASK).for_each(|rows| {
        for row in rows.chunks_mut(stride) {
            row.iter_mut().zip(bias).for_each(|(out, bias)| *out += bias);
        }
    });
}

/// Adds the sums of columns, in an order that no number of threads changes;
/// rows are `stride` apart.
pub(super) fn add_column_sums(rows: &[f32], stride: usize, columns: usize, sums: &mut [f32]) {
    let partial: Vec<Vec<f32>> = rows
        .par_chunks(stride * ROWS_PER_TASK)
        .map(|rows| {
            let mut sums = vec![0.0; columns];
            for row in rows.chunks(stride) {
                sums.iter_mut().zip(&row[..columns]).for_each(|(sum, value)| *sum += value);
            }
            sums
        })
        .collect();
    for part in &partial {
        sums.iter_mut().zip(part).for_each(|(sum, value)| *sum += value);
    }
}
