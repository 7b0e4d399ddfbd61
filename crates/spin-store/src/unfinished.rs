//! What unfinished work there is, and what of it cannot be used.

use std::path::PathBuf;

use crate::collect::entries;
use crate::error::Result;
use crate::store::{Store, WORK};
use crate::work::{WorkDir, record_name};

/// The unfinished work of one artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// Its directory, called by the identity of what is made.
    pub dir: PathBuf,
    /// The parts with a record beside them.
    pub parts: usize,
    /// Those of them that are not what was written, with the reason. Whoever carries
    /// on makes them again; one that is written at this moment may be among them.
    pub unusable: Vec<(PathBuf, String)>,
}

impl Store {
    /// All unfinished work, each part read whole and compared with its record. Nobody
    /// takes it for published, so that nothing here is a fault of the store.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn unfinished(&self) -> Result<Vec<Unfinished>> {
        let dirs = entries(&self.root().join(WORK))?.into_iter().filter(|path| path.is_dir() && !path.is_symlink());
        dirs.map(|dir| {
            let identity = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let work = WorkDir::open(&dir, &identity)?;
            let mut found = Unfinished { dir: dir.clone(), parts: 0, unusable: Vec::new() };
            for path in entries(&dir)? {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                if !path.is_file() || !work.has(&record_name(&name)) {
                    continue;
                }
                found.parts += 1;
                if let Some(why) = work.unusable(&name)? {
                    found.unusable.push((path, why));
                }
            }
            Ok(found)
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::row::numbers::Number;

    #[test]
    fn parts_that_are_not_what_was_written_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.unfinished().unwrap(), []);
        let work = store.work("abc").unwrap();
        for index in 0..3 {
            work.write_part(&format!("part-{index}"), index, &[Number(7)], &json!({})).unwrap();
        }
        std::fs::write(work.path("checkpoint"), "no part").unwrap();
        std::fs::write(work.path("part-1"), "another").unwrap();
        // A process that was killed between the record and its part leaves the record.
        std::fs::remove_file(work.path("part-2")).unwrap();
        let found = store.unfinished().unwrap();
        assert_eq!((found.len(), found[0].parts), (1, 2));
        let [(path, why)] = found[0].unusable.as_slice() else { panic!("{found:?}") };
        assert!(path.ends_with("abc/part-1") && why.contains("not those that were written"), "{why}");
    }
}
