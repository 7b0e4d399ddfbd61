//! `config.json` of a Hugging Face model directory, across generations of
//! transformers.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// The architectures this crate can train.
pub const SUPPORTED_ARCHITECTURES: &[&str] = &["LlamaForCausalLM"];

/// The shape of a decoder-only transformer.
///
/// The JSON it was read from is kept, so that keys this crate does not know
/// (tokens ids, defaults for generation) survive a round trip.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
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
    /// Base of the rotary embedding's wavelengths.
    pub rope_theta: f64,
    /// Whether the output projection is the embedding.
    pub tie_word_embeddings: bool,
    /// Standard deviation of freshly initialised weights.
    pub initializer_range: f64,
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
    /// `rope_theta` is read from the top level (transformers 4) or from
    /// `rope_parameters` (transformers 5).
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
        keys.check_architecture()?;
        keys.check_unsupported_features()?;

        let hidden_size = keys.size("hidden_size")?;
        let num_attention_heads = keys.size("num_attention_heads")?;
        let head_dim = match keys.optional_size("head_dim")? {
            Some(dim) => dim,
            None if hidden_size % num_attention_heads == 0 => hidden_size / num_attention_heads,
            None => {
                return Err(keys.error(format!(
                    "hidden_size {hidden_size} is not a multiple of num_attention_heads \
                     {num_attention_heads} and there is no head_dim"
                )));
            }
        };
        let num_key_value_heads = keys.optional_size("num_key_value_heads")?.unwrap_or(num_attention_heads);
        if num_attention_heads % num_key_value_heads != 0 {
            return Err(keys.error(format!(
                "num_attention_heads {num_attention_heads} is not a multiple of \
                 num_key_value_heads {num_key_value_heads}"
            )));
        }
        if head_dim % 2 != 0 {
            return Err(keys.error(format!("head_dim {head_dim} is odd; rotary embeddings need pairs")));
        }
        Ok(Self {
            vocab_size: keys.size("vocab_size")?,
            hidden_size,
            intermediate_size: keys.size("intermediate_size")?,
            num_hidden_layers: keys.size("num_hidden_layers")?,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            max_position_embeddings: keys.optional_size("max_position_embeddings")?.unwrap_or(2048),
            rms_norm_eps: keys.float("rms_norm_eps")?.unwrap_or(1e-6),
            rope_theta: keys.rope_theta()?,
            tie_word_embeddings: keys.flag("tie_word_embeddings")?.unwrap_or(false),
            initializer_range: keys.float("initializer_range")?.unwrap_or(0.02),
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
        raw.insert("rope_theta".to_owned(), self.rope_theta.into());
        raw.insert(
            "rope_parameters".to_owned(),
            serde_json::json!({ "rope_theta": self.rope_theta, "rope_type": "default" }),
        );
        raw.insert("tie_word_embeddings".to_owned(), self.tie_word_embeddings.into());
        raw.insert("torch_dtype".to_owned(), dtype.into());
        raw.insert("dtype".to_owned(), dtype.into());
        // mistral.rs 0.8.1 requires these keys and has no defaults for them.
        raw.entry("architectures").or_insert_with(|| serde_json::json!([SUPPORTED_ARCHITECTURES[0]]));
        raw.entry("model_type").or_insert_with(|| "llama".into());
        raw.entry("hidden_act").or_insert_with(|| "silu".into());
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
        (assumed != self.head_dim || !self.hidden_size.is_multiple_of(self.num_attention_heads)).then(|| {
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
        let mut shapes = vec![("model.embed_tokens.weight".to_owned(), vec![self.vocab_size, hidden])];
        for layer in 0..self.num_hidden_layers {
            for (name, shape) in [
                ("input_layernorm", vec![hidden]),
                ("self_attn.q_proj", vec![query, hidden]),
                ("self_attn.k_proj", vec![key, hidden]),
                ("self_attn.v_proj", vec![key, hidden]),
                ("self_attn.o_proj", vec![hidden, query]),
                ("post_attention_layernorm", vec![hidden]),
                ("mlp.gate_proj", vec![self.intermediate_size, hidden]),
                ("mlp.up_proj", vec![self.intermediate_size, hidden]),
                ("mlp.down_proj", vec![hidden, self.intermediate_size]),
            ] {
                shapes.push((format!("model.layers.{layer}.{name}.weight"), shape));
            }
        }
        shapes.push(("model.norm.weight".to_owned(), vec![hidden]));
        if !self.tie_word_embeddings {
            shapes.push(("lm_head.weight".to_owned(), vec![self.vocab_size, hidden]));
        }
        shapes
    }
}

/// Typed access to the JSON object, with errors that name file and key.
struct Keys<'a> {
    raw: &'a Map<String, Value>,
    origin: &'a str,
}

impl Keys<'_> {
    fn error(&self, message: String) -> Error {
        Error::Config { origin: self.origin.to_owned(), message }
    }

    /// The value of a key; JSON's null counts as absent, as in transformers.
    fn get(&self, key: &str) -> Option<&Value> {
        self.raw.get(key).filter(|value| !value.is_null())
    }

    fn optional_size(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.as_u64() {
            Some(size) if size > 0 => Ok(Some(size as usize)),
            _ => Err(self.error(format!("`{key}` must be a positive integer, not {value}"))),
        }
    }

    fn size(&self, key: &str) -> Result<usize> {
        self.optional_size(key)?.ok_or_else(|| self.error(format!("the key `{key}` is missing")))
    }

    fn float(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.as_f64() {
            Some(number) if number.is_finite() && number > 0.0 => Ok(Some(number)),
            _ => Err(self.error(format!("`{key}` must be a positive number, not {value}"))),
        }
    }

    fn flag(&self, key: &str) -> Result<Option<bool>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.as_bool() {
            Some(flag) => Ok(Some(flag)),
            None => Err(self.error(format!("`{key}` must be true or false, not {value}"))),
        }
    }

    fn check_architecture(&self) -> Result<()> {
        let supported = SUPPORTED_ARCHITECTURES.join(", ");
        if let Some(names) = self.get("architectures").and_then(Value::as_array)
            && !names.is_empty()
        {
            return if names.iter().filter_map(Value::as_str).any(|name| SUPPORTED_ARCHITECTURES.contains(&name)) {
                Ok(())
            } else {
                Err(self.error(format!(
                    "architectures {} cannot be trained; supported: {supported}",
                    Value::from(names.clone())
                )))
            };
        }
        match self.get("model_type").and_then(Value::as_str) {
            Some("llama") => Ok(()),
            Some(other) => Err(self.error(format!("model_type `{other}` cannot be trained; supported: {supported}"))),
            None => {
                Err(self.error(format!("neither `architectures` nor `model_type` is given; supported: {supported}")))
            }
        }
    }

    fn check_unsupported_features(&self) -> Result<()> {
        for key in ["attention_bias", "mlp_bias"] {
            if self.flag(key)?.unwrap_or(false) {
                return Err(self.error(format!("`{key}` is true; models with biases are not supported yet")));
            }
        }
        if let Some(activation) = self.get("hidden_act").and_then(Value::as_str)
            && !["silu", "swish"].contains(&activation)
        {
            return Err(self.error(format!("hidden_act `{activation}` is not supported yet; supported: silu")));
        }
        // A null or "default" scaling is no scaling; "type" is the spelling of
        // transformers before 4.43.
        for key in ["rope_scaling", "rope_parameters"] {
            let Some(table) = self.get(key) else { continue };
            let kind =
                table.get("rope_type").or_else(|| table.get("type")).and_then(Value::as_str).unwrap_or("default");
            if kind != "default" {
                return Err(self.error(format!(
                    "`{key}` of type `{kind}` is not supported yet; only unscaled rotary \
                     embeddings (null or type default) are"
                )));
            }
        }
        Ok(())
    }

    fn rope_theta(&self) -> Result<f64> {
        let nested = self.get("rope_parameters").and_then(|table| table.get("rope_theta")).and_then(Value::as_f64);
        match (self.float("rope_theta")?, nested) {
            (Some(top), Some(nested)) if top != nested => Err(self.error(format!(
                "rope_theta is {top} at the top level and {nested} in rope_parameters; \
                 they must agree"
            ))),
            (Some(theta), _) | (None, Some(theta)) => Ok(theta),
            // The default of transformers' LlamaConfig.
            (None, None) => Ok(10_000.0),
        }
    }
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
        assert_eq!(config.rope_theta, 5000.0);
        let written = config.to_json("float32");
        let again = ModelConfig::from_json(&written, "again").unwrap();
        assert_eq!(again.raw("rope_theta").unwrap().as_f64(), Some(5000.0));
        assert_eq!(again.raw("bos_token_id").unwrap().as_u64(), Some(1));
        assert_eq!(again.raw("torch_dtype"), again.raw("dtype"));
        assert_eq!(again.to_json("float32"), written);

        let mut raw = minimal();
        raw.insert("rope_theta".to_owned(), 7.0.into());
        assert_eq!(parse(&raw).unwrap().rope_theta, 7.0);
        assert_eq!(parse(&minimal()).unwrap().rope_theta, 10_000.0);
    }

    #[test]
    fn what_would_be_computed_wrongly_is_refused() {
        let text = refusal("architectures", serde_json::json!(["GPT2LMHeadModel"]));
        assert!(text.contains("GPT2LMHeadModel") && text.contains("LlamaForCausalLM"));
        assert!(text.starts_with("test/config.json"));
        assert!(refusal("attention_bias", true.into()).contains("attention_bias"));
        assert!(refusal("mlp_bias", true.into()).contains("mlp_bias"));
        assert!(refusal("hidden_act", "gelu".into()).contains("gelu"));
        let scaling = serde_json::json!({"rope_type": "llama3", "factor": 8.0});
        assert!(refusal("rope_scaling", scaling).contains("not supported yet"));
        assert!(refusal("num_key_value_heads", 3.into()).contains("multiple"));
        assert!(refusal("hidden_size", 0.into()).contains("positive"));
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
