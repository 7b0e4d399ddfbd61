//! The way into the journal.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Result, StoreError};
use crate::fault;
use crate::fsutil;
use crate::journal::{Entry, Event, FILE_NAME, Journal, Note, lines_of, nothing, whole_lines};
use crate::manifest::LAYOUT;
use crate::store::Store;

/// How long a line waits for those of others: each takes one write and one sync.
const PATIENCE: Duration = Duration::from_secs(120);

impl Store {
    /// Its journal; `None` in a store of the first layout.
    ///
    /// # Errors
    /// As [`Journal::read`].
    pub fn journal(&self) -> Result<Option<Journal>> {
        Journal::read(self.root())
    }

    /// Writes lines behind those that are there. A store without a journal gets
    /// one, which begins with what the store has.
    pub(crate) fn note(&self, at: Option<&str>, notes: Vec<Note>) -> Result<()> {
        let holder = format!("process {}", std::process::id());
        let _lock = self.locks()?.lock_within("journal", &holder, PATIENCE, &mut |_| {})?;
        let path: PathBuf = self.root().join(FILE_NAME);
        if !path.exists() {
            self.begin_journal(&path, at)?;
        } else if self.layout()? < LAYOUT {
            // Whoever began it was killed before it said so.
            self.raise_layout()?;
        }
        let failed = |action| StoreError::io(action, &path);
        let bytes = fs::read(&path).map_err(failed("read"))?;
        let (lines, rest) = whole_lines(&bytes);
        // Of a last line that was changed `verify` says so; the next one follows from
        // what it says.
        let last = lines.last().and_then(|line| serde_json::from_slice::<Entry>(line).ok());
        let last = last.map_or_else(nothing, |entry| entry.digest);
        let kept = bytes.len() - rest.len();
        let end = if kept > 0 && bytes[kept - 1] != b'\n' { "\n" } else { "" };
        let text = end.to_owned() + &lines_of(notes, at, (lines.len() as u64, last));
        let mut file = OpenOptions::new().append(true).open(&path).map_err(failed("open"))?;
        // What a killed writer left is no line, and would make none of this one.
        file.set_len(kept as u64).map_err(failed("write"))?;
        fault::write(&mut file, &path, text.as_bytes()).map_err(failed("write"))?;
        fault::point("sync", &path).and_then(|()| file.sync_all()).map_err(failed("sync"))
    }

    /// The journal of a store that had none.
    fn begin_journal(&self, path: &Path, at: Option<&str>) -> Result<()> {
        if self.layout()? > 1 {
            let remedy = format!(
                "restore it from a copy; without one, `: > {}` and `spin-store adopt --all` begin another, by which \
                 nothing that was deleted before can be missed",
                path.display()
            );
            return Err(StoreError::corrupt(path, "is gone", remedy));
        }
        let notes = self.readable()?.map(|artifact| Note::of(Event::Adopted, &artifact)).collect();
        let text = lines_of(notes, at, (0, nothing()));
        fsutil::write_atomic(path, text.as_bytes())?;
        self.raise_layout()
    }
}
