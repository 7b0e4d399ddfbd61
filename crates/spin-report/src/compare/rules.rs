//! Rules under which models were evaluated, and where two of them differ.

use serde_json::Value;

/// Settings that a message names.
const NAMED: usize = 5;

/// Which settings differ, e.g. `settings.limit is 100 and 0`.
pub(super) fn differences(a: &Value, b: &Value) -> String {
    let mut found = Vec::new();
    collect(a, b, "", &mut found);
    let more = found.len().saturating_sub(NAMED);
    found.truncate(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    found.join(", ") + &more
}

fn collect(a: &Value, b: &Value, place: &str, found: &mut Vec<String>) {
    let below = |key: &str| if place.is_empty() { key.to_owned() } else { format!("{place}.{key}") };
    match (a, b) {
        _ if a == b => {}
        (Value::Object(x), Value::Object(y)) => {
            let added = y.keys().filter(|key| !x.contains_key(*key));
            for key in x.keys().chain(added) {
                collect(&a[key], &b[key], &below(key), found);
            }
        }
        (Value::Array(x), Value::Array(y)) if x.len() == y.len() => {
            for (i, (x, y)) in x.iter().zip(y).enumerate() {
                // Tasks have names, which say more than numbers.
                let name = x["name"].as_str().filter(|name| y["name"].as_str() == Some(name));
                collect(x, y, &below(name.unwrap_or(&i.to_string())), found);
            }
        }
        (Value::Array(x), Value::Array(y)) => found.push(format!("{place} has {} and {} entries", x.len(), y.len())),
        _ => found.push(format!("{place} is {} and {}", short(a), short(b))),
    }
}

/// A value for a message.
fn short(value: &Value) -> String {
    let text = match value {
        Value::Null => "not set".to_owned(),
        other => other.to_string(),
    };
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
