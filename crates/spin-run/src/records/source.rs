//! Which files a path stands for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use walkdir::WalkDir;

use spin_store::error::{Result, StoreError};

/// A file of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its name below the source.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
}

/// Data files by their names' endings, without those of packers.
const ENDINGS: [&str; 8] = ["jsonl", "ndjson", "json", "parquet", "csv", "tsv", "arrow", "feather"];
const PACKED: [&str; 3] = ["gz", "zst", "zstd"];
/// What lies beside data and holds no rows.
const RECORDS: [&str; 5] =
    ["dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json"];
const SPLITS: [&str; 6] = ["train", "test", "validation", "valid", "dev", "eval"];

/// The ending of a file's name that says how its rows are written, in lower
/// case; the one before it for a packed file.
pub fn ending(path: &Path) -> String {
    let lower = |p: &Path| p.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let last = lower(path);
    if PACKED.contains(&last.as_str()) { lower(Path::new(path.file_stem().unwrap_or_default())) } else { last }
}

fn is_data(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    !name.starts_with('.') && !RECORDS.contains(&name.as_ref()) && ENDINGS.contains(&ending(path).as_str())
}

/// Whether a directory holds data rather than a model.
pub fn is_data_dir(dir: &Path) -> bool {
    if dir.join("config.json").exists() {
        return false;
    }
    ["dataset_dict.json", "state.json"].iter().any(|f| dir.join(f).exists())
        || [dir.to_path_buf(), dir.join("data")].iter().any(|d| data_files(d).is_ok_and(|files| !files.is_empty()))
}

/// The files that a path stands for, in the order in which their rows count:
/// a file itself; of a directory that `datasets` saved, those its record
/// lists; of another directory, its data files by name; of a pattern with
/// `*`, `?` or `[…]`, the files it fits, by name.
///
/// # Errors
/// When there are none, when one is a pipe or device, or when a directory
/// holds several splits or formats; the message says what to write instead.
pub fn files(path: &Path) -> Result<Vec<SourceFile>> {
    let meta = match path.metadata() {
        Ok(meta) => meta,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && is_pattern(path) => return matching(path),
        Err(e) => return Err(StoreError::io("read", path)(e)),
    };
    let found = if meta.is_dir() { directory(path)? } else { vec![path.to_path_buf()] };
    let base = if meta.is_dir() { path } else { path.parent().unwrap_or(Path::new("")) };
    described(found, base)
}

/// The files of a source, and what it is called.
#[derive(Clone, Debug, PartialEq)]
pub struct Files {
    /// The source as people name it.
    pub path: PathBuf,
    /// Its files, in the order in which their rows count.
    pub list: Vec<SourceFile>,
    /// Where they are from, if not from this machine; noted with what is
    /// imported, outside its digests.
    pub hub: Option<Value>,
}

impl Files {
    /// Those of a path, as [`files`] finds them.
    ///
    /// # Errors
    /// As [`files`].
    pub fn at(path: &Path) -> Result<Files> {
        Ok(Files { path: path.into(), list: files(path)?, hub: None })
    }

    /// Those of these names below a directory, of the source `path`.
    ///
    /// # Errors
    /// When one is no file.
    pub fn below(dir: &Path, names: &[String], path: PathBuf, hub: Value) -> Result<Files> {
        let list = described(names.iter().map(|name| dir.join(name)).collect(), dir)?;
        Ok(Files { path, list, hub: Some(hub) })
    }
}

/// Which of the paths of a repository `wanted` means: one of them, a pattern,
/// a directory, or what they begin with, as `main/train` for
/// `main/train-00000-of-00001.parquet`; all data files where it is empty.
/// `shown` is the repository as people name it.
///
/// # Errors
/// As [`files`].
pub fn choose(paths: &[&str], wanted: &str, shown: &Path) -> Result<Vec<String>> {
    let data: Vec<&str> = paths.iter().copied().filter(|path| is_data(Path::new(path))).collect();
    let in_dir =
        |dir: &str| data.iter().copied().filter(|path| path.rsplit_once('/').map_or("", |p| p.0) == dir).collect();
    let found: Vec<&str> = if wanted.is_empty() {
        let top: Vec<&str> = in_dir("");
        if top.is_empty() { in_dir("data") } else { top }
    } else if is_pattern(Path::new(wanted)) {
        let bad = |e| StoreError::corrupt(&shown.join(wanted), format!("is no pattern ({e})"), "correct the pattern");
        let fits = glob::Pattern::new(wanted).map_err(bad)?;
        data.iter().copied().filter(|path| fits.matches_with(path, PATTERNS)).collect()
    } else if paths.contains(&wanted) {
        vec![wanted]
    } else {
        let begins = |path: &&str| path.strip_prefix(wanted).is_some_and(|rest| rest.starts_with(['-', '.', '/']));
        data.iter().copied().filter(begins).collect()
    };
    if found.is_empty() {
        let first: Vec<&str> = data.iter().copied().take(LISTED).collect();
        let more = if data.len() > LISTED { ", …" } else { "" };
        let (problem, remedy) = match first.is_empty() {
            true => ("holds no data files".to_owned(), "name another repository".to_owned()),
            false => {
                (format!("has nothing that {wanted:?} means"), format!("its data files are {}{more}", first.join(", ")))
            }
        };
        return Err(StoreError::corrupt(shown, problem, remedy));
    }
    one_kind(shown, &found.iter().map(|path| shown.join(path)).collect::<Vec<_>>())?;
    Ok(found.into_iter().map(str::to_owned).collect())
}

/// Data files of a repository that a message lists.
const LISTED: usize = 10;

/// `*` stays inside a directory, and finds nothing hidden.
const PATTERNS: glob::MatchOptions =
    glob::MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };

fn described(paths: Vec<PathBuf>, base: &Path) -> Result<Vec<SourceFile>> {
    let describe = |path: PathBuf| {
        let meta = path.metadata().map_err(StoreError::io("read", &path))?;
        if !meta.is_file() {
            return Err(not_a_file(&path, &meta));
        }
        let name = path.strip_prefix(base).unwrap_or(&path).to_string_lossy().into_owned();
        Ok(SourceFile { name, size: meta.len(), path })
    };
    paths.into_iter().map(describe).collect()
}

/// A pipe gives its bytes once, so that what is hashed could not be what is
/// imported.
pub(super) fn not_a_file(path: &Path, meta: &std::fs::Metadata) -> StoreError {
    use std::os::unix::fs::FileTypeExt;
    let kind = meta.file_type();
    let what = if kind.is_fifo() {
        "a pipe"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_dir() {
        "a directory"
    } else {
        "a device"
    };
    StoreError::corrupt(
        path,
        format!("is {what}, not a file"),
        "write its rows to a file first: what is imported is recorded by its digest",
    )
}

fn is_pattern(path: &Path) -> bool {
    path.to_string_lossy().contains(['*', '?', '['])
}

fn matching(pattern: &Path) -> Result<Vec<SourceFile>> {
    let bad = |problem: String| StoreError::corrupt(pattern, problem, "correct the pattern");
    let text = pattern.to_str().ok_or_else(|| bad("is not UTF-8, which a pattern must be".into()))?;
    let fits = glob::Pattern::new(text).map_err(|e| bad(format!("is no pattern ({e})")))?;
    let fixed: PathBuf = pattern.components().take_while(|c| !is_pattern(Path::new(c.as_os_str()))).collect();
    let base = if fixed.as_os_str().is_empty() { Path::new(".") } else { &fixed };
    let depth = match text.contains("**") {
        true => usize::MAX,
        false => pattern.components().count() - fixed.components().count(),
    };
    let mut paths = Vec::new();
    // glob's own walk ends the program at a name that is not UTF-8.
    for entry in WalkDir::new(base).follow_links(true).min_depth(1).max_depth(depth) {
        let entry = match entry {
            Ok(entry) => entry,
            Err(e) if e.depth() == 0 && e.io_error().is_some_and(|e| e.kind() == std::io::ErrorKind::NotFound) => break,
            Err(e) => return Err(StoreError::io("read", base)(e.into())),
        };
        let path = fixed.join(entry.path().strip_prefix(base).unwrap_or(entry.path()));
        if !entry.file_type().is_dir() && path.to_str().is_some_and(|path| fits.matches_with(path, PATTERNS)) {
            paths.push(path);
        }
    }
    if paths.is_empty() {
        return Err(bad("fits no file".into()));
    }
    paths.sort();
    described(paths, &fixed)
}

fn data_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(StoreError::io("read", dir))? {
        let path = entry.map_err(StoreError::io("read", dir))?.path();
        if is_data(&path) && !path.is_dir() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn directory(dir: &Path) -> Result<Vec<PathBuf>> {
    let record = |name: &str| -> Result<Option<Value>> {
        let path = dir.join(name);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(StoreError::io("read", path)(e)),
        };
        let value = serde_json::from_str(&text)
            .map_err(|e| StoreError::corrupt(&path, format!("is not JSON ({e})"), "save the data set again"))?;
        Ok(Some(value))
    };
    if let Some(dict) = record("dataset_dict.json")? {
        let splits: Vec<&str> = dict["splits"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let first = splits.first().copied().unwrap_or("train");
        return Err(StoreError::corrupt(
            dir,
            format!("holds the splits {}", splits.join(", ")),
            format!("give the directory of one, as {}", dir.join(first).display()),
        ));
    }
    if let Some(state) = record("state.json")? {
        return saved(dir, &state);
    }
    let mut found = data_files(dir)?;
    if found.is_empty() && dir.join("data").is_dir() {
        found = data_files(&dir.join("data"))?;
    }
    if found.is_empty() {
        return Err(StoreError::corrupt(
            dir,
            "holds no data files",
            format!(
                "give a file, a pattern, or a directory with files of {}",
                ENDINGS.map(|e| format!(".{e}")).join(" ")
            ),
        ));
    }
    one_kind(dir, &found)?;
    Ok(found)
}

/// The files of `Dataset.save_to_disk`, in the order of its record.
fn saved(dir: &Path, state: &Value) -> Result<Vec<PathBuf>> {
    let bad = |problem: &str, remedy: &str| StoreError::corrupt(&dir.join("state.json"), problem, remedy);
    let again = "save the data set again with `datasets`";
    let Some(list) = state["_data_files"].as_array() else {
        return Err(bad("has no list \"_data_files\"", again));
    };
    if !(state["_indices_data_files"].is_null() && state["_indices_files"].is_null()) {
        return Err(bad("speaks of a selection of rows", "call `flatten_indices()` and save the data set again"));
    }
    let name = |item: &Value| {
        let name = item["filename"].as_str().unwrap_or_default();
        let plain = !name.is_empty() && Path::new(name).components().count() == 1 && !name.contains("..");
        plain.then(|| dir.join(name)).ok_or_else(|| bad("names a file that is not in this directory", again))
    };
    let files = list.iter().map(name).collect::<Result<Vec<_>>>()?;
    if files.is_empty() {
        return Err(bad("lists no files: the data set is empty", "give a data set with rows"));
    }
    Ok(files)
}

/// A directory's files are one table only when they are of one format and one
/// split.
fn one_kind(dir: &Path, files: &[PathBuf]) -> Result<()> {
    let several = |what: &str, groups: &BTreeMap<String, Vec<&PathBuf>>| {
        let list: Vec<String> = groups.iter().map(|(name, files)| format!("{name} ({})", files.len())).collect();
        let example = groups.values().find_map(|f| f.first()).map_or(dir, |f| f.as_path());
        StoreError::corrupt(
            dir,
            format!("holds files of several {what}: {}", list.join(", ")),
            format!("give one file, as {}, or a pattern, as {}", example.display(), pattern_for(dir, groups)),
        )
    };
    let mut formats: BTreeMap<String, Vec<&PathBuf>> = BTreeMap::new();
    let mut splits: BTreeMap<String, Vec<&PathBuf>> = BTreeMap::new();
    for file in files {
        formats.entry(format!(".{}", ending(file))).or_default().push(file);
        if let Some(split) = split_of(file) {
            splits.entry(split.into()).or_default().push(file);
        }
    }
    if formats.len() > 1 {
        return Err(several("formats", &formats));
    }
    if splits.len() > 1 {
        return Err(several("splits", &splits));
    }
    Ok(())
}

/// The word of a file's name that is a split's, as `datasets` looks for it.
fn split_of(file: &Path) -> Option<&'static str> {
    let name = file.file_name()?.to_string_lossy().to_ascii_lowercase();
    let mut words = name.split(|c: char| !c.is_ascii_alphanumeric());
    words.find_map(|word| SPLITS.into_iter().find(|split| *split == word))
}

fn pattern_for(dir: &Path, groups: &BTreeMap<String, Vec<&PathBuf>>) -> String {
    let (name, files) = groups.iter().find(|(name, _)| *name == "train").or(groups.iter().next()).expect("not empty");
    let place = files.first().and_then(|f| f.parent()).unwrap_or(dir);
    let pattern = if name.starts_with('.') { format!("*{name}") } else { format!("{name}*") };
    place.join(pattern).display().to_string()
}
