//! One decoder for all architectures: which weights meet where.
//!
//! Pre-normalised blocks of grouped-query attention and a gated feed-forward
//! layer; [`ModelConfig`] says which of the optional parts a model has. This is
//! only the structure: [`crate::engine`] and [`crate::composed`] compute it.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::Var;

use crate::config::{LayerConfig, ModelConfig};
use crate::params::Param;

/// A model's weights in the places where they are used. They are the model's
/// variables themselves, so updates reach both.
#[derive(Debug, Clone)]
pub(crate) struct Decoder {
    pub config: Arc<ModelConfig>,
    pub embedding: Param,
    pub layers: Vec<Layer>,
    pub norm: Param,
    /// The output projection, `[vocab, hidden]`.
    pub output: Param,
}

/// A decoder block.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    pub config: LayerConfig,
    pub attention_norm: Param,
    /// Side by side: queries, keys, values; or one projection of all.
    pub qkv: Vec<Linear>,
    /// Norms of each head's queries and keys.
    pub head_norms: Option<[Param; 2]>,
    pub attention_output: Linear,
    pub attention_post_norm: Option<Param>,
    pub feed_forward_norm: Param,
    /// Side by side: gate, up; or one projection of both.
    pub gate_up: Vec<Linear>,
    pub down: Linear,
    pub feed_forward_post_norm: Option<Param>,
}

/// A projection `[outputs, inputs]`.
#[derive(Debug, Clone)]
pub(crate) struct Linear {
    pub weight: Param,
    pub bias: Option<Param>,
    pub adapter: Option<Adapter>,
    pub outputs: usize,
    pub inputs: usize,
}

/// A low-rank addition to a projection: `scale` `up` `down`.
#[derive(Debug, Clone)]
pub(crate) struct Adapter {
    /// PEFT's lora_A, `[rank, inputs]`.
    pub down: Param,
    /// PEFT's lora_B, `[outputs, rank]`.
    pub up: Param,
    pub rank: usize,
    pub scale: f64,
    /// Share of the inputs that are dropped in training.
    pub dropout: f64,
}

impl Linear {
    /// The module's name, such as `model.layers.0.mlp.up_proj`.
    pub fn module(&self) -> &str {
        self.weight.name.strip_suffix(".weight").unwrap_or(&self.weight.name)
    }
}

impl Layer {
    /// All projections.
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.qkv.iter().chain([&self.attention_output]).chain(&self.gate_up).chain([&self.down])
    }

    /// All projections, to be given adapters.
    pub fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        self.qkv.iter_mut().chain([&mut self.attention_output]).chain(&mut self.gate_up).chain([&mut self.down])
    }

    /// Every weight, adapters included.
    pub fn params(&self) -> impl Iterator<Item = &Param> {
        let norms = [&self.attention_norm, &self.feed_forward_norm]
            .into_iter()
            .chain(self.head_norms.iter().flatten())
            .chain(&self.attention_post_norm)
            .chain(&self.feed_forward_post_norm);
        norms.chain(self.linears().flat_map(|linear| {
            let adapter = linear.adapter.iter().flat_map(|adapter| [&adapter.down, &adapter.up]);
            [&linear.weight].into_iter().chain(&linear.bias).chain(adapter)
        }))
    }
}

impl Decoder {
    /// Expects every name of [`ModelConfig::param_shapes`].
    pub fn new(config: &Arc<ModelConfig>, params: &BTreeMap<String, Var>) -> Self {
        let embedding = Param::of(params, "model.embed_tokens.weight".to_owned());
        let layer = |(index, layer): (usize, &LayerConfig)| {
            let name = |part: &str| format!("model.layers.{index}.{part}");
            let norm = |part: &str| Param::of(params, name(&format!("{part}.weight")));
            let linear = |part: &str| {
                let weight = Param::of(params, name(&format!("{part}.weight")));
                let bias = name(&format!("{part}.bias"));
                let dims = weight.var.dims();
                Linear {
                    outputs: dims[0],
                    inputs: dims[1],
                    bias: params.contains_key(&bias).then(|| Param::of(params, bias)),
                    adapter: None,
                    weight,
                }
            };
            let joint = config.joint_projections;
            let qkv: &[&str] = if joint { &["qkv_proj"] } else { &["q_proj", "k_proj", "v_proj"] };
            let gate_up: &[&str] = if joint { &["gate_up_proj"] } else { &["gate_proj", "up_proj"] };
            let (before, after) = if config.post_norms {
                ("pre_feedforward_layernorm", Some("post_feedforward_layernorm"))
            } else {
                ("post_attention_layernorm", None)
            };
            Layer {
                config: *layer,
                attention_norm: norm("input_layernorm"),
                qkv: qkv.iter().map(|part| linear(&format!("self_attn.{part}"))).collect(),
                head_norms: config.qk_norm.then(|| [norm("self_attn.q_norm"), norm("self_attn.k_norm")]),
                attention_output: linear("self_attn.o_proj"),
                attention_post_norm: config.post_norms.then(|| norm("post_attention_layernorm")),
                feed_forward_norm: norm(before),
                gate_up: gate_up.iter().map(|part| linear(&format!("mlp.{part}"))).collect(),
                down: linear("mlp.down_proj"),
                feed_forward_post_norm: after.map(norm),
            }
        };
        Self {
            layers: config.layers.iter().enumerate().map(layer).collect(),
            norm: Param::of(params, "model.norm.weight".to_owned()),
            output: if config.tie_word_embeddings {
                embedding.clone()
            } else {
                Param::of(params, "lm_head.weight".to_owned())
            },
            embedding,
            config: config.clone(),
        }
    }

    /// The first layer whose gradients are needed, if only tensors for which
    /// `wanted` holds are trained; the number of layers if none is.
    pub fn first_trained(&self, wanted: impl Fn(&str) -> bool) -> usize {
        if wanted(&self.embedding.name) {
            return 0;
        }
        let trained = |layer: &Layer| layer.params().any(|param| wanted(&param.name));
        self.layers.iter().position(trained).unwrap_or(self.layers.len())
    }
}
