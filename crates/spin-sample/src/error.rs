//! The error type of the crate.

use std::path::PathBuf;

use spin_store::StoreError;
use spin_text::TextError;

/// Shorthand for results of this crate.
pub type Result<T, E = SampleError> = std::result::Result<T, E>;

/// What can go wrong while sampling.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SampleError {
    /// From the store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// From the tokenizer or the template.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A row cannot be used.
    #[error("row {row_id:?} of {table}: {problem}; {remedy}")]
    Row {
        /// Its id.
        row_id: String,
        /// The table.
        table: String,
        /// What is wrong.
        problem: String,
        /// What the user can do.
        remedy: String,
    },
    /// Nothing of a table is left to answer, or to learn from.
    #[error("{table}: {problem}; {remedy}")]
    NoRows {
        /// The table.
        table: String,
        /// What became of its rows.
        problem: String,
        /// What the user can do.
        remedy: String,
    },
    /// mistral.rs could not load the model.
    #[error("mistral.rs cannot load {dir}: {problem}")]
    Load {
        /// The model directory.
        dir: PathBuf,
        /// Its message.
        problem: String,
    },
    /// The trainer's forward pass could not be made of the model.
    #[error("cannot use {dir}")]
    Model {
        /// The model directory.
        dir: PathBuf,
        /// Why.
        source: spin_model::Error,
    },
    /// The engine asked for cannot do what is asked for.
    #[error("{problem}; see sample.engine, sample.dtype and --device")]
    Unsuitable {
        /// What it cannot.
        problem: String,
    },
    /// The engine failed while generating.
    #[error("the engine failed while generating ({0}); the finished parts are kept, run this again")]
    Engine(String),
    /// Too many answers failed twice.
    #[error(
        "{failed} of {all} answers failed twice, more than sample.max_failed allows; the first was row {row_id:?}: \
         {problem}; finished parts are kept, run this again"
    )]
    Failed {
        /// How many.
        failed: usize,
        /// Of how many.
        all: usize,
        /// The first of them.
        row_id: String,
        /// What happened to it.
        problem: String,
    },
    /// The model gives no numbers.
    #[error(
        "the model gives NaN or infinite logits for row {row_id:?}; its weights are broken, check the training log"
    )]
    NotFinite {
        /// Its id.
        row_id: String,
    },
    /// Generator and trainer compute different models.
    #[error(
        "{engine} gave token {token} of sample {sample_index} of row {row_id:?} the log-probability {theirs}, the \
         trainer gives it {ours}: SPIN would train on the difference. Nothing is published; try another \
         sample.engine with the work under {work} removed, and report this"
    )]
    Disagree {
        /// The generator.
        engine: String,
        /// The row.
        row_id: String,
        /// Which of its samples.
        sample_index: u32,
        /// Position in the answer.
        token: usize,
        /// The generator's.
        theirs: f32,
        /// The trainer's.
        ours: f32,
        /// Where the parts are.
        work: PathBuf,
    },
    /// Parts were written anew while they were published.
    #[error("{path} changed while it was published: {why}; nothing is published, run this again")]
    Changed {
        /// The part.
        path: PathBuf,
        /// What it is now.
        why: String,
    },
    /// An answer that should come out again did not.
    #[error(
        "{engine} answered row {row_id:?}, sample {sample_index}, differently when asked again, from token {token} on, \
         though it should not. Nothing is published; remove the work under {work} and report this"
    )]
    NotReplayed {
        /// The generator.
        engine: String,
        /// The row.
        row_id: String,
        /// Which of its samples.
        sample_index: u32,
        /// Position in the answer.
        token: usize,
        /// Where the parts are.
        work: PathBuf,
    },
}

impl SampleError {
    /// Whether the input is to blame, rather than the machine: exit code 3
    /// instead of 1.
    pub fn is_bad_input(&self) -> bool {
        match self {
            SampleError::Store(error) => error.is_bad_input(),
            SampleError::Model { source, .. } => source.is_bad_input(),
            SampleError::Text(error) => error.is_bad_input(),
            SampleError::Engine(_)
            | SampleError::Failed { .. }
            | SampleError::Changed { .. }
            | SampleError::Disagree { .. }
            | SampleError::NotReplayed { .. } => false,
            _ => true,
        }
    }
}
