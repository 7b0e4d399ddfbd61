//! Whether a directory's files are those that were hashed, told without
//! reading them.
//!
//! Size and modification time prove nothing: anybody can set the latter. The
//! time of the last change of the inode (ctime) cannot be set, and together
//! with device and inode it shows every write and every replacement, unless it
//! came within the file system's resolution of the change before. Then both
//! have one time, as with git's "racy" index entries. So a file counts as
//! known only if it had been left alone for a while when it was read.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use spin_store::digest;
use spin_store::error::{Result, StoreError};

/// How long a file must have been left alone: more than any file system's
/// resolution, and than the clocks of a server and of a client differ.
const QUIET: Duration = Duration::from_secs(60);

/// What the file system says about files, at a time.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Stamp {
    dir: PathBuf,
    /// Digest over path, device, inode, size, mtime and ctime of every file.
    files: String,
    /// The latest ctime, in nanoseconds since 1970.
    changed: i128,
    /// When we looked, by this machine's clock.
    looked: i128,
}

impl Stamp {
    /// Looks at files of a directory; links are followed.
    pub fn of(dir: &Path, files: &[PathBuf]) -> Result<Stamp> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let looked = i128::try_from(since.as_nanos()).unwrap_or(0);
        let nanos = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        let (mut list, mut changed) = (Vec::new(), i128::MIN);
        for file in files {
            let path = dir.join(file);
            let meta = path.metadata().map_err(StoreError::io("read", &path))?;
            let (mtime, ctime) = (nanos(meta.mtime(), meta.mtime_nsec()), nanos(meta.ctime(), meta.ctime_nsec()));
            changed = changed.max(ctime);
            let numbers = [mtime, ctime].map(|time| time.to_string());
            list.push(json!([file.to_string_lossy(), meta.dev(), meta.ino(), meta.len(), numbers]));
        }
        let dir = dir.canonicalize().map_err(StoreError::io("read", dir))?;
        Ok(Stamp { dir, files: digest::of_json(&Value::Array(list)), changed, looked })
    }

    /// As a manifest keeps it. Times are text: JSON's numbers end at 2^53.
    pub fn to_json(&self) -> Value {
        json!({
            "dir": self.dir.to_string_lossy(),
            "stamp": self.files,
            "changed": self.changed.to_string(),
            "looked": self.looked.to_string(),
        })
    }

    /// Whether the files are those of which `source` was kept. What earlier
    /// releases kept, sizes and times of modification, proves nothing.
    pub fn proves(&self, source: Option<&Value>) -> bool {
        let Some(source) = source else { return false };
        let time = |key: &str| source[key].as_str().and_then(|text| text.parse::<i128>().ok());
        let quiet = match (time("changed"), time("looked")) {
            (Some(changed), Some(looked)) => looked - changed > QUIET.as_nanos() as i128,
            _ => false,
        };
        quiet && source["stamp"] == self.files.as_str()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn later(mut stamp: Stamp, by: Duration) -> Value {
        stamp.looked += by.as_nanos() as i128;
        stamp.to_json()
    }

    #[test]
    fn only_files_left_alone_are_known() {
        let dir = tempfile::tempdir().unwrap();
        let files = [PathBuf::from("a")];
        let path = dir.path().join("a");
        std::fs::write(&path, "one").unwrap();
        let stamp = || Stamp::of(dir.path(), &files).unwrap();
        // Just written: the next write might have the same time.
        assert!(!stamp().proves(Some(&stamp().to_json())));
        let quiet = later(stamp(), Duration::from_secs(61));
        assert!(stamp().proves(Some(&quiet)));
        assert!(!stamp().proves(Some(&later(stamp(), Duration::from_secs(50)))));
        // What earlier releases kept, and nothing.
        assert!(!stamp().proves(Some(&json!({"dir": "d", "digest": "0"}))) && !stamp().proves(None));

        // Another content of the same size with the old time put back, in
        // place and by replacement.
        let modified = path.metadata().unwrap().modified().unwrap();
        let back =
            |path: &Path| std::fs::File::options().write(true).open(path).unwrap().set_modified(modified).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        std::fs::write(&path, "two").unwrap();
        back(&path);
        assert_eq!(path.metadata().unwrap().modified().unwrap(), modified);
        assert!(!stamp().proves(Some(&quiet)));
        let quiet = later(stamp(), Duration::from_secs(61));
        std::fs::write(dir.path().join("b"), "six").unwrap();
        back(&dir.path().join("b"));
        std::fs::rename(dir.path().join("b"), &path).unwrap();
        assert!(!stamp().proves(Some(&quiet)));
    }
}
