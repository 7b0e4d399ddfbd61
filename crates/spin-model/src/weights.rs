//! Named tensors in and out of safetensors files, single or sharded.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors, TensorView, View};
use serde_json::Value;

use crate::error::{Error, Result};

/// The largest file of weights that [`crate::CausalLm::save`] writes: 5 GB, as
/// transformers does.
pub const DEFAULT_MAX_SHARD_BYTES: usize = 5_000_000_000;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Reads exactly the tensors `wanted` (names and shapes) from a directory.
///
/// `ignorable` decides which other tensors may be present without being read.
pub(crate) fn read_dir(
    dir: &Path,
    wanted: &[(String, Vec<usize>)],
    ignorable: impl Fn(&str) -> bool,
    device: &Device,
    dtype: DType,
) -> Result<BTreeMap<String, Tensor>> {
    let (listing, files) = weight_files(dir)?;
    read_files(&listing, &files, wanted, ignorable, device, dtype)
}

/// As [`read_dir`], from known files; `listing` is what says that these are
/// all.
pub(crate) fn read_files(
    listing: &Path,
    files: &[PathBuf],
    wanted: &[(String, Vec<usize>)],
    ignorable: impl Fn(&str) -> bool,
    device: &Device,
    dtype: DType,
) -> Result<BTreeMap<String, Tensor>> {
    let shapes: BTreeMap<&str, &[usize]> =
        wanted.iter().map(|(name, shape)| (name.as_str(), shape.as_slice())).collect();
    let mut tensors = BTreeMap::new();
    for file in files {
        let bytes = std::fs::read(file).map_err(|source| Error::Read { path: file.clone(), source })?;
        let parsed = SafeTensors::deserialize(&bytes).map_err(|error| damaged(file, &error))?;
        let problem = |tensor: &str, message: String| Error::Tensor {
            path: file.display().to_string(),
            tensor: tensor.to_owned(),
            message,
        };
        for (name, view) in parsed.iter() {
            let Some(shape) = shapes.get(name) else {
                if ignorable(name) {
                    continue;
                }
                return Err(problem(
                    name,
                    "config.json describes no such tensor; the configuration does not \
                     belong to these weights"
                        .to_owned(),
                ));
            };
            if view.shape() != *shape {
                return Err(problem(
                    name,
                    format!("has shape {:?} where config.json asks for {shape:?}", view.shape()),
                ));
            }
            let tensor = decode(&view, device, dtype)?.ok_or_else(|| {
                problem(name, format!("has type {:?}; only F32, F16 and BF16 are read", view.dtype()))
            })?;
            if tensors.insert(name.to_owned(), tensor).is_some() {
                return Err(problem(name, "is in more than one file".to_owned()));
            }
        }
    }
    for (name, _) in wanted {
        if !tensors.contains_key(name) {
            return Err(Error::Tensor {
                path: listing.display().to_string(),
                tensor: name.clone(),
                message: "is missing; config.json asks for it".to_owned(),
            });
        }
    }
    Ok(tensors)
}

fn damaged(file: &Path, error: &safetensors::SafeTensorError) -> Error {
    Error::WeightsFile {
        path: file.to_path_buf(),
        message: format!("not a safetensors file ({error}); fetch it again"),
    }
}

/// The strings beside the tensors of a file.
pub(crate) fn read_metadata(file: &Path) -> Result<HashMap<String, String>> {
    let bytes = std::fs::read(file).map_err(|source| Error::Read { path: file.to_path_buf(), source })?;
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|error| damaged(file, &error))?;
    Ok(header.metadata().clone().unwrap_or_default())
}

/// The file that says what there is, and the files of weights.
fn weight_files(dir: &Path) -> Result<(PathBuf, Vec<PathBuf>)> {
    let single = dir.join(SINGLE);
    let index = dir.join(INDEX);
    if single.exists() || !index.exists() {
        return Ok((single.clone(), vec![single]));
    }
    let bytes = std::fs::read(&index).map_err(|source| Error::Read { path: index.clone(), source })?;
    let files = serde_json::from_slice::<Value>(&bytes)
        .ok()
        .as_ref()
        .and_then(|value| value.get("weight_map"))
        .and_then(Value::as_object)
        .map(|map| map.values().filter_map(Value::as_str).map(|name| dir.join(name)).collect::<BTreeSet<_>>())
        .ok_or_else(|| Error::WeightsFile {
            path: index.clone(),
            message: "has no `weight_map` from tensor names to file names".to_owned(),
        })?;
    Ok((index, files.into_iter().collect()))
}

/// `None` if the stored type is not one of the float types models come in.
fn decode(view: &TensorView<'_>, device: &Device, dtype: DType) -> Result<Option<Tensor>> {
    let stored = match view.dtype() {
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        _ => return Ok(None),
    };
    // Converted before the transfer: not every device has every conversion.
    let tensor = Tensor::from_raw_buffer(view.data(), stored, view.shape(), &Device::Cpu)?;
    Ok(Some(tensor.to_dtype(dtype)?.to_device(device)?))
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

/// A tensor to be written; its bytes are made when they are, so that only one
/// tensor's are in memory.
pub(crate) struct Stored<'a> {
    name: &'a str,
    like: Tensor,
    made: Option<Box<dyn Fn() -> Result<Tensor> + 'a>>,
    /// Why the bytes could not be made: [`View`] has no place for it.
    failure: RefCell<Option<Error>>,
}

impl<'a> Stored<'a> {
    pub fn of(name: &'a str, tensor: Tensor) -> Self {
        Self { name, like: tensor, made: None, failure: RefCell::default() }
    }

    /// A tensor of the shape and type of `like`, made when it is written.
    pub fn made(name: &'a str, like: Tensor, made: impl Fn() -> Result<Tensor> + 'a) -> Self {
        Self { name, like, made: Some(Box::new(made)), failure: RefCell::default() }
    }

    fn bytes(&self) -> usize {
        self.like.elem_count() * self.like.dtype().size_in_bytes()
    }
}

impl View for &Stored<'_> {
    fn dtype(&self) -> Dtype {
        match self.like.dtype() {
            DType::F16 => Dtype::F16,
            DType::BF16 => Dtype::BF16,
            _ => Dtype::F32,
        }
    }

    fn shape(&self) -> &[usize] {
        self.like.dims()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let tensor = self.made.as_ref().map_or_else(|| Ok(self.like.clone()), |made| made());
        match tensor.and_then(|tensor| little_endian(&tensor)) {
            Ok(bytes) => Cow::Owned(bytes),
            Err(error) => {
                *self.failure.borrow_mut() = Some(error);
                Cow::Owned(vec![0; self.bytes()])
            }
        }
    }

    fn data_len(&self) -> usize {
        self.bytes()
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

/// Writes one file of tensors, with some strings beside them.
pub(crate) fn write_file(path: &Path, tensors: Vec<Stored<'_>>, extra: &[(&str, &str)]) -> Result<()> {
    if let Some(tensor) = tensors.iter().find(|t| !matches!(t.like.dtype(), DType::F32 | DType::F16 | DType::BF16)) {
        return Err(Error::Tensor {
            path: path.display().to_string(),
            tensor: tensor.name.to_owned(),
            message: format!("has type {:?}; only F32, F16 and BF16 are written", tensor.like.dtype()),
        });
    }
    // Older transformers refuse files without this entry.
    let entries = [("format", "pt")].into_iter().chain(extra.iter().copied());
    let metadata = entries.map(|(key, value)| (key.to_owned(), value.to_owned())).collect::<HashMap<_, _>>();
    let views = tensors.iter().map(|tensor| (tensor.name, tensor));
    let written = safetensors::serialize_to_file(views, Some(metadata), path);
    if let Some(error) = tensors.iter().find_map(|tensor| tensor.failure.borrow_mut().take()) {
        return Err(error);
    }
    written.map_err(|error| match error {
        SafeTensorError::IoError(source) => Error::Write { path: path.to_path_buf(), source },
        other => Error::WeightsFile { path: path.to_path_buf(), message: format!("cannot be laid out: {other}") },
    })
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
