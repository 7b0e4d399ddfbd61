//! What several tests need.
#![allow(dead_code, reason = "no test file needs all of it")]

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use serde_json::Value;
use spin_model::{Batch, CausalLm, Gradients, ModelConfig};

/// `tests/golden` of the workspace.
pub fn golden_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden")
}

/// A directory of `make_fit_golden.py` or `make_lora_golden.py`.
pub struct Golden {
    pub dir: PathBuf,
    pub cases: Value,
    pub expected: HashMap<String, Tensor>,
}

impl Golden {
    pub fn open(dir: PathBuf) -> Self {
        let cases = std::fs::read(dir.join("cases.json")).unwrap();
        Self {
            cases: serde_json::from_slice(&cases).unwrap(),
            expected: candle_core::safetensors::load(dir.join("expected.safetensors"), &Device::Cpu).unwrap(),
            dir,
        }
    }

    /// Every architecture.
    pub fn architectures() -> Vec<(String, Self)> {
        let mut names: Vec<String> = std::fs::read_dir(golden_dir().join("fit"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert!(names.len() >= 11, "{names:?}");
        names.into_iter().map(|name| (name.clone(), Self::open(golden_dir().join("fit").join(name)))).collect()
    }

    /// Prompt, real answer and generated answer of each pair.
    pub fn pairs(&self) -> Vec<[Vec<u32>; 3]> {
        let ids = |value: &Value| serde_json::from_value(value.clone()).unwrap();
        let pairs = self.cases["pairs"].as_array().unwrap();
        pairs.iter().map(|pair| ["prompt", "real", "generated"].map(|part| ids(&pair[part]))).collect()
    }

    pub fn batch(&self) -> Batch {
        let pairs = self.pairs();
        Batch::grouped(pairs.iter().map(|[prompt, real, generated]| (prompt.as_slice(), [real.as_slice(), generated])))
            .unwrap()
    }

    pub fn reference(&self) -> Vec<[f64; 2]> {
        serde_json::from_value(self.cases["reference"].clone()).unwrap()
    }

    pub fn beta(&self) -> f64 {
        self.cases["beta"].as_f64().unwrap()
    }

    /// log(1 + exp(-t)) with t = beta ((real - its reference) - (generated -
    /// its reference)), the mean over the pairs; with its gradient.
    pub fn spin_logistic(&self, model: &CausalLm) -> (f64, Vec<f64>, BTreeMap<String, Tensor>) {
        let (reference, beta) = (self.reference(), self.beta());
        let mut grads = Gradients::zeros(model.trainable()).unwrap();
        let mut loss = 0.0;
        let mut slopes = |pair: usize, logps: &[f64]| {
            let t = beta * ((logps[0] - reference[pair][0]) - (logps[1] - reference[pair][1]));
            loss += (-t).exp().ln_1p() / reference.len() as f64;
            let slope = -beta / (1.0 + t.exp()) / reference.len() as f64;
            vec![slope, -slope]
        };
        let logps = model.accumulate_gradients(&self.batch(), 0.0, &mut slopes, &mut grads).unwrap();
        grads.check_complete().unwrap();
        (loss, logps, grads.to_tensors().unwrap())
    }
}

/// A small shape whose every size differs from the others.
pub fn small_config(tied: bool) -> ModelConfig {
    let json = serde_json::json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 50, "hidden_size": 24, "intermediate_size": 44,
        "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": tied, "initializer_range": 0.2, "eos_token_id": 2,
    });
    ModelConfig::from_json(&json.to_string(), "small_config").unwrap()
}

/// Sequences of different lengths over a vocabulary of at least 50.
pub fn small_batch() -> Batch {
    let tokens: Vec<u32> = (0..60).map(|i| (i * 17 + 5) % 50).collect();
    let pairs = [(&tokens[0..4], &tokens[4..9]), (&tokens[9..10], &tokens[10..31]), (&tokens[31..38], &tokens[38..39])];
    Batch::new(pairs).unwrap()
}

/// The sum of all log-probabilities of a batch, and its gradient.
pub fn sum_of_logps(model: &CausalLm, batch: &Batch) -> (f64, BTreeMap<String, Tensor>) {
    let mut grads = Gradients::zeros(model.trainable()).unwrap();
    let logps = model.accumulate_gradients(batch, 0.0, &mut |_, logps| vec![1.0; logps.len()], &mut grads).unwrap();
    grads.check_complete().unwrap();
    (logps.iter().sum(), grads.to_tensors().unwrap())
}

/// All elements.
pub fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// The largest absolute value.
pub fn largest(tensor: &Tensor) -> f32 {
    flat(tensor).iter().fold(0.0_f32, |a, b| a.max(b.abs()))
}

/// The largest absolute difference.
pub fn max_difference(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.shape(), b.shape());
    flat(a).iter().zip(flat(b)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// The largest difference of a gradient's entry from `expected`, by the largest
/// entry of its tensor, over all tensors; fails beyond `bound`.
pub fn compare_grads(
    what: &str,
    grads: &BTreeMap<String, Tensor>,
    expected: impl Fn(&str) -> Tensor,
    bound: f32,
) -> f32 {
    let mut worst = 0.0_f32;
    for (name, grad) in grads {
        let expected = expected(name);
        let relative = max_difference(grad, &expected) / largest(&expected).max(f32::MIN_POSITIVE);
        assert!(relative < bound, "{what}: {name}: {relative}");
        worst = worst.max(relative);
    }
    worst
}
