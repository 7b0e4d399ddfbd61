//! Run files that extend another one, and names that follow from the seed:
//! what makes one experiment of many seeds and many experiments of one base.

use std::path::Path;

use toml::{Table, Value};

use spin_store::error::{Result, StoreError};

/// Files that may stand between a run file and the last one it extends.
const DEEPEST: usize = 16;

/// What stands for the run's seed.
const SEED: &str = "{seed}";

/// A run file's table over that of the file which its `extends` names, if it
/// has one: tables are merged key by key, everything else is replaced, lists
/// of tables as a whole.
///
/// # Errors
/// When there is no such file beside it, it is no TOML, or extends itself.
pub(super) fn extended(path: &Path, table: Table) -> Result<Table> {
    extended_at(path, table, 0)
}

fn extended_at(path: &Path, mut table: Table, depth: usize) -> Result<Table> {
    let Some(name) = table.remove("extends") else { return Ok(table) };
    let bad = |problem: &str| Err(StoreError::run(path, format!("extends = {name}: {problem}")));
    let Some(file) = name.as_str().filter(|name| Path::new(name).file_name() == Some(name.as_ref())) else {
        return bad("name a run file beside it, in the same directory: relative paths are seen from there");
    };
    if depth == DEEPEST {
        return bad("it extends itself, or the files it extends are too many");
    }
    let parent = path.with_file_name(file);
    let text = std::fs::read_to_string(&parent)
        .map_err(|e| StoreError::run(path, format!("extends {}, which cannot be read: {e}", parent.display())))?;
    let base = toml::from_str(&text).map_err(|e: toml::de::Error| StoreError::run(&parent, e.to_string()))?;
    let mut merged = extended_at(&parent, base, depth + 1)?;
    merge(&mut merged, table);
    Ok(merged)
}

fn merge(base: &mut Table, over: Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(base)), Value::Table(over)) => merge(base, over),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

/// Puts the seed where `{seed}` stands: in the run's name and in paths, and
/// as a number where a value is nothing else.
///
/// # Errors
/// When it stands somewhere and there is no seed.
pub(super) fn fill_seed(table: &mut Table) -> std::result::Result<(), String> {
    let seed = table.get("seed").and_then(Value::as_integer);
    table.iter_mut().try_for_each(|(key, value)| fill(key, value, seed))
}

fn fill(key: &str, value: &mut Value, seed: Option<i64>) -> std::result::Result<(), String> {
    match value {
        Value::String(text) if text.contains(SEED) && (text == SEED || ["run", "path"].contains(&key)) => {
            let seed = seed.ok_or_else(|| format!("{key} = {text:?} needs the seed, which is not given"))?;
            *value = match text == SEED {
                true => Value::Integer(seed),
                false => Value::String(text.replace(SEED, &seed.to_string())),
            };
            Ok(())
        }
        Value::Table(table) => table.iter_mut().try_for_each(|(key, value)| fill(key, value, seed)),
        Value::Array(items) => items.iter_mut().try_for_each(|value| fill(key, value, seed)),
        _ => Ok(()),
    }
}
