use spin_cuda::{Choice, Draw, draw_tokens, penalise};
use spin_sample::choose::{Chooser, SamplingParams};
use spin_sample::noise::Key;

use crate::library::host;
use crate::memory::{Memory, ids, numbers};

/// The words of `Key::new`, by the formula in spin-sample/src/noise.rs.
fn words(seed: u64, stream: &str, row: &str, sample: u32) -> [u64; 2] {
    let mut hasher = blake3::Hasher::new_derive_key("spin-sample noise v1");
    hasher.update(&seed.to_le_bytes());
    for text in [stream, row] {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    hasher.update(&sample.to_le_bytes());
    let bytes = hasher.finalize();
    [0, 8].map(|at| u64::from_le_bytes(bytes.as_bytes()[at..at + 8].try_into().unwrap()))
}

fn draw(decoding: &SamplingParams, sample: u32, step: u64) -> Draw {
    Draw {
        key: words(7, "iter-0", "row", sample),
        step,
        temperature: decoding.temperature,
        top_p: decoding.top_p,
        log_min_p: decoding.min_p.ln(),
        top_k: decoding.top_k as u32,
        active: 1,
    }
}

const PLAIN: SamplingParams = SamplingParams::PLAIN;

fn decodings() -> Vec<SamplingParams> {
    vec![
        SamplingParams::GREEDY,
        PLAIN,
        SamplingParams { temperature: 0.7, ..PLAIN },
        SamplingParams { temperature: 1.9, ..PLAIN },
        SamplingParams { top_k: 5, ..PLAIN },
        SamplingParams { top_k: 1, ..PLAIN },
        SamplingParams { top_p: 0.9, ..PLAIN },
        SamplingParams { top_p: 0.1, temperature: 1.3, ..PLAIN },
        SamplingParams { min_p: 0.1, ..PLAIN },
        SamplingParams { top_k: 40, top_p: 0.8, min_p: 0.02, temperature: 0.9, repetition_penalty: 1.2 },
        SamplingParams { repetition_penalty: 1.5, ..SamplingParams::GREEDY },
    ]
}

#[test]
fn the_tokens_are_those_of_the_cpu() {
    let Some(host) = host() else { return };
    let mut chooser = Chooser::default();
    let mut seen = std::collections::BTreeSet::new();
    for vocab in [1, 7, 33, 1_029, 5_003] {
        for (number, decoding) in decodings().iter().enumerate() {
            let sequences = if vocab > 1_000 { 2 } else { 5 };
            let spread = [3.0, 0.5][number % 2];
            let mut logits: Vec<f32> =
                numbers::<f32>(number as u64, sequences * vocab).into_iter().map(|z| spread * z).collect();
            if vocab > 7 {
                // Ties at the top, and forbidden tokens.
                let top = logits[..vocab].iter().copied().fold(f32::NEG_INFINITY, f32::max);
                (logits[2], logits[vocab - 2], logits[4]) = (top, top, f32::NEG_INFINITY);
            }
            let contexts: Vec<Vec<u32>> = (0..sequences as u64).map(|seed| ids(seed, 9, vocab as u64)).collect();
            let draws: Vec<Draw> =
                (0..sequences).map(|sequence| draw(decoding, sequence as u32, number as u64)).collect();
            let memory = Memory::of(&logits);
            let mut scores = Memory::of(&logits);
            let starts: Vec<u32> = (0..=sequences as u32).map(|sequence| 9 * sequence).collect();
            let (contexts_memory, starts) = (Memory::of(&contexts.concat()), Memory::of(&starts));
            let penalty = decoding.repetition_penalty;
            let views = (contexts_memory.view(), starts.view());
            penalise(host, memory.view(), &mut scores.view_mut(), views.0, views.1, vocab, penalty).unwrap();
            let blank = Choice { id: 77, logp: f32::NAN, temperature_logp: f32::NAN, sampling_logp: f32::NAN };
            let mut choices = Memory::of(&vec![blank; sequences]);
            let penalised = (penalty != 1.0).then(|| scores.view());
            let draws = Memory::of(&draws);
            draw_tokens(host, memory.view(), penalised, draws.view(), &mut choices.view_mut(), vocab).unwrap();
            for (sequence, found) in choices.read().into_iter().enumerate() {
                let row = &logits[sequence * vocab..(sequence + 1) * vocab];
                let key = Key::new(7, "iter-0", "row", sequence as u32);
                let wanted = chooser.choose(row, [&contexts[sequence], &[]], decoding, key, number as u64).unwrap();
                assert_eq!(found.id, wanted.id, "{decoding:?} of {vocab}");
                seen.insert(found.id);
                for (found, wanted) in [
                    (found.logp, wanted.logp),
                    (found.temperature_logp, wanted.temperature_logp),
                    (found.sampling_logp, wanted.sampling_logp),
                ] {
                    assert!((f64::from(found) - wanted).abs() <= 1e-6 * (1.0 + wanted.abs()), "{found} {wanted}");
                }
                // Sums are in the CPU's order.
                if cfg!(target_feature = "fma") {
                    assert_eq!(found.logp, wanted.logp as f32);
                    assert_eq!(found.temperature_logp, wanted.temperature_logp as f32);
                }
            }
        }
    }
    assert!(seen.len() > 40, "many tokens are drawn: {}", seen.len());
}

#[test]
fn many_steps_of_one_sequence() {
    let Some(host) = host() else { return };
    let (vocab, decoding) = (401, SamplingParams { top_p: 0.95, top_k: 100, ..PLAIN });
    let logits = numbers::<f32>(3, vocab);
    let rows: Vec<f32> = (0..60).flat_map(|_| logits.iter().copied()).collect();
    let draws: Vec<Draw> = (0..60).map(|step| draw(&decoding, 3, step)).collect();
    let blank = Choice { id: 0, logp: 0.0, temperature_logp: 0.0, sampling_logp: 0.0 };
    let mut choices = Memory::of(&vec![blank; 60]);
    let memories = (Memory::of(&rows), Memory::of(&draws));
    draw_tokens(host, memories.0.view(), None, memories.1.view(), &mut choices.view_mut(), vocab).unwrap();
    let mut chooser = Chooser::default();
    for (step, found) in (0..).zip(choices.read()) {
        let wanted = chooser.choose(&logits, [&[], &[]], &decoding, Key::new(7, "iter-0", "row", 3), step).unwrap();
        assert_eq!(found.id, wanted.id, "step {step}");
    }
}

#[test]
fn logits_that_are_none_give_no_token_and_rows_of_no_sequence_nothing() {
    let Some(host) = host() else { return };
    let vocab = 40;
    let blank = Choice { id: 77, logp: 0.0, temperature_logp: 0.0, sampling_logp: 0.0 };
    let mut rows = vec![1.0_f32; 5 * vocab];
    (rows[33], rows[vocab + 1]) = (f32::NAN, f32::INFINITY);
    rows[2 * vocab..3 * vocab].fill(f32::NEG_INFINITY);
    rows[3 * vocab..4 * vocab - 1].fill(f32::NEG_INFINITY);
    let mut draws = vec![draw(&PLAIN, 1, 1); 5];
    draws[4].active = 0;
    let mut choices = Memory::of(&[blank; 5]);
    let memories = (Memory::of(&rows), Memory::of(&draws));
    draw_tokens(host, memories.0.view(), None, memories.1.view(), &mut choices.view_mut(), vocab).unwrap();
    let found: Vec<u32> = choices.read().iter().map(|choice| choice.id).collect();
    assert_eq!(found, [Choice::NONE, Choice::NONE, Choice::NONE, 39, 77]);
    let refused = draw_tokens(host, memories.0.view(), None, memories.1.view(), &mut choices.view_mut(), 1 << 20);
    assert!(refused.is_err());
}

/// Draw and Choice are as `kernels/draw.cu` has them.
#[test]
fn sixteen_bytes_come_back() {
    assert_eq!((size_of::<Draw>(), size_of::<Choice>()), (56, 16));
}
