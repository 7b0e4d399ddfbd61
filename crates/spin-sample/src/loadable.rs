//! Model directories that mistral.rs 0.8.1 can read.
//!
//! transformers 5 writes the rotary embedding's parameters in a table of their
//! own, `rope_parameters`; mistral.rs looks for `rope_theta` and
//! `rope_scaling` beside the other keys.

use std::path::Path;

use serde_json::{Value, json};
use spin_store::StoreError;

use crate::error::Result;

/// Fills `to` with links to the files of `dir` and a configuration that
/// mistral.rs reads; false, with nothing done, when it reads `dir` as it is.
///
/// # Errors
/// When a file cannot be read or linked.
pub fn link(dir: &Path, to: &Path) -> Result<bool> {
    let path = dir.join("config.json");
    let text = std::fs::read_to_string(&path).map_err(StoreError::io("read", &path))?;
    // What is wrong with it is said by who reads it.
    let Ok(mut config) = serde_json::from_str::<Value>(&text) else { return Ok(false) };
    let rope = config["rope_parameters"].clone();
    if config.get("rope_theta").is_some() || rope["rope_theta"].is_null() {
        return Ok(false);
    }
    config["rope_theta"] = rope["rope_theta"].clone();
    let mut scaling = rope.clone();
    if let Some(table) = scaling.as_object_mut() {
        table.remove("rope_theta");
    }
    let is_default = scaling["rope_type"].as_str().unwrap_or("default") == "default";
    config["rope_scaling"] = if is_default { json!(null) } else { scaling };
    for entry in std::fs::read_dir(dir).map_err(StoreError::io("read", dir))? {
        let entry = entry.map_err(StoreError::io("read", dir))?;
        if entry.file_name() != "config.json" {
            let link = to.join(entry.file_name());
            std::os::unix::fs::symlink(entry.path(), &link).map_err(StoreError::io("link", &link))?;
        }
    }
    let path = to.join("config.json");
    std::fs::write(&path, format!("{config:#}\n")).map_err(StoreError::io("write", &path))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_of_transformers_5_is_translated() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let write = |config: Value| std::fs::write(from.path().join("config.json"), config.to_string()).unwrap();
        std::fs::write(from.path().join("weights"), "w").unwrap();
        write(json!({"rope_theta": 1e4}));
        assert!(!link(from.path(), to.path()).unwrap());
        let scaling = json!({"rope_type": "llama3", "factor": 8.0, "rope_theta": 5e5});
        write(json!({"hidden_size": 8, "rope_parameters": scaling}));
        assert!(link(from.path(), to.path()).unwrap());
        let text = std::fs::read_to_string(to.path().join("config.json")).unwrap();
        let config: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(config["rope_theta"], 5e5);
        assert_eq!(config["rope_scaling"], json!({"rope_type": "llama3", "factor": 8.0}));
        assert_eq!(config["hidden_size"], 8);
        assert_eq!(std::fs::read_to_string(to.path().join("weights")).unwrap(), "w");
    }
}
