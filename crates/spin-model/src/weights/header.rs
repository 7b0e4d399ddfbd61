//! What a safetensors file says of itself, checked before it is believed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// The format's own limit on the length of a header, in bytes.
const MAX_HEADER: u64 = 100_000_000;
/// Bytes of a tensor that are read at a time.
const CHUNK: usize = 1 << 18;

/// An open file of tensors.
pub(crate) struct Header {
    pub path: PathBuf,
    /// The tensors in the order of their bytes.
    pub entries: Vec<Entry>,
    /// The strings beside the tensors.
    pub metadata: BTreeMap<String, String>,
    file: File,
    data: u64,
}

/// A tensor of a file.
pub(crate) struct Entry {
    pub name: String,
    /// As the file spells it.
    pub dtype: String,
    pub shape: Vec<usize>,
    start: u64,
    end: u64,
}

impl Entry {
    /// Bytes of one number of the types of floats that are read.
    pub fn width(&self) -> Option<usize> {
        match self.dtype.as_str() {
            "F64" => Some(8),
            "F32" => Some(4),
            "F16" | "BF16" => Some(2),
            _ => None,
        }
    }

    fn read(name: &str, value: &Value) -> Option<Self> {
        let size = |value: &Value| value.as_u64().and_then(|size| usize::try_from(size).ok());
        let offsets: Vec<u64> =
            value.get("data_offsets")?.as_array()?.iter().map(Value::as_u64).collect::<Option<_>>()?;
        let entry = Self {
            name: name.to_owned(),
            dtype: value.get("dtype")?.as_str()?.to_owned(),
            shape: value.get("shape")?.as_array()?.iter().map(size).collect::<Option<_>>()?,
            start: *offsets.first()?,
            end: *offsets.get(1)?,
        };
        (offsets.len() == 2 && entry.start <= entry.end).then_some(entry)
    }

    /// Whether the bytes are as many as shape and type need, if they are known.
    fn fits(&self) -> bool {
        let Some(width) = self.width() else { return true };
        let bytes = self.shape.iter().try_fold(width, |bytes, size| bytes.checked_mul(*size));
        bytes.is_some_and(|bytes| bytes as u64 == self.end - self.start)
    }
}

impl Header {
    /// Opens a file and reads its header; memory stays within the file's size.
    ///
    /// # Errors
    ///
    /// If it is not a file, is cut short, or its header contradicts itself.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |source| Error::Read { path: path.to_path_buf(), source };
        let damaged = |what: &str| Error::WeightsFile {
            path: path.to_path_buf(),
            message: format!("not a safetensors file ({what}); fetch it again"),
        };
        // Opening a named pipe would wait for its writer.
        let kind = std::fs::metadata(path).map_err(failed)?;
        if !kind.is_file() {
            return Err(damaged("it is not a regular file"));
        }
        let mut file = File::open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let mut size = [0; 8];
        if length < 8 {
            return Err(damaged("it is shorter than a header"));
        }
        file.read_exact(&mut size).map_err(failed)?;
        let size = u64::from_le_bytes(size);
        if size > MAX_HEADER || size > length - 8 {
            return Err(damaged("its header is longer than it may be"));
        }
        let mut text = vec![0; size as usize];
        file.read_exact(&mut text).map_err(failed)?;
        let text = String::from_utf8(text).map_err(|_| damaged("its header is not text"))?;
        let map: Map<String, Value> =
            serde_json::from_str(&text).map_err(|error| damaged(&format!("its header is no JSON object: {error}")))?;
        let mut metadata = BTreeMap::new();
        let mut entries = Vec::with_capacity(map.len());
        for (name, value) in &map {
            if name == "__metadata__" {
                let strings = value.as_object().into_iter().flatten();
                metadata = strings.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect();
                continue;
            }
            let entry =
                Entry::read(name, value).ok_or_else(|| damaged(&format!("tensor `{name}` is not described")))?;
            if !entry.fits() {
                return Err(damaged(&format!("tensor `{name}` has other bytes than its shape needs")));
            }
            entries.push(entry);
        }
        // JSON keeps the last of equal names.
        if text.matches("\"data_offsets\"").count() != entries.len() {
            return Err(damaged("a tensor is described twice"));
        }
        entries.sort_by_key(|entry| (entry.start, entry.end));
        let data = 8 + size;
        let mut next = 0;
        for entry in &entries {
            if entry.start != next {
                return Err(damaged(&format!("tensor `{}` does not start where the one before it ends", entry.name)));
            }
            next = entry.end;
        }
        if next != length - data {
            return Err(damaged(&format!(
                "it has {} bytes of tensors where its header describes {next}",
                length - data
            )));
        }
        Ok(Self { path: path.to_path_buf(), entries, metadata, file, data })
    }

    /// The tensor of a name.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == name)
    }

    /// Gives the bytes of a tensor in pieces that hold whole numbers.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or as `each`.
    pub fn chunks(&self, entry: &Entry, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let failed = |source| Error::Read { path: self.path.clone(), source };
        let mut file = &self.file;
        file.seek(SeekFrom::Start(self.data + entry.start)).map_err(failed)?;
        let mut left = (entry.end - entry.start) as usize;
        let mut buffer = vec![0; CHUNK.min(left)];
        while left > 0 {
            let piece = left.min(CHUNK);
            file.read_exact(&mut buffer[..piece]).map_err(failed)?;
            each(&buffer[..piece])?;
            left -= piece;
        }
        Ok(())
    }
}
