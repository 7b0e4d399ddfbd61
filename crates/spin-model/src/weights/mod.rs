//! Named tensors in and out of safetensors files, single or sharded.

mod header;
mod names;
mod read;
mod write;

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use candle_core::{DType, Tensor};
use serde_json::Value;

pub(crate) use header::Header;
pub(crate) use read::{Leftover, check_model, compare, read_model, read_tensors};
pub(crate) use write::{Stored, write_bytes, write_dir, write_file};

use crate::error::{Error, Result};

/// The largest file of weights that [`crate::CausalLm::save`] writes: 5 GB, as
/// transformers does.
pub const DEFAULT_MAX_SHARD_BYTES: usize = 5_000_000_000;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Weights as torch pickles them, which are programs rather than data.
const PICKLED: [&str; 2] = ["pytorch_model.bin", "pytorch_model.bin.index.json"];

/// The file that says what there is, and the files of weights.
fn weight_files(dir: &Path) -> Result<(PathBuf, Vec<PathBuf>)> {
    let (single, index) = (dir.join(SINGLE), dir.join(INDEX));
    if single.exists() || !index.exists() {
        if let Some(name) = PICKLED.iter().find(|name| !single.exists() && dir.join(name).exists()) {
            return Err(Error::WeightsFile {
                path: dir.join(name),
                message: "only safetensors files are read; load the model with transformers and save it again with \
                          `save_pretrained`"
                    .to_owned(),
            });
        }
        return Ok((single.clone(), vec![single]));
    }
    let problem = |message: String| Error::WeightsFile { path: index.clone(), message };
    let bytes = std::fs::read(&index).map_err(|source| Error::Read { path: index.clone(), source })?;
    let value = serde_json::from_slice::<Value>(&bytes).unwrap_or_default();
    let map = value.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| problem("has no `weight_map` from tensor names to file names".to_owned()))?;
    let mut files = BTreeSet::new();
    for (tensor, file) in map {
        // A name beside the index, not a way out of the directory.
        let name = file.as_str().filter(|name| {
            let mut parts = Path::new(name).components();
            matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) && !name.contains('\\')
        });
        let name = name.ok_or_else(|| {
            problem(format!("says that tensor `{tensor}` is in {file}; it must be the name of a file beside it"))
        })?;
        files.insert(dir.join(name));
    }
    Ok((index, files.into_iter().collect()))
}

/// The name of a data type in config.json.
pub(crate) fn dtype_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F16 => "float16",
        DType::BF16 => "bfloat16",
        DType::F64 => "float64",
        _ => "float32",
    }
}

/// Whether a tensor holds NaN or an infinity.
pub(crate) fn is_finite(tensor: &Tensor) -> Result<bool> {
    // NaN and infinities survive being added up; finite weights cannot reach an
    // infinity in f32 this way unless they are as good as lost.
    Ok(tensor.to_dtype(DType::F32)?.abs()?.sum_all()?.to_scalar::<f32>()?.is_finite())
}
