//! Typed access to a `config.json`, with errors that name file and key.

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Above every size in a real configuration.
const MAX_SIZE: u64 = 1 << 28;

pub(super) struct Keys<'a> {
    pub raw: &'a Map<String, Value>,
    pub origin: &'a str,
}

impl Keys<'_> {
    pub fn error(&self, message: impl Into<String>) -> Error {
        Error::Config { origin: self.origin.to_owned(), message: message.into() }
    }

    /// The value of a key; JSON's null counts as absent, as in transformers.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.raw.get(key).filter(|value| !value.is_null())
    }

    pub fn optional_size(&self, key: &str) -> Result<Option<usize>> {
        match self.optional_count(key)? {
            Some(0) => Err(self.error(format!("`{key}` must be a positive integer, not 0"))),
            size => Ok(size),
        }
    }

    /// As [`Keys::optional_size`], or 0. Larger numbers than any model has are
    /// mistakes, which are better found here than by allocating.
    pub fn optional_count(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.as_u64() {
            Some(size) if size <= MAX_SIZE => Ok(Some(size as usize)),
            _ => Err(self.error(format!("`{key}` must be a positive integer of at most {MAX_SIZE}, not {value}"))),
        }
    }

    /// A size that the configuration class has a default for where the key is
    /// absent; null means none, which is another thing.
    pub fn size_or(&self, key: &str, absent: Option<usize>) -> Result<Option<usize>> {
        if self.raw.contains_key(key) { self.optional_size(key) } else { Ok(absent) }
    }

    /// As [`Keys::size_or`], of positive numbers.
    pub fn float_or(&self, key: &str, absent: Option<f64>) -> Result<Option<f64>> {
        if self.raw.contains_key(key) { self.float(key) } else { Ok(absent) }
    }

    pub fn size(&self, key: &str) -> Result<usize> {
        self.optional_size(key)?.ok_or_else(|| self.error(format!("the key `{key}` is missing")))
    }

    pub fn float(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.as_f64() {
            Some(number) if number.is_finite() && number > 0.0 => Ok(Some(number)),
            _ => Err(self.error(format!("`{key}` must be a positive number, not {value}"))),
        }
    }

    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.as_bool() {
            Some(flag) => Ok(Some(flag)),
            None => Err(self.error(format!("`{key}` must be true or false, not {value}"))),
        }
    }

    /// A list with one entry per layer, and at most `most`.
    pub fn per_layer<T>(
        &self,
        key: &str,
        layers: usize,
        most: usize,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<Vec<T>>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let list: Option<Vec<T>> = value.as_array().and_then(|list| list.iter().map(read).collect());
        match list {
            Some(list) if (layers..=most).contains(&list.len()) => Ok(Some(list)),
            _ => Err(self.error(format!("`{key}` must list one known value for each of the {layers} layers"))),
        }
    }
}

/// A value in an error, not at any length.
pub(super) fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
