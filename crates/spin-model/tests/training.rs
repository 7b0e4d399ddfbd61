//! What training rests on: whole gradients, and the same numbers from both
//! implementations.

mod common;

use candle_core::{DType, Device};
use common::{compare_grads, flat, small_batch, small_config, sum_of_logps};
use spin_model::{Batch, CausalLm, Gradients, Kernels, LoraConfig};

fn model(tied: bool, kernels: Kernels) -> CausalLm {
    CausalLm::init(&small_config(tied), 3, &Device::Cpu).unwrap().with_kernels(kernels)
}

/// Sequences long enough for the kernels of long ones, two of which share a
/// prompt, with windows and without.
fn long_batch() -> Batch {
    let tokens: Vec<u32> = (0..900).map(|i| (i * i * 17 + 5 * i) % 50).collect();
    let pair = [&tokens[200..330], &tokens[330..335]];
    Batch::grouped([(&tokens[0..200], pair.to_vec()), (&tokens[400..403], vec![&tokens[403..700]])]).unwrap()
}

fn long_model(window: Option<usize>) -> CausalLm {
    let json = serde_json::json!({
        "architectures": ["MistralForCausalLM"], "sliding_window": window,
        "vocab_size": 50, "hidden_size": 32, "intermediate_size": 44, "head_dim": 8,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 512, "initializer_range": 0.2,
    });
    let config = spin_model::ModelConfig::from_json(&json.to_string(), "long_model").unwrap();
    CausalLm::init(&config, 5, &Device::Cpu).unwrap()
}

#[test]
fn every_trainable_tensor_gets_a_gradient() {
    for tied in [false, true] {
        for kernels in [Kernels::Composed, Kernels::Fused] {
            let model = model(tied, kernels);
            let (_, grads) = sum_of_logps(&model, &small_batch());
            assert_eq!(model.params().len(), 2 + 3 * 9 + usize::from(!tied));
            for (name, var) in model.params() {
                let grad = &grads[name];
                assert_eq!(grad.shape(), var.shape());
                assert!(flat(grad).iter().all(|x| x.is_finite()), "{name}");
                assert!(flat(grad).iter().any(|x| *x != 0.0), "{name}: all zero");
            }
        }
    }
}

#[test]
fn fused_and_composed_models_agree_on_ragged_batches() {
    let models = [model(false, Kernels::Fused), model(true, Kernels::Fused)].map(|model| (model, small_batch()));
    let long = [None, Some(20), Some(190)].map(|window| (long_model(window), long_batch()));
    for (fused, batch) in models.into_iter().chain(long) {
        let (logps, grads) = sum_of_logps(&fused, &batch);
        let (expected, expected_grads) = sum_of_logps(&fused.with_kernels(Kernels::Composed), &batch);
        assert!((logps - expected).abs() < 1e-5 * expected.abs(), "{logps} {expected}");
        compare_grads("fused", &grads, |name| expected_grads[name].clone(), 1e-4);
        let (logps, grads) = sum_of_logps(&fused.with_shared_prompts(false), &batch);
        assert!((logps - expected).abs() < 1e-5 * expected.abs(), "{logps} {expected}");
        compare_grads("prompts not shared", &grads, |name| expected_grads[name].clone(), 1e-4);
    }
}

/// A vocabulary so large that one answer's logits are more than are held.
#[test]
fn log_probabilities_in_chunks_are_those_in_one_piece() {
    let json = serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "vocab_size": 70_000, "hidden_size": 8, "intermediate_size": 8,
        "num_hidden_layers": 1, "num_attention_heads": 1, "max_position_embeddings": 512, "initializer_range": 0.5,
    });
    let config = spin_model::ModelConfig::from_json(&json.to_string(), "wide").unwrap();
    let model = CausalLm::init(&config, 5, &Device::Cpu).unwrap();
    let tokens: Vec<u32> = (0..350).map(|i| i * 199 % 70_000).collect();
    let whole = Batch::new([(&tokens[..4], &tokens[4..])]).unwrap();
    let parts: Vec<_> = (4..350).map(|at| (&tokens[..at], &tokens[at..at + 1])).collect();
    let (logps, grads) = sum_of_logps(&model, &whole);
    let (expected, expected_grads) = sum_of_logps(&model.with_recompute(1), &Batch::new(parts).unwrap());
    assert!((logps - expected).abs() < 1e-5 * expected.abs(), "{logps} {expected}");
    compare_grads("in one piece", &grads, |name| expected_grads[name].clone(), 1e-4);
}

#[test]
fn recomputing_changes_nothing() {
    let keeping = model(false, Kernels::Fused);
    let kept = sum_of_logps(&keeping, &small_batch());
    for every in [1, 2, 3, 7] {
        let recomputed = sum_of_logps(&keeping.with_recompute(every), &small_batch());
        assert_eq!(kept.0, recomputed.0);
        for (name, grad) in &kept.1 {
            assert_eq!(flat(grad), flat(&recomputed.1[name]), "{name}");
        }
    }
}

/// In a pool of one thread and of three.
#[test]
fn the_number_of_threads_changes_nothing() {
    let (model, batch) = (long_model(None), long_batch());
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| sum_of_logps(&model, &batch))
    };
    let (one, three) = (run(1), run(3));
    assert_eq!(one.0, three.0);
    for (name, grad) in &one.1 {
        assert_eq!(flat(grad), flat(&three.1[name]), "{name}");
    }
}

#[test]
fn a_sequence_scores_the_same_alone_and_in_company() {
    for kernels in [Kernels::Composed, Kernels::Fused] {
        let model = model(false, kernels);
        let together = model.response_token_logps(&small_batch()).unwrap();
        let tokens: Vec<u32> = (0..60).map(|i| (i * 17 + 5) % 50).collect();
        let alone = Batch::new([(&tokens[31..38], &tokens[38..39])]).unwrap();
        let alone = model.response_token_logps(&alone).unwrap();
        assert!((together[2][0] - alone[0][0]).abs() < 1e-5);
        let sums = model.sum_logps(&small_batch()).unwrap();
        for (sum, logps) in sums.iter().zip(&together) {
            assert!((sum - f64::from(logps.iter().sum::<f32>())).abs() < 1e-4);
        }
    }
}

#[test]
fn smoothed_gradients_are_those_of_finite_differences() {
    let model = model(true, Kernels::Fused);
    let score = |grads: Option<&mut Gradients>| {
        let mut none = Gradients::zeros(&Default::default()).unwrap();
        let grads = grads.unwrap_or(&mut none);
        let logps = model.accumulate_gradients(&small_batch(), 0.2, &mut |_, l| vec![1.0; l.len()], grads).unwrap();
        logps.iter().sum::<f64>()
    };
    let mut grads = Gradients::zeros(model.params()).unwrap();
    score(Some(&mut grads));
    let grads = grads.to_tensors().unwrap();
    // Along the gradient of one tensor at a time.
    for (name, var) in model.params() {
        let (before, grad) = (var.as_tensor().copy().unwrap(), &grads[name]);
        let norm = flat(grad).iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        let step = 2e-3 / norm;
        let moved = |by: f64| {
            var.set(&(&before + (grad * by).unwrap()).unwrap()).unwrap();
            score(None)
        };
        let slope = (moved(step) - moved(-step)) / (2.0 * step);
        var.set(&before).unwrap();
        assert!((slope / (norm * norm) - 1.0).abs() < 0.01, "{name}: {slope} for {}", norm * norm);
    }
}

#[test]
fn an_adapter_is_all_that_is_trained_and_merges() {
    let config =
        LoraConfig { r: 3, lora_dropout: 0.3, target_modules: vec!["all-linear".into()], ..Default::default() };
    let base = model(false, Kernels::Fused);
    let adapted = base.with_new_adapter(&config, 9).unwrap();
    assert_eq!(adapted.trainable().len(), 3 * 7 * 2);
    // PEFT knows `all-linear` as a word by itself only, and writes it out.
    assert_eq!(adapted.adapter().unwrap().target_modules[..2], ["down_proj", "gate_proj"]);
    assert!(adapted.adapter_is(&config) && !adapted.adapter_is(&LoraConfig { r: 4, ..config.clone() }));
    let logps = |model: &CausalLm| model.sum_logps(&small_batch()).unwrap();
    assert_eq!(logps(&base), logps(&adapted), "a fresh adapter computes nothing");
    for (name, var) in adapted.trainable() {
        if name.contains("lora_B") {
            let values: Vec<f32> = (0..var.elem_count()).map(|i| ((i * 7 % 11) as f32 - 5.0) * 0.02).collect();
            let values = candle_core::Tensor::from_vec(values, var.shape(), &Device::Cpu).unwrap();
            var.set(&values).unwrap();
        }
    }
    assert_ne!(logps(&base), logps(&adapted));
    assert_eq!(logps(&base), logps(&adapted.without_adapter()));
    let merged = adapted.merge_adapter().unwrap();
    for (a, b) in logps(&adapted).into_iter().zip(logps(&merged)) {
        assert!((a - b).abs() < 1e-4, "{a} {b}");
    }
    // Gradients with dropout, which is the same for equal seeds, both kernels
    // being given rows without padding.
    let tokens: Vec<u32> = (0..20).collect();
    let batch = |seed| Batch::new([(&tokens[..5], &tokens[5..])]).unwrap().with_dropout_seed(seed);
    let (fused, grads) = sum_of_logps(&adapted, &batch(1));
    let (composed, expected) = sum_of_logps(&adapted.with_kernels(Kernels::Composed), &batch(1));
    assert!((fused - composed).abs() < 1e-4);
    compare_grads("adapter", &grads, |name| expected[name].clone(), 1e-4);
    let (recomputed, again) = sum_of_logps(&adapted.with_recompute(1), &batch(1));
    assert_eq!(fused, recomputed);
    assert!(grads.iter().all(|(name, grad)| flat(grad) == flat(&again[name])));
    assert_ne!(fused, sum_of_logps(&adapted, &batch(2)).0);
    let unknown = LoraConfig { target_modules: vec!["query".into()], ..config };
    let error = base.with_new_adapter(&unknown, 9).unwrap_err().to_string();
    assert!(error.contains("it has: down_proj, gate_proj, k_proj"), "{error}");
}

#[test]
fn wrong_tokens_and_lengths_are_refused_before_computing() {
    let model = model(false, Kernels::Fused);
    let foreign = Batch::new([([1_u32].as_slice(), [50_u32].as_slice())]).unwrap();
    let error = model.sum_logps(&foreign).unwrap_err().to_string();
    assert!(error.contains("token id 50"), "{error}");
    let long = [1_u32; 70];
    let error = model.logits(&long).unwrap_err().to_string();
    assert!(error.contains("max_position_embeddings"), "{error}");
    assert_eq!(model.dtype(), DType::F32);
}
