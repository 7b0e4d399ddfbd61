//! Checkpoints: weights, optimiser state and counters in one safetensors
//! file, replaced by rename, so that there is always one whole checkpoint.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use spin_store::{StoreError, fsutil};

use crate::error::{FitError, Result};

/// Counters beside the tensors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// Updates done.
    pub update: usize,
    /// Lowest held-out loss so far, in nats per token.
    pub best_loss: Option<f64>,
    /// The update it was seen at.
    pub best_update: usize,
    /// Evaluations since.
    pub evaluations_since_best: usize,
}

const META: &str = "spin.progress";

/// Replaces the checkpoint at `path`, durably.
///
/// # Errors
/// When it cannot be written; the old one is then untouched.
pub fn save(path: &Path, tensors: &BTreeMap<String, Tensor>, progress: &Progress) -> Result<()> {
    let text = serde_json::to_string(progress).expect("counters are plain data");
    let metadata = HashMap::from([(META.to_owned(), text)]);
    let dir = path.parent().unwrap_or(Path::new("."));
    let tmp = tempfile_in(dir, path);
    let write = || -> Result<()> {
        safetensors::serialize_to_file(tensors, Some(metadata), &tmp)
            .map_err(|e| StoreError::io("write", &tmp)(std::io::Error::other(e)))?;
        fsutil::sync_file(&tmp)?;
        std::fs::rename(&tmp, path).map_err(StoreError::io("rename into", path))?;
        Ok(fsutil::sync_dir(dir)?)
    };
    write().inspect_err(|_| {
        let _ = std::fs::remove_file(&tmp);
    })
}

fn tempfile_in(dir: &Path, path: &Path) -> std::path::PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    dir.join(format!(".tmp-{name}"))
}

/// Reads a checkpoint back.
///
/// # Errors
/// When it is damaged or not a checkpoint.
pub fn load(path: &Path) -> Result<(BTreeMap<String, Tensor>, Progress)> {
    let bad = |problem: String| FitError::Checkpoint { path: path.display().to_string(), problem };
    let bytes = std::fs::read(path).map_err(StoreError::io("read", path))?;
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).map_err(|e| bad(e.to_string()))?;
    let text = header.metadata().as_ref().and_then(|m| m.get(META)).ok_or_else(|| bad("has no counters".into()))?;
    let progress = serde_json::from_str(text).map_err(|e| bad(e.to_string()))?;
    let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)?;
    Ok((tensors.into_iter().collect(), progress))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_comes_back_and_damage_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.safetensors");
        let tensor = Tensor::new(&[1f32, f32::MIN_POSITIVE, -3.5], &Device::Cpu).unwrap();
        let progress = Progress { update: 7, best_loss: Some(0.1 + 0.2), ..Default::default() };
        save(&path, &BTreeMap::from([("w".to_owned(), tensor.clone())]), &progress).unwrap();
        let (tensors, read) = load(&path).unwrap();
        assert_eq!(read, progress);
        assert_eq!(tensors["w"].to_vec1::<f32>().unwrap(), tensor.to_vec1::<f32>().unwrap());
        std::fs::write(&path, &std::fs::read(&path).unwrap()[..20]).unwrap();
        assert!(load(&path).unwrap_err().to_string().contains("delete it to train from the start"));
    }
}
