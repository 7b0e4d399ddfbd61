//! Picking a token from logits: greedy, or an exact draw by the Gumbel-max
//! rule (argmax of logit/T + Gumbel noise is distributed as softmax(logit/T)).

use crate::noise::{Key, LARGEST_GUMBEL};

/// How tokens are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decoding {
    /// 0 is greedy.
    pub temperature: f64,
    /// Keep the k most likely; 0 for all.
    pub top_k: usize,
    /// Keep the smallest set with this probability; 1 for all.
    pub top_p: f64,
}

/// Picks the token of step `step` from `[vocab]` logits. Returns the id and
/// its natural log-probability under the model itself: temperature 1, whole
/// vocabulary. `None` when a logit is NaN or all are −∞.
pub fn choose(logits: &[f32], decoding: &Decoding, key: Key, step: u64) -> Option<(u32, f64)> {
    // `-inf` is a legal logit (a forbidden token); NaN and `+inf` are not.
    let top = logits.iter().copied().try_fold(f32::NEG_INFINITY, |m, x| (x < f32::INFINITY).then(|| m.max(x)))?;
    if top == f32::NEG_INFINITY {
        return None;
    }
    let top = f64::from(top);
    let id = if decoding.temperature == 0.0 {
        logits.iter().position(|&x| f64::from(x) == top)?
    } else {
        sample(logits, top, decoding, key, step)
    };
    let total: f64 = logits.iter().map(|&x| (f64::from(x) - top).exp()).sum();
    Some((u32::try_from(id).ok()?, f64::from(logits[id]) - top - total.ln()))
}

fn sample(logits: &[f32], top: f64, decoding: &Decoding, key: Key, step: u64) -> usize {
    let floor = threshold(logits, top, decoding);
    let noise = key.step(step);
    let (mut best, mut best_score) = (0, f64::NEG_INFINITY);
    for (id, &logit) in logits.iter().enumerate() {
        let score = (f64::from(logit) - top) / decoding.temperature;
        // Most of a large vocabulary is out of reach of any noise.
        if logit < floor || score + LARGEST_GUMBEL <= best_score {
            continue;
        }
        let score = score + noise.gumbel(id as u64);
        if score > best_score {
            (best, best_score) = (id, score);
        }
    }
    best
}

/// The lowest logit that top-k and top-p (in this order, as in transformers)
/// leave in. Ties with it stay in.
fn threshold(logits: &[f32], top: f64, decoding: &Decoding) -> f32 {
    let keep_k = decoding.top_k > 0 && decoding.top_k < logits.len();
    if !keep_k && decoding.top_p >= 1.0 {
        return f32::NEG_INFINITY;
    }
    let mut sorted = logits.to_vec();
    sorted.sort_unstable_by(|a, b| b.total_cmp(a));
    if keep_k {
        sorted.truncate(decoding.top_k);
    }
    if decoding.top_p < 1.0 {
        let weight = |x: f32| ((f64::from(x) - top) / decoding.temperature).exp();
        let total: f64 = sorted.iter().map(|&x| weight(x)).sum();
        let mut sum = 0.0;
        for &x in &sorted {
            sum += weight(x);
            if sum >= decoding.top_p * total {
                return x;
            }
        }
    }
    sorted.last().copied().unwrap_or(f32::NEG_INFINITY)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Decoding = Decoding { temperature: 1.0, top_k: 0, top_p: 1.0 };
    const LOGITS: [f32; 5] = [1.0, 0.0, 2.0, -1.0, f32::NEG_INFINITY];

    fn counts(decoding: &Decoding, n: u64) -> [f64; 5] {
        let mut counts = [0.0; 5];
        for i in 0..n {
            let key = Key::new(3, "test", &i.to_string(), 0);
            counts[choose(&LOGITS, decoding, key, 0).unwrap().0 as usize] += 1.0;
        }
        counts.map(|c| c / n as f64)
    }

    #[test]
    fn draws_follow_the_softmax() {
        let n = 20_000;
        for temperature in [1.0, 0.5] {
            let weights = LOGITS.map(|x| (f64::from(x) / temperature).exp());
            let total: f64 = weights.iter().sum();
            let seen = counts(&Decoding { temperature, ..PLAIN }, n);
            for (w, s) in weights.iter().zip(seen) {
                let p = w / total;
                let limit = 4.5 * (p * (1.0 - p) / n as f64).sqrt() + 1e-12;
                assert!((p - s).abs() <= limit, "T {temperature}: expected {p}, saw {s}");
            }
        }
    }

    #[test]
    fn filters_keep_what_they_should() {
        let seen = counts(&Decoding { top_k: 2, ..PLAIN }, 500);
        assert!(seen[0] > 0.0 && seen[2] > 0.0 && seen[1] + seen[3] + seen[4] == 0.0, "{seen:?}");
        // softmax = .236 .087 .641 .032: 0.8 needs the first two.
        let seen = counts(&Decoding { top_p: 0.8, ..PLAIN }, 500);
        assert!(seen[0] > 0.0 && seen[2] > 0.0 && seen[1] + seen[3] == 0.0, "{seen:?}");
        let seen = counts(&Decoding { top_p: 0.5, ..PLAIN }, 100);
        assert_eq!(seen[2], 1.0);
    }

    #[test]
    fn greedy_takes_the_first_maximum_and_logps_are_the_models() {
        let key = Key::new(0, "", "", 0);
        let greedy = Decoding { temperature: 0.0, ..PLAIN };
        assert_eq!(choose(&[0.0, 3.0, 3.0], &greedy, key, 0).unwrap().0, 1);
        let (id, logp) = choose(&LOGITS, &greedy, key, 0).unwrap();
        let total: f64 = LOGITS.iter().map(|&x| f64::from(x).exp()).sum();
        assert_eq!(id, 2);
        assert!((logp - (2.0 - total.ln())).abs() < 1e-12);
        let (id, logp) = choose(&LOGITS, &Decoding { temperature: 0.3, top_k: 1, top_p: 1.0 }, key, 0).unwrap();
        assert_eq!((id, logp), (2, choose(&LOGITS, &greedy, key, 0).unwrap().1));
    }

    #[test]
    fn broken_logits_are_refused() {
        let key = Key::new(0, "", "", 0);
        for bad in [[f32::NAN, 0.0], [0.0, f32::INFINITY], [f32::NEG_INFINITY; 2]] {
            assert!(choose(&bad, &PLAIN, key, 0).is_none(), "{bad:?}");
        }
    }
}
