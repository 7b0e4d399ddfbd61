use super::*;

const LOGITS: [f32; 5] = [1.0, 0.0, 2.0, -1.0, f32::NEG_INFINITY];

fn choose(logits: &[f32], decoding: &SamplingParams, key: Key, step: u64) -> Option<Choice> {
    Chooser::default().choose(logits, [&[], &[]], decoding, key, step)
}

fn key(number: u64) -> Key {
    Key::new(3, "test", &number.to_string(), 0)
}

/// Logits between -spread and spread.
fn logits(seed: u64, count: usize, spread: f64) -> Vec<f32> {
    let noise = key(seed).step(0);
    (0..count).map(|id| (spread * (2.0 * noise.uniform(id as u64) - 1.0)) as f32).collect()
}

/// The distribution that is drawn from, by the definitions, in f64.
fn exact(logits: &[f32], context: &[u32], decoding: &SamplingParams) -> Vec<f64> {
    let mut scores: Vec<f64> = logits.iter().map(|logit| f64::from(*logit)).collect();
    for (id, score) in scores.iter_mut().enumerate() {
        if context.contains(&(id as u32)) {
            let penalty = decoding.repetition_penalty;
            *score = if *score < 0.0 { *score * penalty } else { *score / penalty };
        }
    }
    let softmax = |scores: &[f64]| {
        let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| ((score - top) / decoding.temperature).exp()).collect();
        let total: f64 = weights.iter().sum();
        weights.iter().map(|weight| weight / total).collect::<Vec<_>>()
    };
    let keep = |scores: &mut [f64], kept: &dyn Fn(usize) -> bool| {
        (0..scores.len()).filter(|id| !kept(*id)).for_each(|id| scores[id] = f64::NEG_INFINITY);
    };
    let order = |scores: &[f64]| {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
        order
    };
    if decoding.top_k > 0 {
        let order = order(&scores);
        keep(&mut scores, &|id| order[..decoding.top_k.min(order.len())].contains(&id));
    }
    if decoding.top_p < 1.0 {
        let (order, probabilities) = (order(&scores), softmax(&scores));
        let larger = |id: usize| -> f64 {
            order.iter().take_while(|other| **other != id).map(|other| probabilities[*other]).sum()
        };
        keep(&mut scores, &|id| larger(id) < decoding.top_p);
    }
    let probabilities = softmax(&scores);
    let largest = probabilities.iter().copied().fold(0.0, f64::max);
    keep(&mut scores, &|id| probabilities[id] >= decoding.min_p * largest);
    softmax(&scores)
}

fn settings() -> Vec<SamplingParams> {
    let plain = SamplingParams::PLAIN;
    vec![
        plain,
        SamplingParams { temperature: 0.5, ..plain },
        SamplingParams { temperature: 1.7, ..plain },
        SamplingParams { top_k: 7, ..plain },
        SamplingParams { top_p: 0.8, ..plain },
        SamplingParams { min_p: 0.1, ..plain },
        SamplingParams { repetition_penalty: 1.4, ..plain },
        SamplingParams { temperature: 0.8, top_k: 20, top_p: 0.9, min_p: 0.02, repetition_penalty: 1.2 },
    ]
}

#[test]
fn draws_follow_the_distribution() {
    const DRAWS: u64 = 40_000;
    let context: &[u32] = &[0, 5, 11, 11];
    let logits = logits(1, 60, 2.0);
    let mut chooser = Chooser::default();
    for decoding in settings() {
        let expected = exact(&logits, context, &decoding);
        let mut counts = vec![0.0; logits.len()];
        for draw in 0..DRAWS {
            let choice = chooser.choose(&logits, [&context[..2], &context[2..]], &decoding, key(draw), 3).unwrap();
            counts[choice.id as usize] += 1.0;
            let probability = expected[choice.id as usize];
            assert!((choice.sampling_logp - probability.ln()).abs() < 1e-5, "{decoding:?} {choice:?}");
        }
        // Tokens that are rarely drawn are one class, as the test wants it.
        let (mut chi2, mut classes, mut rare) = (0.0, 0, (0.0, 0.0));
        for (count, probability) in counts.iter().zip(&expected) {
            let expected = probability * DRAWS as f64;
            assert!(*probability > 0.0 || *count == 0.0, "{decoding:?}: drew what is filtered");
            if expected < 10.0 {
                rare = (rare.0 + count, rare.1 + expected);
            } else {
                chi2 += (count - expected) * (count - expected) / expected;
                classes += 1;
            }
        }
        if rare.1 > 10.0 {
            chi2 += (rare.0 - rare.1) * (rare.0 - rare.1) / rare.1;
            classes += 1;
        }
        // Wilson and Hilferty's approximation of chi-square as a normal.
        let freedom = f64::from(classes - 1);
        let z = ((chi2 / freedom).cbrt() - (1.0 - 2.0 / (9.0 * freedom))) / (2.0 / (9.0 * freedom)).sqrt();
        assert!(classes >= 3 && z < 4.0, "{decoding:?}: chi2 {chi2} with {freedom} degrees of freedom, z {z}");
    }
}

/// The shortcut finds what logarithms of all the vocabulary would.
#[test]
fn the_race_is_the_gumbel_maximum() {
    let mut chooser = Chooser::default();
    for (count, spread) in [(5, 1.0), (1000, 0.0), (3000, 1.0), (32_000, 0.1), (32_000, 3.0)] {
        let logits = logits(2, count, spread);
        for draw in 0..40 {
            let choice = chooser.choose(&logits, [&[], &[]], &SamplingParams::PLAIN, key(draw), draw).unwrap();
            let noise = key(draw).step(draw);
            let score = |id: &usize| f64::from(logits[*id]) + noise.gumbel(*id as u64);
            let best = (0..count).max_by(|a, b| score(a).total_cmp(&score(b))).unwrap();
            assert_eq!(choice.id as usize, best, "{count} {spread}");
        }
    }
}

#[test]
fn filters_find_their_floor_in_large_vocabularies() {
    let mut chooser = Chooser::default();
    for (number, spread) in [(1, 0.01), (2, 1.0), (3, 4.0)] {
        let logits = logits(number, 5000, spread);
        for decoding in settings() {
            let expected = exact(&logits, &[], &decoding);
            for draw in 0..5 {
                let choice = chooser.choose(&logits, [&[], &[]], &decoding, key(draw), 0).unwrap();
                let probability = expected[choice.id as usize];
                assert!((choice.sampling_logp - probability.ln()).abs() < 1e-5, "{decoding:?} {choice:?}");
            }
        }
    }
}

#[test]
fn greedy_takes_the_first_maximum() {
    assert_eq!(choose(&[0.0, 3.0, 3.0], &SamplingParams::GREEDY, key(0), 0).unwrap().id, 1);
    let penalised = SamplingParams { repetition_penalty: 2.0, ..SamplingParams::GREEDY };
    let choice = Chooser::default().choose(&[0.0, 3.0, 2.0], [&[1], &[1, 9]], &penalised, key(0), 0).unwrap();
    assert_eq!((choice.id, choice.sampling_logp), (2, 0.0));
    let choice = choose(&LOGITS, &SamplingParams::GREEDY, key(0), 0).unwrap();
    let total: f64 = LOGITS.iter().map(|&x| f64::from(x).exp()).sum();
    assert_eq!(choice.id, 2);
    assert!((choice.logp - (2.0 - total.ln())).abs() < 1e-6);
    assert_eq!(choice.temperature_logp, choice.logp);
}

#[test]
fn log_probabilities_are_of_the_distributions_they_name() {
    let decoding = SamplingParams { temperature: 0.3, top_k: 1, ..SamplingParams::PLAIN };
    let choice = choose(&LOGITS, &decoding, key(0), 0).unwrap();
    let log_total = |temperature: f64| LOGITS.iter().map(|&x| (f64::from(x) / temperature).exp()).sum::<f64>().ln();
    assert_eq!((choice.id, choice.sampling_logp), (2, 0.0));
    assert!((choice.logp - (2.0 - log_total(1.0))).abs() < 1e-6);
    assert!((choice.temperature_logp - (2.0 / 0.3 - log_total(0.3))).abs() < 1e-6);
}

#[test]
fn broken_logits_are_refused() {
    for bad in [[f32::NAN, 0.0], [0.0, f32::INFINITY], [f32::NEG_INFINITY; 2]] {
        assert!(choose(&bad, &SamplingParams::PLAIN, key(0), 0).is_none(), "{bad:?}");
    }
}

/// What transformers' processors leave, with which probabilities.
#[test]
fn filters_are_those_of_transformers() {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/sampling.json");
    let cases: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let mut count = 0;
    for case in cases.as_array().unwrap() {
        let logits: Vec<f32> = serde_json::from_value(case["logits"].clone()).unwrap();
        let context: Vec<u32> = serde_json::from_value(case["context"].clone()).unwrap();
        for golden in case["settings"].as_array().unwrap() {
            let number = |key: &str, default: f64| golden[key].as_f64().unwrap_or(default);
            let decoding = SamplingParams {
                temperature: number("temperature", 1.0),
                top_k: number("top_k", 0.0) as usize,
                top_p: number("top_p", 1.0),
                min_p: number("min_p", 0.0),
                repetition_penalty: number("repetition_penalty", 1.0),
            };
            let kept: Vec<usize> = serde_json::from_value(golden["kept"].clone()).unwrap();
            let logps: Vec<f64> = serde_json::from_value(golden["logps"].clone()).unwrap();
            let mut chooser = Chooser::default();
            let choice = chooser.choose(&logits, [&context, &[]], &decoding, key(1), 0).unwrap();
            // What could have been drawn.
            let left: Vec<usize> = (0..logits.len()).filter(|id| chooser.weights[*id] > 0.0).collect();
            assert_eq!(left, kept, "{golden}");
            let total: f64 = chooser.weights.iter().map(|weight| f64::from(*weight)).sum();
            for (id, logp) in kept.iter().zip(&logps) {
                assert!(((f64::from(chooser.weights[*id]) / total).ln() - logp).abs() < 1e-5, "{golden}: {id}");
            }
            let at = kept.iter().position(|id| *id == choice.id as usize).unwrap();
            assert!((choice.sampling_logp - logps[at]).abs() < 1e-5, "{golden}");
            count += 1;
        }
    }
    assert_eq!(count, 32);
}
