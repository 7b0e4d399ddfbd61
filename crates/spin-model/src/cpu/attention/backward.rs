//! The gradients of queries, keys and values, a key-value head of a group at a
//! time.

use std::ops::Range;

use rayon::prelude::*;

use crate::batch::{Group, Span};
use crate::cpu::attention::heads::{Attention, KeyValues, Queries, View, tile_rows, tiles_of, with_tiles};
use crate::cpu::attention::parts::Parts;
use crate::cpu::attention::shared::SharedRows;
use crate::cpu::math::{dot, exp};
use crate::cpu::tiles::{HeadRows, LANES, Tiles};
use crate::ops::Attended;

/// What the backward pass is given.
pub(super) struct Known<'a> {
    pub qkv: &'a [f32],
    out: &'a [f32],
    log_sums: &'a [f32],
    out_grad: &'a [f32],
}

/// Gradients of one head's keys and values, `[keys, head_dim]` each.
pub(super) struct KeyValueGrads {
    pub keys: Vec<f32>,
    pub values: Vec<f32>,
}

/// Queries, outputs and gradients of outputs of one head, `[tiles * ROWS,
/// head_dim]` each.
pub(super) struct QueryRows {
    queries: Vec<f32>,
    outs: Vec<f32>,
    grads: Vec<f32>,
}

/// The same for one tile, `[ROWS, head_dim]` each, and what it sees.
pub(super) struct TileRows<'a> {
    pub view: View,
    pub queries: &'a [f32],
    pub outs: &'a [f32],
    pub grads: &'a [f32],
}

impl QueryRows {
    /// Tiles of `size` numbers.
    pub fn tiles(&self, views: impl Iterator<Item = View>, size: usize) -> impl Iterator<Item = TileRows<'_>> {
        let rest = self.outs.chunks_exact(size).zip(self.grads.chunks_exact(size));
        let tiles = self.queries.chunks_exact(size).zip(rest);
        views.zip(tiles).map(|(view, (queries, (outs, grads)))| TileRows { view, queries, outs, grads })
    }
}

/// A task's memory for numbers of one tile's queries with so many keys, `[ROWS, stride]`.
pub(super) fn room<T: Tiles>(keys: usize) -> Vec<f32> {
    vec![0.0; T::ROWS * keys.next_multiple_of(LANES)]
}

impl Attention<'_> {
    /// Writes the gradient of `qkv`.
    pub fn backward(&self, groups: &[Group], known: Attended<'_, Vec<f32>>, out_grad: &[f32], qkv_grad: &mut [f32]) {
        let parts = self.backward_parts(groups, rayon::current_num_threads());
        self.backward_in(parts.as_ref(), groups, known, out_grad, qkv_grad);
    }

    /// The same in parts, or a key-value head of a group at a time.
    pub(super) fn backward_in(
        &self,
        parts: Option<&Parts>,
        groups: &[Group],
        known: Attended<'_, Vec<f32>>,
        out_grad: &[f32],
        qkv_grad: &mut [f32],
    ) {
        let shared = SharedRows::new(qkv_grad, self.qkv_width());
        let known = Known { qkv: known.qkv, out: known.out, log_sums: known.log_sums, out_grad };
        if let Some(parts) = parts {
            return self.backward_by_parts(parts, groups, &known, &shared);
        }
        self.tasks(groups).for_each(|(group, kv_head)| {
            // Several spans may share keys and values.
            let mut sums = self.no_grads(group.rows.len());
            for span in &group.spans {
                let grads = with_tiles!(self, span, backward_span(&known, span, kv_head, &shared));
                self.add_grads(&grads, group, span, 0..span.len(), &mut sums);
            }
            self.write_grads(&sums, group, kv_head, &shared);
        });
    }

    pub(super) fn no_grads(&self, keys: usize) -> KeyValueGrads {
        let len = keys * self.head_dim;
        KeyValueGrads { keys: vec![0.0; len], values: vec![0.0; len] }
    }

    /// Adds the gradients of some positions of a span to those of its group.
    pub(super) fn add_grads(
        &self,
        grads: &KeyValueGrads,
        group: &Group,
        span: &Span,
        positions: Range<usize>,
        sums: &mut KeyValueGrads,
    ) {
        let dim = self.head_dim;
        for (index, row) in span.rows().skip(positions.start).take(positions.len()).enumerate() {
            let (from, to) = (index * dim, (row - group.rows.start) * dim);
            for (sums, grads) in [(&mut sums.keys, &grads.keys), (&mut sums.values, &grads.values)] {
                sums[to..to + dim].iter_mut().zip(&grads[from..from + dim]).for_each(|(sum, grad)| *sum += grad);
            }
        }
    }

    pub(super) fn write_grads(&self, sums: &KeyValueGrads, group: &Group, kv_head: usize, to: &SharedRows) {
        let dim = self.head_dim;
        for (index, row) in group.rows.clone().enumerate() {
            for (head, sums) in
                [(self.heads + kv_head, &sums.keys), (self.heads + self.kv_heads + kv_head, &sums.values)]
            {
                // SAFETY: this group's rows and this head's columns are this
                // task's.
                let target = unsafe { to.row(row, head * dim..(head + 1) * dim) };
                target.copy_from_slice(&sums[index * dim..(index + 1) * dim]);
            }
        }
    }

    pub(super) fn backward_keys<T: Tiles>(&self, qkv: &[f32], span: &Span, kv_head: usize) -> KeyValues {
        let keys = HeadRows::new::<T>(self.keys(qkv, span, kv_head), self.head_dim);
        let values = HeadRows::new::<T>(self.values(qkv, span, kv_head), self.head_dim);
        KeyValues { keys, values }
    }

    pub(super) fn query_rows<T: Tiles>(&self, known: &Known<'_>, of: &Queries<'_>, head: usize) -> QueryRows {
        let rows = tile_rows::<T>(of.span, &of.tiles);
        QueryRows {
            queries: self.queries::<T>(known.qkv, of, head),
            outs: self.head(known.out, self.out_width(), rows.clone(), head, T::ROWS),
            grads: self.head(known.out_grad, self.out_width(), rows, head, T::ROWS),
        }
    }

    /// Writes the gradients of a span's queries, and returns those of its keys
    /// and values.
    fn backward_span<T: Tiles>(
        &self,
        known: &Known<'_>,
        span: &Span,
        kv_head: usize,
        qkv_grad: &SharedRows,
    ) -> KeyValueGrads {
        let dim = self.head_dim;
        let (mut probs, mut score_grads) = (room::<T>(span.len()), room::<T>(span.len()));
        let mut query_grads = vec![0.0; T::ROWS * dim];
        let kv = self.backward_keys::<T>(known.qkv, span, kv_head);
        // Not yet a `KeyValueGrads`, with which the loops of some widths are slower.
        let mut key_grads = vec![0.0; kv.keys.rows.len()];
        let mut value_grads = vec![0.0; kv.keys.rows.len()];
        let of = Queries { span, heads: self.heads_of(kv_head), tiles: tiles_of::<T>(span) };
        for head in of.heads.clone() {
            let rows = self.query_rows::<T>(known, &of, head);
            for tile in rows.tiles(self.views::<T>(span, &of.tiles), T::ROWS * dim) {
                self.restore::<T>(known, head, &tile, &kv, &mut probs, &mut score_grads);
                T::mix(&score_grads, &kv.keys, &tile.view.keys, &mut query_grads);
                T::add_outers(&score_grads, tile.queries, &tile.view.keys, &mut key_grads);
                T::add_outers(&probs, tile.grads, &tile.view.keys, &mut value_grads);
                self.write_query_grads(&mut query_grads, head, &tile.view, qkv_grad);
            }
        }
        let mut sums = KeyValueGrads { keys: key_grads, values: value_grads };
        self.turn_back(&mut sums.keys, 0..span.len());
        sums
    }

    /// The probabilities of a tile and the gradients of its scores, for the
    /// keys that it sees, `[ROWS, stride]` each.
    #[inline(always)]
    pub(super) fn restore<T: Tiles>(
        &self,
        known: &Known<'_>,
        head: usize,
        tile: &TileRows<'_>,
        kv: &KeyValues,
        probs: &mut [f32],
        score_grads: &mut [f32],
    ) {
        let (dim, view) = (self.head_dim, &tile.view);
        T::scores(tile.queries, &kv.keys, &view.keys, probs);
        T::scores(tile.grads, &kv.values, &view.keys, score_grads);
        let stride = probs.len() / T::ROWS;
        let rows = probs.chunks_exact_mut(stride).zip(score_grads.chunks_exact_mut(stride));
        for (q, (probs, score_grads)) in rows.enumerate() {
            if q >= view.count {
                probs[..view.keys.len()].fill(0.0);
                score_grads[..view.keys.len()].fill(0.0);
                continue;
            }
            let [before, probs, after] = view.seen(self, q, probs);
            before.fill(0.0);
            after.fill(0.0);
            let [before, score_grads, after] = view.seen(self, q, score_grads);
            before.fill(0.0);
            after.fill(0.0);
            self.cap(probs);
            let own = q * dim..(q + 1) * dim;
            let mean = dot(&tile.grads[own.clone()], &tile.outs[own]);
            let log_sum = known.log_sums[(view.row + q) * self.heads + head];
            match self.softcap {
                None => {
                    for (prob, score_grad) in probs.iter_mut().zip(score_grads) {
                        *prob = exp(*prob - log_sum);
                        *score_grad = *prob * (*score_grad - mean);
                    }
                }
                Some(cap) => {
                    for (prob, score_grad) in probs.iter_mut().zip(score_grads) {
                        let bent = *prob / cap;
                        *prob = exp(*prob - log_sum);
                        *score_grad = *prob * (*score_grad - mean) * (1.0 - bent * bent);
                    }
                }
            }
        }
    }

    /// Writes a tile's gradients, given as those of rotated and scaled queries.
    pub(super) fn write_query_grads(&self, grads: &mut [f32], head: usize, view: &View, qkv_grad: &SharedRows) {
        let dim = self.head_dim;
        for (q, grad) in grads.chunks_exact_mut(dim).take(view.count).enumerate() {
            grad.iter_mut().for_each(|value| *value *= self.scale);
            if let Some(rope) = self.rope {
                rope.rotate(grad, view.first + q, -1.0);
            }
            // SAFETY: these rows and this head's columns are this task's.
            unsafe { qkv_grad.row(view.row + q, head * dim..(head + 1) * dim) }.copy_from_slice(grad);
        }
    }

    /// Makes gradients of rotated keys at some positions those of the keys.
    pub(super) fn turn_back(&self, grads: &mut [f32], positions: Range<usize>) {
        if let Some(rope) = self.rope {
            for (position, grad) in positions.zip(grads.chunks_exact_mut(self.head_dim)) {
                rope.rotate(grad, position, -1.0);
            }
        }
    }
}
