//! Artifacts as others read them: data sets in the layouts of TRL and of
//! `UCLA-AGI/SPIN_iter*`, with a card and Croissant metadata; models as plain
//! directories.

mod card;
mod rows;

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde_json::json;

use crate::schema::{Message, message_lists, messages_field};
use spin_store::error::{Result, StoreError};
use spin_store::{Artifact, Kind, digest, fsutil};

/// Rows that are in memory at once.
const ROWS_AT_ONCE: usize = 4096;

/// How a data set is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Columns of TRL's conversational types: `prompt`, `chosen`, `rejected` of pairs and
    /// preferences, `prompt`, `completion` of demonstrations; Parquet.
    Trl,
    /// Columns of the published data of the paper, `real` and `generated`, each a whole
    /// conversation; of demonstrations with no generated answer yet; Parquet.
    Spin,
    /// As [`Layout::Trl`], as JSON lines.
    Jsonl,
}

/// A data set to write: columns of messages.
struct Table {
    columns: &'static [&'static str],
    rows: Box<dyn Iterator<Item = Result<Vec<Vec<Message>>>>>,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// Rows of a data set.
    pub rows: u64,
    /// Bytes of data or weights.
    pub bytes: u64,
}

/// The directory to fill, which must not be there: what is in it is what was written.
fn fresh(out: &Path) -> Result<tempfile::TempDir> {
    if out.exists() {
        return Err(StoreError::corrupt(out, "is there already", "give another directory, or remove it"));
    }
    let dir = out.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fsutil::create_dir_all(dir)?;
    let mode = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
    let builder = tempfile::Builder::new().prefix(".export-").permissions(mode).tempdir_in(dir);
    builder.map_err(StoreError::io("create a directory in", dir))
}

fn settle(staged: tempfile::TempDir, out: &Path) -> Result<()> {
    fs::rename(staged.path(), out).map_err(StoreError::io("rename into", out))?;
    let _ = staged.keep();
    Ok(())
}

/// Writes a data set with its card into a new directory.
///
/// # Errors
/// When the artifact is damaged or of a kind that has no such layout, or the directory
/// is there or cannot be written.
pub fn dataset(artifact: &Artifact, layout: Layout, out: &Path) -> Result<Exported> {
    let table = rows::of(artifact, layout)?;
    let staged = fresh(out)?;
    let data = staged.path().join("data");
    fsutil::create_dir_all(&data)?;
    let (name, columns) = match layout {
        Layout::Jsonl => ("data/train.jsonl", table.columns),
        Layout::Trl | Layout::Spin => ("data/train-00000-of-00001.parquet", table.columns),
    };
    let path = staged.path().join(name);
    let rows = match layout {
        Layout::Jsonl => write_lines(&path, table)?,
        Layout::Trl | Layout::Spin => write_parquet(&path, table)?,
    };
    let digests = digest::both_of_file(&path)?;
    let bytes = digests.bytes;
    let described = card::Described { artifact, layout, columns, rows, file: name, digests };
    let write = |name: &str, text: String| fsutil::write_atomic(&staged.path().join(name), text.as_bytes());
    write("README.md", described.readme())?;
    write("croissant.json", described.croissant())?;
    settle(staged, out)?;
    Ok(Exported { rows, bytes })
}

/// Writes a model into a new directory, as it was imported or trained: without its
/// manifest it is a plain Hugging Face directory.
///
/// # Errors
/// When the artifact is damaged or no model, or the directory is there or cannot be
/// written.
pub fn model(artifact: &Artifact, out: &Path) -> Result<Exported> {
    if artifact.manifest.kind != Kind::Model {
        let problem = format!("is of the kind {}, not a model", artifact.manifest.kind);
        return Err(StoreError::corrupt(artifact.place(), problem, "export a data set as trl, spin or jsonl"));
    }
    let verified = artifact.verified()?;
    let staged = fresh(out)?;
    for file in &verified.manifest.files {
        let (from, to) = (verified.dir().join(&file.path), staged.path().join(&file.path));
        fsutil::create_dir_all(to.parent().unwrap_or(staged.path()))?;
        fs::copy(&from, &to).map_err(StoreError::io("copy", &from))?;
        fsutil::sync_file(&to)?;
    }
    settle(staged, out)?;
    Ok(Exported { rows: 0, bytes: artifact.manifest.bytes() })
}

fn write_parquet(path: &Path, table: Table) -> Result<u64> {
    let failed = |e: parquet::errors::ParquetError| StoreError::unreadable(path, "Parquet", &e);
    let schema = Arc::new(Schema::new(table.columns.iter().map(|name| messages_field(name)).collect::<Vec<_>>()));
    let properties = WriterProperties::builder()
        .set_created_by("spin-store 1".into())
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .build();
    let file = File::create(path).map_err(StoreError::io("create", path))?;
    let mut writer = ArrowWriter::try_new(BufWriter::new(file), schema.clone(), Some(properties)).map_err(failed)?;
    let (mut rows, mut count) = (table.rows, 0);
    loop {
        let some: Vec<Vec<Vec<Message>>> = rows.by_ref().take(ROWS_AT_ONCE).collect::<Result<_>>()?;
        if some.is_empty() {
            break;
        }
        count += some.len() as u64;
        let column = |at: usize| message_lists(some.iter().map(|row| row[at].as_slice()));
        let batch = RecordBatch::try_new(schema.clone(), (0..table.columns.len()).map(column).collect());
        let batch = batch.map_err(|e| StoreError::corrupt(path, format!("cannot be encoded ({e})"), "report it"))?;
        writer.write(&batch).map_err(failed)?;
    }
    writer.close().map_err(failed)?;
    fsutil::sync_file(path)?;
    Ok(count)
}

fn write_lines(path: &Path, table: Table) -> Result<u64> {
    let file = File::create(path).map_err(StoreError::io("create", path))?;
    let (mut out, mut count) = (BufWriter::new(file), 0);
    for row in table.rows {
        let told = |messages: &Vec<Message>| {
            messages.iter().map(|m| json!({"role": m.role, "content": m.content})).collect::<serde_json::Value>()
        };
        let row = row?;
        let columns = table.columns.iter().zip(row.iter().map(told)).map(|(name, value)| ((*name).to_owned(), value));
        let line = serde_json::Value::Object(columns.collect());
        writeln!(out, "{line}").map_err(StoreError::io("write", path))?;
        count += 1;
    }
    out.flush().map_err(StoreError::io("write", path))?;
    fsutil::sync_file(path)?;
    Ok(count)
}
