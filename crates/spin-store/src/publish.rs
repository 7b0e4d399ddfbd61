//! Publishing: an assembled directory becomes the next version of a name.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rayon::prelude::*;
use serde_json::{Map, Value};
use walkdir::WalkDir;

use crate::artifact::Artifact;
use crate::digest::{self, Digests};
use crate::error::{Result, StoreError};
use crate::fault;
use crate::fsutil;
use crate::journal::{Event, Note};
use crate::kind::Kind;
use crate::manifest::{self, FileEntry, LAYOUT, Manifest};
use crate::store::{Recipe, Store};
use crate::table;
use crate::work::NameLock;

pub(crate) const STAGING: &str = ".staging";

/// How long a publication waits for another of the same name: it takes a
/// rename and two syncs, so who is longer at it is stopped or stuck.
const PATIENCE: Duration = Duration::from_secs(120);

/// A name as part of a lock's: `/` is no part of a file's name, and `,` none
/// of an artifact's.
fn flat(kind: Kind, name: &str) -> String {
    format!("{kind},{}", name.replace('/', ","))
}

impl Store {
    /// A fresh, empty directory on the store's file system to assemble an
    /// artifact in.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn staging(&self) -> Result<tempfile::TempDir> {
        let base = self.root().join(STAGING);
        fsutil::create_dir_all(&base)?;
        let mode = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
        tempfile::Builder::new()
            .prefix("new-")
            .permissions(mode)
            .tempdir_in(&base)
            .map_err(StoreError::io("create a directory in", base))
    }

    /// Takes the right to import under a name, so that of several processes
    /// one copies and the others find what it made. Waits for at most `limit`;
    /// `on_wait` is told for whom.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another process still is at it then.
    pub fn lock_import(
        &self,
        kind: Kind,
        name: &str,
        holder: &str,
        limit: Duration,
        on_wait: &mut dyn FnMut(&str),
    ) -> Result<NameLock> {
        self.locks()?.lock_within(&format!("{}.import", flat(kind, name)), holder, limit, on_wait)
    }

    /// The right to add or remove versions of a name.
    pub(crate) fn lock_versions(&self, kind: Kind, name: &str, whose: &str) -> Result<NameLock> {
        let holder = format!("process {}{whose}", std::process::id());
        self.locks()?.lock_within(&format!("{}.publish", flat(kind, name)), &holder, PATIENCE, &mut |_| {})
    }

    /// The right to change one of the store's own lists, which takes a moment.
    pub(crate) fn lock_list(&self, list: &str) -> Result<NameLock> {
        self.locks()?.lock_within(list, "spin-store", Duration::from_secs(60), &mut |_| {})
    }

    /// Publishes an assembled directory as the next version of the recipe's
    /// name: digests and syncs every file, writes the manifest last, and
    /// renames the whole into place. A reader sees all of it or nothing.
    /// Where another process published the same identity meanwhile, that
    /// artifact is returned and nothing is made.
    ///
    /// `facts` is what the stage counted; `environment` is stored outside the
    /// identities.
    ///
    /// # Errors
    /// When a file cannot be read or written (a full disk, say), or a table
    /// has no rows. The store is then as it was.
    pub(crate) fn publish(
        &self,
        staged: tempfile::TempDir,
        recipe: &Recipe,
        facts: Map<String, Value>,
        environment: Map<String, Value>,
    ) -> Result<Artifact> {
        self.publish_if(staged, recipe, facts, environment, |store| store.find(recipe))
    }

    /// As [`publish`](Store::publish), and a further version even where there
    /// is one of the same identity: for a table of answers by others, who may
    /// say now what they did not say then.
    ///
    /// # Errors
    /// As [`publish`](Store::publish).
    pub(crate) fn publish_anew(
        &self,
        staged: tempfile::TempDir,
        recipe: &Recipe,
        facts: Map<String, Value>,
        environment: Map<String, Value>,
    ) -> Result<Artifact> {
        self.publish_if(staged, recipe, facts, environment, |_| Ok(None))
    }

    fn publish_if(
        &self,
        staged: tempfile::TempDir,
        recipe: &Recipe,
        facts: Map<String, Value>,
        environment: Map<String, Value>,
        find: impl Fn(&Store) -> Result<Option<Artifact>>,
    ) -> Result<Artifact> {
        let files = digest_files(staged.path())?;
        check_rows(recipe, &files)?;
        let parent = self.name_dir(recipe.kind, &recipe.name);
        fsutil::create_dir_all(&parent)?;
        let host = environment.get("host").and_then(Value::as_str).map(|host| format!(" on {host}"));
        let _lock = self.lock_versions(recipe.kind, &recipe.name, &host.unwrap_or_default())?;
        self.refuse_further_name(recipe.kind, &recipe.name)?;
        let mut least = 1;
        loop {
            // In this order, for where locks do nothing: what another publishes after the versions
            // were counted is in the way of the rename, and is found the next time.
            let version = self.versions(recipe.kind, &recipe.name)?.last().map_or(1, |v| v + 1).max(least);
            if let Some(found) = find(self)? {
                return Ok(found);
            }
            let manifest = Manifest {
                layout: LAYOUT,
                kind: recipe.kind,
                name: recipe.name.clone(),
                version,
                identity: recipe.identity(),
                content: manifest::content_of(&files),
                stage: recipe.stage.clone(),
                params: recipe.params.clone(),
                parents: recipe.parents.clone(),
                files: files.clone(),
                facts: facts.clone(),
                environment: environment.clone(),
                seal: String::new(),
            }
            .sealed();
            fsutil::write_atomic(&staged.path().join(manifest::FILE_NAME), manifest.to_text().as_bytes())?;
            let dir = parent.join(format!("v{version}"));
            let artifact = Artifact { dir: dir.clone(), manifest };
            let at = environment.get("finished_at").and_then(Value::as_str);
            self.note(at, vec![Note::of(Event::Publishing, &artifact)])?;
            // An existing version is never replaced: rename onto a directory
            // that has files in it fails. Where locks do nothing, this still holds.
            match fault::point("rename", &dir).and_then(|()| fsutil::move_dir(staged.path(), &dir)) {
                Ok(()) => {
                    // The directory has moved away from under the guard.
                    let _ = staged.keep();
                    fsutil::sync_dir(&parent)?;
                    // It is published: should this line fail, the one before it stands for it.
                    let _ = self.note(at, vec![Note::of(Event::Published, &artifact)]);
                    return Ok(artifact);
                }
                Err(_) if dir.exists() => {
                    // What was noted is not what is there.
                    if let Ok(other) = self.load_listed(&(recipe.kind, recipe.name.clone(), version))
                        && self.journal()?.is_some_and(|j| j.has_published(&other.reference(), &other.manifest.seal))
                    {
                        self.note(at, vec![Note::of(Event::Published, &other)])?;
                    }
                    least = version + 1;
                }
                Err(e) => return Err(StoreError::io("publish", dir)(e)),
            }
        }
    }
}

/// Refuses a table without rows of a kind that has some: whatever left
/// nothing should be said where it happened, and not by the stages after it.
fn check_rows(recipe: &Recipe, files: &[FileEntry]) -> Result<()> {
    let may_be_empty = match recipe.kind {
        // A training of no update, a judge that was not asked, weights, and a table
        // that shares nothing.
        Kind::Metrics | Kind::Judgments | Kind::Model | Kind::Overlaps => true,
        Kind::Demonstrations
        | Kind::Preferences
        | Kind::Samples
        | Kind::Pairs
        | Kind::Reference
        | Kind::Scores
        | Kind::Requests
        | Kind::Evaluations => false,
    };
    if may_be_empty || files.iter().any(|file| file.rows.is_some_and(|rows| rows > 0)) {
        return Ok(());
    }
    Err(StoreError::Empty { kind: recipe.kind, name: recipe.name.clone() })
}

/// Syncs every file below `dir`, except the manifest, and digests them beside each other.
fn digest_files(dir: &Path) -> Result<Vec<FileEntry>> {
    let mut files = Vec::new();
    for entry in WalkDir::new(dir).sort_by_file_name() {
        let entry = entry.map_err(|e| StoreError::io("read", dir)(e.into()))?;
        if entry.file_type().is_dir() {
            fsutil::sync_dir(entry.path())?;
            continue;
        }
        let relative = entry.path().strip_prefix(dir).expect("walked below dir");
        let path = relative.to_string_lossy().replace(std::path::MAIN_SEPARATOR, "/");
        if path == manifest::FILE_NAME {
            continue;
        }
        fsutil::sync_file(entry.path())?;
        files.push((path, entry.into_path()));
    }
    let entries: Vec<_> = files.into_par_iter().map(|(path, file)| entry_of(path, &file)).collect();
    let mut entries = entries.into_iter().collect::<Result<Vec<_>>>()?;
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(entries)
}

/// What the manifest says of a file.
fn entry_of(path: String, file: &Path) -> Result<FileEntry> {
    let Digests { blake3, sha256, bytes } = digest::both_of_file(file)?;
    let (rows, rows_digest) = match path.ends_with(".parquet") {
        true => table::rows_digest(file).map(|(rows, digest)| (Some(rows), Some(digest)))?,
        false => (None, None),
    };
    Ok(FileEntry { path, bytes, blake3, sha256: Some(sha256), rows, rows_digest })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::row::Row as _;
    use crate::row::numbers::Number;
    use crate::{Context, StageId, Staged, in_use};

    fn recipe(kind: Kind, of: &str) -> Recipe {
        let stage = StageId { name: "test".into(), version: 1 };
        Recipe { kind, name: "run/x".into(), stage, params: json!({"of": of}), parents: Vec::new() }
    }

    fn publish(store: &Store, of: &str) -> Result<Artifact> {
        let staged = store.staging()?;
        Number::write_part(&staged.path().join(table::part_name(0)), &[Number(1)], "id", 0)?;
        store.publish(staged, &recipe(Kind::Reference, of), Map::new(), Map::new())
    }

    #[test]
    fn eight_publications_of_one_identity_make_one_version() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        for of in ["one", "two"] {
            let versions: Vec<u32> = std::thread::scope(|scope| {
                let all: Vec<_> = (0..8).map(|_| scope.spawn(|| publish(&store, of).unwrap())).collect();
                all.into_iter().map(|thread| thread.join().unwrap().manifest.version).collect()
            });
            assert!(versions.iter().all(|version| *version == versions[0]), "{versions:?}");
        }
        assert_eq!(store.versions(Kind::Reference, "run/x").unwrap(), [1, 2]);
        // What the others had assembled is gone, and so are the locks.
        for left in [STAGING, ".locks"] {
            assert_eq!(fs::read_dir(dir.path().join(left)).unwrap().count(), 0, "{left}");
        }
    }

    /// Another process publishes between the look and the rename.
    #[test]
    fn without_locks_nothing_is_published_twice() {
        for of in ["one", "two"] {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::open(dir.path()).unwrap();
            let staged = store.staging().unwrap();
            Number::write_part(&staged.path().join(table::part_name(0)), &[Number(1)], "id", 0).unwrap();
            let recipe = recipe(Kind::Reference, "one");
            let looks = std::cell::Cell::new(0);
            let made = in_use::without::locks(|| {
                store.publish_if(staged, &recipe, Map::new(), Map::new(), |store| {
                    let found = store.find(&recipe)?;
                    looks.set(looks.get() + 1);
                    if looks.get() == 1 {
                        publish(store, of)?;
                    }
                    Ok(found)
                })
            });
            let made = made.unwrap();
            assert_eq!(looks.get(), 2);
            // Of the same identity there is one; another one has its own number.
            let versions: &[u32] = if of == "one" { &[1] } else { &[1, 2] };
            assert_eq!(store.versions(Kind::Reference, "run/x").unwrap(), versions);
            assert_eq!((made.manifest.version, &made.manifest.params["of"]), (versions.len() as u32, &json!("one")));
            let problems = crate::audit::verify(&store, crate::audit::Level::Hash, &|_| Ok(None)).unwrap().1;
            assert!(problems.is_empty(), "{problems:?}");
        }
    }

    #[test]
    fn that_there_are_no_locks_is_said_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let said = std::sync::Mutex::new(Vec::new());
        let watch = |text: &str| said.lock().unwrap().push(text.to_owned());
        let context = Context { watch: &watch, ..Context::silent(&store) };
        let make = |of: &str| {
            let made = context.make(&recipe(Kind::Reference, of), |making| -> Result<Staged> {
                let staged = making.staging()?;
                Number::write_part(&staged.path().join(table::part_name(0)), &[Number(1)], "id", 0)?;
                Ok(Staged::new(staged, Map::new()))
            });
            assert!(made.unwrap().1);
        };
        make("one");
        assert!(said.lock().unwrap().is_empty());
        in_use::without::locks(|| ["two", "three"].map(make));
        let said = said.into_inner().unwrap();
        assert!(said.len() == 1 && said[0].contains("has no locks"), "{said:?}");
    }

    #[test]
    fn a_further_version_is_made_where_that_is_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        for expected in [1, 2] {
            let staged = store.staging().unwrap();
            let recipe = recipe(Kind::Judgments, "judge");
            let made = store.publish_anew(staged, &recipe, Map::new(), Map::new()).unwrap();
            assert_eq!(made.manifest.version, expected);
        }
    }

    /// Where there is a second file system to try it on.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_kind_on_another_file_system_is_refused_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let Ok(other) = tempfile::tempdir_in("/dev/shm") else { return };
        let device = |path: &Path| std::os::unix::fs::MetadataExt::dev(&fs::metadata(path).unwrap());
        if device(dir.path()) == device(other.path()) {
            return;
        }
        let store = Store::open(dir.path()).unwrap();
        std::os::unix::fs::symlink(other.path(), dir.path().join("reference")).unwrap();
        let error = publish(&store, "one").unwrap_err().to_string();
        assert!(error.contains("put all of the store on one"), "{error}");
        assert_eq!(store.list().unwrap(), []);
    }

    #[test]
    fn a_table_without_rows_is_refused_where_a_stage_needs_some() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let staged = store.staging().unwrap();
        Number::write_part(&staged.path().join(table::part_name(0)), &[], "id", 0).unwrap();
        let recipe_of = |kind| recipe(kind, "nothing");
        let error = store.publish(staged, &recipe_of(Kind::Reference), Map::new(), Map::new()).unwrap_err();
        assert!(error.is_bad_input() && error.to_string().contains("reference/run/x would be a table without rows"));
        assert_eq!(store.list().unwrap(), []);
        let staged = store.staging().unwrap();
        Number::write_part(&staged.path().join(table::part_name(0)), &[], "id", 0).unwrap();
        store.publish(staged, &recipe_of(Kind::Judgments), Map::new(), Map::new()).unwrap();
    }
}
