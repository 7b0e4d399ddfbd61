//! Digests: BLAKE3, in lower-case hexadecimal, over bytes, files and JSON.
//!
//! JSON is hashed in a canonical form written here rather than left to a
//! serialiser's habits: no white space, object keys in byte order, numbers as
//! `serde_json` prints them (shortest form that reads back to the same value),
//! strings with its escapes.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

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

/// SHA-256 of bytes.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Both digests of a file, and its size in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digests {
    /// BLAKE3.
    pub blake3: String,
    /// SHA-256.
    pub sha256: String,
    /// Size in bytes.
    pub bytes: u64,
}

/// Digests a file by both functions in one reading.
///
/// # Errors
/// When the file cannot be read.
pub fn both_of_file(path: &Path) -> Result<Digests> {
    let mut file = File::open(path).map_err(StoreError::io("open", path))?;
    let (mut blake3, mut sha256, mut buffer) = (blake3::Hasher::new(), Sha256::new(), vec![0; 1 << 17]);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                blake3.update(&buffer[..n]);
                sha256.update(&buffer[..n]);
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(StoreError::io("read", path)(e)),
        }
    }
    let sha256 = hex(&sha256.finalize());
    Ok(Digests { bytes: blake3.count(), blake3: blake3.finalize().to_hex().to_string(), sha256 })
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
        let both = both_of_file(&path).unwrap();
        // The example of FIPS 180-2, B.1.
        assert_eq!(both.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!((both.blake3, both.bytes), (of_bytes(b"abc"), 3));
        // First bytes of BLAKE3("abc") from the BLAKE3 test vectors.
        assert!(of_bytes(b"abc").starts_with("6437b3ac38465133ffb63b75273a8db5"));
    }
}
