//! Why an import failed.

use std::path::Path;

use spin_net::NetError;
use spin_store::StoreError;

/// Why an import failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// By what lies there.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// By the hub, or the way to it.
    #[error(transparent)]
    Net(#[from] NetError),
}

impl ImportError {
    /// Whether the input is to blame, rather than the machine or the network.
    pub fn is_bad_input(&self) -> bool {
        match self {
            ImportError::Store(e) => e.is_bad_input(),
            ImportError::Net(e) => e.is_bad_input(),
        }
    }
}

/// The source of a run file that is only there once it is imported.
pub(crate) fn not_imported(path: &Path) -> StoreError {
    StoreError::corrupt(path, "is named on the hub and not imported yet", "`spin-store import RUN.toml` fetches it")
}
