//! Digests: BLAKE3, in lower-case hexadecimal, over bytes, files and JSON.
//!
//! JSON is hashed in a canonical form written here rather than left to a
//! serialiser's habits: no white space, object keys in byte order, numbers as
//! `serde_json` prints them (shortest form that reads back to the same value),
//! strings with its escapes.

use std::fs::File;
use std::path::Path;

use serde_json::Value;

use crate::error::{Result, StoreError};

/// Digest of bytes.
pub fn of_bytes(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// Digest and size in bytes of a file.
///
/// # Errors
/// When the file cannot be read.
pub fn of_file(path: &Path) -> Result<(String, u64)> {
    let file = File::open(path).map_err(StoreError::io("open", path))?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file).map_err(StoreError::io("read", path))?;
    Ok((hasher.finalize().to_hex().to_string(), hasher.count()))
}

/// Digest of a JSON value in canonical form.
pub fn of_json(value: &Value) -> String {
    of_bytes(canonical(value).as_bytes())
}

/// The canonical text of a JSON value; see the module's rule.
fn canonical(value: &Value) -> String {
    let mut out = String::new();
    write_canonical(value, &mut out);
    out
}

fn write_canonical(value: &Value, out: &mut String) {
    match value {
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_canonical(item, out);
            }
            out.push(']');
        }
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort_unstable();
            out.push('{');
            for (i, key) in keys.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                out.push_str(&Value::String(key.clone()).to_string());
                out.push(':');
                write_canonical(&map[key], out);
            }
            out.push('}');
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn key_order_and_spacing_do_not_matter() {
        let a: Value = serde_json::from_str(r#"{"b": 1, "a": {"y": [1, 2.5], "x": "é\n"}}"#).unwrap();
        let b: Value = serde_json::from_str(r#"{"a":{"x":"é\n","y":[1,2.5]},"b":1}"#).unwrap();
        assert_eq!(canonical(&a), r#"{"a":{"x":"é\n","y":[1,2.5]},"b":1}"#);
        assert_eq!(of_json(&a), of_json(&b));
        assert_ne!(of_json(&a), of_json(&json!({"a": {"x": "é\n", "y": [2.5, 1]}, "b": 1})));
    }

    #[test]
    fn file_digest_is_the_digest_of_its_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, b"abc").unwrap();
        assert_eq!(of_file(&path).unwrap(), (of_bytes(b"abc"), 3));
        // First bytes of BLAKE3("abc") from the BLAKE3 test vectors.
        assert!(of_bytes(b"abc").starts_with("6437b3ac38465133ffb63b75273a8db5"));
    }
}
