//! How answers are generated.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Dtype, as_params};

/// Which engine generates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EngineKind {
    /// The trainer's forward pass on the CPU in f32 and bf16, mistral.rs
    /// elsewhere and for models that only it reads.
    #[default]
    Auto,
    /// mistral.rs.
    Mistralrs,
    /// The trainer's forward pass with cached keys and values, in f32 and bf16,
    /// on the CPU or a GPU.
    SpinModel,
}

/// `[sample]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SampleConfig {
    /// 0 is greedy; 1 samples from the model's distribution as it is.
    pub temperature: f64,
    /// Keep the k most likely tokens; 0 for all.
    pub top_k: usize,
    /// Keep the smallest set of tokens with this probability; 1 for all.
    pub top_p: f64,
    /// Keep tokens that are at least this share as likely as the likeliest; 0
    /// for all.
    pub min_p: f64,
    /// Divide the logits of tokens that are in the prompt or the answer
    /// already by this (negative ones are multiplied); 1 for nothing.
    pub repetition_penalty: f64,
    /// Texts that end an answer, besides the model's EOS. They stay in it.
    pub stop: Vec<String>,
    /// Token ids that do.
    pub stop_token_ids: Vec<u32>,
    /// Longest answer in tokens.
    pub max_new_tokens: usize,
    /// Answers per prompt.
    pub samples_per_prompt: u32,
    /// Answers per published part.
    pub rows_per_part: usize,
    /// Element type of weights and activations.
    pub dtype: Dtype,
    /// Share of the answers that may fail, each after a second try, and be left
    /// without tokens.
    pub max_failed: f64,
    /// Who generates. They compute the same but for rounding, so it is no part
    /// of an artifact's identity; the manifest says who it was.
    pub engine: EngineKind,
    /// Answers whose log-probabilities are compared with the trainer's before
    /// all are published; no part of the identity.
    pub check_rows: usize,
}

impl SampleConfig {
    /// The keys that decide what is generated, for a recipe.
    pub fn params(&self) -> Value {
        let mut params = as_params(self);
        if let Some(table) = params.as_object_mut() {
            table.retain(|key, _| key != "engine" && key != "check_rows");
        }
        params
    }
}

impl Default for SampleConfig {
    fn default() -> Self {
        SampleConfig {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            stop: Vec::new(),
            stop_token_ids: Vec::new(),
            max_failed: 0.0,
            engine: EngineKind::Auto,
            check_rows: 16,
            max_new_tokens: 256,
            samples_per_prompt: 1,
            rows_per_part: 1024,
            dtype: Dtype::F32,
        }
    }
}
