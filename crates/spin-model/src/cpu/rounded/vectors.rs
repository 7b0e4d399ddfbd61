//! The same by AVX-512: 16 pairs at a time, with the same roundings.

use std::arch::x86_64::{
    __m512i, _mm256_loadu_si256, _mm256_storeu_si256, _mm512_add_epi32, _mm512_and_si512, _mm512_cmpgt_epu32_mask,
    _mm512_cvtepi32_epi16, _mm512_cvtepu16_epi32, _mm512_loadu_si512, _mm512_mask_or_epi32, _mm512_or_si512,
    _mm512_set1_epi32, _mm512_shuffle_i32x4, _mm512_slli_epi32, _mm512_srli_epi32, _mm512_storeu_si512,
    _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};

use half::bf16;

use super::factor::{LANES, Pair, ROWS, TOGETHER};

/// Whether this processor has the instructions.
pub(super) fn are_there() -> bool {
    is_x86_feature_detected!("avx512f")
}

/// Numbers that can be made bf16.
pub(super) trait Number: Copy {
    /// 16 of them as bits of bf16, in the lower halves.
    ///
    /// # Safety
    ///
    /// They are there, and so are the instructions.
    unsafe fn load(from: *const Self) -> __m512i;
}

impl Number for f32 {
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load(from: *const Self) -> __m512i {
        // SAFETY: as the caller promises.
        let bits = unsafe { _mm512_loadu_si512(from.cast()) };
        // As `factor::round`.
        let high = _mm512_srli_epi32::<16>(bits);
        let even = _mm512_and_si512(high, _mm512_set1_epi32(1));
        let up = _mm512_add_epi32(_mm512_set1_epi32(0x7fff), even);
        let rounded = _mm512_srli_epi32::<16>(_mm512_add_epi32(bits, up));
        let size = _mm512_and_si512(bits, _mm512_set1_epi32(0x7fff_ffff));
        let is_nan = _mm512_cmpgt_epu32_mask(size, _mm512_set1_epi32(0x7f80_0000));
        _mm512_mask_or_epi32(rounded, is_nan, high, _mm512_set1_epi32(0x40))
    }
}

impl Number for bf16 {
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load(from: *const Self) -> __m512i {
        // SAFETY: as the caller promises.
        _mm512_cvtepu16_epi32(unsafe { _mm256_loadu_si256(from.cast()) })
    }
}

/// Rounds numbers that follow each other to pairs, as far as whole registers go: says how
/// many pairs that are.
///
/// # Safety
///
/// The instructions are there.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn round_row(values: &[f32], to: &mut [Pair]) -> usize {
    let blocks = (values.len() / (2 * LANES)).min(to.len() / LANES);
    for block in 0..blocks {
        // SAFETY: so many blocks are in both.
        unsafe {
            let from = values.as_ptr().add(block * 2 * LANES);
            let to = to.as_mut_ptr().add(block * LANES).cast::<u16>();
            for half in 0..2 {
                let rounded = _mm512_cvtepi32_epi16(f32::load(from.add(half * LANES)));
                _mm256_storeu_si256(to.add(half * LANES).cast(), rounded);
            }
        }
    }
    blocks * LANES
}

/// Lays 16 lines side by side, pair by pair, whose numbers follow each other: line l's from
/// `first + l * stride` on. As far as whole blocks go: says how many pairs that are.
///
/// # Safety
///
/// The instructions are there.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn turn(
    values: &[bf16],
    [first, stride]: [usize; 2],
    pairs: usize,
    width: usize,
    to: &mut [Pair],
) -> usize {
    let blocks = pairs / LANES;
    if blocks == 0 {
        return 0;
    }
    assert!(first + (LANES - 1) * stride + 2 * blocks * LANES <= values.len());
    assert!((blocks * LANES - 1) * width + LANES <= to.len());
    for block in 0..blocks {
        // SAFETY: asserted above.
        unsafe {
            let from = values.as_ptr().add(first + block * 2 * LANES);
            let lines: [__m512i; LANES] =
                std::array::from_fn(|line| _mm512_loadu_si512(from.add(line * stride).cast()));
            for (index, pairs) in transposed(lines).into_iter().enumerate() {
                _mm512_storeu_si512(to.as_mut_ptr().add((block * LANES + index) * width).cast(), pairs);
            }
        }
    }
    blocks * LANES
}

/// Rows as columns.
#[inline]
#[target_feature(enable = "avx512f")]
fn transposed(rows: [__m512i; LANES]) -> [__m512i; LANES] {
    // Within each quarter of the registers: pairs of rows, then fours.
    let mut twos = rows;
    for at in (0..LANES).step_by(2) {
        twos[at] = _mm512_unpacklo_epi32(rows[at], rows[at + 1]);
        twos[at + 1] = _mm512_unpackhi_epi32(rows[at], rows[at + 1]);
    }
    let mut fours = twos;
    for at in (0..LANES).step_by(4) {
        fours[at] = _mm512_unpacklo_epi64(twos[at], twos[at + 2]);
        fours[at + 1] = _mm512_unpackhi_epi64(twos[at], twos[at + 2]);
        fours[at + 2] = _mm512_unpacklo_epi64(twos[at + 1], twos[at + 3]);
        fours[at + 3] = _mm512_unpackhi_epi64(twos[at + 1], twos[at + 3]);
    }
    // Register 4 q + c has column c of rows 4 q to 4 q + 3 in its first quarter, column
    // 4 + c in its second, and so on: quarters change places.
    let mut out = rows;
    for c in 0..4 {
        let [a, b, e, f] = [fours[c], fours[4 + c], fours[8 + c], fours[12 + c]];
        let (low, high) = (_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0xee>(a, b));
        let (low_after, high_after) = (_mm512_shuffle_i32x4::<0x44>(e, f), _mm512_shuffle_i32x4::<0xee>(e, f));
        out[c] = _mm512_shuffle_i32x4::<0x88>(low, low_after);
        out[4 + c] = _mm512_shuffle_i32x4::<0xdd>(low, low_after);
        out[8 + c] = _mm512_shuffle_i32x4::<0x88>(high, high_after);
        out[12 + c] = _mm512_shuffle_i32x4::<0xdd>(high, high_after);
    }
    out
}

/// 16 pairs whose numbers lie side by side.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn pairs_of<T: Number>(low: *const T, high: *const T) -> __m512i {
    // SAFETY: as the caller promises.
    unsafe { _mm512_or_si512(T::load(low), _mm512_slli_epi32::<16>(T::load(high))) }
}

/// Lays 16 lines that lie side by side so, pair by pair: number n of line l is at `first +
/// n * stride + l`.
///
/// # Safety
///
/// The instructions are there.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn side_by_side<T: Number>(
    values: &[T],
    [first, stride]: [usize; 2],
    pairs: usize,
    width: usize,
    to: &mut [Pair],
) {
    if pairs == 0 {
        return;
    }
    assert!(first + (2 * pairs - 1) * stride + LANES <= values.len());
    assert!((pairs - 1) * width + LANES <= to.len());
    for index in 0..pairs {
        // SAFETY: asserted above.
        unsafe {
            let low = values.as_ptr().add(first + 2 * index * stride);
            _mm512_storeu_si512(to.as_mut_ptr().add(index * width).cast(), pairs_of(low, low.add(stride)));
        }
    }
}

/// The same for the lines of [`TOGETHER`] tiles, `[tile][pair][line in tile]` of which each has
/// room for `room` pairs.
///
/// # Safety
///
/// The instructions are there.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn tiles<T: Number>(
    values: &[T],
    [first, stride]: [usize; 2],
    pairs: usize,
    room: usize,
    to: &mut [Pair],
) {
    if pairs == 0 {
        return;
    }
    assert!(pairs <= room && TOGETHER * ROWS == 3 * LANES);
    assert!(first + (2 * pairs - 1) * stride + TOGETHER * ROWS <= values.len());
    assert!(TOGETHER * ROWS * room <= to.len());
    let mut lines = [0; TOGETHER * ROWS];
    for index in 0..pairs {
        // SAFETY: asserted above.
        unsafe {
            let low = values.as_ptr().add(first + 2 * index * stride);
            for part in 0..3 {
                let low = low.add(part * LANES);
                _mm512_storeu_si512(lines.as_mut_ptr().add(part * LANES).cast(), pairs_of(low, low.add(stride)));
            }
            for (tile, lines) in lines.as_chunks::<ROWS>().0.iter().enumerate() {
                *to.as_mut_ptr().add((tile * room + index) * ROWS).cast::<[Pair; ROWS]>() = *lines;
            }
        }
    }
}
