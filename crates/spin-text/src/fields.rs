//! What `tokenizer_config.json` and `generation_config.json` may say: every field that transformers
//! reads is used here, decides nothing here, or is refused by name where it would.
//!
//! `tests/golden/text/fields.json` lists what transformers reads; a test holds the two together.

use std::path::Path;

use serde_json::{Map, Value};
use tokenizers::Tokenizer;

use crate::error::{Result, TextError};
use crate::read::{plain_text, read_json};

/// Fields of `generation_config.json` under which answers are drawn as this project draws them,
/// whatever they say: technical ones, those of other ways to search, and those that the run file
/// has a key for (`do_sample` to `num_return_sequences`).
const GENERATION_IDLE: &[&str] = &[
    "eos_token_id",
    "bos_token_id",
    "pad_token_id",
    "decoder_start_token_id",
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "max_length",
    "max_new_tokens",
    "num_return_sequences",
    "early_stopping",
    "length_penalty",
    "renormalize_logits",
    "remove_invalid_values",
    "use_cache",
    "use_mtp",
    "cache_implementation",
    "cache_config",
    "max_cache_len",
    "compile_config",
    "disable_compile",
    "continuous_batching_config",
    "low_memory",
    "prefill_chunk_size",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "output_logits",
    "return_dict_in_generate",
    "is_assistant",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "assistant_confidence_threshold",
    "assistant_early_exit",
    "assistant_ensemble_weight",
    "assistant_lookbehind",
    "target_lookbehind",
    "prompt_lookup_num_tokens",
    "max_matching_ngram_size",
    "speculation_type",
    "transformers_version",
    "_from_model_config",
    "_commit_hash",
    // What is published beside these, and read by nobody.
    "trust_remote_code",
    "attn_implementation",
    "_attn_implementation",
    "chat_format",
    "max_window_size",
];

/// Fields of `generation_config.json` that change which tokens are drawn, with the number under
/// which they do not. Null, false and what is empty never do.
const GENERATION_NEUTRAL: &[(&str, Option<f64>)] = &[
    ("min_length", Some(0.0)),
    ("min_new_tokens", Some(0.0)),
    ("max_time", None),
    ("stop_strings", None),
    ("num_beams", Some(1.0)),
    ("num_beam_groups", Some(1.0)),
    ("diversity_penalty", Some(0.0)),
    ("penalty_alpha", Some(0.0)),
    ("dola_layers", None),
    ("top_h", Some(1.0)),
    ("typical_p", Some(1.0)),
    ("epsilon_cutoff", Some(0.0)),
    ("eta_cutoff", Some(0.0)),
    ("encoder_repetition_penalty", Some(1.0)),
    ("no_repeat_ngram_size", Some(0.0)),
    ("encoder_no_repeat_ngram_size", Some(0.0)),
    ("bad_words_ids", None),
    ("force_words_ids", None),
    ("constraints", None),
    ("forced_bos_token_id", None),
    ("forced_eos_token_id", None),
    ("exponential_decay_length_penalty", None),
    ("suppress_tokens", None),
    ("begin_suppress_tokens", None),
    ("sequence_bias", None),
    ("token_healing", None),
    ("guidance_scale", Some(1.0)),
    ("watermarking_config", None),
];

/// Fields of `tokenizer_config.json` that are read ([`Files`](crate::files::Files)) or checked below.
#[cfg(test)]
const TOKENIZER_USED: &[&str] = &[
    "bos_token",
    "eos_token",
    "unk_token",
    "pad_token",
    "sep_token",
    "cls_token",
    "mask_token",
    "add_bos_token",
    "chat_template",
    "additional_special_tokens",
    "extra_special_tokens",
    "model_specific_special_tokens",
    "added_tokens_decoder",
    "split_special_tokens",
];

/// Fields of `tokenizer_config.json` that decide no id of a conversation: transformers encodes what a
/// template wrote without special tokens of its own, and how words are cut is in `tokenizer.json`
/// alone. Keys that transformers does not read decide nothing either.
#[cfg(test)]
const TOKENIZER_IDLE: &[&str] = &[
    "add_eos_token",
    "add_prefix_space",
    "legacy",
    "use_default_system_prompt",
    "fix_mistral_regex",
    "clean_up_tokenization_spaces",
    "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output",
    "model_max_length",
    "max_len",
    "max_length",
    "max_target_length",
    "padding",
    "padding_side",
    "pad_to_multiple_of",
    "truncation",
    "truncation_side",
    "tokenizer_padding",
    "tokenizer_truncation",
    "_json_padding",
    "_json_truncation",
    "model_input_names",
    "tokenizer_class",
    "processor_class",
    "backend",
    "auto_map",
    "verbose",
    "response_schema",
    "response_template",
    "chat_control_tokens",
    "sanitize_control_tokens",
    "add_generation_prompt",
    // Arguments of loading, which files repeat.
    "name_or_path",
    "is_local",
    "files_loaded",
    "local_files_only",
    "cache_dir",
    "commit_message",
    "force_download",
    "gguf_file",
    "init_inputs",
    "proxies",
    "repo_id",
    "revision",
    "save_jinja_files",
    "subfolder",
    "token",
    "use_source_tokenizer",
    "_commit_hash",
    "_from_auto",
    "_from_pipeline",
    "_spm_precompiled_charsmap",
    // Parts that are built where there is no tokenizer.json.
    "vocab",
    "merges",
    "vocab_file",
    "merges_file",
    "tokenizer_file",
    "tokenizer_object",
    "tokenizer",
    "post_processor",
    "initial_alphabet",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    "unk_id",
];

/// Whether a value switches nothing on.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Number(_) => false,
    }
}

fn refused(path: &Path, key: &str, value: &Value, why: &str) -> TextError {
    let mut shown = value.to_string();
    if let Some((end, _)) = shown.char_indices().nth(60) {
        shown.replace_range(end.., "…");
    }
    TextError::Field { path: path.to_owned(), key: key.to_owned(), value: shown, why: why.to_owned() }
}

/// Check that nothing in a directory's `generation_config.json` asks for answers other than those
/// that the run file describes.
///
/// # Errors
/// The first key that does, or that is not known.
pub(crate) fn check_generation(dir: &Path) -> Result<()> {
    let path = dir.join("generation_config.json");
    let Some(Value::Object(config)) = read_json(&path)? else { return Ok(()) };
    for (key, value) in &config {
        if GENERATION_IDLE.contains(&key.as_str()) || is_off(value) {
            continue;
        }
        let why = match GENERATION_NEUTRAL.iter().find(|(known, _)| known == key) {
            Some((_, neutral)) if neutral.is_some() && value.as_f64() == *neutral => continue,
            Some(("stop_strings", _)) => {
                "which `generate` heeds and `spin-sample` does not: name them in sample.stop and remove the key"
            }
            Some(_) => {
                "which changes the answers that `generate` draws; they are drawn here as the run file's [sample] says, \
                 so remove the key if that is what you want"
            }
            None => "a key that is not known; remove it if it does not decide how answers are drawn",
        };
        return Err(refused(&path, key, value, why));
    }
    Ok(())
}

/// Check what `tokenizer_config.json` says against the tokenizer; `template` is the chat template.
///
/// # Errors
/// The first key under which transformers gives other ids.
pub(crate) fn check_tokenizer(
    path: &Path,
    config: &Map<String, Value>,
    tokenizer: &Tokenizer,
    template: Option<&str>,
) -> Result<()> {
    if let Some(value) = config.get("split_special_tokens").filter(|value| !is_off(value)) {
        let why = "under which the control tokens of a template become ordinary text; set it to false";
        return Err(refused(path, "split_special_tokens", value, why));
    }
    let other = "tokenizer.json says otherwise; take all tokenizer files from one source";
    if let Some(Value::Object(added)) = config.get("added_tokens_decoder") {
        for (id, token) in added {
            let content = plain_text(token).unwrap_or_default();
            let known = tokenizer.token_to_id(content);
            if known.is_none() || known != id.parse().ok() {
                let key = format!("added_tokens_decoder.{id}");
                let found = known.map_or_else(|| "has no such token".to_owned(), |known| format!("has it as {known}"));
                return Err(refused(
                    path,
                    &key,
                    &Value::from(content),
                    &format!("but tokenizer.json {found}: {other}"),
                ));
            }
        }
    }
    // transformers makes new ids of tokens that the vocabulary lacks, behind the model's last. They
    // matter if a template writes them.
    for key in ["additional_special_tokens", "extra_special_tokens", "model_specific_special_tokens"] {
        for token in special_tokens(&config.get(key).cloned().unwrap_or_default()) {
            if tokenizer.token_to_id(&token).is_none() && template.is_some_and(|source| source.contains(&token)) {
                let why = format!("which the chat template writes and the vocabulary lacks: {other}");
                return Err(refused(path, key, &Value::from(token), &why));
            }
        }
    }
    Ok(())
}

/// The tokens in a list, or in a mapping from names.
pub(crate) fn special_tokens(value: &Value) -> Vec<String> {
    let text = |value: &Value| plain_text(value).map(str::to_owned);
    match value {
        Value::Array(items) => items.iter().filter_map(text).collect(),
        Value::Object(map) => map.values().filter_map(text).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the peers read, by `tests/golden/make_fields_golden.py`.
    fn golden(which: &str) -> Vec<String> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/text/fields.json");
        let all: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let list = all[which].as_array().unwrap();
        assert!(list.len() > 40, "{which}");
        list.iter().map(|name| name.as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn every_field_of_transformers_is_known() {
        for name in golden("generation_config.json") {
            let neutral = GENERATION_NEUTRAL.iter().any(|(known, _)| *known == name);
            assert!(neutral != GENERATION_IDLE.contains(&name.as_str()), "{name} is unknown, or stands twice");
        }
        for name in golden("tokenizer_config.json") {
            let used = TOKENIZER_USED.contains(&name.as_str());
            assert!(used != TOKENIZER_IDLE.contains(&name.as_str()), "{name} is unknown, or stands twice");
        }
    }

    fn generation(text: &str) -> Result<()> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("generation_config.json"), text).unwrap();
        check_generation(dir.path())
    }

    #[test]
    fn what_changes_answers_is_refused_and_what_does_not_is_not() {
        for idle in [
            r#"{"do_sample": true, "temperature": 0.6, "top_p": 0.9, "eos_token_id": [1, 2], "transformers_version": "4.40"}"#,
            r#"{"repetition_penalty": 1.05, "top_k": 20, "pad_token_id": 0, "cache_implementation": "hybrid"}"#,
            r#"{"typical_p": 1.0, "num_beams": 1, "no_repeat_ngram_size": 0, "guidance_scale": 1, "suppress_tokens": []}"#,
            r#"{"some_future_key": null, "token_healing": false}"#,
            "{}",
        ] {
            generation(idle).unwrap();
        }
        for (key, value) in [
            ("suppress_tokens", "[7]"),
            ("begin_suppress_tokens", "[7]"),
            ("bad_words_ids", "[[7]]"),
            ("sequence_bias", "[[[7], -1.0]]"),
            ("forced_eos_token_id", "2"),
            ("no_repeat_ngram_size", "3"),
            ("guidance_scale", "1.5"),
            ("min_new_tokens", "4"),
            ("typical_p", "0.9"),
            ("num_beams", "4"),
            ("watermarking_config", r#"{"bias": 2.5}"#),
            ("stop_strings", r#"["\n"]"#),
        ] {
            let error = generation(&format!("{{\"{key}\": {value}}}")).unwrap_err();
            let text = error.to_string();
            assert!(text.contains("generation_config.json") && text.contains(&format!("`{key}`")), "{text}");
            assert!(text.contains("remove the key"), "{text}");
        }
        let text = generation(r#"{"draw_by_moonlight": true}"#).unwrap_err().to_string();
        assert!(text.contains("`draw_by_moonlight` is true") && text.contains("not known"), "{text}");
    }
}
