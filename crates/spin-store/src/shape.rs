//! What stages that never load a model must know of one.

use std::path::Path;

use serde_json::Value;

use crate::error::{Result, StoreError};

/// Numbers of a model directory's `config.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelShape {
    /// The longest sequence that it reads, in tokens.
    pub context: usize,
    /// Rows of its embedding.
    pub vocab_size: usize,
}

impl ModelShape {
    /// Reads `config.json`.
    ///
    /// # Errors
    /// When it is not there, or is not that of a causal language model.
    pub fn read(dir: &Path) -> Result<ModelShape> {
        let path = dir.join("config.json");
        let remedy = "give the directory of a causal language model";
        let text = std::fs::read_to_string(&path).map_err(StoreError::io("read", &path))?;
        let config: Value = serde_json::from_str(&text)
            .map_err(|e| StoreError::corrupt(&path, format!("is not valid JSON ({e})"), remedy))?;
        let number = |key: &str| {
            let number = config[key].as_u64().filter(|number| *number > 0);
            number
                .map(|n| n as usize)
                .ok_or_else(|| StoreError::corrupt(&path, format!("has no positive number {key:?}"), remedy))
        };
        Ok(ModelShape { context: number("max_position_embeddings")?, vocab_size: number("vocab_size")? })
    }
}
