//! One turn of a conversation, as templates see it.

use minijinja::Value;

pub use spin_store::schema::Message;

/// The message as templates see it: a mapping whose keys come in the order of the fields.
pub(crate) fn to_value(message: &Message) -> Value {
    Value::from_serialize(message)
}
