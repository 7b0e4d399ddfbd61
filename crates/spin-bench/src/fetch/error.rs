//! Why a file could not be had.

use std::path::PathBuf;

use spin_net::NetError;
use spin_store::StoreError;

/// Shorthand for results of this module.
pub type Result<T, E = FetchError> = std::result::Result<T, E>;

/// Why a file could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// From the file system.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// From the network.
    #[error(transparent)]
    Net(#[from] NetError),
    /// A file that was put there by hand is not the pinned one.
    #[error(
        "{} {problem}; remove it to have it fetched, or take it as it is with --allow-unpinned-data: scores on it are not the leaderboard's",
        path.display()
    )]
    Unpinned {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

impl FetchError {
    /// Whether the input (address, token) is to blame, rather than the machine
    /// or the network: exit code 3 instead of 1.
    pub fn is_bad_input(&self) -> bool {
        match self {
            FetchError::Store(e) => e.is_bad_input(),
            FetchError::Net(e) => e.is_bad_input(),
            FetchError::Unpinned { .. } => true,
        }
    }

    /// Whether a stop was asked for; the files so far are kept.
    pub fn is_stop(&self) -> bool {
        matches!(self, FetchError::Net(NetError::Stopped))
    }
}
