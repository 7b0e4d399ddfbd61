//! Small dense kernels of attention, for [`QUERIES`] query rows at a time.
//!
//! A tile of scores holds `QUERIES` rows of `stride` numbers. Loops over a
//! head's width have a constant bound `D` for common widths, so that sums stay
//! in registers; 0 stands for any other width.

use super::math::mul_add;

/// Query rows per tile.
pub(super) const QUERIES: usize = 4;

/// Keys whose scores are computed together, in registers.
const LANES: usize = 16;

/// The stride of a tile with this many keys.
pub(super) fn tile_stride(keys: usize) -> usize {
    keys.next_multiple_of(LANES)
}

/// One head of some rows with positions side by side: element (dimension c,
/// position j) is at `c * stride + j`. Positions are padded with zeros.
pub(super) struct Transposed {
    values: Vec<f32>,
    stride: usize,
}

impl Transposed {
    /// Transposes rows of `head_dim` numbers.
    pub fn new(rows: &[f32], head_dim: usize) -> Self {
        let stride = tile_stride(rows.len() / head_dim);
        let mut values = vec![0.0; stride * head_dim];
        for (position, row) in rows.chunks_exact(head_dim).enumerate() {
            for (dimension, value) in row.iter().enumerate() {
                values[dimension * stride + position] = *value;
            }
        }
        Self { values, stride }
    }

    /// Writes a tile: the products of `QUERIES` rows with the first `count`
    /// positions (and some of the padding after them).
    #[inline(always)]
    pub fn products<const D: usize>(&self, queries: &[f32], count: usize, tile: &mut [f32]) {
        let width = if D == 0 { queries.len() / QUERIES } else { D };
        let queries = &queries[..QUERIES * width];
        for start in (0..count).step_by(LANES) {
            let mut sums = [[0.0_f32; LANES]; QUERIES];
            for dimension in 0..width {
                let at = dimension * self.stride + start;
                let column: &[f32; LANES] =
                    self.values[at..at + LANES].try_into().expect("positions are padded to LANES");
                for query in 0..QUERIES {
                    let factor = queries[query * width + dimension];
                    for lane in 0..LANES {
                        sums[query][lane] = mul_add(factor, column[lane], sums[query][lane]);
                    }
                }
            }
            for (query, sums) in sums.iter().enumerate() {
                let at = query * self.stride + start;
                tile[at..at + LANES].copy_from_slice(sums);
            }
        }
    }
}

/// `out` row q = sum over j < `count` of `tile[q, j]` times row j of `rows`.
#[inline(always)]
pub(super) fn weighted_sums<const D: usize>(tile: &[f32], count: usize, rows: &[f32], out: &mut [f32]) {
    let stride = tile.len() / QUERIES;
    if D == 0 {
        let width = out.len() / QUERIES;
        for (weights, out) in tile.chunks_exact(stride).zip(out.chunks_exact_mut(width)) {
            out.fill(0.0);
            for (weight, row) in weights[..count].iter().zip(rows.chunks_exact(width)) {
                for (sum, value) in out.iter_mut().zip(row) {
                    *sum = mul_add(*weight, *value, *sum);
                }
            }
        }
        return;
    }
    let (a, b, c, d) = tile_rows(tile, count);
    let mut sums = [[0.0_f32; D]; QUERIES];
    for (j, row) in rows.chunks_exact(D).take(count).enumerate() {
        for (weights, sums) in [a, b, c, d].into_iter().zip(&mut sums) {
            for i in 0..D {
                sums[i] = mul_add(weights[j], row[i], sums[i]);
            }
        }
    }
    for (sums, out) in sums.iter().zip(out.chunks_exact_mut(D)) {
        out.copy_from_slice(sums);
    }
}

/// Row j < `count` of `rows` += sum over q of `tile[q, j]` times row q of
/// `vectors`.
#[inline(always)]
pub(super) fn add_outers<const D: usize>(tile: &[f32], count: usize, vectors: &[f32], rows: &mut [f32]) {
    let (a, b, c, d) = tile_rows(tile, count);
    if D == 0 {
        let width = vectors.len() / QUERIES;
        for (weights, vector) in [a, b, c, d].into_iter().zip(vectors.chunks_exact(width)) {
            for (weight, sums) in weights.iter().zip(rows.chunks_exact_mut(width)) {
                for (sum, value) in sums.iter_mut().zip(vector) {
                    *sum = mul_add(*weight, *value, *sum);
                }
            }
        }
        return;
    }
    // Local arrays: through the slices, every store could change the vectors
    // as far as the compiler knows, and nothing would be vectorised.
    let vectors: [[f32; D]; QUERIES] = std::array::from_fn(|query| std::array::from_fn(|i| vectors[query * D + i]));
    for (j, row) in rows.chunks_exact_mut(D).take(count).enumerate() {
        let mut sums: [f32; D] = std::array::from_fn(|i| row[i]);
        for (weights, vector) in [a, b, c, d].into_iter().zip(&vectors) {
            for i in 0..D {
                sums[i] = mul_add(weights[j], vector[i], sums[i]);
            }
        }
        row.copy_from_slice(&sums);
    }
}

#[inline(always)]
fn tile_rows(tile: &[f32], count: usize) -> (&[f32], &[f32], &[f32], &[f32]) {
    let stride = tile.len() / QUERIES;
    let row = |query: usize| &tile[query * stride..query * stride + count];
    (row(0), row(1), row(2), row(3))
}
