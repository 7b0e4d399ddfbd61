//! What attention is told about rows: which see which, and which a block computes together. Made once for a batch, on
//! the host, as lists of u32 that go to the device as they are.

use crate::error::{Error, Result};

/// Warps of a block of the attention kernels.
const WARPS: usize = 4;
/// Keys or queries at a time.
const LANES: usize = 32;
/// Query rows that a block of the kernel for tensor cores computes.
const WIDE_ROWS: usize = 64;
/// Words of a span on the device.
const WORDS_OF_SPAN: usize = 4;

/// The width of heads that a kernel is compiled for: the next of 32, 64, 128 and 256.
pub(crate) fn padded(kernel: &'static str, dim: usize) -> Result<usize> {
    match [32, 64, 128, 256].into_iter().find(|padded| dim <= *padded) {
        Some(padded) if dim > 0 => Ok(padded),
        _ => Err(Error::shape(kernel, format!("heads of {dim} are wider than 256, or of no width"))),
    }
}

/// Query vectors, or keys, that a block computes together.
pub(crate) fn block_rows(padded: usize) -> usize {
    WARPS * if padded <= 128 { 4 } else { 2 }
}

/// Bytes of shared memory: `own` matrices of the block's vectors, two of 32 others, `weights` numbers for each pair.
pub(crate) fn shared_bytes(padded: usize, own: usize, weights: usize) -> usize {
    let rows = block_rows(padded);
    4 * (own * rows * padded + 2 * LANES * (padded + 1) + weights * rows * LANES)
}

/// A sequence: rows computed for another, then its own (`spin-model/src/batch.rs`, `Span`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// First of the rows that it shares.
    pub shared: usize,
    /// How many.
    pub shared_len: usize,
    /// First of its own rows.
    pub own: usize,
    /// How many.
    pub own_len: usize,
}

/// Spans and tiles of a batch, for heads of one width.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttentionPlan {
    /// `[spans, 4]`.
    pub spans: Vec<u32>,
    /// Query rows that a block computes, `[tiles, 3]`: span, first, count.
    pub tiles: Vec<u32>,
    /// The same for `attention_mma`, whose blocks have more rows.
    pub wide_tiles: Vec<u32>,
    /// Keys that a block computes the gradients of, `[tiles, 5]`: span, first, count, first and last span whose queries
    /// may see them.
    pub key_tiles: Vec<u32>,
    /// Rows of the batch.
    pub rows: usize,
    /// Of the heads.
    pub dim: usize,
}

impl AttentionPlan {
    /// For groups of spans that only see each other; heads of width `dim`.
    ///
    /// # Errors
    ///
    /// If heads are too wide, or a span shares rows of another group.
    pub fn new(groups: &[Vec<Span>], dim: usize) -> Result<Self> {
        let kernel = "attention";
        let at_once = block_rows(padded(kernel, dim)?);
        let (spans, tiles, wide_tiles, key_tiles) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut plan = Self { spans, tiles, wide_tiles, key_tiles, rows: 0, dim };
        for group in groups {
            let first = plan.spans.len() / WORDS_OF_SPAN;
            let last = first + group.len();
            for (index, span) in group.iter().enumerate() {
                let owner = |row: usize| group.iter().any(|span| (span.own..span.own + span.own_len).contains(&row));
                if span.shared_len > 0 && !(owner(span.shared) && owner(span.shared + span.shared_len - 1)) {
                    return Err(Error::shape(kernel, format!("{span:?} shares rows that its group has not")));
                }
                plan.rows = plan.rows.max(span.own + span.own_len);
                let words = [span.shared, span.shared_len, span.own, span.own_len];
                plan.spans.extend(words.map(|word| word as u32));
                for at in (0..span.own_len).step_by(WIDE_ROWS) {
                    let count = WIDE_ROWS.min(span.own_len - at);
                    plan.wide_tiles.extend([first + index, at, count].map(|word| word as u32));
                }
                for at in (0..span.own_len).step_by(at_once) {
                    let count = at_once.min(span.own_len - at);
                    plan.tiles.extend([first + index, at, count].map(|word| word as u32));
                    plan.key_tiles.extend([first + index, at, count, first, last].map(|word| word as u32));
                }
            }
        }
        Ok(plan)
    }
}

/// What rows of a tree see: stretches of keys for tiles of the rows whose outputs are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreePlan {
    /// `[stretches, 3]`: first key, how many, whether they are of the cached path.
    pub stretches: Vec<u32>,
    /// `[tiles, 5]`: first of the wanted rows, how many, first and last stretch, keys of all its stretches.
    pub tiles: Vec<u32>,
    /// Of the heads.
    pub dim: usize,
}

impl TreePlan {
    /// For rows in depth-first order, of which `ends` gives the row after the last below each, behind a cached path of
    /// which `path_ends` gives the same; `wanted` rows in order; heads of width `dim`. See
    /// `spin-model/src/cpu/tree.rs`.
    ///
    /// # Errors
    ///
    /// If heads are too wide.
    pub fn new(ends: &[u32], path_ends: &[u32], wanted: &[u32], dim: usize) -> Result<Self> {
        let at_once = block_rows(padded("attention_tree", dim)?);
        let mut plan = Self { stretches: Vec::new(), tiles: Vec::new(), dim };
        for (index, rows) in wanted.chunks(at_once).enumerate() {
            let (first, last) = (rows[0], rows[rows.len() - 1]);
            let before = plan.stretches.len() / 3;
            let mut keys = 0;
            let cached = (0..path_ends.len()).filter(|position| first < path_ends[*position]).map(|key| (key, 1));
            // A row before the tile's first is seen by it or by none of the tile; one among them may be seen by some.
            let own = (0..=last as usize).filter(|key| first < ends[*key]).map(|key| (key, 0));
            for (key, is_cached) in cached.chain(own) {
                keys += 1;
                match plan.stretches[3 * before..].last_chunk_mut::<3>() {
                    Some([start, count, kind]) if *kind == is_cached && (*start + *count) as usize == key => {
                        *count += 1
                    }
                    _ => plan.stretches.extend([key as u32, 1, is_cached]),
                }
            }
            let words = [index * at_once, rows.len(), before, plan.stretches.len() / 3, keys];
            plan.tiles.extend(words.map(|word| word as u32));
        }
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_each_row_once() {
        let spans = |lens: &[(usize, usize)]| {
            let mut next = 0;
            let mut span = |(shared_len, own_len): (usize, usize)| {
                let own = next;
                next += own_len;
                Span { shared: 0, shared_len, own, own_len }
            };
            lens.iter().map(|len| span(*len)).collect::<Vec<_>>()
        };
        let plan = AttentionPlan::new(&[spans(&[(0, 40), (33, 7), (33, 0)])], 64).unwrap();
        assert_eq!(plan.rows, 47);
        assert_eq!(plan.tiles, [0, 0, 16, 0, 16, 16, 0, 32, 8, 1, 0, 7]);
        assert_eq!(plan.wide_tiles, [0, 0, 40, 1, 0, 7]);
        assert_eq!(plan.key_tiles[..10], [0, 0, 16, 0, 3, 0, 16, 16, 0, 3]);
        let message = AttentionPlan::new(&[spans(&[(0, 4), (9, 7)])], 64);
        assert!(message.is_ok(), "rows of a sibling are the group's");
        assert!(AttentionPlan::new(&[spans(&[(0, 4), (12, 7)])], 64).is_err());
        assert!(AttentionPlan::new(&[spans(&[(0, 4)])], 257).is_err());
    }

    #[test]
    fn stretches_are_what_some_row_of_the_tile_sees() {
        // Path of two, of which the first two rows see all, the rest the first. Row 2 begins another branch.
        let plan = TreePlan::new(&[2, 2, 4, 4], &[4, 2], &[0, 1, 2, 3], 64).unwrap();
        assert_eq!(plan.stretches, [0, 2, 1, 0, 4, 0]);
        assert_eq!(plan.tiles, [0, 4, 0, 2, 6]);
        let plan = TreePlan::new(&[2, 2, 4, 4], &[4, 2], &[3], 64).unwrap();
        assert_eq!(plan.stretches, [0, 1, 1, 2, 2, 0]);
    }
}
