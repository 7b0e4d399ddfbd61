//! Conversations as columns: lists of roles and contents.

use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray, ListArray, StringBuilder, StructArray};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field};

use super::message_fields;

/// Role and content of every message of a row.
///
/// # Panics
/// When the column is not of conversations.
pub fn of(column: &ListArray, row: usize) -> impl Iterator<Item = (&str, &str)> + Clone {
    let turns = column.values().as_struct();
    let (roles, contents) = (turns.column(0).as_string::<i32>(), turns.column(1).as_string::<i32>());
    let ends = &column.value_offsets()[row..=row + 1];
    (ends[0] as usize..ends[1] as usize).map(|i| (roles.value(i), contents.value(i)))
}

/// Makes a column of conversations.
#[derive(Debug)]
pub(super) struct MessageLists {
    roles: StringBuilder,
    contents: StringBuilder,
    /// Where conversations end, behind a 0.
    ends: Vec<i32>,
}

impl Default for MessageLists {
    fn default() -> Self {
        MessageLists { roles: StringBuilder::new(), contents: StringBuilder::new(), ends: vec![0] }
    }
}

impl MessageLists {
    /// A message of the conversation that is not ended.
    pub fn push(&mut self, role: &str, content: &str) {
        self.roles.append_value(role);
        self.contents.append_value(content);
    }

    /// Ends a conversation.
    pub fn end(&mut self) {
        let messages = arrow::array::ArrayBuilder::len(&self.roles);
        self.ends.push(i32::try_from(messages).expect("a part has fewer than 2^31 messages"));
    }

    /// The column; nothing is left.
    pub fn finish(&mut self) -> ArrayRef {
        let ends = std::mem::replace(&mut self.ends, vec![0]);
        let columns: Vec<ArrayRef> = vec![Arc::new(self.roles.finish()), Arc::new(self.contents.finish())];
        let length = columns[0].len();
        let turns = StructArray::try_new_with_length(message_fields(), columns, None, length);
        let turns = turns.expect("roles and contents are pushed together");
        let item = Field::new("item", DataType::Struct(message_fields()), false);
        let ends = OffsetBuffer::new(ScalarBuffer::from(ends));
        Arc::new(ListArray::new(Arc::new(item), ends, Arc::new(turns), None))
    }
}
