//! Attention over a [tree](super::tree) of tokens.
//!
//! A task is one tile of query rows with one key-value head. It goes over the
//! stretches of keys that any row of the tile sees, from the root on, with a
//! running maximum and sum per row (Milakov and Gimelshein 2018; Dao et al.
//! 2022), so that each key is multiplied with all the rows that share it at
//! once, and no sum depends on the number of threads.

use std::ops::Range;

use rayon::prelude::*;

use super::ROWS_PER_TASK;
use super::attention::{Attention, SharedRows};
use super::math::{Matrix, MatrixMut, Write, exp, matmul_here, max, mul_add, sum};
use super::norm::Norm;
use super::tree::{Mask, Stretch, TILE, Tile, TileList};
use crate::ops::{Heads, View};

/// Keys whose scores are held at once, for one query head per key-value head.
const KEYS: usize = 512;
/// Keys transposed at once.
const BLOCK: usize = 16;

/// Keys and values of one layer, head by head. Keys have positions side by
/// side, which is how the matrix product wants them.
#[derive(Default)]
pub(super) struct KeyValues {
    dim: usize,
    /// Positions there is room for.
    room: usize,
    /// `[kv_heads, head_dim, room]`.
    keys: Vec<f32>,
    /// `[kv_heads, room, head_dim]`.
    values: Vec<f32>,
}

impl KeyValues {
    /// Makes room for a number of positions; what was there is lost if there
    /// was less.
    pub fn make_room(&mut self, heads: &Heads, positions: usize) {
        self.dim = heads.head_dim;
        if positions > self.room {
            // An odd number of cache lines, so that the rows of a head's keys
            // do not compete for the same places of the cache.
            self.room = positions.next_multiple_of(16) | 16;
            let len = heads.kv_heads * self.dim * self.room;
            self.keys.clear();
            self.keys.resize(len, 0.0);
            self.values.clear();
            self.values.resize(len, 0.0);
        }
    }

    /// Replaces what follows the first `kept` positions by rows of `others`.
    pub fn extend(&mut self, kept: usize, others: &Self, rows: &[u32]) {
        let runs: Vec<_> = rows
            .chunk_by(|row, next| row + 1 == *next)
            .scan(kept, |at, run| {
                let start = *at;
                *at += run.len();
                Some((start..*at, run[0] as usize..run[0] as usize + run.len()))
            })
            .collect();
        if runs.is_empty() {
            return;
        }
        let (room, other_room, dim) = (self.room, others.room, self.dim);
        self.keys.par_chunks_mut(room * dim).zip(others.keys.par_chunks(other_room * dim)).for_each(|(own, others)| {
            for (own, others) in own.chunks_exact_mut(room).zip(others.chunks_exact(other_room)) {
                runs.iter().for_each(|(to, from)| own[to.clone()].copy_from_slice(&others[from.clone()]));
            }
        });
        self.values.par_chunks_mut(room * dim).zip(others.values.par_chunks(other_room * dim)).for_each(
            |(own, others)| {
                for (to, from) in &runs {
                    own[to.start * dim..to.end * dim].copy_from_slice(&others[from.start * dim..from.end * dim]);
                }
            },
        );
    }

    /// Part of a head's keys, `[head_dim, positions]`.
    fn keys(&self, head: usize, positions: Range<usize>) -> Matrix<'_> {
        let len = self.dim * self.room;
        Matrix::columns(&self.keys[head * len..(head + 1) * len], self.room, positions)
    }

    /// Part of a head's values, `[positions, head_dim]`.
    fn values(&self, head: usize, positions: Range<usize>) -> Matrix<'_> {
        let at = (head * self.room + positions.start) * self.dim;
        Matrix::new(&self.values[at..at + positions.len() * self.dim], positions.len(), self.dim)
    }
}

/// Heads side by side in rows.
#[derive(Clone, Copy)]
pub(super) struct HeadColumns<'a> {
    pub rows: &'a [f32],
    pub width: usize,
}

impl<'a> HeadColumns<'a> {
    /// Columns of a buffer's rows, which begin with the first head.
    pub fn of(view: View<'a, Vec<f32>>) -> Self {
        Self { rows: &view.buffer[view.at.range()], width: view.at.stride }
    }

    fn head(&self, row: usize, head: usize, dim: usize) -> &'a [f32] {
        let at = row * self.width + head * dim;
        &self.rows[at..at + dim]
    }
}

/// A task's memory.
#[derive(Default)]
struct Scratch {
    /// `[query rows * heads per key head, head_dim]`.
    queries: Vec<f32>,
    /// Unnormalised outputs, likewise.
    outs: Vec<f32>,
    /// `[query rows * heads per key head, stride]`.
    scores: Vec<f32>,
    /// Maximum and sum of exponentials of each row of scores so far.
    sums: Vec<(f32, f32)>,
}

impl Attention<'_> {
    /// Fills `to` with the keys and values of rows at some positions, the
    /// former normalised where the architecture does that, and rotated.
    pub fn fill_tree(
        &self,
        keys: HeadColumns<'_>,
        values: HeadColumns<'_>,
        positions: &[u32],
        norm: Option<&Norm>,
        to: &mut KeyValues,
    ) {
        let (dim, room) = (self.head_dim, to.room);
        let shared_keys = SharedRows::new(&mut to.keys, room);
        let shared_values = SharedRows::new(&mut to.values, dim);
        let blocks = positions.len().div_ceil(ROWS_PER_TASK);
        (0..blocks * self.kv_heads).into_par_iter().for_each(|task| {
            let (block, head) = (task / self.kv_heads, task % self.kv_heads);
            let rows = block * ROWS_PER_TASK..((block + 1) * ROWS_PER_TASK).min(positions.len());
            let mut rotated = vec![0.0; BLOCK * dim];
            for start in rows.clone().step_by(BLOCK) {
                let count = BLOCK.min(rows.end - start);
                for (row, key) in (start..start + count).zip(rotated.chunks_exact_mut(dim)) {
                    self.place(keys.head(row, head, dim), positions[row] as usize, norm, key);
                    // SAFETY: this block's rows of this head are this task's.
                    let value = unsafe { shared_values.row(head * room + row, 0..dim) };
                    value.copy_from_slice(values.head(row, head, dim));
                }
                for dimension in 0..dim {
                    // SAFETY: as above.
                    let keys = unsafe { shared_keys.row(head * dim + dimension, start..start + count) };
                    for (key, rotated) in keys.iter_mut().zip(rotated[dimension..].iter().step_by(dim)) {
                        *key = *rotated;
                    }
                }
            }
        });
    }

    /// A query's or key's head for a position.
    pub(super) fn place(&self, head: &[f32], position: usize, norm: Option<&Norm>, out: &mut [f32]) {
        match norm {
            Some(norm) => norm.forward_row(head, out),
            None => out.copy_from_slice(head),
        }
        if let Some(rope) = self.rope {
            rope.rotate(out, position, 1.0);
        }
    }

    /// The heads' outputs `[query rows, out_width]`.
    pub fn forward_tree(
        &self,
        tiles: &TileList,
        queries: HeadColumns<'_>,
        norm: Option<&Norm>,
        own: &KeyValues,
        cached: &KeyValues,
        out: &mut [f32],
    ) {
        let shared = SharedRows::new(out, self.out_width());
        let tasks = (0..tiles.0.len() * self.kv_heads).into_par_iter().with_max_len(1);
        tasks.for_each_init(Scratch::default, |scratch, task| {
            let (number, kv_head) = (task / self.kv_heads, task % self.kv_heads);
            let tile = &tiles.0[number];
            let (dim, group) = (self.head_dim, self.heads / self.kv_heads);
            let count = tile.rows.len() * group;
            scratch.queries.resize(count * dim, 0.0);
            for (index, (vectors, position)) in
                scratch.queries.chunks_exact_mut(group * dim).zip(&tile.positions).enumerate()
            {
                for (member, vector) in vectors.chunks_exact_mut(dim).enumerate() {
                    let head = queries.head(number * TILE + index, kv_head * group + member, dim);
                    self.place(head, *position, norm, vector);
                    vector.iter_mut().for_each(|value| *value *= self.scale);
                }
            }
            scratch.outs.clear();
            scratch.outs.resize(count * dim, 0.0);
            scratch.sums.clear();
            scratch.sums.resize(count, (f32::NEG_INFINITY, 0.0));
            for stretch in &tile.stretches {
                self.attend(tile, stretch, if stretch.cached { cached } else { own }, kv_head, scratch);
            }
            let heads = scratch.outs.chunks_exact(group * dim).zip(scratch.sums.chunks_exact(group));
            for (index, (heads, sums)) in heads.enumerate() {
                for (member, (values, (_, sum))) in heads.chunks_exact(dim).zip(sums).enumerate() {
                    let column = (kv_head * group + member) * dim;
                    // SAFETY: this tile's rows and these heads' columns are
                    // this task's.
                    let out = unsafe { shared.row(number * TILE + index, column..column + dim) };
                    let inverse = 1.0 / sum;
                    out.iter_mut().zip(values).for_each(|(out, value)| *out = value * inverse);
                }
            }
        });
    }

    /// Adds the keys of a stretch to the sums of the rows that see it.
    fn attend(&self, tile: &Tile, stretch: &Stretch, from: &KeyValues, kv_head: usize, scratch: &mut Scratch) {
        let (dim, group) = (self.head_dim, self.heads / self.kv_heads);
        let stride = (KEYS / group).max(TILE);
        let own = stretch.queries.start * group..stretch.queries.end * group;
        let queries = Matrix::new(&scratch.queries[own.start * dim..own.end * dim], own.len(), dim);
        let outs = &mut scratch.outs[own.start * dim..own.end * dim];
        scratch.scores.resize(TILE * group * stride, 0.0);
        // Keys before all windows are left out.
        let earliest = tile.positions[stretch.queries.clone()].iter().min().map_or(0, |first| self.first_key(*first));
        let skipped = if stretch.masks.is_some() { 0 } else { earliest.saturating_sub(stretch.position) };
        for first in (stretch.keys.start + skipped..stretch.keys.end).step_by(stride) {
            let keys = first..(first + stride).min(stretch.keys.end);
            let scores = &mut scratch.scores[..own.len() * stride];
            let part = MatrixMut::columns(scores, stride, 0..keys.len());
            matmul_here(part, queries, from.keys(kv_head, keys.clone()), 1.0, Write::Over);
            let rows = scores.chunks_exact_mut(stride).zip(&mut scratch.sums[own.clone()]);
            for (index, ((scores, sums), out)) in rows.zip(outs.chunks_exact_mut(dim)).enumerate() {
                let query = stretch.queries.start + index / group;
                let scores = &mut scores[..keys.len()];
                self.cap(scores);
                let scale = match &stretch.masks {
                    Some(masks) => {
                        absorb_masked(scores, self.windowed(masks[index / group], tile.positions[query]), sums)
                    }
                    None => {
                        let start = self.first_key(tile.positions[query]).saturating_sub(stretch.position);
                        let start = (stretch.keys.start + start).clamp(keys.start, keys.end) - keys.start;
                        let end = if stretch.cached { keys.end } else { keys.end.min(tile.rows[query] + 1) };
                        absorb(scores, start, end.saturating_sub(keys.start), sums)
                    }
                };
                if scale != 1.0 {
                    out.iter_mut().for_each(|value| *value *= scale);
                }
            }
            let weights = Matrix::columns(scores, stride, 0..keys.len());
            let outs = MatrixMut::new(outs, own.len(), dim);
            matmul_here(outs, weights, from.values(kv_head, keys), 1.0, Write::Add);
        }
    }

    /// The keys of a mask that are in the window of a query at a position.
    fn windowed(&self, mask: Mask, position: usize) -> u64 {
        let Mask { mut bits, last } = mask;
        let seen = (last + 1).saturating_sub(self.first_key(position));
        // Positions of what a row sees are consecutive.
        while bits.count_ones() as usize > seen {
            bits &= bits - 1;
        }
        bits
    }
}

/// Turns scores into exponentials, for keys from `start` to `end`, and zeros.
/// `sums` has their maximum and sum so far; the result is what they, and the
/// outputs, had to be multiplied with.
fn absorb(scores: &mut [f32], start: usize, end: usize, sums: &mut (f32, f32)) -> f32 {
    if start >= end {
        scores.fill(0.0);
        return 1.0;
    }
    let (rest, after) = scores.split_at_mut(end);
    let (before, seen) = rest.split_at_mut(start);
    before.fill(0.0);
    after.fill(0.0);
    let (old, old_sum) = *sums;
    let new = max(seen).max(old);
    let sum = exponentials(seen, new);
    rescale(sums, old, new, old_sum, sum)
}

/// As [`absorb`], for the keys whose bits are set.
fn absorb_masked(scores: &mut [f32], bits: u64, sums: &mut (f32, f32)) -> f32 {
    if bits == 0 {
        scores.fill(0.0);
        return 1.0;
    }
    let sees = |key: usize| bits >> key & 1 == 1;
    for (key, score) in scores.iter_mut().enumerate() {
        *score = if sees(key) { *score } else { f32::NEG_INFINITY };
    }
    let (old, old_sum) = *sums;
    let new = max(scores).max(old);
    for (key, score) in scores.iter_mut().enumerate() {
        *score = if sees(key) { exp(*score - new) } else { 0.0 };
    }
    rescale(sums, old, new, old_sum, sum(scores))
}

fn rescale(sums: &mut (f32, f32), old: f32, new: f32, old_sum: f32, sum: f32) -> f32 {
    // Nothing was there if the maximum was minus infinity.
    let scale = if old == f32::NEG_INFINITY { 1.0 } else { exp(old - new) };
    *sums = (new, mul_add(old_sum, scale, sum));
    scale
}

/// Turns scores into e^(score - max) and gives their sum.
fn exponentials(scores: &mut [f32], max: f32) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0.0_f32; LANES];
    let mut chunks = scores.chunks_exact_mut(LANES);
    for chunk in &mut chunks {
        for lane in 0..LANES {
            chunk[lane] = exp(chunk[lane] - max);
            sums[lane] += chunk[lane];
        }
    }
    for (score, sum) in chunks.into_remainder().iter_mut().zip(&mut sums) {
        *score = exp(*score - max);
        *sum += *score;
    }
    sums.iter().sum()
}
