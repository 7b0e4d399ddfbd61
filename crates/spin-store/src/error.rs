//! The one error type of the crate.

use std::path::{Path, PathBuf};

use crate::kind::Kind;

/// Shorthand for results of this crate.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// What can go wrong with a store, a table or a run file. Each message names
/// the file (and row) and says what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The operating system refused something.
    #[error("failed to {action} {path}: {source}")]
    Io {
        /// What was tried, in the infinitive.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// A file is not what it should be: truncated, altered, of another type.
    #[error("{path}: {problem}; {remedy}")]
    Corrupt {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// What the user can do.
        remedy: String,
    },
    /// A row of a table or of an imported file breaks a rule.
    #[error("{path}, row {row}: {problem}; {remedy}")]
    Row {
        /// The file.
        path: PathBuf,
        /// Row number, counted from 1 for text files and from 0 in Parquet.
        row: usize,
        /// What is wrong with it.
        problem: String,
        /// What the user can do.
        remedy: String,
    },
    /// Rows of a table cannot serve what is asked of them.
    #[error("{table}: {problem}; {remedy}")]
    Rows {
        /// The table.
        table: String,
        /// How many rows, which, and what is wrong with them.
        problem: String,
        /// What the user can do.
        remedy: String,
    },
    /// The store was written by a newer program.
    #[error("{path} has layout version {found}, this program reads up to {known}; use a newer release of it")]
    TooNew {
        /// The file that carries the version.
        path: PathBuf,
        /// The version found.
        found: u32,
        /// The newest version this program knows.
        known: u32,
    },
    /// A reference names nothing in the store.
    #[error("no artifact {reference} in {store}; {remedy}")]
    Missing {
        /// The reference asked for.
        reference: String,
        /// The root of the store.
        store: PathBuf,
        /// What the user can do, e.g. which stage makes it.
        remedy: String,
    },
    /// A table would be published without a row.
    #[error(
        "{kind}/{name} would be a table without rows, and nothing is published; its input leaves none: see what was dropped, and why"
    )]
    Empty {
        /// The kind.
        kind: Kind,
        /// The name.
        name: String,
    },
    /// A reference cannot be read.
    #[error(
        "{reference:?} is not a reference; write kind/name, kind/name@v3, kind/name@latest or kind/name@<digest prefix>, with one of the kinds {kinds}"
    )]
    BadReference {
        /// What was given.
        reference: String,
        /// The kinds, for the message.
        kinds: String,
    },
    /// The run file, or a `--set`, is wrong.
    #[error("{path}: {problem}")]
    Run {
        /// The run file.
        path: PathBuf,
        /// The problem with its remedy.
        problem: String,
    },
    /// Another process is at the same work.
    #[error("{path} is locked by {holder}; wait for it or stop it, then run this again")]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// What the holder wrote about itself.
        holder: String,
        /// By this the programs know such an error, however it is wrapped: they
        /// exit with 75.
        source: std::fs::TryLockError,
    },
}

impl StoreError {
    /// For `map_err` on an I/O result: `.map_err(StoreError::io("read", path))`.
    pub fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| StoreError::Io { action, path, source }
    }

    /// Work of another process.
    pub fn locked(path: impl Into<PathBuf>, holder: impl Into<String>) -> Self {
        let (path, holder) = (path.into(), holder.into());
        StoreError::Locked { path, holder, source: std::fs::TryLockError::WouldBlock }
    }

    /// A damaged or foreign file.
    pub fn corrupt(path: &Path, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        StoreError::Corrupt { path: path.into(), problem: problem.into(), remedy: remedy.into() }
    }

    /// A file of a table's format that a library cannot read: damaged, unless
    /// the system says that it could not be read at all. The libraries keep
    /// that as a word in their messages.
    pub fn unreadable(path: &Path, format: &str, error: &dyn std::fmt::Display) -> Self {
        let text = error.to_string();
        let code = text.split("(os error ").nth(1).and_then(|rest| rest.split(')').next()?.parse().ok());
        match code {
            Some(code) => StoreError::io("read", path)(std::io::Error::from_raw_os_error(code)),
            None => StoreError::corrupt(
                path,
                format!("cannot be read as {format} ({text})"),
                "is it complete? copy or make it again",
            ),
        }
    }

    /// A bad row.
    pub fn row(path: &Path, row: usize, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        StoreError::Row { path: path.into(), row, problem: problem.into(), remedy: remedy.into() }
    }

    /// A bad run file.
    pub fn run(path: &Path, problem: impl Into<String>) -> Self {
        StoreError::Run { path: path.into(), problem: problem.into() }
    }

    /// Whether something in a store is not as it should be, rather than not
    /// known because it could not be read.
    pub fn is_difference(&self) -> bool {
        match self {
            // Who may not read a file knows nothing of it.
            StoreError::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => false,
            _ => self.is_bad_input(),
        }
    }

    /// Whether the input is to blame, rather than the machine: exit code 3
    /// instead of 1.
    pub fn is_bad_input(&self) -> bool {
        match self {
            StoreError::Io { action, source, .. } => is_bad_file(action, source),
            StoreError::Locked { .. } => false,
            _ => true,
        }
    }
}

/// Whether a failure of the system is one of the input: a file that is missing,
/// is no file, may not be read or is no text. `action` is what was tried, as in
/// [`StoreError::Io`]: what may not be written is another matter.
fn is_bad_file(action: &str, source: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    match source.kind() {
        ErrorKind::NotFound | ErrorKind::IsADirectory | ErrorKind::NotADirectory | ErrorKind::InvalidData => true,
        // A ring of links; its kind has no stable name.
        _ if source.to_string().contains("symbolic links") => true,
        ErrorKind::PermissionDenied => action.starts_with("read") || action == "open",
        _ => false,
    }
}
