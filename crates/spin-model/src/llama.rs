//! The Llama decoder (Touvron et al. 2023) as transformers computes it:
//! pre-normalised blocks of grouped-query attention with rotary positions and
//! a SwiGLU feed-forward layer.
//!
//! Tensors are `[rows, width]`: all sequences of a batch below each other, as
//! a [`RowPlan`] lays them out. Only attention looks across rows.
//! [`crate::ops`] computes the blocks; this is the path from ids to hidden
//! states.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{Device, Tensor, Var};

use crate::batch::RowPlan;
use crate::config::ModelConfig;
use crate::error::Result;
use crate::ops::{AttentionShape, BlockShape, BlockWeights, Kernels, RopeTable};

/// The weights in the places where they are used. They are the model's
/// variables themselves, so updates and gradients reach both.
#[derive(Debug, Clone)]
pub(crate) struct Decoder {
    embedding: Tensor,
    blocks: Vec<BlockWeights>,
    norm: Tensor,
    output: Tensor,
    rope_theta: f64,
    shape: BlockShape,
}

impl Decoder {
    /// Expects every name of [`ModelConfig::param_shapes`].
    pub fn new(config: &ModelConfig, params: &BTreeMap<String, Var>) -> Self {
        let get = |name: &str| params[name].as_tensor().clone();
        let block = |layer: usize| {
            let get = |name: &str| get(&format!("model.layers.{layer}.{name}.weight"));
            BlockWeights {
                attention_norm: get("input_layernorm"),
                query: get("self_attn.q_proj"),
                key: get("self_attn.k_proj"),
                value: get("self_attn.v_proj"),
                attention_output: get("self_attn.o_proj"),
                feed_forward_norm: get("post_attention_layernorm"),
                gate: get("mlp.gate_proj"),
                up: get("mlp.up_proj"),
                down: get("mlp.down_proj"),
            }
        };
        let embedding = get("model.embed_tokens.weight");
        Self {
            output: if config.tie_word_embeddings { embedding.clone() } else { get("lm_head.weight") },
            embedding,
            blocks: (0..config.num_hidden_layers).map(block).collect(),
            norm: get("model.norm.weight"),
            rope_theta: config.rope_theta,
            shape: BlockShape {
                attention: AttentionShape {
                    heads: config.num_attention_heads,
                    kv_heads: config.num_key_value_heads,
                    head_dim: config.head_dim,
                },
                hidden: config.hidden_size,
                intermediate: config.intermediate_size,
                eps: config.rms_norm_eps,
                recompute: false,
            },
        }
    }

    /// The same decoder, keeping or recomputing what is inside the blocks.
    pub fn with_recompute(&self, recompute: bool) -> Self {
        let mut decoder = self.clone();
        decoder.shape.recompute = recompute;
        decoder
    }

    /// The same weights (shared, not copied) without gradients: candle then
    /// frees every intermediate result as soon as it has been used.
    pub fn detach(&self) -> Self {
        Self {
            embedding: self.embedding.detach(),
            blocks: self.blocks.iter().map(BlockWeights::detach).collect(),
            norm: self.norm.detach(),
            output: self.output.detach(),
            rope_theta: self.rope_theta,
            shape: self.shape,
        }
    }

    /// The output projection's weight, `[vocab, hidden]`.
    pub fn output_weight(&self) -> &Tensor {
        &self.output
    }

    /// The normalised hidden states of the plan's response rows,
    /// `[response rows, hidden]`.
    pub fn forward(&self, plan: &RowPlan, kernels: Kernels, device: &Device) -> Result<Tensor> {
        let longest = plan.lengths.iter().copied().max().unwrap_or(0);
        let rope = Arc::new(RopeTable::new(self.shape.attention.head_dim, longest, self.rope_theta));
        let lengths = Arc::new(plan.lengths.clone());
        let ids = Tensor::new(plan.ids.as_slice(), device)?;
        let mut x = self.embedding.index_select(&ids, 0)?;
        for weights in &self.blocks {
            x = kernels.block(&x, weights, self.shape, &rope, &lengths)?;
        }
        let rows = Tensor::new(plan.response_rows.as_slice(), device)?;
        let x = x.index_select(&rows, 0)?;
        Ok(kernels.rms_norm(&x, &self.norm, self.shape.eps)?)
    }
}
