//! What training rests on: whole gradients, and the same numbers from both
//! implementations.

mod common;

use candle_core::{DType, Device};
use common::{flat, max_difference, small_batch, small_config};
use spin_model::{Batch, CausalLm, Kernels};

fn model(tied: bool, kernels: Kernels) -> CausalLm {
    CausalLm::init(&small_config(tied), 3, &Device::Cpu).unwrap().with_kernels(kernels)
}

#[test]
fn every_trainable_tensor_gets_a_gradient() {
    for tied in [false, true] {
        for kernels in [Kernels::Composed, Kernels::Fused] {
            let model = model(tied, kernels);
            let logps = model.response_logps(&small_batch()).unwrap();
            let grads = logps.sum_all().unwrap().backward().unwrap();
            assert_eq!(model.params().len(), 2 + 3 * 9 + usize::from(!tied));
            for (name, var) in model.params() {
                let grad = grads.get(var).unwrap_or_else(|| panic!("{name}: none"));
                assert_eq!(grad.shape(), var.shape());
                assert!(flat(grad).iter().all(|x| x.is_finite()), "{name}");
                assert!(flat(grad).iter().any(|x| *x != 0.0), "{name}: all zero");
            }
        }
    }
}

#[test]
fn fused_and_composed_models_agree_on_ragged_batches() {
    for tied in [false, true] {
        let fused = model(tied, Kernels::Fused);
        let composed = fused.with_kernels(Kernels::Composed);
        let logps = |model: &CausalLm| model.response_logps(&small_batch()).unwrap();
        assert!(max_difference(&logps(&fused), &logps(&composed)) < 1e-4);
        let grads = |model: &CausalLm| logps(model).sum_all().unwrap().backward().unwrap();
        let (fused_grads, composed_grads) = (grads(&fused), grads(&composed));
        for (name, var) in fused.params() {
            let expected = composed_grads.get(var).unwrap();
            let scale = flat(expected).iter().fold(0.0_f32, |a, b| a.max(b.abs()));
            let difference = max_difference(fused_grads.get(var).unwrap(), expected);
            assert!(difference < 1e-4 * scale, "{name}: {difference} of {scale}");
        }
    }
}

#[test]
fn recomputing_changes_nothing() {
    let keeping = model(false, Kernels::Fused);
    let recomputing = keeping.with_recompute(true);
    let grads = |model: &CausalLm| {
        let logps = model.response_logps(&small_batch()).unwrap();
        logps.sum_all().unwrap().backward().unwrap()
    };
    let (kept, recomputed) = (grads(&keeping), grads(&recomputing));
    for (name, var) in keeping.params() {
        let (kept, recomputed) = (kept.get(var).unwrap(), recomputed.get(var).unwrap());
        assert_eq!(flat(kept), flat(recomputed), "{name}");
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
        let sums = flat(&model.response_logps(&small_batch()).unwrap());
        for (sum, logps) in sums.iter().zip(&together) {
            assert!((sum - logps.iter().sum::<f32>()).abs() < 1e-4);
        }
    }
}

#[test]
fn one_step_along_the_gradient_raises_the_log_probability() {
    let model = model(true, Kernels::Fused);
    let score = || model.response_logps(&small_batch()).unwrap().sum_all().unwrap();
    let before = score();
    let grads = before.backward().unwrap();
    for var in model.params().values() {
        let step = (grads.get(var).unwrap() * 1e-4).unwrap();
        var.set(&(var.as_tensor() + step).unwrap()).unwrap();
    }
    let gained = score().to_scalar::<f32>().unwrap() - before.to_scalar::<f32>().unwrap();
    assert!(gained > 0.0, "{gained}");
}

#[test]
fn wrong_tokens_and_lengths_are_refused_before_computing() {
    let model = model(false, Kernels::Fused);
    let foreign = Batch::new([([1_u32].as_slice(), [50_u32].as_slice())]).unwrap();
    let error = model.response_logps(&foreign).unwrap_err().to_string();
    assert!(error.contains("token id 50"), "{error}");
    let long = [1_u32; 70];
    let error = model.logits(&long).unwrap_err().to_string();
    assert!(error.contains("max_position_embeddings"), "{error}");
    assert_eq!(model.dtype(), DType::F32);
}
