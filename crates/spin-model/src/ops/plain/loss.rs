//! The output head.

use super::{Ids, Numbers};
use crate::ops::{Targets, View};
use crate::request::{Rounding, ScoreOptions, Target, TargetScore};

pub fn soft_cap(logits: &mut [f32], cap: f64) {
    logits.iter_mut().for_each(|z| *z = (cap * (f64::from(*z) / cap).tanh()) as f32);
}

pub fn log_probs(logits: &Numbers, targets: &Targets<'_, Ids>, logps: &mut Numbers, log_sums: &mut Numbers) {
    let z = View::new(logits, targets.part.len(), targets.vocab);
    let s = f64::from(targets.smoothing);
    for (row, target) in targets.ids.0[targets.part.clone()].iter().enumerate() {
        let z = z.row(row);
        let log_sum = z.iter().map(|z| z.exp()).sum::<f64>().ln();
        let mean = z.iter().sum::<f64>() / z.len() as f64;
        logps.0[row] = ((1.0 - s) * z[*target as usize] + s * mean - log_sum) as f32;
        log_sums.0[row] = log_sum as f32;
    }
}

pub fn log_probs_backward(logits: &mut Numbers, targets: &Targets<'_, Ids>, log_sums: &Numbers, slopes: &[f32]) {
    let (s, vocab) = (f64::from(targets.smoothing), targets.vocab);
    assert_eq!(slopes.len(), targets.part.len());
    for (row, target) in targets.ids.0[targets.part.clone()].iter().enumerate() {
        for token in 0..vocab {
            let z = f64::from(logits.0[row * vocab + token]);
            let p = (z - f64::from(log_sums.0[row])).exp();
            let e = if token == *target as usize { 1.0 - s } else { 0.0 };
            let bend = targets.softcap.map_or(1.0, |cap| 1.0 - (z / f64::from(cap)).powi(2));
            let grad = f64::from(slopes[row]) * (e + s / vocab as f64 - p) * bend;
            logits.0[row * vocab + token] = grad as f32;
        }
    }
}

pub fn scores(logits: &[f32], vocab: usize, targets: &[Target], options: &ScoreOptions) -> Vec<TargetScore> {
    let round = |x: f64| match options.rounding {
        Rounding::None => x,
        Rounding::BFloat16 => half::bf16::from_f32(x as f32).to_f64(),
        Rounding::Float16 => half::f16::from_f32(x as f32).to_f64(),
    };
    let score = |target: &Target| {
        let row = &logits[target.row as usize * vocab..(target.row as usize + 1) * vocab];
        let z: Vec<f64> = row.iter().map(|z| round(f64::from(*z) / options.temperature)).collect();
        let log_sum = z.iter().map(|z| z.exp()).sum::<f64>().ln();
        // In f32 log-probabilities would make equals of different logits.
        let logps: Vec<f64> = z.iter().map(|z| round(z - log_sum)).collect();
        let own = target.token as usize;
        let is_greedy = logps[..own].iter().all(|other| *other < logps[own]) && logps.iter().all(|x| *x <= logps[own]);
        TargetScore { logp: logps[own] as f32, is_greedy }
    };
    targets.iter().map(score).collect()
}
