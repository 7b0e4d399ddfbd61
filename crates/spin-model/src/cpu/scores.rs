//! Scores of tokens from a row of logits.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::math::{exp, max};
use crate::request::{Rounding, TargetScore};

/// The sum of e^(logit - max).
pub(super) fn sum_exp(logits: &[f32], max: f32) -> f32 {
    let mut sums = [0.0_f32; 8];
    let chunks = logits.chunks_exact(8);
    let rest: f32 = chunks.remainder().iter().map(|x| exp(x - max)).sum();
    for chunk in chunks {
        for lane in 0..8 {
            sums[lane] += exp(chunk[lane] - max);
        }
    }
    sums.iter().sum::<f32>() + rest
}

/// What becomes of numbers that are stored in a smaller type.
fn round(values: &mut [f32], rounding: Rounding) {
    // As much as stays in the nearest cache.
    const CHUNK: usize = 256;
    match rounding {
        Rounding::None => {}
        Rounding::BFloat16 => values.chunks_mut(CHUNK).for_each(|values| {
            let mut rounded = [bf16::ZERO; CHUNK];
            let rounded = &mut rounded[..values.len()];
            rounded.convert_from_f32_slice(values);
            rounded.convert_to_f32_slice(values);
        }),
        Rounding::Float16 => values.chunks_mut(CHUNK).for_each(|values| {
            let mut rounded = [f16::ZERO; CHUNK];
            let rounded = &mut rounded[..values.len()];
            rounded.convert_from_f32_slice(values);
            rounded.convert_to_f32_slice(values);
        }),
    }
}

fn rounded(value: f32, rounding: Rounding) -> f32 {
    let mut value = [value];
    round(&mut value, rounding);
    value[0]
}

/// The largest of some logits, which are rounded, and the sum of
/// e^(logit - largest).
pub(super) fn sum_of(logits: &mut [f32], rounding: Rounding) -> (f32, f32) {
    round(logits, rounding);
    let max = max(logits);
    // Minus infinity stands for numbers that are none, or for no probability.
    let base = if max == f32::NEG_INFINITY { 0.0 } else { max };
    (max, sum_exp(logits, base))
}

impl TargetScore {
    /// From a token's logit, the largest of those before it, and the largest
    /// of all with the sum of e^(logit - largest).
    pub(super) fn of(logit: f32, before: f32, (max, sum): (f32, f32), rounding: Rounding) -> Self {
        let log_sum = sum.ln();
        let logp = |logit: f32| rounded(logit - max - log_sum, rounding);
        // Rounding keeps the order, but makes equals; the first of them counts.
        // Log-probabilities in f32 would make equals, too.
        let is_greedy = match rounding {
            Rounding::None => logit == max && before < max,
            _ => logp(logit) == logp(max) && logp(before) < logp(max),
        };
        Self { logp: logp(logit), is_greedy: is_greedy && !sum.is_nan() }
    }
}

/// The scores of tokens after one row of logits, which are rounded.
pub(crate) fn score_row(
    logits: &mut [f32],
    targets: impl Iterator<Item = u32>,
    rounding: Rounding,
) -> impl Iterator<Item = TargetScore> {
    let sum = sum_of(logits, rounding);
    let logits = &*logits;
    targets.map(move |target| {
        let target = target as usize;
        TargetScore::of(logits[target], max(&logits[..target]), sum, rounding)
    })
}
