//! Heads as attention reads them: rows of one head side by side, queries in
//! tiles, and which keys a tile sees.

use std::ops::Range;

use rayon::prelude::*;

use crate::batch::{Group, Span};
use crate::cpu::math::tanh;
use crate::cpu::tiles::{HeadRows, LANES, Tiles};
use crate::ops::Heads;
use crate::rope::RopeTable;

/// Spans of at least this many keys use matrix products.
pub(super) const LARGE_SPAN: usize = 160;

/// Calls a method with the products that suit a span; common widths of heads
/// are constants to the compiler, 0 stands for any other.
macro_rules! with_tiles {
    ($self:ident, $span:ident, $method:ident ( $($argument:expr),* )) => {
        match $self.head_dim {
            _ if $span.len() >= crate::cpu::attention::heads::LARGE_SPAN => {
                $self.$method::<crate::cpu::tiles::Large>($($argument),*)
            }
            8 => $self.$method::<crate::cpu::tiles::Small<8>>($($argument),*),
            16 => $self.$method::<crate::cpu::tiles::Small<16>>($($argument),*),
            32 => $self.$method::<crate::cpu::tiles::Small<32>>($($argument),*),
            64 => $self.$method::<crate::cpu::tiles::Small<64>>($($argument),*),
            128 => $self.$method::<crate::cpu::tiles::Small<128>>($($argument),*),
            _ => $self.$method::<crate::cpu::tiles::Small<0>>($($argument),*),
        }
    };
}
pub(super) use with_tiles;

/// Attention of one layer, whose shape is that of [`Heads`].
pub(in crate::cpu) struct Attention<'a> {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub(in crate::cpu) scale: f32,
    pub(super) softcap: Option<f32>,
    window: Option<usize>,
    pub(in crate::cpu) rope: Option<&'a RopeTable>,
}

/// One head of a span's keys, rotated, and of its values.
pub(super) struct KeyValues {
    pub keys: HeadRows,
    pub values: HeadRows,
}

/// Some tiles of a span's queries, of some heads that share keys.
pub(super) struct Queries<'a> {
    pub span: &'a Span,
    pub heads: Range<usize>,
    /// Counted from the first of the span's own rows.
    pub tiles: Range<usize>,
}

/// What a tile's rows see: keys from the start of a range to each row's own
/// position, or to the last `window` of them.
pub(super) struct View {
    /// Position of the tile's first row.
    pub first: usize,
    /// The row of the batch that this is.
    pub row: usize,
    /// Real rows in the tile.
    pub count: usize,
    /// The keys that any of them sees, from a multiple of [`LANES`].
    pub keys: Range<usize>,
}

impl View {
    /// The same rows with those keys that are in a range from a multiple of
    /// [`LANES`] to another, or to the span's end; none if it sees none of them.
    ///
    /// Fewer than [`LANES`] keys only if all keys are: a part of a few would
    /// take another way through gemm, and round otherwise, than the whole. So
    /// up to [`LANES`] keys before the range may be among them.
    pub fn within(&self, range: &Range<usize>) -> Option<Self> {
        let mut keys = self.keys.start.max(range.start)..self.keys.end.min(range.end);
        if keys.is_empty() {
            return None;
        }
        if keys.len() < LANES && keys.start > self.keys.start {
            keys.start -= LANES;
        }
        Some(Self { keys, ..*self })
    }

    /// Splits a row of scores into keys before, in and after what a query sees.
    pub fn seen<'b>(&self, attention: &Attention<'_>, q: usize, scores: &'b mut [f32]) -> [&'b mut [f32]; 3] {
        let position = self.first + q;
        let of = |key: usize| key.clamp(self.keys.start, self.keys.end) - self.keys.start;
        let (rest, after) = scores[..self.keys.len()].split_at_mut(of(position + 1));
        let (before, seen) = rest.split_at_mut(of(attention.first_key(position)));
        [before, seen, after]
    }
}

/// All tiles of a span.
pub(super) fn tiles_of<T: Tiles>(span: &Span) -> Range<usize> {
    0..span.own.len().div_ceil(T::ROWS)
}

/// The batch's rows of some tiles of a span.
pub(super) fn tile_rows<T: Tiles>(span: &Span, tiles: &Range<usize>) -> Range<usize> {
    let row = |tile: usize| (span.own.start + tile * T::ROWS).min(span.own.end);
    row(tiles.start)..row(tiles.end)
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

    /// Query heads that share a key-value head.
    pub(super) fn heads_per_key(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Those of one.
    pub(super) fn heads_of(&self, kv_head: usize) -> Range<usize> {
        kv_head * self.heads_per_key()..(kv_head + 1) * self.heads_per_key()
    }

    /// Groups with key-value heads.
    pub(super) fn tasks<'p>(&self, groups: &'p [Group]) -> impl ParallelIterator<Item = (&'p Group, usize)> + use<'p> {
        let heads = self.kv_heads;
        (0..groups.len() * heads).into_par_iter().map(move |task| (&groups[task / heads], task % heads))
    }

    /// One head of `rows` of `values`, each `width` wide, followed by zero rows
    /// up to a multiple of `pad`.
    pub(super) fn head(
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
    pub(super) fn keys(&self, qkv: &[f32], span: &Span, kv_head: usize) -> Vec<f32> {
        let mut keys = self.head(qkv, self.qkv_width(), span.rows(), self.heads + kv_head, LANES);
        if let Some(rope) = self.rope {
            for (position, key) in keys.chunks_exact_mut(self.head_dim).take(span.len()).enumerate() {
                rope.rotate(key, position, 1.0);
            }
        }
        keys
    }

    pub(super) fn values(&self, qkv: &[f32], span: &Span, kv_head: usize) -> Vec<f32> {
        self.head(qkv, self.qkv_width(), span.rows(), self.heads + self.kv_heads + kv_head, LANES)
    }

    /// A head's queries, rotated and scaled, `[tiles * ROWS, head_dim]`.
    pub(super) fn queries<T: Tiles>(&self, qkv: &[f32], of: &Queries<'_>, head: usize) -> Vec<f32> {
        let rows = tile_rows::<T>(of.span, &of.tiles);
        let (first, count) = (of.span.shared.len() + rows.start - of.span.own.start, rows.len());
        let mut queries = self.head(qkv, self.qkv_width(), rows, head, T::ROWS);
        for (index, query) in queries.chunks_exact_mut(self.head_dim).take(count).enumerate() {
            if let Some(rope) = self.rope {
                rope.rotate(query, first + index, 1.0);
            }
            query.iter_mut().for_each(|value| *value *= self.scale);
        }
        queries
    }

    /// The first key that the query at a position sees.
    pub(in crate::cpu) fn first_key(&self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }

    /// What some tiles of a span see.
    pub(super) fn views<T: Tiles>(&self, span: &Span, tiles: &Range<usize>) -> impl Iterator<Item = View> {
        let Span { shared, own } = span.clone();
        tile_rows::<T>(span, tiles).step_by(T::ROWS).map(move |row| {
            let (first, count) = (shared.len() + row - own.start, T::ROWS.min(own.end - row));
            View { first, row, count, keys: self.first_key(first) / LANES * LANES..first + count }
        })
    }

    pub(in crate::cpu) fn cap(&self, scores: &mut [f32]) {
        if let Some(cap) = self.softcap {
            scores.iter_mut().for_each(|score| *score = cap * tanh(*score / cap));
        }
    }
}
