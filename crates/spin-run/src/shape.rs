//! What stages that never load a model must know of one.

use std::path::Path;

use serde_json::Value;

use spin_store::error::{Result, StoreError};

/// Numbers of a model directory's `config.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelShape {
    /// The longest sequence that it reads, in tokens.
    pub context: usize,
    /// Rows of its embedding.
    pub vocab_size: usize,
}

/// The longest sequence where `config.json` does not say: the defaults of
/// transformers' configuration classes. `spin-model`, which this crate does not
/// depend on, has the same; a test of `spin-model` compares them.
const DEFAULT_CONTEXT: [(&str, &str, usize); 7] = [
    ("llama", "LlamaForCausalLM", 2048),
    ("mistral", "MistralForCausalLM", 131_072),
    ("qwen2", "Qwen2ForCausalLM", 32_768),
    ("qwen3", "Qwen3ForCausalLM", 32_768),
    ("phi3", "Phi3ForCausalLM", 4096),
    ("gemma2", "Gemma2ForCausalLM", 8192),
    ("smollm3", "SmolLM3ForCausalLM", 32_768),
];

fn default_context(config: &Value) -> Option<usize> {
    let kind = config["model_type"].as_str();
    let class = config["architectures"].as_array().and_then(|names| names.first()).and_then(Value::as_str);
    let known = |(of, name, _): &&(&str, &str, usize)| class.map_or(kind == Some(*of), |class| class == *name);
    DEFAULT_CONTEXT.iter().find(known).map(|(_, _, context)| *context)
}

impl ModelShape {
    /// Whether a file of a model is not one of its weights: what is read of a model to
    /// write its conversations.
    pub fn is_beside_weights(path: &str) -> bool {
        !path.ends_with(".safetensors")
    }

    /// Reads `config.json`. Where it names no longest sequence, that is the
    /// default of its architecture in transformers.
    ///
    /// # Errors
    /// When it is not there, or is not that of a causal language model.
    pub fn read(dir: &Path) -> Result<ModelShape> {
        let path = dir.join("config.json");
        let remedy = "give the directory of a causal language model";
        let text = std::fs::read_to_string(&path).map_err(StoreError::io("read", &path))?;
        let config: Value = serde_json::from_str(&text)
            .map_err(|e| StoreError::corrupt(&path, format!("is not valid JSON ({e})"), remedy))?;
        let number = |key: &str| {
            let number = config[key].as_u64().filter(|number| *number > 0);
            number
                .map(|n| n as usize)
                .ok_or_else(|| StoreError::corrupt(&path, format!("has no positive number {key:?}"), remedy))
        };
        let context = match config["max_position_embeddings"].is_null() {
            true => default_context(&config),
            false => None,
        };
        let context = context.map_or_else(|| number("max_position_embeddings"), Ok)?;
        Ok(ModelShape { context, vocab_size: number("vocab_size")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_length_is_that_of_the_architecture() {
        let dir = tempfile::tempdir().unwrap();
        let read = |text: &str| {
            std::fs::write(dir.path().join("config.json"), text).unwrap();
            ModelShape::read(dir.path()).map(|shape| shape.context).map_err(|error| error.to_string())
        };
        for (kind, class, context) in DEFAULT_CONTEXT {
            let text = format!(r#"{{"model_type": "{kind}", "architectures": ["{class}"], "vocab_size": 9}}"#);
            assert_eq!(read(&text), Ok(context));
            assert_eq!(read(&format!(r#"{{"model_type": "{kind}", "vocab_size": 9}}"#)), Ok(context));
        }
        assert_eq!(read(r#"{"model_type": "phi3", "max_position_embeddings": 77, "vocab_size": 9}"#), Ok(77));
        assert!(read(r#"{"model_type": "gpt2", "vocab_size": 9}"#).unwrap_err().contains("max_position_embeddings"));
        assert!(read(r#"{"model_type": "phi3", "max_position_embeddings": -1, "vocab_size": 9}"#).is_err());
    }
}
