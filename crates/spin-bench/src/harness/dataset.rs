//! The documents of a task, from a directory: in the hub's own layout
//! (`allenai/ai2_arc/ARC-Challenge/test-00000-of-00001.parquet`) or as JSON
//! (`arc_challenge/test.jsonl`).

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde_json::Value;
use spin_run::records::{self, Budget};
use spin_store::StoreError;
use spin_store::digest;

use super::task::{Doc, RawRow, Source, Task};
use crate::error::{BenchError, Result};

/// Rows and digests of the documents that scores are compared on, by
/// `task/split`; made by the test `pins_are_what_the_data_gives`.
const PINS: &str = include_str!("pins.tsv");

impl Source {
    /// The file of a split.
    ///
    /// # Errors
    /// When neither layout has it; the message names both places.
    pub fn find(&self, data: &Path, split: &str) -> Result<PathBuf> {
        let place = |path: &str| path.replace("{split}", split);
        if let Some(path) = &self.elsewhere {
            let path = PathBuf::from(place(&path.to_string_lossy()));
            return if path.exists() {
                Ok(path)
            } else {
                Err(missing(vec![path], "write it there, or correct `dataset` in the task file"))
            };
        }
        let candidates = vec![data.join(&self.repo).join(place(&self.path)), data.join(place(&self.local))];
        match candidates.iter().find(|path| path.exists()) {
            Some(path) => Ok(path.clone()),
            None => Err(missing(candidates, "get it with `spin-bench fetch`, or give the directory of the data sets")),
        }
    }
}

fn missing(places: Vec<PathBuf>, remedy: &str) -> BenchError {
    BenchError::NoData { places, remedy: remedy.into() }
}

const REMEDY: &str = "fetch or copy the data set again";

/// A file that is there and is not what it should be.
pub(super) fn bad_file(path: &Path, problem: impl Into<String>) -> BenchError {
    StoreError::corrupt(path, problem, REMEDY).into()
}

/// Most bytes of a text file that is read as a whole.
const MOST_TEXT: u64 = 4 << 30;

/// A text file.
pub(super) fn read_text(path: &Path) -> Result<String> {
    hashed_text(path).map(|(text, _)| text)
}

/// The same with the digest of the file.
fn hashed_text(path: &Path) -> Result<(String, String)> {
    records::read_text(path, MOST_TEXT).map_err(|e| match e {
        StoreError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            missing(vec![path.into()], "copy the data set again, with all its files")
        }
        other => other.into(),
    })
}

/// The rows of a file of any kind that [`records::read`] knows, with their
/// keys in order, and the digest of the file; one whose name tells no other
/// kind is a JSON list or has one under "examples".
///
/// # Errors
/// When the file cannot be read, with the line for JSON lines.
pub fn read_rows(path: &Path) -> Result<(Vec<RawRow>, String)> {
    let ending = records::ending(path);
    if !["parquet", "arrow", "feather", "jsonl", "ndjson", "csv", "tsv"].contains(&ending.as_str()) {
        return read_json(path);
    }
    let mut budget = Budget::new(&records::files(path)?, None, None);
    let mut rows = Vec::new();
    let digest = records::read(path, &[], &mut budget, &mut |row, record| match record {
        Ok(record) => {
            rows.push(record.into_map());
            Ok(ControlFlow::Continue(()))
        }
        Err(bad) if bad.reason == "not JSON" => {
            let problem = format!("line {row} is not valid JSON ({})", bad.detail);
            Err(StoreError::corrupt(path, problem, REMEDY))
        }
        Err(bad) => Err(StoreError::row(path, row, bad.detail, REMEDY)),
    })?;
    Ok((rows, digest))
}

fn read_json(path: &Path) -> Result<(Vec<RawRow>, String)> {
    let (text, digest) = hashed_text(path)?;
    let rows = match serde_json::from_str(&text) {
        Ok(Value::Array(rows)) => rows,
        Ok(Value::Object(mut file)) => match file.remove("examples") {
            Some(Value::Array(rows)) => rows,
            _ => return Err(bad_file(path, "has no list \"examples\"")),
        },
        Ok(_) => return Err(bad_file(path, "is neither a list nor an object with \"examples\"")),
        Err(e) => return Err(bad_file(path, format!("is not valid JSON ({e})"))),
    };
    let object = |(i, row)| match row {
        Value::Object(row) => Ok(row),
        _ => Err(bad_file(path, format!("has a row {i} that is not an object"))),
    };
    Ok((rows.into_iter().enumerate().map(object).collect::<Result<_>>()?, digest))
}

/// The documents of one split.
#[derive(Clone, Debug)]
pub struct DocSet {
    /// The file they are from.
    pub path: PathBuf,
    /// Its BLAKE3 digest.
    pub file_digest: String,
    /// The documents, in the file's order.
    pub docs: Vec<Doc>,
    /// Digest of each row as the file has it: documents are the same when
    /// their rows are, whatever the task shows of them.
    pub row_digests: Vec<String>,
    /// Digest of the documents, the same for every layout.
    pub docs_digest: String,
    /// Where they differ from those the leaderboard used, what differs.
    pub warning: Option<String>,
}

/// Reads a split of a task.
///
/// # Errors
/// When the file is missing or has a row that the task cannot read; the
/// message names file and row.
pub fn read_split(task: &Task, data: &Path, split: &str) -> Result<DocSet> {
    let path = task.source.find(data, split)?;
    let (rows, file_digest) = read_rows(&path)?;
    let (mut docs, mut row_digests) = (Vec::new(), Vec::new());
    for (i, row) in rows.into_iter().enumerate() {
        let doc = (task.read)(&row).map_err(|problem| BenchError::Doc {
            path: path.clone(),
            row: i,
            task: task.name.clone(),
            problem,
        })?;
        docs.push(doc);
        row_digests.push(digest::of_json(&Value::Object(row)));
    }
    if docs.is_empty() {
        return Err(bad_file(&path, "has no rows"));
    }
    let docs_digest = digest::of_json(&serde_json::to_value(&docs).expect("documents are plain data"));
    let warning = pin(&format!("{}/{split}", task.name)).and_then(|(rows, pinned)| {
        let same = pinned.is_none_or(|pinned| docs_digest.starts_with(pinned));
        match (docs.len() == rows, same) {
            (true, true) => None,
            (false, _) => Some(format!("has {} documents, the leaderboard's revision has {rows}", docs.len())),
            (true, false) => Some("has other documents than the leaderboard's revision".to_owned()),
        }
    });
    Ok(DocSet { path, file_digest, docs, row_digests, docs_digest, warning })
}

/// Rows and, where it is known, the beginning of the digest.
fn pin(key: &str) -> Option<(usize, Option<&'static str>)> {
    let line = PINS.lines().find(|line| line.split('\t').next() == Some(key))?;
    let mut fields = line.split('\t').skip(1);
    let rows = fields.next()?.parse().ok()?;
    Some((rows, fields.next().filter(|digest| !digest.is_empty())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::registry::{self, Registry};
    use crate::harness::{Examples, Profile};
    use std::fmt::Write;
    use std::sync::Arc;

    /// Writes what the file of pins should hold when it differs, but for
    /// HellaSwag, of which there is no copy: its counts are those of the
    /// harness's draws (`hellaswag_draws_need_no_data`).
    #[test]
    #[ignore = "needs SPIN_TEST_DATA"]
    fn pins_are_what_the_data_gives() {
        let data = Path::new(&std::env::var("SPIN_TEST_DATA").expect("cargo sets it")).join("benchmarks");
        let (other, pinned): (Vec<&str>, Vec<&str>) = PINS.lines().partition(|line| line.starts_with("hellaswag/"));
        assert_eq!(other.len(), 2);
        let mut text = String::new();
        let tasks = Registry::new(Profile::Current, &data, &[]).unwrap().tasks(&registry::all_names()).unwrap();
        for task in tasks.into_iter().filter(|task| task.name != "hellaswag") {
            let mut splits = vec![task.split.clone()];
            if !matches!(task.examples, Examples::Given(_)) {
                splits.extend(task.fewshot_split.clone());
            }
            for split in splits {
                let key = format!("{}/{split}", task.name);
                let found = read_split(&task, &data, &split).unwrap();
                writeln!(text, "{key}\t{}\t{}", found.docs.len(), &found.docs_digest[..16]).unwrap();
            }
        }
        if text.lines().collect::<Vec<_>>() != pinned {
            let out = std::env::temp_dir().join("pins.tsv");
            std::fs::write(&out, text).unwrap();
            panic!("the data has other pins, see {}", out.display());
        }
    }

    fn tiny(path: &Path) -> Task {
        let read = |row: &RawRow| {
            row.get("q")
                .and_then(Value::as_str)
                .map(|q| Doc { question: q.into(), answer: super::super::Answer::Text("a".into()) })
                .ok_or_else(|| "has no text \"q\"".to_owned())
        };
        Task::new("tiny", Source::file(path.into()), "test", Arc::new(read))
    }

    #[test]
    fn a_bad_row_is_named_with_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.jsonl");
        let task = tiny(&path);
        let error = |text: &str| {
            std::fs::write(&path, text).unwrap();
            read_split(&task, dir.path(), "test").unwrap_err().to_string()
        };
        let text = error("{\"q\": \"x\"}\n{\"p\": 1}\n");
        assert!(text.contains("t.jsonl") && text.contains("row 1") && text.contains("no text \"q\""), "{text}");
        let text = error("{\"q\": \"x\"}\n\n{\"q\"\n");
        assert!(text.contains("line 3 is not valid JSON"), "{text}");
        assert!(error("").contains("no rows"));
        std::fs::remove_file(&path).unwrap();
        let text = read_split(&task, dir.path(), "test").unwrap_err().to_string();
        assert!(text.contains("t.jsonl") && text.contains("task file"), "{text}");
    }

    #[test]
    fn other_data_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("openbookqa")).unwrap();
        let row = "{\"question_stem\": \"s\", \"choices\": [\"a\", \"b\"], \"gold\": 0}\n";
        std::fs::write(dir.path().join("openbookqa/test.jsonl"), row).unwrap();
        let task = super::super::tasks::openbookqa::openbookqa();
        let split = read_split(&task, dir.path(), "test").unwrap();
        assert_eq!(split.warning.as_deref(), Some("has 1 documents, the leaderboard's revision has 500"));
        std::fs::write(dir.path().join("openbookqa/test.jsonl"), row.repeat(500)).unwrap();
        let split = read_split(&task, dir.path(), "test").unwrap();
        assert_eq!(split.warning.as_deref(), Some("has other documents than the leaderboard's revision"));
    }

    /// A table is its rows, however they are written.
    #[test]
    fn rows_are_the_same_in_every_kind_of_file() {
        let dir = tempfile::tempdir().unwrap();
        let line = "{\"q\":\"x\",\"n\":\"1\"}\n";
        let files = [
            ("t.jsonl", line.to_owned()),
            ("u.jsonl", format!("\u{feff}{}", line.replace('\n', "\r\n\r\n"))),
            ("t.json", format!("[{line}]")),
            ("u.json", format!("\u{feff}{{\"examples\": [{line}]}}")),
            ("t.csv", "q,n\nx,1\n".to_owned()),
            ("t.tsv", "q\tn\r\nx\t1\r\n".to_owned()),
        ];
        let expect: Vec<RawRow> = vec![serde_json::from_str(line).unwrap()];
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            let (rows, digest) = read_rows(&path).unwrap();
            assert_eq!((&rows, digest), (&expect, digest::of_file(&path).unwrap().0), "{name}");
            assert_eq!(rows[0].keys().collect::<Vec<_>>(), ["q", "n"]);
        }
        let path = dir.path().join("cut.csv");
        std::fs::write(&path, "q,n\nx\n").unwrap();
        let error = read_rows(&path).unwrap_err().to_string();
        assert!(error.contains("cut.csv, row 2") && error.contains("1 values"), "{error}");
    }
}
