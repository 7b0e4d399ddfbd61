//! One turn of a conversation, as templates see it.

use std::sync::Arc;

use minijinja::Value;
use minijinja::value::{Enumerator, Object};

pub use spin_store::schema::Message;

/// A mapping whose keys come in the order Python would give them (minijinja's
/// own maps are sorted).
#[derive(Debug)]
struct Turn(Message);

/// The message as templates see it.
pub(crate) fn to_value(message: &Message) -> Value {
    Value::from_object(Turn(message.clone()))
}

impl Object for Turn {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match key.as_str()? {
            "role" => Some(Value::from(&*self.0.role)),
            "content" => Some(Value::from(&*self.0.content)),
            _ => None,
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Str(&["role", "content"])
    }
}
