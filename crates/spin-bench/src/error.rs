//! The error type of the crate.

use std::path::PathBuf;

use spin_report::ReportError;
use spin_store::StoreError;
use spin_text::TextError;

/// Shorthand for results of this crate.
pub type Result<T, E = BenchError> = std::result::Result<T, E>;

/// What can go wrong while scoring.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// From the store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// From the tokenizer or the template.
    #[error(transparent)]
    Text(#[from] TextError),
    /// From the model.
    #[error(transparent)]
    Model(#[from] spin_model::Error),
    /// From judging conversations.
    #[error(transparent)]
    MtBench(#[from] crate::mt_bench::MtBenchError),
    /// From reading stored scores.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// From downloading data sets.
    #[error(transparent)]
    Fetch(#[from] crate::fetch::FetchError),
    /// A key that cannot be sent.
    #[error(transparent)]
    Secret(#[from] spin_net::secret::BadSecret),
    /// A row cannot be scored.
    #[error("row {row_id:?} of {table}: {problem}; {remedy}")]
    Row {
        /// The demonstration's id.
        row_id: String,
        /// The table.
        table: String,
        /// What is wrong.
        problem: String,
        /// What the user can do.
        remedy: String,
    },
    /// A data set is not where it could be.
    #[error("there is no {}; {remedy}", list(places))]
    NoData {
        /// Where it was looked for.
        places: Vec<PathBuf>,
        /// What the user can do.
        remedy: String,
    },
    /// A row of a data set is not what its task expects.
    #[error("{}: row {row} (from 0) {problem}; correct or remove it, or take another task than {task}", path.display())]
    Doc {
        /// The file.
        path: PathBuf,
        /// The row, counted from 0.
        row: usize,
        /// The task.
        task: String,
        /// What is wrong.
        problem: String,
    },
    /// A task file is wrong.
    #[error("{}: {problem}", path.display())]
    TaskFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// There is no such task.
    #[error("there is no task {name:?}; the nearest are {}; a task file's directory is given with --include-path", nearest.join(", "))]
    UnknownTask {
        /// The name.
        name: String,
        /// Names that are known.
        nearest: Vec<String>,
    },
    /// A prompt wants more examples than there are.
    #[error(
        "{task} wants {wanted} examples and has {there} to choose from; lower num_fewshot, or fetch the split they come from"
    )]
    Examples {
        /// The task.
        task: String,
        /// How many a prompt has.
        wanted: usize,
        /// How many there are.
        there: usize,
    },
    /// The tokenizer refused a text.
    #[error("the tokenizer fails on {text:?}: {problem}")]
    Tokenizer {
        /// The text's beginning.
        text: String,
        /// What it says.
        problem: String,
    },
    /// A continuation that cannot be scored.
    #[error("the answer {text:?} {problem}; correct or remove its row")]
    Continuation {
        /// The continuation.
        text: String,
        /// What is wrong.
        problem: String,
    },
    /// A prompt and an answer do not fit together.
    #[error(
        "an answer of {max_gen_toks} tokens leaves no room for a prompt in the model's context of {context}; lower eval.max_gen_toks"
    )]
    NoRoom {
        /// The longest answer.
        max_gen_toks: usize,
        /// The model's context.
        context: usize,
    },
    /// The model gives something that is no number.
    #[error(
        "the model's log-probabilities for {doc} of {task} are not finite: its weights are broken, or their range is too small; take another model, or f32 instead of f16"
    )]
    NotFinite {
        /// The task.
        task: String,
        /// The document or row, in words.
        doc: String,
    },
    /// Flags or settings that no evaluation can be made of.
    #[error("{0}")]
    Settings(String),
}

fn list(places: &[PathBuf]) -> String {
    let places: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
    places.join(" or ")
}

impl BenchError {
    /// Whether the input is to blame, rather than the machine: exit code 3
    /// instead of 1.
    pub fn is_bad_input(&self) -> bool {
        match self {
            BenchError::Store(error) => error.is_bad_input(),
            BenchError::MtBench(error) => error.is_bad_input(),
            BenchError::Report(error) => error.is_bad_input(),
            BenchError::Fetch(error) => error.is_bad_input(),
            BenchError::Text(error) => error.is_bad_input(),
            BenchError::Model(error) => error.is_bad_input(),
            _ => true,
        }
    }
}
