//! Parquet parts: writing them reproducibly, reading them strictly.
//!
//! Equal rows give equal bytes: the writer's name is fixed, nothing
//! time-dependent is stored, and a part is one record batch. Because a later
//! Parquet library may encode differently, [`rows_digest`] also hashes the
//! values themselves.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, RecordBatchReader};
use arrow::compute::concat_batches;
use arrow::datatypes::Schema;
use bytes::Bytes;
use parquet::arrow::arrow_writer::{ArrowColumnWriter, ArrowLeafColumn, compute_leaves};
use parquet::arrow::{ArrowWriter, ProjectionMask};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{DEFAULT_MAX_ROW_GROUP_ROW_COUNT, WriterProperties};
use parquet::file::reader::ChunkReader;
use rayon::prelude::*;

use crate::error::{Result, StoreError};
use crate::fsutil;
use crate::pages::Pages;
use crate::values::Values;

/// Rows that are decoded in one go, at most: a table's then need not be copied together.
const ROWS_AT_ONCE: usize = 1 << 20;

/// Stands in `created_by` in place of the Parquet library's version.
const CREATED_BY: &str = "spin-store 1";

/// What a stray part file says about itself, in its key-value metadata.
#[derive(Clone, Debug)]
pub struct PartLabel {
    /// Kind, e.g. `samples`.
    pub kind: &'static str,
    /// Version of the kind's schema.
    pub schema_version: u32,
    /// Identity of the artifact it belongs to.
    pub identity: String,
    /// Position among the artifact's parts.
    pub part: usize,
}

/// Name of the n-th part.
pub fn part_name(index: usize) -> String {
    format!("part-{index:05}.parquet")
}

/// Writes one part atomically.
///
/// # Errors
/// When the file cannot be written; nothing is then left under its name.
pub fn write(path: &Path, batch: &RecordBatch, label: &PartLabel) -> Result<()> {
    fsutil::write_atomic(path, &encode(path, batch, label)?)
}

/// The bytes of one part; `path` is for messages.
///
/// # Errors
/// When the batch cannot be encoded.
pub fn encode(path: &Path, batch: &RecordBatch, label: &PartLabel) -> Result<Vec<u8>> {
    let metadata = [
        ("spin.kind", label.kind.to_owned()),
        ("spin.schema_version", label.schema_version.to_string()),
        ("spin.identity", label.identity.clone()),
        ("spin.part", label.part.to_string()),
    ];
    let metadata = metadata.into_iter().map(|(k, v)| KeyValue::new(k.to_owned(), v)).collect();
    let properties = WriterProperties::builder()
        .set_created_by(CREATED_BY.into())
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_key_value_metadata(Some(metadata))
        .build();
    let mut bytes = Vec::new();
    let failed =
        |e: parquet::errors::ParquetError| StoreError::corrupt(path, format!("cannot be encoded ({e})"), "report it");
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).map_err(failed)?;
    if batch.num_rows() == 0 || batch.num_rows() > DEFAULT_MAX_ROW_GROUP_ROW_COUNT {
        writer.write(batch).map_err(failed)?;
        writer.close().map_err(failed)?;
        return Ok(bytes);
    }
    // What the writer does with the rows of one group, its columns beside each other.
    let (mut file, groups) = writer.into_serialized_writer().map_err(failed)?;
    let mut writers = groups.create_column_writers(0).map_err(failed)?.into_iter();
    let mut leaves = Vec::new();
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        leaves.extend(compute_leaves(field, column).map_err(failed)?.into_iter().zip(&mut writers));
    }
    let encode = |(leaf, mut writer): (ArrowLeafColumn, ArrowColumnWriter)| {
        writer.write(&leaf)?;
        writer.close()
    };
    let chunks: Vec<_> = leaves.into_par_iter().map(encode).collect::<Result<_, _>>().map_err(failed)?;
    let mut group = file.next_row_group().map_err(failed)?;
    for chunk in chunks {
        chunk.append_to_row_group(&mut group).map_err(failed)?;
    }
    group.close().map_err(failed)?;
    file.close().map_err(failed)?;
    Ok(bytes)
}

/// Reads a whole part.
///
/// # Errors
/// When it is missing, truncated or not Parquet.
pub fn read_any(path: &Path) -> Result<RecordBatch> {
    let file = File::open(path).map_err(StoreError::io("open", path))?;
    Ok(batch_of(path, file, None)?.0)
}

/// Some columns of a part.
///
/// # Errors
/// As [`read_any`], and when it has no such column.
pub fn read_columns(path: &Path, names: &[&str]) -> Result<RecordBatch> {
    let damaged = |e: &dyn std::fmt::Display| StoreError::unreadable(path, "Parquet", e);
    let file = File::open(path).map_err(StoreError::io("open", path))?;
    let pages = Pages::open(file).map_err(|e| damaged(&e))?;
    let column = |name: &&str| pages.schema().index_of(name).map_err(|e| damaged(&e));
    let columns = names.iter().map(column).collect::<Result<Vec<_>>>()?;
    let mask = ProjectionMask::roots(pages.parquet_schema(), columns);
    whole(path, &pages, mask)
}

/// The values of a column of texts of a part that was read from `path`.
///
/// # Errors
/// When there is no such column, or it is of another type or has nulls.
pub fn texts<'a>(batch: &'a RecordBatch, name: &str, path: &Path) -> Result<impl Iterator<Item = &'a str>> {
    let column = batch.column_by_name(name).and_then(|column| column.as_string_opt::<i32>());
    let column = column.filter(|column| column.null_count() == 0).ok_or_else(|| {
        StoreError::corrupt(path, format!("has no texts in column {name:?}"), "make the table again with its stage")
    })?;
    Ok(column.iter().flatten())
}

/// The rows of a part, and what its metadata says; only columns of `wanted`, where
/// that is given.
fn batch_of<T: ChunkReader + 'static>(
    path: &Path,
    input: T,
    wanted: Option<&Schema>,
) -> Result<(RecordBatch, Vec<KeyValue>)> {
    let damaged = |e: &dyn std::fmt::Display| StoreError::unreadable(path, "Parquet", e);
    let pages = Pages::open(input).map_err(|e| damaged(&e))?;
    let metadata = pages.metadata().file_metadata().key_value_metadata().cloned().unwrap_or_default();
    let mut mask = ProjectionMask::all();
    if let Some(wanted) = wanted {
        let fields = pages.schema().fields().iter().enumerate();
        let roots = fields.filter(|(_, field)| wanted.index_of(field.name()).is_ok()).map(|(column, _)| column);
        mask = ProjectionMask::roots(pages.parquet_schema(), roots.collect::<Vec<_>>());
    }
    Ok((whole(path, &pages, mask)?, metadata))
}

/// All rows that a reader gives, as one batch.
fn whole<T: ChunkReader + 'static>(path: &Path, pages: &Pages<T>, mask: ProjectionMask) -> Result<RecordBatch> {
    let damaged = |e: &dyn std::fmt::Display| StoreError::unreadable(path, "Parquet", e);
    let reader = pages.rows(mask, ROWS_AT_ONCE).map_err(|e| damaged(&e))?;
    let schema = reader.schema();
    let batches = reader.collect::<Result<Vec<_>, _>>().map_err(|e| damaged(&e))?;
    // Of one batch this is the batch itself.
    concat_batches(&schema, &batches).map_err(|e| damaged(&e))
}

fn said<'a>(metadata: &'a [KeyValue], key: &str) -> Option<&'a str> {
    metadata.iter().find(|entry| entry.key == key)?.value.as_deref()
}

/// Reads the columns of `schema` of a part, all of which it must have, written under
/// `version` of them or an earlier one.
///
/// # Errors
/// As [`read_any`], and when a column is missing or of another type.
pub fn read(path: &Path, schema: &Arc<Schema>, version: u32) -> Result<RecordBatch> {
    let file = File::open(path).map_err(StoreError::io("open", path))?;
    let (batch, metadata) = batch_of(path, file, Some(schema))?;
    fit(path, &batch, &metadata, schema, version)
}

/// The same of a part in memory, which must say of itself that it is part
/// `part` of an artifact of this identity; `path` is for messages.
///
/// # Errors
/// As [`read`], and when it says something else.
pub fn read_labelled(
    path: &Path,
    bytes: Vec<u8>,
    schema: &Arc<Schema>,
    version: u32,
    (identity, part): (&str, usize),
) -> Result<RecordBatch> {
    let (batch, metadata) = batch_of(path, Bytes::from(bytes), Some(schema))?;
    for (key, expected) in [("spin.identity", identity), ("spin.part", &part.to_string())] {
        let found = said(&metadata, key).unwrap_or("nothing");
        if found != expected {
            let problem = format!("says {key} = {found}, it should say {expected}");
            return Err(StoreError::corrupt(path, problem, "remove it"));
        }
    }
    fit(path, &batch, &metadata, schema, version)
}

fn fit(
    path: &Path,
    batch: &RecordBatch,
    metadata: &[KeyValue],
    schema: &Arc<Schema>,
    version: u32,
) -> Result<RecordBatch> {
    let found = said(metadata, "spin.schema_version").and_then(|found| found.parse().ok());
    if let Some(found) = found.filter(|found| *found > version) {
        return Err(StoreError::TooNew { path: path.into(), found, known: version });
    }
    let mut columns = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        let remedy = "make the table again with its stage";
        let Some(column) = batch.column_by_name(field.name()) else {
            return Err(StoreError::corrupt(path, format!("has no column {:?}", field.name()), remedy));
        };
        if !column.data_type().equals_datatype(field.data_type()) {
            let problem =
                format!("column {:?} has type {}, expected {}", field.name(), column.data_type(), field.data_type());
            return Err(StoreError::corrupt(path, problem, remedy));
        }
        if !field.is_nullable() && column.null_count() > 0 {
            let row = (0..column.len()).find(|&i| column.is_null(i)).unwrap_or(0);
            return Err(StoreError::row(path, row, format!("column {:?} is null", field.name()), remedy));
        }
        columns.push(column.clone());
    }
    RecordBatch::try_new(schema.clone(), columns)
        .map_err(|e| StoreError::corrupt(path, format!("does not fit its schema ({e})"), "make it again"))
}

/// What a part says of itself, of what [`PartLabel`] has, by key; parts of other
/// programs say nothing.
///
/// # Errors
/// When it is missing, truncated or not Parquet.
pub fn label(path: &Path) -> Result<Vec<(String, String)>> {
    let file = File::open(path).map_err(StoreError::io("open", path))?;
    let pages = Pages::open(file).map_err(|e| StoreError::unreadable(path, "Parquet", &e))?;
    let said = pages.metadata().file_metadata().key_value_metadata().into_iter().flatten();
    let own = said.filter(|entry| entry.key.starts_with("spin."));
    Ok(own.filter_map(|entry| Some((entry.key.clone(), entry.value.clone()?))).collect())
}

/// Number of rows and digest over the values of a part: column names, types
/// and every value, lengths as 64-bit little-endian, nulls marked. One column is in
/// memory at a time.
///
/// # Errors
/// When the part cannot be read.
pub fn rows_digest(path: &Path) -> Result<(u64, String)> {
    let damaged = |e: &dyn std::fmt::Display| StoreError::unreadable(path, "Parquet", e);
    let file = File::open(path).map_err(StoreError::io("open", path))?;
    let pages = Pages::open(file).map_err(|e| damaged(&e))?;
    let (mut rows, mut values) = (0, Values::default());
    for (column, field) in pages.schema().fields().iter().enumerate() {
        let batch = whole(path, &pages, ProjectionMask::roots(pages.parquet_schema(), [column]))?;
        rows = batch.num_rows();
        values.field(field, batch.column(0)).map_err(|t| {
            StoreError::corrupt(
                path,
                format!("column {:?} has type {t}, which has no digest rule", field.name()),
                "report it",
            )
        })?;
    }
    Ok((rows as u64, values.digest()))
}
