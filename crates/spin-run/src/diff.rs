//! What sets two artifacts of one kind apart: how they were made, their files,
//! their rows.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use arrow::array::{Array, RecordBatch};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use serde_json::{Value, json};

use crate::schema::keys;
use spin_store::error::{Result, StoreError};
use spin_store::manifest::Manifest;
use spin_store::{Artifact, Recipe, table};

/// Examples of each sort of row.
const EXAMPLES: usize = 3;

/// Characters of a value that are shown.
const SHOWN: usize = 60;

/// Characters that are shown before two values part.
const BEFORE: usize = 15;

/// What sets two artifacts apart.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Diff {
    /// Stage, settings and inputs.
    pub made: Vec<String>,
    /// Files that are no tables.
    pub files: Vec<String>,
    /// Rows of tables, if there are any.
    pub rows: Option<Rows>,
}

/// Rows of two tables, matched by what tells them apart.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    /// How many the first has.
    pub before: u64,
    /// How many the second has.
    pub after: u64,
    /// In the second alone.
    pub added: u64,
    /// In the first alone.
    pub removed: u64,
    /// In both, with other values.
    pub changed: u64,
    /// Some of each, in words.
    pub examples: Vec<String>,
}

impl Diff {
    /// Compares two artifacts.
    ///
    /// # Errors
    /// When they are of two kinds, or a file is damaged or cannot be read.
    pub fn between(a: &Artifact, b: &Artifact) -> Result<Diff> {
        if a.manifest.kind != b.manifest.kind {
            let problem = format!("is of the kind {}, {} is of {}", b.manifest.kind, a.reference(), a.manifest.kind);
            return Err(StoreError::corrupt(b.place(), problem, "compare two artifacts of one kind"));
        }
        let mut diff = Diff { made: differences(&a.manifest, &recipe_of(&b.manifest), usize::MAX), ..Diff::default() };
        if a.manifest.content == b.manifest.content {
            return Ok(diff);
        }
        a.verify()?;
        b.verify()?;
        diff.files = files(&a.manifest, &b.manifest);
        if !a.unverified_parts().is_empty() || !b.unverified_parts().is_empty() {
            diff.rows = Some(rows(a, b)?);
        }
        Ok(diff)
    }

    /// Whether the two hold the same.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && self.rows.as_ref().is_none_or(|rows| rows.added + rows.removed + rows.changed == 0)
    }

    /// For other programs.
    pub fn to_json(&self) -> Value {
        let rows = self.rows.as_ref().map(|rows| {
            json!({
                "before": rows.before, "after": rows.after, "added": rows.added, "removed": rows.removed,
                "changed": rows.changed, "examples": rows.examples,
            })
        });
        json!({"made": self.made, "files": self.files, "rows": rows})
    }

    /// For people.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        for line in &self.made {
            out += &format!("made:  {line}\n");
        }
        for line in &self.files {
            out += &format!("file:  {line}\n");
        }
        if let Some(Rows { before, after, added, removed, changed, examples }) = &self.rows {
            out += &format!("rows:  {before} and {after}: {added} added, {removed} removed, {changed} changed\n");
            for line in examples {
                out += &format!("       {line}\n");
            }
        }
        if self.is_empty() {
            out += "equal: the same rows and files\n";
        }
        out
    }
}

/// What an artifact was made by and from.
fn recipe_of(manifest: &Manifest) -> Recipe {
    Recipe {
        kind: manifest.kind,
        name: manifest.name.clone(),
        stage: manifest.stage.clone(),
        params: manifest.params.clone(),
        parents: manifest.parents.clone(),
    }
}

fn files(a: &Manifest, b: &Manifest) -> Vec<String> {
    let mut told = Vec::new();
    let is_table = |path: &str| path.ends_with(".parquet");
    for file in b.files.iter().filter(|file| !is_table(&file.path)) {
        match a.files.iter().find(|other| other.path == file.path) {
            Some(other) if other.blake3 == file.blake3 => {}
            Some(other) => {
                told.push(format!("{} has other bytes ({} and {} of them)", file.path, other.bytes, file.bytes));
            }
            None => told.push(format!("{} is new", file.path)),
        }
    }
    let gone = a.files.iter().filter(|file| !b.files.iter().any(|other| other.path == file.path));
    told.extend(gone.filter(|file| !is_table(&file.path)).map(|file| format!("{} is gone", file.path)));
    told
}

/// Where a row stands, and the digest of its values.
#[derive(Clone, Copy)]
struct Place {
    part: usize,
    row: usize,
    values: [u8; 16],
}

fn rows(a: &Artifact, b: &Artifact) -> Result<Rows> {
    let columns = keys::key(a.manifest.kind);
    let mut told = Rows { before: a.manifest.rows(), after: b.manifest.rows(), ..Rows::default() };
    let mut first = HashMap::new();
    each_row(a, columns, &mut |key, place| {
        first.insert(key, place);
    })?;
    let (mut added, mut changed) = (Vec::new(), Vec::new());
    each_row(b, columns, &mut |key, place| match first.remove(&key) {
        None => {
            told.added += 1;
            if added.len() < EXAMPLES {
                added.push(place);
            }
        }
        Some(before) if before.values == place.values => {}
        Some(before) => {
            told.changed += 1;
            if changed.len() < EXAMPLES {
                changed.push((before, place));
            }
        }
    })?;
    told.removed = first.len() as u64;
    let mut removed: Vec<Place> = first.into_values().collect();
    removed.sort_unstable_by_key(|place| (place.part, place.row));
    removed.truncate(EXAMPLES);
    let (in_a, in_b) = (Reader::of(a), Reader::of(b));
    for (before, after) in changed {
        told.examples.push(in_a.change(before, &in_b, after, columns)?);
    }
    for (how, places, reader) in [("added", added, &in_b), ("removed", removed, &in_a)] {
        for place in places {
            told.examples.push(format!("{how}: {}", reader.shown(place, columns)?));
        }
    }
    Ok(told)
}

/// Hands out every row's key and place.
fn each_row(artifact: &Artifact, columns: &[&str], take: &mut dyn FnMut(Vec<u8>, Place)) -> Result<()> {
    let mut number = 0_u64;
    for (part, path) in artifact.unverified_parts().iter().enumerate() {
        let batch = table::read_any(path)?;
        let formats = formatters(path, &batch)?;
        for row in 0..batch.num_rows() {
            let mut hasher = blake3::Hasher::new();
            for format in &formats {
                let text = format.value(row).to_string();
                hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
            }
            let mut values = [0; 16];
            hasher.finalize_xof().fill(&mut values);
            // Rows without a key are told apart by their place.
            let key = if columns.is_empty() { None } else { keys::values(&batch, columns, row) };
            take(key.unwrap_or_else(|| number.to_le_bytes().into()), Place { part, row, values });
            number += 1;
        }
    }
    Ok(())
}

fn formatters<'a>(path: &Path, batch: &'a RecordBatch) -> Result<Vec<ArrayFormatter<'a>>> {
    let format = |column: &'a dyn Array| {
        ArrayFormatter::try_new(column, &OPTIONS)
            .map_err(|e| StoreError::corrupt(path, format!("has a column that cannot be shown ({e})"), "report it"))
    };
    batch.columns().iter().map(|column| format(column.as_ref())).collect()
}

const OPTIONS: FormatOptions<'static> = FormatOptions::new().with_null("null");

/// Looks up single rows.
struct Reader {
    parts: Vec<PathBuf>,
}

impl Reader {
    fn of(artifact: &Artifact) -> Reader {
        Reader { parts: artifact.unverified_parts() }
    }

    /// Names and values of a row.
    fn row(&self, place: Place) -> Result<Vec<(String, String)>> {
        let path = &self.parts[place.part];
        let batch = table::read_any(path)?;
        let formats = formatters(path, &batch)?;
        let schema = batch.schema();
        let names = schema.fields().iter().map(|field| field.name().clone());
        Ok(names.zip(formats.iter().map(|format| format.value(place.row).to_string())).collect())
    }

    /// A row by its key.
    fn shown(&self, place: Place, columns: &[&str]) -> Result<String> {
        let row = self.row(place)?;
        let own = row.iter().filter(|(name, _)| columns.contains(&name.as_str()));
        let key: Vec<String> = own.map(|(name, value)| format!("{name} {}", cut(value))).collect();
        Ok(if key.is_empty() { format!("row {} of part {}", place.row, place.part) } else { key.join(", ") })
    }

    /// The columns in which two rows differ.
    fn change(&self, before: Place, other: &Reader, after: Place, columns: &[&str]) -> Result<String> {
        let (a, b) = (self.row(before)?, other.row(after)?);
        let changed = b.iter().filter_map(|(name, value)| {
            let was = a.iter().find(|(other, _)| other == name).map_or("", |(_, value)| value.as_str());
            (was != value).then(|| {
                let (was, is) = apart(was, value);
                format!("{name} was {}, is {}", cut(was), cut(is))
            })
        });
        let changed: Vec<String> = changed.collect();
        Ok(format!("changed: {}: {}", self.shown(before, columns)?, changed.join("; ")))
    }
}

/// Two texts from shortly before where they part, which the beginning of long
/// ones would not show.
fn apart<'t>(a: &'t str, b: &'t str) -> (&'t str, &'t str) {
    let shared = a.chars().zip(b.chars()).take_while(|(a, b)| a == b).count();
    let from = |text: &'t str| {
        let start = text.char_indices().nth(shared.saturating_sub(BEFORE)).map_or(text.len(), |(at, _)| at);
        &text[start..]
    };
    if shared < SHOWN / 2 { (a, b) } else { (from(a), from(b)) }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// What an artifact was made by and from, against what it would be now; `most`
/// differences are told, and how many more there are.
pub(crate) fn differences(was: &Manifest, now: &Recipe, most: usize) -> Vec<String> {
    let mut told = Vec::new();
    if was.stage != now.stage {
        let (a, b) = (&was.stage, &now.stage);
        told.push(format!(
            "it was made by {} version {}, now it is {} version {}",
            a.name, a.version, b.name, b.version
        ));
    }
    values("", &was.params, &now.params, &mut told);
    for parent in &now.parents {
        let same_place = |other: &&spin_store::Parent| {
            other.role == parent.role && (!parent.is_outside() || other.origin == parent.origin)
        };
        match was.parents.iter().find(same_place) {
            Some(other) if other.content == parent.content => {}
            Some(other) if other.origin == parent.origin => told.push(format!("{} changed", parent.origin)),
            Some(other) => told.push(format!("{} was {}, is {}", parent.role, other.origin, parent.origin)),
            None => told.push(format!("{} {} is new", parent.role, parent.origin)),
        }
    }
    let gone = was.parents.iter().filter(|other| {
        !now.parents
            .iter()
            .any(|parent| parent.role == other.role && (!other.is_outside() || parent.origin == other.origin))
    });
    told.extend(gone.map(|parent| format!("{} {} is not used any more", parent.role, parent.origin)));
    if told.len() > most {
        let more = told.len() - most;
        told.truncate(most);
        told.push(format!("and {more} more"));
    }
    told
}

/// The leaves in which two values differ.
fn values(path: &str, was: &Value, now: &Value, told: &mut Vec<String>) {
    match (was, now) {
        (a, b) if a == b => {}
        (Value::Object(a), Value::Object(b)) => {
            let mut keys: Vec<&String> = a.keys().chain(b.keys()).collect();
            keys.sort_unstable();
            keys.dedup();
            for key in keys {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                let at = |map: &serde_json::Map<String, Value>| map.get(key).cloned().unwrap_or(Value::Null);
                values(&path, &at(a), &at(b), told);
            }
        }
        (a, b) => told.push(format!("{path} was {}, is {}", short(a), short(b))),
    }
}

/// A value in a few words.
fn short(value: &Value) -> String {
    if value.is_null() {
        return "not set".into();
    }
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_shown_from_where_they_part() {
        let (a, b) = (format!("{}é one", "x".repeat(100)), format!("{}é two", "x".repeat(100)));
        assert_eq!(apart(&a, &b), ("xxxxxxxxxxxxxé one", "xxxxxxxxxxxxxé two"));
        assert_eq!(apart("short one", "short two"), ("short one", "short two"));
        assert_eq!(apart(&a, &a[..50]), (&a[35..], &a[35..50]));
    }
}
