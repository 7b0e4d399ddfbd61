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
    /// mistral.rs could not load the model.
    #[error("mistral.rs cannot load {dir}: {problem}")]
    Load {
        /// The model directory.
        dir: PathBuf,
        /// Its message.
        problem: String,
    },
    /// mistral.rs failed while generating.
    #[error("mistral.rs failed while generating ({0}); the finished parts are kept, run this again")]
    Engine(String),
    /// The model gives no numbers.
    #[error(
        "the model gives NaN or infinite logits for row {row_id:?}; its weights are broken, check the training log"
    )]
    NotFinite {
        /// Its id.
        row_id: String,
    },
}

/// For a program's exit code: whether the input is to blame.
pub fn is_bad_input(error: &(dyn std::error::Error + 'static)) -> bool {
    match error.downcast_ref::<SampleError>() {
        Some(SampleError::Store(e)) => e.is_bad_input(),
        Some(SampleError::Engine(_)) => false,
        Some(_) => true,
        None => spin_store::error::is_bad_input(error) || error.downcast_ref::<TextError>().is_some(),
    }
}
