//! Everything that reads files from outside, each with good inputs.
//!
//! Who makes inputs is elsewhere: `spin-tests` mutates good ones for a moment in every
//! test run, `tests/fuzz` lets coverage guide it for hours. Both hold readers to the same:
//! one may refuse, in words; it may not panic, hang, or write outside of its directory.

mod forged;
mod model;
mod rows;
mod run;
mod store;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// What is read.
pub const TARGETS: [&str; 12] = [
    "manifest",
    "journal",
    "reference",
    "run-file",
    "set",
    "jsonl",
    "csv",
    "parquet",
    "bundle",
    "safetensors",
    "template",
    "task-file",
];

type Read = Box<dyn Fn(&[u8]) -> anyhow::Result<()>>;

/// Good inputs of a reader, and the reader.
pub(crate) struct Target {
    seeds: Vec<Vec<u8>>,
    read: Read,
}

impl Target {
    fn new(seeds: Vec<Vec<u8>>, read: impl Fn(&[u8]) -> anyhow::Result<()> + 'static) -> Target {
        Target { seeds, read: Box::new(read) }
    }
}

/// What was read is of no more use.
pub(crate) fn read_as<T, E: Into<anyhow::Error>>(result: Result<T, E>) -> anyhow::Result<()> {
    result.map(drop).map_err(Into::into)
}

/// A file of the repository.
pub(crate) fn shipped(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// Templates of tasks, from the golden values.
pub(crate) fn templates() -> anyhow::Result<Vec<String>> {
    let cases: Vec<[String; 3]> = serde_json::from_slice(&fs::read(shipped("tests/golden/task_templates.json"))?)?;
    Ok(cases.into_iter().map(|[source, ..]| source).collect())
}

/// Directories around the one that a reader has to itself: where `../` leads to.
const AROUND: [&str; 3] = ["a", "b", "c"];

/// A reader with a directory of its own.
pub struct Reader {
    target: Target,
    home: tempfile::TempDir,
}

impl Reader {
    /// The reader of this name.
    ///
    /// # Errors
    /// When there is none, or its good inputs cannot be made.
    pub fn new(name: &str) -> anyhow::Result<Reader> {
        let home = tempfile::tempdir()?;
        let dir = AROUND.iter().fold(home.path().to_path_buf(), |dir, part| dir.join(part));
        fs::create_dir_all(&dir)?;
        let target = match name {
            "manifest" => store::manifest(&dir),
            "journal" => store::journal(&dir),
            "reference" => Ok(store::reference()),
            "bundle" => store::bundle(&dir),
            "run-file" => run::file(&dir),
            "set" => run::set(),
            "task-file" => run::task_file(&dir),
            "jsonl" => rows::jsonl(&dir),
            "csv" => Ok(rows::csv(&dir)),
            "parquet" => rows::parquet(&dir),
            "safetensors" => model::safetensors(&dir),
            "template" => model::template(&dir),
            other => anyhow::bail!("there is no target {other:?}; there are {}", TARGETS.join(", ")),
        };
        Ok(Reader { target: target.with_context(|| format!("making good inputs of {name}"))?, home })
    }

    /// Good inputs, at least one.
    pub fn seeds(&self) -> &[Vec<u8>] {
        &self.target.seeds
    }

    /// Reads an input.
    ///
    /// # Errors
    /// Why it is refused.
    ///
    /// # Panics
    /// When the reader does, refuses without a word, or wrote outside of its directory.
    pub fn take(&self, input: &[u8]) -> anyhow::Result<()> {
        let result = (self.target.read)(input);
        if let Err(error) = &result {
            // A message is for people: it says something.
            assert!(!format!("{error:#}").trim().is_empty(), "an error without a word");
        }
        let mut dir = self.home.path().to_path_buf();
        for part in AROUND {
            let found: Vec<_> = fs::read_dir(&dir).into_iter().flatten().flatten().map(|e| e.file_name()).collect();
            assert!(found == [part], "outside of its directory there is now {found:?}");
            dir.push(part);
        }
        result
    }
}
