//! Every key of a `config.json` that is known, and what becomes of it.
//!
//! transformers sets what it does not know as an attribute and goes on. Here a
//! key is read, decides nothing, or is refused: a model is not computed without
//! something that its file says of it. `tests/golden/make_config_golden.py`
//! lists what transformers' classes and modeling code know; a test compares.

use serde_json::Value;

use super::architecture::Architecture;
use super::keys::{Keys, short};
use crate::error::Result;
use crate::neutral::Neutral::{self, Absent, Empty, Flag, Number};
use crate::neutral::allows;

/// Keys that this crate reads, each where it is used.
pub(super) const READ: &[&str] = &[
    "architectures",
    "attention_bias",
    "attn_logit_softcapping",
    "auto_map",
    "dtype",
    "final_logit_softcapping",
    "head_dim",
    "hidden_act",
    "hidden_activation",
    "hidden_size",
    "initializer_range",
    "intermediate_size",
    "layer_types",
    "max_position_embeddings",
    "max_window_layers",
    "mlp_bias",
    "model_type",
    "no_rope_layer_interval",
    "no_rope_layers",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "original_max_position_embeddings",
    "partial_rotary_factor",
    "query_pre_attn_scalar",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "sliding_window",
    "sliding_window_size",
    "tie_word_embeddings",
    "torch_dtype",
    "use_sliding_window",
    "vocab_size",
];

/// Keys that decide no logit of a causal language model: where it came from,
/// how much memory or time it takes, which answers transformers' `generate`
/// prefers, what heads of other kinds would be called.
const INERT: &[&str] = &[
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_attn_implementation_internal",
    "_commit_hash",
    "_experts_implementation_internal",
    "_flash_attn_2_enabled",
    "_model_name_or_path",
    "_name_or_path",
    "attn_implementation",
    "bos_token",
    "bos_token_id",
    "chat_template",
    "chunk_size_feed_forward",
    "classifier_dropout",
    "decoder_start_token_id",
    "eos_token",
    "eos_token_id",
    "finetuning_task",
    "gradient_checkpointing",
    "id2label",
    "is_decoder",
    "is_llama_config",
    "label2id",
    "license",
    "max_seq_len",
    "max_seq_length",
    "max_sequence_length",
    "model_max_length",
    "model_parallel",
    "name_or_path",
    "neftune_noise_alpha",
    "num_labels",
    "output_attentions",
    "output_hidden_states",
    "pad_token",
    "pad_token_id",
    "padding_side",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "return_dict",
    "sep_token_id",
    "seq_length",
    "task_specific_params",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tie_last_hidden_states",
    "tokenizer_class",
    "tokenizer_model_max_length",
    "tokenizer_name",
    "tokenizer_padding_side",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "trl_version",
    "trust_remote_code",
    "unk_token",
    "unk_token_id",
    "use_bfloat16",
    "use_cache",
    "use_flash_attention_2",
    "use_flash_attn",
    "use_return_dict",
    "vocab_file",
];

/// Keys of generation, which transformers before 5 kept here, too. Answers are
/// drawn as the run file says.
const GENERATION: &[&str] = &[
    "_from_model_config",
    "assistant_confidence_threshold",
    "assistant_early_exit",
    "assistant_ensemble_weight",
    "assistant_lookbehind",
    "bad_words_ids",
    "begin_suppress_tokens",
    "cache_config",
    "cache_implementation",
    "compile_config",
    "constraints",
    "continuous_batching_config",
    "disable_compile",
    "diversity_penalty",
    "do_sample",
    "dola_layers",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "encoder_repetition_penalty",
    "epsilon_cutoff",
    "eta_cutoff",
    "exponential_decay_length_penalty",
    "force_words_ids",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "guidance_scale",
    "is_assistant",
    "length_penalty",
    "low_memory",
    "max_cache_len",
    "max_length",
    "max_matching_ngram_size",
    "max_new_tokens",
    "max_time",
    "min_length",
    "min_new_tokens",
    "min_p",
    "no_repeat_ngram_size",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_logits",
    "output_scores",
    "penalty_alpha",
    "prefill_chunk_size",
    "prompt_lookup_num_tokens",
    "remove_invalid_values",
    "renormalize_logits",
    "repetition_penalty",
    "return_dict_in_generate",
    "sequence_bias",
    "speculation_type",
    "stop_strings",
    "suppress_tokens",
    "target_lookbehind",
    "temperature",
    "token_healing",
    "top_h",
    "top_k",
    "top_p",
    "typical_p",
    "use_mtp",
    "watermarking_config",
];

/// Keys that would change what is computed, with the values under which they
/// do not.
const NEUTRAL: &[(&str, &[Neutral])] = &[
    ("add_cross_attention", &[Absent, Flag(false)]),
    ("attention_dropout", &[Absent, Number(0.0)]),
    ("attention_multiplier", &[Absent]),
    ("clip_qkv", &[Absent]),
    ("cross_attention_hidden_size", &[Absent]),
    ("embd_pdrop", &[Absent, Number(0.0)]),
    ("embedding_multiplier", &[Absent, Number(1.0)]),
    ("full_attn_mod", &[Absent, Number(1.0)]),
    ("hidden_dropout", &[Absent, Number(0.0)]),
    ("interpolate_factor", &[Absent, Number(1.0)]),
    ("is_encoder_decoder", &[Absent, Flag(false)]),
    ("lm_head_bias", &[Absent, Flag(false)]),
    ("logits_scaling", &[Absent, Number(1.0)]),
    ("per_layer_config", &[Absent, Empty]),
    ("pruned_heads", &[Absent, Empty]),
    ("qk_layernorm", &[Absent, Flag(false)]),
    ("resid_pdrop", &[Absent, Number(0.0)]),
    ("residual_multiplier", &[Absent, Number(1.0)]),
    ("rope_interleaved", &[Absent, Flag(false)]),
    ("use_bidirectional_attention", &[Absent, Flag(false)]),
    ("use_mrope", &[Absent, Flag(false)]),
    ("use_qk_norm", &[Absent, Flag(false)]),
];

/// Keys that some architectures read, with the values that say of the others
/// what they are. Qwen2 has biases of queries, keys and values whatever
/// `attention_bias` says.
const READ_BY: &[(&str, &[Architecture], &[Neutral])] = {
    use Architecture::{Gemma2, Llama, Qwen2, Qwen3, SmolLm3};
    &[
        ("attention_bias", &[Llama, Qwen2, Qwen3, Gemma2, SmolLm3], &[Absent, Flag(false)]),
        ("mlp_bias", &[Llama, SmolLm3], &[Absent, Flag(false)]),
        ("attn_logit_softcapping", &[Gemma2], &[Absent]),
        ("final_logit_softcapping", &[Gemma2], &[Absent]),
        ("query_pre_attn_scalar", &[Gemma2], &[Absent]),
        ("sliding_window_size", &[Gemma2], &[Absent]),
        ("no_rope_layers", &[SmolLm3], &[Absent, Empty]),
        ("no_rope_layer_interval", &[SmolLm3], &[Absent]),
    ]
};

/// Where programs say that a model is stored in fewer bits.
const QUANTIZED: &[&str] = &["quantization_config", "compression_config", "quantization"];

/// What becomes of a key of a `config.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is read.
    Read,
    /// It decides nothing.
    Inert,
    /// Only some of its values are accepted.
    Checked,
    /// Nobody knows it.
    Unknown,
}

pub(super) fn fate(key: &str) -> Fate {
    if NEUTRAL.iter().any(|(name, _)| *name == key) || QUANTIZED.contains(&key) {
        Fate::Checked
    } else if READ.contains(&key) {
        Fate::Read
    } else if INERT.contains(&key) || GENERATION.contains(&key) || key.starts_with("unsloth_") {
        Fate::Inert
    } else {
        Fate::Unknown
    }
}

/// Refuses a configuration with a key that is not known, or that asks for what
/// is not computed here. A key that is null says nothing.
pub(super) fn check(keys: &Keys<'_>, architecture: Architecture) -> Result<()> {
    for (key, value) in keys.raw {
        if value.is_null() {
            continue;
        }
        if QUANTIZED.contains(&key.as_str()) {
            if !allows(&[Empty], value) {
                return Err(keys.error(quantized(key, value)));
            }
        } else if let Some((_, allowed)) = NEUTRAL.iter().find(|(name, _)| name == key) {
            if !allows(allowed, value) {
                return Err(keys.error(format!("`{key}` is {}, which is not supported", short(value))));
            }
        } else if fate(key) == Fate::Unknown {
            return Err(keys.error(format!(
                "the key `{key}` ({}) is not known: it may change what the model computes; remove it if it decides \
                 nothing",
                short(value)
            )));
        }
    }
    for (key, readers, allowed) in READ_BY {
        let value = keys.raw.get(*key).unwrap_or(&Value::Null);
        if !readers.contains(&architecture) && !allows(allowed, value) {
            return Err(keys.error(format!(
                "`{key}` is {}, but a {} has no such thing; remove it, or name the right architecture",
                short(value),
                architecture.name()
            )));
        }
    }
    check_code(keys, architecture)
}

/// A file may name Python code beside it. What it names like the architecture
/// is the copy of before the architecture was in transformers.
fn check_code(keys: &Keys<'_>, architecture: Architecture) -> Result<()> {
    let Some(map) = keys.get("auto_map").and_then(Value::as_object) else { return Ok(()) };
    let Some(class) = map.get("AutoModelForCausalLM") else { return Ok(()) };
    let name = class.as_str().and_then(|path| path.rsplit('.').next()).unwrap_or_default();
    if name == architecture.name() {
        return Ok(());
    }
    Err(keys.error(format!(
        "`auto_map` says that {} computes this model, code of its own instead of transformers' {}; models with code of \
         their own are not supported",
        short(class),
        architecture.name()
    )))
}

fn quantized(key: &str, value: &Value) -> String {
    let text = |name: &str| value.get(name).and_then(Value::as_str);
    let method = match (text("quant_method"), value.get("load_in_4bit"), value.get("load_in_8bit")) {
        (Some("bitsandbytes"), Some(Value::Bool(true)), _) => "bitsandbytes, 4 bits".to_owned(),
        (Some("bitsandbytes"), _, Some(Value::Bool(true))) => "bitsandbytes, 8 bits".to_owned(),
        (Some(method), ..) => method.to_owned(),
        (None, ..) => short(value),
    };
    format!(
        "`{key}`: the weights are quantised ({method}), which is not supported; give the model that they were made \
         from, or its weights dequantised (transformers: `model.dequantize()`) and saved without this key"
    )
}
