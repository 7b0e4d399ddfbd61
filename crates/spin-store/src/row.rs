//! What the rows of tables can do.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::Schema;

use crate::artifact::Artifact;
use crate::error::{Result, StoreError};
use crate::fsutil;
use crate::kind::Kind;
use crate::table::{self, PartLabel};

/// A type of row that is stored as a table of one kind.
pub trait Row: Sized {
    /// The kind whose parts hold these rows.
    const KIND: Kind;
    /// Version of the columns.
    const SCHEMA_VERSION: u32;
    /// The columns.
    fn schema() -> Arc<Schema>;
    /// Rows as columns.
    fn to_columns(rows: &[Self]) -> Vec<ArrayRef>;
    /// Columns as rows; the batch has the schema's columns in order.
    fn from_batch(batch: &RecordBatch) -> Vec<Self>;

    /// Writes one part atomically.
    ///
    /// # Errors
    /// When it cannot be written.
    fn write_part(path: &Path, rows: &[Self], identity: &str, part: usize) -> Result<()> {
        fsutil::write_atomic(path, &Self::encode_part(path, rows, identity, part)?)
    }

    /// The bytes that [`write_part`](Row::write_part) writes; `path` is for
    /// messages.
    ///
    /// # Errors
    /// When they cannot be encoded.
    fn encode_part(path: &Path, rows: &[Self], identity: &str, part: usize) -> Result<Vec<u8>> {
        let batch = RecordBatch::try_new(Self::schema(), Self::to_columns(rows))
            .map_err(|e| StoreError::corrupt(path, format!("rows do not fit their schema ({e})"), "report it"))?;
        let label =
            PartLabel { kind: Self::KIND.dir(), schema_version: Self::SCHEMA_VERSION, identity: identity.into(), part };
        table::encode(path, &batch, &label)
    }

    /// Reads one part.
    ///
    /// # Errors
    /// When it is missing, damaged or has other columns.
    fn read_part(path: &Path) -> Result<Vec<Self>> {
        Ok(Self::from_batch(&table::read(path, &Self::schema(), Self::SCHEMA_VERSION)?))
    }

    /// Verifies an artifact and reads all its rows in order.
    ///
    /// # Errors
    /// When a file differs from the manifest or cannot be read.
    fn read_all(artifact: &Artifact) -> Result<Vec<Self>> {
        let artifact = artifact.verified()?;
        let mut rows = Vec::new();
        for part in artifact.parts() {
            rows.extend(Self::read_part(&part)?);
        }
        Ok(rows)
    }
}

/// A table of numbers, for the tests of this crate.
#[cfg(test)]
pub(crate) mod numbers {
    use arrow::array::{AsArray, UInt32Array};
    use arrow::datatypes::{DataType, Field, UInt32Type};

    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    pub struct Number(pub u32);

    impl Row for Number {
        const KIND: Kind = Kind::Reference;
        const SCHEMA_VERSION: u32 = 1;

        fn schema() -> Arc<Schema> {
            Arc::new(Schema::new(vec![Field::new("number", DataType::UInt32, false)]))
        }

        fn to_columns(rows: &[Self]) -> Vec<ArrayRef> {
            vec![Arc::new(UInt32Array::from_iter_values(rows.iter().map(|row| row.0)))]
        }

        fn from_batch(batch: &RecordBatch) -> Vec<Self> {
            batch.column(0).as_primitive::<UInt32Type>().values().iter().map(|number| Number(*number)).collect()
        }
    }
}
