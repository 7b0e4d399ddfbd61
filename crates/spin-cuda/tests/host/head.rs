use half::bf16;
use spin_cuda::{ChunkSlopes, Head, head_gradient, head_gradient_over, head_logps};

use crate::library::host;
use crate::memory::{Memory, Tested, as_f64, assert_close, ids, numbers};
use crate::reference::numeric_gradient;

/// spin-model/src/cpu/head.rs: the log-probabilities that count, from logits before their cap.
fn logps(head: &Head, raw: &[f64], targets: &[u32]) -> Vec<f64> {
    let smoothing = f64::from(head.smoothing);
    let row = |(raw, target): (&[f64], &u32)| {
        let cap = |z: f64| head.softcap.map_or(z, |cap| f64::from(cap) * (z / f64::from(cap)).tanh());
        let logits: Vec<f64> = raw.iter().map(|z| cap(*z)).collect();
        let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let log_sum = max + logits.iter().map(|z| (z - max).exp()).sum::<f64>().ln();
        let mean = logits.iter().sum::<f64>() / logits.len() as f64;
        (1.0 - smoothing) * logits[*target as usize] + smoothing * mean - log_sum
    };
    raw.chunks_exact(head.vocab).zip(targets).map(row).collect()
}

fn compared<T: Tested>() {
    let Some(host) = host() else { return };
    for (rows, vocab) in [(1, 1), (3, 7), (2, 33), (3, 1_031), (2, 4_096)] {
        for (softcap, smoothing) in [(None, 0.0), (Some(2.5), 0.0), (None, 0.1), (Some(3.0), 0.2)] {
            let head = Head { vocab, softcap, smoothing };
            let raw: Vec<f32> = numbers::<f32>(1, rows * vocab).into_iter().map(|z| 3.0 * z).collect();
            let (targets, slopes) = (ids(2, rows, vocab as u64), numbers::<f32>(3, rows));
            let mut logits = Memory::of(&raw);
            let (mut found, mut sums) = (Memory::<f32>::poisoned(rows), Memory::<f32>::poisoned(rows));
            let (targets_memory, slopes_memory) = (Memory::of(&targets), Memory::of(&slopes));
            let to = (&mut found.view_mut(), &mut sums.view_mut());
            head_logps(host, &head, &mut logits.view_mut(), targets_memory.view(), to.0, to.1).unwrap();
            assert_close(&found.read(), &logps(&head, &as_f64(&raw), &targets), 10.0);

            let slopes64 = as_f64(&slopes);
            let wanted: Vec<f64> = if vocab < 100 {
                numeric_gradient(&as_f64(&raw), &slopes64, |raw| logps(&head, raw, &targets))
            } else {
                // g ((1 - s) e + s / V - p), times 1 - (z / c)^2.
                let capped = as_f64(&logits.read());
                let sums = as_f64(&sums.read());
                let smoothing = f64::from(smoothing);
                let one = |(at, z): (usize, &f64)| {
                    let (row, token) = (at / vocab, at % vocab);
                    let hit = if token == targets[row] as usize { 1.0 - smoothing } else { 0.0 };
                    let bend = softcap.map_or(1.0, |cap| 1.0 - (z / f64::from(cap)).powi(2));
                    slopes64[row] * (hit + smoothing / vocab as f64 - (z - sums[row]).exp()) * bend
                };
                capped.iter().enumerate().map(one).collect()
            };
            let of =
                ChunkSlopes { targets: targets_memory.view(), slopes: slopes_memory.view(), log_sums: sums.view() };
            let mut out = Memory::<T>::poisoned(rows * vocab);
            head_gradient(host, &head, logits.view(), &of, &mut out.view_mut()).unwrap();
            assert_close(&out.read(), &wanted, 4.0);
            head_gradient_over(host, &head, &mut logits.view_mut(), &of).unwrap();
            assert_close(&logits.read(), &wanted, 4.0);
        }
    }
}

#[test]
fn log_probabilities_and_gradients_of_logits() {
    compared::<f32>();
    compared::<bf16>();
}

#[test]
fn a_chunk_that_is_too_short_is_refused() {
    let Some(host) = host() else { return };
    let head = Head { vocab: 5, softcap: None, smoothing: 0.0 };
    let (mut logits, targets) = (Memory::of(&[0.0_f32; 9]), Memory::of(&[0_u32; 2]));
    let (mut logps, mut sums) = (Memory::of(&[0.0_f32; 2]), Memory::of(&[0.0_f32; 2]));
    let (to, also) = (&mut logps.view_mut(), &mut sums.view_mut());
    let error = head_logps(host, &head, &mut logits.view_mut(), targets.view(), to, also).unwrap_err();
    assert_eq!(error.to_string(), "head_logps: logits has 9 numbers where 10 belong");
}
