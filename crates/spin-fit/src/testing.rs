//! A tiny model and rows for the tests of this crate.

use candle_core::Device;
use spin_model::{CausalLm, ModelConfig};

use crate::data::{Example, Opponent};

/// Size of the model's vocabulary.
pub const VOCAB: u32 = 40;

/// A Llama of a few thousand weights.
pub fn model() -> CausalLm {
    of_vocab(VOCAB as usize)
}

/// The same with a larger vocabulary: two of its tensors are of several chunks.
pub fn wide() -> CausalLm {
    of_vocab(2200)
}

fn of_vocab(vocab: usize) -> CausalLm {
    let json = serde_json::json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab, "hidden_size": 16, "intermediate_size": 28,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": false, "initializer_range": 0.2, "eos_token_id": 2,
    });
    let config = ModelConfig::from_json(&json.to_string(), "testing").unwrap();
    CausalLm::init(&config, 3, &Device::Cpu).unwrap()
}

fn ids(row: usize, part: usize, length: usize) -> Vec<u32> {
    (0..length).map(|i| ((row * 31 + part * 17 + i * i * 7 + i * 3 + 5) % VOCAB as usize) as u32).collect()
}

/// A demonstration with parts of these lengths; its tokens follow from `row`.
pub fn demonstration(row: usize, prompt: usize, real: usize) -> Example {
    Example {
        row_id: format!("{row:03}"),
        prompt_ids: ids(row, 0, prompt),
        real_ids: ids(row, 1, real),
        opponent: None,
    }
}

/// A pair whose opponent finds the answers equally unlikely per token.
pub fn pair(row: usize, prompt: usize, real: usize, generated: usize) -> Example {
    let uniform = -f64::from(VOCAB).ln();
    let opponent = Opponent {
        generated_ids: ids(row, 2, generated),
        ref_real: uniform * real as f64,
        ref_generated: uniform * generated as f64,
        initial_ids: None,
    };
    Example { opponent: Some(opponent), ..demonstration(row, prompt, real) }
}

/// Rows of very different lengths, pairs or demonstrations.
pub fn ragged(rows: usize, pairs: bool) -> Vec<Example> {
    let length = |row: usize, factor: usize, most: usize| 1 + (row * factor + row * row * 3) % most;
    (0..rows)
        .map(|row| {
            let (prompt, real, generated) = (length(row, 7, 30), length(row, 11, 50), length(row, 5, 60));
            if pairs { pair(row, prompt, real, generated) } else { demonstration(row, prompt, real) }
        })
        .collect()
}
