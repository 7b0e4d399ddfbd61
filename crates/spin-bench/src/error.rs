//! The error type of the crate.

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
}

/// For a program's exit code: whether the input is to blame.
pub fn is_bad_input(error: &(dyn std::error::Error + 'static)) -> bool {
    match error.downcast_ref::<BenchError>() {
        Some(BenchError::Store(e)) => e.is_bad_input(),
        Some(_) => true,
        None => spin_store::error::is_bad_input(error),
    }
}
