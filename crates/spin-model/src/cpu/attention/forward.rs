//! The heads' outputs.

use rayon::prelude::*;

use crate::batch::{Group, Span};
use crate::cpu::attention::heads::{Attention, KeyValues, Queries, tiles_of, with_tiles};
use crate::cpu::attention::parts::{Parts, spans_of};
use crate::cpu::attention::shared::SharedRows;
use crate::cpu::math::{exp, max, sum};
use crate::cpu::tiles::{HeadRows, LANES, Large, Tiles};

/// What the forward pass writes to.
struct Outputs {
    /// `[rows, out_width]`.
    out: SharedRows,
    /// `[rows, heads]`.
    log_sums: SharedRows,
}

impl Attention<'_> {
    /// Writes the heads' outputs `[rows, out_width]`, and the log-sum-exp of
    /// each row of scores `[rows, heads]`.
    pub fn forward(&self, groups: &[Group], qkv: &[f32], out: &mut [f32], log_sums: &mut [f32]) {
        let parts = self.forward_parts(groups, rayon::current_num_threads());
        self.forward_in(parts.as_ref(), groups, qkv, out, log_sums);
    }

    /// The same in parts, or a key-value head of a group at a time.
    pub(super) fn forward_in(
        &self,
        parts: Option<&Parts>,
        groups: &[Group],
        qkv: &[f32],
        out: &mut [f32],
        log_sums: &mut [f32],
    ) {
        let to =
            Outputs { out: SharedRows::new(out, self.out_width()), log_sums: SharedRows::new(log_sums, self.heads) };
        let Some(parts) = parts else {
            return self.tasks(groups).for_each(|(group, kv_head)| {
                for span in &group.spans {
                    with_tiles!(self, span, forward_span(qkv, span, kv_head, &to));
                }
            });
        };
        let spans = spans_of(groups);
        let all: Vec<KeyValues> = (0..spans.len() * self.kv_heads)
            .into_par_iter()
            .map(|index| {
                let (span, kv_head) = (spans[index / self.kv_heads], index % self.kv_heads);
                with_tiles!(self, span, forward_keys(qkv, span, kv_head))
            })
            .collect();
        parts.queries.par_iter().with_max_len(1).for_each(|part| {
            let span = spans[part.span];
            let of = Queries { span, heads: part.head..part.head + 1, tiles: part.tiles.clone() };
            let known = &all[part.span * self.kv_heads + part.head / self.heads_per_key()];
            with_tiles!(self, span, forward_part(qkv, &of, known, &to));
        });
    }

    /// Values are only mixed here, which needs no transpose.
    fn forward_keys<T: Tiles>(&self, qkv: &[f32], span: &Span, kv_head: usize) -> KeyValues {
        let keys = HeadRows::new::<T>(self.keys(qkv, span, kv_head), self.head_dim);
        let values = HeadRows::new::<Large>(self.values(qkv, span, kv_head), self.head_dim);
        KeyValues { keys, values }
    }

    fn forward_span<T: Tiles>(&self, qkv: &[f32], span: &Span, kv_head: usize, to: &Outputs) {
        let known = self.forward_keys::<T>(qkv, span, kv_head);
        let of = Queries { span, heads: self.heads_of(kv_head), tiles: tiles_of::<T>(span) };
        self.forward_tiles::<T>(qkv, &of, &known, to);
    }

    fn forward_part<T: Tiles>(&self, qkv: &[f32], of: &Queries<'_>, known: &KeyValues, to: &Outputs) {
        self.forward_tiles::<T>(qkv, of, known, to);
    }

    /// Tiles do not depend on each other.
    #[inline(always)]
    fn forward_tiles<T: Tiles>(&self, qkv: &[f32], of: &Queries<'_>, known: &KeyValues, to: &Outputs) {
        let dim = self.head_dim;
        let stride = of.span.len().next_multiple_of(LANES);
        let mut tile = vec![0.0; T::ROWS * stride];
        let mut mixed = vec![0.0; T::ROWS * dim];
        for head in of.heads.clone() {
            let queries = self.queries::<T>(qkv, of, head);
            for (view, queries) in self.views::<T>(of.span, &of.tiles).zip(queries.chunks_exact(T::ROWS * dim)) {
                T::scores(queries, &known.keys, &view.keys, &mut tile);
                let mut inverses = [0.0; 64];
                for (q, scores) in tile.chunks_exact_mut(stride).enumerate() {
                    if q >= view.count {
                        scores[..view.keys.len()].fill(0.0);
                        continue;
                    }
                    let [before, scores, after] = view.seen(self, q, scores);
                    before.fill(0.0);
                    after.fill(0.0);
                    self.cap(scores);
                    let max = max(scores);
                    scores.iter_mut().for_each(|score| *score = exp(*score - max));
                    let sum = sum(scores);
                    inverses[q] = 1.0 / sum;
                    // SAFETY: these rows and this head's column are this task's.
                    let log_sum = unsafe { to.log_sums.row(view.row + q, head..head + 1) };
                    log_sum[0] = max + sum.ln();
                }
                T::mix(&tile, &known.values, &view.keys, &mut mixed);
                for (q, (mixed, inverse)) in mixed.chunks_exact(dim).zip(inverses).take(view.count).enumerate() {
                    // SAFETY: as above, with this head's columns.
                    let out = unsafe { to.out.row(view.row + q, head * dim..(head + 1) * dim) };
                    out.iter_mut().zip(mixed).for_each(|(out, value)| *out = value * inverse);
                }
            }
        }
    }
}
