//! Fetching the data of the benchmarks, pinned to revisions and checked.
//!
//! Files land in `<dir>/<owner>/<name>/<path in the repository>`, and
//! `<dir>/fetched.json` records repository, revision, size and SHA-256 of each.
//! A file is downloaded beside its place, checked (length, the hub's own
//! SHA-256 where it tells it, and what is pinned: SHA-256 of its bytes, or the
//! digest of its rows as the tasks read them), and renamed into it, so that
//! what is there is whole and is the data that scores are compared on. A second
//! run takes what is there and recorded, and goes on with the rest.
//!
//! Without a network, put the files there by hand in the same layout and run
//! it all the same: files that pass the same check are recorded, not asked
//! for. [`Options::accept_unpinned`] takes other data too, and says so.

mod check;
mod datasets;
mod error;
mod record;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use spin_net::digest;
use spin_net::download::{Client, Wanted};
use spin_net::{Endpoints, NetError, url};
use spin_store::{StoreError, fsutil};

pub use check::Check;
pub use datasets::{BBH, Dataset, Host, Item, MMLU, Source};
pub use error::{FetchError, Result};
pub use record::{FILE_NAME, FetchedFile};

use record::Record;

/// How a file came to be in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was fetched now.
    Downloaded,
    /// It was there, as recorded.
    Kept,
    /// It was there without a record and passed the check: copied by hand.
    /// Its revision is not known.
    Copied,
}

/// How to fetch.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// Whether data other than the pinned will do, and is recorded as such.
    pub accept_unpinned: bool,
    /// Becomes true when a stop is asked for.
    pub stop: &'a AtomicBool,
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
    /// Files of which no digest is known: their rows were only counted.
    pub only_counted: usize,
    /// Files that hold other data than the pinned.
    pub unpinned: usize,
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
/// At the first file that cannot be had or kept, or is not the pinned one,
/// after as many tries as `endpoints` says, and within a second after a stop
/// was asked for. What came before stays, and a second run goes on there.
pub fn fetch(
    dir: &Path,
    endpoints: &Endpoints,
    datasets: &[Dataset],
    options: &Options<'_>,
    on_file: &mut dyn FnMut(&FileDone),
) -> Result<Report> {
    let wanted: Vec<(Dataset, Item)> =
        datasets.iter().flat_map(|&d| d.items().into_iter().map(move |item| (d, item))).collect();
    fsutil::create_dir_all(dir)?;
    let mut record = Record::read(dir)?;
    let client = Client::new(endpoints, options.stop);
    let (mut report, total) = (Report::default(), wanted.len());
    for (index, (dataset, item)) in wanted.into_iter().enumerate() {
        if options.stop.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(NetError::Stopped.into());
        }
        let source = dataset.source();
        let target = local_path(dir, dataset, &item.path);
        let there = present(&record, &source, &item, &target, options.accept_unpinned)?;
        let (outcome, file) = match there {
            Some(found) => found,
            None => {
                (Outcome::Downloaded, bring((&client, endpoints), &source, &item, &target, options.accept_unpinned)?)
            }
        };
        let bytes = file.bytes;
        match file.checked {
            Some(Check::RowCount) => report.only_counted += 1,
            Some(Check::Unpinned) => report.unpinned += 1,
            _ => {}
        }
        if record.get(source.repo, &item.path) != Some(&file) {
            record.put(file)?;
        }
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

/// The file that is in place, if it is as recorded, or unrecorded and the
/// pinned one.
fn present(
    record: &Record,
    source: &Source,
    item: &Item,
    target: &Path,
    accept_unpinned: bool,
) -> Result<Option<(Outcome, FetchedFile)>> {
    if !target.is_file() {
        return Ok(None);
    }
    let (sha256, bytes) = digest::sha256(target)?;
    let known = record.get(source.repo, &item.path);
    if let Some(known) = known
        && (known.sha256 != sha256 || known.revision.as_deref().is_some_and(|r| r != source.revision))
    {
        return Ok(None);
    }
    // An older record says nothing about the check, and other data is taken
    // only as long as the user says so.
    let checked = match known.and_then(|file| file.checked) {
        Some(checked) if checked != Check::Unpinned || accept_unpinned => checked,
        _ => match check::pinned(source, item, target, &sha256, accept_unpinned) {
            Ok(checked) => checked,
            // What was fetched is fetched again, what somebody copied is not
            // overwritten.
            Err(_) if known.is_some_and(|file| file.revision.is_some()) => return Ok(None),
            Err(problem) => return Err(FetchError::Unpinned { path: target.into(), problem }),
        },
    };
    let (outcome, revision) = match known {
        Some(known) => (Outcome::Kept, known.revision.clone()),
        None => (Outcome::Copied, None),
    };
    let rows = if checked == Check::Unpinned { None } else { item.rows };
    let (repo, path, checked) = (source.repo.into(), item.path.clone(), Some(checked));
    Ok(Some((outcome, FetchedFile { repo, revision, path, bytes, sha256, rows, checked })))
}

/// The address of a file.
fn address(endpoints: &Endpoints, source: &Source, path: &str) -> String {
    let Source { host, repo, revision } = source;
    match host {
        Host::Hub => endpoints.on_hub(&format!("datasets/{repo}/resolve/{revision}/{path}")),
        Host::GitHub => format!("{}/{repo}/{revision}/{path}", endpoints.github.trim_end_matches('/')),
    }
}

/// Bytes that no file of its kind has: the rows of the pinned files have less
/// than 1 KiB each in the mean.
fn longest(item: &Item) -> u64 {
    (4 << 20) + item.rows.unwrap_or(0) * (8 << 10)
}

/// Downloads a file beside its place, checks it, and renames it into it.
fn bring(
    (client, endpoints): (&Client<'_>, &Endpoints),
    source: &Source,
    item: &Item,
    target: &Path,
    accept_unpinned: bool,
) -> Result<FetchedFile> {
    let parent = target.parent().expect("below the directory");
    fsutil::create_dir_all(parent)?;
    let address = address(endpoints, source, &item.path);
    let otherwise = format!("copy the file by hand to {}, then run this again", target.display());
    // The ending stays, because it says how to count the rows.
    let name = target.file_name().expect("a file").to_string_lossy();
    let temporary = tempfile::Builder::new()
        .prefix(".tmp-")
        .suffix(&*name)
        .permissions(<std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o644))
        .tempfile_in(parent)
        .map_err(StoreError::io("create a temporary file in", parent))?;
    let wanted = Wanted {
        url: &address,
        hub: source.host == Host::Hub,
        longest: longest(item),
        sha256: None,
        target,
        otherwise: &otherwise,
        progress: &|_, _| {},
    };
    let got = client.download(&wanted, temporary.as_file())?;
    let checked = check::pinned(source, item, temporary.path(), &got.sha256, accept_unpinned);
    let checked = checked.map_err(|problem| NetError::Damaged { url: url::public(&address), problem, otherwise })?;
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
        rows: if checked == Check::Unpinned { None } else { item.rows },
        checked: Some(checked),
    })
}

#[cfg(test)]
mod tests;
