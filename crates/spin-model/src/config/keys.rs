//! Typed access to a `config.json`, with errors that name file and key.

use serde_json::{Map, Value};

use crate::error::{Error, Result};

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
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.as_u64() {
            Some(size) if size > 0 => Ok(Some(size as usize)),
            _ => Err(self.error(format!("`{key}` must be a positive integer, not {value}"))),
        }
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

    /// A list with one entry per layer.
    pub fn per_layer<T>(&self, key: &str, layers: usize, read: impl Fn(&Value) -> Option<T>) -> Result<Option<Vec<T>>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let list: Option<Vec<T>> = value.as_array().and_then(|list| list.iter().map(read).collect());
        match list {
            Some(list) if list.len() == layers => Ok(Some(list)),
            _ => Err(self.error(format!("`{key}` must list one known value for each of the {layers} layers"))),
        }
    }
}
