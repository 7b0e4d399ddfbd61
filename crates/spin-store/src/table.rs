//! Parquet parts: writing them reproducibly, reading them strictly.
//!
//! Equal rows give equal bytes: the writer's name is fixed, nothing
//! time-dependent is stored, and a part is one record batch. Because a later
//! Parquet library may encode differently, [`rows_digest`] also hashes the
//! values themselves.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int32Type, Int64Type, Schema, UInt32Type, UInt64Type};
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::arrow::{ArrowWriter, ProjectionMask};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::reader::ChunkReader;

use crate::error::{Result, StoreError};
use crate::fsutil;

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
    writer.write(batch).map_err(failed)?;
    writer.close().map_err(failed)?;
    Ok(bytes)
}

/// Reads a whole part.
///
/// # Errors
/// When it is missing, truncated or not Parquet.
pub fn read_any(path: &Path) -> Result<RecordBatch> {
    let file = File::open(path).map_err(StoreError::io("open", path))?;
    Ok(batch_of(path, file)?.0)
}

/// Some columns of a part.
///
/// # Errors
/// As [`read_any`], and when it has no such column.
pub fn read_columns(path: &Path, names: &[&str]) -> Result<RecordBatch> {
    let damaged = |e: &dyn std::fmt::Display| StoreError::unreadable(path, "Parquet", e);
    let file = File::open(path).map_err(StoreError::io("open", path))?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| damaged(&e))?;
    let schema = builder.schema().project(
        &names
            .iter()
            .map(|name| builder.schema().index_of(name).map_err(|e| damaged(&e)))
            .collect::<Result<Vec<_>>>()?,
    );
    let schema = Arc::new(schema.map_err(|e| damaged(&e))?);
    let mask = ProjectionMask::columns(builder.parquet_schema(), names.iter().copied());
    let reader = builder.with_projection(mask).build().map_err(|e| damaged(&e))?;
    let batches = reader.collect::<Result<Vec<_>, _>>().map_err(|e| damaged(&e))?;
    let found = batches.first().map_or_else(|| schema.clone(), |batch| batch.schema());
    concat_batches(&found, &batches).map_err(|e| damaged(&e))
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

/// The rows of a part, and what its metadata says.
fn batch_of<T: ChunkReader + 'static>(path: &Path, input: T) -> Result<(RecordBatch, Vec<KeyValue>)> {
    let damaged = |e: &dyn std::fmt::Display| StoreError::unreadable(path, "Parquet", e);
    let builder = ParquetRecordBatchReaderBuilder::try_new(input).map_err(|e| damaged(&e))?;
    let metadata = builder.metadata().file_metadata().key_value_metadata().cloned().unwrap_or_default();
    let schema = builder.schema().clone();
    let reader = builder.build().map_err(|e| damaged(&e))?;
    let batches = reader.collect::<Result<Vec<_>, _>>().map_err(|e| damaged(&e))?;
    let batch = concat_batches(&schema, &batches).map_err(|e| damaged(&e))?;
    Ok((batch, metadata))
}

fn said<'a>(metadata: &'a [KeyValue], key: &str) -> Option<&'a str> {
    metadata.iter().find(|entry| entry.key == key)?.value.as_deref()
}

/// Reads a part that must have exactly the columns of `schema`, written under
/// `version` of them or an earlier one.
///
/// # Errors
/// As [`read_any`], and when a column is missing or of another type.
pub fn read(path: &Path, schema: &Arc<Schema>, version: u32) -> Result<RecordBatch> {
    let file = File::open(path).map_err(StoreError::io("open", path))?;
    let (batch, metadata) = batch_of(path, file)?;
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
    let (batch, metadata) = batch_of(path, Bytes::from(bytes))?;
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
    let builder =
        ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| StoreError::unreadable(path, "Parquet", &e))?;
    let said = builder.metadata().file_metadata().key_value_metadata().into_iter().flatten();
    let own = said.filter(|entry| entry.key.starts_with("spin."));
    Ok(own.filter_map(|entry| Some((entry.key.clone(), entry.value.clone()?))).collect())
}

/// Number of rows and digest over the values of a part: column names, types
/// and every value, lengths as 64-bit little-endian, nulls marked.
///
/// # Errors
/// When the part cannot be read.
pub fn rows_digest(path: &Path) -> Result<(u64, String)> {
    let batch = read_any(path)?;
    let mut hasher = blake3::Hasher::new();
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        hash_text(&mut hasher, field.name());
        hash_text(&mut hasher, &field.data_type().to_string());
        hash_array(&mut hasher, column.as_ref()).map_err(|t| {
            StoreError::corrupt(
                path,
                format!("column {:?} has type {t}, which has no digest rule", field.name()),
                "report it",
            )
        })?;
    }
    Ok((batch.num_rows() as u64, hasher.finalize().to_hex().to_string()))
}

fn hash_text(hasher: &mut blake3::Hasher, text: &str) {
    hasher.update(&(text.len() as u64).to_le_bytes());
    hasher.update(text.as_bytes());
}

/// Hashes values in order; `Err` is the type without a rule.
fn hash_array(hasher: &mut blake3::Hasher, array: &dyn Array) -> Result<(), DataType> {
    hasher.update(&(array.len() as u64).to_le_bytes());
    if array.null_count() > 0 {
        for i in 0..array.len() {
            hasher.update(&[u8::from(array.is_null(i))]);
        }
    } else {
        hasher.update(b"no nulls");
    }
    macro_rules! primitive {
        ($t:ty) => {
            for v in array.as_primitive::<$t>().iter() {
                hasher.update(&v.unwrap_or_default().to_le_bytes());
            }
        };
    }
    match array.data_type() {
        DataType::Utf8 => {
            for v in array.as_string::<i32>().iter() {
                hash_text(hasher, v.unwrap_or_default());
            }
        }
        DataType::Boolean => {
            for v in array.as_boolean().iter() {
                hasher.update(&[u8::from(v.unwrap_or_default())]);
            }
        }
        DataType::Int32 => primitive!(Int32Type),
        DataType::Int64 => primitive!(Int64Type),
        DataType::UInt32 => primitive!(UInt32Type),
        DataType::UInt64 => primitive!(UInt64Type),
        DataType::Float32 => primitive!(Float32Type),
        DataType::Float64 => primitive!(Float64Type),
        DataType::List(_) => {
            for item in array.as_list::<i32>().iter() {
                match item {
                    Some(values) => hash_array(hasher, values.as_ref())?,
                    None => {
                        hasher.update(b"null");
                    }
                }
            }
        }
        DataType::Struct(_) => {
            for column in array.as_struct().columns() {
                hash_array(hasher, column.as_ref())?;
            }
        }
        other => return Err(other.clone()),
    }
    Ok(())
}
