//! Sources that are named on the hub.
//!
//! A name becomes files of a commit in the hub's cache, and then they are
//! imported as any files. The commit is noted with the source: asked again, the
//! name means that commit, wherever its branch has gone.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::ImportError;
use super::model_files::{self, INDEX};
use crate::records::{self, Files};
use spin_net::Name;
use spin_net::NetError;
use spin_net::hub::{Hub, Snapshot};
use spin_store::StoreError;

/// What is noted of a source on the hub.
fn noted_of(name: &Name, snapshot: &Snapshot) -> Value {
    json!({
        "kind": if name.is_model() { "model" } else { "dataset" },
        "repository": name.repo(),
        "revision": name.revision(),
        "commit": snapshot.commit,
    })
}

/// A chosen list, as the hub's client takes it.
fn told<T>(result: Result<T, StoreError>) -> Result<T, (String, String)> {
    result.map_err(|error| match error {
        StoreError::Corrupt { problem, remedy, .. } => (problem, remedy),
        other => (other.to_string(), "correct the name".into()),
    })
}

/// The files of rows that a name means.
///
/// # Errors
/// When it means none, or more than one split, or they cannot be had.
pub(super) fn rows(hub: &Hub<'_>, name: &Name, recorded: Option<&str>) -> Result<Files, ImportError> {
    if name.is_model() {
        return Err(wrong(name, "is a model's name, where data is wanted", "write hf:datasets/OWNER/NAME/PATH"));
    }
    let shown = PathBuf::from(name.whole().to_string());
    let snapshot = hub.bring(name, recorded, &|paths| told(records::choose(paths, name.path(), &shown)))?;
    Ok(Files::below(&snapshot.dir, &snapshot.files, name.to_string().into(), noted_of(name, &snapshot))?)
}

/// The directory of a model, with what is noted of it; `weights` says whether
/// it must have any.
///
/// # Errors
/// When it is no model's, or its files cannot be had.
pub(super) fn model(
    hub: &Hub<'_>,
    name: &Name,
    recorded: Option<&str>,
    weights: bool,
) -> Result<(PathBuf, Value), ImportError> {
    if !name.is_model() {
        return Err(wrong(name, "is a data set's name, where a model is wanted", "write hf:OWNER/NAME"));
    }
    // Which shards there are is said by the index, which comes first.
    let first = hub.bring(name, recorded, &|paths| {
        if !paths.contains(&"config.json") {
            let remedy = "name a repository of transformers' files (config.json, tokenizer.json, model*.safetensors)";
            return Err(("has no config.json".into(), remedy.into()));
        }
        if weights && !paths.contains(&model_files::SINGLE) && !paths.contains(&INDEX) {
            let remedy = "take a revision that has them, or convert them with transformers' save_pretrained";
            return Err((format!("has no {} and no {INDEX}", model_files::SINGLE), remedy.into()));
        }
        let wanted = ["config.json", INDEX].into_iter().filter(|file| paths.contains(file));
        Ok(wanted.map(str::to_owned).collect())
    })?;
    let shards = match first.files.iter().any(|file| file == INDEX) {
        true => model_files::named_shards(&first.dir.join(INDEX))?,
        false => BTreeSet::new(),
    };
    let snapshot = hub.bring(name, Some(&first.commit), &|paths| {
        let among: BTreeSet<String> = paths.iter().map(|path| (*path).to_owned()).collect();
        let missing: Vec<&str> = shards.iter().filter(|file| !among.contains(*file)).map(String::as_str).collect();
        if !missing.is_empty() && !among.contains(model_files::SINGLE) {
            return Err((format!("lacks {}", missing.join(", ")), "name a revision that is whole".into()));
        }
        let parts = among.iter().filter(|path| model_files::is_part(path, &among, &shards));
        Ok(parts.cloned().collect())
    })?;
    let noted = noted_of(name, &snapshot);
    Ok((snapshot.dir, noted))
}

fn wrong(name: &Name, problem: &str, remedy: &str) -> ImportError {
    NetError::Name { name: name.to_string(), problem: problem.into(), remedy: remedy.into() }.into()
}
