//! Whether a file is what it should be.

use std::fs::File;
use std::path::Path;

use parquet::file::reader::{FileReader, SerializedFileReader};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Item, Source};
use crate::harness::pins;

/// SHA-256 of the files that are taken byte for byte, by repository and path:
/// those of BIG-Bench Hard and MT-Bench at their pinned commits.
const FILES: &str = include_str!("files.tsv");

/// By what a file was found to be the pinned one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// SHA-256 of its bytes.
    Bytes,
    /// The digest of its rows as tasks read them.
    Rows,
    /// Nothing but how many rows it has: no digest is known.
    RowCount,
    /// None: it is other data, taken because the user said so.
    Unpinned,
}

/// Whether a file is the pinned one, by the best that is known of it; the
/// problem follows "a file that". With `accept` other data of the right form
/// will do.
pub(super) fn pinned(source: &Source, item: &Item, path: &Path, sha256: &str, accept: bool) -> Result<Check, String> {
    match strict(source, item, path, sha256) {
        Err(_) if accept && count(path).is_ok() => Ok(Check::Unpinned),
        outcome => outcome,
    }
}

fn strict(source: &Source, item: &Item, path: &Path, sha256: &str) -> Result<Check, String> {
    let key = format!("{}\t{}\t", source.repo, item.path);
    if let Some(known) = FILES.lines().find_map(|line| line.strip_prefix(&key)) {
        // What is no table of the right length is told so first.
        rows(path, item.rows)?;
        return match known == sha256 {
            true => Ok(Check::Bytes),
            false => {
                Err(format!("is another one than that of the pinned revision (SHA-256 {sha256} instead of {known})"))
            }
        };
    }
    rows(path, item.rows)?;
    Ok(if pins::check(source.repo, &item.path, path)? { Check::Rows } else { Check::RowCount })
}

/// Checks the number of rows; the problem follows "a file that".
pub(super) fn rows(path: &Path, expected: Option<u64>) -> Result<(), String> {
    let Some(expected) = expected else { return Ok(()) };
    match count(path)? {
        found if found == expected => Ok(()),
        found => Err(format!("has {found} rows instead of {expected}")),
    }
}

fn count(path: &Path) -> Result<u64, String> {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("");
    if extension == "parquet" {
        let file = File::open(path).map_err(|e| format!("cannot be opened ({e})"))?;
        // The footer alone: rows are counted without decompressing any.
        let reader = SerializedFileReader::new(file).map_err(|e| format!("is not Parquet ({e})"))?;
        return Ok(reader.metadata().file_metadata().num_rows().unsigned_abs());
    }
    let text = std::fs::read_to_string(path).map_err(|e| format!("is not text ({e})"))?;
    if extension == "txt" {
        return Ok(0);
    }
    if extension == "json" {
        let value: Value = serde_json::from_str(&text).map_err(|e| format!("is not JSON ({e})"))?;
        let examples = value.get("examples").and_then(Value::as_array).ok_or("has no list of `examples`")?;
        return Ok(examples.len() as u64);
    }
    let mut rows = 0;
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        serde_json::from_str::<Value>(line).map_err(|e| format!("is not JSON in line {} ({e})", index + 1))?;
        rows += 1;
    }
    Ok(rows)
}
