//! Durable file operations: nothing half-written is ever visible under its
//! final name, and what is visible survives a power cut.

use std::fs::{self, File};
use std::path::Path;

use crate::error::{Result, StoreError};
use crate::fault;

/// Flushes a directory's entries to disk.
///
/// # Errors
/// When the directory cannot be opened or synced.
pub fn sync_dir(dir: &Path) -> Result<()> {
    fault::point("sync directory", dir)
        .and_then(|()| File::open(dir))
        .and_then(|d| d.sync_all())
        .map_err(StoreError::io("sync", dir))
}

/// Flushes a file's bytes to disk.
///
/// # Errors
/// When the file cannot be opened or synced.
pub fn sync_file(path: &Path) -> Result<()> {
    fault::point("sync", path)
        .and_then(|()| File::open(path))
        .and_then(|f| f.sync_all())
        .map_err(StoreError::io("sync", path))
}

/// Creates a directory and its parents, durably: the entry of each that is new
/// is flushed in the directory that holds it.
///
/// # Errors
/// When one cannot be created or synced.
pub fn create_dir_all(dir: &Path) -> Result<()> {
    if dir.as_os_str().is_empty() || dir.is_dir() {
        return Ok(());
    }
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        create_dir_all(parent)?;
    }
    fault::point("create", dir).map_err(StoreError::io("create", dir))?;
    match fs::create_dir(dir) {
        Ok(()) => sync_dir(parent.unwrap_or(Path::new("."))),
        // Another process was faster; its entry may not be flushed yet.
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && dir.is_dir() => {
            sync_dir(parent.unwrap_or(Path::new(".")))
        }
        Err(e) => Err(StoreError::io("create", dir)(e)),
    }
}

/// Writes a file so that a reader sees either the old or the new bytes, and
/// durably: temporary file in the same directory, sync, rename, sync of the
/// directory.
///
/// # Errors
/// When any step fails (a full disk, say); the old file is then untouched.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // The library's default of 0600 would hide artifacts from colleagues.
    let mode = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o644);
    fault::point("create", path).map_err(StoreError::io("create a temporary file in", dir))?;
    let mut tmp = tempfile::Builder::new()
        .prefix(".tmp-")
        .permissions(mode)
        .tempfile_in(dir)
        .map_err(StoreError::io("create a temporary file in", dir))?;
    fault::write(tmp.as_file_mut(), path, bytes).map_err(StoreError::io("write", path))?;
    fault::point("sync", path).and_then(|()| tmp.as_file().sync_all()).map_err(StoreError::io("sync", path))?;
    fault::point("rename", path).map_err(StoreError::io("rename into", path))?;
    tmp.persist(path).map_err(|e| StoreError::Io { action: "rename into", path: path.into(), source: e.error })?;
    sync_dir(dir)
}

/// Moves a directory to a place of the same file system, whole or not at all.
///
/// # Errors
/// When it cannot be moved; of two file systems, what to do about it.
pub(crate) fn move_dir(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::rename(from, to).map_err(|e| match e.kind() {
        std::io::ErrorKind::CrossesDevices => std::io::Error::new(
            e.kind(),
            "it is on another file system than the store, where no change is whole or not at all; put all of the store on one",
        ),
        _ => e,
    })
}

/// The bytes of a file, or `None` when there is none.
///
/// # Errors
/// When it exists and cannot be read.
pub(crate) fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(StoreError::io("read", path)(e)),
    }
}

/// Removes a directory tree if it exists.
///
/// # Errors
/// When it exists and cannot be removed.
pub fn remove_dir_all(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(StoreError::io("remove", dir)(e)),
        _ => Ok(()),
    }
}
