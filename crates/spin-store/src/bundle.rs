//! One file with an artifact and all that it was made from, for a journey.
//!
//! A bundle is a plain tar: `BUNDLE.json` first, then the files of every artifact
//! by their places in a store, parents before their children. It is believed in
//! nothing: only files that its manifests list are taken, of the sizes that they
//! list, and an artifact is published when all its digests hold.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::artifact::Artifact;
use crate::error::{Result, StoreError};
use crate::fault;
use crate::fsutil;
use crate::journal::{Event, Note};
use crate::manifest::{self, LAYOUT, Manifest};
use crate::store::Store;

/// How a bundle's name ends.
pub const EXTENSION: &str = ".spin.tar";

const CONTENTS: &str = "BUNDLE.json";

/// More than any list of artifacts or any manifest takes.
const MOST_TEXT: u64 = 64 << 20;

/// What `BUNDLE.json` says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    layout: u32,
    /// The artifact that it is for.
    root: String,
    /// All of them with their seals, parents first.
    artifacts: Vec<(String, String)>,
}

/// What was taken from a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The artifact that the bundle is for.
    pub root: String,
    /// What the store did not have.
    pub imported: Vec<String>,
    /// How many it had.
    pub known: usize,
    /// Size of all files in bytes.
    pub bytes: u64,
}

/// Whether a path is called as a bundle.
pub fn is_bundle(path: &Path) -> bool {
    path.to_str().is_some_and(|path| path.ends_with(EXTENSION))
}

/// `kind/name/vN`.
fn place(m: &Manifest) -> String {
    format!("{}/{}/v{}", m.kind, m.name, m.version)
}

/// Artifacts, those that others are made from before these.
pub(crate) fn in_order(artifacts: &[Artifact]) -> Vec<&Artifact> {
    let of: BTreeMap<String, &Artifact> = artifacts.iter().map(|a| (a.reference(), a)).collect();
    fn visit<'a>(artifact: &'a Artifact, of: &BTreeMap<String, &'a Artifact>, out: &mut Vec<&'a Artifact>) {
        if out.iter().any(|other| other.reference() == artifact.reference()) {
            return;
        }
        for parent in artifact.manifest.parents.iter().filter(|parent| !parent.is_outside()) {
            if let Some(parent) = of.get(&parent.origin.to_string()) {
                visit(parent, of, out);
            }
        }
        out.push(artifact);
    }
    let mut out = Vec::new();
    of.values().for_each(|artifact| visit(artifact, &of, &mut out));
    out
}

/// Writes a bundle of artifacts, `root` among them, each verified while it is
/// read. The same artifacts give the same bytes. Returns its size.
///
/// # Errors
/// When an artifact is damaged, or the file is there or cannot be written.
pub fn write(artifacts: &[Artifact], root: &Artifact, path: &Path) -> Result<u64> {
    if path.exists() {
        return Err(StoreError::corrupt(path, "is there already", "give another name, or remove it"));
    }
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mode = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o644);
    let mut builder = tempfile::Builder::new();
    let temporary = builder.prefix(".tmp-").permissions(mode).tempfile_in(dir);
    let temporary = temporary.map_err(StoreError::io("create a temporary file in", dir))?;
    let failed = || StoreError::io("write", path);
    let mut tar = tar::Builder::new(BufWriter::new(temporary.as_file()));
    let mut add = |name: &str, bytes: u64, data: &mut dyn Read| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes);
        header.set_mode(0o644);
        header.set_mtime(0);
        tar.append_data(&mut header, name, data)
    };
    let artifacts = in_order(artifacts);
    let listed = artifacts.iter().map(|artifact| (artifact.reference(), artifact.manifest.seal.clone())).collect();
    let contents = Contents { layout: LAYOUT, root: root.reference(), artifacts: listed };
    let text = serde_json::to_vec_pretty(&contents).expect("a list is plain JSON");
    add(CONTENTS, text.len() as u64, &mut text.as_slice()).map_err(failed())?;
    for artifact in artifacts {
        let (artifact, place) = (artifact.verified()?, place(&artifact.manifest));
        let text = artifact.manifest.to_text();
        add(&format!("{place}/{}", manifest::FILE_NAME), text.len() as u64, &mut text.as_bytes()).map_err(failed())?;
        for file in &artifact.manifest.files {
            let from = artifact.dir().join(&file.path);
            let mut data = File::open(&from).map_err(StoreError::io("open", &from))?;
            add(&format!("{place}/{}", file.path), file.bytes, &mut data).map_err(failed())?;
        }
    }
    tar.into_inner().and_then(|buffer| buffer.into_inner().map_err(|e| e.into_error())).map_err(failed())?;
    temporary.as_file().sync_all().map_err(StoreError::io("sync", path))?;
    let bytes = temporary.as_file().metadata().map_err(StoreError::io("read", path))?.len();
    let keep = temporary.persist_noclobber(path);
    keep.map_err(|e| StoreError::Io { action: "rename into", path: path.into(), source: e.error })?;
    fsutil::sync_dir(dir)?;
    Ok(bytes)
}

/// Takes all artifacts of a bundle into a store, each when it is whole and all it
/// was made from is there. What the store has already stays.
///
/// # Errors
/// When the bundle is damaged or holds anything else, or the store has another
/// artifact at one of the places. What was taken before stays, and is whole.
pub fn take(store: &Store, path: &Path, at: Option<&str>) -> Result<Taken> {
    let file = File::open(path).map_err(StoreError::io("open", path))?;
    let mut archive = tar::Archive::new(BufReader::new(file));
    let mut entries = archive.entries().map_err(|e| StoreError::unreadable(path, "tar", &e))?;
    let bad = |problem: String| StoreError::corrupt(path, problem, "get the bundle again from where it was made");
    let mut next = || -> Result<Option<(String, tar::Entry<'_, BufReader<File>>)>> {
        let Some(entry) = entries.next() else { return Ok(None) };
        let entry = entry.map_err(|e| StoreError::unreadable(path, "tar", &e))?;
        let name = entry.path().map_err(|e| StoreError::unreadable(path, "tar", &e))?.to_string_lossy().into_owned();
        match entry.header().entry_type() {
            tar::EntryType::Regular => Ok(Some((name, entry))),
            other => Err(bad(format!("holds {name:?}, which is no file ({other:?})"))),
        }
    };
    let text_of = |name: &str, entry: &mut tar::Entry<'_, BufReader<File>>| {
        if entry.size() > MOST_TEXT {
            return Err(bad(format!("holds {name:?} of {} bytes", entry.size())));
        }
        let mut text = Vec::new();
        entry.read_to_end(&mut text).map_err(|e| StoreError::unreadable(path, "tar", &e))?;
        Ok(text)
    };
    let Some((_, mut entry)) = next()?.filter(|(name, _)| name == CONTENTS) else {
        return Err(bad(format!("does not begin with {CONTENTS}")));
    };
    let text = text_of(CONTENTS, &mut entry)?;
    let contents: Contents =
        serde_json::from_slice(&text).map_err(|e| bad(format!("has a {CONTENTS} that is none ({e})")))?;
    if contents.layout > LAYOUT {
        return Err(StoreError::TooNew { path: path.into(), found: contents.layout, known: LAYOUT });
    }
    let mut taken = Taken { root: contents.root.clone(), imported: Vec::new(), known: 0, bytes: 0 };
    for (reference, seal) in &contents.artifacts {
        let missing = |what: &str| bad(format!("ends before {what} of {reference}"));
        let staging = store.staging()?;
        let (name, mut entry) = next()?.ok_or_else(|| missing("the manifest"))?;
        let text = text_of(&name, &mut entry)?;
        fsutil::write_atomic(&staging.path().join(manifest::FILE_NAME), &text)?;
        let manifest = Manifest::read(staging.path()).map_err(|error| bad(format!("{name:?}: {error}")))?;
        let place = place(&manifest);
        let is_listed = manifest.reference() == *reference && manifest.seal == *seal;
        if !is_listed || name != format!("{place}/{}", manifest::FILE_NAME) || !crate::store::is_name(&manifest.name) {
            return Err(bad(format!("holds {name:?} where the manifest of {reference} belongs")));
        }
        let known = match store.get(&reference.parse()?) {
            Ok(known) => Some(known),
            Err(StoreError::Missing { .. }) => None,
            Err(error) => return Err(error),
        };
        if known.as_ref().is_some_and(|known| known.manifest.seal != manifest.seal) {
            let problem = format!("holds {reference}, and the store has another artifact of that name");
            return Err(StoreError::corrupt(path, problem, "import it into a store of its own, with --store"));
        }
        for file in &manifest.files {
            let (name, mut entry) = next()?.ok_or_else(|| missing(&file.path))?;
            if name != format!("{place}/{}", file.path) || entry.size() != file.bytes {
                return Err(bad(format!("holds {name:?} of {} bytes where {} belongs", entry.size(), file.path)));
            }
            taken.bytes += file.bytes;
            if known.is_some() {
                continue;
            }
            let to = staging.path().join(&file.path);
            fsutil::create_dir_all(to.parent().unwrap_or(staging.path()))?;
            let created = fault::point("create", &to).and_then(|()| File::create(&to));
            let mut out = created.map_err(StoreError::io("create", &to))?;
            std::io::copy(&mut entry, &mut out).map_err(StoreError::io("write", &to))?;
            fault::point("sync", &to).and_then(|()| out.sync_all()).map_err(StoreError::io("sync", &to))?;
        }
        match known {
            Some(known) => {
                known.verify_wholly()?;
                taken.known += 1;
            }
            None => {
                let staged = Artifact { dir: staging.path().into(), manifest };
                staged
                    .verify_wholly()
                    .map_err(|error| bad(format!("holds another {reference} than it lists ({error})")))?;
                settle(store, staged, staging, at)?;
                taken.imported.push(reference.clone());
            }
        }
    }
    match next()? {
        Some((name, _)) => Err(bad(format!("holds {name:?}, which no manifest lists"))),
        None => Ok(taken),
    }
}

/// Publishes an artifact that was made elsewhere and is as recorded, at its place.
fn settle(store: &Store, staged: Artifact, dir: tempfile::TempDir, at: Option<&str>) -> Result<()> {
    for parent in staged.manifest.parents.iter().filter(|parent| !parent.is_outside()) {
        let found = store.parent(parent)?;
        if found.manifest.content != parent.content {
            let problem = format!("is made from another {} than the store has", parent.origin);
            return Err(StoreError::corrupt(&staged.dir, problem, "import it into a store of its own, with --store"));
        }
    }
    let m = &staged.manifest;
    let parent = store.name_dir(m.kind, &m.name);
    fsutil::create_dir_all(&parent)?;
    let _lock = store.lock_versions(m.kind, &m.name, "")?;
    let to = parent.join(format!("v{}", m.version));
    if to.exists() {
        let problem = "is there already, and was not when the import began";
        return Err(StoreError::corrupt(&to, problem, "import the bundle again"));
    }
    for entry in walkdir::WalkDir::new(dir.path()).into_iter().filter_map(Result::ok) {
        if entry.file_type().is_dir() {
            fsutil::sync_dir(entry.path())?;
        }
    }
    store.note(at, vec![Note::of(Event::Publishing, &staged)])?;
    fault::point("rename", &to)
        .and_then(|()| fsutil::move_dir(dir.path(), &to))
        .map_err(StoreError::io("publish", &to))?;
    let _ = dir.keep();
    fsutil::sync_dir(&parent)?;
    store.note(at, vec![Note::of(Event::Published, &staged)])
}
