use candle_core::{DType, Device};

use super::*;
use crate::backend::Kernels;
use crate::batch::Batch;
use crate::config::{ModelConfig, golden_configs};
use crate::cuda::Cuda;
use crate::engine::TreePass;
use crate::ops::TreeOperations;
use crate::ops::plain::Plain;
use crate::request::Rounding;

/// A generator of the same numbers everywhere.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }

    fn ids(&mut self, count: usize, vocab: usize) -> Vec<u32> {
        (0..count).map(|_| self.below(vocab) as u32).collect()
    }
}

/// Every architecture of the golden files, with room for longer sequences.
fn models() -> Vec<(String, CausalLm)> {
    let mut models = Vec::new();
    for (name, mut json) in golden_configs() {
        json["max_position_embeddings"] = 700.into();
        // Initial weights this large make attention uneven.
        json["initializer_range"] = 0.3.into();
        let config = |json: &serde_json::Value| ModelConfig::from_json(&json.to_string(), &name).unwrap();
        models.push((name.clone(), CausalLm::init(&config(&json), 5, &Device::Cpu).unwrap()));
        if json.get("sliding_window").is_some_and(|window| !window.is_null()) {
            json["sliding_window"] = 70.into();
            models.push((format!("{name} wide"), CausalLm::init(&config(&json), 6, &Device::Cpu).unwrap()));
        }
    }
    models
}

/// Sequences that share beginnings of several lengths, and repeat each other.
fn sequences(seed: u64, vocab: usize, longest: usize) -> Vec<(Vec<u32>, usize)> {
    let mut numbers = Numbers(seed);
    let mut all: Vec<(Vec<u32>, usize)> = Vec::new();
    for length in [2, 3, 15, 16, 17, 63, 64, 65, 66, 129, longest] {
        let length = length.min(longest);
        let tokens = numbers.ids(length, vocab);
        all.push((tokens, 1 + numbers.below(length - 1)));
    }
    for _ in 0..40 {
        let mut tokens = all[numbers.below(all.len())].0.clone();
        tokens.truncate(1 + numbers.below(tokens.len()));
        let most = if numbers.below(4) == 0 { 60 } else { 5 };
        let more = numbers.below(most);
        tokens.extend(numbers.ids(more.min(longest - tokens.len()), vocab));
        if tokens.len() > 1 {
            let continuation = if numbers.below(2) == 0 { 1 } else { 1 + numbers.below(tokens.len() - 1) };
            all.push((tokens, continuation));
        }
    }
    // Choices of one token after one context.
    let context = all[9].0.clone();
    all.extend((0..4).map(|choice| ([context.as_slice(), &[choice]].concat(), 1)));
    all.push(all[20].clone());
    all
}

fn requests(sequences: &[(Vec<u32>, usize)]) -> Vec<ScoreRequest<'_>> {
    sequences.iter().map(|(tokens, continuation)| ScoreRequest { tokens, continuation: *continuation }).collect()
}

fn options(max_rows: usize) -> ScoreOptions {
    ScoreOptions { max_rows, ..ScoreOptions::default() }
}

fn score(model: &CausalLm, requests: &[ScoreRequest<'_>], options: &ScoreOptions) -> Vec<ContinuationScore> {
    let mut done = 0;
    let (scores, stats) = model.score(requests, options, &mut |now| done = now).unwrap();
    assert_eq!(done, requests.len());
    assert_eq!(stats.tokens_computed, stats.tokens_distinct);
    assert!(stats.tokens_distinct <= stats.tokens_given && stats.predictions_computed <= stats.predictions_given);
    assert!(stats.batches >= stats.tokens_computed.div_ceil(options.max_rows as u64));
    scores
}

fn assert_close(what: &str, scores: &[ContinuationScore], expected: &[Vec<f32>]) {
    assert_eq!(scores.len(), expected.len());
    for (index, (score, expected)) in scores.iter().zip(expected).enumerate() {
        assert_eq!(score.token_logps.len(), expected.len());
        for (logp, expected) in score.token_logps.iter().zip(expected) {
            assert!(
                (logp - expected).abs() < 1e-5 * expected.abs().max(1.0),
                "{what}, request {index}: {logp} for {expected}"
            );
        }
    }
}

#[test]
fn scores_of_a_tree_are_those_of_its_sequences() {
    for (name, model) in models() {
        let vocab = model.config().vocab_size;
        for (seed, longest) in [(1, 130), (2, 300)] {
            let mut sequences = sequences(seed, vocab, longest);
            // Continuations that the model itself would choose.
            let argmax = |ids: &[u32]| model.logits(ids).unwrap().argmax(1).unwrap().to_vec1::<u32>().unwrap();
            for index in [0, 5, 8] {
                let mut tokens = sequences[index].0.clone();
                tokens.push(argmax(&tokens)[tokens.len() - 1]);
                sequences.push((tokens, 1));
            }
            let requests = requests(&sequences);
            let pairs = sequences.iter().map(|(tokens, continuation)| tokens.split_at(tokens.len() - continuation));
            let expected = model.response_token_logps(&Batch::new(pairs).unwrap()).unwrap();
            let greedy: Vec<bool> = sequences
                .iter()
                .map(|(tokens, continuation)| {
                    let argmax = argmax(&tokens[..tokens.len() - 1]);
                    argmax[argmax.len() - continuation..] == tokens[tokens.len() - continuation..]
                })
                .collect();
            assert!(greedy.iter().any(|greedy| *greedy) && !greedy.iter().all(|greedy| *greedy));
            for max_rows in [1, 7, 64, 4096] {
                if max_rows == 1 && longest > 130 {
                    continue;
                }
                let what = format!("{name}, {max_rows} rows");
                let scores = score(&model, &requests, &options(max_rows));
                assert_close(&what, &scores, &expected);
                let found: Vec<bool> = scores.iter().map(|score| score.is_greedy).collect();
                assert_eq!(found, greedy, "{what}");
            }
        }
    }
}

#[test]
fn composed_kernels_and_adapters_agree() {
    let (_, model) = models().swap_remove(0);
    let config = crate::LoraConfig { r: 2, lora_dropout: 0.5, ..crate::LoraConfig::default() };
    let model = model.with_new_adapter(&config, 3).unwrap();
    for var in model.trainable().values() {
        var.set(&var.ones_like().unwrap().affine(0.05, 0.0).unwrap()).unwrap();
    }
    let sequences = sequences(3, model.config().vocab_size, 80);
    let requests = requests(&sequences[..25]);
    let composed = model.with_kernels(Kernels::Composed);
    let (expected, stats) = composed.score(&requests, &options(9), &mut |_| {}).unwrap();
    assert_eq!(stats.tokens_computed, stats.tokens_given);
    assert_eq!(stats.batches, 25);
    let scores = score(&model, &requests, &options(50));
    let logps: Vec<Vec<f32>> = expected.iter().map(|score| score.token_logps.clone()).collect();
    assert_close("adapter", &scores, &logps);
    assert_ne!(score(&model.without_adapter(), &requests, &options(50)), scores);
    for (score, expected) in scores.iter().zip(&expected) {
        assert_eq!(score.is_greedy, expected.is_greedy);
    }
    let half = model.without_adapter().to_dtype(DType::BF16).unwrap();
    // The same weights, but the products' other factors are rounded too.
    let widened = score(&half.to_dtype(DType::F32).unwrap(), &requests, &options(50));
    let half = score(&half, &requests, &options(50));
    let pairs = half.iter().zip(&widened).flat_map(|(half, wide)| half.token_logps.iter().zip(&wide.token_logps));
    let largest = pairs.map(|(half, wide)| (half - wide).abs()).fold(0.0, f32::max);
    assert!(largest > 0.0 && largest < 0.05, "{largest}");
}

#[test]
fn scores_do_not_depend_on_the_number_of_threads_nor_on_the_order() {
    let (_, model) = models().swap_remove(0);
    let sequences = sequences(4, model.config().vocab_size, 300);
    let requests = requests(&sequences);
    let with_threads = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| score(&model, &requests, &options(200)))
    };
    let single = with_threads(1);
    assert_eq!(single, with_threads(3));
    let reversed: Vec<_> = requests.iter().rev().copied().collect();
    let scores = score(&model, &reversed, &options(200));
    assert!(single.iter().eq(scores.iter().rev()));
}

#[test]
fn a_tree_has_every_beginning_once() {
    let sequences = [(vec![1, 2, 3, 4], 1), (vec![1, 2, 5, 6], 2), (vec![1, 2, 3, 9], 1), (vec![1, 2, 3], 2)];
    let tree = Tree::new(&requests(&sequences));
    assert_eq!(tree.ids, [1, 2, 3, 5]);
    assert_eq!(tree.positions, [0, 1, 2, 2]);
    assert_eq!(tree.ends, [4, 4, 3, 4]);
    let predictions: Vec<_> = tree.predictions.iter().map(|p| (p.node, p.token, p.request, p.index)).collect();
    assert_eq!(predictions, [(0, 2, 3, 0), (1, 3, 3, 1), (1, 5, 1, 0), (2, 4, 0, 0), (2, 9, 2, 0), (3, 6, 1, 1)]);
    assert_eq!(tree.batches(3), [0..2, 2..4]);
    let mut path = Vec::new();
    let rows = tree.rows(&(0..3), &mut path, &tree.predictions[..5]);
    assert_eq!((rows.ids, rows.wanted.as_slice()), ([1, 2, 3].as_slice(), [0, 1, 2].as_slice()));
    assert_eq!((rows.kept, rows.added.as_slice()), (0, [0, 1].as_slice()));
    assert_eq!((rows.ends, path.as_slice()), (vec![3, 3, 3], [0, 1].as_slice()));
    let rows = tree.rows(&(3..4), &mut path, &tree.predictions[5..]);
    assert_eq!((rows.ends, rows.cached_ends, rows.kept), (vec![1], vec![1, 1], 0));
}

/// The types' bits by arithmetic: a mantissa of some bits, of the exponent's
/// range.
fn rounded(value: f32, rounding: Rounding) -> f32 {
    let (bits, smallest) = match rounding {
        Rounding::None => return value,
        Rounding::BFloat16 => (8, -126),
        Rounding::Float16 => (11, -14),
    };
    if value == 0.0 {
        return value;
    }
    let exponent = (f64::from(value).abs().log2().floor() as i32).max(smallest);
    let unit = 2.0_f64.powi(exponent - bits + 1);
    ((f64::from(value) / unit).round_ties_even() * unit) as f32
}

#[test]
fn rounding_repeats_arithmetic_of_half_precision() {
    let mut numbers = Numbers(7);
    for rounding in [Rounding::None, Rounding::BFloat16, Rounding::Float16] {
        let mut ties = 0;
        for row in 0..200 {
            let spread = [0.01, 0.3, 4.0, 20.0][row % 4];
            let mut logits: Vec<f32> = (0..300).map(|_| (numbers.below(20_001) as f32 / 1e4 - 1.0) * spread).collect();
            let exact: Vec<f32> = logits.iter().map(|logit| rounded(*logit, rounding)).collect();
            let max = exact.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = exact.iter().map(|logit| f64::from(logit - max).exp()).sum();
            let unrounded: Vec<f32> = exact.iter().map(|logit| (f64::from(logit - max) - sum.ln()) as f32).collect();
            let logps: Vec<f32> = unrounded.iter().map(|logp| rounded(*logp, rounding)).collect();
            let scores: Vec<_> = score_row(&mut logits, 0..300, rounding).collect();
            for (score, logp) in scores.iter().zip(&logps) {
                // The last bit of f32 may decide which way a half is rounded.
                let step = if rounding == Rounding::None { 1e-5 } else { 0.008 * logp.abs() };
                assert!((score.logp - logp).abs() <= step, "{rounding:?}: {} for {logp}", score.logp);
                assert_eq!(score.logp, rounded(score.logp, rounding));
            }
            let best = scores.iter().map(|score| score.logp).fold(f32::NEG_INFINITY, f32::max);
            let first = scores.iter().position(|score| score.logp == best);
            if rounding != Rounding::None {
                let found: Vec<usize> = (0..300).filter(|index| scores[*index].is_greedy).collect();
                assert_eq!(Some(found[0]), first);
                assert_eq!(found.len(), 1);
                ties += usize::from(scores.iter().filter(|score| score.logp == best).count() > 1);
            } else {
                assert!(scores[logits.iter().position(|logit| *logit == max).unwrap()].is_greedy);
            }
        }
        assert_eq!(ties > 50, rounding != Rounding::None, "{ties}");
    }
}

#[test]
fn what_is_not_a_number_is_no_score() {
    let mut logits = [0.5, f32::NAN, 2.0];
    for score in score_row(&mut logits, 0..3, Rounding::None) {
        assert!(score.logp.is_nan() && !score.is_greedy);
    }
    let (_, model) = models().swap_remove(1);
    let norm = &model.params()["model.norm.weight"];
    norm.set(&norm.affine(0.0, f64::NAN).unwrap()).unwrap();
    let scores = score(&model, &[ScoreRequest { tokens: &[1, 2, 3], continuation: 2 }], &options(8));
    assert!(scores[0].token_logps.iter().all(|logp| logp.is_nan()) && !scores[0].is_greedy);
}

#[test]
fn requests_that_cannot_be_scored_are_named() {
    let (_, model) = models().swap_remove(0);
    let ids = vec![1; 702];
    let problem = |tokens: &[u32], continuation: usize| {
        let good = ScoreRequest { tokens: &[1, 2], continuation: 1 };
        let requests = [good, ScoreRequest { tokens, continuation }];
        model.score(&requests, &options(64), &mut |_| {}).unwrap_err().to_string()
    };
    assert!(problem(&ids, 1).contains("sequence 1") && problem(&ids, 1).contains("701 tokens"));
    assert!(problem(&[1, 28], 1).contains("token id 28"));
    assert!(problem(&[1, 2], 0).contains("no tokens"));
    assert!(problem(&[1, 2], 2).contains("context"));
    assert!(problem(&[], 1).contains("context"));
    assert!(model.score(&[], &options(64), &mut |_| {}).unwrap().0.is_empty());
    // The last token takes no position.
    let longest = ScoreRequest { tokens: &ids[..701], continuation: 1 };
    assert_eq!(score(&model, &[longest], &options(0x1000)).len(), 1);
}

/// Compares operations with the CPU's.
fn scored_alike<O: TreeOperations>(
    ops: &O,
    name: &str,
    model: &CausalLm,
    sequences: &[(Vec<u32>, usize)],
    options: &ScoreOptions,
) {
    let requests = requests(sequences);
    let tree = Tree::new(&requests);
    let expected = score(model, &requests, options);
    let mut pass = TreePass::new(ops, model.decoder(), 200, 200).unwrap();
    let (mut results, mut stats) = (Results::new(&requests), ScoreStats::default());
    let batches = tree.batches(options.max_rows);
    score_tree(&mut pass, &tree, batches, options, &mut results, &mut stats, &mut |_| {}).unwrap();
    // Rounded numbers may be a bf16 apart.
    let narrow = model.dtype() == DType::BF16 || options.rounding != Rounding::None;
    let bound = if narrow { 0.1 } else { 2e-5 };
    for (index, (found, expected)) in results.scores.iter().zip(&expected).enumerate() {
        for (logp, expected) in found.token_logps.iter().zip(&expected.token_logps) {
            assert!(
                (logp - expected).abs() < bound * expected.abs().max(1.0),
                "{name} {options:?}, request {index}: {logp} for {expected}"
            );
        }
        assert!(narrow || found.is_greedy == expected.is_greedy, "{name}, request {index}");
    }
}

/// The same orchestration with operations whose buffers it cannot look into.
#[test]
fn plain_operations_score_alike() {
    for (name, model) in models() {
        for dtype in [DType::F32, DType::BF16] {
            let model = model.to_dtype(dtype).unwrap();
            let sequences = sequences(4, model.config().vocab_size, 100);
            for (max_rows, rounding, temperature) in [(40, Rounding::None, 0.7), (4096, Rounding::None, 1.0)] {
                let options = ScoreOptions { max_rows, rounding, temperature };
                scored_alike(&Plain, &format!("{name} {dtype:?}"), &model, &sequences, &options);
            }
        }
    }
}

/// A GPU's operations, whose kernels the CPU runs.
#[test]
fn kernels_of_a_gpu_score_alike() {
    let Some(machine) = spin_cuda_host::machine() else { return };
    for (index, (name, model)) in models().into_iter().enumerate() {
        let (dtype, rounding) = match index % 4 {
            2 => (DType::BF16, Rounding::None),
            3 => (DType::F32, Rounding::BFloat16),
            _ => (DType::F32, Rounding::None),
        };
        let model = model.to_dtype(dtype).unwrap();
        let mut sequences = sequences(4, model.config().vocab_size, 60);
        sequences.truncate(30);
        let options = ScoreOptions { max_rows: 40 + 20 * (index % 2), rounding, temperature: 0.7 };
        scored_alike(&Cuda::new(machine), &format!("{name} {dtype:?}"), &model, &sequences, &options);
    }
}
