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
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;

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
    fsutil::write_atomic(path, &bytes)
}

/// Reads a whole part.
///
/// # Errors
/// When it is missing, truncated or not Parquet.
pub fn read_any(path: &Path) -> Result<RecordBatch> {
    let damaged = |e: &dyn std::fmt::Display| {
        StoreError::corrupt(path, format!("cannot be read as Parquet ({e})"), "is it complete? copy or make it again")
    };
    let file = File::open(path).map_err(StoreError::io("open", path))?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| damaged(&e))?;
    let schema = builder.schema().clone();
    let reader = builder.build().map_err(|e| damaged(&e))?;
    let batches = reader.collect::<Result<Vec<_>, _>>().map_err(|e| damaged(&e))?;
    concat_batches(&schema, &batches).map_err(|e| damaged(&e))
}

/// Reads a part that must have exactly the columns of `schema`.
///
/// # Errors
/// As [`read_any`], and when a column is missing or of another type.
pub fn read(path: &Path, schema: &Arc<Schema>) -> Result<RecordBatch> {
    let batch = read_any(path)?;
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
