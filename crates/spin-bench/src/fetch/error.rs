//! Why a file could not be had.

use std::path::PathBuf;

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
    /// No connection, or a broken one.
    #[error(
        "{url} cannot be reached: {reason}; without a network copy the file by hand to {}, then run this again",
        target.display()
    )]
    Offline {
        /// The address.
        url: String,
        /// The reason.
        reason: String,
        /// Where the file belongs.
        target: PathBuf,
    },
    /// Nothing that can be asked.
    #[error("{url:?} is no address ({reason}); give an endpoint such as https://huggingface.co")]
    BadUrl {
        /// What was given, or what a server redirected to.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// 401 or 403.
    #[error("{url} refused access (status {status}): {hint}")]
    Refused {
        /// The address.
        url: String,
        /// The status.
        status: u16,
        /// What the user can do.
        hint: &'static str,
    },
    /// Another status than success.
    #[error("{url} answered with status {status}; {hint}")]
    Status {
        /// The address.
        url: String,
        /// The status.
        status: u16,
        /// What the user can do.
        hint: &'static str,
    },
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
    /// A stop was asked for; the files so far are kept.
    #[error("stopped; run it again")]
    Stopped,
    /// The file that came is not the one wanted.
    #[error("{url} gave a file that {problem}; nothing was kept, try again or copy the file by hand to {}", target.display())]
    Damaged {
        /// The address.
        url: String,
        /// What is wrong with it.
        problem: String,
        /// Where the file belongs.
        target: PathBuf,
    },
}

impl FetchError {
    /// Whether the input (address, token) is to blame, rather than the machine
    /// or the network: exit code 3 instead of 1.
    pub fn is_bad_input(&self) -> bool {
        match self {
            FetchError::Store(e) => e.is_bad_input(),
            FetchError::BadUrl { .. } | FetchError::Refused { .. } | FetchError::Unpinned { .. } => true,
            FetchError::Status { status, .. } => *status < 500 && *status != 429,
            FetchError::Offline { .. } | FetchError::Damaged { .. } | FetchError::Stopped => false,
        }
    }

    /// Whether another try may bring the file.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            FetchError::Offline { .. } | FetchError::Damaged { .. } => true,
            FetchError::Status { .. } => !self.is_bad_input(),
            _ => false,
        }
    }
}
