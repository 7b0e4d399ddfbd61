//! Digests as the hub gives them.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use spin_store::StoreError;

/// What is known of a file's bytes before it is fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Digest {
    /// SHA-256, of files in the hub's large storage.
    Sha256(String),
    /// Git's name of the file: SHA-1 of `blob LENGTH\0` and its bytes.
    GitBlob(String),
}

impl Digest {
    /// The digest that a tag stands for: 64 or 40 hexadecimal digits.
    pub fn of_tag(tag: &str) -> Option<Digest> {
        let hex = tag.bytes().all(|b| b.is_ascii_hexdigit()).then(|| tag.to_ascii_lowercase())?;
        match hex.len() {
            64 => Some(Digest::Sha256(hex)),
            40 => Some(Digest::GitBlob(hex)),
            _ => None,
        }
    }

    /// The digits: what the hub's cache calls the file.
    pub fn hex(&self) -> &str {
        match self {
            Digest::Sha256(hex) | Digest::GitBlob(hex) => hex,
        }
    }

    /// What is wrong with a file, if it is not the one; follows "a file that".
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn problem(&self, path: &Path) -> Result<Option<String>, StoreError> {
        let (kind, found) = match self {
            Digest::Sha256(_) => ("SHA-256", sha256(path)?.0),
            Digest::GitBlob(_) => ("git's SHA-1", git_blob(path)?),
        };
        Ok((found != self.hex()).then(|| format!("has {kind} {found}, the hub says {}", self.hex())))
    }
}

/// A digest in lower-case hexadecimal.
pub fn hex(digest: impl AsRef<[u8]>) -> String {
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// SHA-256 and size in bytes of a file.
///
/// # Errors
/// When it cannot be read.
pub fn sha256(path: &Path) -> Result<(String, u64), StoreError> {
    let (mut hasher, mut total) = (Sha256::new(), 0);
    chunks(path, |chunk| {
        hasher.update(chunk);
        total += chunk.len() as u64;
    })?;
    Ok((hex(hasher.finalize()), total))
}

/// Git's name of a file's bytes.
///
/// # Errors
/// When it cannot be read.
pub fn git_blob(path: &Path) -> Result<String, StoreError> {
    let length = path.metadata().map_err(StoreError::io("read", path))?.len();
    let mut hasher = Sha1::new();
    hasher.update(format!("blob {length}\0"));
    chunks(path, |chunk| hasher.update(chunk))?;
    Ok(hex(hasher.finalize()))
}

fn chunks(path: &Path, mut take: impl FnMut(&[u8])) -> Result<(), StoreError> {
    let mut file = File::open(path).map_err(StoreError::io("open", path))?;
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer).map_err(StoreError::io("read", path))? {
            0 => return Ok(()),
            n => take(&buffer[..n]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_git_and_sha256sum() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, "hello\n").unwrap();
        // `git hash-object` and `sha256sum`.
        let git = "ce013625030ba8dba906f756967f9e9ca394464a";
        let sha = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        assert_eq!((git_blob(&path).unwrap().as_str(), sha256(&path).unwrap()), (git, (sha.into(), 6)));
        for tag in [git, sha] {
            assert_eq!(Digest::of_tag(&tag.to_uppercase()).unwrap().problem(&path).unwrap(), None);
            let other = Digest::of_tag(&format!("0{}", &tag[1..])).unwrap().problem(&path).unwrap().unwrap();
            assert!(other.contains(&format!("{tag}, the hub says 0")), "{other}");
        }
        for none in ["", "abc", &"g".repeat(40), &"0".repeat(32), "0-12"] {
            assert_eq!(Digest::of_tag(none), None);
        }
    }
}
