//! Reading the tokenizer's part of a Hugging Face model directory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use tokenizers::{AddedToken, Tokenizer};

use crate::error::{Result, TextError};
use crate::fields;
use crate::read::{plain_text, read_json, read_text};

/// The tokens that `tokenizer_config.json` can name; templates see them under the same names.
const NAMED: [&str; 7] = ["bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"];

/// What the files of a directory say, checked against each other.
pub(crate) struct Files {
    /// The `tokenizer.json`, for messages.
    pub path: PathBuf,
    /// The tokenizer, without truncation or padding, knowing every control token as special.
    pub tokenizer: Tokenizer,
    /// Text of the named tokens by name (`eos_token` is always there).
    pub tokens: BTreeMap<String, String>,
    /// The chat template of the directory with the file it is from.
    pub template: Option<(PathBuf, String)>,
    /// The id of `bos_token`.
    pub bos: Option<u32>,
    /// The id that stands for text the vocabulary lacks.
    pub unknown: Option<u32>,
    /// `add_bos_token` of `tokenizer_config.json`.
    pub add_bos: Option<bool>,
    /// Every id that ends a sequence, the tokenizer's own first, the others ascending.
    pub eos_ids: Vec<u32>,
}

impl Files {
    pub(crate) fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("tokenizer.json");
        let Some(text) = read_text(&path)? else {
            return Err(TextError::NoTokenizer { dir: dir.to_owned() });
        };
        let mut tokenizer = Tokenizer::from_bytes(text.as_bytes()).map_err(|error| TextError::parse(&path, error))?;
        // A tokenizer.json may remember how it was last called; texts are never cut or filled here.
        tokenizer.with_truncation(None).map_err(|error| TextError::parse(&path, error))?;
        tokenizer.with_padding(None);

        let head: Head = serde_json::from_str(&text).map_err(|error| TextError::parse(&path, error))?;
        // Other ids each time: the library's own noise, with no seed to give.
        if let Some(dropout) = head.model.dropout.filter(|dropout| *dropout != 0.0) {
            let key = "model.dropout";
            let why = "the ids of a text would be others each time; set it to null";
            return Err(TextError::Field { path, key: key.into(), value: dropout.to_string(), why: why.into() });
        }

        let config_path = dir.join("tokenizer_config.json");
        let config = read_json(&config_path)?.unwrap_or_default();
        let map_path = dir.join("special_tokens_map.json");
        let map = read_json(&map_path)?.unwrap_or_default();

        let mut tokens = BTreeMap::new();
        for name in NAMED {
            let token = match token_text(&config_path, name, &config[name])? {
                Some(token) => Some(token),
                None => token_text(&map_path, name, &map[name])?,
            };
            if let Some(token) = token {
                tokens.insert(name.to_owned(), token);
            }
        }
        let id_of = |name: &str, tokens: &BTreeMap<String, String>| match tokens.get(name) {
            None => Ok(None),
            Some(token) => match tokenizer.token_to_id(token) {
                Some(id) => Ok(Some(id)),
                None => {
                    Err(TextError::UnknownToken { role: name.to_owned(), token: token.clone(), path: path.clone() })
                }
            },
        };
        let bos = id_of("bos_token", &tokens)?;
        let own_eos = id_of("eos_token", &tokens)?;
        let add_bos = config["add_bos_token"].as_bool();
        if add_bos == Some(true) && bos.is_none() {
            return Err(TextError::NoBos { path: config_path });
        }

        let eos_ids = eos_ids(dir, own_eos)?;
        let Some(&primary) = eos_ids.first() else {
            return Err(TextError::NoEos { dir: dir.to_owned() });
        };
        if own_eos.is_none() {
            let token = tokenizer.id_to_token(primary).ok_or_else(|| TextError::UnknownToken {
                role: "eos_token_id".to_owned(),
                token: primary.to_string(),
                path: path.clone(),
            })?;
            tokens.insert("eos_token".to_owned(), token);
        }
        let unknown = head.model.unk_token.as_ref().or(tokens.get("unk_token"));
        let unknown = unknown.and_then(|token| tokenizer.token_to_id(token)).or(head.model.unk_id);
        let template = read_template(dir, &config_path, &config["chat_template"])?;
        if let Some(config) = config.as_object() {
            fields::check_tokenizer(&config_path, config, &tokenizer, template.as_ref().map(|(_, source)| &**source))?;
        }
        let more = ["additional_special_tokens", "extra_special_tokens", "model_specific_special_tokens"];
        let more: Vec<String> = more.iter().flat_map(|key| fields::special_tokens(&config[*key])).collect();
        declare_special(&mut tokenizer, &tokens, &more);

        Ok(Files { path, tokenizer, tokens, template, bos, unknown, add_bos, eos_ids })
    }
}

/// The part of `tokenizer.json` that the library does not show.
#[derive(Deserialize)]
struct Head {
    model: ModelHead,
}

#[derive(Deserialize)]
struct ModelHead {
    #[serde(default)]
    unk_token: Option<String>,
    #[serde(default)]
    unk_id: Option<u32>,
    #[serde(default)]
    dropout: Option<f64>,
}

/// The union of the tokenizer's end-of-sequence id and those in `generation_config.json` (or, where
/// that names none, `config.json`).
fn eos_ids(dir: &Path, own: Option<u32>) -> Result<Vec<u32>> {
    let mut listed = Vec::new();
    for name in ["generation_config.json", "config.json"] {
        let path = dir.join(name);
        let config = read_json(&path)?.unwrap_or_default();
        let values = match &config["eos_token_id"] {
            Value::Null => continue,
            Value::Array(values) => values.clone(),
            value => vec![value.clone()],
        };
        for value in values {
            let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
            listed.push(
                id.ok_or_else(|| TextError::parse(&path, format!("`eos_token_id` holds {value}, which is not an id")))?,
            );
        }
        if !listed.is_empty() {
            break;
        }
    }
    // Without an own token the first one listed takes its place.
    let primary = own.or_else(|| listed.first().copied());
    listed.retain(|id| Some(*id) != primary);
    listed.sort_unstable();
    listed.dedup();
    Ok(primary.into_iter().chain(listed).collect())
}

/// Make the tokens that the configuration names special, as `transformers` does on loading: some
/// `tokenizer.json` hold their end-of-sequence token as an ordinary one.
fn declare_special(tokenizer: &mut Tokenizer, tokens: &BTreeMap<String, String>, more: &[String]) {
    for token in tokens.values().chain(more) {
        let Some(id) = tokenizer.token_to_id(token) else {
            continue;
        };
        let known = tokenizer.get_added_tokens_decoder().get(&id).cloned();
        if known.as_ref().is_some_and(|known| known.special) {
            continue;
        }
        let mut added = known.unwrap_or_else(|| AddedToken::from(token, true));
        added.special = true;
        tokenizer.add_special_tokens(&[added]);
    }
}

/// The directory's template: `chat_template.jinja`, else `chat_template` of the configuration, which
/// is one source or a list of named ones.
fn read_template(dir: &Path, config_path: &Path, value: &Value) -> Result<Option<(PathBuf, String)>> {
    let path = dir.join("chat_template.jinja");
    if let Some(source) = read_text(&path)? {
        return Ok(Some((path, source)));
    }
    let source = match value {
        Value::Null => return Ok(None),
        Value::String(source) => source.clone(),
        Value::Array(entries) => {
            let named = |entry: &Value| entry["name"].as_str() == Some("default");
            let source = entries.iter().find(|e| named(e)).and_then(|e| e["template"].as_str());
            let Some(source) = source else {
                let names = entries.iter().filter_map(|e| e["name"].as_str());
                return Err(TextError::NoDefaultTemplate {
                    path: config_path.to_owned(),
                    names: names.map(str::to_owned).collect(),
                });
            };
            source.to_owned()
        }
        _ => {
            let message = "`chat_template` is neither a text nor a list of named texts";
            return Err(TextError::parse(config_path, message));
        }
    };
    Ok(Some((config_path.to_owned(), source)))
}

/// A token written as text or as an `AddedToken` object; null is no token.
fn token_text(path: &Path, name: &str, value: &Value) -> Result<Option<String>> {
    match (value, plain_text(value)) {
        (Value::Null, _) => Ok(None),
        (_, Some("")) => Ok(None),
        (_, Some(text)) => Ok(Some(text.to_owned())),
        (_, None) => {
            let message = format!("`{name}` is neither a text nor an object with `content`");
            Err(TextError::parse(path, message))
        }
    }
}
