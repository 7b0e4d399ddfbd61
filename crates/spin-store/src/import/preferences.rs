//! Importing preference sets: prompts with a chosen and a rejected answer.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{ROWS_PER_PART, file_parent, rows, stage};
use crate::digest;
use crate::error::Result;
use crate::kind::Kind;
use crate::run::SourceConfig;
use crate::schema::{Preference, Row};
use crate::store::{Artifact, Recipe, Store};
use crate::table;

/// The recipe of preferences imported from a file; hashes the file.
///
/// # Errors
/// When the file cannot be read.
pub fn preferences_recipe(name: &str, source: &SourceConfig, path: &Path) -> Result<Recipe> {
    let (content, _) = digest::of_file(path)?;
    Ok(Recipe {
        kind: Kind::Preferences,
        name: name.into(),
        stage: stage(),
        params: json!({"format": source.format, "limit": source.limit}),
        parents: vec![file_parent("source", path, content)],
    })
}

/// Imports preferences unless the store has them. The flag says whether
/// something was made.
///
/// # Errors
/// Bad rows, with file and row; a full disk.
pub fn preferences(
    store: &Store,
    recipe: &Recipe,
    source: &SourceConfig,
    path: &Path,
    environment: Map<String, Value>,
) -> Result<(Artifact, bool)> {
    if let Some(found) = store.find(recipe)? {
        return Ok((found, false));
    }
    let rows = rows::read_preferences(path, source.format, source.limit)?;
    let staged = store.staging()?;
    for (i, chunk) in rows.chunks(ROWS_PER_PART).enumerate() {
        Preference::write_part(&staged.path().join(table::part_name(i)), chunk, &recipe.identity(), i)?;
    }
    let mut facts = Map::new();
    facts.insert("rows".into(), json!(rows.len()));
    Ok((store.publish(staged, recipe, facts, environment)?, true))
}
