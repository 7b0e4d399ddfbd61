//! What mistral.rs 0.8.1 overlooks in a `config.json`: it reads fewer keys than
//! transformers and says nothing of the others, and would run another model.

use std::path::Path;

use serde_json::Value;
use spin_model::{Architecture, CausalLm, ModelConfig, RopeScaling};

use crate::error::{Result, SampleError};

/// Families for which it reads no `head_dim`.
const FIXED_HEADS: [&str; 5] = ["llama", "qwen2", "phi3", "smollm3", "mixtral"];

/// Refuses a model that it would run as another one.
///
/// # Errors
/// When it would; for families that `spin-model` knows, also what its own
/// reader refuses.
pub(super) fn check(dir: &Path) -> Result<()> {
    let unsuitable = |problem: String| Err(SampleError::Unsuitable { problem });
    if let Some(dim) = other_heads(dir) {
        return unsuitable(format!(
            "mistral.rs 0.8.1 cannot run {}: head_dim = {dim} is not hidden_size / num_attention_heads",
            dir.display()
        ));
    }
    if Architecture::of_dir(dir).is_none() {
        return Ok(());
    }
    let config = CausalLm::check_dir(dir).map_err(|source| SampleError::Model { dir: dir.into(), source })?;
    match misplaced(&config) {
        None => Ok(()),
        Some(key) => unsuitable(format!(
            "{}: `{key}` stands where transformers 5 writes it and mistral.rs 0.8.1 does not look; write it at the \
             top level of config.json, too, or use the engine spin-model",
            dir.display()
        )),
    }
}

/// The `head_dim` that it would not read.
fn other_heads(dir: &Path) -> Option<u64> {
    // What else is wrong with the file is said by who reads it.
    let text = std::fs::read_to_string(dir.join("config.json")).ok()?;
    let config: Value = serde_json::from_str(&text).ok()?;
    let class = config["architectures"].as_array().and_then(|names| names.first()?.as_str()).map(str::to_lowercase);
    // The class decides; a configuration may have no family.
    let family = class.as_deref().and_then(|class| class.strip_suffix("forcausallm")).or(config["model_type"].as_str());
    let number = |key: &str| config[key].as_u64();
    let (dim, heads, hidden) = (number("head_dim")?, number("num_attention_heads")?, number("hidden_size")?);
    let is_fixed = family.is_some_and(|family| FIXED_HEADS.contains(&family));
    (is_fixed && dim * heads != hidden).then_some(dim)
}

/// A key that decides something and does not stand at the top level, where
/// transformers 4 wrote it and mistral.rs looks.
fn misplaced(config: &ModelConfig) -> Option<&'static str> {
    let is_absent = |key: &str| config.raw(key).is_none_or(Value::is_null);
    let decides = [
        ("rope_theta", config.rope.theta != 10_000.0),
        ("rope_scaling", config.rope.scaling != RopeScaling::None),
        ("partial_rotary_factor", config.rope.dim != config.head_dim),
    ];
    decides.into_iter().find(|(key, decides)| *decides && is_absent(key)).map(|(key, _)| key)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn heads_that_would_be_others_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let check = |named: Value, head_dim: usize| {
            let mut config = json!({"head_dim": head_dim, "hidden_size": 64, "num_attention_heads": 4});
            config.as_object_mut().unwrap().extend(named.as_object().unwrap().clone());
            std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
            other_heads(dir.path())
        };
        for family in FIXED_HEADS {
            assert_eq!(check(json!({"model_type": family}), 32), Some(32), "{family}");
            assert_eq!(check(json!({"model_type": family}), 16), None, "{family}");
        }
        // mistral.rs goes by the class, with or without a family.
        for class in ["LlamaForCausalLM", "Qwen2ForCausalLM", "Phi3ForCausalLM", "SmolLM3ForCausalLM"] {
            assert_eq!(check(json!({"architectures": [class]}), 32), Some(32), "{class}");
        }
        assert_eq!(check(json!({"model_type": "qwen3"}), 32), None);
        assert_eq!(check(json!({"architectures": ["Qwen3ForCausalLM"]}), 32), None);
        std::fs::remove_file(dir.path().join("config.json")).unwrap();
        assert_eq!(other_heads(dir.path()), None);
    }

    /// What is not where mistral.rs looks, or is refused by our reader, does
    /// not reach it.
    #[test]
    fn configurations_that_it_would_overlook_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let tried = |more: Value| {
            let mut config = json!({
                "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 20, "hidden_size": 16,
                "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 4, "tie_word_embeddings": true,
            });
            let plain = ModelConfig::from_json(&config.to_string(), "test").unwrap();
            CausalLm::init(&plain, 1, &candle_core::Device::Cpu).unwrap().save(dir.path()).unwrap();
            config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
            check(dir.path()).map_err(|error| format!("{error:?} {error}"))
        };
        assert!(tried(json!({})).is_ok() && tried(json!({"rope_theta": 5e5})).is_ok());
        let nested = tried(json!({"rope_scaling": {"rope_type": "default", "rope_theta": 5e5}})).unwrap_err();
        assert!(nested.contains("`rope_theta` stands where transformers 5"), "{nested}");
        let linear = tried(json!({"rope_parameters": {"rope_type": "linear", "factor": 2.0}})).unwrap_err();
        assert!(linear.contains("`rope_scaling` stands where transformers 5"), "{linear}");
        let yarn = json!({"rope_theta": 1e4, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}});
        assert!(tried(yarn).unwrap_err().contains("yarn"));
        assert!(tried(json!({"model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "new": 1})).is_ok());
        // What is written has it in both places.
        let nested = json!({"rope_scaling": {"rope_type": "default", "rope_theta": 5e5}});
        assert!(tried(nested).is_err());
        let read = ModelConfig::load(dir.path()).unwrap();
        std::fs::write(dir.path().join("config.json"), read.to_json("float32")).unwrap();
        assert_eq!((check(dir.path()).is_ok(), read.rope.theta), (true, 5e5));
    }
}
