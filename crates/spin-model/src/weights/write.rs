//! Tensors into files.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use serde_json::{Map, Value};

use super::{INDEX, SINGLE};
use crate::error::{Error, Result};

/// A tensor to be written; its bytes are made when they are, so that only one
/// tensor's are in memory.
pub(crate) struct Stored<'a> {
    name: &'a str,
    like: Tensor,
    made: Option<Box<dyn Fn() -> Result<Tensor> + 'a>>,
}

impl<'a> Stored<'a> {
    pub fn of(name: &'a str, tensor: Tensor) -> Self {
        Self { name, like: tensor, made: None }
    }

    /// A tensor of the shape and type of `like`, made when it is written.
    pub fn made(name: &'a str, like: Tensor, made: impl Fn() -> Result<Tensor> + 'a) -> Self {
        Self { name, like, made: Some(Box::new(made)) }
    }

    fn bytes(&self) -> usize {
        self.like.elem_count() * self.like.dtype().size_in_bytes()
    }

    /// The type in a file, and its place in the order of types.
    fn dtype(&self) -> Option<(usize, &'static str)> {
        match self.like.dtype() {
            DType::F32 => Some((0, "F32")),
            DType::BF16 => Some((1, "BF16")),
            DType::F16 => Some((2, "F16")),
            _ => None,
        }
    }
}

/// Writes tensors as `model.safetensors`, or as numbered shards with an index
/// if they need more than `max_shard_bytes`. Equal tensors give equal bytes.
pub(crate) fn write_dir(dir: &Path, tensors: Vec<Stored<'_>>, max_shard_bytes: usize) -> Result<()> {
    let total: usize = tensors.iter().map(Stored::bytes).sum();
    let mut shards: Vec<Vec<Stored<'_>>> = vec![Vec::new()];
    let mut used = 0;
    for tensor in tensors {
        let bytes = tensor.bytes();
        let current = shards.last_mut().expect("there is always one shard");
        if used + bytes > max_shard_bytes && !current.is_empty() {
            shards.push(vec![tensor]);
            used = bytes;
        } else {
            current.push(tensor);
            used += bytes;
        }
    }
    if shards.len() == 1 {
        return write_file(&dir.join(SINGLE), shards.remove(0), &[]);
    }
    let mut weight_map = BTreeMap::new();
    let count = shards.len();
    for (number, shard) in shards.into_iter().enumerate() {
        let file = format!("model-{:05}-of-{count:05}.safetensors", number + 1);
        weight_map.extend(shard.iter().map(|tensor| (tensor.name.to_owned(), file.clone())));
        write_file(&dir.join(&file), shard, &[])?;
    }
    let index = serde_json::json!({
        "metadata": { "total_size": total },
        "weight_map": weight_map,
    });
    write_bytes(&dir.join(INDEX), format!("{index:#}\n").as_bytes())
}

/// Writes one file of tensors, with some strings beside them. Equal tensors and
/// strings give equal bytes: those of the safetensors library, but for the
/// strings, which it writes in any order and this in the order of their keys.
pub(crate) fn write_file(path: &Path, mut tensors: Vec<Stored<'_>>, extra: &[(&str, &str)]) -> Result<()> {
    if let Some(tensor) = tensors.iter().find(|tensor| tensor.dtype().is_none()) {
        return Err(Error::Tensor {
            path: path.display().to_string(),
            tensor: tensor.name.to_owned(),
            message: format!("has type {:?}; only F32, F16 and BF16 are written", tensor.like.dtype()),
        });
    }
    // Wide types first, so that all numbers are aligned.
    tensors.sort_by_key(|tensor| (tensor.dtype().map(|(order, _)| order), tensor.name));
    // Older transformers refuse files without this entry.
    let metadata: BTreeMap<&str, &str> = [("format", "pt")].into_iter().chain(extra.iter().copied()).collect();
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), serde_json::json!(metadata));
    let mut offset = 0;
    for tensor in &tensors {
        let end = offset + tensor.bytes();
        let dtype = tensor.dtype().map(|(_, name)| name);
        let entry = serde_json::json!({"dtype": dtype, "shape": tensor.like.dims(), "data_offsets": [offset, end]});
        header.insert(tensor.name.to_owned(), entry);
        offset = end;
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let failed = |source| Error::Write { path: path.to_path_buf(), source };
    let mut file = BufWriter::new(File::create(path).map_err(failed)?);
    file.write_all(&(header.len() as u64).to_le_bytes()).map_err(failed)?;
    file.write_all(&header).map_err(failed)?;
    for tensor in &tensors {
        let values = tensor.made.as_ref().map_or_else(|| Ok(tensor.like.clone()), |made| made())?;
        file.write_all(&little_endian(&values)?).map_err(failed)?;
    }
    file.flush().map_err(failed)
}

fn little_endian(tensor: &Tensor) -> Result<Vec<u8>> {
    let flat = tensor.flatten_all()?.to_device(&Device::Cpu)?;
    // 16-bit floats are exact in f32, so one path through f32 serves them all.
    let wide = flat.to_dtype(DType::F32)?.to_vec1::<f32>()?;
    Ok(match tensor.dtype() {
        DType::F16 => bytes16(&wide, |x| half::f16::from_f32(x).to_bits()),
        DType::BF16 => bytes16(&wide, |x| half::bf16::from_f32(x).to_bits()),
        _ => wide.iter().flat_map(|x| x.to_le_bytes()).collect(),
    })
}

fn bytes16(values: &[f32], bits: impl Fn(f32) -> u16) -> Vec<u8> {
    values.iter().flat_map(|x| bits(*x).to_le_bytes()).collect()
}

pub(crate) fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).map_err(|source| Error::Write { path: path.to_path_buf(), source })
}
