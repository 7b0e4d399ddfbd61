//! Causal grouped-query attention with rotary positions, windows and soft
//! caps, from rows of queries, keys and values to the heads' outputs.
//!
//! A task is one key-value head of one group of sequences. Nothing of size
//! `[seq, seq]` is kept: the forward pass stores the log-sum-exp of each row of
//! scores, from which the backward pass restores the probabilities (Dao et al.
//! 2022).
//!
//! For one query row with probabilities p, output o and gradient g:
//! dp_j = g . v_j, ds_j = p_j (dp_j - g . o), dq = scale sum_j ds_j k_j,
//! dk_j += scale ds_j q and dv_j += p_j g. A soft cap c turns s into
//! c tanh(s / c) and multiplies ds by 1 - tanh(s / c)^2.

use std::ops::Range;

use rayon::prelude::*;

use super::math::{dot, exp, max, sum, tanh};
use super::tiles::{HeadRows, LANES, Large, Small, Tiles};
use crate::batch::{Group, Span};
use crate::ops::{Attended, Heads};
use crate::rope::RopeTable;

/// Spans of at least this many keys use matrix products.
const LARGE_SPAN: usize = 160;

/// Calls a method with the products that suit a span; common widths of heads
/// are constants to the compiler, 0 stands for any other.
macro_rules! with_tiles {
    ($self:ident, $span:ident, $method:ident ( $($argument:expr),* )) => {
        match $self.head_dim {
            _ if $span.len() >= LARGE_SPAN => $self.$method::<Large>($($argument),*),
            8 => $self.$method::<Small<8>>($($argument),*),
            16 => $self.$method::<Small<16>>($($argument),*),
            32 => $self.$method::<Small<32>>($($argument),*),
            64 => $self.$method::<Small<64>>($($argument),*),
            128 => $self.$method::<Small<128>>($($argument),*),
            _ => $self.$method::<Small<0>>($($argument),*),
        }
    };
}

/// Attention of one layer, whose shape is that of [`Heads`].
pub(super) struct Attention<'a> {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub(super) scale: f32,
    softcap: Option<f32>,
    window: Option<usize>,
    pub(super) rope: Option<&'a RopeTable>,
}

/// Rows shared by tasks that write to different columns or different rows.
pub(super) struct SharedRows {
    values: *mut f32,
    len: usize,
    width: usize,
}

// SAFETY: `row` is called for parts that no other task touches.
unsafe impl Sync for SharedRows {}

impl SharedRows {
    pub fn new(values: &mut [f32], width: usize) -> Self {
        Self { values: values.as_mut_ptr(), len: values.len(), width }
    }

    /// Some columns of a row.
    ///
    /// # Safety
    ///
    /// No two tasks may ask for the same part, nor one task while it holds the
    /// part already, and the slice this was made of must not be used meanwhile.
    #[expect(clippy::mut_from_ref, reason = "the tasks write to disjoint parts")]
    pub unsafe fn row(&self, row: usize, columns: Range<usize>) -> &mut [f32] {
        let at = row * self.width + columns.start;
        assert!(columns.end <= self.width && at + columns.len() <= self.len);
        // SAFETY: within the slice, as asserted; exclusive, as the caller promises.
        unsafe { std::slice::from_raw_parts_mut(self.values.add(at), columns.len()) }
    }
}

/// What a tile's rows see: keys from the start of a range to each row's own
/// position, or to the last `window` of them.
struct View {
    /// Position of the tile's first row.
    first: usize,
    /// Real rows in the tile.
    count: usize,
    /// The keys that any of them sees, from a multiple of [`LANES`].
    keys: Range<usize>,
}

impl<'a> Attention<'a> {
    pub fn new(heads: &Heads, rope: &'a RopeTable) -> Self {
        Self {
            heads: heads.heads,
            kv_heads: heads.kv_heads,
            head_dim: heads.head_dim,
            scale: heads.scale,
            softcap: heads.softcap,
            window: heads.window,
            rope: heads.rotates.then_some(rope),
        }
    }

    pub fn qkv_width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    pub fn out_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Writes the heads' outputs `[rows, out_width]`, and the log-sum-exp of
    /// each row of scores `[rows, heads]`.
    pub fn forward(&self, groups: &[Group], qkv: &[f32], out: &mut [f32], log_sums: &mut [f32]) {
        let shared_out = SharedRows::new(out, self.out_width());
        let shared_sums = SharedRows::new(log_sums, self.heads);
        self.tasks(groups).for_each(|(group, kv_head)| {
            for span in &group.spans {
                with_tiles!(self, span, forward_span(qkv, span, kv_head, &shared_out, &shared_sums));
            }
        });
    }

    /// Writes the gradient of `qkv`.
    pub fn backward(&self, groups: &[Group], known: Attended<'_, Vec<f32>>, out_grad: &[f32], qkv_grad: &mut [f32]) {
        let shared = SharedRows::new(qkv_grad, self.qkv_width());
        let known = Known { qkv: known.qkv, out: known.out, log_sums: known.log_sums, out_grad };
        self.tasks(groups).for_each(|(group, kv_head)| {
            // Several spans may share keys and values.
            let len = group.rows.len() * self.head_dim;
            let mut sums = KeyValueGrads { keys: vec![0.0; len], values: vec![0.0; len] };
            for span in &group.spans {
                with_tiles!(self, span, backward_span(&known, group, span, kv_head, &mut sums, &shared));
            }
            let dim = self.head_dim;
            for (index, row) in group.rows.clone().enumerate() {
                for (head, sums) in
                    [(self.heads + kv_head, &sums.keys), (self.heads + self.kv_heads + kv_head, &sums.values)]
                {
                    // SAFETY: this group's rows and this head's columns are
                    // this task's.
                    let target = unsafe { shared.row(row, head * dim..(head + 1) * dim) };
                    target.copy_from_slice(&sums[index * dim..(index + 1) * dim]);
                }
            }
        });
    }

    /// Groups with key-value heads.
    fn tasks<'p>(&self, groups: &'p [Group]) -> impl ParallelIterator<Item = (&'p Group, usize)> + use<'p> {
        let heads = self.kv_heads;
        (0..groups.len() * heads).into_par_iter().map(move |task| (&groups[task / heads], task % heads))
    }

    /// One head of `rows` of `values`, each `width` wide, followed by zero rows
    /// up to `padded`.
    fn head(
        &self,
        values: &[f32],
        width: usize,
        rows: impl Iterator<Item = usize>,
        head: usize,
        pad: usize,
    ) -> Vec<f32> {
        let dim = self.head_dim;
        let mut out = Vec::new();
        for row in rows {
            let at = row * width + head * dim;
            out.extend_from_slice(&values[at..at + dim]);
        }
        out.resize((out.len() / dim).next_multiple_of(pad) * dim, 0.0);
        out
    }

    /// The keys of a span, rotated.
    fn keys(&self, qkv: &[f32], span: &Span, kv_head: usize) -> Vec<f32> {
        let mut keys = self.head(qkv, self.qkv_width(), span.rows(), self.heads + kv_head, LANES);
        if let Some(rope) = self.rope {
            for (position, key) in keys.chunks_exact_mut(self.head_dim).take(span.len()).enumerate() {
                rope.rotate(key, position, 1.0);
            }
        }
        keys
    }

    fn values(&self, qkv: &[f32], span: &Span, kv_head: usize) -> Vec<f32> {
        self.head(qkv, self.qkv_width(), span.rows(), self.heads + self.kv_heads + kv_head, LANES)
    }

    /// The queries of a span's own rows, rotated and scaled.
    fn queries(&self, qkv: &[f32], span: &Span, head: usize, pad: usize) -> Vec<f32> {
        let mut queries = self.head(qkv, self.qkv_width(), span.own.clone(), head, pad);
        for (index, query) in queries.chunks_exact_mut(self.head_dim).take(span.own.len()).enumerate() {
            if let Some(rope) = self.rope {
                rope.rotate(query, span.shared.len() + index, 1.0);
            }
            query.iter_mut().for_each(|value| *value *= self.scale);
        }
        queries
    }

    /// The first key that the query at a position sees.
    pub(super) fn first_key(&self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }

    /// The tiles of a span.
    fn views(&self, span: &Span, rows: usize) -> impl Iterator<Item = View> {
        let (offset, len) = (span.shared.len(), span.own.len());
        (0..len).step_by(rows).map(move |at| {
            let (first, count) = (offset + at, rows.min(len - at));
            View { first, count, keys: self.first_key(first) / LANES * LANES..first + count }
        })
    }

    /// Splits a row of scores into keys before, in and after what a query sees.
    fn seen<'b>(&self, view: &View, q: usize, scores: &'b mut [f32]) -> [&'b mut [f32]; 3] {
        let position = view.first + q;
        let start = self.first_key(position) - view.keys.start;
        let (rest, after) = scores[..view.keys.len()].split_at_mut(position + 1 - view.keys.start);
        let (before, seen) = rest.split_at_mut(start);
        [before, seen, after]
    }

    pub(super) fn cap(&self, scores: &mut [f32]) {
        if let Some(cap) = self.softcap {
            scores.iter_mut().for_each(|score| *score = cap * tanh(*score / cap));
        }
    }

    fn forward_span<T: Tiles>(
        &self,
        qkv: &[f32],
        span: &Span,
        kv_head: usize,
        out: &SharedRows,
        log_sums: &SharedRows,
    ) {
        let (dim, group) = (self.head_dim, self.heads / self.kv_heads);
        let stride = span.len().next_multiple_of(LANES);
        let mut tile = vec![0.0; T::ROWS * stride];
        let mut mixed = vec![0.0; T::ROWS * dim];
        let keys = HeadRows::new::<T>(self.keys(qkv, span, kv_head), dim);
        // Never transposed: values are only mixed here.
        let values = HeadRows::new::<Large>(self.values(qkv, span, kv_head), dim);
        for head in kv_head * group..(kv_head + 1) * group {
            let queries = self.queries(qkv, span, head, T::ROWS);
            for (view, queries) in self.views(span, T::ROWS).zip(queries.chunks_exact(T::ROWS * dim)) {
                T::scores(queries, &keys, &view.keys, &mut tile);
                let mut inverses = [0.0; 64];
                for (q, scores) in tile.chunks_exact_mut(stride).enumerate() {
                    if q >= view.count {
                        scores[..view.keys.len()].fill(0.0);
                        continue;
                    }
                    let [before, scores, after] = self.seen(&view, q, scores);
                    before.fill(0.0);
                    after.fill(0.0);
                    self.cap(scores);
                    let max = max(scores);
                    scores.iter_mut().for_each(|score| *score = exp(*score - max));
                    let sum = sum(scores);
                    inverses[q] = 1.0 / sum;
                    let row = span.own.start + view.first - span.shared.len() + q;
                    // SAFETY: this span's own rows and this head's column are
                    // this task's.
                    let log_sum = unsafe { log_sums.row(row, head..head + 1) };
                    log_sum[0] = max + sum.ln();
                }
                T::mix(&tile, &values, &view.keys, &mut mixed);
                for (q, (mixed, inverse)) in mixed.chunks_exact(dim).zip(inverses).take(view.count).enumerate() {
                    let row = span.own.start + view.first - span.shared.len() + q;
                    // SAFETY: as above, with this head's columns.
                    let out = unsafe { out.row(row, head * dim..(head + 1) * dim) };
                    out.iter_mut().zip(mixed).for_each(|(out, value)| *out = value * inverse);
                }
            }
        }
    }

    fn backward_span<T: Tiles>(
        &self,
        known: &Known<'_>,
        group: &Group,
        span: &Span,
        kv_head: usize,
        sums: &mut KeyValueGrads,
        qkv_grad: &SharedRows,
    ) {
        let (dim, heads_per_key) = (self.head_dim, self.heads / self.kv_heads);
        let stride = span.len().next_multiple_of(LANES);
        let mut probs = vec![0.0; T::ROWS * stride];
        let mut score_grads = vec![0.0; T::ROWS * stride];
        let mut query_grads = vec![0.0; T::ROWS * dim];
        let keys = HeadRows::new::<T>(self.keys(known.qkv, span, kv_head), dim);
        let values = HeadRows::new::<T>(self.values(known.qkv, span, kv_head), dim);
        let mut key_grads = vec![0.0; keys.rows.len()];
        let mut value_grads = vec![0.0; keys.rows.len()];
        for head in kv_head * heads_per_key..(kv_head + 1) * heads_per_key {
            let queries = self.queries(known.qkv, span, head, T::ROWS);
            let outs = self.head(known.out, self.out_width(), span.own.clone(), head, T::ROWS);
            let grads = self.head(known.out_grad, self.out_width(), span.own.clone(), head, T::ROWS);
            let tile = T::ROWS * dim;
            let tiles = queries.chunks_exact(tile).zip(outs.chunks_exact(tile)).zip(grads.chunks_exact(tile));
            for (view, ((queries, outs), grads)) in self.views(span, T::ROWS).zip(tiles) {
                T::scores(queries, &keys, &view.keys, &mut probs);
                T::scores(grads, &values, &view.keys, &mut score_grads);
                let rows = probs.chunks_exact_mut(stride).zip(score_grads.chunks_exact_mut(stride));
                for (q, (probs, score_grads)) in rows.enumerate() {
                    if q >= view.count {
                        probs[..view.keys.len()].fill(0.0);
                        score_grads[..view.keys.len()].fill(0.0);
                        continue;
                    }
                    let [before, probs, after] = self.seen(&view, q, probs);
                    before.fill(0.0);
                    after.fill(0.0);
                    let [before, score_grads, after] = self.seen(&view, q, score_grads);
                    before.fill(0.0);
                    after.fill(0.0);
                    self.cap(probs);
                    let own = q * dim..(q + 1) * dim;
                    let mean = dot(&grads[own.clone()], &outs[own]);
                    let row = span.own.start + view.first - span.shared.len() + q;
                    let log_sum = known.log_sums[row * self.heads + head];
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
                T::mix(&score_grads, &keys, &view.keys, &mut query_grads);
                T::add_outers(&score_grads, queries, &view.keys, &mut key_grads);
                T::add_outers(&probs, grads, &view.keys, &mut value_grads);
                for (q, grad) in query_grads.chunks_exact_mut(dim).take(view.count).enumerate() {
                    grad.iter_mut().for_each(|value| *value *= self.scale);
                    if let Some(rope) = self.rope {
                        rope.rotate(grad, view.first + q, -1.0);
                    }
                    let row = span.own.start + view.first - span.shared.len() + q;
                    // SAFETY: this span's own rows and this head's columns are
                    // this task's.
                    unsafe { qkv_grad.row(row, head * dim..(head + 1) * dim) }.copy_from_slice(grad);
                }
            }
        }
        for (position, row) in span.rows().enumerate() {
            let own = position * dim..(position + 1) * dim;
            if let Some(rope) = self.rope {
                rope.rotate(&mut key_grads[own.clone()], position, -1.0);
            }
            let at = (row - group.rows.start) * dim;
            for (sums, grads) in [(&mut sums.keys, &key_grads), (&mut sums.values, &value_grads)] {
                sums[at..at + dim].iter_mut().zip(&grads[own.clone()]).for_each(|(sum, grad)| *sum += grad);
            }
        }
    }
}

/// What the backward pass is given.
struct Known<'a> {
    qkv: &'a [f32],
    out: &'a [f32],
    log_sums: &'a [f32],
    out_grad: &'a [f32],
}

/// Gradients of one head's keys and values in the rows of a group.
struct KeyValueGrads {
    keys: Vec<f32>,
    values: Vec<f32>,
}
