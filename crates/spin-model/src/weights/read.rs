//! Tensors out of files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::{bf16, f16};

use super::header::{Entry, Header};
use super::{names, weight_files};
use crate::config::ModelConfig;
use crate::error::{Error, Result};

/// What becomes of a tensor that is not among those wanted.
pub(crate) enum Leftover {
    /// It is checked after the others, by a function of the caller's.
    Checked,
    /// It is refused, for this reason.
    Refused(String),
}

/// The tensor of a file, or where else the files are, to blame.
fn problem(path: &Path, tensor: &str, message: impl Into<String>) -> Error {
    Error::Tensor { path: path.display().to_string(), tensor: tensor.to_owned(), message: message.into() }
}

/// Reads the weights of a model's directory, converted to `dtype`.
///
/// What the files hold beyond them must be what stands for it: the output
/// projection of a tied model, and the rotary frequencies of old checkpoints.
/// transformers uses another projection than the embedding where both are
/// there, and other programs do not: `tie_word_embeddings` must say which.
///
/// # Errors
///
/// If a file is malformed, or a tensor is missing, unexpected, of the wrong
/// shape or not of finite numbers.
pub(crate) fn read_model(
    dir: &Path,
    config: &ModelConfig,
    device: &Device,
    dtype: DType,
) -> Result<BTreeMap<String, Tensor>> {
    let files = ModelFiles::open(dir, config)?;
    files.check_leftovers(config)?;
    let mut tensors = BTreeMap::new();
    for (header, entry, name) in files.wanted() {
        tensors.insert(name.to_owned(), read_tensor(header, entry, device, dtype)?);
    }
    Ok(tensors)
}

/// Whether [`read_model`] would read a directory, as far as can be told without
/// reading the weights: names, shapes and types, and what is not used.
pub(crate) fn check_model(dir: &Path, config: &ModelConfig) -> Result<()> {
    ModelFiles::open(dir, config)?.check_leftovers(config)
}

/// The files of a model with the names that their tensors stand for.
struct ModelFiles {
    headers: Vec<Header>,
    /// By stored name; the names are those of the configuration where they fit.
    names: BTreeMap<String, String>,
    wanted: BTreeSet<String>,
}

impl ModelFiles {
    /// Opens the files and compares names, shapes and types.
    fn open(dir: &Path, config: &ModelConfig) -> Result<Self> {
        let (listing, files) = weight_files(dir)?;
        let headers = files.iter().map(|file| Header::open(file)).collect::<Result<Vec<_>>>()?;
        let shapes: BTreeMap<String, Vec<usize>> = config.param_shapes().into_iter().collect();
        let mut stored = BTreeSet::new();
        for header in &headers {
            for entry in &header.entries {
                if !stored.insert(entry.name.as_str()) {
                    return Err(problem(&header.path, &entry.name, "is in more than one file"));
                }
            }
        }
        let wanted: BTreeSet<&str> = shapes.keys().map(String::as_str).collect();
        let fitting = names::readings(&stored, &wanted, config.tie_word_embeddings);
        let fits = fitting.is_some();
        let names = fitting.unwrap_or_else(|| stored.iter().map(|name| ((*name).into(), (*name).into())).collect());
        for header in &headers {
            for entry in &header.entries {
                let name = &names[&entry.name];
                match shapes.get(name) {
                    Some(shape) => check_entry(header, entry, shape)?,
                    None if is_spare_head(config, name) || is_frequencies(name) => {}
                    None => return Err(problem(&header.path, &entry.name, names::hint(&entry.name))),
                }
            }
        }
        if !fits && let Some(name) = wanted.iter().find(|name| !stored.contains(**name)) {
            return Err(problem(&listing, name, "is missing; config.json asks for it"));
        }
        Ok(Self { headers, names, wanted: shapes.into_keys().collect() })
    }

    fn all(&self) -> impl Iterator<Item = (&Header, &Entry, &str)> {
        self.headers.iter().flat_map(move |header| {
            header.entries.iter().map(move |entry| (header, entry, self.names[&entry.name].as_str()))
        })
    }

    /// The tensors of the model, in the order of their bytes.
    fn wanted(&self) -> impl Iterator<Item = (&Header, &Entry, &str)> {
        self.all().filter(|(_, _, name)| self.wanted.contains(*name))
    }

    fn check_leftovers(&self, config: &ModelConfig) -> Result<()> {
        for (header, entry, name) in self.all().filter(|(_, _, name)| !self.wanted.contains(*name)) {
            if is_frequencies(name) {
                check_frequencies(header, entry, config)?;
                continue;
            }
            let embedding = self.all().find(|(_, _, name)| *name == "model.embed_tokens.weight");
            let (other, own, _) = embedding.expect("a wanted tensor");
            if !same_numbers(header, entry, other, own)? {
                return Err(problem(
                    &header.path,
                    &entry.name,
                    "is not the embedding, but config.json says that they are one (`tie_word_embeddings`); set it to \
                     false to use this tensor, as transformers 5 does, or remove the tensor to use the embedding",
                ));
            }
        }
        Ok(())
    }
}

fn is_spare_head(config: &ModelConfig, name: &str) -> bool {
    config.tie_word_embeddings && name == "lm_head.weight"
}

/// Buffers of checkpoints by transformers before 4.32.
fn is_frequencies(name: &str) -> bool {
    name.ends_with("rotary_emb.inv_freq")
}

/// The stored frequencies are those of the configuration, up to the rounding of
/// their type; transformers computes with the latter.
fn check_frequencies(header: &Header, entry: &Entry, config: &ModelConfig) -> Result<()> {
    let expected = config.rope.frequencies();
    let stored = numbers(header, entry)?;
    let (relative, absolute) = match entry.dtype.as_str() {
        "BF16" => (1.0 / 128.0, 0.0),
        "F16" => (1.0 / 1024.0, 1e-7),
        _ => (1e-5, 0.0),
    };
    let close = |(stored, expected): (&f32, &f32)| (stored - expected).abs() <= relative * expected + absolute;
    if stored.len() == expected.len() && stored.iter().zip(&expected).all(close) {
        return Ok(());
    }
    Err(problem(
        &header.path,
        &entry.name,
        "holds other rotary frequencies than config.json describes; correct `rope_theta` and `rope_scaling` there, or \
         remove the tensor, which transformers does not use",
    ))
}

/// Whether two tensors hold the same numbers.
fn same_numbers(a_header: &Header, a: &Entry, b_header: &Header, b: &Entry) -> Result<bool> {
    if a.shape != b.shape {
        return Ok(false);
    }
    Ok(numbers(a_header, a)? == numbers(b_header, b)?)
}

/// Reads exactly the tensors `wanted` (names and shapes) of one file. Of others
/// `leftover` says what becomes of them; those to check are given back by name.
pub(crate) fn read_tensors(
    header: &Header,
    wanted: &[(String, Vec<usize>)],
    leftover: impl Fn(&str) -> Leftover,
    device: &Device,
    dtype: DType,
) -> Result<(BTreeMap<String, Tensor>, Vec<String>)> {
    let shapes: BTreeMap<&str, &[usize]> =
        wanted.iter().map(|(name, shape)| (name.as_str(), shape.as_slice())).collect();
    let (mut tensors, mut rest) = (BTreeMap::new(), Vec::new());
    for entry in &header.entries {
        match (shapes.get(entry.name.as_str()), leftover(&entry.name)) {
            (Some(shape), _) => {
                check_entry(header, entry, shape)?;
                tensors.insert(entry.name.clone(), read_tensor(header, entry, device, dtype)?);
            }
            (None, Leftover::Checked) => rest.push(entry.name.clone()),
            (None, Leftover::Refused(why)) => return Err(problem(&header.path, &entry.name, why)),
        }
    }
    match wanted.iter().find(|(name, _)| !tensors.contains_key(name)) {
        Some((name, _)) => Err(problem(&header.path, name, "is missing; the configuration asks for it")),
        None => Ok((tensors, rest)),
    }
}

/// Whether a tensor of a file holds the numbers of another one.
pub(crate) fn compare(header: &Header, name: &str, other: &Tensor) -> Result<bool> {
    let Some(entry) = header.entry(name) else { return Ok(false) };
    if entry.shape != other.dims() {
        return Ok(false);
    }
    let other = other.to_device(&Device::Cpu)?.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
    Ok(numbers(header, entry)? == other)
}

fn check_entry(header: &Header, entry: &Entry, shape: &[usize]) -> Result<()> {
    if entry.width().is_none() {
        let hint = if entry.dtype.starts_with('F') || entry.dtype == "I8" || entry.dtype == "U8" || entry.dtype == "I32"
        {
            "; quantised weights must be dequantised first"
        } else {
            ""
        };
        let message = format!("has type {}; only F32, F16, BF16 and F64 are read{hint}", entry.dtype);
        return Err(problem(&header.path, &entry.name, message));
    }
    if entry.shape == shape {
        return Ok(());
    }
    let message = format!("has shape {:?} where config.json asks for {shape:?}", entry.shape);
    Err(problem(&header.path, &entry.name, message))
}

/// A tensor in its type, or converted.
fn read_tensor(header: &Header, entry: &Entry, device: &Device, dtype: DType) -> Result<Tensor> {
    let shape = entry.shape.as_slice();
    // Converted before the transfer: not every device has every conversion.
    let tensor = match (entry.dtype.as_str(), dtype) {
        ("BF16", DType::BF16) => {
            Tensor::from_vec(same_type(header, entry, bf16::from_le_bytes, bf16::is_finite)?, shape, &Device::Cpu)?
        }
        ("F16", DType::F16) => {
            Tensor::from_vec(same_type(header, entry, f16::from_le_bytes, f16::is_finite)?, shape, &Device::Cpu)?
        }
        (stored, dtype) => {
            let values = finite_numbers(header, entry)?;
            if dtype == DType::F16 && stored != "F16" && values.iter().any(|x| x.abs() >= F16_OVERFLOW) {
                return Err(problem(&header.path, &entry.name, "is beyond the range of f16; use bf16 or f32"));
            }
            Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)?
        }
    };
    Ok(tensor.to_device(device)?)
}

/// What f16 rounds to infinity.
const F16_OVERFLOW: f32 = 65_520.0;

fn not_finite(header: &Header, entry: &Entry, at: usize) -> Error {
    let message = format!(
        "holds NaN or an infinity (number {at} of it); the weights are damaged, or were saved after a training had \
         diverged"
    );
    problem(&header.path, &entry.name, message)
}

fn reserved<T>(entry: &Entry) -> Result<Vec<T>> {
    let count: usize = entry.shape.iter().product();
    let mut values = Vec::new();
    let bytes = count.saturating_mul(size_of::<T>());
    values.try_reserve_exact(count).map_err(|_| Error::Memory { bytes })?;
    Ok(values)
}

fn same_type<T: Copy>(
    header: &Header,
    entry: &Entry,
    read: impl Fn([u8; 2]) -> T,
    finite: impl Fn(T) -> bool,
) -> Result<Vec<T>> {
    let mut values: Vec<T> = reserved(entry)?;
    header.chunks(entry, |bytes| {
        let start = values.len();
        values.extend(bytes.chunks_exact(2).map(|pair| read([pair[0], pair[1]])));
        // No early end: the loop is many numbers at a time.
        if values[start..].iter().fold(false, |bad, x| bad | !finite(*x)) {
            let at = values[start..].iter().position(|x| !finite(*x)).unwrap_or_default();
            return Err(not_finite(header, entry, start + at));
        }
        Ok(())
    })?;
    Ok(values)
}

/// All numbers of a tensor, which are checked where they are in the cache.
fn finite_numbers(header: &Header, entry: &Entry) -> Result<Vec<f32>> {
    numbers_checked(header, entry, |start, values| {
        if values.iter().fold(false, |bad, x| bad | !x.is_finite()) {
            let at = values.iter().position(|x| !x.is_finite()).unwrap_or_default();
            return Err(not_finite(header, entry, start + at));
        }
        Ok(())
    })
}

fn numbers(header: &Header, entry: &Entry) -> Result<Vec<f32>> {
    numbers_checked(header, entry, |_, _| Ok(()))
}

/// All numbers as f32; `check` is given each new piece with its start.
fn numbers_checked(header: &Header, entry: &Entry, check: impl Fn(usize, &[f32]) -> Result<()>) -> Result<Vec<f32>> {
    let mut values: Vec<f32> = reserved(entry)?;
    let mut bits: Vec<u16> = Vec::new();
    header.chunks(entry, |bytes| {
        let start = values.len();
        match entry.dtype.as_str() {
            "F64" => values.extend(bytes.chunks_exact(8).map(|x| f64::from_le_bytes(x.try_into().expect("8")) as f32)),
            "F32" => values.extend(bytes.chunks_exact(4).map(|x| f32::from_le_bytes(x.try_into().expect("4")))),
            half => {
                bits.clear();
                bits.extend(bytes.chunks_exact(2).map(|x| u16::from_le_bytes([x[0], x[1]])));
                values.resize(start + bits.len(), 0.0);
                if half == "F16" {
                    bits.reinterpret_cast::<f16>().convert_to_f32_slice(&mut values[start..]);
                } else {
                    bits.reinterpret_cast::<bf16>().convert_to_f32_slice(&mut values[start..]);
                }
            }
        }
        check(start, &values[start..])
    })?;
    Ok(values)
}
