//! Values of a row, and how Python prints them.

use std::fmt;
use std::sync::Arc;

use minijinja::Value;
use minijinja::value::{Enumerator, Object, ObjectRepr, ValueKind};
use spin_text::python::quoted;

/// A row's value as templates see it: lists and mappings that print as in
/// Python wherever they are printed, in `~` and `join` too.
pub fn value_of(value: &serde_json::Value) -> Value {
    match value {
        serde_json::Value::Array(items) => Value::from_object(List(items.iter().map(value_of).collect())),
        serde_json::Value::Object(row) => mapping(row),
        scalar => Value::from_serialize(scalar),
    }
}

/// A row, or a mapping in it.
pub fn mapping(row: &serde_json::Map<String, serde_json::Value>) -> Value {
    Value::from_object(Mapping(row.iter().map(|(key, value)| (key.clone(), value_of(value))).collect()))
}

#[derive(Debug)]
struct List(Vec<Value>);

impl Object for List {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.get(key.as_usize()?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.0.len())
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}]", self.0.iter().map(repr).collect::<Vec<_>>().join(", "))
    }
}

#[derive(Debug)]
struct Mapping(Vec<(String, Value)>);

impl Object for Mapping {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Map
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let key = key.as_str()?;
        self.0.iter().find(|(own, _)| own == key).map(|(_, value)| value.clone())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.0.iter().map(|(key, _)| Value::from(key.as_str())).collect())
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entry = |(key, value): &(String, Value)| format!("{}: {}", quoted(key), repr(value));
        write!(f, "{{{}}}", self.0.iter().map(entry).collect::<Vec<_>>().join(", "))
    }
}

/// `str` of a value: lists and mappings by their `repr`.
pub fn str_of(value: &Value) -> String {
    match value.as_str() {
        Some(text) => text.to_owned(),
        None => repr(value),
    }
}

/// `repr` of a value.
pub(super) fn repr(value: &Value) -> String {
    let items = |value: &Value| value.try_iter().map(|items| items.collect::<Vec<_>>()).unwrap_or_default();
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => {
            format!("[{}]", items(value).iter().map(repr).collect::<Vec<_>>().join(", "))
        }
        ValueKind::Map => {
            let entry = |key: &Value| {
                format!("{}: {}", repr(key), value.get_item(key).map_or_else(|_| "None".into(), |v| repr(&v)))
            };
            format!("{{{}}}", items(value).iter().map(entry).collect::<Vec<_>>().join(", "))
        }
        ValueKind::Number if !value.is_integer() => {
            f64::try_from(value.clone()).map_or_else(|_| value.to_string(), float)
        }
        ValueKind::String => quoted(value.as_str().unwrap_or_default()),
        // In a list nothing else would tell that it is one.
        ValueKind::Undefined => "Undefined".into(),
        _ => value.to_string(),
    }
}

/// `repr` of a float: the shortest digits that read back, in scientific form
/// outside of 1e-4 and 1e16.
pub fn float(value: f64) -> String {
    if !value.is_finite() {
        let sign = if value == f64::NEG_INFINITY { "-" } else { "" };
        return format!("{sign}{}", if value.is_nan() { "nan" } else { "inf" });
    }
    let text = format!("{value:e}");
    let (digits, exponent) = text.split_once('e').expect("scientific form has an exponent");
    let exponent: i32 = exponent.parse().expect("a number");
    if value != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let plain = format!("{value}");
    if plain.contains('.') { plain } else { plain + ".0" }
}
