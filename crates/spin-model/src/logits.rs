//! Rows of logits, for those who choose tokens from them.

use crate::cpu::exp;

/// Numbers that compilers keep in vector registers.
const LANES: usize = 16;
/// Terms that are added in f32 before their sum goes into an f64.
const BLOCK: usize = 1024;

/// The largest of some logits. Minus infinity is a legal logit, of a token that
/// is forbidden; `None` if any is NaN or infinity, or all are forbidden.
pub fn largest_logit(logits: &[f32]) -> Option<f32> {
    let mut largest = [f32::NEG_INFINITY; LANES];
    let mut fine = [true; LANES];
    let mut chunks = logits.chunks_exact(LANES);
    for chunk in &mut chunks {
        for lane in 0..LANES {
            let logit = chunk[lane];
            fine[lane] &= logit < f32::INFINITY;
            largest[lane] = if logit > largest[lane] { logit } else { largest[lane] };
        }
    }
    let rest = chunks.remainder();
    if !fine.iter().all(|fine| *fine) || !rest.iter().all(|logit| *logit < f32::INFINITY) {
        return None;
    }
    let top = largest.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
    (top > f32::NEG_INFINITY).then_some(top)
}

/// Writes e^((logit - top) / temperature) of each logit to `weights`, with an
/// error of about one unit in the last place of the difference, and gives
/// their sum. Weights below e^-87 are 0, as are those of forbidden tokens.
///
/// With `top` the largest logit the natural log-probability of a token is
/// (logit - top) / temperature - ln(sum).
pub fn softmax_weights(logits: &[f32], top: f32, temperature: f64, weights: &mut Vec<f32>) -> f64 {
    let scale = (1.0 / temperature) as f32;
    let weight = |logit: f32| {
        let score = (logit - top) * scale;
        if score > -87.0 { exp(score) } else { 0.0 }
    };
    weights.resize(logits.len(), 0.0);
    let mut total = 0.0;
    for (weights, logits) in weights.chunks_mut(BLOCK).zip(logits.chunks(BLOCK)) {
        let mut sums = [0.0_f32; LANES];
        let mut chunks = weights.chunks_exact_mut(LANES);
        let mut logit_chunks = logits.chunks_exact(LANES);
        for (weights, logits) in (&mut chunks).zip(&mut logit_chunks) {
            for lane in 0..LANES {
                weights[lane] = weight(logits[lane]);
                sums[lane] += weights[lane];
            }
        }
        let rest = chunks.into_remainder().iter_mut().zip(logit_chunks.remainder());
        for ((to, logit), sum) in rest.zip(&mut sums) {
            *to = weight(*logit);
            *sum += *to;
        }
        total += f64::from(sums.iter().sum::<f32>());
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_those_of_the_softmax() {
        for (count, temperature) in [(1, 1.0), (17, 1.0), (1000, 0.7), (5000, 1.9), (33_000, 1.0)] {
            let mut logits = crate::init::standard_normal(1, "logits", count);
            logits.iter_mut().for_each(|logit| *logit = 5.0 * *logit + 100.0);
            logits[count / 2] = if count > 1 { f32::NEG_INFINITY } else { 3.0 };
            let top = largest_logit(&logits).unwrap();
            assert_eq!(top, logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            let mut weights = vec![9.0; 3];
            let total = softmax_weights(&logits, top, temperature, &mut weights);
            let exact = logits.iter().map(|logit| (f64::from(logit - top) / temperature).exp());
            let mut sum = 0.0;
            for (weight, exact) in weights.iter().zip(exact) {
                assert!((f64::from(*weight) - exact).abs() <= 1e-5 * exact, "{weight} {exact}");
                sum += exact;
            }
            assert_eq!(weights.len(), count);
            assert!((total - sum).abs() < 1e-6 * sum, "{total} {sum}");
            assert!(count == 1 || weights[count / 2] == 0.0);
        }
    }

    #[test]
    fn broken_logits_have_no_largest() {
        for position in [0, 7, 16, 40] {
            for broken in [f32::NAN, f32::INFINITY] {
                let mut logits = vec![1.0; 41];
                logits[position] = broken;
                assert_eq!(largest_logit(&logits), None, "{position} {broken}");
            }
        }
        assert_eq!(largest_logit(&[f32::NEG_INFINITY; 20]), None);
        assert_eq!(largest_logit(&[]), None);
        assert_eq!(largest_logit(&[f32::NEG_INFINITY, -3.0]), Some(-3.0));
    }
}
