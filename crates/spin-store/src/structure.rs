//! Whether a store is laid out as this program lays it out: nothing where only
//! versions belong, no version that is gone, no file outside of its artifact.
//!
//! What lies in the store's directory beside the directories of kinds is left
//! alone, except where it is an artifact: people keep other things there.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::error::{Result, StoreError};
use crate::kind::Kind;
use crate::manifest;
use crate::store::{Artifact, Store, is_version, version_number};

/// What is wrong with the directories of a store. Where there is a journal, it
/// tells which versions may be gone: a bundle may bring the second without the
/// first.
///
/// # Errors
/// When its own directory cannot be read.
pub(crate) fn problems(store: &Store, has_journal: bool) -> Result<Vec<StoreError>> {
    let mut problems = Vec::new();
    for entry in fs::read_dir(store.root()).map_err(StoreError::io("read", store.root()))? {
        let path = entry.map_err(StoreError::io("read", store.root()))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if Kind::ALL.iter().any(|kind| kind.dir() == name) {
            // A whole kind may lie elsewhere on the same file system.
            if path.is_dir() {
                below_a_kind(&path, has_journal, &mut problems);
            } else {
                problems.push(StoreError::corrupt(&path, "is no directory", "move it out of the store"));
            }
        } else if !name.starts_with('.') && holds_artifacts(&path, 3) {
            let remedy = "read it with the program that made it, or move it out of the store";
            problems.push(StoreError::corrupt(
                &path,
                "holds artifacts of a kind that this program does not know",
                remedy,
            ));
        }
    }
    Ok(problems)
}

fn below_a_kind(dir: &Path, has_journal: bool, problems: &mut Vec<StoreError>) {
    let entries = match fs::read_dir(dir).and_then(Iterator::collect::<std::io::Result<Vec<_>>>) {
        Ok(entries) => entries,
        Err(e) => return problems.push(StoreError::io("read", dir)(e)),
    };
    let mut versions = Vec::new();
    for entry in entries {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(kind) = entry.file_type() else {
            problems.push(StoreError::corrupt(&path, "cannot be looked at", "see to its permissions"));
            continue;
        };
        if kind.is_symlink() {
            let remedy = "put what it points to in its place; only the directory of a whole kind may be a link";
            problems.push(StoreError::corrupt(&path, "is a link, which no reader follows", remedy));
        } else if !kind.is_dir() {
            problems.push(StoreError::corrupt(
                &path,
                "is a file where only versions belong",
                "move it out of the store",
            ));
        } else if let Some(version) = version_number(&name) {
            versions.push(version);
        } else if is_version(&name) {
            let remedy = "give it the name in its manifest, or move it out of the store";
            problems.push(StoreError::corrupt(&path, "is called as no version is", remedy));
        } else {
            // One without versions is what a killed publish leaves.
            below_a_kind(&path, has_journal, problems);
        }
    }
    versions.sort_unstable();
    let last = versions.last().copied().unwrap_or(0);
    for missing in (1..last).filter(|version| !has_journal && !versions.contains(version)) {
        let problem = format!("has a version {last} and no version {missing}: it was deleted");
        problems.push(StoreError::corrupt(dir, problem, "restore it from a copy; what was made from it is unproven"));
    }
}

/// Whether there are versions with a manifest below a directory, `depth` deep.
fn holds_artifacts(dir: &Path, depth: usize) -> bool {
    let Ok(entries) = fs::read_dir(dir) else { return false };
    let mut dirs =
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_dir() && !path.is_symlink());
    dirs.any(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match version_number(&name) {
            Some(_) => path.join(manifest::FILE_NAME).is_file(),
            None => depth > 0 && holds_artifacts(&path, depth - 1),
        }
    })
}

/// Versions of one name that have one identity: of equal inputs there is one
/// artifact.
pub(crate) fn twins(artifacts: &[Artifact]) -> Vec<(String, StoreError)> {
    let mut first: BTreeMap<(&str, &str, &str), &Artifact> = BTreeMap::new();
    let mut twins = Vec::new();
    for artifact in artifacts {
        let m = &artifact.manifest;
        let Some(other) = first.insert((m.kind.dir(), &m.name, &m.identity), artifact) else { continue };
        let what = if other.manifest.content == m.content { "the same content" } else { "another content" };
        let problem = format!("has the identity of {} and {what}", other.reference());
        let remedy = "keep the one that others were made from, and move the other out of the store";
        twins.push((m.reference(), StoreError::corrupt(&artifact.dir, problem, remedy)));
    }
    twins
}

/// Artifacts that are made from themselves, by whatever way.
pub(crate) fn circles(artifacts: &[Artifact]) -> Vec<(String, StoreError)> {
    let of: BTreeMap<String, &Artifact> = artifacts.iter().map(|a| (a.reference(), a)).collect();
    // 1 while an artifact is on the way, 2 when all that it is from was seen.
    let mut state: BTreeMap<&str, u8> = BTreeMap::new();
    let mut circles = Vec::new();
    for start in of.keys() {
        let mut way: Vec<(&str, usize)> = vec![(start, 0)];
        while let Some((at, next)) = way.pop() {
            if next == 0 {
                if state.contains_key(at) {
                    continue;
                }
                state.insert(at, 1);
            }
            let artifact = of[at];
            let Some(parent) = artifact.manifest.parents.get(next) else {
                state.insert(at, 2);
                continue;
            };
            way.push((at, next + 1));
            let Some((parent, _)) = of.get_key_value(&parent.origin.to_string()) else { continue };
            match state.get(parent.as_str()) {
                Some(1) => {
                    let problem = format!("is made from {parent}, which is made from it");
                    let remedy = "one of their manifests is forged: restore them from a copy";
                    circles.push((at.to_owned(), StoreError::corrupt(&artifact.dir, problem, remedy)));
                }
                Some(_) => {}
                None => way.push((parent, 0)),
            }
        }
    }
    circles
}
