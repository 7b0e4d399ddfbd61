//! Importing demonstrations.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{ROWS_PER_PART, file_parent, rows, stage};
use crate::digest;
use crate::error::Result;
use crate::kind::Kind;
use crate::run::SourceConfig;
use crate::schema::{Demonstration, Row};
use crate::store::{Artifact, Recipe, Store};
use crate::table;

/// The recipe of demonstrations imported from a file; hashes the file.
///
/// # Errors
/// When the file cannot be read.
pub fn demonstrations_recipe(name: &str, source: &SourceConfig, path: &Path) -> Result<Recipe> {
    let (content, _) = digest::of_file(path)?;
    Ok(Recipe {
        kind: Kind::Demonstrations,
        name: name.into(),
        stage: stage(),
        params: json!({"format": source.format, "limit": source.limit}),
        parents: vec![file_parent("source", path, content)],
    })
}

/// Imports demonstrations unless the store has them. The flag says whether
/// something was made.
///
/// # Errors
/// Bad rows, with file and row; a full disk.
pub fn demonstrations(
    store: &Store,
    recipe: &Recipe,
    source: &SourceConfig,
    path: &Path,
    environment: Map<String, Value>,
) -> Result<(Artifact, bool)> {
    if let Some(found) = store.find(recipe)? {
        return Ok((found, false));
    }
    let rows = rows::read(path, source.format, source.limit)?;
    let mut prompts: Vec<String> = rows.iter().map(|r| format!("{:?}", r.prompt)).collect();
    prompts.sort_unstable();
    let repeated = prompts.windows(2).filter(|w| w[0] == w[1]).count();
    let staged = store.staging()?;
    for (i, chunk) in rows.chunks(ROWS_PER_PART).enumerate() {
        Demonstration::write_part(&staged.path().join(table::part_name(i)), chunk, &recipe.identity(), i)?;
    }
    let mut facts = Map::new();
    facts.insert("rows".into(), json!(rows.len()));
    facts.insert("repeated_prompts".into(), json!(repeated));
    Ok((store.publish(staged, recipe, facts, environment)?, true))
}
