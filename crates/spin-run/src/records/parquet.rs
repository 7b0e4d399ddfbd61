//! Parquet, of any codec, column by column and a few rows at a time.

use std::fs::File;

use parquet::arrow::ProjectionMask;
use parquet::basic::{Encoding, Type};
use parquet::column::page::Page;
use parquet::file::reader::FileReader;
use parquet::file::serialized_reader::SerializedFileReader;

use super::arrow::{guarded, hand_out, holds_bytes};
use super::bytes::Input;
use super::{Budget, Each};
use spin_store::error::{Result, StoreError};
use spin_store::pages::Pages;

/// Rows that are decoded at once.
const BATCH_ROWS: usize = 1024;
/// The same where the file does not bound the length of values.
const DELTA_ROWS: usize = 16;
/// Bytes that the values of one batch may come to.
const BATCH_BYTES: u64 = 64 << 20;

fn damaged(input: &Input, e: &dyn std::fmt::Display) -> StoreError {
    StoreError::unreadable(&input.path, "Parquet", e)
}

fn file(input: &Input) -> Result<File> {
    input.file.try_clone().map_err(StoreError::io("read", &input.path))
}

pub(super) fn has_binary(input: &Input, columns: &[&str]) -> Result<bool> {
    let file = file(input)?;
    let pages = guarded(|| Pages::open(file)).map_err(|e| damaged(input, &e))?.map_err(|e| damaged(input, &e))?;
    let fields = pages.schema().fields();
    Ok(fields.iter().any(|f| columns.contains(&f.name().as_str()) && holds_bytes(f.data_type())))
}

pub(super) fn read(input: Input, wanted: &[&str], budget: &mut Budget, each: &mut Each) -> Result<String> {
    let handle = file(&input)?;
    let pages = guarded(|| Pages::open(handle)).map_err(|e| damaged(&input, &e))?.map_err(|e| damaged(&input, &e))?;
    let schema = pages.schema().clone();
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    super::unique(&input.path, &names, wanted)?;
    let mask = if wanted.is_empty() {
        ProjectionMask::all()
    } else {
        let roots = schema.fields().iter().enumerate().filter(|(_, f)| wanted.contains(&f.name().as_str()));
        ProjectionMask::roots(pages.parquet_schema(), roots.map(|(i, _)| i).collect::<Vec<_>>())
    };
    let rows = guarded(|| batch_rows(&input, &mask, budget)).map_err(|e| damaged(&input, &e))??;
    let mut reader =
        guarded(|| pages.rows(mask, rows)).map_err(|e| damaged(&input, &e))?.map_err(|e| damaged(&input, &e))?;
    let mut first = 0;
    while let Some(batch) = guarded(|| reader.next()).map_err(|e| damaged(&input, &e))? {
        let batch = batch.map_err(|e| damaged(&input, &e))?;
        if !hand_out(&input, &schema, &batch, first, budget, each)? {
            break;
        }
        first += batch.num_rows();
    }
    drop(reader);
    input.finish()
}

/// How many rows may be decoded at once. A dictionary's value can stand for
/// any number of rows at the cost of some bits, so the longest decides; and a
/// column chunk of more values than the budget has bytes is refused.
fn batch_rows(input: &Input, mask: &ProjectionMask, budget: &Budget) -> Result<usize> {
    let failed = |e: parquet::errors::ParquetError| damaged(input, &e);
    let file = SerializedFileReader::new(file(input)?).map_err(failed)?;
    let metadata = file.metadata();
    let mut rows = BATCH_ROWS;
    for group in 0..metadata.num_row_groups() {
        let group_reader = file.get_row_group(group).map_err(failed)?;
        let group = metadata.row_group(group);
        for (leaf, column) in group.columns().iter().enumerate() {
            if !mask.leaf_included(leaf) {
                continue;
            }
            let values = u64::try_from(column.num_values()).unwrap_or(u64::MAX);
            if values.saturating_mul(8) > budget.total && values > u64::try_from(group.num_rows()).unwrap_or(0) {
                return Err(budget.exceeded(&input.path));
            }
            let text = matches!(column.column_type(), Type::BYTE_ARRAY | Type::FIXED_LEN_BYTE_ARRAY);
            if text && column.encodings().any(|e| e == Encoding::DELTA_BYTE_ARRAY) {
                // Each value may repeat the beginning of the one before it.
                rows = rows.min(DELTA_ROWS);
            }
            if !text || column.dictionary_page_offset().is_none() {
                continue;
            }
            let mut pages = group_reader.get_column_page_reader(leaf).map_err(failed)?;
            if let Some(Page::DictionaryPage { buf, .. }) = pages.get_next_page().map_err(failed)? {
                let longest = longest_value(&buf).max(1) as u64;
                rows = rows.min(usize::try_from(BATCH_BYTES / longest).unwrap_or(BATCH_ROWS)).max(1);
            }
        }
    }
    Ok(rows)
}

/// Length of the longest value of a dictionary page: each has its length, in
/// four bytes, before it.
fn longest_value(mut page: &[u8]) -> usize {
    let mut longest = 0;
    while let Some((length, rest)) = page.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        longest = longest.max(length.min(rest.len()));
        page = rest.get(length..).unwrap_or_default();
    }
    longest
}
