//! Files of a tokenizer, read.

use std::io::ErrorKind;
use std::path::Path;

use serde_json::Value;

use crate::error::{Result, TextError};

/// A text, or the `content` of an object, as tokens are written.
pub(crate) fn plain_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// A file's text; `None` where there is none.
pub(crate) fn read_text(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TextError::Read { path: path.to_owned(), source }),
    }
}

/// A file with an object; `None` where there is none.
pub(crate) fn read_json(path: &Path) -> Result<Option<Value>> {
    let Some(text) = read_text(path)? else {
        return Ok(None);
    };
    let value: Value = serde_json::from_str(&text).map_err(|error| TextError::parse(path, error))?;
    if !value.is_object() {
        return Err(TextError::parse(path, "it is not a JSON object"));
    }
    Ok(Some(value))
}
