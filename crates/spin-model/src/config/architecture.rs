//! What sets one architecture apart from another, as data.

use std::path::Path;

use serde_json::Value;

use super::keys::{Keys, short};
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

    /// The architecture that the `config.json` of a directory names, if it can
    /// be read and is one of these; the rest of it may still be refused.
    pub fn of_dir(dir: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(dir.join("config.json")).ok()?;
        let raw = serde_json::from_str(&text).ok()?;
        Self::read(&Keys { raw: &raw, origin: "" }).ok()
    }

    pub(super) fn read(keys: &Keys<'_>) -> Result<Self> {
        let supported = SUPPORTED_ARCHITECTURES.join(", ");
        if let Some(names) = keys.get("architectures").and_then(Value::as_array)
            && !names.is_empty()
        {
            let known = |name: &str| ALL.into_iter().find(|architecture| architecture.name() == name);
            let architecture = names.iter().filter_map(Value::as_str).find_map(known).ok_or_else(|| {
                keys.error(format!(
                    "architectures {} cannot be trained; supported: {supported}",
                    short(&Value::from(names.clone()))
                ))
            })?;
            return match keys.get("model_type").and_then(Value::as_str) {
                // transformers goes by this one.
                Some(kind) if !kind.is_empty() && kind != architecture.model_type() => Err(keys.error(format!(
                    "`architectures` names {}, but `model_type` is `{kind}`, not `{}`; correct one of them",
                    architecture.name(),
                    architecture.model_type()
                ))),
                _ => Ok(architecture),
            };
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

    /// The key that transformers reads is `hidden_act`, for Gemma
    /// `hidden_activation`; the other one must not say something else.
    pub(super) fn activation(self, keys: &Keys<'_>) -> Result<Activation> {
        let gemma = self == Self::Gemma2;
        let (key, other, default) = match gemma {
            true => ("hidden_activation", "hidden_act", Activation::GeluTanh),
            false => ("hidden_act", "hidden_activation", Activation::Silu),
        };
        let named = |key: &str| {
            keys.get(key).map(|value| match value.as_str() {
                Some("silu" | "swish") => Ok(Activation::Silu),
                Some("gelu_pytorch_tanh" | "gelu_new") => Ok(Activation::GeluTanh),
                _ => Err(keys.error(format!("{key} {value} is not supported; supported: silu, gelu_pytorch_tanh"))),
            })
        };
        let activation = named(key).transpose()?.unwrap_or(default);
        // Gemma was published with the wrong name in the key that is not read.
        let published = gemma && keys.get(other).and_then(Value::as_str) == Some("gelu");
        match named(other).filter(|_| !published).transpose()? {
            Some(second) if second != activation => Err(keys.error(format!(
                "`{other}` says another activation than `{key}`, which is what transformers reads of a {}; remove \
                 `{other}`, or correct one of them",
                self.name()
            ))),
            _ => Ok(activation),
        }
    }

    /// How many tokens the window of a layer has that has one.
    fn window(self, keys: &Keys<'_>) -> Result<Option<usize>> {
        let switch = keys.flag("use_sliding_window")?;
        // The defaults of transformers' configuration classes.
        let default = if matches!(self, Self::Phi3 | Self::SmolLm3) { None } else { Some(4096) };
        let size = keys.size_or("sliding_window", default)?;
        match (self, switch) {
            (Self::Qwen2 | Self::Qwen3 | Self::SmolLm3, switch) => Ok(size.filter(|_| switch == Some(true))),
            (Self::Llama, Some(true)) => {
                Err(keys.error("`use_sliding_window` is true, but a LlamaForCausalLM has no windows"))
            }
            (Self::Llama, _) => Ok(None),
            (_, Some(false)) if size.is_some() => Err(keys.error(format!(
                "`use_sliding_window` is false, but a {} does not read it and has a window of {} tokens; set \
                 `sliding_window` to null for none, or remove `use_sliding_window`",
                self.name(),
                size.unwrap_or_default()
            ))),
            (Self::Gemma2, _) => match keys.optional_size("sliding_window_size")? {
                Some(second) if Some(second) != size => Err(keys.error(format!(
                    "`sliding_window_size` is {second}, but `sliding_window`, which transformers reads, is another; \
                     they must agree"
                ))),
                _ => Ok(size),
            },
            _ => Ok(size),
        }
    }

    /// The layers' windows and positions, from `layer_types` (transformers 5)
    /// or from the keys that preceded it.
    pub(super) fn layers(self, keys: &Keys<'_>, count: usize) -> Result<Vec<LayerConfig>> {
        let window = self.window(keys)?;
        let listed = keys.per_layer("layer_types", count, count, |kind| match kind.as_str()? {
            "full_attention" | "attention" => Some(false),
            "sliding_attention" => Some(true),
            _ => None,
        })?;
        let first_windowed = keys.optional_count("max_window_layers")?.unwrap_or(28);
        let rope = match self {
            Self::SmolLm3 => {
                let every = keys.optional_size("no_rope_layer_interval")?.unwrap_or(4);
                // transformers allows longer lists.
                let listed = keys.per_layer("no_rope_layers", count, usize::MAX, |flag| match flag {
                    Value::Bool(flag) => Some(*flag),
                    flag => flag.as_u64().map(|flag| flag != 0),
                })?;
                listed.unwrap_or_else(|| (0..count).map(|layer| (layer + 1) % every != 0).collect())
            }
            _ => vec![true; count],
        };
        let windowed = |layer: usize| match (&listed, self) {
            // These have one mask for all layers.
            (_, Self::Mistral | Self::Phi3) => window.is_some(),
            (_, Self::Llama) => false,
            (Some(listed), _) => listed[layer],
            (None, Self::Gemma2) => layer.is_multiple_of(2),
            (None, Self::Qwen2 | Self::Qwen3) => window.is_some() && layer >= first_windowed,
            (None, Self::SmolLm3) => window.is_some() && !rope[layer],
        };
        if let Some(listed) = &listed
            && let Some(layer) = (0..count).find(|layer| listed[*layer] != windowed(*layer))
        {
            let (says, is) = if listed[layer] { ("", "none") } else { ("no ", "one") };
            return Err(keys.error(format!(
                "`layer_types` says that layer {layer} has {says}sliding attention, but a {} does not read it and \
                 has {is} there; correct `layer_types` or `sliding_window`",
                self.name()
            )));
        }
        if window.is_none()
            && let Some(layer) = (0..count).find(|layer| windowed(*layer))
        {
            return Err(keys.error(format!(
                "layer {layer} has sliding attention, but there is no size of the window; set `sliding_window`{}, or \
                 make all `layer_types` \"full_attention\"",
                if self == Self::Gemma2 { "" } else { " and `use_sliding_window`" }
            )));
        }
        Ok((0..count)
            .map(|layer| LayerConfig { window: window.filter(|_| windowed(layer)), rope: rope[layer] })
            .collect())
    }

    /// The longest sequence where the file does not say: the default of
    /// transformers' configuration class.
    pub(super) fn default_positions(self) -> usize {
        match self {
            Self::Llama => 2048,
            Self::Mistral => 131_072,
            Self::Qwen2 | Self::Qwen3 | Self::SmolLm3 => 32_768,
            Self::Phi3 => 4096,
            Self::Gemma2 => 8192,
        }
    }

    /// The number of heads of keys and values where the file does not say, the
    /// same way; `None` is as many as of queries.
    pub(super) fn default_key_value_heads(self) -> Option<usize> {
        match self {
            Self::Mistral => Some(8),
            Self::Gemma2 | Self::SmolLm3 => Some(4),
            Self::Qwen2 | Self::Qwen3 => Some(32),
            Self::Llama | Self::Phi3 => None,
        }
    }
}
