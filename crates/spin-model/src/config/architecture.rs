//! What sets one architecture apart from another, as data.

use serde_json::Value;

use super::keys::Keys;
use crate::error::Result;

/// A family of decoders, by the name of its class in transformers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// Llama 1 to 3, SmolLM 1 and 2.
    Llama,
    /// Mistral: sliding windows.
    Mistral,
    /// Qwen 2 and 2.5: biases on queries, keys and values.
    Qwen2,
    /// Qwen 3: normalised queries and keys.
    Qwen3,
    /// Phi-3: joint projections, partly rotated heads.
    Phi3,
    /// Gemma 2: soft caps, alternating windows, four norms a block.
    Gemma2,
    /// SmolLM 3: layers without positions.
    SmolLm3,
}

/// The architectures this crate can train, by their names in `config.json`.
pub const SUPPORTED_ARCHITECTURES: &[&str] = &[
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "Phi3ForCausalLM",
    "Gemma2ForCausalLM",
    "SmolLM3ForCausalLM",
];

const ALL: [Architecture; 7] = [
    Architecture::Llama,
    Architecture::Mistral,
    Architecture::Qwen2,
    Architecture::Qwen3,
    Architecture::Phi3,
    Architecture::Gemma2,
    Architecture::SmolLm3,
];

/// The function between the feed-forward layer's two products.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x sigmoid(x).
    Silu,
    /// The tanh approximation of GELU (Hendrycks and Gimpel 2016).
    GeluTanh,
}

/// What differs between layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerConfig {
    /// Tokens that a token attends to, itself included; `None` for all before
    /// it.
    pub window: Option<usize>,
    /// Whether queries and keys are rotated by position.
    pub rope: bool,
}

impl Architecture {
    /// Its name in `config.json`.
    pub fn name(self) -> &'static str {
        SUPPORTED_ARCHITECTURES[self as usize]
    }

    /// Its `model_type`.
    pub fn model_type(self) -> &'static str {
        ["llama", "mistral", "qwen2", "qwen3", "phi3", "gemma2", "smollm3"][self as usize]
    }

    pub(super) fn read(keys: &Keys<'_>) -> Result<Self> {
        let supported = SUPPORTED_ARCHITECTURES.join(", ");
        if let Some(names) = keys.get("architectures").and_then(Value::as_array)
            && !names.is_empty()
        {
            let known = |name: &str| ALL.into_iter().find(|architecture| architecture.name() == name);
            return names.iter().filter_map(Value::as_str).find_map(known).ok_or_else(|| {
                keys.error(format!(
                    "architectures {} cannot be trained; supported: {supported}",
                    Value::from(names.clone())
                ))
            });
        }
        match keys.get("model_type").and_then(Value::as_str) {
            None => {
                Err(keys.error(format!("neither `architectures` nor `model_type` is given; supported: {supported}")))
            }
            Some(kind) => ALL
                .into_iter()
                .find(|architecture| architecture.model_type() == kind)
                .ok_or_else(|| keys.error(format!("model_type `{kind}` cannot be trained; supported: {supported}"))),
        }
    }

    pub(super) fn activation(self, keys: &Keys<'_>) -> Result<Activation> {
        let default = if self == Self::Gemma2 { "gelu_pytorch_tanh" } else { "silu" };
        // Gemma's configurations have two keys, of which transformers heeds
        // the second.
        let value = ["hidden_activation", "hidden_act"].into_iter().find_map(|key| keys.get(key));
        match value.map_or(default, |value| value.as_str().unwrap_or("(not a name)")) {
            "silu" | "swish" => Ok(Activation::Silu),
            "gelu_pytorch_tanh" | "gelu_new" => Ok(Activation::GeluTanh),
            other => {
                Err(keys.error(format!("hidden_act `{other}` is not supported; supported: silu, gelu_pytorch_tanh")))
            }
        }
    }

    /// The layers' windows and positions, from `layer_types` (transformers 5)
    /// or from the keys that preceded it.
    pub(super) fn layers(self, keys: &Keys<'_>, count: usize) -> Result<Vec<LayerConfig>> {
        let window = match self {
            Self::Llama => None,
            Self::Qwen2 | Self::Qwen3 | Self::SmolLm3 if !keys.flag("use_sliding_window")?.unwrap_or(false) => None,
            Self::Mistral | Self::Gemma2 | Self::Qwen2 | Self::Qwen3 => keys.size_or("sliding_window", Some(4096))?,
            Self::Phi3 | Self::SmolLm3 => keys.optional_size("sliding_window")?,
        };
        let listed = keys.per_layer("layer_types", count, |kind| match kind.as_str()? {
            "full_attention" => Some(false),
            "sliding_attention" => Some(true),
            _ => None,
        })?;
        let first_windowed = keys.optional_count("max_window_layers")?.unwrap_or(28);
        let rope = match self {
            Self::SmolLm3 => {
                let every = keys.optional_size("no_rope_layer_interval")?.unwrap_or(4);
                let listed = keys.per_layer("no_rope_layers", count, |flag| flag.as_u64().map(|flag| flag != 0))?;
                listed.unwrap_or_else(|| (0..count).map(|layer| (layer + 1) % every != 0).collect())
            }
            _ => vec![true; count],
        };
        let windowed = |layer: usize| match (&listed, self) {
            // Mistral and Phi-3 have one mask for all layers.
            (_, Self::Mistral | Self::Phi3) => true,
            (Some(listed), _) => listed[layer],
            (None, Self::Gemma2) => layer.is_multiple_of(2),
            (None, Self::Qwen2 | Self::Qwen3) => layer >= first_windowed,
            (None, Self::SmolLm3) => !rope[layer],
            (None, Self::Llama) => false,
        };
        Ok((0..count)
            .map(|layer| LayerConfig { window: window.filter(|_| windowed(layer)), rope: rope[layer] })
            .collect())
    }
}
