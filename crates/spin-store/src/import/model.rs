//! Importing a model's directory.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use walkdir::WalkDir;

use super::stage;
use crate::digest;
use crate::error::{Result, StoreError};
use crate::kind::Kind;
use crate::manifest::Parent;
use crate::store::{Artifact, Recipe, Store};

/// Files of a model directory that are copied: everything but hidden files.
fn model_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let visible = |e: &walkdir::DirEntry| e.depth() == 0 || !e.file_name().to_string_lossy().starts_with('.');
    for entry in WalkDir::new(dir).follow_links(true).sort_by_file_name().into_iter().filter_entry(visible) {
        let entry = entry.map_err(|e| StoreError::io("read", dir)(e.into()))?;
        if entry.file_type().is_file() {
            files.push(entry.path().strip_prefix(dir).expect("walked below dir").to_path_buf());
        }
    }
    if !files.iter().any(|f| f == Path::new("config.json")) {
        return Err(StoreError::corrupt(
            dir,
            "has no config.json",
            "give the directory of a Hugging Face model (config.json, tokenizer.json, model*.safetensors)",
        ));
    }
    Ok(files)
}

/// Size and modification time of every file: an unchanged source need not be
/// hashed again by every stage.
fn fingerprint(dir: &Path, files: &[PathBuf]) -> Result<Value> {
    let mut list = Vec::new();
    for file in files {
        let path = dir.join(file);
        let meta = path.metadata().map_err(StoreError::io("read", &path))?;
        let modified = meta.modified().ok().and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
        list.push(json!([file, meta.len(), modified.map(|d| d.as_nanos().to_string())]));
    }
    let dir = dir.canonicalize().map_err(StoreError::io("read", dir))?;
    Ok(json!({"dir": dir, "digest": digest::of_json(&Value::Array(list))}))
}

/// The recipe of a model imported from a directory. Hashes the weights only
/// when no version in the store was imported from these very files.
///
/// # Errors
/// When there is no `config.json`, or a file cannot be read.
pub fn model_recipe(store: &Store, name: &str, dir: &Path) -> Result<Recipe> {
    let files = model_files(dir)?;
    let print = fingerprint(dir, &files)?;
    let mut recipe =
        Recipe { kind: Kind::Model, name: name.into(), stage: stage(), params: json!({}), parents: Vec::new() };
    for version in store.versions(Kind::Model, name)?.into_iter().rev() {
        let known = store.load_listed(&(Kind::Model, name.into(), version))?.manifest;
        if known.environment.get("source") == Some(&print) {
            recipe.parents = known.parents;
            return Ok(recipe);
        }
    }
    for file in files {
        let path = dir.join(&file);
        let (content, _) = digest::of_file(&path)?;
        recipe.parents.push(Parent { role: "file".into(), reference: format!("file:{}", file.display()), content });
    }
    Ok(recipe)
}

/// Imports a model directory unless the store has it.
///
/// # Errors
/// When a file cannot be read, changes during the copy, or the disk is full.
pub fn model(
    store: &Store,
    recipe: &Recipe,
    dir: &Path,
    mut environment: Map<String, Value>,
) -> Result<(Artifact, bool)> {
    if let Some(found) = store.find(recipe)? {
        return Ok((found, false));
    }
    let files = model_files(dir)?;
    environment.insert("source".into(), fingerprint(dir, &files)?);
    let staged = store.staging()?;
    for (file, parent) in files.iter().zip(&recipe.parents) {
        let (from, to) = (dir.join(file), staged.path().join(file));
        crate::fsutil::create_dir_all(to.parent().unwrap_or(staged.path()))?;
        std::fs::copy(&from, &to).map_err(StoreError::io("copy", &from))?;
        if digest::of_file(&to)?.0 != parent.content {
            return Err(StoreError::corrupt(&from, "changed while it was imported", "import it again"));
        }
    }
    let mut facts = Map::new();
    facts.insert("files".into(), json!(files.len()));
    Ok((store.publish(staged, recipe, facts, environment)?, true))
}
