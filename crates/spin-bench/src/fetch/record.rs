//! `fetched.json`: which file came from where.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use spin_store::{StoreError, fsutil};

use super::check::Check;

/// The record's name inside the directory.
pub const FILE_NAME: &str = "fetched.json";

/// The newest layout of the record that this program reads, and the one it
/// writes: 2 says by what a file was checked.
const LAYOUT: u32 = 2;

/// A file in its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FetchedFile {
    /// `owner/name`.
    pub repo: String,
    /// The commit; absent for a file that was put there by hand.
    pub revision: Option<String>,
    /// Path in the repository, and below `owner/name` here.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of its bytes.
    pub sha256: String,
    /// Its rows, where they are counted.
    pub rows: Option<u64>,
    /// By what it was found to be the pinned one; absent in records of before,
    /// which counted rows.
    #[serde(default)]
    pub checked: Option<Check>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    layout: u32,
    files: Vec<FetchedFile>,
}

/// The record of a directory, written anew after each file.
pub(super) struct Record {
    path: PathBuf,
    contents: Contents,
}

impl Record {
    pub(super) fn read(dir: &Path) -> Result<Record, StoreError> {
        let path = dir.join(FILE_NAME);
        let contents = match std::fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).map_err(|e| {
                let remedy = "remove it: the files that are there are then checked and recorded anew";
                StoreError::corrupt(&path, format!("is not a record of fetched files ({e})"), remedy)
            })?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Contents { layout: LAYOUT, files: Vec::new() },
            Err(e) => return Err(StoreError::io("read", path)(e)),
        };
        if contents.layout > LAYOUT {
            return Err(StoreError::TooNew { path, found: contents.layout, known: LAYOUT });
        }
        let contents = Contents { layout: LAYOUT, ..contents };
        Ok(Record { path, contents })
    }

    pub(super) fn get(&self, repo: &str, path: &str) -> Option<&FetchedFile> {
        self.contents.files.iter().find(|f| f.repo == repo && f.path == path)
    }

    pub(super) fn put(&mut self, file: FetchedFile) -> Result<(), StoreError> {
        let files = &mut self.contents.files;
        files.retain(|f| (&f.repo, &f.path) != (&file.repo, &file.path));
        files.push(file);
        files.sort_by(|a, b| (&a.repo, &a.path).cmp(&(&b.repo, &b.path)));
        let mut text = serde_json::to_string_pretty(&self.contents).expect("plain JSON");
        text.push('\n');
        fsutil::write_atomic(&self.path, text.as_bytes())
    }
}
