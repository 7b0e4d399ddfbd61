//! What tells the rows of a table apart.

use std::collections::HashSet;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, UInt32Type};

use spin_store::error::{Result, StoreError};
use spin_store::{Artifact, Kind, table};

/// The columns whose values no two rows of a table share; none for kinds whose
/// rows are told apart by their place.
pub fn key(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Demonstrations | Kind::Preferences | Kind::Requests => &["row_id"],
        Kind::Samples => &["row_id", "sample_index"],
        Kind::Pairs | Kind::Reference => &["row_id", "iteration", "sample_index"],
        Kind::Scores => &["task", "metric", "row_id"],
        Kind::Evaluations => &["task", "doc_id"],
        Kind::Judgments => &["question_id", "turn"],
        Kind::Overlaps => &["how", "row_id", "column", "against", "document"],
        Kind::Metrics | Kind::Model => &[],
    }
}

/// Rows of a table that stand twice, by their key: the first, and how many.
///
/// # Errors
/// When a part cannot be read.
pub fn doubled(artifact: &Artifact) -> Result<Option<StoreError>> {
    let columns = key(artifact.manifest.kind);
    if columns.is_empty() {
        return Ok(None);
    }
    // Digests of them: a table may have more keys than memory.
    let (mut seen, mut first, mut count): (HashSet<[u8; 16]>, _, u64) = (HashSet::new(), None, 0);
    for path in artifact.unverified_parts() {
        // Tables of other programs and releases may have other columns.
        let Ok(batch) = table::read_columns(&path, columns) else { return Ok(None) };
        for row in 0..batch.num_rows() {
            let Some(values) = values(&batch, columns, row) else { return Ok(None) };
            let mut key = [0; 16];
            key.copy_from_slice(&blake3::hash(&values).as_bytes()[..16]);
            if !seen.insert(key) {
                count += 1;
                first.get_or_insert((path.clone(), row));
            }
        }
    }
    Ok(first.map(|(path, row)| {
        let what = format!("has the {} of a row before it, as {} rows in all", columns.join(", "), count);
        let remedy =
            format!("make {} again from its inputs; what was made from it counts rows twice", artifact.reference());
        StoreError::row(&path, row, what, remedy)
    }))
}

/// The values of a row in these columns, each ended by a byte that no text has.
pub(crate) fn values(batch: &RecordBatch, columns: &[&str], row: usize) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    for name in columns {
        let column = batch.column_by_name(name)?;
        match column.data_type() {
            DataType::Utf8 => out.extend_from_slice(column.as_string::<i32>().value(row).as_bytes()),
            DataType::UInt32 => {
                out.extend_from_slice(column.as_primitive::<UInt32Type>().value(row).to_string().as_bytes());
            }
            _ => return None,
        }
        out.push(0xff);
    }
    Some(out)
}
