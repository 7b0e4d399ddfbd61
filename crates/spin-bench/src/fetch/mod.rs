//! Fetching the data of the benchmarks, pinned to revisions and checked.
//!
//! Files land in `<dir>/<owner>/<name>/<path in the repository>`, and
//! `<dir>/fetched.json` records repository, revision, size and SHA-256 of each.
//! A file is downloaded beside its place, checked (length, the hub's own
//! SHA-256 where it tells it, number of rows), and renamed into it, so that
//! what is there is whole. A second run takes what is there and recorded, and
//! goes on with the rest.
//!
//! Without a network, put the files there by hand in the same layout and run
//! it all the same: files with the right number of rows are recorded, not
//! asked for.
//!
//! HTTPS trusts Mozilla's root certificates as compiled in; proxies of the
//! environment are not used.

mod check;
mod datasets;
mod download;
mod record;

use std::path::{Path, PathBuf};
use std::time::Duration;

use spin_store::{StoreError, fsutil};

pub use datasets::{BBH, Dataset, Host, Item, MMLU, Source};
pub use record::{FILE_NAME, FetchedFile};

use download::Client;
use record::Record;

/// Shorthand for results of this module.
pub type Result<T, E = FetchError> = std::result::Result<T, E>;

/// Where to fetch from.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoints {
    /// The hub, or a mirror of it (`HF_ENDPOINT`).
    pub hub: String,
    /// GitHub's address for raw files.
    pub github: String,
    /// Sent to the hub alone (`HF_TOKEN`).
    pub token: Option<String>,
    /// Tries of one file, the first included.
    pub tries: u32,
    /// Pause after the first failure; it doubles with each further one.
    pub base_delay: Duration,
    /// Longest silence of a server.
    pub timeout: Duration,
}

impl Default for Endpoints {
    fn default() -> Self {
        Endpoints {
            hub: "https://huggingface.co".into(),
            github: "https://raw.githubusercontent.com".into(),
            token: None,
            tries: 4,
            base_delay: Duration::from_secs(1),
            timeout: Duration::from_secs(60),
        }
    }
}

impl Endpoints {
    /// The address of a file.
    pub fn url(&self, source: &Source, path: &str) -> String {
        let Source { host, repo, revision } = source;
        match host {
            Host::Hub => format!("{}/datasets/{repo}/resolve/{revision}/{path}", self.hub.trim_end_matches('/')),
            Host::GitHub => format!("{}/{repo}/{revision}/{path}", self.github.trim_end_matches('/')),
        }
    }
}

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
            FetchError::BadUrl { .. } | FetchError::Refused { .. } => true,
            FetchError::Status { status, .. } => *status < 500 && *status != 429,
            FetchError::Offline { .. } | FetchError::Damaged { .. } => false,
        }
    }
}

/// How a file came to be in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was fetched now.
    Downloaded,
    /// It was there, as recorded.
    Kept,
    /// It was there without a record, with the right number of rows: copied
    /// by hand. Its revision is not known.
    Copied,
}

/// Progress: one file is in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileDone {
    /// The dataset.
    pub dataset: Dataset,
    /// Where it lies.
    pub path: PathBuf,
    /// How it came there.
    pub outcome: Outcome,
    /// Its size in bytes.
    pub bytes: u64,
    /// Files in their place, this one included.
    pub done: usize,
    /// Files asked for.
    pub total: usize,
}

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Files fetched now.
    pub downloaded: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Files that were there.
    pub kept: usize,
    /// Files found without a record, put there by hand.
    pub copied: usize,
}

/// Where a file of a dataset lies.
///
/// ```
/// use spin_bench::fetch::{Dataset, local_path};
///
/// let path = local_path("data".as_ref(), Dataset::Gsm8k, "main/test-00000-of-00001.parquet");
/// assert_eq!(path.to_str(), Some("data/openai/gsm8k/main/test-00000-of-00001.parquet"));
/// ```
pub fn local_path(dir: &Path, dataset: Dataset, path: &str) -> PathBuf {
    dir.join(dataset.source().repo).join(path)
}

/// Brings the files of datasets into a directory, and tells of each.
///
/// # Errors
/// At the first file that cannot be had or kept, after as many tries as
/// `endpoints` says. What came before stays, and a second run goes on there.
pub fn fetch(
    dir: &Path,
    endpoints: &Endpoints,
    datasets: &[Dataset],
    on_file: &mut dyn FnMut(&FileDone),
) -> Result<Report> {
    let wanted: Vec<(Dataset, Item)> =
        datasets.iter().flat_map(|&d| d.items().into_iter().map(move |item| (d, item))).collect();
    fsutil::create_dir_all(dir)?;
    let mut record = Record::read(dir)?;
    let client = Client::new(endpoints);
    let (mut report, total) = (Report::default(), wanted.len());
    for (index, (dataset, item)) in wanted.into_iter().enumerate() {
        let source = dataset.source();
        let target = local_path(dir, dataset, &item.path);
        let (outcome, bytes) = match present(&record, &source, &item, &target)? {
            Some((Outcome::Kept, file)) => (Outcome::Kept, file.bytes),
            Some((outcome, file)) => {
                let bytes = file.bytes;
                record.put(file)?;
                (outcome, bytes)
            }
            None => {
                let file = bring(&client, &source, &item, &target)?;
                let bytes = file.bytes;
                record.put(file)?;
                (Outcome::Downloaded, bytes)
            }
        };
        match outcome {
            Outcome::Downloaded => {
                report.downloaded += 1;
                report.bytes += bytes;
            }
            Outcome::Kept => report.kept += 1,
            Outcome::Copied => report.copied += 1,
        }
        on_file(&FileDone { dataset, path: target, outcome, bytes, done: index + 1, total });
    }
    Ok(report)
}

/// The file that is in place, if it is as recorded, or unrecorded and sound.
fn present(record: &Record, source: &Source, item: &Item, target: &Path) -> Result<Option<(Outcome, FetchedFile)>> {
    if !target.is_file() {
        return Ok(None);
    }
    let (sha256, bytes) = check::sha256(target)?;
    match record.get(source.repo, &item.path) {
        Some(known) if known.sha256 == sha256 => {
            let same = known.revision.as_deref().is_none_or(|r| r == source.revision);
            Ok(same.then(|| (Outcome::Kept, known.clone())))
        }
        Some(_) => Ok(None),
        None if check::rows(target, item.rows).is_ok() => {
            let file = FetchedFile {
                repo: source.repo.into(),
                revision: None,
                path: item.path.clone(),
                bytes,
                sha256,
                rows: item.rows,
            };
            Ok(Some((Outcome::Copied, file)))
        }
        None => Ok(None),
    }
}

/// Downloads a file beside its place, checks it, and renames it into it.
fn bring(client: &Client<'_>, source: &Source, item: &Item, target: &Path) -> Result<FetchedFile> {
    let parent = target.parent().expect("below the directory");
    fsutil::create_dir_all(parent)?;
    let url = client.endpoints.url(source, &item.path);
    // The ending stays, because it says how to count the rows.
    let name = target.file_name().expect("a file").to_string_lossy();
    let temporary = tempfile::Builder::new()
        .prefix(".tmp-")
        .suffix(&*name)
        .permissions(<std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o644))
        .tempfile_in(parent)
        .map_err(StoreError::io("create a temporary file in", parent))?;
    let got = client.download(&url, source.host == Host::Hub, temporary.as_file(), target)?;
    check::rows(temporary.path(), item.rows).map_err(|problem| FetchError::Damaged {
        url,
        problem,
        target: target.into(),
    })?;
    temporary.as_file().sync_all().map_err(StoreError::io("sync", target))?;
    temporary.persist(target).map_err(|e| StoreError::Io {
        action: "rename into",
        path: target.into(),
        source: e.error,
    })?;
    fsutil::sync_dir(parent)?;
    Ok(FetchedFile {
        repo: source.repo.into(),
        revision: Some(source.revision.into()),
        path: item.path.clone(),
        bytes: got.bytes,
        sha256: got.sha256,
        rows: item.rows,
    })
}

#[cfg(test)]
mod tests;
