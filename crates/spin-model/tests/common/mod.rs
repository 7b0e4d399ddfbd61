//! What several tests need.

use std::path::PathBuf;

use candle_core::Tensor;
use spin_model::{Batch, ModelConfig};

/// `tests/golden/model/<name>` of the workspace.
#[allow(dead_code, reason = "not every test file reads golden files")]
pub fn golden_dir(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/model").join(name)
}

/// A small shape whose every size differs from the others.
#[allow(dead_code, reason = "not every test file makes models")]
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
#[allow(dead_code, reason = "not every test file makes batches")]
pub fn small_batch() -> Batch {
    let tokens: Vec<u32> = (0..60).map(|i| (i * 17 + 5) % 50).collect();
    let pairs = [(&tokens[0..4], &tokens[4..9]), (&tokens[9..10], &tokens[10..31]), (&tokens[31..38], &tokens[38..39])];
    Batch::new(pairs).unwrap()
}

/// All elements.
#[allow(dead_code, reason = "not every test file compares tensors")]
pub fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// The largest absolute difference.
#[allow(dead_code, reason = "not every test file compares tensors")]
pub fn max_difference(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.shape(), b.shape());
    flat(a).iter().zip(flat(b)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}
