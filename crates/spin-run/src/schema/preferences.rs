//! Prompts with a chosen and a rejected answer.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::Schema;

use super::{Columns, Message, Row, message_lists, messages_field, strings, utf8};
use spin_store::kind::Kind;

/// A prompt with the answer that somebody preferred and another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preference {
    /// Unique in its table.
    pub row_id: String,
    /// The conversation up to the answers.
    pub prompt: Vec<Message>,
    /// The preferred answer.
    pub chosen: String,
    /// The other one.
    pub rejected: String,
}

impl Row for Preference {
    const KIND: Kind = Kind::Preferences;
    const SCHEMA_VERSION: u32 = 1;

    fn schema() -> Arc<Schema> {
        Arc::new(Schema::new(vec![utf8("row_id"), messages_field("prompt"), utf8("chosen"), utf8("rejected")]))
    }

    fn to_columns(rows: &[Self]) -> Vec<ArrayRef> {
        vec![
            strings(rows.iter().map(|r| r.row_id.as_str())),
            message_lists(rows.iter().map(|r| r.prompt.as_slice())),
            strings(rows.iter().map(|r| r.chosen.as_str())),
            strings(rows.iter().map(|r| r.rejected.as_str())),
        ]
    }

    fn from_batch(batch: &RecordBatch) -> Vec<Self> {
        let c = Columns(batch);
        c.rows(|i| Preference {
            row_id: c.text(0, i),
            prompt: c.messages(1, i),
            chosen: c.text(2, i),
            rejected: c.text(3, i),
        })
    }
}
