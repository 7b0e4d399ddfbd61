//! Importing a model's directory.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::model_files::{self, Listing};
use super::stamp::Stamp;
use super::{noted, stage_of};
use spin_store::digest;
use spin_store::error::{Result, StoreError};
use spin_store::kind::Kind;
use spin_store::manifest::{Origin, Parent};
use spin_store::{Artifact, Context, Making, Recipe, Staged, Store};

/// How many names of files that were left out a manifest keeps.
const NAMED: usize = 20;

/// The recipe of a model imported from a directory. Hashes the weights only
/// where the file system does not prove that they are those of a version in
/// the store.
///
/// # Errors
/// When there is no `config.json`, the directory is an adapter's, shards are
/// missing, or a file cannot be read.
pub fn model_recipe(store: &Store, name: &str, dir: &Path) -> Result<Recipe> {
    model_recipe_of(store, name, dir, false)
}

/// As [`model_recipe`]; `rehash` hashes in any case.
///
/// # Errors
/// As [`model_recipe`].
pub fn model_recipe_of(store: &Store, name: &str, dir: &Path, rehash: bool) -> Result<Recipe> {
    let listing = model_files::list(dir)?;
    let mut recipe = Recipe {
        kind: Kind::Model,
        name: name.into(),
        stage: stage_of(Kind::Model),
        params: json!({}),
        parents: Vec::new(),
    };
    let mut versions = Vec::new();
    for version in store.versions(Kind::Model, name)?.into_iter().rev() {
        let known = store.load_listed(&(Kind::Model, name.into(), version))?.manifest;
        if known.stage == recipe.stage {
            versions.push(known);
        }
    }
    if !rehash {
        let stamp = Stamp::of(dir, &listing.files)?;
        if let Some(known) = versions.iter().find(|known| stamp.proves(known.environment.get("source"))) {
            recipe.parents = known.parents.clone();
            return Ok(recipe);
        }
    }
    for file in &listing.files {
        let (content, _) = digest::of_file(&dir.join(file))?;
        recipe.parents.push(Parent::file("file", file.display(), content));
    }
    // Earlier releases took every file there was. A version that has this
    // model's files, and whatever else lay beside them, is this model.
    if let Some(known) = versions.into_iter().find(|known| same_model(&known.parents, &recipe.parents, &listing)) {
        recipe.parents = known.parents;
    }
    Ok(recipe)
}

/// Whether what was imported is the model that is there now, once what is no
/// part of a model is left out.
fn same_model(imported: &[Parent], now: &[Parent], listing: &Listing) -> bool {
    let path = |parent: &Parent| match &parent.origin {
        Origin::File(name) => name.clone(),
        Origin::Artifact(_) | Origin::Words(_) => String::new(),
    };
    let names: BTreeSet<String> = imported.iter().map(path).collect();
    let of_the_model: Vec<_> = imported
        .iter()
        .filter(|parent| model_files::is_part(&path(parent), &names, &listing.shards))
        .map(|parent| (path(parent), &parent.content))
        .collect();
    of_the_model.into_iter().eq(now.iter().map(|parent| (path(parent), &parent.content)))
}

/// Imports a model directory unless the store has it.
///
/// # Errors
/// When a file cannot be read, changes during the copy, or the disk is full.
pub fn model(context: &Context<'_>, recipe: &Recipe, dir: &Path) -> Result<(Artifact, bool)> {
    model_of(context, recipe, dir, &None)
}

/// As [`model`], with what is noted of where the directory is from.
///
/// # Errors
/// As [`model`].
pub(super) fn model_of(
    context: &Context<'_>,
    recipe: &Recipe,
    dir: &Path,
    hub: &Option<Value>,
) -> Result<(Artifact, bool)> {
    context.make(recipe, |making| {
        let mut staged = copied(making, dir)?;
        staged.environment.extend(noted(hub));
        Ok::<_, StoreError>(staged)
    })
}

/// The files of a recipe, copied.
fn copied(making: &Making<'_>, dir: &Path) -> Result<Staged> {
    let recipe = making.recipe;
    let Listing { files, left_out, .. } = model_files::list(dir)?;
    // Before the copy: whatever changes from here on has another stamp.
    let mut environment = Map::new();
    environment.insert("source".into(), Stamp::of(dir, &files)?.to_json());
    let listed = files.iter().map(|file| Origin::File(file.display().to_string()));
    if !listed.eq(recipe.parents.iter().map(|parent| parent.origin.clone())) {
        return Err(changed(dir));
    }
    let staged = making.staging()?;
    for (file, parent) in files.iter().zip(&recipe.parents) {
        let (from, to) = (dir.join(file), staged.path().join(file));
        spin_store::fsutil::create_dir_all(to.parent().unwrap_or(staged.path()))?;
        std::fs::copy(&from, &to).map_err(StoreError::io("copy", &from))?;
        // Of the copy: what was hashed is what the store has.
        if digest::of_file(&to)?.0 != parent.content {
            return Err(changed(&from));
        }
    }
    let mut facts = Map::new();
    facts.insert("files".into(), json!(files.len()));
    if !left_out.is_empty() {
        let names = &left_out[..left_out.len().min(NAMED)];
        facts.insert("left_out_files".into(), json!({"count": left_out.len(), "names": names}));
    }
    Ok(Staged { dir: staged, facts, environment })
}

fn changed(path: &Path) -> StoreError {
    StoreError::corrupt(path, "changed while it was imported", "import it again")
}

#[cfg(test)]
#[path = "model_tests.rs"]
mod tests;
