//! `[data]`: where rows come from and which of them are used.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[data]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Demonstrations to train on.
    pub train: SourceConfig,
    /// Demonstrations to score on.
    pub test: SourceConfig,
}

/// A source of demonstrations or preferences.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// A file (`.jsonl`, `.json`, `.csv`, `.tsv`, `.parquet`, `.arrow`; text
    /// also with `.gz` or `.zst`), a directory of such files, one that
    /// `datasets` saved, or a pattern as `train-*.parquet`. Or data's name on
    /// the hub: `hf:datasets/OWNER/NAME/PATH`, with `@COMMIT` or `@BRANCH`
    /// after it, where `PATH` is one of these below the repository, or what
    /// the files' names begin with, as `main/train`.
    pub path: PathBuf,
    /// Layout of its rows.
    #[serde(default)]
    pub format: SourceFormat,
    /// Use the first rows only, bad ones counted; 0 for all.
    #[serde(default)]
    pub limit: usize,
    /// Leave out this many rows before those.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(extend("default" = 0))]
    pub skip: usize,
    /// Put the rows into a random order first, which this number decides, so
    /// that `skip` and `limit` take a random part: two sources of one file and
    /// one number, of which one ends where the other begins, share no row.
    /// The rows that are taken are kept in memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shuffle: Option<u64>,
    /// Which answers of a conversation are used.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(extend("default" = Turns::First))]
    pub turns: Turns,
    /// What to do with rows that cannot be used.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(extend("default" = BadRows::Error))]
    pub on_bad_row: BadRows,
    /// Most bytes of one row; without it 64 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_row_bytes: Option<u64>,
    /// Most bytes that all rows may unpack to; without it 256 MiB or 100
    /// times the files' size, whichever is more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
}

pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl SourceConfig {
    /// All rows of a path, their layout told from their keys.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        SourceConfig { path: path.into(), ..Self::default() }
    }
}

/// Layout of a row of demonstrations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SourceFormat {
    /// Told from the first row's keys.
    #[default]
    Auto,
    /// `messages` (or `conversations`, `real`): a list of `{role, content}` or
    /// `{from, value}`.
    Chat,
    /// `prompt` and `response` (or `completion`).
    Prompt,
    /// `question` and `answer`, as GSM8K.
    Question,
    /// `instruction`, `input`, `output`, as alpaca; or `instances` of inputs
    /// and outputs, as Self-Instruct.
    Alpaca,
}

/// Which answers of a conversation become demonstrations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Turns {
    /// The first, as in the original code.
    #[default]
    First,
    /// The last, after all that precedes it.
    Last,
    /// Each, after what precedes it; ids become `<id>#1`, `<id>#2`.
    All,
}

/// What to do with a row that cannot be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BadRows {
    /// Stop, and name the first ten.
    #[default]
    Error,
    /// Leave them out and count them by reason.
    Drop,
}
