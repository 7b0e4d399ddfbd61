//! A published artifact, and whether it still is what was published.
//!
//! The files of one are reached through [`Artifact::verified`] alone: what was
//! not checked is not read. [`Artifact::place`] is for messages, and for those who
//! check.

use std::collections::BTreeSet;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use walkdir::WalkDir;

use crate::digest;
use crate::error::{Result, StoreError};
use crate::manifest::{self, FileEntry, Manifest, Origin, Parent};
use crate::table;

/// A published artifact.
#[derive(Clone, Debug)]
pub struct Artifact {
    /// Where it lies.
    pub(crate) dir: PathBuf,
    /// Its record.
    pub manifest: Manifest,
}

/// An artifact whose files were what its manifest says when this was made, and the
/// way to them.
#[derive(Clone, Debug)]
pub struct Verified(Artifact);

impl Deref for Verified {
    type Target = Artifact;

    fn deref(&self) -> &Artifact {
        &self.0
    }
}

impl Verified {
    /// The directory of its files.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// Paths of the Parquet parts, in order.
    pub fn parts(&self) -> Vec<PathBuf> {
        self.0.unverified_parts()
    }
}

/// Whether there is nothing under a name, for all that the system says.
fn is_gone(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
}

fn first_of(problems: impl IntoIterator<Item = StoreError>) -> Result<()> {
    problems.into_iter().next().map_or(Ok(()), Err)
}

impl Artifact {
    /// Where it lies.
    pub fn place(&self) -> &Path {
        &self.dir
    }

    /// Checks it, and gives the way to its files.
    ///
    /// # Errors
    /// As [`verify`](Self::verify).
    pub fn verified(&self) -> Result<Verified> {
        self.verify()?;
        Ok(Verified(self.clone()))
    }

    /// The same of some of its files, by their paths: of a model without its
    /// weights, say, of which nothing is to be read then.
    ///
    /// # Errors
    /// As [`verify`](Self::verify), of these files.
    pub fn verified_where(&self, is_read: impl Fn(&str) -> bool) -> Result<Verified> {
        let read = self.manifest.files.iter().filter(|file| is_read(&file.path));
        first_of(read.filter_map(|file| self.problem(file, false)))?;
        Ok(Verified(self.clone()))
    }

    /// Checks every file against the manifest: present, same size, same BLAKE3
    /// digest, and nothing besides.
    ///
    /// # Errors
    /// The first file that differs, or that cannot be read.
    pub fn verify(&self) -> Result<()> {
        first_of(self.problems_of(false))
    }

    /// The same, and SHA-256, as [`problems`](Self::problems) looks.
    ///
    /// # Errors
    /// As [`verify`](Self::verify).
    pub fn verify_wholly(&self) -> Result<()> {
        first_of(self.problems())
    }

    /// All differences between the files and the manifest, and what could not
    /// be checked: [`StoreError::is_difference`] tells which is which.
    pub fn problems(&self) -> Vec<StoreError> {
        self.problems_of(true)
    }

    /// The same; SHA-256, which nothing is found by, only where that is asked for.
    fn problems_of(&self, with_sha256: bool) -> Vec<StoreError> {
        let files = &self.manifest.files;
        let mut problems: Vec<StoreError> =
            files.par_iter().filter_map(|file| self.problem(file, with_sha256)).collect();
        let known: BTreeSet<&Path> = files.iter().map(|file| Path::new(&file.path)).collect();
        for entry in WalkDir::new(&self.dir).sort_by_file_name() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(e) => {
                    let path = e.path().unwrap_or(&self.dir).to_path_buf();
                    problems.push(StoreError::io("read", path)(e.into()));
                    continue;
                }
            };
            if entry.file_type().is_dir() {
                continue;
            }
            let relative = entry.path().strip_prefix(&self.dir).expect("walked below dir");
            if relative != Path::new(manifest::FILE_NAME) && !known.contains(relative) {
                problems.push(StoreError::corrupt(entry.path(), "is not in the manifest", "move it out of the store"));
            }
        }
        problems
    }

    /// How a file differs from its entry, or why that cannot be told.
    fn problem(&self, file: &FileEntry, with_sha256: bool) -> Option<StoreError> {
        let path = self.dir.join(&file.path);
        let differs = |problem: String| {
            let remedy = format!("delete {} and run its stage again, or restore it from a copy", self.dir.display());
            Some(StoreError::corrupt(&path, problem, remedy))
        };
        let digests = match file.sha256.as_ref().filter(|_| with_sha256) {
            Some(_) => digest::both_of_file(&path).map(|both| (both.blake3, both.bytes, Some(both.sha256))),
            None => digest::of_file(&path).map(|(blake3, bytes)| (blake3, bytes, None)),
        };
        match digests {
            Err(StoreError::Io { .. }) if matches!(path.symlink_metadata(), Err(e) if is_gone(&e)) => {
                differs("is missing".into())
            }
            Err(StoreError::Io { .. }) if path.is_dir() => differs("is a directory".into()),
            // A disk or a permission is no difference: nothing is known of the
            // file, and it may be as good as ever.
            Err(error) => Some(error),
            Ok((_, bytes, _)) if bytes != file.bytes => {
                differs(format!("has {bytes} bytes, its manifest says {}", file.bytes))
            }
            Ok((blake3, ..)) if blake3 != file.blake3 => differs("does not have the digest in its manifest".into()),
            Ok((_, _, Some(sha256))) if Some(&sha256) != file.sha256.as_ref() => {
                differs("does not have the SHA-256 in its manifest".into())
            }
            Ok(_) => None,
        }
    }

    /// What the tables of an artifact say otherwise than its manifest: numbers of
    /// rows, the digest of their values, and which part of what each is. The
    /// seal proves that a manifest was not edited, not that it was true.
    pub fn row_problems(&self) -> Vec<StoreError> {
        let tables = self.manifest.files.iter().filter(|file| file.path.ends_with(".parquet"));
        let tables: Vec<_> = tables.enumerate().collect();
        tables.into_par_iter().filter_map(|(part, file)| self.row_problem(part, file).unwrap_or_else(Some)).collect()
    }

    fn row_problem(&self, part: usize, file: &FileEntry) -> Result<Option<StoreError>> {
        let path = self.dir.join(&file.path);
        let differs = |problem: String| {
            let remedy = format!("delete {} and run its stage again, or restore it from a copy", self.dir.display());
            Ok(Some(StoreError::corrupt(&path, problem, remedy)))
        };
        let (rows, digest) = table::rows_digest(&path)?;
        if file.rows.is_some_and(|told| told != rows) {
            return differs(format!("has {rows} rows, its manifest says {}", file.rows.unwrap_or_default()));
        }
        if file.rows_digest.as_ref().is_some_and(|told| *told != digest) {
            return differs("has other values than the digest of its rows in its manifest".into());
        }
        let m = &self.manifest;
        let own =
            [("spin.kind", m.kind.to_string()), ("spin.identity", m.identity.clone()), ("spin.part", part.to_string())];
        for (key, value) in table::label(&path)? {
            if let Some((_, expected)) = own.iter().find(|(own, expected)| *own == key && *expected != value) {
                return differs(format!("says {key} = {value}, where it is {expected}"));
            }
        }
        Ok(None)
    }

    /// Paths of the Parquet parts, in order, for those who check them.
    pub fn unverified_parts(&self) -> Vec<PathBuf> {
        self.manifest.files.iter().filter(|f| f.path.ends_with(".parquet")).map(|f| self.dir.join(&f.path)).collect()
    }

    /// This artifact as an input.
    pub fn as_parent(&self, role: &str) -> Parent {
        Parent {
            role: role.into(),
            origin: Origin::Artifact(self.manifest.reference()),
            content: self.manifest.content.clone(),
            seal: Some(self.manifest.seal.clone()),
        }
    }

    /// `kind/name@vN`.
    pub fn reference(&self) -> String {
        self.manifest.reference()
    }
}
