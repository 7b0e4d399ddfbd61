//! Hugging Face directories in and out.

mod common;

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use common::{flat, golden_dir, small_config};
use spin_model::{CausalLm, Kernels};

fn same_weights(a: &CausalLm, b: &CausalLm) -> bool {
    a.params().len() == b.params().len()
        && a.params().iter().zip(b.params()).all(|((a_name, a), (b_name, b))| a_name == b_name && flat(a) == flat(b))
}

#[test]
fn fresh_weights_depend_on_the_seed_alone() {
    let init = |seed| CausalLm::init(&small_config(false), seed, &Device::Cpu).unwrap();
    assert!(same_weights(&init(3), &init(3)));
    assert!(!same_weights(&init(3), &init(4)));
    let model = init(3);
    assert_eq!(flat(&model.params()["model.norm.weight"]), vec![1.0; 24]);
    let weights = flat(&model.params()["lm_head.weight"]);
    let square: f32 = weights.iter().map(|x| x * x).sum::<f32>() / weights.len() as f32;
    assert!((square.sqrt() - 0.2).abs() < 0.02);
    // Numbers of another machine or release would tell of a changed generator.
    let first = &weights[..3];
    assert_eq!(first, FIRST_WEIGHTS, "{first:?}");
    assert_eq!(model.num_params(), 50 * 24 * 2 + 24 + 3 * 4_752);
}

/// The first entries of `lm_head.weight` for seed 3.
const FIRST_WEIGHTS: [f32; 3] = [-0.024_811_663, 0.142_112_96, -0.391_014_84];

#[test]
fn a_saved_model_is_read_back_and_saved_to_the_same_bytes() {
    for tied in [false, true] {
        let model = CausalLm::init(&small_config(tied), 3, &Device::Cpu).unwrap();
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        model.save(one.path()).unwrap();
        let again = CausalLm::load(one.path(), &Device::Cpu, DType::F32).unwrap();
        assert!(same_weights(&model, &again));
        assert_eq!(again.config().raw("eos_token_id"), Some(&2.into()));
        again.save(two.path()).unwrap();
        for file in ["config.json", "model.safetensors"] {
            let read = |dir: &tempfile::TempDir| std::fs::read(dir.path().join(file)).unwrap();
            assert_eq!(read(&one), read(&two), "{file}");
        }
    }
}

#[test]
fn shards_hold_the_same_weights() {
    let model = CausalLm::init(&small_config(false), 3, &Device::Cpu).unwrap();
    let dir = tempfile::tempdir().unwrap();
    model.save_sharded(dir.path(), 20_000).unwrap();
    assert!(!dir.path().join("model.safetensors").exists());
    let index = std::fs::read(dir.path().join("model.safetensors.index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    assert_eq!(index["metadata"]["total_size"], model.num_params() * 4);
    let last = index["weight_map"]["model.norm.weight"].as_str().unwrap();
    assert!(last.starts_with("model-0000") && last.ends_with(".safetensors"), "{last}");
    let again = CausalLm::load(dir.path(), &Device::Cpu, DType::F32).unwrap();
    assert!(same_weights(&model, &again));
}

#[test]
fn half_precision_weights_survive_and_compute_in_their_way() {
    let model = CausalLm::init(&small_config(true), 3, &Device::Cpu).unwrap();
    let dir = tempfile::tempdir().unwrap();
    model.save(dir.path()).unwrap();
    for (dtype, name) in [(DType::BF16, "bfloat16"), (DType::F16, "float16")] {
        let half = CausalLm::load(dir.path(), &Device::Cpu, dtype).unwrap();
        let copy = tempfile::tempdir().unwrap();
        half.save(copy.path()).unwrap();
        let again = CausalLm::load(copy.path(), &Device::Cpu, dtype).unwrap();
        assert_eq!(again.config().stored_dtype(), Some(name));
        for (param, var) in half.params() {
            let values = |var: &Tensor| flat(&var.to_dtype(DType::F32).unwrap());
            assert_eq!(values(var), values(&again.params()[param]));
        }
        // The same numbers as a model of the rounded weights in f32.
        let wide = CausalLm::load(copy.path(), &Device::Cpu, DType::F32).unwrap();
        let (logps, grads) = common::sum_of_logps(&half, &common::small_batch());
        let (expected, expected_grads) = common::sum_of_logps(&wide, &common::small_batch());
        if dtype == DType::F16 {
            assert_eq!(logps, expected);
            assert!(grads.iter().all(|(name, grad)| flat(grad) == flat(&expected_grads[name])));
            continue;
        }
        // Of bf16 the products' other factors are rounded too.
        assert!(logps != expected && (logps - expected).abs() < 0.01 * expected.abs(), "{logps} for {expected}");
        for (name, grad) in &grads {
            let (grad, expected) = (flat(grad), flat(&expected_grads[name]));
            let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|x| f64::from(x * x)).sum::<f64>().sqrt();
            let off = norm(&mut grad.iter().zip(&expected).map(|(a, b)| a - b));
            assert!(off < 0.05 * norm(&mut expected.iter().copied()), "{name}: {off}");
        }
    }
    // candle multiplies f16 but not bf16 matrices on the CPU.
    let half = CausalLm::load(dir.path(), &Device::Cpu, DType::F16).unwrap().with_kernels(Kernels::Composed);
    let close = half.sum_logps(&common::small_batch()).unwrap();
    let exact = model.sum_logps(&common::small_batch()).unwrap();
    for (close, exact) in close.iter().zip(&exact) {
        assert!((close - exact).abs() < 0.02 * exact.abs(), "{close} for {exact}");
    }
}

/// What a directory says of every architecture survives reading and writing.
#[test]
fn every_architecture_is_written_back_as_it_was_read() {
    for (name, golden) in common::Golden::architectures() {
        let dir = tempfile::tempdir().unwrap();
        let model = CausalLm::load(&golden.dir, &Device::Cpu, DType::F32).unwrap();
        model.save(dir.path()).unwrap();
        let again = CausalLm::load(dir.path(), &Device::Cpu, DType::F32).unwrap();
        assert!(same_weights(&model, &again), "{name}");
        let batch = golden.batch();
        assert_eq!(model.sum_logps(&batch).unwrap(), again.sum_logps(&batch).unwrap(), "{name}");
        let original = candle_core::safetensors::load(golden.dir.join("model.safetensors"), &Device::Cpu).unwrap();
        let written = candle_core::safetensors::load(dir.path().join("model.safetensors"), &Device::Cpu).unwrap();
        assert_eq!(original.len(), written.len(), "{name}");
        assert!(original.iter().all(|(param, tensor)| flat(tensor) == flat(&written[param])), "{name}");
    }
}

#[test]
fn errors_name_file_and_tensor() {
    let cpu = Device::Cpu;
    let message = |dir: &std::path::Path| CausalLm::load(dir, &cpu, DType::F32).unwrap_err().to_string();
    let dir = tempfile::tempdir().unwrap();
    assert!(message(dir.path()).contains("config.json"));

    let copy = |name: &str| std::fs::copy(golden_dir().join("fit/llama").join(name), dir.path().join(name));
    copy("config.json").unwrap();
    assert!(message(dir.path()).contains("model.safetensors"));
    let weights = dir.path().join("model.safetensors");
    std::fs::write(&weights, b"not weights").unwrap();
    assert!(message(dir.path()).contains("not a safetensors file"));

    let golden = golden_dir().join("fit/llama").join("model.safetensors");
    let good = candle_core::safetensors::load(golden, &cpu).unwrap();
    let damaged = |change: &dyn Fn(&mut std::collections::HashMap<String, Tensor>)| {
        let mut tensors = good.clone();
        change(&mut tensors);
        candle_core::safetensors::save(&tensors, &weights).unwrap();
        let text = message(dir.path());
        assert!(text.contains("model.safetensors"), "{text}");
        text
    };
    let name = "model.layers.1.mlp.up_proj.weight";
    let text = damaged(&|tensors| drop(tensors.remove(name)));
    assert!(text.contains(name) && text.contains("missing"), "{text}");
    let text = damaged(&|tensors| {
        let other = tensors[name].t().unwrap().contiguous().unwrap();
        tensors.insert(name.to_owned(), other);
    });
    assert!(text.contains(name) && text.contains("[16, 18]"), "{text}");
    let text = damaged(&|tensors| {
        let bias = Tensor::zeros(16, DType::F32, &Device::Cpu).unwrap();
        tensors.insert("model.layers.0.self_attn.q_proj.bias".to_owned(), bias);
    });
    assert!(text.contains("q_proj.bias"), "{text}");
}

#[test]
fn weights_are_restored_whole_or_not_at_all() {
    let cpu = Device::Cpu;
    let source = CausalLm::init(&small_config(false), 1, &cpu).unwrap();
    let target = CausalLm::init(&small_config(false), 2, &cpu).unwrap();
    let mut tensors: BTreeMap<String, Tensor> =
        source.params().iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect();
    target.set_trainable(&tensors).unwrap();
    assert!(same_weights(&source, &target));

    tensors.remove("lm_head.weight");
    let untouched = CausalLm::init(&small_config(false), 2, &cpu).unwrap();
    let error = untouched.set_trainable(&tensors).unwrap_err().to_string();
    assert!(error.contains("lm_head.weight"), "{error}");
    let fresh = CausalLm::init(&small_config(false), 2, &cpu).unwrap();
    assert!(same_weights(&untouched, &fresh));
}
