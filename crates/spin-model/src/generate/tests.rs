use candle_core::Device;

use super::*;
use crate::config::golden_configs;
use crate::cpu::Cpu;
use crate::ops::GrowingOperations;

/// Every architecture of the golden files, with windows that matter.
fn models() -> Vec<(String, CausalLm)> {
    let model = |(name, mut json): (String, serde_json::Value)| {
        json["max_position_embeddings"] = 300.into();
        json["initializer_range"] = 0.3.into();
        let config = ModelConfig::from_json(&json.to_string(), &name).unwrap();
        (name, CausalLm::init(&config, 5, &Device::Cpu).unwrap())
    };
    golden_configs().into_iter().map(model).collect()
}

/// Token ids that look random.
fn ids(seed: u64, count: usize, vocab: usize) -> Vec<u32> {
    crate::init::standard_normal(seed, "ids", count)
        .iter()
        .map(|value| (value.abs() * 1e6) as u32 % vocab as u32)
        .collect()
}

/// The logits after each of the tokens from `prompt` on, alone.
fn alone(generator: &Generator, tokens: &[u32], prompt: usize) -> Vec<Vec<f32>> {
    let mut sequence = generator.sequence(tokens.len()).unwrap();
    let mut logits = Vec::new();
    let mut step = |tokens: &[u32]| {
        generator.step(&mut [StepInput { sequence: &mut sequence, tokens }], &mut logits).unwrap();
        logits.clone()
    };
    let mut all = vec![step(&tokens[..prompt])];
    all.extend(tokens[prompt..].iter().map(|token| step(&[*token])));
    all
}

#[test]
fn logits_are_those_of_the_trainer() {
    for (name, model) in models() {
        let vocab = model.config().vocab_size;
        let tokens = ids(1, 150, vocab);
        let generator = Generator::new(model.clone()).unwrap();
        let exact = model.logits(&tokens).unwrap().to_vec2::<f32>().unwrap();
        let largest = exact.iter().flatten().fold(0.0_f32, |max, logit| max.max(logit.abs()));
        for prompt in [1, 7, 8, 65, 120] {
            let logits = alone(&generator, &tokens, prompt);
            for (logits, exact) in logits.iter().zip(&exact[prompt - 1..]) {
                let worst = logits.iter().zip(exact).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(worst <= 2e-5 * largest.max(1.0), "{name} {prompt}: {worst} of {largest}");
            }
        }
    }
}

/// Sequences that come and go in other orders, with other neighbours and on
/// other threads, have the same logits bit for bit.
#[test]
fn neighbours_change_nothing() {
    for (name, model) in models() {
        let vocab = model.config().vocab_size;
        let generator = Generator::new(model).unwrap();
        let jobs: Vec<(Vec<u32>, usize)> = [(9, 3), (40, 33), (12, 1), (90, 80), (20, 8), (15, 14), (66, 64)]
            .into_iter()
            .enumerate()
            .map(|(seed, (count, prompt))| (ids(seed as u64, count, vocab), prompt))
            .collect();
        let expected: Vec<_> = jobs.iter().map(|(tokens, prompt)| alone(&generator, tokens, *prompt)).collect();
        let run = |most: usize, order: &[usize]| {
            let mut waiting = order.to_vec();
            let mut active: Vec<(usize, Sequence)> = Vec::new();
            let mut seen = vec![Vec::new(); jobs.len()];
            let mut logits = Vec::new();
            while !waiting.is_empty() || !active.is_empty() {
                while active.len() < most
                    && let Some(job) = waiting.pop()
                {
                    active.push((job, generator.sequence(jobs[job].0.len()).unwrap()));
                }
                let mut inputs: Vec<_> = active
                    .iter_mut()
                    .map(|(job, sequence)| {
                        let (tokens, prompt) = &jobs[*job];
                        let at = sequence.len();
                        let tokens = if at == 0 { &tokens[..*prompt] } else { &tokens[at..=at] };
                        StepInput { sequence, tokens }
                    })
                    .collect();
                generator.step(&mut inputs, &mut logits).unwrap();
                for ((job, _), logits) in active.iter().zip(logits.chunks_exact(vocab)) {
                    seen[*job].push(logits.to_vec());
                }
                active.retain(|(job, sequence)| sequence.len() < jobs[*job].0.len());
            }
            seen
        };
        assert!(run(3, &[0, 1, 2, 3, 4, 5, 6]) == expected, "{name}");
        assert!(run(7, &[6, 4, 2, 0, 1, 3, 5]) == expected, "{name}");
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert!(pool.install(|| run(2, &[3, 2, 1, 0, 6, 5, 4])) == expected, "{name}");
    }
}

#[test]
fn forks_go_on_as_if_they_were_alone() {
    let (_, model) = models().swap_remove(0);
    let generator = Generator::new(model).unwrap();
    let vocab = generator.config().vocab_size;
    let tokens = ids(3, 30, vocab);
    let expected = alone(&generator, &tokens, 20);
    let mut logits = Vec::new();
    let mut first = generator.sequence(20).unwrap();
    generator.step(&mut [StepInput { sequence: &mut first, tokens: &tokens[..20] }], &mut logits).unwrap();
    let mut fork = generator.fork(&first, 30).unwrap();
    assert_eq!(fork.len(), 20);
    for (token, expected) in tokens[20..].iter().zip(&expected[1..]) {
        generator.step(&mut [StepInput { sequence: &mut fork, tokens: &[*token] }], &mut logits).unwrap();
        assert_eq!(logits, *expected);
    }
    assert!(generator.fork(&first, 19).is_err());
}

#[test]
fn what_does_not_fit_is_refused() {
    let (_, model) = models().swap_remove(0);
    let generator = Generator::new(model).unwrap();
    let mut logits = Vec::new();
    let mut sequence = generator.sequence(3).unwrap();
    let mut step = |tokens: &[u32]| {
        let result = generator.step(&mut [StepInput { sequence: &mut sequence, tokens }], &mut logits);
        result.map_err(|error| error.to_string())
    };
    assert!(step(&[]).unwrap_err().contains("no new tokens"));
    assert!(step(&[1, 2, 3, 4]).unwrap_err().contains("room for 3"));
    assert!(step(&[u32::MAX]).unwrap_err().contains("outside the vocabulary"));
    assert!(step(&[1, 2, 3]).is_ok());
    assert!(step(&[1]).unwrap_err().contains("4 tokens"));
    assert!(generator.sequence(301).unwrap_err().to_string().contains("max_position_embeddings 300"));
    assert_eq!(generator.sequence_bytes(10), 4 * sequence_len(&generator.sequence(10).unwrap()));
}

fn sequence_len(sequence: &Sequence) -> usize {
    let layers = sequence.cache.layers::<<Cpu as GrowingOperations>::LayerCache>();
    layers.iter().map(|layer| layer.keys.len() + layer.values.len()).sum()
}
