//! The backward pass in parts: queries' gradients by tiles, those of keys and
//! values by ranges of keys.

use rayon::prelude::*;

use crate::batch::{Group, Span};
use crate::cpu::attention::backward::{KeyValueGrads, Known, TileRows, room};
use crate::cpu::attention::heads::{Attention, KeyValues, Queries, tiles_of, with_tiles};
use crate::cpu::attention::parts::{KeyPart, Parts, spans_of};
use crate::cpu::attention::shared::SharedRows;
use crate::cpu::tiles::{LANES, Tiles};

impl Attention<'_> {
    pub(super) fn backward_by_parts(&self, parts: &Parts, groups: &[Group], known: &Known<'_>, qkv_grad: &SharedRows) {
        let spans = spans_of(groups);
        let all: Vec<KeyValues> = (0..spans.len() * self.kv_heads)
            .into_par_iter()
            .map(|index| {
                let (span, kv_head) = (spans[index / self.kv_heads], index % self.kv_heads);
                with_tiles!(self, span, backward_keys(known.qkv, span, kv_head))
            })
            .collect();
        let by_keys = || -> Vec<KeyValueGrads> {
            let parts = parts.keys.par_iter().with_max_len(1);
            parts
                .map(|part| {
                    let (span, kv) = (spans[part.span], &all[part.span * self.kv_heads + part.kv_head]);
                    with_tiles!(self, span, grads_of_keys(known, span, part, kv))
                })
                .collect()
        };
        let by_queries = || {
            parts.queries.par_iter().with_max_len(1).for_each(|part| {
                let span = spans[part.span];
                let of = Queries { span, heads: part.head..part.head + 1, tiles: part.tiles.clone() };
                let kv = &all[part.span * self.kv_heads + part.head / self.heads_per_key()];
                with_tiles!(self, span, grads_of_queries(known, &of, kv, qkv_grad));
            });
        };
        let (grads, ()) = rayon::join(by_keys, by_queries);
        // Spans that share keys in their order, as they are added up in one task.
        let firsts: Vec<usize> = groups
            .iter()
            .scan(0, |next, group| {
                let first = *next;
                *next += group.spans.len();
                Some(first)
            })
            .collect();
        (0..groups.len() * self.kv_heads).into_par_iter().for_each(|task| {
            let (group, kv_head) = (&groups[task / self.kv_heads], task % self.kv_heads);
            let first = firsts[task / self.kv_heads];
            let mut sums = self.no_grads(group.rows.len());
            for (part, grads) in parts.keys.iter().zip(&grads) {
                let own = first..first + group.spans.len();
                if part.kv_head == kv_head && own.contains(&part.span) {
                    self.add_grads(grads, group, spans[part.span], part.keys.clone(), &mut sums);
                }
            }
            self.write_grads(&sums, group, kv_head, qkv_grad);
        });
    }

    fn grads_of_queries<T: Tiles>(&self, known: &Known<'_>, of: &Queries<'_>, kv: &KeyValues, qkv_grad: &SharedRows) {
        let dim = self.head_dim;
        let (mut probs, mut score_grads) = (room::<T>(of.span.len()), room::<T>(of.span.len()));
        let mut grads = vec![0.0; T::ROWS * dim];
        for head in of.heads.clone() {
            let rows = self.query_rows::<T>(known, of, head);
            for tile in rows.tiles(self.views::<T>(of.span, &of.tiles), T::ROWS * dim) {
                self.restore::<T>(known, head, &tile, kv, &mut probs, &mut score_grads);
                T::mix(&score_grads, &kv.keys, &tile.view.keys, &mut grads);
                self.write_query_grads(&mut grads, head, &tile.view, qkv_grad);
            }
        }
    }

    /// The gradients of a range of keys, and of their values: sums over heads
    /// and tiles, in the order in which all keys' are added up.
    fn grads_of_keys<T: Tiles>(&self, known: &Known<'_>, span: &Span, part: &KeyPart, kv: &KeyValues) -> KeyValueGrads {
        let (dim, keys) = (self.head_dim, &part.keys);
        // Views of few keys reach before the range.
        let base = keys.start.saturating_sub(LANES);
        let (mut probs, mut score_grads) = (room::<T>(keys.end - base), room::<T>(keys.end - base));
        let mut sums = self.no_grads(keys.end - base);
        let all = tiles_of::<T>(span);
        let views = || self.views::<T>(span, &all);
        let first = views().take_while(|view| view.keys.end <= keys.start).count();
        let count = views().skip(first).take_while(|view| view.keys.start < keys.end).count();
        let of = Queries { span, heads: self.heads_of(part.kv_head), tiles: first..first + count };
        for head in of.heads.clone() {
            let rows = self.query_rows::<T>(known, &of, head);
            for tile in rows.tiles(self.views::<T>(span, &of.tiles), T::ROWS * dim) {
                let Some(view) = tile.view.within(keys) else { continue };
                let local = view.keys.start - base..view.keys.end - base;
                let tile = TileRows { view, ..tile };
                self.restore::<T>(known, head, &tile, kv, &mut probs, &mut score_grads);
                T::add_outers(&score_grads, tile.queries, &local, &mut sums.keys);
                T::add_outers(&probs, tile.grads, &local, &mut sums.values);
            }
        }
        for sums in [&mut sums.keys, &mut sums.values] {
            sums.drain(..(keys.start - base) * dim);
        }
        self.turn_back(&mut sums.keys, keys.clone());
        sums
    }
}
