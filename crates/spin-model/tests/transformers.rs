//! Every architecture's logits, log-probabilities and gradients equal those of
//! transformers, and every adapter's those of PEFT.
//!
//! The expected values are made by `tests/golden/make_fit_golden.py`.
#![allow(clippy::print_stderr, reason = "tests report what they measured")]

mod common;

use std::path::PathBuf;

use candle_core::{DType, Device};
use common::{Golden, compare_grads, flat, largest, max_difference};
use serde_json::Value;
use spin_model::{Batch, CausalLm, Kernels};

fn load(golden: &Golden, kernels: Kernels) -> CausalLm {
    CausalLm::load(&golden.dir, &Device::Cpu, DType::F32).unwrap().with_kernels(kernels)
}

const BOTH: [Kernels; 2] = [Kernels::Composed, Kernels::Fused];
const SIDES: [&str; 2] = ["real", "generated"];

#[test]
fn logits_equal_those_of_transformers() {
    for (name, golden) in Golden::architectures() {
        for kernels in BOTH {
            let model = load(&golden, kernels);
            let mut worst = 0.0_f32;
            for (index, [prompt, real, generated]) in golden.pairs().iter().enumerate() {
                for (side, response) in SIDES.iter().zip([real, generated]) {
                    let logits = model.logits(&[prompt.as_slice(), response].concat()).unwrap();
                    worst = worst.max(max_difference(&logits, &golden.expected[&format!("logits.{index}.{side}")]));
                }
            }
            eprintln!("{name} {kernels:?}: logits within {worst:.1e}");
            assert!(worst < 1e-4, "{name} {kernels:?}: {worst}");
        }
    }
}

#[test]
fn log_probabilities_of_tokens_equal_those_of_transformers() {
    for (name, golden) in Golden::architectures() {
        for kernels in BOTH {
            let all = load(&golden, kernels).response_token_logps(&golden.batch()).unwrap();
            for (index, logps) in all.iter().enumerate() {
                let expected = flat(&golden.expected[&format!("token_logps.{}.{}", index / 2, SIDES[index % 2])]);
                assert_eq!(logps.len(), expected.len());
                for (logp, expected) in logps.iter().zip(expected) {
                    assert!((logp - expected).abs() < 1e-4, "{name} {kernels:?}: {logp} for {expected}");
                }
            }
        }
    }
}

/// Whatever is kept, recomputed or shared.
#[test]
fn gradients_equal_those_of_transformers() {
    for (name, golden) in Golden::architectures() {
        for kernels in BOTH {
            for (recompute, share) in [(0, true), (0, false), (1, true), (2, false), (3, true)] {
                if kernels == Kernels::Composed && !share {
                    continue;
                }
                let what = format!("{name} {kernels:?} recomputing {recompute} sharing {share}");
                let model = load(&golden, kernels).with_recompute(recompute).with_shared_prompts(share);
                let (loss, logps, grads) = golden.spin_logistic(&model);
                let expected = f64::from(flat(&golden.expected["loss.spin_logistic"])[0]);
                assert!((loss - expected).abs() < 1e-5, "{what}: {loss} for {expected}");
                for (logp, expected) in logps.iter().zip(flat(&golden.expected["logps"])) {
                    assert!((logp - f64::from(expected)).abs() < 1e-4, "{what}");
                }
                assert_eq!(grads.len(), model.params().len());
                let expected = |param: &str| golden.expected[&format!("grad.spin_logistic.{param}")].clone();
                let worst = compare_grads(&what, &grads, expected, 1e-4);
                eprintln!("{what}: gradients within {worst:.1e}");
            }
        }
    }
}

/// bf16 has 8 bits of mantissa: 2^-8 = 0.4% per rounding. transformers rounds
/// every intermediate result to bf16; the fused kernels round the weights only
/// and compute in f32, the composed ones round where transformers does. Logits
/// of these models pass a dozen roundings, Gemma's more; the bound is 5% of the
/// largest logit.
#[test]
fn bf16_logits_are_those_of_transformers_up_to_rounding() {
    for (name, golden) in Golden::architectures() {
        let model = CausalLm::load(&golden.dir, &Device::Cpu, DType::BF16).unwrap();
        let mut worst = 0.0_f32;
        for (index, [prompt, real, generated]) in golden.pairs().iter().enumerate() {
            for (side, response) in SIDES.iter().zip([real, generated]) {
                let logits = model.logits(&[prompt.as_slice(), response].concat()).unwrap();
                let expected = &golden.expected[&format!("bf16.logits.{index}.{side}")];
                worst = worst.max(max_difference(&logits, expected) / largest(expected));
            }
        }
        eprintln!("{name}: bf16 logits within {worst:.1e} of the largest");
        assert!(worst < 0.05, "{name}: {worst}");
    }
}

/// A real checkpoint, trained by others; beside the workspace, not part of it.
#[test]
#[ignore = "needs SPIN_TEST_DATA"]
fn log_likelihoods_of_stories260k_equal_those_of_the_harness() {
    let shared = PathBuf::from(std::env::var("SPIN_TEST_DATA").expect("cargo sets it"));
    let (dir, golden) = (shared.join("models/stories260K"), shared.join("golden/stories260K_golden.json"));
    let ids = |value: &Value| -> Vec<u32> { serde_json::from_value(value.clone()).unwrap() };
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
        let logp = model.sum_logps(&batch).unwrap()[0];
        worst = worst.max((logp - case["loglikelihood_f64"].as_f64().unwrap()).abs());
    }
    eprintln!("stories260K: log-likelihoods within {worst:.1e}");
    assert!(worst < 1e-4);

    let greedy = ids(&golden["greedy_ids"]);
    let logits = model.logits(&greedy[..greedy.len() - 1]).unwrap();
    let choices = logits.argmax(1).unwrap().to_vec1::<u32>().unwrap();
    // BOS and the four tokens of the prompt were given, the rest chosen.
    assert_eq!(choices[4..], greedy[5..]);
}
