//! Unfinished work, kept by identity so that a killed stage carries on.
//!
//! What lies there outlives a process, and people can reach it. So a part is
//! used only if the record beside it says that it is this part of this
//! artifact with these very bytes; anything else is made again.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::digest;
use crate::error::{Result, StoreError};
use crate::fsutil;
use crate::in_use;
use crate::row::Row;
use crate::table;

/// Between two tries to get a lock.
const TRY_EVERY: Duration = Duration::from_millis(50);

/// A directory that outlives the process. Files in it are written atomically
/// ([`fsutil::write_atomic`]), so whatever is there was whole when it was
/// written.
#[derive(Debug)]
pub struct WorkDir {
    dir: PathBuf,
    identity: String,
}

/// Held while one process does a piece of work; released when dropped or when
/// the process dies.
#[derive(Debug)]
pub struct WorkLock {
    file: File,
    /// Not so on a file system without locks.
    is_held: bool,
}

impl WorkLock {
    /// Whether it keeps others out: a file system may have no locks.
    pub fn is_held(&self) -> bool {
        self.is_held
    }
}

/// What a look at a file of unfinished work finds.
#[derive(Clone, Debug, PartialEq)]
pub enum Found<T> {
    /// It is there, as it was written, and belongs.
    Whole(T),
    /// There is no such file.
    Absent,
    /// It is there and cannot be used, for this reason: it is to be made again.
    Unusable(String),
}

impl<T> Found<T> {
    /// What is whole, if it is.
    pub fn whole(self) -> Option<T> {
        match self {
            Found::Whole(whole) => Some(whole),
            Found::Absent | Found::Unusable(_) => None,
        }
    }

    /// What is whole and holds what was `planned`; `why` says what it holds
    /// instead.
    pub fn check(self, planned: impl FnOnce(&T) -> bool, why: &str) -> Found<T> {
        match self {
            Found::Whole(whole) if !planned(&whole) => Found::Unusable(why.into()),
            other => other,
        }
    }
}

/// A part with what its maker noted beside it.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkPart<R> {
    /// Its rows.
    pub rows: Vec<R>,
    /// What its maker noted.
    pub facts: Value,
}

/// Name of the record beside a file of unfinished work.
pub fn record_name(name: &str) -> String {
    format!("{name}.json")
}

/// The record's text: `seal` covers the other fields.
fn record(name: &str, identity: &str, bytes: &[u8], facts: &Value) -> String {
    let mut record = json!({"blake3": digest::of_bytes(bytes), "facts": facts, "identity": identity, "name": name});
    let seal = digest::of_json(&record);
    record["seal"] = json!(seal);
    format!("{record}\n")
}

/// The facts of a record, if it fits the file; else why it does not.
fn checked(text: &[u8], name: &str, identity: &str, bytes: &[u8]) -> std::result::Result<Value, String> {
    let record: Value = serde_json::from_slice(text).map_err(|_| "the record beside it is damaged")?;
    if record.get("blake3").is_none() {
        return Err("the record beside it has no digest, it is of an earlier release".into());
    }
    let mut others = record.clone();
    let seal = others.as_object_mut().and_then(|others| others.remove("seal"));
    if seal != Some(json!(digest::of_json(&others))) {
        return Err("the record beside it is damaged".into());
    }
    if record["identity"] != identity || record["name"] != name {
        return Err("it was made for something else".into());
    }
    if record["blake3"] != digest::of_bytes(bytes) {
        return Err("its bytes are not those that were written".into());
    }
    Ok(record["facts"].clone())
}

impl WorkDir {
    pub(crate) fn open(dir: &Path, identity: &str) -> Result<WorkDir> {
        fsutil::create_dir_all(dir)?;
        Ok(WorkDir { dir: dir.into(), identity: identity.into() })
    }

    /// The identity of what is made here.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// A path inside.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Whether a file is there.
    pub fn has(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    /// Writes a part, the `index`-th of the artifact, with a record of its
    /// bytes beside it, in which `facts` are kept.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_part<R: Row>(&self, name: &str, index: usize, rows: &[R], facts: &Value) -> Result<()> {
        let path = self.path(name);
        let bytes = R::encode_part(&path, rows, &self.identity, index)?;
        // The record first: a part that is there has one, and a record of
        // other bytes than those under the name makes nothing usable.
        let record = record(name, &self.identity, &bytes, facts);
        fsutil::write_atomic(&self.path(&record_name(name)), record.as_bytes())?;
        fsutil::write_atomic(&path, &bytes)
    }

    /// The bytes of a part, read once: those that were checked are those that
    /// are used.
    fn part_bytes(&self, name: &str) -> Result<Found<(Vec<u8>, Value)>> {
        let Some(bytes) = fsutil::read_if_there(&self.path(name))? else { return Ok(Found::Absent) };
        let Some(text) = fsutil::read_if_there(&self.path(&record_name(name)))? else {
            return Ok(Found::Unusable("it has no record beside it".into()));
        };
        Ok(match checked(&text, name, &self.identity, &bytes) {
            Ok(facts) => Found::Whole((bytes, facts)),
            Err(why) => Found::Unusable(why),
        })
    }

    /// Why a part that is there cannot be used, if it cannot.
    pub(crate) fn unusable(&self, name: &str) -> Result<Option<String>> {
        Ok(match self.part_bytes(name)? {
            Found::Unusable(why) => Some(why),
            Found::Whole(_) | Found::Absent => None,
        })
    }

    /// Reads a part that [`write_part`](Self::write_part) wrote.
    ///
    /// # Errors
    /// When the file is there and cannot be read: a broken disk is not an
    /// absent part.
    pub fn read_part<R: Row>(&self, name: &str, index: usize) -> Result<Found<WorkPart<R>>> {
        let (bytes, facts) = match self.part_bytes(name)? {
            Found::Whole(whole) => whole,
            Found::Absent => return Ok(Found::Absent),
            Found::Unusable(why) => return Ok(Found::Unusable(why)),
        };
        let label = (self.identity.as_str(), index);
        let batch = table::read_labelled(&self.path(name), bytes, &R::schema(), R::SCHEMA_VERSION, label);
        Ok(match batch {
            Ok(batch) => Found::Whole(WorkPart { rows: R::from_batch(&batch), facts }),
            Err(error) => Found::Unusable(error.to_string()),
        })
    }

    /// Copies a part to `to`, unless it is not what was written.
    ///
    /// # Errors
    /// When it cannot be read or the copy cannot be written.
    pub fn copy_part(&self, name: &str, to: &Path) -> Result<Found<()>> {
        Ok(match self.part_bytes(name)? {
            Found::Whole((bytes, _)) => {
                fsutil::write_atomic(to, &bytes)?;
                Found::Whole(())
            }
            Found::Absent => Found::Absent,
            Found::Unusable(why) => Found::Unusable(why),
        })
    }

    /// Takes the lock `name`, or says who holds it.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another process has it.
    pub fn lock(&self, name: &str) -> Result<WorkLock> {
        self.lock_as(name, &format!("process {}", std::process::id()))
    }

    /// The same, with words for those who do not get it.
    ///
    /// # Errors
    /// As [`lock`](Self::lock).
    pub fn lock_as(&self, name: &str, holder: &str) -> Result<WorkLock> {
        let path = self.path(name);
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(StoreError::io("open", &path))?;
        let is_held = match in_use::try_lock(&file) {
            Ok(()) => true,
            Err(std::fs::TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder);
                let holder = if holder.is_empty() { "another process".into() } else { holder };
                return Err(StoreError::locked(path, holder));
            }
            // Two processes may then do the same work; neither publishes over the other.
            Err(std::fs::TryLockError::Error(e)) if in_use::has_none(&e) => false,
            Err(std::fs::TryLockError::Error(e)) => return Err(StoreError::io("lock", path)(e)),
        };
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(holder.as_bytes()))
            .map_err(StoreError::io("write", &path))?;
        Ok(WorkLock { file, is_held })
    }
}

/// The right to change what a name stands for; its file is gone when nobody
/// has or wants it.
#[derive(Debug)]
pub struct NameLock {
    lock: Option<WorkLock>,
    path: PathBuf,
}

impl Drop for NameLock {
    fn drop(&mut self) {
        // Before it is released: who waits for a file that is gone notices.
        let _ = std::fs::remove_file(&self.path);
        drop(self.lock.take());
    }
}

impl WorkDir {
    /// Takes the lock `name`, waiting for at most `limit`. `on_wait` is told
    /// who holds it, once for each holder.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another process still has it then.
    pub(crate) fn lock_within(
        &self,
        name: &str,
        holder: &str,
        limit: Duration,
        on_wait: &mut dyn FnMut(&str),
    ) -> Result<NameLock> {
        let start = Instant::now();
        let mut told = None;
        let path = self.path(name);
        loop {
            match self.lock_as(name, holder) {
                Ok(lock) if is_at(&lock, &path) => return Ok(NameLock { lock: Some(lock), path }),
                // Its holder removed it while we waited.
                Ok(_) => {}
                Err(StoreError::Locked { holder: other, .. }) if start.elapsed() < limit => {
                    // One try is no wait: most locks are held for a moment.
                    if told.as_ref() != Some(&other) && start.elapsed() > 2 * TRY_EVERY {
                        on_wait(&other);
                        told = Some(other);
                    }
                    std::thread::sleep(TRY_EVERY);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Whether a lock is on the file that has the name now.
fn is_at(lock: &WorkLock, path: &Path) -> bool {
    let file = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
    match (lock.file.metadata(), path.metadata()) {
        (Ok(ours), Ok(named)) => file(ours) == file(named),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
