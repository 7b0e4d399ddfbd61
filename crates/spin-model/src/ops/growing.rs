//! What sequences that grow are computed with.

use std::ops::Range;

use super::{Heads, Operations, RmsNorm, View, Write};
use crate::error::Result;
use crate::params::Param;

/// New tokens of a sequence in one layer.
pub(crate) struct NewRows<'a, C> {
    /// Keys and values of the tokens before them.
    pub cache: &'a mut C,
    /// Their rows of queries, keys and values.
    pub rows: Range<usize>,
    /// Position of the first.
    pub position: usize,
    /// Those whose outputs are wanted, counted from the first.
    pub wanted: Range<usize>,
    /// Row of the output of the first that is wanted.
    pub out_row: usize,
}

/// Operations over a few rows of many sequences at a time. What is computed of a
/// sequence depends on it alone and on how many of its tokens are new, to the bit.
pub(crate) trait GrowingOperations: Operations {
    /// Projections of the same rows, side by side, as suits a few rows.
    type FewRows: Send + Sync;
    /// Keys, rotated, and values of one layer of one sequence.
    type LayerCache: Send + Sync + 'static;

    /// Bytes of memory for keys and values that nobody has, where they are in a
    /// memory of their own that says so.
    fn free_memory(&self) -> Option<u64> {
        None
    }

    /// Lays out weights `[outputs, inputs]` with their biases, in the type that
    /// all are kept in, or f32.
    fn few_rows(
        &self,
        weights: &[&Param],
        biases: &[Option<&Param>],
        outputs: &[usize],
        inputs: usize,
    ) -> Result<Self::FewRows>;

    /// out = (or +=) x W^T + b for x `[rows, inputs]` and out `[rows, outputs of
    /// all]`.
    fn project_few(
        &self,
        out: &mut Self::Buffer,
        x: View<'_, Self::Buffer>,
        by: &Self::FewRows,
        write: Write,
    ) -> Result<()>;

    /// As [`Operations::embed`], for a table `[vocab, width]` that is laid out.
    fn embed_few(
        &self,
        table: &Self::FewRows,
        ids: &Self::Indices,
        width: usize,
        scale: f32,
        out: &mut Self::Buffer,
    ) -> Result<()>;

    /// Room for so many tokens.
    fn layer_cache(&self, heads: &Heads, room: usize) -> Result<Self::LayerCache>;

    /// Writes the first `len` tokens of another cache to one.
    fn copy_cache(&self, heads: &Heads, from: &Self::LayerCache, len: usize, to: &mut Self::LayerCache) -> Result<()>;

    /// Attention as in [`Operations::attention`], of the new tokens that are
    /// wanted to those of their sequence up to themselves, whose keys, normalised
    /// and rotated, and values are added to the cache. Heads are normalised first,
    /// if norms are given. Writes the outputs to rows of `out` `[.., out_width]`.
    fn attend_cached(
        &self,
        heads: &Heads,
        rope: &Self::Rope,
        qkv: View<'_, Self::Buffer>,
        norms: Option<&[RmsNorm<Self::Weight<'_>>; 2]>,
        parts: &mut [NewRows<'_, Self::LayerCache>],
        out: &mut Self::Buffer,
    ) -> Result<()>;
}
