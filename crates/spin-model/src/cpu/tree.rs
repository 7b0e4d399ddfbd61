//! A tree of tokens: which rows see which, where sequences share the rows of
//! what they begin with.
//!
//! Rows are in depth-first order, so the rows below a row are the ones that
//! follow it, up to its end: row r sees row j if j <= r < end(j). A path of
//! rows computed earlier leads to the first row; its keys and values are
//! cached.

use std::ops::Range;

use rayon::prelude::*;

use crate::request::TreeRows;

/// Query rows per tile; at most the bits of a mask.
pub(super) const TILE: usize = 64;

/// Keys that consecutive query rows of a tile see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stretch {
    /// Whether the keys are those of the cached path, rather than of the rows.
    pub cached: bool,
    /// Positions of the path, or rows.
    pub keys: Range<usize>,
    /// Position of the first key.
    pub position: usize,
    /// Numbers within the tile.
    pub queries: Range<usize>,
    /// Where keys of several branches are together: what each query sees.
    /// Otherwise each sees all, up to its own row.
    pub masks: Option<Vec<Mask>>,
}

/// The keys of a stretch that a query sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mask {
    pub bits: u64,
    /// Position of the last of them.
    pub last: usize,
}

/// Query rows computed together.
#[derive(Debug)]
pub(super) struct Tile {
    pub rows: Vec<usize>,
    pub positions: Vec<usize>,
    pub stretches: Vec<Stretch>,
}

/// What each of the rows asked for sees.
#[derive(Debug)]
pub(super) struct TileList(pub Vec<Tile>);

/// Consecutive rows, each below the one before, that have one end.
struct Segment {
    rows: Range<usize>,
    end: usize,
    parent: Option<usize>,
}

/// The segments of a tree, in the order of their rows.
pub(super) struct Segments<'a> {
    rows: &'a TreeRows<'a>,
    own: Vec<Segment>,
    cached: Vec<(Range<usize>, usize)>,
}

impl<'a> Segments<'a> {
    pub fn new(rows: &'a TreeRows<'a>) -> Self {
        let mut own: Vec<Segment> = Vec::new();
        for row in 0..rows.ids.len() {
            let end = rows.ends[row] as usize;
            let continues = row > 0 && rows.positions[row] == rows.positions[row - 1] + 1;
            match own.last_mut() {
                Some(last) if continues && last.end == end => last.rows.end = row + 1,
                _ => {
                    let mut parent = own.len().checked_sub(1);
                    while let Some(above) = parent
                        && own[above].end <= row
                    {
                        parent = own[above].parent;
                    }
                    own.push(Segment { rows: row..row + 1, end, parent });
                }
            }
        }
        let mut cached: Vec<(Range<usize>, usize)> = Vec::new();
        for (position, end) in rows.cached_ends.iter().enumerate() {
            match cached.last_mut() {
                Some((positions, last)) if *last == *end as usize => positions.end = position + 1,
                _ => cached.push((position..position + 1, *end as usize)),
            }
        }
        Self { rows, own, cached }
    }

    /// What `queries`, rows in order, see.
    pub fn tiles(&self, queries: &[u32]) -> TileList {
        TileList(
            queries.par_chunks(TILE).map(|rows| self.tile(rows.iter().map(|row| *row as usize).collect())).collect(),
        )
    }

    fn tile(&self, rows: Vec<usize>) -> Tile {
        let (first, last) = (rows[0], rows[rows.len() - 1]);
        let mut stretches: Vec<Stretch> = Vec::new();
        for (positions, end) in &self.cached {
            let queries = 0..rows.partition_point(|row| row < end);
            if queries.is_empty() {
                break;
            }
            match stretches.last_mut() {
                Some(last) if last.queries == queries => last.keys.end = positions.end,
                _ => stretches.push(Stretch {
                    cached: true,
                    keys: positions.clone(),
                    position: positions.start,
                    queries,
                    masks: None,
                }),
            }
        }
        let cached = stretches.len();
        let home = self.own.partition_point(|segment| segment.rows.start <= first) - 1;
        let mut path: Vec<usize> = std::iter::successors(Some(home), |segment| self.own[*segment].parent).collect();
        path.reverse();
        let after = (home + 1..self.own.len()).take_while(|segment| self.own[*segment].rows.start <= last);
        for segment in path.into_iter().chain(after).map(|segment| &self.own[segment]) {
            let queries =
                rows.partition_point(|row| *row < segment.rows.start)..rows.partition_point(|row| *row < segment.end);
            if queries.is_empty() {
                continue;
            }
            // What only rows of the segment see ends with the last of them.
            let keys = segment.rows.start..segment.rows.end.min(rows[queries.end - 1] + 1);
            if let Some(before) = stretches[cached..].last_mut()
                && before.keys.end == keys.start
            {
                let joined = before.queries.start..before.queries.end.max(queries.end);
                if before.masks.is_none() && before.queries == queries {
                    before.keys.end = keys.end;
                    continue;
                }
                // One product of a few keys that not all see costs less than
                // several of fewer keys.
                if keys.end - before.keys.start <= TILE {
                    before.keys.end = keys.end;
                    before.queries = joined;
                    before.masks = Some(Vec::new());
                    continue;
                }
            }
            let position = self.rows.positions[keys.start] as usize;
            stretches.push(Stretch { cached: false, keys, position, queries, masks: None });
        }
        for Stretch { keys, queries, masks, .. } in &mut stretches {
            if let Some(masks) = masks {
                let sees = |row: usize, key: usize| key <= row && row < self.rows.ends[key] as usize;
                masks.extend(rows[queries.clone()].iter().map(|row| {
                    let bits = keys.clone().rev().fold(0, |bits, key| bits << 1 | u64::from(sees(*row, key)));
                    let last = keys.clone().rev().find(|key| sees(*row, *key));
                    Mask { bits, last: last.map_or(0, |key| self.rows.positions[key] as usize) }
                }));
            }
        }
        let positions = rows.iter().map(|row| self.rows.positions[*row] as usize).collect();
        Tile { rows, positions, stretches }
    }
}
