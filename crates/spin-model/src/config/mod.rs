//! `config.json` of a Hugging Face model directory, across generations of
//! transformers.

mod architecture;
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
    /// If the text is not a JSON object, a required key is absent, or the
    /// configuration asks for something this crate would compute wrongly.
    pub fn from_json(text: &str, origin: &str) -> Result<Self> {
        let raw: Map<String, Value> = serde_json::from_str(text).map_err(|error| Error::Config {
            origin: origin.to_owned(),
            message: format!("not a JSON object: {error}"),
        })?;
        let keys = Keys { raw: &raw, origin };
        let architecture = Architecture::read(&keys)?;
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
        let absent = match architecture {
            Architecture::Mistral => Some(8),
            Architecture::Gemma2 | Architecture::SmolLm3 => Some(4),
            Architecture::Qwen2 | Architecture::Qwen3 => Some(32),
            Architecture::Llama | Architecture::Phi3 => None,
        };
        let num_key_value_heads = keys.size_or("num_key_value_heads", absent)?.unwrap_or(num_attention_heads);
        if num_attention_heads % num_key_value_heads != 0 {
            return Err(keys.error(format!(
                "num_attention_heads {num_attention_heads} is not a multiple of \
                 num_key_value_heads {num_key_value_heads}"
            )));
        }
        let rope = RopeConfig::read(&keys, architecture, head_dim)?;
        let attention_bias = keys.flag("attention_bias")?.unwrap_or(false);
        for key in ["attention_dropout", "resid_pdrop", "embd_pdrop"] {
            if keys.get(key).is_some_and(|rate| rate.as_f64() != Some(0.0)) {
                return Err(keys.error(format!("`{key}` is not 0; dropout is supported in adapters only")));
            }
        }
        Ok(Self {
            architecture,
            vocab_size: keys.size("vocab_size")?,
            hidden_size,
            intermediate_size: keys.size("intermediate_size")?,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            max_position_embeddings: keys.optional_size("max_position_embeddings")?.unwrap_or(2048),
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
            activation: architecture.activation(&keys)?,
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
            layers: architecture.layers(&keys, num_hidden_layers)?,
            raw,
        })
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

    /// Why mistral.rs 0.8.1 would compute something else from this model, or
    /// `None` if it can generate with it.
    pub fn generation_problem(&self) -> Option<String> {
        let assumed = self.hidden_size / self.num_attention_heads;
        let agrees = assumed == self.head_dim && self.hidden_size.is_multiple_of(self.num_attention_heads);
        (self.architecture == Architecture::Llama && !agrees).then(|| {
            format!(
                "head_dim is {}, but mistral.rs 0.8.1 ignores it and takes hidden_size / \
                 num_attention_heads = {} / {}; generation needs a base model where they agree",
                self.head_dim, self.hidden_size, self.num_attention_heads
            )
        })
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

/// The configurations of the golden files with their names, one at least of
/// every architecture.
#[cfg(test)]
pub(crate) fn golden_configs() -> Vec<(String, Value)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/fit");
    let mut names: Vec<_> =
        std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert!(names.len() >= 11, "{names:?}");
    let read = |name: String| {
        let json = std::fs::read(dir.join(&name).join("config.json")).unwrap();
        (name, serde_json::from_slice(&json).unwrap())
    };
    names.into_iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minimal() -> Map<String, Value> {
        let value = serde_json::json!({
            "architectures": ["LlamaForCausalLM"],
            "vocab_size": 64, "hidden_size": 16, "intermediate_size": 40,
            "num_hidden_layers": 2, "num_attention_heads": 4,
            "bos_token_id": 1,
        });
        value.as_object().unwrap().clone()
    }

    fn parse(raw: &Map<String, Value>) -> Result<ModelConfig> {
        ModelConfig::from_json(&Value::Object(raw.clone()).to_string(), "test/config.json")
    }

    fn refusal(key: &str, value: Value) -> String {
        let mut raw = minimal();
        raw.insert(key.to_owned(), value);
        parse(&raw).unwrap_err().to_string()
    }

    #[test]
    fn rope_theta_is_read_from_both_generations_and_written_for_both() {
        let mut raw = minimal();
        raw.insert("rope_parameters".to_owned(), serde_json::json!({"rope_theta": 5000.0, "rope_type": "default"}));
        let config = parse(&raw).unwrap();
        assert_eq!(config.rope.theta, 5000.0);
        let written = config.to_json("float32");
        let again = ModelConfig::from_json(&written, "again").unwrap();
        assert_eq!(again.raw("rope_theta").unwrap().as_f64(), Some(5000.0));
        assert_eq!(again.raw("bos_token_id").unwrap().as_u64(), Some(1));
        assert_eq!(again.raw("torch_dtype"), again.raw("dtype"));
        assert_eq!(again.to_json("float32"), written);

        let mut raw = minimal();
        raw.insert("rope_theta".to_owned(), 7.0.into());
        assert_eq!(parse(&raw).unwrap().rope.theta, 7.0);
        assert_eq!(parse(&minimal()).unwrap().rope.theta, 10_000.0);
    }

    #[test]
    fn what_would_be_computed_wrongly_is_refused() {
        let text = refusal("architectures", serde_json::json!(["GPT2LMHeadModel"]));
        assert!(text.contains("GPT2LMHeadModel") && text.contains("LlamaForCausalLM"));
        assert!(text.starts_with("test/config.json"));
        for name in SUPPORTED_ARCHITECTURES {
            assert!(text.contains(name), "{text}");
        }
        assert!(refusal("hidden_act", "relu".into()).contains("relu"));
        assert!(refusal("attention_dropout", 0.1.into()).contains("attention_dropout"));
        let scaling = serde_json::json!({"rope_type": "yarn", "factor": 8.0});
        assert!(refusal("rope_scaling", scaling).contains("supported: default, linear, llama3"));
        let scaling = serde_json::json!({"rope_type": "llama3", "factor": 8.0});
        assert!(refusal("rope_scaling", scaling).contains("rope_scaling.low_freq_factor"));
        assert!(refusal("num_key_value_heads", 3.into()).contains("multiple"));
        assert!(refusal("hidden_size", 0.into()).contains("positive"));
    }

    /// transformers' configuration classes have defaults for absent keys, and
    /// null means another thing.
    #[test]
    fn absent_keys_have_the_defaults_of_their_class() {
        let of = |architecture: &str, more: &[(&str, Value)]| {
            let mut raw = minimal();
            raw.insert("architectures".to_owned(), serde_json::json!([architecture]));
            raw.insert("num_attention_heads".to_owned(), 32.into());
            raw.insert("head_dim".to_owned(), 4.into());
            raw.extend(more.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
            parse(&raw).unwrap()
        };
        let mistral = of("MistralForCausalLM", &[]);
        assert_eq!((mistral.num_key_value_heads, mistral.layers[0].window), (8, Some(4096)));
        assert_eq!(of("MistralForCausalLM", &[("sliding_window", Value::Null)]).layers[0].window, None);
        let gemma = of("Gemma2ForCausalLM", &[]);
        assert_eq!((gemma.attention_softcap, gemma.final_softcap), (Some(50.0), Some(30.0)));
        assert_eq!((gemma.layers[0].window, gemma.layers[1].window), (Some(4096), None));
        assert_eq!(of("Gemma2ForCausalLM", &[("final_logit_softcapping", Value::Null)]).final_softcap, None);
        let qwen = [("use_sliding_window", true.into()), ("sliding_window", 9.into()), ("max_window_layers", 0.into())];
        assert!(of("Qwen2ForCausalLM", &qwen).layers.iter().all(|layer| layer.window == Some(9)));
        assert!(of("Qwen2ForCausalLM", &qwen[..2]).layers.iter().all(|layer| layer.window.is_none()));
        let smol = [
            ("use_sliding_window", true.into()),
            ("sliding_window", 9.into()),
            ("no_rope_layers", serde_json::json!([1, 0])),
        ];
        let smol = of("SmolLM3ForCausalLM", &smol);
        assert_eq!(smol.layers[0], LayerConfig { window: None, rope: true });
        assert_eq!(smol.layers[1], LayerConfig { window: Some(9), rope: false });
        assert_eq!((smol.num_key_value_heads, smol.rope.theta), (4, 2e6));
        assert_eq!(of("Phi3ForCausalLM", &[]).rms_norm_eps, 1e-5);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let nested = serde_json::json!({"full_attention": {"rope_type": "linear", "factor": 2.0}});
        assert!(refusal("rope_parameters", nested).contains("full_attention"));
        assert!(refusal("rope_scaling", "linear".into()).contains("rope_scaling"));
        assert!(refusal("hidden_act", 5.into()).contains("hidden_act"));
        assert!(refusal("resid_pdrop", 0.1.into()).contains("resid_pdrop"));
        assert!(refusal("num_hidden_layers", 1_000_000.into()).contains("num_hidden_layers"));
        assert!(refusal("num_hidden_layers", 1_000_000_000_000_u64.into()).contains("num_hidden_layers"));
    }

    #[test]
    fn a_head_dim_that_mistralrs_would_ignore_is_a_problem_for_generation() {
        let mut raw = minimal();
        assert_eq!(parse(&raw).unwrap().generation_problem(), None);
        raw.insert("head_dim".to_owned(), 8.into());
        let problem = parse(&raw).unwrap().generation_problem().unwrap();
        assert!(problem.contains("head_dim is 8"));
    }
}
