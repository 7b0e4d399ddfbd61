//! Finding, listing and publishing artifacts.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde_json::Value;
use walkdir::WalkDir;

pub use crate::artifact::Artifact;
use crate::error::{Result, StoreError};
use crate::fsutil;
use crate::in_use;
use crate::journal;
use crate::kind::Kind;
use crate::manifest::{self, LAYOUT, Manifest, Parent, StageId};
use crate::work::WorkDir;

const STORE_FILE: &str = "STORE.json";
pub(crate) const WORK: &str = ".work";
const LOCKS: &str = ".locks";

/// A store: a directory with a `STORE.json`.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
    /// That it is open.
    pub(crate) in_use: Option<Arc<File>>,
    /// Whether somebody was told that it has no locks.
    pub(crate) told_of_locks: Arc<AtomicBool>,
}

/// Everything that decides what an artifact will hold. Equal recipes give
/// equal identities, and equal identities are reused instead of made again.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// Kind to make.
    pub kind: Kind,
    /// Name to make it under (not part of the identity).
    pub name: String,
    /// The stage, with the version of its behaviour.
    pub stage: StageId,
    /// The stage's resolved configuration, as far as it decides the result.
    pub params: Value,
    /// The inputs, in a fixed order.
    pub parents: Vec<Parent>,
}

impl Recipe {
    /// Digest of the inputs.
    pub fn identity(&self) -> String {
        manifest::identity_of(&self.stage, self.kind, &self.params, &self.parents)
    }
}

/// Which version of a name is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Version {
    /// The highest number.
    Latest,
    /// `@v3`.
    Number(u32),
    /// `@1a2b3c`: the prefix of a content or identity digest.
    Digest(String),
}

/// `kind/name@version`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Kind.
    pub kind: Kind,
    /// Name below the kind.
    pub name: String,
    /// Version; `@latest` when left out.
    pub version: Version,
}

impl FromStr for Reference {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || StoreError::BadReference { reference: text.into(), kinds: Kind::names() };
        let (path, version) = text.split_once('@').unwrap_or((text, "latest"));
        let (kind, name) = path.split_once('/').ok_or_else(bad)?;
        let kind = kind.parse().map_err(|()| bad())?;
        let version = if version == "latest" {
            Version::Latest
        } else if let Some(n) = version.strip_prefix('v').and_then(|n| n.parse().ok()) {
            Version::Number(n)
        } else if version.len() >= 4 && version.bytes().all(|b| b.is_ascii_hexdigit()) {
            Version::Digest(version.to_ascii_lowercase())
        } else {
            return Err(bad());
        };
        if !is_name(name) {
            return Err(bad());
        }
        Ok(Reference { kind, name: name.into(), version })
    }
}

/// Whether a name can stand below a kind: parts of letters, digits, `-`, `_`
/// and `.`, none of which reads as a version directory or leaves the store.
pub fn is_name(name: &str) -> bool {
    name.split('/').all(|part| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
            && !is_version(part)
    })
}

/// The number of a version's directory, which has one spelling.
pub(crate) fn version_number(dir: &str) -> Option<u32> {
    let number = dir.strip_prefix('v').filter(|n| is_number(n) && !n.starts_with('0'))?;
    number.parse().ok()
}

/// Whether a directory is called as a version, whatever its number.
pub(crate) fn is_version(dir: &str) -> bool {
    dir.strip_prefix('v').is_some_and(is_number)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

fn store_text(layout: u32) -> String {
    format!("{{\"layout\":{layout},\"made_by\":\"spin-store\"}}\n")
}

/// Run files, messages and what others read of a store have its path as text.
fn check_root(root: &Path) -> Result<()> {
    match root.to_str() {
        Some(_) => Ok(()),
        None => Err(StoreError::corrupt(
            root,
            "is not UTF-8, which the path of a store must be",
            "give another directory, with `store` in the run file or --store",
        )),
    }
}

impl Store {
    /// A handle on the store at `root`, be there one or not: nothing is
    /// looked at and nothing made. For those who only want to know what a run
    /// would do.
    pub fn handle(root: &Path) -> Store {
        Store { root: root.into(), in_use: None, told_of_locks: Arc::default() }
    }

    /// Opens a store that must be there: a look creates none.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when there is none; when it was written by a
    /// newer program.
    pub fn open_existing(root: &Path) -> Result<Store> {
        let path = root.join(STORE_FILE);
        match path.try_exists() {
            Ok(true) => Store::open(root),
            Ok(false) => Err(StoreError::Missing {
                reference: "at all".into(),
                store: root.into(),
                remedy: format!(
                    "it holds no {STORE_FILE}; give the directory of a store, with --store or in the run file"
                ),
            }),
            Err(e) => Err(StoreError::io("read", path)(e)),
        }
    }

    /// Opens a store, creating it when the directory has no `STORE.json` yet.
    ///
    /// # Errors
    /// When it cannot be created, or was written by a newer program.
    pub fn open(root: &Path) -> Result<Store> {
        let path = root.join(STORE_FILE);
        if !path.exists() {
            check_root(&std::path::absolute(root).map_err(StoreError::io("open", root))?)?;
            fsutil::create_dir_all(root)?;
            // Before the layout that promises one.
            journal::begin(root)?;
            fsutil::write_atomic(&path, store_text(LAYOUT).as_bytes())?;
        }
        let root = root.canonicalize().map_err(StoreError::io("open", root))?;
        check_root(&root)?;
        let store = Store { in_use: in_use::shared(&root), root, told_of_locks: Arc::default() };
        store.layout()?;
        Ok(store)
    }

    /// The layout that `STORE.json` says: from the second on there is a journal.
    ///
    /// # Errors
    /// When it is unreadable, altered, or newer than this program.
    pub fn layout(&self) -> Result<u32> {
        let path = self.root.join(STORE_FILE);
        let bytes = fs::read(&path).map_err(StoreError::io("read", &path))?;
        let text = String::from_utf8_lossy(&bytes);
        let value: Option<Value> = serde_json::from_str(&text).ok();
        let layout = value.as_ref().and_then(|v| v["layout"].as_u64());
        match layout {
            Some(found) if found > u64::from(LAYOUT) => {
                Err(StoreError::TooNew { path, found: u32::try_from(found).unwrap_or(u32::MAX), known: LAYOUT })
            }
            Some(found) if (1..=LAYOUT).any(|layout| u64::from(layout) == found && text == store_text(layout)) => {
                Ok(u32::try_from(found).expect("it is not above this program's"))
            }
            _ => Err(StoreError::corrupt(
                &path,
                "is not the line this program writes",
                format!("put back {:?}", store_text(LAYOUT).trim_end()),
            )),
        }
    }

    /// Keeps programs that know of no journal out of a store that has one.
    pub(crate) fn raise_layout(&self) -> Result<()> {
        fsutil::write_atomic(&self.root.join(STORE_FILE), store_text(LAYOUT).as_bytes())
    }

    /// The root directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn name_dir(&self, kind: Kind, name: &str) -> PathBuf {
        self.root.join(kind.dir()).join(name)
    }

    /// Version numbers present under a name, ascending.
    ///
    /// # Errors
    /// When the directory exists and cannot be read.
    pub fn versions(&self, kind: Kind, name: &str) -> Result<Vec<u32>> {
        let dir = self.name_dir(kind, name);
        self.refuse_links(kind, name)?;
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(StoreError::io("read", dir)(e)),
        };
        let mut versions = Vec::new();
        for entry in entries {
            let entry = entry.map_err(StoreError::io("read", &dir))?;
            versions.extend(entry.file_name().to_str().and_then(version_number));
        }
        versions.sort_unstable();
        Ok(versions)
    }

    /// Refuses a path below a kind's directory with a link in it: a walk of the
    /// store follows none, and so no reader may.
    pub(crate) fn refuse_links(&self, kind: Kind, below: &str) -> Result<()> {
        let mut path = self.root.join(kind.dir());
        for part in below.split('/') {
            path.push(part);
            if path.is_symlink() {
                let remedy = "put what it points to in its place; only the directory of a whole kind may be a link";
                return Err(StoreError::corrupt(&path, "is a link, which no reader follows", remedy));
            }
        }
        Ok(())
    }

    fn load(&self, kind: Kind, name: &str, version: u32) -> Result<Artifact> {
        self.refuse_links(kind, &format!("{name}/v{version}"))?;
        let dir = self.name_dir(kind, name).join(format!("v{version}"));
        let manifest = Manifest::read(&dir)?;
        if (manifest.kind, manifest.name.as_str(), manifest.version) != (kind, name, version) {
            return Err(StoreError::corrupt(
                &dir,
                format!("says it is {}", manifest.reference()),
                "move it back to that place",
            ));
        }
        Ok(Artifact { dir, manifest })
    }

    /// The artifact a reference names.
    ///
    /// # Errors
    /// When there is none, the digest prefix is ambiguous, or the record is
    /// damaged.
    pub fn get(&self, reference: &Reference) -> Result<Artifact> {
        let Reference { kind, name, version } = reference;
        let missing = |remedy: &str| StoreError::Missing {
            reference: match version {
                Version::Latest => format!("{kind}/{name}"),
                Version::Number(n) => format!("{kind}/{name}@v{n}"),
                Version::Digest(d) => format!("{kind}/{name}@{d}"),
            },
            store: self.root.clone(),
            remedy: remedy.into(),
        };
        let versions = self.versions(*kind, name)?;
        if versions.is_empty()
            && let Some(artifact) = self.named(reference)?
        {
            return Ok(artifact);
        }
        let listing = "`spin-store ls` shows what there is";
        match version {
            Version::Latest => {
                let last = versions.last().ok_or_else(|| missing(listing))?;
                self.load(*kind, name, *last)
            }
            Version::Number(n) if versions.contains(n) => self.load(*kind, name, *n),
            Version::Number(_) => Err(missing(listing)),
            Version::Digest(prefix) => {
                let mut found = Vec::new();
                for v in versions {
                    let artifact = self.load(*kind, name, v)?;
                    if artifact.manifest.has_digest(prefix) {
                        found.push(artifact);
                    }
                }
                match found.len() {
                    0 => Err(missing(listing)),
                    1 => Ok(found.remove(0)),
                    n => Err(missing(&format!("the prefix fits {n} versions, give more digits"))),
                }
            }
        }
    }

    /// The artifact that a parent in the store is.
    ///
    /// # Errors
    /// When it is not there, is of a kind that this program does not know, lies
    /// outside of the store, or its record is damaged.
    pub fn parent(&self, parent: &Parent) -> Result<Artifact> {
        self.get(&parent.origin.to_string().parse()?)
    }

    /// The newest artifact with the recipe's name and identity, if any.
    ///
    /// # Errors
    /// When a record under that name is damaged.
    pub fn find(&self, recipe: &Recipe) -> Result<Option<Artifact>> {
        let identity = recipe.identity();
        for v in self.versions(recipe.kind, &recipe.name)?.into_iter().rev() {
            let artifact = self.load(recipe.kind, &recipe.name, v)?;
            if artifact.manifest.identity == identity {
                return Ok(Some(artifact));
            }
        }
        Ok(None)
    }

    /// All artifact directories as `(kind, name, version)`, sorted.
    ///
    /// # Errors
    /// When a directory cannot be read.
    pub fn list(&self) -> Result<Vec<(Kind, String, u32)>> {
        let mut out = Vec::new();
        for kind in Kind::ALL {
            let base = self.root.join(kind.dir());
            if !base.exists() {
                continue;
            }
            let mut walk = WalkDir::new(&base).min_depth(1).into_iter();
            while let Some(entry) = walk.next() {
                let entry = entry.map_err(|e| StoreError::io("read", &base)(e.into()))?;
                if !entry.file_type().is_dir() {
                    continue;
                }
                if let Some(version) = entry.file_name().to_str().and_then(version_number) {
                    walk.skip_current_dir();
                    let name = entry.path().parent().and_then(|p| p.strip_prefix(&base).ok());
                    if let Some(name) = name.and_then(Path::to_str).filter(|n| !n.is_empty()) {
                        out.push((kind, name.to_owned(), version));
                    }
                }
            }
        }
        out.sort();
        Ok(out)
    }

    /// All artifacts, as [`Store::list`] has them.
    ///
    /// # Errors
    /// When a directory or a record cannot be read.
    pub fn artifacts(&self) -> Result<Vec<Artifact>> {
        self.list()?.iter().map(|entry| self.load_listed(entry)).collect()
    }

    /// Those of them whose records can be read: `verify` names the others.
    ///
    /// # Errors
    /// When a directory cannot be read.
    pub fn readable(&self) -> Result<impl Iterator<Item = Artifact>> {
        Ok(self.list()?.into_iter().filter_map(|entry| self.load_listed(&entry).ok()))
    }

    /// Loads one entry of [`Store::list`].
    ///
    /// # Errors
    /// When the record is absent or damaged.
    pub fn load_listed(&self, entry: &(Kind, String, u32)) -> Result<Artifact> {
        self.load(entry.0, &entry.1, entry.2)
    }

    /// The directory of unfinished work for an identity; it outlives the
    /// process, and [`Context::make`](crate::Context::make) clears it away.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn work(&self, identity: &str) -> Result<WorkDir> {
        WorkDir::open(&self.work_place(identity), identity)
    }

    /// Where that directory is, or would be: for those who only look.
    pub fn work_place(&self, identity: &str) -> PathBuf {
        self.root.join(WORK).join(identity)
    }

    /// Takes the store alone, for as long as the answer lives.
    ///
    /// # Errors
    /// [`StoreError::Locked`] while anybody else has it open; when it cannot be
    /// locked at all.
    pub fn alone(&self) -> Result<in_use::Alone<'_>> {
        in_use::alone(self.in_use.as_deref(), &self.root)
    }

    /// Where the locks of names lie.
    pub(crate) fn locks(&self) -> Result<WorkDir> {
        WorkDir::open(&self.root.join(LOCKS), "")
    }

    /// Removes the unfinished work of an identity once it is published.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn discard_work(&self, identity: &str) -> Result<()> {
        fsutil::remove_dir_all(&self.root.join(WORK).join(identity))
    }
}
