//! Why something could not be had from a server.

use spin_store::StoreError;

/// Shorthand for results of this crate.
pub type Result<T, E = NetError> = std::result::Result<T, E>;

/// Why something could not be had from a server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// From the file system.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No connection, or a broken one.
    #[error("{url} cannot be reached: {reason}; without a network {otherwise}")]
    Offline {
        /// The address.
        url: String,
        /// The reason.
        reason: String,
        /// How to do without.
        otherwise: String,
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
        hint: String,
    },
    /// Another status than success.
    #[error("{url} answered with status {status}; {hint}")]
    Status {
        /// The address.
        url: String,
        /// The status.
        status: u16,
        /// What the user can do.
        hint: String,
    },
    /// A stop was asked for; what came so far is kept.
    #[error("stopped; run it again")]
    Stopped,
    /// The file that came is not the one wanted.
    #[error("{url} gave a file that {problem}; nothing was kept, try again or {otherwise}")]
    Damaged {
        /// The address.
        url: String,
        /// What is wrong with it.
        problem: String,
        /// How to do without.
        otherwise: String,
    },
    /// A name that is none, or of nothing that is there.
    #[error("{name}: {problem}; {remedy}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        problem: String,
        /// What the user can do.
        remedy: String,
    },
}

impl NetError {
    /// Whether the input (name, address, token) is to blame, rather than the
    /// machine or the network: exit code 3 instead of 1.
    pub fn is_bad_input(&self) -> bool {
        match self {
            NetError::Store(e) => e.is_bad_input(),
            NetError::BadUrl { .. } | NetError::Refused { .. } | NetError::Name { .. } => true,
            NetError::Status { status, .. } => *status < 500 && *status != 429,
            NetError::Offline { .. } | NetError::Damaged { .. } | NetError::Stopped => false,
        }
    }

    /// Whether another try may bring it.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            NetError::Offline { .. } | NetError::Damaged { .. } => true,
            NetError::Status { .. } => !self.is_bad_input(),
            _ => false,
        }
    }

    /// Whether it says that the server is not there now.
    pub(crate) fn is_absence(&self) -> bool {
        matches!(self, NetError::Offline { .. }) || matches!(self, NetError::Status { status: 500.., .. })
    }
}
