//! The error type of the crate.

use spin_store::StoreError;
use spin_text::TextError;

/// Shorthand for results of this crate.
pub type Result<T, E = PairError> = std::result::Result<T, E>;

/// What can go wrong while pairing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PairError {
    /// From the store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// From the tokenizer or the template.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The tables do not belong together.
    #[error("{table}: {problem}; {remedy}")]
    Mismatch {
        /// The table at fault.
        table: String,
        /// What is wrong.
        problem: String,
        /// What the user can do.
        remedy: String,
    },
    /// Nothing is left.
    #[error("no pair is left of {samples} samples ({drops}): there is nothing to learn from this opponent")]
    NothingLeft {
        /// Samples looked at.
        samples: u64,
        /// Counts by reason.
        drops: String,
    },
    /// Nothing is left of a preference set.
    #[error(
        "no pair is left of {table} ({drops}): raise template.max_length, or give a set whose two answers to a prompt \
         differ"
    )]
    NoPreferences {
        /// The preference set.
        table: String,
        /// Counts by reason.
        drops: String,
    },
}

impl PairError {
    /// Whether the input is to blame, rather than the machine: exit code 3
    /// instead of 1.
    pub fn is_bad_input(&self) -> bool {
        match self {
            PairError::Store(error) => error.is_bad_input(),
            PairError::Text(error) => error.is_bad_input(),
            _ => true,
        }
    }
}
