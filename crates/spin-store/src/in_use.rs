//! A lock that says a store is open: shared by all who look and work, taken alone by
//! who collects what nobody needs.

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::sync::Arc;

use crate::error::{Result, StoreError};

const FILE: &str = ".in-use";

/// Whether a file system says that it has no locks: NFS without its daemon, some
/// parallel ones. Publishing does not need them, see `Store::publish`.
pub(crate) fn has_none(error: &std::io::Error) -> bool {
    // ENOLCK and EOPNOTSUPP of Linux.
    error.kind() == std::io::ErrorKind::Unsupported || matches!(error.raw_os_error(), Some(37 | 38 | 95))
}

/// `File::try_lock`; the tests of this crate can have a thread be where there are no locks.
pub(crate) fn try_lock(file: &File) -> std::result::Result<(), std::fs::TryLockError> {
    #[cfg(test)]
    if without::IS.get() {
        return Err(std::fs::TryLockError::Error(std::io::Error::from_raw_os_error(37)));
    }
    file.try_lock()
}

#[cfg(test)]
pub(crate) mod without {
    use std::cell::Cell;

    thread_local! {
        pub(super) static IS: Cell<bool> = const { Cell::new(false) };
    }

    /// What `f` gives on a file system without locks.
    pub fn locks<T>(f: impl FnOnce() -> T) -> T {
        let before = IS.replace(true);
        let given = f();
        IS.set(before);
        given
    }
}

/// Takes the shared lock; nobody has one in a store that cannot be written, or on a
/// file system without locks.
pub(crate) fn shared(root: &Path) -> Option<Arc<File>> {
    let path = root.join(FILE);
    let file = File::open(&path)
        .or_else(|_| OpenOptions::new().create(true).truncate(false).write(true).read(true).open(&path))
        .ok()?;
    file.lock_shared().ok()?;
    Some(Arc::new(file))
}

/// Held while a store is one process's alone.
#[derive(Debug)]
pub struct Alone<'a> {
    file: &'a File,
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        let _ = self.file.lock_shared();
    }
}

/// Takes a store alone, by the lock that it holds with others.
pub(crate) fn alone<'a>(file: Option<&'a File>, root: &Path) -> Result<Alone<'a>> {
    let path = root.join(FILE);
    let Some(file) = file else {
        let problem = "cannot be locked, so nobody knows who else uses the store";
        return Err(StoreError::corrupt(&path, problem, "collect where the file system has locks"));
    };
    match file.try_lock() {
        Ok(()) => Ok(Alone { file }),
        Err(std::fs::TryLockError::WouldBlock) => {
            let _ = file.lock_shared();
            Err(StoreError::locked(path, "a program that has the store open"))
        }
        Err(std::fs::TryLockError::Error(e)) => Err(StoreError::io("lock", path)(e)),
    }
}
