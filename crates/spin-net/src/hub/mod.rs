//! Models and data by their names on the Hugging Face hub, through the cache
//! that its Python programs share.
//!
//! `HF_HOME/hub/models--OWNER--NAME` holds `blobs/DIGEST`, links to them in
//! `snapshots/COMMIT/PATH`, and `refs/BRANCH` with the commit that a branch was
//! at; `.listings/COMMIT.json`, which is ours, says what a commit holds, so that
//! a cache without a network is known to be whole. A file is fetched into
//! `blobs/DIGEST.incomplete`, under the same lock as Python's, and gets its name
//! when its digest is the hub's; what was broken off is gone on with.
//!
//! Revisions become commits before anything else happens: what a caller gets
//! and records is a commit, and whoever hands in the commit of before gets
//! that, wherever the branch went.

mod listing;
mod settings;
#[cfg(test)]
mod tests;

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use spin_store::{StoreError, Watch, fsutil};

use hf_hub::{Repo, RepoType};

use crate::digest::{self, Digest};
use crate::download::{Client, Wanted};
use crate::error::{NetError, Result};
use crate::name::{self, Name};
use crate::retry::POLL;
use crate::secret::escaped;

use listing::{Entry, Listing};
pub use settings::Settings;

/// Longest answer to a question about a repository.
const LONGEST_ANSWER: u64 = 256 << 20;

/// Files of a repository, in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Where they are.
    pub dir: PathBuf,
    /// The commit.
    pub commit: String,
    /// Their paths below `dir`, sorted.
    pub files: Vec<String>,
}

/// A name as the hub's own library has it, at a revision.
fn repo_at(name: &Name, revision: &str) -> Repo {
    let kind = if name.is_model() { RepoType::Model } else { RepoType::Dataset };
    Repo::with_revision(name.repo().to_owned(), kind, revision.to_owned())
}

/// Chooses among the paths of a repository; an error says what is wrong with
/// the choice and what can be done.
pub type Choose<'a> = &'a dyn Fn(&[&str]) -> Result<Vec<String>, (String, String)>;

/// The hub and its cache.
pub struct Hub<'a> {
    settings: &'a Settings,
    client: Client<'a>,
    stop: &'a AtomicBool,
    watch: &'a dyn Watch,
}

impl<'a> Hub<'a> {
    /// A hub that stops when `stop` becomes true.
    pub fn new(settings: &'a Settings, stop: &'a AtomicBool, watch: &'a dyn Watch) -> Hub<'a> {
        Hub { settings, client: Client::new(&settings.endpoints, stop), stop, watch }
    }

    /// Brings the files that `choose` names of a repository into the cache, at
    /// the commit `recorded`, or else at the revision of the name.
    ///
    /// # Errors
    /// When the name is of nothing, access is refused, the network fails and the
    /// cache does not have all, or a file is not what the hub says it is.
    pub fn bring(&self, name: &Name, recorded: Option<&str>, choose: Choose<'_>) -> Result<Snapshot> {
        let listing = self.listing(name, recorded)?;
        let chosen = choose(&listing.paths()).map_err(|(problem, remedy)| NetError::Name {
            name: name.to_string(),
            problem,
            remedy,
        })?;
        let commit = listing.commit.clone();
        let dir = self.repo_dir(name).join("snapshots").join(&commit);
        let mut files = Vec::new();
        for path in chosen {
            let entry = listing.files.iter().find(|entry| entry.path == path).expect("chosen among them");
            self.file(name, &commit, &dir, entry)?;
            files.push(path);
        }
        files.sort();
        if !listing.whole {
            check_parts(name, &files)?;
        }
        Ok(Snapshot { dir, commit, files })
    }

    fn repo_dir(&self, name: &Name) -> PathBuf {
        self.settings.cache.join(repo_at(name, "").folder_name())
    }

    /// What a repository holds at a revision.
    fn listing(&self, name: &Name, recorded: Option<&str>) -> Result<Listing> {
        let revision = recorded.or(name.revision()).unwrap_or(name::MAIN);
        if name::is_commit(revision)
            && let Some(known) = self.kept_listing(name, revision)?
        {
            return Ok(known);
        }
        if self.settings.offline {
            return self.cached(name, revision)?.ok_or_else(|| self.not_cached(name, revision));
        }
        match self.ask(name, revision) {
            Err(error) if error.is_absence() => match self.cached(name, revision)? {
                Some(listing) => {
                    let text = format!("warning: {error}; {name} is taken from the cache at {}", listing.commit);
                    self.watch.note(&text);
                    Ok(listing)
                }
                None => Err(error),
            },
            answer => answer,
        }
    }

    /// Asks the hub, and keeps its answer.
    fn ask(&self, name: &Name, revision: &str) -> Result<Listing> {
        let url = self.settings.endpoints.on_hub(&format!("api/{}?blobs=true", repo_at(name, revision).api_url()));
        let repo = self.repo_dir(name);
        let kept = repo.join(".listings");
        fsutil::create_dir_all(&kept)?;
        let answer = tempfile::tempfile_in(&kept).map_err(StoreError::io("create a temporary file in", &kept))?;
        let wanted = Wanted {
            url: &url,
            hub: true,
            longest: LONGEST_ANSWER,
            sha256: None,
            target: &kept,
            otherwise: OTHERWISE,
            progress: &|_, _| {},
        };
        self.client.download(&wanted, &answer)?;
        let mut text = Vec::new();
        std::io::Seek::rewind(&mut &answer)
            .and_then(|()| std::io::Read::read_to_end(&mut &answer, &mut text))
            .map_err(StoreError::io("read", &kept))?;
        let answer = serde_json::from_slice(&text).unwrap_or_default();
        let listing = Listing::of_answer(&answer).ok_or_else(|| NetError::Damaged {
            url: crate::url::public(&url),
            problem: "is no list of a repository's files".into(),
            otherwise: OTHERWISE.into(),
        })?;
        if name::is_commit(revision) && listing.commit != revision {
            return Err(NetError::Damaged {
                url: crate::url::public(&url),
                problem: format!("speaks of commit {} where {revision} was asked for", listing.commit),
                otherwise: OTHERWISE.into(),
            });
        }
        let text = serde_json::to_string_pretty(&listing).expect("plain data");
        fsutil::write_atomic(&kept.join(format!("{}.json", listing.commit)), text.as_bytes())?;
        if !name::is_commit(revision) {
            let place = repo.join("refs").join(revision);
            fsutil::create_dir_all(place.parent().unwrap_or(&repo))?;
            fsutil::write_atomic(&place, listing.commit.as_bytes())?;
        }
        Ok(listing)
    }

    /// What was kept of a commit.
    fn kept_listing(&self, name: &Name, commit: &str) -> Result<Option<Listing>> {
        let path = self.repo_dir(name).join(".listings").join(format!("{commit}.json"));
        match fs::read(&path) {
            Ok(text) => Ok(serde_json::from_slice(&text).ok().filter(|kept: &Listing| kept.commit == commit)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(StoreError::io("read", path)(e).into()),
        }
    }

    /// What the cache has of a revision: as it was listed, or else what lies
    /// there.
    fn cached(&self, name: &Name, revision: &str) -> Result<Option<Listing>> {
        let repo = self.repo_dir(name);
        let commit = match name::is_commit(revision) {
            true => revision.to_owned(),
            false => match fs::read_to_string(repo.join("refs").join(revision)) {
                Ok(commit) if name::is_commit(commit.trim()) => commit.trim().to_owned(),
                _ => return Ok(None),
            },
        };
        if let Some(kept) = self.kept_listing(name, &commit)? {
            return Ok(Some(kept));
        }
        let dir = repo.join("snapshots").join(&commit);
        let mut files = Vec::new();
        walk(&dir, "", &mut files)?;
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok((!files.is_empty()).then_some(Listing { commit, files, whole: false }))
    }

    fn not_cached(&self, name: &Name, revision: &str) -> NetError {
        NetError::Name {
            name: name.to_string(),
            problem: format!(
                "revision {revision} is not in {}, and HF_HUB_OFFLINE is set",
                self.settings.cache.display()
            ),
            remedy: "unset HF_HUB_OFFLINE once where there is a network, or give the path of a copy".into(),
        }
    }

    /// Sees to it that a file is in its place, and is the one.
    fn file(&self, name: &Name, commit: &str, dir: &Path, entry: &Entry) -> Result<()> {
        let place = dir.join(&entry.path);
        if place.is_file() {
            let problem = match known_digest(&place, entry) {
                Some(digest) => digest.problem(&place)?,
                None => None,
            };
            match problem {
                None => return Ok(()),
                Some(problem) if self.settings.offline => {
                    let remedy = "delete it, and unset HF_HUB_OFFLINE once where there is a network";
                    return Err(StoreError::corrupt(&place, problem, remedy).into());
                }
                Some(problem) => {
                    self.watch.note(&format!("warning: {} {problem}; it is fetched again", place.display()));
                }
            }
        } else if self.settings.offline {
            let error = NetError::Name {
                name: name.to_string(),
                problem: format!("{} is not in the cache ({}), and HF_HUB_OFFLINE is set", entry.path, dir.display()),
                remedy: "unset HF_HUB_OFFLINE once where there is a network, or give the path of a copy".into(),
            };
            return Err(error);
        }
        self.fetch(name, commit, &place, entry)
    }

    /// Fetches a file into the cache, and links it into its place.
    fn fetch(&self, name: &Name, commit: &str, place: &Path, entry: &Entry) -> Result<()> {
        let repo = self.repo_dir(name);
        let blobs = repo.join("blobs");
        fsutil::create_dir_all(&blobs)?;
        let escaped: String = entry.path.bytes().map(|b| if b == b'/' { "/".into() } else { escaped(b) }).collect();
        let url =
            self.settings.endpoints.on_hub(&format!("{}/resolve/{commit}/{escaped}", repo_at(name, commit).url()));
        let digest = entry.digest();
        // Without a digest the place is a name as good as any for what is under way.
        let key = match &digest {
            Some(digest) => digest.hex().to_owned(),
            None => digest::hex(<sha1::Sha1 as sha1::Digest>::digest(format!("{commit}/{}", entry.path))),
        };
        let _lock = self.lock(name, &key)?;
        let blob = blobs.join(&key);
        let is_there = match &digest {
            // Another process may have been faster.
            Some(digest) if blob.is_file() => digest.problem(&blob)?.is_none(),
            _ => false,
        };
        let blob = if is_there { blob } else { self.blob(&url, &blobs, &key, entry, digest.as_ref())? };
        link(&blob, place)
    }

    /// Downloads a blob; returns where it is.
    fn blob(&self, url: &str, blobs: &Path, key: &str, entry: &Entry, digest: Option<&Digest>) -> Result<PathBuf> {
        let part = blobs.join(format!("{key}.incomplete"));
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(false).open(&part);
        let file = file.map_err(StoreError::io("create", &part))?;
        self.watch.note(&format!("fetching {}{}", entry.path, entry.bytes.map_or(String::new(), size)));
        let wanted = Wanted {
            url,
            hub: true,
            longest: entry.bytes.unwrap_or(1 << 42),
            sha256: match digest {
                Some(Digest::Sha256(hex)) => Some(hex),
                _ => None,
            },
            target: &part,
            otherwise: OTHERWISE,
            progress: &|done, all| self.watch.progress(done, entry.bytes.or(all).unwrap_or(done)),
        };
        let got = self.client.download(&wanted, &file)?;
        if let Some(digest) = digest
            && let Some(problem) = digest.problem(&part)?
        {
            fs::remove_file(&part).map_err(StoreError::io("remove", &part))?;
            return Err(NetError::Damaged { url: crate::url::public(url), problem, otherwise: OTHERWISE.into() });
        }
        file.sync_all().map_err(StoreError::io("sync", &part))?;
        let blob = blobs.join(digest.map_or(got.sha256.as_str(), Digest::hex));
        fs::rename(&part, &blob).map_err(StoreError::io("rename into", &blob))?;
        fsutil::sync_dir(blobs)?;
        Ok(blob)
    }

    /// The right to fetch a blob, by the file that Python's programs lock.
    fn lock(&self, name: &Name, key: &str) -> Result<File> {
        let dir = self.settings.cache.join(".locks").join(repo_at(name, "").folder_name());
        fsutil::create_dir_all(&dir)?;
        let path = dir.join(format!("{key}.lock"));
        let file = File::options().write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(StoreError::io("create", &path))?;
        let mut told = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(e)) => return Err(StoreError::io("lock", path)(e).into()),
            }
            if !std::mem::replace(&mut told, true) {
                self.watch.note(&format!("another process fetches {name}; waiting for it ({})", path.display()));
            }
            if self.stop.load(Ordering::Relaxed) {
                return Err(NetError::Stopped);
            }
            std::thread::sleep(POLL);
        }
    }
}

/// A size for people.
fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!(" ({:.1} kB)", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!(" ({:.1} MB)", bytes as f64 / 1e6),
        _ => format!(" ({:.2} GB)", bytes as f64 / 1e9),
    }
}

/// What to do where there is no network.
const OTHERWISE: &str = "give the path of a copy instead of the name";

/// A file's digest as it was listed; of a cache that another program filled,
/// as its blob is called.
fn known_digest(place: &Path, entry: &Entry) -> Option<Digest> {
    entry.digest().or_else(|| Digest::of_tag(fs::read_link(place).ok()?.file_name()?.to_str()?))
}

/// Puts a link to a blob in its place, over whatever is there.
fn link(blob: &Path, place: &Path) -> Result<()> {
    let dir = place.parent().expect("below a snapshot");
    fsutil::create_dir_all(dir)?;
    let up = dir.strip_prefix(blob.parent().and_then(Path::parent).expect("below a repository"));
    let up = up.expect("of the same repository").components().count();
    let to = Path::new(&"../".repeat(up)).join("blobs").join(blob.file_name().expect("a file"));
    let temporary = tempfile::Builder::new().prefix(".tmp-").make_in(dir, |path| symlink(&to, path));
    let temporary = temporary.map_err(StoreError::io("link into", dir))?.into_temp_path();
    temporary.persist(place).map_err(|e| StoreError::io("rename into", place)(e.error))?;
    Ok(fsutil::sync_dir(dir)?)
}

/// The files below a directory, by their paths there.
fn walk(dir: &Path, below: &str, files: &mut Vec<Entry>) -> Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(StoreError::io("read", dir)(e).into()),
    };
    for entry in entries {
        let entry = entry.map_err(StoreError::io("read", dir))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{below}{name}");
        if name.starts_with(".tmp-") {
            continue;
        }
        if entry.path().is_dir() {
            walk(&entry.path(), &format!("{path}/"), files)?;
        } else if entry.path().is_file() {
            files.push(Entry { path, bytes: None, digest: None });
        }
    }
    Ok(())
}

/// Refuses part 1 of 3 alone, where nobody listed what there is.
fn check_parts(name: &Name, files: &[String]) -> Result<()> {
    for file in files {
        let Some(at) = file.find("-of-") else { continue };
        let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
        let (head, tail) = (&file[..at], &file[at + 4..]);
        let own = head.bytes().rev().take_while(u8::is_ascii_digit).count();
        let Ok(parts) = tail[..digits(tail)].parse::<usize>() else { continue };
        let stem = &head[..head.len() - own];
        let of_it =
            |other: &&String| other.starts_with(stem) && other.contains(&format!("-of-{}", &tail[..digits(tail)]));
        let found = files.iter().filter(of_it).count();
        if own > 0 && found < parts {
            return Err(NetError::Name {
                name: name.to_string(),
                problem: format!("the cache has {found} of {parts} parts of {stem}*"),
                remedy: "fetch the rest where there is a network, or give the path of a copy".into(),
            });
        }
    }
    Ok(())
}
