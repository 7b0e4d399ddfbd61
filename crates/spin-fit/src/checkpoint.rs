//! Checkpoints: weights, optimiser state, counters and the settings they
//! belong to, in one safetensors file, replaced by rename, so that there is
//! always one whole checkpoint. A digest of all of it stands in the file and
//! is checked before anything is used.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::Path;

use candle_core::safetensors::Load as _;
use candle_core::{Device, Tensor};
use rayon::prelude::*;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, View};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use spin_store::{StoreError, digest, fsutil};

use crate::error::{FitError, Result};
use crate::optim::StateTensor;

/// Counters beside the tensors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// Updates done, skipped ones included.
    pub update: usize,
    /// Lowest held-out loss so far.
    pub best_loss: Option<f64>,
    /// The update it was seen at.
    pub best_update: usize,
    /// Evaluations since.
    pub evaluations_since_best: usize,
    /// Whether the held-out margin has reached the one to stop at.
    pub margin_reached: bool,
    /// Updates left out because something was not finite.
    pub skipped: usize,
    /// Those of them since the last good one.
    pub skipped_in_a_row: usize,
}

/// What a training was started with, as far as it decides the numbers: dotted
/// keys with their values.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Settings(BTreeMap<String, Value>);

impl Settings {
    /// The leaves of a JSON value by dotted key: `{"fit": {"beta": 1}}` is
    /// `fit.beta = 1`.
    pub fn of(value: &Value) -> Settings {
        let mut settings = Settings::default();
        settings.collect("", value);
        settings
    }

    fn collect(&mut self, key: &str, value: &Value) {
        match value {
            Value::Object(table) => {
                for (name, value) in table {
                    let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                    self.collect(&key, value);
                }
            }
            leaf => {
                self.0.insert(key.to_owned(), leaf.clone());
            }
        }
    }

    /// The keys that differ, each with the value here and there:
    /// `fit.beta is 1 here and 0.1 there`.
    pub fn differences(&self, other: &Settings) -> Vec<String> {
        let say = |value: Option<&Value>| value.map_or("absent".to_owned(), Value::to_string);
        let keys: std::collections::BTreeSet<_> = self.0.keys().chain(other.0.keys()).collect();
        keys.into_iter()
            .filter(|key| self.0.get(*key) != other.0.get(*key))
            .map(|key| format!("{key} is {} here and {} there", say(self.0.get(key)), say(other.0.get(key))))
            .collect()
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    progress: Progress,
    settings: Settings,
    /// Digest of the lines of the log up to this checkpoint.
    log: String,
    /// Digest of the above and of all tensors: [`seal`].
    digest: String,
}

/// The digest of counters, settings and tensors, which are given by name with
/// what [`fingerprint`] says of each.
fn seal(record: &Record, mut tensors: Vec<String>) -> String {
    tensors.sort_unstable();
    let head = serde_json::json!({
        "log": record.log, "progress": record.progress, "settings": record.settings, "tensors": tensors,
    });
    digest::of_json(&head)
}

/// A tensor's name, type, shape, and the digest of its numbers.
pub(crate) fn fingerprint(name: &str, tensor: &impl View) -> String {
    format!("{name} {:?} {:?} {}", tensor.dtype(), tensor.shape(), digest::of_bytes(&tensor.data()))
}

const META: &str = "spin.checkpoint";

/// A tensor on its way to disk; numbers in memory are not copied first.
pub(crate) struct Entry<'a>(pub StateTensor<'a>);

impl View for Entry<'_> {
    fn dtype(&self) -> Dtype {
        match &self.0 {
            StateTensor::Host(..) => Dtype::F32,
            StateTensor::Tensor(tensor) => View::dtype(tensor),
        }
    }

    fn shape(&self) -> &[usize] {
        match &self.0 {
            StateTensor::Host(_, shape) => shape,
            StateTensor::Tensor(tensor) => tensor.dims(),
        }
    }

    fn data(&self) -> Cow<'_, [u8]> {
        match &self.0 {
            StateTensor::Host(values, _) => little_endian(values),
            StateTensor::Tensor(tensor) => View::data(tensor),
        }
    }

    fn data_len(&self) -> usize {
        match &self.0 {
            StateTensor::Host(values, _) => size_of_val(*values),
            StateTensor::Tensor(tensor) => View::data_len(tensor),
        }
    }
}

#[cfg(target_endian = "little")]
fn little_endian(values: &[f32]) -> Cow<'_, [u8]> {
    // SAFETY: any bytes of f32 are bytes, and the length is theirs.
    Cow::Borrowed(unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) })
}

#[cfg(not(target_endian = "little"))]
fn little_endian(values: &[f32]) -> Cow<'_, [u8]> {
    Cow::Owned(values.iter().flat_map(|value| value.to_le_bytes()).collect())
}

/// Replaces the checkpoint at `path`, durably. `log` is the digest of the log
/// up to it.
///
/// # Errors
/// When it cannot be written; the old one is then untouched.
pub fn save(
    path: &Path,
    tensors: Vec<(String, StateTensor<'_>)>,
    progress: &Progress,
    settings: &Settings,
    log: &str,
) -> Result<()> {
    let tensors: Vec<_> = tensors.into_iter().map(|(name, tensor)| (name, Entry(tensor))).collect();
    let prints = tensors.par_iter().map(|(name, entry)| fingerprint(name, entry)).collect();
    write(path, tensors, prints, progress, settings, log)
}

/// The same of tensors that are asked for one by one, in whatever order, and
/// whose fingerprints are known.
///
/// # Errors
/// As [`save`].
pub(crate) fn write(
    path: &Path,
    tensors: Vec<(String, impl View)>,
    prints: Vec<String>,
    progress: &Progress,
    settings: &Settings,
    log: &str,
) -> Result<()> {
    let mut record =
        Record { progress: progress.clone(), settings: settings.clone(), log: log.into(), digest: String::new() };
    record.digest = seal(&record, prints);
    let text = serde_json::to_string(&record).expect("counters and settings are plain data");
    let metadata = HashMap::from([(META.to_owned(), text)]);
    let dir = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let tmp = dir.join(format!(".tmp-{name}"));
    let write = || -> Result<()> {
        // One entry of metadata: more would come in an order of their own each time.
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

/// A checkpoint read back.
#[derive(Debug)]
pub struct Checkpoint {
    /// Its counters.
    pub progress: Progress,
    /// Digest of the log up to it.
    pub log: String,
    tensors: BTreeMap<String, Tensor>,
}

impl Checkpoint {
    /// Takes out the tensors whose names begin with `prefix`, without it.
    pub fn take(&mut self, prefix: &str) -> BTreeMap<String, Tensor> {
        let (taken, rest): (BTreeMap<_, _>, _) =
            std::mem::take(&mut self.tensors).into_iter().partition(|(name, _)| name.starts_with(prefix));
        self.tensors = rest;
        taken.into_iter().map(|(name, tensor)| (name[prefix.len()..].to_owned(), tensor)).collect()
    }
}

/// The header of a safetensors file.
#[derive(Deserialize)]
struct Header {
    #[serde(rename = "__metadata__")]
    metadata: BTreeMap<String, String>,
    #[serde(flatten)]
    places: BTreeMap<String, Place>,
}

/// Where a tensor is, in bytes behind the header.
#[derive(Deserialize)]
struct Place {
    dtype: Dtype,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

/// Reads a checkpoint back.
///
/// # Errors
/// [`FitError::Checkpoint`] when it is damaged or no checkpoint,
/// [`FitError::OtherSettings`] when it is one of other settings.
pub fn load(path: &Path, settings: &Settings) -> Result<Checkpoint> {
    load_parts(path, settings, &|_, tensor| Ok(tensor))
}

/// As [`load`], keeping of each tensor what `part` gives of it, by its name:
/// all of it is checked, one tensor after the other.
///
/// # Errors
/// As [`load`].
pub(crate) fn load_parts(
    path: &Path,
    settings: &Settings,
    part: &dyn Fn(&str, Tensor) -> Result<Tensor>,
) -> Result<Checkpoint> {
    let bad = |problem: String| FitError::Checkpoint { path: path.display().to_string(), problem };
    let damaged = |e: &dyn std::fmt::Display| bad(format!("is damaged ({e})"));
    let read = |source: std::io::Error| match source.kind() {
        ErrorKind::UnexpectedEof => damaged(&"it ends early"),
        _ => StoreError::io("read", path)(source).into(),
    };
    let mut file = File::open(path).map_err(read)?;
    let length = file.metadata().map_err(read)?.len();
    let mut size = [0; 8];
    file.read_exact(&mut size).map_err(read)?;
    let size = u64::from_le_bytes(size);
    if size > length {
        return Err(damaged(&"it ends early"));
    }
    let mut header = vec![0; size as usize];
    file.read_exact(&mut header).map_err(read)?;
    let Header { metadata, places } = serde_json::from_slice(&header).map_err(|e| damaged(&e))?;
    let text = metadata.get(META).ok_or_else(|| bad("has no counters".into()))?;
    let record: Record = serde_json::from_str(text).map_err(|e| damaged(&e))?;
    // One tensor after the other: neither the file nor its tensors are twice in memory.
    let (mut tensors, mut prints, mut at) = (BTreeMap::new(), Vec::new(), 0);
    let mut places: Vec<(String, Place)> = places.into_iter().collect();
    places.sort_by_key(|(_, place)| place.data_offsets);
    for (name, place) in places {
        let (start, end) = place.data_offsets;
        if start != at || end < start || end > length {
            return Err(damaged(&format!("{name} is not where it belongs")));
        }
        at = end;
        let mut bytes = vec![0; (end - start) as usize];
        file.read_exact(&mut bytes).map_err(read)?;
        let view = TensorView::new(place.dtype, place.shape, &bytes).map_err(|e| damaged(&e))?;
        prints.push(fingerprint(&name, &view));
        let kept = part(&name, view.load(&Device::Cpu)?)?;
        tensors.insert(name, kept);
    }
    if 8 + size + at != length {
        return Err(damaged(&"there is more in it than it says"));
    }
    if seal(&record, prints) != record.digest {
        return Err(bad("is damaged: its digest is not that of what it holds".into()));
    }
    let differences = settings.differences(&record.settings);
    if !differences.is_empty() {
        return Err(FitError::OtherSettings { path: path.display().to_string(), differences: differences.join("; ") });
    }
    Ok(Checkpoint { progress: record.progress, log: record.log, tensors })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn settings() -> Settings {
        Settings::of(&json!({"seed": 1, "fit": {"beta": 0.1, "betas": [0.9, 0.999]}, "parents": {"model": "m@v1 ab"}}))
    }

    #[test]
    fn what_is_saved_comes_back_and_damage_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.safetensors");
        let values = [1f32, f32::MIN_POSITIVE, -3.5];
        let tensors = || {
            vec![
                ("weights.w".to_owned(), StateTensor::Tensor(Tensor::new(&values, &Device::Cpu).unwrap())),
                ("optimizer.w.square_avg".to_owned(), StateTensor::Host(&values, vec![3, 1])),
            ]
        };
        let progress = Progress { update: 7, best_loss: Some(0.1 + 0.2), ..Default::default() };
        save(&path, tensors(), &progress, &settings(), "of the log").unwrap();
        let mut read = load(&path, &settings()).unwrap();
        assert_eq!((&read.progress, read.log.as_str()), (&progress, "of the log"));
        assert_eq!(read.take("weights.")["w"].to_vec1::<f32>().unwrap(), values);
        let state = read.take("optimizer.");
        assert_eq!(state["w.square_avg"].dims(), [3, 1]);
        assert_eq!(state["w.square_avg"].flatten_all().unwrap().to_vec1::<f32>().unwrap(), values);
        assert!(read.take("").is_empty());
        std::fs::write(&path, &std::fs::read(&path).unwrap()[..20]).unwrap();
        assert!(load(&path, &settings()).unwrap_err().to_string().contains("delete it to train from the start"));
    }

    #[test]
    fn no_flipped_bit_passes_for_a_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.safetensors");
        let values = [1f32, 0.0, -3.5];
        let tensors = vec![
            ("weights.w".to_owned(), StateTensor::Tensor(Tensor::new(&[2f32, 3.0], &Device::Cpu).unwrap())),
            ("optimizer.w.square_avg".to_owned(), StateTensor::Host(&values, vec![3])),
        ];
        let progress = Progress { update: 7, best_loss: Some(0.25), ..Default::default() };
        save(&path, tensors, &progress, &settings(), "of the log").unwrap();
        let good = std::fs::read(&path).unwrap();
        let (mut refused, mut kept) = (0, 0);
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                std::fs::write(&path, &bad).unwrap();
                match load(&path, &settings()) {
                    Err(FitError::Checkpoint { path: named, .. }) => {
                        assert!(named.ends_with("c.safetensors"));
                        refused += 1;
                    }
                    // White space of the header may take other forms; what it holds may not.
                    Ok(mut read) => {
                        assert_eq!((&read.progress, read.log.as_str()), (&progress, "of the log"), "byte {at}");
                        assert_eq!(read.take("weights.")["w"].to_vec1::<f32>().unwrap(), [2.0, 3.0], "byte {at}");
                        let state = read.take("optimizer.");
                        assert_eq!(state["w.square_avg"].to_vec1::<f32>().unwrap(), values, "byte {at}");
                        kept += 1;
                    }
                    Err(other) => panic!("bit {bit} of byte {at}: {other}"),
                }
            }
        }
        // Of the padding at the end of the header, a few.
        assert!(refused > 100 * kept && refused > 8 * 500, "{refused} refused, {kept} kept");
    }

    #[test]
    fn equal_checkpoints_are_equal_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = || {
            let path = dir.path().join("c.safetensors");
            let names = ["b", "a", "c"].map(|name| (name.to_owned(), StateTensor::Host(&[1.0], vec![1])));
            save(&path, names.into(), &Progress::default(), &settings(), "").unwrap();
            std::fs::read(&path).unwrap()
        };
        let first = bytes();
        assert!((0..8).all(|_| bytes() == first));
    }

    #[test]
    fn a_checkpoint_of_other_settings_is_refused_with_what_differs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.safetensors");
        save(&path, Vec::new(), &Progress::default(), &settings(), "").unwrap();
        let other = Settings::of(&json!({"seed": 1, "fit": {"beta": 5.0, "alpha": 0.9, "betas": [0.9, 0.999]},
            "parents": {"model": "m@v2 cd"}}));
        let said = load(&path, &other).unwrap_err().to_string();
        for part in [
            "fit.beta is 5.0 here and 0.1 there",
            "fit.alpha is 0.9 here and absent there",
            "parents.model is \"m@v2 cd\" here and \"m@v1 ab\" there",
            "delete it",
        ] {
            assert!(said.contains(part), "no {part:?} in {said}");
        }
        assert!(!said.contains("seed") && !said.contains("betas"), "{said}");
    }
}
