//! Products of attention for a tile of query rows with a range of keys.
//!
//! A tile of scores holds [`Tiles::ROWS`] rows of `stride` numbers, one per key
//! of the range. Short sequences and long ones want different code: [`Small`]
//! keeps four rows in registers, [`Large`] calls the matrix product.

use std::ops::Range;

use super::math::{Matrix, MatrixMut, Write, matmul_here, mul_add};

/// Keys whose scores [`Small`] computes together; ranges of keys start at
/// multiples of this.
pub(super) const LANES: usize = 16;

/// One head of the keys or values of a span, `[count, dim]`, padded with zero
/// rows to a multiple of [`LANES`].
pub(super) struct HeadRows {
    pub rows: Vec<f32>,
    dim: usize,
    /// With positions side by side, if that was asked for: element (dimension
    /// c, position j) is at `c * positions + j`.
    transposed: Vec<f32>,
}

impl HeadRows {
    /// Takes rows of `dim` numbers, padded.
    pub fn new<T: Tiles>(rows: Vec<f32>, dim: usize) -> Self {
        let positions = rows.len() / dim;
        debug_assert!(positions.is_multiple_of(LANES));
        let mut transposed = Vec::new();
        if T::TRANSPOSES {
            transposed.resize(rows.len(), 0.0);
            for (position, row) in rows.chunks_exact(dim).enumerate() {
                for (dimension, value) in row.iter().enumerate() {
                    transposed[dimension * positions + position] = *value;
                }
            }
        }
        Self { rows, dim, transposed }
    }

    fn part(&self, keys: &Range<usize>) -> &[f32] {
        &self.rows[keys.start * self.dim..keys.end * self.dim]
    }
}

/// The products. `vectors` are `ROWS` rows of a head, `keys` the range of
/// positions that the tile's columns stand for.
pub(super) trait Tiles {
    /// Query rows per tile.
    const ROWS: usize;
    /// Whether [`Tiles::scores`] needs transposed keys.
    const TRANSPOSES: bool;

    /// tile[q, j] = vectors[q] . head[j]. Columns between the end of the range
    /// and the stride are undefined.
    fn scores(vectors: &[f32], head: &HeadRows, keys: &Range<usize>, tile: &mut [f32]);

    /// out[q] = sum over j of tile[q, j] head[j].
    fn mix(tile: &[f32], head: &HeadRows, keys: &Range<usize>, out: &mut [f32]);

    /// sums[j] += sum over q of tile[q, j] vectors[q], for all j of the range.
    fn add_outers(tile: &[f32], vectors: &[f32], keys: &Range<usize>, sums: &mut [f32]);
}

/// Four rows in registers. `D` is the head's width, so that loops over it have
/// a constant bound, or 0 for widths without code of their own.
pub(super) struct Small<const D: usize>;

/// Matrix products of [`Large::ROWS`] rows.
pub(super) struct Large;

const QUERIES: usize = 4;

impl<const D: usize> Tiles for Small<D> {
    const ROWS: usize = QUERIES;
    const TRANSPOSES: bool = true;

    #[inline(always)]
    fn scores(vectors: &[f32], head: &HeadRows, keys: &Range<usize>, tile: &mut [f32]) {
        let width = if D == 0 { head.dim } else { D };
        let vectors = &vectors[..QUERIES * width];
        let (stride, positions) = (tile.len() / QUERIES, head.rows.len() / width);
        for start in keys.clone().step_by(LANES) {
            let mut sums = [[0.0_f32; LANES]; QUERIES];
            for dimension in 0..width {
                let at = dimension * positions + start;
                let column: &[f32; LANES] =
                    head.transposed[at..at + LANES].try_into().expect("positions are padded to LANES");
                for query in 0..QUERIES {
                    let factor = vectors[query * width + dimension];
                    for lane in 0..LANES {
                        sums[query][lane] = mul_add(factor, column[lane], sums[query][lane]);
                    }
                }
            }
            for (query, sums) in sums.iter().enumerate() {
                let at = query * stride + start - keys.start;
                tile[at..at + LANES].copy_from_slice(sums);
            }
        }
    }

    #[inline(always)]
    fn mix(tile: &[f32], head: &HeadRows, keys: &Range<usize>, out: &mut [f32]) {
        let rows = head.part(keys);
        if D == 0 {
            let stride = tile.len() / QUERIES;
            for (weights, out) in tile.chunks_exact(stride).zip(out.chunks_exact_mut(head.dim)) {
                out.fill(0.0);
                for (weight, row) in weights.iter().zip(rows.chunks_exact(head.dim)) {
                    for (sum, value) in out.iter_mut().zip(row) {
                        *sum = mul_add(*weight, *value, *sum);
                    }
                }
            }
            return;
        }
        let tile = tile_rows(tile, keys.len());
        let mut sums = [[0.0_f32; D]; QUERIES];
        for (j, row) in rows.chunks_exact(D).enumerate() {
            for (weights, sums) in tile.into_iter().zip(&mut sums) {
                for i in 0..D {
                    sums[i] = mul_add(weights[j], row[i], sums[i]);
                }
            }
        }
        for (sums, out) in sums.iter().zip(out.chunks_exact_mut(D)) {
            out.copy_from_slice(sums);
        }
    }

    #[inline(always)]
    fn add_outers(tile: &[f32], vectors: &[f32], keys: &Range<usize>, sums: &mut [f32]) {
        let width = if D == 0 { vectors.len() / QUERIES } else { D };
        let sums = &mut sums[keys.start * width..keys.end * width];
        let tile = tile_rows(tile, keys.len());
        if D == 0 {
            return add_outers_of_any_width(tile, vectors, width, sums);
        }
        // Local arrays: through the slices, every store could change the
        // vectors as far as the compiler knows, and nothing would be
        // vectorised.
        let vectors: [[f32; D]; QUERIES] = std::array::from_fn(|query| std::array::from_fn(|i| vectors[query * D + i]));
        for (j, row) in sums.chunks_exact_mut(D).enumerate() {
            let mut sums: [f32; D] = std::array::from_fn(|i| row[i]);
            for (weights, vector) in tile.into_iter().zip(&vectors) {
                for i in 0..D {
                    sums[i] = mul_add(weights[j], vector[i], sums[i]);
                }
            }
            row.copy_from_slice(&sums);
        }
    }
}

/// Not inlined: among a caller's other slices the compiler loses sight of the
/// sums being nobody else's, and vectorises nothing.
#[inline(never)]
fn add_outers_of_any_width(tile: [&[f32]; QUERIES], vectors: &[f32], width: usize, sums: &mut [f32]) {
    for (weights, vector) in tile.into_iter().zip(vectors.chunks_exact(width)) {
        for (weight, sums) in weights.iter().zip(sums.chunks_exact_mut(width)) {
            for (sum, value) in sums.iter_mut().zip(vector) {
                *sum = mul_add(*weight, *value, *sum);
            }
        }
    }
}

#[inline(always)]
fn tile_rows(tile: &[f32], count: usize) -> [&[f32]; QUERIES] {
    let stride = tile.len() / QUERIES;
    std::array::from_fn(|query| &tile[query * stride..query * stride + count])
}

impl Tiles for Large {
    const ROWS: usize = 64;
    const TRANSPOSES: bool = false;

    fn scores(vectors: &[f32], head: &HeadRows, keys: &Range<usize>, tile: &mut [f32]) {
        let vectors = Matrix::new(vectors, Self::ROWS, head.dim);
        let keys_matrix = Matrix::new(head.part(keys), keys.len(), head.dim);
        let stride = tile.len() / Self::ROWS;
        let tile = MatrixMut::columns(tile, stride, 0..keys.len());
        matmul_here(tile, vectors, keys_matrix.transposed(), 1.0, Write::Over);
    }

    fn mix(tile: &[f32], head: &HeadRows, keys: &Range<usize>, out: &mut [f32]) {
        let weights = Matrix::columns(tile, tile.len() / Self::ROWS, 0..keys.len());
        let values = Matrix::new(head.part(keys), keys.len(), head.dim);
        matmul_here(MatrixMut::new(out, Self::ROWS, head.dim), weights, values, 1.0, Write::Over);
    }

    fn add_outers(tile: &[f32], vectors: &[f32], keys: &Range<usize>, sums: &mut [f32]) {
        let dim = vectors.len() / Self::ROWS;
        let weights = Matrix::columns(tile, tile.len() / Self::ROWS, 0..keys.len());
        let vectors = Matrix::new(vectors, Self::ROWS, dim);
        let sums = &mut sums[keys.start * dim..keys.end * dim];
        matmul_here(MatrixMut::new(sums, keys.len(), dim), weights.transposed(), vectors, 1.0, Write::Add);
    }
}
