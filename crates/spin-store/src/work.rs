//! Unfinished work, kept by identity so that a killed stage carries on.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use crate::error::{Result, StoreError};
use crate::fsutil;

/// A directory that outlives the process. Files in it are written atomically
/// ([`fsutil::write_atomic`]), so whatever is there is whole.
#[derive(Debug)]
pub struct WorkDir {
    dir: PathBuf,
}

/// Held while one process does a piece of work; released when dropped or when
/// the process dies.
#[derive(Debug)]
pub struct WorkLock {
    _file: File,
}

impl WorkDir {
    pub(crate) fn open(dir: &Path) -> Result<WorkDir> {
        fsutil::create_dir_all(dir)?;
        Ok(WorkDir { dir: dir.into() })
    }

    /// A path inside.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Whether a file is there.
    pub fn has(&self, name: &str) -> bool {
        self.path(name).exists()
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
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder);
                let holder = if holder.is_empty() { "another process".into() } else { holder };
                return Err(StoreError::locked(path, holder));
            }
            Err(std::fs::TryLockError::Error(e)) => return Err(StoreError::io("lock", path)(e)),
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(holder.as_bytes()))
            .map_err(StoreError::io("write", &path))?;
        Ok(WorkLock { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_holder_is_told_who_has_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let work = WorkDir::open(&dir.path().join("w")).unwrap();
        let held = work.lock("lock").unwrap();
        let error = work.lock("lock").unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        drop(held);
        work.lock("lock").unwrap();
    }
}
