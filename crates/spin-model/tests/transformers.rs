//! Logits, log-probabilities and gradients equal those of transformers.
//!
//! The expected values are made by `tests/golden/make_model_golden.py`.
#![allow(clippy::print_stderr, reason = "tests report what they measured")]

mod common;

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use common::{flat, golden_dir, max_difference};
use serde_json::Value;
use spin_model::{Batch, CausalLm, Kernels};

struct Golden {
    model: CausalLm,
    expected: HashMap<String, Tensor>,
    cases: Value,
}

fn golden(name: &str, kernels: Kernels) -> Golden {
    let dir = golden_dir(name);
    let cpu = Device::Cpu;
    Golden {
        model: CausalLm::load(&dir, &cpu, DType::F32).unwrap().with_kernels(kernels),
        expected: candle_core::safetensors::load(dir.join("expected.safetensors"), &cpu).unwrap(),
        cases: serde_json::from_slice(&std::fs::read(dir.join("cases.json")).unwrap()).unwrap(),
    }
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// Prompts and responses, the real answer of each pair before the generated.
fn sequences(cases: &Value) -> Vec<(Vec<u32>, Vec<u32>)> {
    let pairs = cases["pairs"].as_array().unwrap();
    pairs.iter().flat_map(|pair| ["real", "generated"].map(|side| (ids(&pair["prompt"]), ids(&pair[side])))).collect()
}

fn batch(cases: &Value) -> Batch {
    let sequences = sequences(cases);
    Batch::new(sequences.iter().map(|(a, b)| (a.as_slice(), b.as_slice()))).unwrap()
}

/// -log sigmoid(x) composed of differentiable operations; good away from the
/// extremes.
fn negative_log_sigmoid(x: &Tensor) -> Tensor {
    (x.neg().unwrap().exp().unwrap() + 1.0).unwrap().log().unwrap()
}

fn spin_loss(golden: &Golden) -> Tensor {
    let logps = golden.model.response_logps(&batch(&golden.cases)).unwrap();
    let reference: Vec<Vec<f32>> = serde_json::from_value(golden.cases["reference"].clone()).unwrap();
    let reference = Tensor::new(reference, &Device::Cpu).unwrap();
    let logps = logps.reshape(reference.shape()).unwrap();
    let expected = &golden.expected["logps"];
    let difference = max_difference(&logps, expected);
    eprintln!("log-probabilities of responses within {difference:.1e}");
    assert!(difference < 1e-4);

    let rewards = (logps - reference).unwrap();
    let real = rewards.narrow(1, 0, 1).unwrap();
    let generated = rewards.narrow(1, 1, 1).unwrap();
    let beta = golden.cases["beta"].as_f64().unwrap();
    let margins = ((real - generated).unwrap() * beta).unwrap();
    negative_log_sigmoid(&margins).mean_all().unwrap()
}

#[test]
fn logits_equal_those_of_transformers() {
    for name in ["untied", "tied"] {
        for kernels in [Kernels::Composed, Kernels::Fused] {
            let golden = golden(name, kernels);
            for (index, (prompt, response)) in sequences(&golden.cases).iter().enumerate() {
                let side = ["real", "generated"][index % 2];
                let expected = &golden.expected[&format!("logits.{}.{side}", index / 2)];
                let logits = golden.model.logits(&[prompt.as_slice(), response].concat()).unwrap();
                let difference = max_difference(&logits, expected);
                let scale = flat(expected).iter().fold(0.0_f32, |a, b| a.max(b.abs()));
                eprintln!("{name} {kernels:?}: logits within {difference:.1e} of {scale:.1}");
                assert!(difference < 1e-5 * scale);
            }
        }
    }
}

#[test]
fn log_probabilities_of_tokens_equal_those_of_transformers() {
    for name in ["untied", "tied"] {
        for kernels in [Kernels::Composed, Kernels::Fused] {
            let golden = golden(name, kernels);
            let batch = batch(&golden.cases);
            let all = golden.model.response_token_logps(&batch).unwrap();
            for (index, logps) in all.iter().enumerate() {
                let side = ["real", "generated"][index % 2];
                let expected = flat(&golden.expected[&format!("token_logps.{}.{side}", index / 2)]);
                assert_eq!(logps.len(), expected.len());
                for (logp, expected) in logps.iter().zip(expected) {
                    assert!((logp - expected).abs() < 1e-5, "{logp} for {expected}");
                }
            }
        }
    }
}

#[test]
fn gradients_of_the_spin_loss_equal_those_of_transformers() {
    for name in ["untied", "tied"] {
        for kernels in [Kernels::Composed, Kernels::Fused] {
            let golden = golden(name, kernels);
            let loss = spin_loss(&golden);
            let expected = flat(&golden.expected["loss"])[0];
            let difference = (loss.to_scalar::<f32>().unwrap() - expected).abs();
            assert!(difference < 1e-5, "{difference}");
            let grads = loss.backward().unwrap();
            let mut worst = 0.0_f32;
            for (param, var) in golden.model.params() {
                let expected = &golden.expected[&format!("grad.{param}")];
                let grad = grads.get(var).unwrap();
                let scale = flat(expected).iter().fold(0.0_f32, |a, b| a.max(b.abs()));
                let relative = max_difference(grad, expected) / scale;
                assert!(relative < 1e-4, "{param}: {relative}");
                worst = worst.max(relative);
            }
            eprintln!("{name} {kernels:?}: gradients within {worst:.1e} of the largest entry");
        }
    }
}

/// A real checkpoint, trained by others; beside the workspace, not part of it.
#[test]
fn log_likelihoods_of_stories260k_equal_those_of_the_harness() {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let (dir, golden) = (shared.join("models/stories260K"), shared.join("golden/stories260K_golden.json"));
    if !dir.exists() || !golden.exists() {
        eprintln!("skipped: {} is absent", dir.display());
        return;
    }
    let golden: Value = serde_json::from_slice(&std::fs::read(golden).unwrap()).unwrap();
    let model = CausalLm::load(&dir, &Device::Cpu, DType::F32).unwrap();
    let mut worst = 0.0_f64;
    for case in golden["loglikelihoods"].as_array().unwrap() {
        let mut context = ids(&case["context_ids"]);
        if case["bos"].as_bool().unwrap() && context.first() != Some(&1) {
            context.insert(0, 1);
        }
        let continuation = ids(&case["continuation_ids"]);
        let batch = Batch::new([(context.as_slice(), continuation.as_slice())]).unwrap();
        let logp = flat(&model.response_logps(&batch).unwrap())[0];
        let expected = case["loglikelihood_f64"].as_f64().unwrap();
        worst = worst.max((f64::from(logp) - expected).abs());
    }
    eprintln!("stories260K: log-likelihoods within {worst:.1e}");
    assert!(worst < 1e-4);

    let greedy = ids(&golden["greedy_ids"]);
    let logits = model.logits(&greedy[..greedy.len() - 1]).unwrap();
    let choices = logits.argmax(1).unwrap().to_vec1::<u32>().unwrap();
    // BOS and the four tokens of the prompt were given, the rest chosen.
    assert_eq!(choices[4..], greedy[5..]);
}
