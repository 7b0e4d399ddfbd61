//! The rows of each kind of table, and their Arrow schemas.
//!
//! Column names and layouts are a promise to other programs (polars, DuckDB,
//! pandas, the datasets library), so a change means a new schema version.

mod evaluations;
mod judgments;
pub mod keys;
pub mod metrics;
mod overlaps;
mod pairs;
mod preferences;
mod samples;
pub mod turns;

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, ListArray, ListBuilder, RecordBatch, StringArray, StringBuilder,
    UInt32Array, UInt32Builder,
};
use arrow::datatypes::{DataType, Field, Fields, Float64Type, Schema, UInt32Type};
use spin_store::Kind;

pub use evaluations::{EvaluationRow, RequestRow};
pub use judgments::Judgment;
pub use metrics::MetricsRow;
pub use overlaps::Overlap;
pub use pairs::{Pair, PairColumns, PairKey, Pairs};
pub use preferences::Preference;
pub use samples::Sample;
pub use spin_store::Row;
pub use spin_text::Message;

/// A prompt with the human answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demonstration {
    /// Unique in its table.
    pub row_id: String,
    /// The conversation up to the answer.
    pub prompt: Vec<Message>,
    /// The human answer.
    pub response: String,
}

/// The opponent's log-probabilities of a pair's answers.
#[derive(Clone, Debug, PartialEq)]
pub struct ReferenceRow {
    /// The pair's `row_id`.
    pub row_id: String,
    /// The pair's `iteration`.
    pub iteration: u32,
    /// The pair's `sample_index`.
    pub sample_index: u32,
    /// Summed natural log-probability of the real answer's tokens.
    pub real_logps: f64,
    /// The same of the generated answer.
    pub generated_logps: f64,
}

/// One row's result on one metric.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoreRow {
    /// Task, e.g. `gsm8k`.
    pub task: String,
    /// Metric, e.g. `exact_match,strict`.
    pub metric: String,
    /// The demonstration's id.
    pub row_id: String,
    /// The value: 0 or 1, or a sum such as a negative log-likelihood in nats.
    pub value: f64,
    /// What the value is divided by in the mean: 1, or a number of tokens.
    pub weight: f64,
    /// What was extracted from the answer.
    pub prediction: Option<String>,
    /// What it should have been.
    pub target: Option<String>,
}

fn utf8(name: &str) -> Field {
    Field::new(name, DataType::Utf8, false)
}

fn u32_field(name: &str) -> Field {
    Field::new(name, DataType::UInt32, false)
}

fn f64_field(name: &str) -> Field {
    Field::new(name, DataType::Float64, false)
}

fn ids_field(name: &str) -> Field {
    Field::new(name, DataType::List(Arc::new(Field::new("item", DataType::UInt32, false))), false)
}

fn message_fields() -> Fields {
    Fields::from(vec![utf8("role"), utf8("content")])
}

pub(crate) fn messages_field(name: &str) -> Field {
    let item = Field::new("item", DataType::Struct(message_fields()), false);
    Field::new(name, DataType::List(Arc::new(item)), false)
}

fn strings<'a>(values: impl Iterator<Item = &'a str>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

fn u32s(values: impl Iterator<Item = u32>) -> ArrayRef {
    Arc::new(UInt32Array::from_iter_values(values))
}

fn f64s(values: impl Iterator<Item = f64>) -> ArrayRef {
    Arc::new(Float64Array::from_iter_values(values))
}

fn id_lists<'a>(values: impl Iterator<Item = &'a [u32]>) -> ArrayRef {
    let item = Field::new("item", DataType::UInt32, false);
    let mut builder = ListBuilder::new(UInt32Builder::new()).with_field(item);
    for ids in values {
        builder.values().append_slice(ids);
        builder.append(true);
    }
    Arc::new(builder.finish())
}

pub(crate) fn message_lists<'a>(values: impl Iterator<Item = &'a [Message]>) -> ArrayRef {
    let mut builder = turns::MessageLists::default();
    for messages in values {
        for Message { role, content } in messages {
            builder.push(role, content);
        }
        builder.end();
    }
    builder.finish()
}

/// Reads the columns of a batch that has already been checked against its
/// schema, by position.
struct Columns<'a>(&'a RecordBatch);

impl<'a> Columns<'a> {
    fn text(&self, column: usize, row: usize) -> String {
        self.0.column(column).as_string::<i32>().value(row).to_owned()
    }

    fn optional_text(&self, column: usize, row: usize) -> Option<String> {
        let array: &StringArray = self.0.column(column).as_string::<i32>();
        array.is_valid(row).then(|| array.value(row).to_owned())
    }

    fn u32(&self, column: usize, row: usize) -> u32 {
        self.0.column(column).as_primitive::<UInt32Type>().value(row)
    }

    fn f64(&self, column: usize, row: usize) -> f64 {
        self.0.column(column).as_primitive::<Float64Type>().value(row)
    }

    fn optional_f64(&self, column: usize, row: usize) -> Option<f64> {
        let array = self.0.column(column).as_primitive::<Float64Type>();
        array.is_valid(row).then(|| array.value(row))
    }

    fn bool(&self, column: usize, row: usize) -> bool {
        self.0.column(column).as_boolean().value(row)
    }

    fn list(&self, column: usize) -> &'a ListArray {
        self.0.column(column).as_list::<i32>()
    }

    fn ids(&self, column: usize, row: usize) -> Vec<u32> {
        self.list(column).value(row).as_primitive::<UInt32Type>().values().to_vec()
    }

    fn messages(&self, column: usize, row: usize) -> Vec<Message> {
        turns::of(self.list(column), row).map(|(role, content)| Message::new(role, content)).collect()
    }

    fn rows<T>(&self, read: impl Fn(usize) -> T) -> Vec<T> {
        (0..self.0.num_rows()).map(read).collect()
    }
}

impl Row for Demonstration {
    const KIND: Kind = Kind::Demonstrations;
    const SCHEMA_VERSION: u32 = 1;

    fn schema() -> Arc<Schema> {
        Arc::new(Schema::new(vec![utf8("row_id"), messages_field("prompt"), utf8("response")]))
    }

    fn to_columns(rows: &[Self]) -> Vec<ArrayRef> {
        vec![
            strings(rows.iter().map(|r| r.row_id.as_str())),
            message_lists(rows.iter().map(|r| r.prompt.as_slice())),
            strings(rows.iter().map(|r| r.response.as_str())),
        ]
    }

    fn from_batch(batch: &RecordBatch) -> Vec<Self> {
        let c = Columns(batch);
        c.rows(|i| Demonstration { row_id: c.text(0, i), prompt: c.messages(1, i), response: c.text(2, i) })
    }
}

impl Row for ReferenceRow {
    const KIND: Kind = Kind::Reference;
    const SCHEMA_VERSION: u32 = 1;

    fn schema() -> Arc<Schema> {
        Arc::new(Schema::new(vec![
            utf8("row_id"),
            u32_field("iteration"),
            u32_field("sample_index"),
            f64_field("real_logps"),
            f64_field("generated_logps"),
        ]))
    }

    fn to_columns(rows: &[Self]) -> Vec<ArrayRef> {
        vec![
            strings(rows.iter().map(|r| r.row_id.as_str())),
            u32s(rows.iter().map(|r| r.iteration)),
            u32s(rows.iter().map(|r| r.sample_index)),
            f64s(rows.iter().map(|r| r.real_logps)),
            f64s(rows.iter().map(|r| r.generated_logps)),
        ]
    }

    fn from_batch(batch: &RecordBatch) -> Vec<Self> {
        let c = Columns(batch);
        c.rows(|i| ReferenceRow {
            row_id: c.text(0, i),
            iteration: c.u32(1, i),
            sample_index: c.u32(2, i),
            real_logps: c.f64(3, i),
            generated_logps: c.f64(4, i),
        })
    }
}

impl Row for ScoreRow {
    const KIND: Kind = Kind::Scores;
    const SCHEMA_VERSION: u32 = 1;

    fn schema() -> Arc<Schema> {
        Arc::new(Schema::new(vec![
            utf8("task"),
            utf8("metric"),
            utf8("row_id"),
            f64_field("value"),
            f64_field("weight"),
            Field::new("prediction", DataType::Utf8, true),
            Field::new("target", DataType::Utf8, true),
        ]))
    }

    fn to_columns(rows: &[Self]) -> Vec<ArrayRef> {
        vec![
            strings(rows.iter().map(|r| r.task.as_str())),
            strings(rows.iter().map(|r| r.metric.as_str())),
            strings(rows.iter().map(|r| r.row_id.as_str())),
            f64s(rows.iter().map(|r| r.value)),
            f64s(rows.iter().map(|r| r.weight)),
            Arc::new(rows.iter().map(|r| r.prediction.as_deref()).collect::<StringArray>()),
            Arc::new(rows.iter().map(|r| r.target.as_deref()).collect::<StringArray>()),
        ]
    }

    fn from_batch(batch: &RecordBatch) -> Vec<Self> {
        let c = Columns(batch);
        c.rows(|i| ScoreRow {
            task: c.text(0, i),
            metric: c.text(1, i),
            row_id: c.text(2, i),
            value: c.f64(3, i),
            weight: c.f64(4, i),
            prediction: c.optional_text(5, i),
            target: c.optional_text(6, i),
        })
    }
}

#[cfg(test)]
mod tests {
    use spin_store::table::{self, PartLabel};

    use super::*;

    fn pair() -> Pair {
        Pair {
            row_id: "a".into(),
            iteration: 1,
            sample_index: 2,
            real: vec![Message::new("user", "q"), Message::new("assistant", "né\n")],
            generated: vec![Message::new("user", "q"), Message::new("assistant", "")],
            prompt_ids: vec![1, 2],
            real_ids: vec![3],
            generated_ids: vec![],
        }
    }

    #[test]
    fn rows_survive_a_part_and_bytes_are_reproducible() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a.parquet"), dir.path().join("b.parquet"));
        let rows = vec![pair(), Pair { row_id: "b".into(), ..pair() }];
        Pair::write_part(&a, &rows, "id", 0).unwrap();
        Pair::write_part(&b, &rows, "id", 0).unwrap();
        assert_eq!(Pair::read_part(&a).unwrap(), rows);
        assert_eq!(std::fs::read(&a).unwrap(), std::fs::read(&b).unwrap());
        Pair::write_part(&b, &rows[..1], "other", 3).unwrap();
        assert_ne!(table::rows_digest(&a).unwrap(), table::rows_digest(&b).unwrap());
        Pair::write_part(&b, &rows, "other", 3).unwrap();
        assert_eq!(table::rows_digest(&a).unwrap(), table::rows_digest(&b).unwrap());
    }

    #[test]
    fn scores_keep_their_nulls() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.parquet");
        let row = ScoreRow {
            task: "gsm8k".into(),
            metric: "exact_match".into(),
            row_id: "r".into(),
            value: 1.0,
            weight: 1.0,
            prediction: None,
            target: Some("4".into()),
        };
        ScoreRow::write_part(&path, std::slice::from_ref(&row), "id", 0).unwrap();
        assert_eq!(ScoreRow::read_part(&path).unwrap(), vec![row]);
    }

    #[test]
    fn wrong_column_type_and_truncation_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.parquet");
        Pair::write_part(&path, &[pair()], "id", 0).unwrap();
        let error = Sample::read_part(&path).unwrap_err().to_string();
        assert!(error.contains("t.parquet") && error.contains("no column \"response_ids\""), "{error}");
        let label = PartLabel { kind: "pairs", schema_version: 1, identity: "x".into(), part: 0 };
        let schema = Arc::new(Schema::new(vec![Field::new("row_id", DataType::UInt32, false)]));
        let batch = RecordBatch::try_new(schema, vec![u32s([1].into_iter())]).unwrap();
        table::write(&path, &batch, &label).unwrap();
        let error = Demonstration::read_part(&path).unwrap_err().to_string();
        assert!(error.contains("\"row_id\" has type UInt32, expected Utf8"), "{error}");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let error = Demonstration::read_part(&path).unwrap_err().to_string();
        assert!(error.contains("t.parquet") && error.contains("cannot be read as Parquet"), "{error}");
    }
}
