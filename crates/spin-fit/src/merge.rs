//! `spin-fit merge`: an adapter into whole weights, outside any store.

use std::path::Path;

use candle_core::{DType, Device};
use spin_model::CausalLm;
use spin_store::StoreError;

use crate::error::{FitError, Result};
use crate::publish::is_companion;

/// Writes a Hugging Face directory that computes what `base` with `adapter`
/// does: merged weights, and the other files of `base`. `out` must not exist.
///
/// # Errors
/// When the adapter does not belong to the base, `out` exists, or a file
/// cannot be read or written; `out` is then not there.
pub fn merge(base: &Path, adapter: &Path, out: &Path, dtype: DType) -> Result<()> {
    if out.exists() {
        return Err(FitError::Exists { path: out.display().to_string() });
    }
    let model = CausalLm::load(base, &Device::Cpu, DType::F32)?.load_adapter(adapter, None)?;
    let parent = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(StoreError::io("create", parent))?;
    let staged = tempfile::Builder::new().prefix(".merging-").tempdir_in(parent);
    let staged = staged.map_err(StoreError::io("create a directory in", parent))?;
    for entry in std::fs::read_dir(base).map_err(StoreError::io("read", base))? {
        let path = entry.map_err(StoreError::io("read", base))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_file() && is_companion(&name) {
            std::fs::copy(&path, staged.path().join(&name)).map_err(StoreError::io("copy", &path))?;
        }
    }
    match dtype {
        DType::F32 => model.save_merged(staged.path())?,
        // Merged in f32 and rounded once.
        dtype => {
            let merged = model.merge_adapter()?.to_dtype(dtype)?;
            if let Some(tensor) = merged.not_finite()? {
                let message = format!("is beyond the range of {dtype:?} once merged; give another --dtype");
                return Err(spin_model::Error::Tensor { path: base.display().to_string(), tensor, message }.into());
            }
            merged.save(staged.path())?;
        }
    }
    std::fs::rename(staged.keep(), out).map_err(StoreError::io("rename into", out))?;
    Ok(())
}
