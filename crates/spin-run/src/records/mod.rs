//! Rows of the data files that people have: JSON lines, JSON lists, CSV,
//! Parquet and Arrow, plain or packed, one file or a directory of shards.
//!
//! [`files`] says which files a path stands for, [`read`] hands out their rows
//! one by one. No file is ever held as a whole: what is kept is up to the
//! caller, and what comes out is bounded ([`Budget`]), because a file of a few
//! bytes can unpack to any size. The digest that [`read`] returns is of the
//! very bytes that the rows came from.

mod arrow;
mod bytes;
mod csv;
mod ipc;
mod json;
mod parquet;
mod source;
#[cfg(test)]
mod tests;

use std::ops::ControlFlow;
use std::path::Path;

use serde_json::{Map, Value};

use spin_store::error::{Result, StoreError};

pub use arrow::TableRow;
pub(crate) use bytes::changed;
pub use bytes::read_text;
pub(crate) use json::type_name;
pub use source::{Files, SourceFile, choose, ending, files, is_data_dir};

/// Why a row cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bad {
    /// The kind of fault, for counting.
    pub reason: &'static str,
    /// What exactly is wrong, in words that follow "row 7: ".
    pub detail: String,
}

impl Bad {
    /// A bad row.
    pub fn new(reason: &'static str, detail: impl Into<String>) -> Self {
        Bad { reason, detail: detail.into() }
    }
}

/// One row, whatever kind of file it is from.
#[derive(Debug)]
pub enum Record<'a> {
    /// From text.
    Json(Map<String, Value>),
    /// From a table; its values are made when they are asked for.
    Table(TableRow<'a>),
}

impl Record<'_> {
    /// Whether it has a key. A null of a table counts as absent, as tables
    /// have every column in every row.
    pub fn has(&self, key: &str) -> bool {
        match self {
            Record::Json(map) => map.contains_key(key),
            Record::Table(row) => row.has(key),
        }
    }

    /// The names of its keys, also of those that were not wanted.
    pub fn names(&self) -> Vec<String> {
        match self {
            Record::Json(map) => map.keys().cloned().collect(),
            Record::Table(row) => row.names(),
        }
    }

    /// Takes a value out.
    ///
    /// # Errors
    /// When a table's value has a type that is neither text, number, list nor
    /// object, or bytes that are no text.
    pub fn take(&mut self, key: &str) -> Result<Option<Value>, Bad> {
        match self {
            Record::Json(map) => Ok(map.swap_remove(key)),
            Record::Table(row) => row.value(key),
        }
    }

    /// A value, left where it is.
    pub fn peek(&self, key: &str) -> Option<Value> {
        match self {
            Record::Json(map) => map.get(key).cloned(),
            Record::Table(row) => row.value(key).ok().flatten(),
        }
    }

    /// The row's id, if it has one: `row_id` or `id`, text or a number.
    ///
    /// # Errors
    /// When it is something else.
    pub fn take_id(&mut self) -> Result<Option<String>, Bad> {
        let key = if self.has("row_id") { "row_id" } else { "id" };
        let value = match self {
            Record::Json(map) => map.swap_remove(key),
            Record::Table(row) => row.id(key),
        };
        match value {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(id)) if !id.is_empty() => Ok(Some(id)),
            Some(Value::Number(id)) => Ok(Some(id.to_string())),
            Some(_) => Err(Bad::new("bad id", "its id is neither text nor a number")),
        }
    }

    /// All of it, as an object with its keys in order. A table's value that
    /// has no form in JSON is left out.
    pub fn into_map(self) -> Map<String, Value> {
        match self {
            Record::Json(map) => map,
            Record::Table(row) => row.into_map(),
        }
    }
}

/// Most that may come out of a source, so that a small file cannot fill the
/// memory.
#[derive(Clone, Debug)]
pub struct Budget {
    /// Most bytes of one row.
    pub row: u64,
    /// Most bytes of all rows.
    pub total: u64,
    used: u64,
}

/// Most bytes of one row unless something else is asked for.
pub const ROW_BYTES: u64 = 64 << 20;
/// Sources may unpack to this, whatever their own size.
const LEAST_TOTAL: u64 = 256 << 20;
/// And to this many times their own size.
const MOST_RATIO: u64 = 100;
/// What a row costs besides its text.
const ROW_COST: u64 = 64;

impl Budget {
    /// For a source of some files: by default 64 MiB for one row, and for all
    /// together 256 MiB or 100 times the files' size. Text that is not packed
    /// never exceeds the latter.
    pub fn new(files: &[SourceFile], row: Option<u64>, total: Option<u64>) -> Budget {
        let size: u64 = files.iter().map(|f| f.size).sum();
        let default = LEAST_TOTAL.max(size.saturating_mul(MOST_RATIO));
        Budget { row: row.unwrap_or(ROW_BYTES), total: total.unwrap_or(default), used: 0 }
    }

    fn spend(&mut self, path: &Path, bytes: u64) -> Result<()> {
        self.used = self.used.saturating_add(bytes).saturating_add(ROW_COST);
        if self.used > self.total { Err(self.exceeded(path)) } else { Ok(()) }
    }

    fn exceeded(&self, path: &Path) -> StoreError {
        StoreError::corrupt(
            path,
            format!("unpacks to more than {} bytes, which is far more than its own size", self.total),
            "if it is what it should be, set `max_bytes` of this source (data.train.max_bytes) higher",
        )
    }

    fn row_too_long(&self, path: &Path, row: usize) -> StoreError {
        StoreError::row(
            path,
            row,
            format!("is longer than {} bytes", self.row),
            "is a line end, bracket or quote missing? else set `max_row_bytes` of this source (data.train.max_row_bytes) higher",
        )
    }
}

/// Takes a row with its number (lines from 1 in JSON lines and CSV, rows from
/// 0 else), or what is wrong with it; says whether to go on.
pub type Each<'a> = dyn FnMut(usize, Result<Record<'_>, Bad>) -> Result<ControlFlow<()>> + 'a;

/// Hands out the rows of a file in order until there are no more or `each`
/// breaks off. Of columns and top-level keys only `wanted` are read, all when
/// it is empty. Returns the BLAKE3 digest of the file's bytes, all of them.
///
/// # Errors
/// When the file cannot be read or unpacked, changes meanwhile, is of an
/// encoding or archive that is not read (named), exceeds the budget, or
/// `each` fails.
pub fn read(path: &Path, wanted: &[&str], budget: &mut Budget, each: &mut Each) -> Result<String> {
    let mut input = bytes::Input::open(path)?;
    match input.format()? {
        bytes::Format::Parquet => parquet::read(input, wanted, budget, each),
        bytes::Format::Arrow => ipc::read(input, wanted, budget, each),
        format => {
            let mut text = input.into_text()?;
            match format {
                bytes::Format::Csv(separator) => csv::read(&mut text, separator, budget, each)?,
                bytes::Format::Json => json::read_json(&mut text, wanted, budget, each)?,
                _ => json::read_lines(&mut text, wanted, budget, each)?,
            }
            text.finish()
        }
    }
}

/// Columns of one name: readers differ in which they take.
pub(super) fn unique(path: &Path, names: &[&str], wanted: &[&str]) -> Result<()> {
    let twice = |name: &&&str| names.iter().filter(|other| other == name).count() > 1;
    match names.iter().filter(|name| wanted.is_empty() || wanted.contains(name)).find(twice) {
        None => Ok(()),
        Some(name) => Err(StoreError::corrupt(path, format!("has two columns {name:?}"), "rename or remove one")),
    }
}

/// Whether one of the columns holds bytes rather than text; of text files,
/// no. Earlier releases read the hexadecimal digits of such columns.
///
/// # Errors
/// When the file cannot be opened or its footer read.
pub fn has_binary(path: &Path, columns: &[&str]) -> Result<bool> {
    let mut input = bytes::Input::open(path)?;
    match input.format()? {
        bytes::Format::Parquet => parquet::has_binary(&input, columns),
        _ => Ok(false),
    }
}
