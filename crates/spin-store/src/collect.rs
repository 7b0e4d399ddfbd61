//! What a store need not keep: artifacts that no root needs, assemblies that were
//! left, unfinished work.
//!
//! Whoever opens a store holds a shared lock on it; collecting takes it alone, so
//! that nobody is in the middle of something.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use crate::artifact::Artifact;
use crate::bundle::in_order;
use crate::error::{Result, StoreError};
use crate::fsutil;
use crate::publish::STAGING;
use crate::store::{Reference, Store, Version, WORK};

/// The file of what is kept whatever else is asked for.
const PINS: &str = "PINS";

/// What could go.
#[derive(Debug, Default)]
pub struct Garbage {
    /// Artifacts that nothing needs, children before their parents.
    pub artifacts: Vec<Artifact>,
    /// Assemblies that were left, with their sizes in bytes.
    pub assemblies: Vec<(PathBuf, u64)>,
    /// Unfinished work of what is published meanwhile.
    pub leftovers: Vec<(PathBuf, u64)>,
    /// Work that can be carried on.
    pub unfinished: Vec<(PathBuf, u64)>,
}

fn size_of(path: &Path) -> u64 {
    let files = WalkDir::new(path).into_iter().filter_map(|entry| entry.ok()?.metadata().ok());
    files.filter(fs::Metadata::is_file).map(|meta| meta.len()).sum()
}

/// What is in a directory, by name; nothing where there is none.
pub(crate) fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let all = match fs::read_dir(dir) {
        Ok(all) => all,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(StoreError::io("read", dir)(e)),
    };
    let mut paths: Vec<PathBuf> =
        all.map(|entry| Ok(entry.map_err(StoreError::io("read", dir))?.path())).collect::<Result<_>>()?;
    paths.sort();
    Ok(paths)
}

impl Store {
    /// What is kept whatever else is asked for, as it was written.
    ///
    /// # Errors
    /// When the list cannot be read.
    pub fn pins(&self) -> Result<Vec<String>> {
        let path = self.root().join(PINS);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(text.lines().map(str::to_owned).filter(|line| !line.is_empty()).collect()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(StoreError::io("read", path)(e)),
        }
    }

    /// Keeps an artifact, with all it is from, whatever else is asked for; or no
    /// longer. The flag says whether that is new.
    ///
    /// # Errors
    /// When the list cannot be read or written.
    pub fn pin(&self, reference: &str, is_kept: bool) -> Result<bool> {
        let _lock = self.lock_list("pins")?;
        let mut pins: BTreeSet<String> = self.pins()?.into_iter().collect();
        let is_new = if is_kept { pins.insert(reference.into()) } else { pins.remove(reference) };
        let text: String = pins.iter().map(|pin| format!("{pin}\n")).collect();
        fsutil::write_atomic(&self.root().join(PINS), text.as_bytes())?;
        Ok(is_new)
    }

    /// What could go: of artifacts those that are not among `kept`, and none where
    /// that is not said.
    ///
    /// # Errors
    /// When the store cannot be listed, or a manifest cannot be read: then nothing
    /// is known of what it needs.
    pub fn garbage(&self, kept: Option<&BTreeSet<String>>) -> Result<Garbage> {
        let all = self.artifacts()?;
        let mut garbage = Garbage::default();
        if let Some(kept) = kept {
            let loose: Vec<Artifact> = all.iter().filter(|a| !kept.contains(&a.reference())).cloned().collect();
            garbage.artifacts = in_order(&loose).into_iter().rev().cloned().collect();
        }
        let sized = |paths: Vec<PathBuf>| paths.into_iter().map(|path| (size_of(&path), path)).map(|(n, p)| (p, n));
        garbage.assemblies = sized(entries(&self.root().join(STAGING))?).collect();
        let identities: BTreeSet<&str> = all.iter().map(|a| a.manifest.identity.as_str()).collect();
        let is_done = |path: &Path| identities.contains(&*path.file_name().unwrap_or_default().to_string_lossy());
        let work = sized(entries(&self.root().join(WORK))?);
        (garbage.leftovers, garbage.unfinished) = work.partition(|(path, _)| is_done(path));
        Ok(garbage)
    }

    /// Removes what could go, unfinished work only where that is said. Returns the
    /// bytes that it had.
    ///
    /// # Errors
    /// [`StoreError::Locked`] while anybody else has the store open; when something
    /// cannot be removed.
    pub fn collect(&self, garbage: &Garbage, with_unfinished: bool, at: Option<&str>) -> Result<u64> {
        let _alone = self.alone()?;
        let mut freed = 0;
        for artifact in &garbage.artifacts {
            let m = &artifact.manifest;
            let reference = Reference { kind: m.kind, name: m.name.clone(), version: Version::Number(m.version) };
            freed += m.bytes();
            self.remove(&reference, at, true)?;
        }
        let unfinished = garbage.unfinished.iter().filter(|_| with_unfinished);
        for (path, bytes) in garbage.assemblies.iter().chain(&garbage.leftovers).chain(unfinished) {
            fsutil::remove_dir_all(path)?;
            freed += bytes;
        }
        Ok(freed)
    }
}
