//! What of a directory is a model.
//!
//! Trainers leave checkpoints, optimiser states and logs beside the weights,
//! and people leave notes and data. None of it is the model, so none of it is
//! copied or decides which model it is.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use spin_store::error::{Result, StoreError};

pub(super) const SINGLE: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";
/// What to do about an index that is none.
const FETCH: &str = "fetch the model's files again";
const TEMPLATES: &str = "additional_chat_templates";

/// Configuration, tokenizer and templates.
const COMPANIONS: [&str; 12] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
    "chat_template.json",
];

/// A licence goes where the weights go. Its text decides the identity, because
/// an artifact's files are a function of its identity.
const LICENCES: [&str; 5] = ["license", "licence", "notice", "copying", "use_policy"];

/// Whether a name is that of weights in a format that is not read; an
/// optimiser's state is none.
fn is_foreign(name: &str) -> bool {
    let weights = ["pytorch_model", "tf_model", "flax_model", "consolidated", "model", "ggml"];
    let formats = [".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx"];
    name.ends_with(".gguf")
        || (weights.iter().any(|start| name.starts_with(start)) && formats.iter().any(|end| name.ends_with(end)))
}

/// A directory's files, told apart.
#[derive(Debug, PartialEq)]
pub(super) struct Listing {
    /// Those of the model, relative to the directory, in order of their names.
    pub files: Vec<PathBuf>,
    /// Names of the others that are not hidden; a directory's ends in `/`.
    pub left_out: Vec<String>,
    /// The files of weights that an index names.
    pub shards: BTreeSet<String>,
}

fn is_companion(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    COMPANIONS.contains(&name)
        || name.starts_with("vocab.")
        || LICENCES.iter().any(|word| {
            lower.strip_prefix(word).is_some_and(|rest| rest.is_empty() || !rest.starts_with(char::is_alphabetic))
        })
}

/// Whether `path`, one of the files `among`, is a part of the model; `shards`
/// are those that the index names.
pub(super) fn is_part(path: &str, among: &BTreeSet<String>, shards: &BTreeSet<String>) -> bool {
    if let Some((dir, name)) = path.split_once('/') {
        return dir == TEMPLATES && !name.contains('/') && name.ends_with(".jinja");
    }
    // As the weights are read: one file before shards.
    let single = among.contains(SINGLE);
    is_companion(path) || path == SINGLE || (!single && (path == INDEX || shards.contains(path)))
}

/// Names of a directory's entries that are not hidden, sorted, directories with
/// a `/`. Links are followed.
fn entries(dir: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(StoreError::io("read", dir))? {
        let entry = entry.map_err(StoreError::io("read", dir))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') {
            continue;
        }
        let kind = fs::metadata(entry.path());
        match kind {
            Ok(kind) if kind.is_dir() => names.push(format!("{name}/")),
            _ => names.push(name),
        }
    }
    names.sort_by(|a, b| a.trim_end_matches('/').cmp(b.trim_end_matches('/')));
    Ok(names)
}

/// Tells a directory's files apart.
///
/// # Errors
/// When it is no model's: without `config.json`, an adapter's, with an index
/// that cannot be read or that names files that are not there.
pub(super) fn list(dir: &Path) -> Result<Listing> {
    let mut names = entries(dir)?;
    if let Some(at) = names.iter().position(|name| name.strip_suffix('/') == Some(TEMPLATES)) {
        let inner = entries(&dir.join(TEMPLATES))?.into_iter().map(|name| format!("{TEMPLATES}/{name}"));
        names.splice(at..=at, inner.collect::<Vec<_>>());
    }
    let among: BTreeSet<String> = names.iter().cloned().collect();
    refuse_adapter(dir, &among)?;
    if !among.contains("config.json") {
        return Err(StoreError::corrupt(
            dir,
            "has no config.json",
            "give the directory of a Hugging Face model (config.json, tokenizer.json, model*.safetensors)",
        ));
    }
    let shards = match among.contains(INDEX) && !among.contains(SINGLE) {
        true => shards(dir, &among)?,
        false => BTreeSet::new(),
    };
    let (files, left_out): (Vec<String>, Vec<String>) =
        names.into_iter().partition(|name| is_part(name, &among, &shards));
    Ok(Listing { files: files.into_iter().map(PathBuf::from).collect(), left_out, shards })
}

/// transformers would read an adapter's directory as its base with the adapter;
/// to take the weights beside it, or none, would be another model.
fn refuse_adapter(dir: &Path, among: &BTreeSet<String>) -> Result<()> {
    let adapter = ["adapter_model.safetensors", "adapter_model.bin", "adapter_config.json"];
    let Some(found) = adapter.iter().find(|name| among.contains(**name)) else { return Ok(()) };
    let whole = among.contains(SINGLE) || among.contains(INDEX);
    let (problem, remedy) = match whole {
        false => (
            format!("holds an adapter ({found}), not a model"),
            "merge it into its base first: spin-fit merge BASE ADAPTER OUT".to_owned(),
        ),
        true => (
            format!("holds an adapter ({found}) beside whole weights, and which is meant is not said"),
            "move the adapter elsewhere if the weights are the model; else merge it first: \
             spin-fit merge BASE ADAPTER OUT"
                .to_owned(),
        ),
    };
    Err(StoreError::corrupt(dir, problem, remedy))
}

/// The files of weights that an index names, whether they are there or not.
///
/// # Errors
/// When it cannot be read, or names what is none of safetensors beside it.
pub(super) fn named_shards(path: &Path) -> Result<BTreeSet<String>> {
    let bytes = fs::read(path).map_err(StoreError::io("read", path))?;
    let value: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let Some(map) = value.get("weight_map").and_then(Value::as_object) else {
        return Err(StoreError::corrupt(path, "has no `weight_map` from tensor names to file names", FETCH));
    };
    let mut shards = BTreeSet::new();
    for name in map.values() {
        match name.as_str() {
            Some(name) if !name.contains('/') && name.ends_with(".safetensors") => shards.insert(name.to_owned()),
            _ => {
                let problem = format!("names the file {name}, which is none of safetensors beside it");
                return Err(StoreError::corrupt(path, problem, FETCH));
            }
        };
    }
    Ok(shards)
}

/// The files that the index of a directory names.
fn shards(dir: &Path, among: &BTreeSet<String>) -> Result<BTreeSet<String>> {
    let path = dir.join(INDEX);
    let shards = named_shards(&path)?;
    let missing: Vec<&str> = shards.iter().filter(|name| !among.contains(*name)).map(String::as_str).collect();
    if !missing.is_empty() {
        let problem = format!("names {} of {} files that are not there: {}", missing.len(), shards.len(), {
            let first: Vec<&str> = missing.iter().take(5).copied().collect();
            first.join(", ")
        });
        return Err(StoreError::corrupt(&path, problem, FETCH));
    }
    Ok(shards)
}

/// Refuses a directory whose weights are to be used and that has none which
/// can be read.
///
/// # Errors
/// Names the formats that are there.
pub(super) fn check_weights(dir: &Path) -> Result<()> {
    let Listing { files, left_out, .. } = list(dir)?;
    let is = |file: &Path, name: &str| file == Path::new(name);
    if files.iter().any(|file| is(file, SINGLE) || is(file, INDEX)) {
        return Ok(());
    }
    let foreign: Vec<&str> = left_out.iter().map(String::as_str).filter(|name| is_foreign(name)).collect();
    let others: Vec<&str> = left_out.iter().map(String::as_str).filter(|name| name.ends_with(".safetensors")).collect();
    let (problem, remedy) = if !others.is_empty() {
        (
            format!("has no {SINGLE} or {INDEX}, only {}", others.join(", ")),
            format!("rename a single file to {SINGLE}, or fetch the index of the shards"),
        )
    } else if !foreign.is_empty() {
        (
            format!("has weights in {} only, which are not read", foreign.join(", ")),
            "save them as safetensors: AutoModelForCausalLM.from_pretrained(…).save_pretrained(…)".to_owned(),
        )
    } else {
        (
            "has no weights".to_owned(),
            format!("put {SINGLE} there, or set model.init = \"random\" for a model that starts from nothing"),
        )
    };
    Err(StoreError::corrupt(dir, problem, remedy))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir_of(names: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, *name).unwrap();
        }
        dir
    }

    fn files(listing: &Listing) -> Vec<&str> {
        listing.files.iter().map(|file| file.to_str().unwrap()).collect()
    }

    #[test]
    fn what_a_trainer_and_people_leave_is_no_part() {
        let model = [
            "LICENSE",
            "Notice.txt",
            "additional_chat_templates/rag.jinja",
            "additional_chat_templates/tool.jinja",
            "chat_template.jinja",
            "config.json",
            "generation_config.json",
            "merges.txt",
            "model.safetensors",
            "special_tokens_map.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "vocab.json",
        ];
        let others = [
            "README.md",
            "additional_chat_templates/notes.md",
            "checkpoint-500/model.safetensors",
            "events.out.tfevents.1",
            "licensed_users.parquet",
            "model-00001-of-00002.safetensors",
            "model.safetensors.index.json",
            "optimizer.pt",
            "pytorch_model.bin",
            "rng_state_0.pth",
            "runs/a/events",
            "scheduler.pt",
            "train.parquet",
            "trainer_state.json",
            "training_args.bin",
            ".git/HEAD",
            ".DS_Store",
        ];
        let dir = dir_of(&[&model[..], &others[..]].concat());
        let listing = list(dir.path()).unwrap();
        assert_eq!(files(&listing), model);
        let expected = others.map(|name| name.to_owned());
        let expected: Vec<String> = expected
            .into_iter()
            .filter(|name| !name.starts_with('.'))
            .map(|name| match name.split_once('/') {
                Some((TEMPLATES, _)) | None => name,
                Some((dir, _)) => format!("{dir}/"),
            })
            .collect();
        assert_eq!(listing.left_out, expected);
    }

    #[test]
    fn shards_are_those_that_the_index_names() {
        let shard = |n: usize| format!("model-0000{n}-of-00002.safetensors");
        let dir = dir_of(&[
            "config.json",
            &shard(1),
            &shard(2),
            "model-00003-of-00003.safetensors",
            "consolidated.safetensors",
        ]);
        let index = |names: &[String]| {
            let map: serde_json::Map<String, Value> =
                names.iter().enumerate().map(|(i, name)| (i.to_string(), Value::from(name.as_str()))).collect();
            fs::write(dir.path().join(INDEX), serde_json::json!({"weight_map": map}).to_string()).unwrap();
            list(dir.path())
        };
        let listing = index(&[shard(1), shard(2), shard(1)]).unwrap();
        assert_eq!(files(&listing), ["config.json", &shard(1), &shard(2), INDEX]);
        check_weights(dir.path()).unwrap();
        let error = index(&[shard(1), "model-00009-of-00009.safetensors".into()]).unwrap_err().to_string();
        assert!(error.contains("1 of 2 files that are not there: model-00009"), "{error}");
        for bad in ["../secrets.safetensors", "notes.txt"] {
            let error = index(&[bad.to_owned()]).unwrap_err().to_string();
            assert!(error.contains(INDEX) && error.contains(bad), "{error}");
        }
        fs::write(dir.path().join(INDEX), "{").unwrap();
        assert!(list(dir.path()).unwrap_err().to_string().contains("weight_map"));
    }

    #[test]
    fn directories_that_are_no_models_say_what_they_are() {
        let error = |names: &[&str]| list(dir_of(names).path()).unwrap_err().to_string();
        assert!(error(&["notes.md"]).contains("has no config.json"));
        assert!(error(&["adapter_config.json", "adapter_model.safetensors"]).contains("spin-fit merge"));
        let both = error(&["config.json", "model.safetensors", "adapter_config.json"]);
        assert!(both.contains("beside whole weights"), "{both}");

        let error = |names: &[&str]| check_weights(dir_of(names).path()).unwrap_err().to_string();
        assert!(error(&["config.json", "optimizer.pt", "training_args.bin"]).contains("model.init = \"random\""));
        assert!(error(&["config.json", "pytorch_model.bin"]).contains("pytorch_model.bin only"));
        assert!(error(&["config.json", "consolidated.safetensors"]).contains("only consolidated.safetensors"));
    }
}
