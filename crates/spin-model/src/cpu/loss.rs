//! What a loss makes of logits. With p = softmax(z), one-hot target e, smoothing
//! s and slope g: dL/dz = g ((1 - s) e + s / V - p); a soft cap c, which makes z =
//! c tanh(r / c), multiplies that by 1 - (z / c)^2.

use rayon::prelude::*;

use super::math::{exp, max, tanh};
use super::scores::sum_exp;

/// Which token each row has to predict, and how that counts.
pub(super) struct Wanted<'a> {
    pub targets: &'a [u32],
    pub vocab: usize,
    pub smoothing: f32,
    pub softcap: Option<f32>,
}

/// Bends logits.
pub(super) fn soft_cap(logits: &mut [f32], vocab: usize, cap: f32) {
    logits.par_chunks_mut(vocab).for_each(|row| {
        row.iter_mut().for_each(|logit| *logit = cap * tanh(*logit / cap));
    });
}

fn log_sum_exp(logits: &[f32]) -> f32 {
    let max = max(logits);
    sum_exp(logits, max).ln() + max
}

impl Wanted<'_> {
    /// Writes the log-probability that counts of each row, and its log-sum-exp.
    pub fn log_probs(&self, logits: &[f32], logps: &mut [f32], log_sums: &mut [f32]) {
        let rows = logits.par_chunks(self.vocab).zip(self.targets).with_min_len(4);
        rows.zip(logps).zip(log_sums).for_each(|(((logits, target), logp), to)| {
            let log_sum = log_sum_exp(logits);
            let mut counted = logits[*target as usize];
            if self.smoothing > 0.0 {
                let mean = logits.iter().sum::<f32>() / self.vocab as f32;
                counted += self.smoothing * (mean - counted);
            }
            *logp = counted - log_sum;
            *to = log_sum;
        });
    }

    /// Turns logits into their gradient.
    pub fn backward(&self, logits: &mut [f32], log_sums: &[f32], slopes: &[f32]) {
        let spread = self.smoothing / self.vocab as f32;
        let rows = self.targets.par_iter().zip(log_sums).zip(slopes);
        logits.par_chunks_mut(self.vocab).zip(rows).with_min_len(4).for_each(|(logits, ((target, log_sum), slope))| {
            let at_target = logits[*target as usize];
            let bend = |logit: f32| self.softcap.map_or(1.0, |cap| 1.0 - (logit / cap) * (logit / cap));
            match self.softcap {
                None => {
                    for logit in logits.iter_mut() {
                        *logit = slope * (spread - exp(*logit - log_sum));
                    }
                }
                Some(_) => {
                    for logit in logits.iter_mut() {
                        *logit = slope * (spread - exp(*logit - log_sum)) * bend(*logit);
                    }
                }
            }
            logits[*target as usize] += slope * (1.0 - self.smoothing) * bend(at_target);
        });
    }
}
