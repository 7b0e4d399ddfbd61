//! The error type of the crate.

use spin_store::StoreError;

/// Shorthand for results of this crate.
pub type Result<T, E = ReportError> = std::result::Result<T, E>;

/// What can go wrong while scores are read and set side by side.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// From the store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Two results that cannot be compared.
    #[error("{0}")]
    Compare(String),
}

impl ReportError {
    /// Whether the input is to blame, rather than the machine: exit code 3
    /// instead of 1.
    pub fn is_bad_input(&self) -> bool {
        match self {
            ReportError::Store(error) => error.is_bad_input(),
            ReportError::Compare(_) => true,
        }
    }
}
