//! `config.json` of a Hugging Face model directory, across generations of
//! transformers.

mod architecture;
mod fields;
mod keys;
mod rope;

use std::path::Path;

use serde_json::{Map, Value};

pub use architecture::{Activation, Architecture, LayerConfig, SUPPORTED_ARCHITECTURES};
use keys::Keys;
pub use rope::{RopeConfig, RopeScaling};

use crate::error::{Error, Result};

/// No decoder is as deep: a larger number is a mistake.
const MAX_LAYERS: usize = 10_000;
/// Nor has any as many parameters.
const MAX_PARAMETERS: f64 = 1e14;

/// The shape of a decoder-only transformer.
///
/// One decoder computes every architecture; what sets them apart are fields of
/// this description. The JSON it was read from is kept, so that keys this
/// crate does not know (token ids, defaults for generation) survive a round
/// trip.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// The family.
    pub architecture: Architecture,
    /// Number of rows of the embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Number of decoder blocks.
    pub num_hidden_layers: usize,
    /// Number of query heads.
    pub num_attention_heads: usize,
    /// Number of key and value heads; divides the number of query heads.
    pub num_key_value_heads: usize,
    /// Width of one head; even.
    pub head_dim: usize,
    /// The longest sequence, in tokens.
    pub max_position_embeddings: usize,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f64,
    /// Rotary positions.
    pub rope: RopeConfig,
    /// Whether the output projection is the embedding.
    pub tie_word_embeddings: bool,
    /// Standard deviation of freshly initialised weights.
    pub initializer_range: f64,
    /// The feed-forward layer's activation.
    pub activation: Activation,
    /// Added to the scales of norms: Gemma stores their distance from 1.
    pub norm_offset: f64,
    /// Whether the projections of queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Whether the output projection of attention has a bias.
    pub attention_output_bias: bool,
    /// Whether the feed-forward layer's projections have biases.
    pub mlp_bias: bool,
    /// Whether each head's queries and keys are normalised (before rotation).
    pub qk_norm: bool,
    /// Whether attention and feed-forward layer are normalised after, too.
    pub post_norms: bool,
    /// Whether queries, keys and values are one tensor, and gate and up.
    pub joint_projections: bool,
    /// Factor of the products of queries and keys.
    pub attention_scale: f64,
    /// Scores s become cap tanh(s / cap).
    pub attention_softcap: Option<f64>,
    /// Logits z become cap tanh(z / cap).
    pub final_softcap: Option<f64>,
    /// Factor of the embeddings.
    pub embedding_scale: f64,
    /// What differs between layers, one entry each.
    pub layers: Vec<LayerConfig>,
    raw: Map<String, Value>,
}

impl ModelConfig {
    /// Reads `config.json` in a model directory.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or as [`ModelConfig::from_json`].
    pub fn load(dir: &Path) -> Result<Self> {
        let path = dir.join("config.json");
        let text = std::fs::read_to_string(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
        Self::from_json(&text, &path.display().to_string())
    }

    /// Parses the text of a `config.json`; `origin` names it in errors.
    ///
    /// What changed its place between transformers 4 and 5 is read from both
    /// places.
    ///
    /// # Errors
    ///
    /// If the text is not a JSON object, a required key is absent, a key is not
    /// known, two keys contradict each other, or the configuration asks for
    /// something this crate would compute wrongly.
    pub fn from_json(text: &str, origin: &str) -> Result<Self> {
        let raw: Map<String, Value> = serde_json::from_str(text).map_err(|error| Error::Config {
            origin: origin.to_owned(),
            message: format!("not a JSON object: {error}"),
        })?;
        let keys = Keys { raw: &raw, origin };
        let architecture = Architecture::read(&keys)?;
        fields::check(&keys, architecture)?;
        let gemma = architecture == Architecture::Gemma2;

        let hidden_size = keys.size("hidden_size")?;
        let num_hidden_layers = keys.size("num_hidden_layers")?;
        if num_hidden_layers > MAX_LAYERS {
            return Err(keys.error(format!("num_hidden_layers {num_hidden_layers} is more than {MAX_LAYERS}")));
        }
        let num_attention_heads = keys.size("num_attention_heads")?;
        let head_dim = match keys.optional_size("head_dim")? {
            Some(dim) => dim,
            None if architecture == Architecture::Qwen3 => 128,
            None if gemma => 256,
            None if hidden_size % num_attention_heads == 0 => hidden_size / num_attention_heads,
            None => {
                return Err(keys.error(format!(
                    "hidden_size {hidden_size} is not a multiple of num_attention_heads \
                     {num_attention_heads} and there is no head_dim"
                )));
            }
        };
        // Absent keys have the defaults of transformers' configuration classes.
        let absent = architecture.default_key_value_heads();
        let num_key_value_heads = keys.size_or("num_key_value_heads", absent)?.unwrap_or(num_attention_heads);
        if num_attention_heads % num_key_value_heads != 0 {
            return Err(keys.error(format!(
                "num_attention_heads {num_attention_heads} is not a multiple of \
                 num_key_value_heads {num_key_value_heads}"
            )));
        }
        let max_position_embeddings =
            keys.optional_size("max_position_embeddings")?.unwrap_or(architecture.default_positions());
        let rope = RopeConfig::read(&keys, architecture, head_dim, max_position_embeddings)?;
        let attention_bias = keys.flag("attention_bias")?.unwrap_or(false);
        let activation = architecture.activation(&keys)?;
        let layers = architecture.layers(&keys, num_hidden_layers)?;
        let config = Self {
            architecture,
            vocab_size: keys.size("vocab_size")?,
            hidden_size,
            intermediate_size: keys.size("intermediate_size")?,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            max_position_embeddings,
            rms_norm_eps: keys.float("rms_norm_eps")?.unwrap_or(match architecture {
                Architecture::Phi3 => 1e-5,
                _ => 1e-6,
            }),
            rope,
            // The defaults of the configuration classes.
            tie_word_embeddings: keys
                .flag("tie_word_embeddings")?
                .unwrap_or(matches!(architecture, Architecture::Gemma2 | Architecture::SmolLm3)),
            initializer_range: keys.float("initializer_range")?.unwrap_or(0.02),
            activation,
            norm_offset: if gemma { 1.0 } else { 0.0 },
            qkv_bias: attention_bias || architecture == Architecture::Qwen2,
            attention_output_bias: attention_bias && architecture != Architecture::Qwen2,
            mlp_bias: keys.flag("mlp_bias")?.unwrap_or(false),
            qk_norm: architecture == Architecture::Qwen3,
            post_norms: gemma,
            joint_projections: architecture == Architecture::Phi3,
            attention_scale: match architecture {
                Architecture::Gemma2 => keys.float("query_pre_attn_scalar")?.unwrap_or(256.0),
                _ => head_dim as f64,
            }
            .powf(-0.5),
            attention_softcap: if gemma { keys.float_or("attn_logit_softcapping", Some(50.0))? } else { None },
            final_softcap: if gemma { keys.float_or("final_logit_softcapping", Some(30.0))? } else { None },
            embedding_scale: if gemma { (hidden_size as f64).sqrt() } else { 1.0 },
            layers,
            raw,
        };
        config.check_size(origin)?;
        Ok(config)
    }

    /// Sizes that are each possible can together be a mistake.
    fn check_size(&self, origin: &str) -> Result<()> {
        let layer_of = |name: &str| if name.contains(".layers.") { self.num_hidden_layers as f64 } else { 1.0 };
        let one = Self { num_hidden_layers: 1, raw: Map::new(), layers: Vec::new(), ..self.clone() };
        let count = |(name, shape): &(String, Vec<usize>)| {
            layer_of(name) * shape.iter().map(|size| *size as f64).product::<f64>()
        };
        let parameters: f64 = one.param_shapes().iter().map(count).sum();
        if parameters > MAX_PARAMETERS {
            return Err(Error::Config {
                origin: origin.to_owned(),
                message: format!("its sizes make a model of {parameters:.0e} parameters; correct them"),
            });
        }
        Ok(())
    }

    /// The text to write as `config.json`, ending in a newline.
    ///
    /// Both spellings of what changed between transformers 4 and 5 are
    /// written: mistral.rs 0.8.1 needs `rope_theta` and `torch_dtype` at the
    /// top level, transformers 5 reads `rope_parameters` and `dtype`.
    /// `dtype` is the type of the weights beside it, such as `float32`.
    pub fn to_json(&self, dtype: &str) -> String {
        let mut raw = self.raw.clone();
        for (key, value) in [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("head_dim", self.head_dim),
            ("max_position_embeddings", self.max_position_embeddings),
        ] {
            raw.insert(key.to_owned(), value.into());
        }
        raw.insert("rms_norm_eps".to_owned(), self.rms_norm_eps.into());
        raw.insert("initializer_range".to_owned(), self.initializer_range.into());
        self.rope.write(&mut raw);
        raw.insert("tie_word_embeddings".to_owned(), self.tie_word_embeddings.into());
        raw.insert("torch_dtype".to_owned(), dtype.into());
        raw.insert("dtype".to_owned(), dtype.into());
        // mistral.rs 0.8.1 requires these keys and has no defaults for them.
        raw.entry("architectures").or_insert_with(|| serde_json::json!([self.architecture.name()]));
        raw.entry("model_type").or_insert_with(|| self.architecture.model_type().into());
        raw.entry("hidden_act").or_insert_with(|| {
            match self.activation {
                Activation::Silu => "silu",
                Activation::GeluTanh => "gelu_pytorch_tanh",
            }
            .into()
        });
        let mut text = serde_json::to_string_pretty(&raw).expect("a JSON object always serialises");
        text.push('\n');
        text
    }

    /// The data type named in the file (`torch_dtype` or `dtype`), if any.
    pub fn stored_dtype(&self) -> Option<&str> {
        ["dtype", "torch_dtype"].iter().find_map(|key| self.raw.get(*key).and_then(Value::as_str))
    }

    /// A key of the JSON object this configuration was read from.
    pub fn raw(&self, key: &str) -> Option<&Value> {
        self.raw.get(key)
    }

    /// Every trainable tensor's Hugging Face name and shape, in the order of
    /// the forward pass.
    pub fn param_shapes(&self) -> Vec<(String, Vec<usize>)> {
        let hidden = self.hidden_size;
        let query = self.num_attention_heads * self.head_dim;
        let key = self.num_key_value_heads * self.head_dim;
        let wide = self.intermediate_size;
        let mut shapes = vec![("model.embed_tokens.weight".to_owned(), vec![self.vocab_size, hidden])];
        for layer in 0..self.num_hidden_layers {
            let mut add = |name: &str, shape: Vec<usize>| {
                shapes.push((format!("model.layers.{layer}.{name}"), shape));
            };
            let mut linear = |name: &str, outputs: usize, inputs: usize, bias: bool| {
                add(&format!("{name}.weight"), vec![outputs, inputs]);
                if bias {
                    add(&format!("{name}.bias"), vec![outputs]);
                }
            };
            if self.joint_projections {
                linear("self_attn.qkv_proj", query + 2 * key, hidden, self.qkv_bias);
                linear("mlp.gate_up_proj", 2 * wide, hidden, self.mlp_bias);
            } else {
                linear("self_attn.q_proj", query, hidden, self.qkv_bias);
                linear("self_attn.k_proj", key, hidden, self.qkv_bias);
                linear("self_attn.v_proj", key, hidden, self.qkv_bias);
                linear("mlp.gate_proj", wide, hidden, self.mlp_bias);
                linear("mlp.up_proj", wide, hidden, self.mlp_bias);
            }
            linear("self_attn.o_proj", hidden, query, self.attention_output_bias);
            linear("mlp.down_proj", hidden, wide, self.mlp_bias);
            add("input_layernorm.weight", vec![hidden]);
            add("post_attention_layernorm.weight", vec![hidden]);
            if self.post_norms {
                add("pre_feedforward_layernorm.weight", vec![hidden]);
                add("post_feedforward_layernorm.weight", vec![hidden]);
            }
            if self.qk_norm {
                add("self_attn.q_norm.weight", vec![self.head_dim]);
                add("self_attn.k_norm.weight", vec![self.head_dim]);
            }
        }
        shapes.push(("model.norm.weight".to_owned(), vec![hidden]));
        if !self.tie_word_embeddings {
            shapes.push(("lm_head.weight".to_owned(), vec![self.vocab_size, hidden]));
        }
        shapes
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
#[cfg(test)]
pub(crate) use tests::golden_configs;
