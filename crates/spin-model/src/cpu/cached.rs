//! Attention of new tokens to those before them, whose keys and values are
//! kept.
//!
//! A task is one key-value head of one sequence. What it computes depends on
//! that sequence alone and on how many of its tokens are new, never on the
//! other sequences of the step.

use std::ops::Range;

use super::attention::{Attention, SharedRows};
use super::math::{Matrix, MatrixMut, Write, dot, exp, matmul_here, max, mul_add, sum};
use super::norm::Norm;

/// From this many new tokens on, matrix products are worth it.
const MANY: usize = 8;
/// Query rows of a product.
const TILE: usize = 64;

/// Keys, rotated, and values of one layer of one sequence, each
/// `[kv_heads, room, head_dim]`.
pub(crate) struct LayerCache {
    pub keys: Vec<f32>,
    pub values: Vec<f32>,
}

/// One head's share of a [`LayerCache`].
pub(super) struct HeadCache<'a> {
    pub keys: &'a mut [f32],
    pub values: &'a mut [f32],
}

/// New tokens of a sequence.
#[derive(Clone)]
pub(super) struct NewQkv<'a> {
    /// Queries, keys and values, `[new, qkv_width]`.
    pub qkv: &'a [f32],
    /// Position of the first.
    pub position: usize,
    /// Those whose outputs are wanted, counted from the first.
    pub wanted: Range<usize>,
    /// Row of the output of the first that is wanted.
    pub out_row: usize,
}

/// A task's memory.
#[derive(Default)]
pub(super) struct Scratch {
    /// `[rows, head_dim]`.
    queries: Vec<f32>,
    /// `[rows, keys]`.
    scores: Vec<f32>,
    /// `[rows, head_dim]`.
    mixed: Vec<f32>,
}

impl Attention<'_> {
    /// Adds the new keys and values of a head to its cache and writes the
    /// outputs of the query heads that share it to `out` `[rows, out_width]`.
    pub fn forward_cached(
        &self,
        new: &NewQkv<'_>,
        kv_head: usize,
        norms: Option<&[Norm; 2]>,
        cache: &mut HeadCache<'_>,
        out: &SharedRows,
        scratch: &mut Scratch,
    ) {
        let (dim, group) = (self.head_dim, self.heads / self.kv_heads);
        let key_column = (self.heads + kv_head) * dim;
        let value_column = (self.heads + self.kv_heads + kv_head) * dim;
        for (row, qkv) in new.qkv.chunks_exact(self.qkv_width()).enumerate() {
            let position = new.position + row;
            let at = position * dim..(position + 1) * dim;
            let key = &qkv[key_column..key_column + dim];
            self.place(key, position, norms.map(|norms| &norms[1]), &mut cache.keys[at.clone()]);
            cache.values[at].copy_from_slice(&qkv[value_column..value_column + dim]);
        }
        let tile = if new.wanted.len() < MANY { 1 } else { TILE };
        for start in new.wanted.clone().step_by(tile) {
            let rows = start..(start + tile).min(new.wanted.end);
            for head in kv_head * group..(kv_head + 1) * group {
                scratch.queries.resize(rows.len() * dim, 0.0);
                for (row, query) in rows.clone().zip(scratch.queries.chunks_exact_mut(dim)) {
                    let at = row * self.qkv_width() + head * dim;
                    self.place(&new.qkv[at..at + dim], new.position + row, norms.map(|norms| &norms[0]), query);
                    query.iter_mut().for_each(|value| *value *= self.scale);
                }
                let positions = new.position + rows.start..new.position + rows.end;
                if rows.len() == 1 && tile == 1 {
                    self.attend_one(positions.start, cache, scratch);
                } else {
                    self.attend_many(positions, cache, scratch);
                }
                for (row, mixed) in rows.clone().zip(scratch.mixed.chunks_exact(dim)) {
                    let row = new.out_row + row - new.wanted.start;
                    // SAFETY: this sequence's rows and this head's columns are
                    // this task's.
                    unsafe { out.row(row, head * dim..(head + 1) * dim) }.copy_from_slice(mixed);
                }
            }
        }
    }

    /// Scores to probabilities; the result is to be divided by the sum.
    fn weigh(&self, scores: &mut [f32]) -> f32 {
        self.cap(scores);
        let max = max(scores);
        scores.iter_mut().for_each(|score| *score = exp(*score - max));
        sum(scores)
    }

    fn attend_one(&self, position: usize, cache: &HeadCache<'_>, scratch: &mut Scratch) {
        let dim = self.head_dim;
        let part = self.first_key(position) * dim..(position + 1) * dim;
        let Scratch { queries, scores, mixed } = scratch;
        scores.clear();
        scores.extend(cache.keys[part.clone()].chunks_exact(dim).map(|key| dot(queries, key)));
        let inverse = 1.0 / self.weigh(scores);
        mixed.clear();
        mixed.resize(dim, 0.0);
        for (value, weight) in cache.values[part].chunks_exact(dim).zip(scores.iter()) {
            mixed.iter_mut().zip(value).for_each(|(sum, value)| *sum = mul_add(*weight, *value, *sum));
        }
        mixed.iter_mut().for_each(|value| *value *= inverse);
    }

    fn attend_many(&self, positions: Range<usize>, cache: &HeadCache<'_>, scratch: &mut Scratch) {
        let dim = self.head_dim;
        let keys = self.first_key(positions.start)..positions.end;
        let part = keys.start * dim..keys.end * dim;
        let Scratch { queries, scores, mixed } = scratch;
        scores.resize(positions.len() * keys.len(), 0.0);
        mixed.resize(positions.len() * dim, 0.0);
        let queries = Matrix::new(queries, positions.len(), dim);
        let all = Matrix::new(&cache.keys[part.clone()], keys.len(), dim).transposed();
        matmul_here(MatrixMut::new(scores, positions.len(), keys.len()), queries, all, 1.0, Write::Over);
        for (scores, position) in scores.chunks_exact_mut(keys.len()).zip(positions.clone()) {
            let (rest, after) = scores.split_at_mut(position + 1 - keys.start);
            let (before, seen) = rest.split_at_mut(self.first_key(position) - keys.start);
            before.fill(0.0);
            after.fill(0.0);
            let inverse = 1.0 / self.weigh(seen);
            seen.iter_mut().for_each(|score| *score *= inverse);
        }
        let values = Matrix::new(&cache.values[part], keys.len(), dim);
        let weights = Matrix::new(scores, positions.len(), keys.len());
        matmul_here(MatrixMut::new(mixed, positions.len(), dim), weights, values, 1.0, Write::Over);
    }
}
