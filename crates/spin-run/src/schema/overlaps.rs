//! What a table shares with others and with itself.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::Schema;

use super::{Columns, Row, f64_field, f64s, strings, utf8};
use spin_store::kind::Kind;

/// A text of a table that stands elsewhere, too.
#[derive(Clone, Debug, PartialEq)]
pub struct Overlap {
    /// `exact`, `ngram` or `near`.
    pub how: String,
    /// The row; of samples and pairs with what tells rows of one id apart.
    pub row_id: String,
    /// Its column; empty where it is the whole row.
    pub column: String,
    /// The table or files that have it.
    pub against: String,
    /// The row or document there.
    pub document: String,
    /// The words that are shared, or the beginning of the text.
    pub text: String,
    /// From 0 to 1: share of the text's runs of words, or of both rows' runs.
    pub similarity: f64,
}

impl Row for Overlap {
    const KIND: Kind = Kind::Overlaps;
    const SCHEMA_VERSION: u32 = 1;

    fn schema() -> Arc<Schema> {
        let texts = ["how", "row_id", "column", "against", "document", "text"].map(utf8);
        Arc::new(Schema::new(texts.into_iter().chain([f64_field("similarity")]).collect::<Vec<_>>()))
    }

    fn to_columns(rows: &[Self]) -> Vec<ArrayRef> {
        let texts = |of: fn(&Self) -> &str| strings(rows.iter().map(of));
        vec![
            texts(|row| &row.how),
            texts(|row| &row.row_id),
            texts(|row| &row.column),
            texts(|row| &row.against),
            texts(|row| &row.document),
            texts(|row| &row.text),
            f64s(rows.iter().map(|row| row.similarity)),
        ]
    }

    fn from_batch(batch: &RecordBatch) -> Vec<Self> {
        let c = Columns(batch);
        c.rows(|i| Overlap {
            how: c.text(0, i),
            row_id: c.text(1, i),
            column: c.text(2, i),
            against: c.text(3, i),
            document: c.text(4, i),
            text: c.text(5, i),
            similarity: c.f64(6, i),
        })
    }
}
