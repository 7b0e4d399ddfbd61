//! Values under which a key of a configuration changes nothing here.

use serde_json::Value;

/// A value that a key may have.
pub(crate) enum Neutral {
    /// Not there, or null.
    Absent,
    /// An empty list or object.
    Empty,
    /// True or false.
    Flag(bool),
    /// A number, whole or not.
    Number(f64),
    /// A string.
    Text(&'static str),
}

impl Neutral {
    fn is(&self, value: &Value) -> bool {
        match self {
            Self::Absent => value.is_null(),
            Self::Empty => match value {
                Value::Array(list) => list.is_empty(),
                Value::Object(map) => map.is_empty(),
                _ => false,
            },
            Self::Flag(flag) => value.as_bool() == Some(*flag),
            Self::Number(number) => value.as_f64() == Some(*number),
            Self::Text(text) => value.as_str() == Some(text),
        }
    }
}

/// Whether a value is one of those allowed.
pub(crate) fn allows(allowed: &[Neutral], value: &Value) -> bool {
    allowed.iter().any(|neutral| neutral.is(value))
}
