use half::{bf16, f16};
use spin_cuda::{Rounding, Scoring, score_targets};

use crate::library::host;
use crate::memory::{Memory, ids, numbers};

fn rounded(value: f32, rounding: Rounding) -> f32 {
    match rounding {
        Rounding::None => value,
        Rounding::BFloat16 => bf16::from_f32(value).to_f32(),
        Rounding::Float16 => f16::from_f32(value).to_f32(),
    }
}

/// spin-model/src/cpu/scores.rs: logits are rounded, their log-softmax is rounded again; the first of equals counts.
/// With sums in f64; the result of rounding may be the next number then.
fn score(logits: &[f32], target: usize, rounding: Rounding) -> (f32, bool) {
    let logits: Vec<f32> = logits.iter().map(|z| rounded(*z, rounding)).collect();
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let log_sum = logits.iter().map(|z| f64::from(z - max).exp()).sum::<f64>().ln() as f32;
    let logps: Vec<f32> = logits.iter().map(|z| rounded(z - max - log_sum, rounding)).collect();
    let of = if rounding == Rounding::None { &logits } else { &logps };
    let before = of[..target].iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let most = of.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    (logps[target], of[target] == most && before < most)
}

#[test]
fn tokens_are_scored() {
    let Some(host) = host() else { return };
    for (rows, vocab) in [(1, 1), (5, 7), (3, 129), (2, 1_100)] {
        for (rounding, (softcap, temperature)) in [Rounding::None, Rounding::BFloat16, Rounding::Float16]
            .into_iter()
            .flat_map(|rounding| [(None, 1.0), (Some(4.0), 1.0), (None, 0.7)].map(|more| (rounding, more)))
        {
            let mut logits: Vec<f32> = numbers::<f32>(1, rows * vocab).into_iter().map(|z| 3.0 * z).collect();
            if vocab > 7 {
                // Two of equal rank: the first is the likeliest.
                let max = logits[..vocab].iter().copied().fold(f32::NEG_INFINITY, f32::max) + 0.5;
                (logits[3], logits[5]) = (max, max);
            }
            let most = |row: usize| {
                let row = &logits[row * vocab..(row + 1) * vocab];
                (0..vocab).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap() as u32
            };
            // None after the first row of several, then the likeliest and some others after each.
            let (mut starts, mut targets) = (vec![0], Vec::new());
            for row in 0..rows {
                if row > 0 || rows == 1 {
                    targets.push(most(row));
                    targets.extend(ids(row as u64, 3, vocab as u64));
                } else if vocab > 7 {
                    targets.extend([3, 5]);
                }
                starts.push(targets.len() as u32);
            }
            let (mut logps, mut greedy) =
                (Memory::<f32>::poisoned(targets.len()), Memory::of(&vec![9_u32; targets.len()]));
            let scoring = Scoring { vocab, softcap, temperature, rounding };
            let memories = (Memory::of(&logits), Memory::of(&starts), Memory::of(&targets));
            let (to, also) = (&mut logps.view_mut(), &mut greedy.view_mut());
            score_targets(host, &scoring, memories.0.view(), memories.1.view(), memories.2.view(), to, also).unwrap();
            let scaled: Vec<f32> = logits
                .iter()
                .map(|z| softcap.map_or(*z, |cap| cap * (z / cap).tanh()))
                .map(|z| if temperature == 1.0 { z } else { z * (1.0 / temperature) as f32 })
                .collect();
            for row in 0..rows {
                let (first, last) = (starts[row] as usize, starts[row + 1] as usize);
                for (at, target) in (first..last).zip(&targets[first..last]) {
                    let own = &scaled[row * vocab..(row + 1) * vocab];
                    let (logp, is_greedy) = score(own, *target as usize, rounding);
                    let step = match rounding {
                        Rounding::None => 1e-5,
                        Rounding::BFloat16 => 1e-2,
                        Rounding::Float16 => 2e-3,
                    };
                    let found = logps.read()[at];
                    assert!((found - logp).abs() <= step * (1.0 + logp.abs()), "{found} {logp} {rounding:?}");
                    assert_eq!(rounded(found, rounding), found);
                    assert_eq!(greedy.read()[at], u32::from(is_greedy), "{rounding:?} {at} {vocab}");
                }
            }
        }
    }
}

#[test]
fn rounding_is_that_of_half() {
    let Some(host) = host() else { return };
    // With one token, logits of f16's whole range: the difference to the largest of two is what is rounded.
    let mut values: Vec<f32> =
        (0..3_000).map(|at| -f32::from_bits(spin_noise::nth(4, at) as u32 & 0x4BFF_FFFF)).collect();
    // Halves of the last place of either type.
    values.extend((0..64).flat_map(|at| [16.0, 128.0].map(|of| -20.0 - (2 * at + 1) as f32 / of)));
    for rounding in [Rounding::BFloat16, Rounding::Float16] {
        // A second token so likely that nothing is added by the first.
        let logits: Vec<f32> = values.iter().flat_map(|value| [*value, 0.0]).collect();
        let starts: Vec<u32> = (0..=values.len() as u32).collect();
        let targets = vec![0_u32; values.len()];
        let (mut logps, mut greedy) = (Memory::<f32>::poisoned(targets.len()), Memory::of(&vec![9_u32; targets.len()]));
        let memories = (Memory::of(&logits), Memory::of(&starts), Memory::of(&targets));
        let scoring = Scoring { vocab: 2, softcap: None, temperature: 1.0, rounding };
        let (to, also) = (&mut logps.view_mut(), &mut greedy.view_mut());
        score_targets(host, &scoring, memories.0.view(), memories.1.view(), memories.2.view(), to, also).unwrap();
        for (value, found) in values.iter().zip(logps.read()) {
            let logit = rounded(*value, rounding);
            if 1.0 + logit.exp() == 1.0 {
                assert_eq!(found, logit, "{value} {rounding:?}");
            }
        }
    }
}
