//! Which artifact a run file's source was imported as last.
//!
//! A stage must not look at the outside source again: it may have moved, or
//! be on another machine, and what counts is what was imported. So an import
//! notes in the store, beside the artifacts, which one it found or made for
//! which source. The note decides nothing about an artifact; without one, or
//! with a damaged one, sources are hashed and artifacts found by identity.

use std::path::{Component, Path, PathBuf};

use serde_json::{Value, json};

use super::stage_of;
use crate::run::{RunFile, as_params};
use spin_net::Name;
use spin_store::digest;
use spin_store::error::{Result, StoreError};
use spin_store::fsutil;
use spin_store::kind::Kind;
use spin_store::store::{Artifact, Store};

const DIR: &str = ".imports";

/// What a run file says about a source, wherever that lies by now.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// An absolute path as it is written; any other relative to the store, so
    /// that run file, data and store can move together, and run files of one
    /// name in two places do not share.
    place: String,
    /// Everything else that the run file says about it.
    settings: Value,
}

impl Source {
    /// A source of a run file: its path as it is written there, and its
    /// settings.
    pub fn new(run: &RunFile, store: &Store, path: &Path, settings: Value) -> Source {
        let place = match path.is_absolute() {
            // A name on the hub is the same from everywhere.
            _ if Name::is_meant(path) => path.to_path_buf(),
            true => normal(path),
            false => {
                let base = run.path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
                let base = base.canonicalize().unwrap_or_else(|_| base.to_path_buf());
                relative(store.root(), &normal(&base.join(path)))
            }
        };
        Source { place: place.to_string_lossy().into_owned(), settings }
    }

    /// A source of rows.
    pub fn of_rows(run: &RunFile, store: &Store, source: &crate::run::SourceConfig) -> Source {
        let mut settings = as_params(source);
        settings.as_object_mut().expect("a table").remove("path");
        Source::new(run, store, &source.path, settings)
    }

    /// Whether it is a name on the hub.
    pub fn is_on_hub(&self) -> bool {
        Name::is_meant(Path::new(&self.place))
    }

    /// The base model.
    pub fn of_model(run: &RunFile, store: &Store) -> Source {
        Source::new(run, store, &run.model.path, Value::Null)
    }
}

/// A path without `.`, and without `..` where there is something to leave.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if matches!(out.components().next_back(), Some(Component::Normal(_))) => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}

/// `to` as seen from `from`, both absolute.
fn relative(from: &Path, to: &Path) -> PathBuf {
    let shared = from.components().zip(to.components()).take_while(|(a, b)| a == b).count();
    let up = from.components().skip(shared).map(|_| Component::ParentDir);
    up.chain(to.components().skip(shared)).collect()
}

fn file(store: &Store, kind: Kind, name: &str) -> PathBuf {
    // As in names of locks: `,` is in no name of an artifact.
    store.root().join(DIR).join(format!("{kind},{}.json", name.replace('/', ",")))
}

fn text_of(sources: &Value) -> String {
    format!("{}\n", json!({"seal": digest::of_json(sources), "sources": sources}))
}

/// The notes of a file; `None` when there are none, or they are damaged.
fn notes(path: &Path) -> Option<Vec<Value>> {
    let text = std::fs::read_to_string(path).ok()?;
    let sources = serde_json::from_str::<Value>(&text).ok()?.get_mut("sources")?.take();
    match (text_of(&sources) == text, sources) {
        (true, Value::Array(sources)) => Some(sources),
        _ => None,
    }
}

/// Notes of a store that are damaged.
pub fn problems(store: &Store) -> Vec<StoreError> {
    let dir = store.root().join(DIR);
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(e) => return vec![StoreError::io("read", dir)(e)],
    };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    // What a killed writer left is no note.
    paths.retain(|path| path.extension().is_some_and(|end| end == "json"));
    paths.sort();
    let damaged = paths.into_iter().filter(|path| notes(path).is_none());
    damaged
        .map(|path| match std::fs::read(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => StoreError::io("read", path)(e),
            _ => StoreError::corrupt(
                &path,
                "is not the note of an import that this program writes",
                "delete it and run `spin-store import` again; artifacts are not touched by it",
            ),
        })
        .collect()
}

fn is_about(note: &Value, source: &Source) -> bool {
    note["place"] == source.place && note["settings"] == source.settings
}

/// Notes which artifact a source is imported as; of one on the hub, the commit
/// that it was.
///
/// # Errors
/// When the note cannot be written.
pub fn remember(store: &Store, artifact: &Artifact, source: &Source, commit: Option<&str>) -> Result<()> {
    let m = &artifact.manifest;
    let path = file(store, m.kind, &m.name);
    let mut sources = notes(&path).unwrap_or_default();
    let mut note = json!({
        "place": source.place, "settings": source.settings, "identity": m.identity, "content": m.content,
    });
    if let Some(commit) = commit {
        note["commit"] = json!(commit);
    }
    if sources.contains(&note) {
        return Ok(());
    }
    sources.retain(|note| !is_about(note, source));
    sources.push(note);
    fsutil::create_dir_all(&store.root().join(DIR))?;
    fsutil::write_atomic(&path, text_of(&Value::Array(sources)).as_bytes())
}

/// The commit that a source on the hub was when it was imported last.
pub fn recorded_commit(store: &Store, kind: Kind, name: &str, source: &Source) -> Option<String> {
    let notes = notes(&file(store, kind, name))?;
    notes.iter().find(|note| is_about(note, source))?["commit"].as_str().map(str::to_owned)
}

/// Whether a source, or a file of it, is not there (any more).
pub fn is_gone(error: &StoreError) -> bool {
    matches!(error, StoreError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
}

/// The artifact that a source was imported as last, if that is known and it is
/// there.
///
/// # Errors
/// When a record under the name is damaged.
pub fn recall(store: &Store, kind: Kind, name: &str, source: &Source) -> Result<Option<Artifact>> {
    let notes = notes(&file(store, kind, name)).unwrap_or_default();
    let Some(note) = notes.iter().find(|note| is_about(note, source)) else { return Ok(None) };
    for version in store.versions(kind, name)?.into_iter().rev() {
        let artifact = store.load_listed(&(kind, name.into(), version))?;
        let m = &artifact.manifest;
        // What an earlier release made otherwise is to be imported again.
        if note["identity"] == m.identity.as_str() && note["content"] == m.content.as_str() && m.stage == stage_of(kind)
        {
            return Ok(Some(artifact));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_seen_from_the_store() {
        let seen = |from: &str, to: &str| relative(Path::new(from), &normal(Path::new(to)));
        assert_eq!(seen("/a/store", "/a/run/../data/./x.jsonl"), Path::new("../data/x.jsonl"));
        assert_eq!(seen("/a/store", "/b/x"), Path::new("../../b/x"));
        assert_eq!(seen("/a", "/a/x"), Path::new("x"));
        assert_eq!(normal(Path::new("/../x")), Path::new("/../x"));
    }
}
