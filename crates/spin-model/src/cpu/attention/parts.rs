//! Which parts the work of a call is cut into where there are more threads than
//! key-value heads of groups.
//!
//! No sum is cut, so that bits stay. A tile of queries depends on no other:
//! outputs and queries' gradients are cut by tiles. A key's gradient is a sum
//! over heads and tiles in their order: these are cut by ranges of keys, each
//! of which goes through all heads and tiles. The backward pass then computes
//! scores and their gradients twice, seven products instead of five.

use std::ops::Range;

use crate::batch::{Group, Span};
use crate::cpu::attention::heads::{Attention, tiles_of, with_tiles};
use crate::cpu::tiles::{LANES, Tiles};

/// Parts for each thread, so that threads end at about the same time though
/// parts are unequal.
const PER_THREAD: usize = 4;
/// Multiply-adds of a part, at least about: some ten microseconds.
const LEAST: usize = 1 << 18;
/// Ranges of keys are cut at multiples of this, itself a multiple of [`LANES`].
const KEYS: usize = 2 * LANES;
/// Widths of heads with which a product of a part of the keys adds up as the
/// product of all does. Beyond, gemm adds up in blocks, whose length depends on
/// the number of keys; below, it takes another way.
const WIDTHS: Range<usize> = 3..513;

/// Products for a query and a key: scores and outputs; scores, gradients of
/// probabilities and of queries; both again and gradients of keys and values.
const FORWARD: usize = 2;
const OF_QUERIES: usize = 3;
const OF_KEYS: usize = 4;

/// A call's work in parts.
pub(super) struct Parts {
    pub queries: Vec<QueryPart>,
    /// For the backward pass; each span's in order.
    pub keys: Vec<KeyPart>,
}

/// Some tiles of one head's queries.
pub(super) struct QueryPart {
    /// Its place in [`spans_of`].
    pub span: usize,
    pub head: usize,
    pub tiles: Range<usize>,
}

/// The keys and values of some positions.
pub(super) struct KeyPart {
    /// Its place in [`spans_of`].
    pub span: usize,
    pub kv_head: usize,
    /// From a multiple of [`LANES`] to another, or to the span's end.
    pub keys: Range<usize>,
}

/// The spans of all groups, in order.
pub(super) fn spans_of(groups: &[Group]) -> Vec<&Span> {
    groups.iter().flat_map(|group| &group.spans).collect()
}

/// What a span costs, in scores of one head.
struct Costs {
    /// Of each tile.
    tiles: Vec<usize>,
    /// Of each [`KEYS`] keys.
    keys: Vec<usize>,
}

impl Attention<'_> {
    /// The parts of the forward pass for so many threads; none where each has
    /// a key-value head of a group to itself anyway.
    pub(super) fn forward_parts(&self, groups: &[Group], threads: usize) -> Option<Parts> {
        if threads <= groups.len() * self.kv_heads {
            return None;
        }
        self.parts(groups, threads, [FORWARD, 0])
    }

    /// The same for the backward pass, none also where the products that come
    /// on top cost what the other threads gain.
    pub(super) fn backward_parts(&self, groups: &[Group], threads: usize) -> Option<Parts> {
        let (whole, cut) = (OF_QUERIES + OF_KEYS - 2, OF_QUERIES + OF_KEYS);
        if threads * whole <= groups.len() * self.kv_heads * cut || !WIDTHS.contains(&self.head_dim) {
            return None;
        }
        self.parts(groups, threads, [OF_QUERIES, OF_KEYS])
    }

    /// `products` are those for a query and a key, of queries and of keys.
    fn parts(&self, groups: &[Group], threads: usize, products: [usize; 2]) -> Option<Parts> {
        let spans = spans_of(groups);
        let costs = self.costs_of(&spans);
        let scores: usize = self.heads * costs.iter().flat_map(|costs| &costs.tiles).sum::<usize>();
        let all = scores * self.head_dim * products.iter().sum::<usize>();
        let count = (threads * PER_THREAD).min(all / LEAST);
        if count <= groups.len() * self.kv_heads {
            return None;
        }
        Some(self.cut(&spans, &costs, products, all.div_ceil(count)))
    }

    /// The finest parts there are.
    #[cfg(test)]
    pub(super) fn finest_parts(&self, groups: &[Group]) -> Parts {
        let spans = spans_of(groups);
        self.cut(&spans, &self.costs_of(&spans), [OF_QUERIES, OF_KEYS], 1)
    }

    /// The multiply-adds of parts, in their order, those of queries first.
    #[cfg(test)]
    pub(super) fn works(&self, groups: &[Group], parts: &Parts) -> Vec<usize> {
        let costs = self.costs_of(&spans_of(groups));
        let of_queries = if parts.keys.is_empty() { FORWARD } else { OF_QUERIES };
        let of = |costs: &[usize], products: usize| costs.iter().sum::<usize>() * products * self.head_dim;
        let queries = parts.queries.iter().map(|part| of(&costs[part.span].tiles[part.tiles.clone()], of_queries));
        let keys = parts.keys.iter().map(|part| {
            let blocks = part.keys.start / KEYS..part.keys.end.div_ceil(KEYS);
            of(&costs[part.span].keys[blocks], OF_KEYS) * self.heads_per_key()
        });
        queries.chain(keys).collect()
    }

    /// Parts of about `work` multiply-adds each.
    fn cut(&self, spans: &[&Span], costs: &[Costs], products: [usize; 2], work: usize) -> Parts {
        let [of_queries, of_keys] = products.map(|products| products * self.head_dim);
        let mut parts = Parts { queries: Vec::new(), keys: Vec::new() };
        for (span, (of, costs)) in spans.iter().zip(costs).enumerate() {
            let tiles = runs(&costs.tiles, of_queries, work);
            for head in 0..self.heads {
                parts.queries.extend(tiles.iter().cloned().map(|tiles| QueryPart { span, head, tiles }));
            }
            if of_keys == 0 {
                continue;
            }
            let blocks = runs(&costs.keys, of_keys * self.heads_per_key(), work);
            for kv_head in 0..self.kv_heads {
                parts.keys.extend(blocks.iter().map(|blocks| {
                    let keys = blocks.start * KEYS..(blocks.end * KEYS).min(of.len());
                    KeyPart { span, kv_head, keys }
                }));
            }
        }
        parts
    }

    fn costs_of(&self, spans: &[&Span]) -> Vec<Costs> {
        spans.iter().map(|span| with_tiles!(self, span, costs(span))).collect()
    }

    fn costs<T: Tiles>(&self, span: &Span) -> Costs {
        let tiles = tiles_of::<T>(span);
        let of_keys = |keys: Range<usize>| {
            let views = self.views::<T>(span, &tiles).filter_map(|view| view.within(&keys));
            views.map(|view| T::ROWS * view.keys.len()).sum()
        };
        Costs {
            tiles: self.views::<T>(span, &tiles).map(|view| T::ROWS * view.keys.len()).collect(),
            keys: (0..span.len()).step_by(KEYS).map(|start| of_keys(start..(start + KEYS).min(span.len()))).collect(),
        }
    }
}

/// Runs of things that cost `factor` times `costs`, about `work` each and
/// at least one thing, as equal as their costs allow.
fn runs(costs: &[usize], factor: usize, work: usize) -> Vec<Range<usize>> {
    let all: usize = costs.iter().sum();
    let count = (all * factor).div_ceil(work).clamp(1, costs.len().max(1));
    let (mut runs, mut start, mut sum) = (Vec::new(), 0, 0);
    for (index, cost) in costs.iter().enumerate() {
        // A thing goes where its middle is.
        let cut = sum + cost / 2 >= (all * (runs.len() + 1)).div_ceil(count);
        if cut && index > start && runs.len() + 1 < count {
            runs.push(start..index);
            start = index;
        }
        sum += cost;
    }
    if start < costs.len() {
        runs.push(start..costs.len());
    }
    runs
}
