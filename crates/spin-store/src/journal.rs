//! What became of every artifact of a store: an append-only file of lines, each
//! with the digest of the line before it.
//!
//! An artifact pins what it was made from, so nothing below another one can be
//! changed or go unseen. The journal does the same for what nothing was made
//! from yet: what was published must be there until a line says that it was
//! removed. Its last digest, the *head*, stands for all that the store ever
//! held; kept elsewhere, it shows that nobody wrote the journal anew
//! ([`Journal::denied`]).
//!
//! A publication is two lines, one before and one after the rename, and so is a
//! removal: killed between them, the artifact may be there or not.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::artifact::Artifact;
use crate::digest;
use crate::error::{Result, StoreError};
use crate::fault;
use crate::fsutil;
use crate::manifest::LAYOUT;
use crate::store::Store;

/// The file's name in the store.
pub const FILE_NAME: &str = "JOURNAL.jsonl";

/// How long a line waits for those of others: each takes one write and one sync.
const PATIENCE: Duration = Duration::from_secs(120);

/// What happened to an artifact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// It is about to be renamed into its place.
    Publishing,
    /// It is in its place.
    Published,
    /// It was there before the journal, or somebody put it there and says so.
    Adopted,
    /// It is about to be removed, on purpose.
    Removing,
    /// It was removed on purpose.
    Removed,
}

/// A line of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its number, from 1.
    pub entry: u64,
    /// When, where whoever wrote it knew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// What happened.
    pub event: Event,
    /// `kind/name@vN`.
    pub artifact: String,
    /// The seal of its manifest; empty where it was gone already.
    pub seal: String,
    /// `digest` of the line before this one; zeros in the first.
    pub previous: String,
    /// Digest of all the above.
    pub digest: String,
}

impl Entry {
    /// The digest that belongs to the other fields.
    fn computed(&self) -> String {
        let bare = Entry { digest: String::new(), ..self.clone() };
        digest::of_json(&serde_json::to_value(bare).expect("an entry is plain JSON"))
    }

    fn line(&self) -> String {
        serde_json::to_string(self).expect("an entry is plain JSON")
    }
}

/// What is to be written of an artifact.
pub(crate) struct Note {
    pub event: Event,
    pub artifact: String,
    pub seal: String,
}

impl Note {
    pub fn of(event: Event, artifact: &Artifact) -> Note {
        Note { event, artifact: artifact.reference(), seal: artifact.manifest.seal.clone() }
    }
}

/// A journal as it was read.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    /// Its lines.
    pub entries: Vec<Entry>,
}

fn nothing() -> String {
    "0".repeat(64)
}

/// The whole lines of a file. What a killed writer left behind the last of them is
/// none; it may have left out the end of a line alone.
fn whole_lines(bytes: &[u8]) -> (Vec<&[u8]>, &[u8]) {
    let end = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
    let (whole, rest) = bytes.split_at(end);
    let mut lines: Vec<&[u8]> = whole.split_inclusive(|b| *b == b'\n').map(|line| &line[..line.len() - 1]).collect();
    match serde_json::from_slice::<Entry>(rest) {
        Ok(_) => {
            lines.push(rest);
            (lines, &[])
        }
        Err(_) => (lines, rest),
    }
}

/// Whether bytes are what a write that ended early leaves of the line with this
/// number.
fn is_torn(rest: &[u8], number: usize) -> bool {
    let start = format!("{{\"entry\":{number},");
    let shared = rest.len().min(start.len());
    // A line that ends in anything but its end was changed, not torn.
    let is_more = serde_json::Deserializer::from_slice(rest).into_iter::<Entry>().next().is_some_and(|one| one.is_ok());
    rest[..shared] == start.as_bytes()[..shared] && !is_more
}

impl Journal {
    /// Reads the journal of a store; `None` where there is none, as in stores of
    /// the first layout.
    ///
    /// # Errors
    /// When it cannot be read, a line is none, or a line is not chained to the
    /// one before it.
    pub fn read(store: &Store) -> Result<Option<Journal>> {
        let path = store.root().join(FILE_NAME);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(StoreError::io("read", path)(e)),
        };
        let mut journal = Journal::default();
        let bad = |row: usize, problem: &str| {
            let remedy = "restore the journal from a copy: what it says of artifacts is unproven";
            Err(StoreError::row(&path, row, problem, remedy))
        };
        let (lines, rest) = whole_lines(&bytes);
        for (index, line) in lines.iter().enumerate() {
            let Ok(entry) = serde_json::from_slice::<Entry>(line) else {
                return bad(index + 1, "is no entry of a journal");
            };
            if entry.digest != entry.computed() || entry.line().as_bytes() != *line {
                return bad(index + 1, "was altered after it was written");
            }
            if entry.entry != index as u64 + 1 || entry.previous != journal.head() {
                return bad(index + 1, "does not follow from the line before it");
            }
            journal.entries.push(entry);
        }
        if !is_torn(rest, lines.len() + 1) {
            return bad(lines.len() + 1, "is neither an entry nor the beginning of one");
        }
        Ok(Some(journal))
    }

    /// The digest that stands for all lines.
    pub fn head(&self) -> String {
        self.entries.last().map_or_else(nothing, |entry| entry.digest.clone())
    }

    /// The line whose digest, given by its beginning, was the head once: the journal
    /// says today all that it said then.
    fn line_of_head(&self, head: &str) -> Option<usize> {
        self.entries.iter().position(|entry| entry.digest.starts_with(head))
    }

    /// What the journal had when its head was this and is not so now, though nobody
    /// removed it on purpose: `found` as for `verify`.
    ///
    /// # Errors
    /// When it never had this head.
    pub fn denied(&self, store: &Store, head: &str, found: &BTreeMap<String, String>) -> Result<Vec<StoreError>> {
        let path = store.root().join(FILE_NAME);
        let Some(until) = self.line_of_head(head) else {
            let problem = format!("never had the head {head}: it was written anew, or is another store's");
            return Err(StoreError::corrupt(&path, problem, "restore the store from a copy"));
        };
        let then: BTreeMap<&str, &Entry> =
            self.entries[..=until].iter().map(|entry| (entry.artifact.as_str(), entry)).collect();
        let now = self.last();
        let is_removed = |artifact: &str| matches!(now[artifact].event, Event::Removing | Event::Removed);
        let denied = then.into_iter().filter(|(artifact, entry)| {
            let was_there = matches!(entry.event, Event::Published | Event::Adopted);
            was_there && found.get(*artifact) != Some(&entry.seal) && !is_removed(artifact)
        });
        let say = |(artifact, _): (&str, &Entry)| {
            let problem =
                format!("had another {artifact} when its head was {head}: it was made, or written, anew since");
            StoreError::corrupt(&path, problem, "restore it from a copy; what was said of it then is not of this one")
        };
        Ok(denied.map(say).collect())
    }

    /// Whether this was published under that seal, by a stage or from a bundle.
    pub(crate) fn has_published(&self, artifact: &str, seal: &str) -> bool {
        let is_one = |entry: &&Entry| matches!(entry.event, Event::Publishing | Event::Published);
        self.entries.iter().filter(is_one).any(|entry| entry.artifact == artifact && entry.seal == seal)
    }

    /// The last entry about each artifact.
    pub fn last(&self) -> BTreeMap<&str, &Entry> {
        self.entries.iter().map(|entry| (entry.artifact.as_str(), entry)).collect()
    }

    /// Whether an artifact ever was what a seal says.
    pub fn knows(&self, artifact: &str, seal: &str) -> bool {
        self.entries.iter().any(|entry| entry.artifact == artifact && entry.seal == seal)
    }

    /// What it says otherwise than what is there: `found` has the seal of every
    /// artifact that can be read, and nothing for one that cannot.
    pub(crate) fn problems(
        &self,
        store: &Store,
        found: &BTreeMap<String, Option<String>>,
    ) -> Vec<(String, StoreError)> {
        let last = self.last();
        let path = store.root().join(FILE_NAME);
        let mut problems = Vec::new();
        let mut say = |artifact: &str, problem: String, remedy: String| {
            problems.push((artifact.to_owned(), StoreError::corrupt(&path, problem, remedy)));
        };
        for (artifact, seal) in found {
            let restore = || format!("restore {artifact} from a copy, or remove it with `spin-store rm {artifact}`");
            match last.get(artifact.as_str()) {
                None => say(
                    artifact,
                    "knows nothing of it: it was not published here".into(),
                    format!("if you put it there, say so with `spin-store adopt {artifact}`"),
                ),
                Some(entry) if entry.event == Event::Removed => {
                    say(artifact, format!("has it removed, in entry {}, and it is there", entry.entry), restore());
                }
                Some(entry) if seal.as_ref().is_some_and(|seal| *seal != entry.seal) => say(
                    artifact,
                    format!("has another seal of it, in entry {}: its manifest was written anew", entry.entry),
                    restore(),
                ),
                Some(_) => {}
            }
        }
        for (artifact, entry) in last {
            if matches!(entry.event, Event::Published | Event::Adopted) && !found.contains_key(artifact) {
                let remedy =
                    format!("restore it from a copy, or say that it was meant to go with `spin-store rm {artifact}`");
                say(artifact, format!("has it, in entry {}, and it is gone", entry.entry), remedy);
            }
        }
        problems
    }
}

/// Makes an empty journal, unless there is one.
pub(crate) fn begin(root: &Path) -> Result<()> {
    let path = root.join(FILE_NAME);
    match fault::point("create", &path).and_then(|()| OpenOptions::new().write(true).create_new(true).open(&path)) {
        Ok(file) => file.sync_all().map_err(StoreError::io("sync", &path)).and_then(|()| fsutil::sync_dir(root)),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(StoreError::io("create", path)(e)),
    }
}

/// Entries for notes, as text behind an entry with this number and digest.
fn lines_of(notes: Vec<Note>, at: Option<&str>, (mut number, mut previous): (u64, String)) -> String {
    let mut text = String::new();
    for Note { event, artifact, seal } in notes {
        number += 1;
        let at = at.map(str::to_owned);
        let mut entry = Entry { entry: number, at, event, artifact, seal, previous, digest: String::new() };
        entry.digest = entry.computed();
        text += &entry.line();
        text.push('\n');
        previous = entry.digest;
    }
    text
}

impl Store {
    /// Its journal; `None` in a store of the first layout.
    ///
    /// # Errors
    /// As [`Journal::read`].
    pub fn journal(&self) -> Result<Option<Journal>> {
        Journal::read(self)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn note(event: Event, artifact: &str, seal: &str) -> Note {
        Note { event, artifact: artifact.into(), seal: seal.into() }
    }

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        (dir, store)
    }

    fn said(store: &Store, found: &[(&str, &str)]) -> Vec<String> {
        let found = found.iter().map(|(name, seal)| ((*name).to_owned(), Some((*seal).to_owned()))).collect();
        let problems = store.journal().unwrap().unwrap().problems(store, &found);
        problems.into_iter().map(|(artifact, error)| format!("{artifact}: {error}")).collect()
    }

    #[test]
    fn what_was_published_must_be_there_until_it_is_removed() {
        let (_dir, store) = store();
        store.note(None, vec![note(Event::Publishing, "a", "1")]).unwrap();
        // Killed before the rename or after it.
        assert!(said(&store, &[]).is_empty() && said(&store, &[("a", "1")]).is_empty());
        store.note(Some("now"), vec![note(Event::Published, "a", "1")]).unwrap();
        assert!(said(&store, &[("a", "1")]).is_empty());
        assert!(said(&store, &[])[0].contains("has it, in entry 2, and it is gone"));
        assert!(said(&store, &[("a", "2")])[0].contains("its manifest was written anew"));
        assert!(said(&store, &[("a", "1"), ("b", "1")])[0].contains("b: "));
        store.note(None, vec![note(Event::Removing, "a", "1")]).unwrap();
        assert!(said(&store, &[]).is_empty() && said(&store, &[("a", "1")]).is_empty());
        store.note(None, vec![note(Event::Removed, "a", "1")]).unwrap();
        assert!(said(&store, &[]).is_empty());
        assert!(said(&store, &[("a", "1")])[0].contains("has it removed, in entry 4"));
        let journal = store.journal().unwrap().unwrap();
        assert!(journal.knows("a", "1") && !journal.knows("a", "2") && journal.line_of_head(&journal.head()).is_some());
        assert_eq!(journal.entries[1].at.as_deref(), Some("now"));
    }

    #[test]
    fn a_half_line_is_none_and_an_edited_one_breaks_the_chain() {
        let (_dir, store) = store();
        let path = store.root().join(FILE_NAME);
        for seal in ["1", "2", "3"] {
            store.note(None, vec![note(Event::Published, "a", seal)]).unwrap();
        }
        let whole = fs::read(&path).unwrap();
        store.note(None, vec![note(Event::Published, "a", "4")]).unwrap();
        let more = fs::read(&path).unwrap();
        for half in [1, 8, 40, more.len() - whole.len() - 2] {
            fs::write(&path, &more[..whole.len() + half]).unwrap();
            assert_eq!(store.journal().unwrap().unwrap().entries.len(), 3);
        }
        store.note(None, vec![note(Event::Published, "a", "4")]).unwrap();
        assert_eq!(store.journal().unwrap().unwrap().entries.len(), 4);
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let without = |gone: usize| {
            let kept = lines.iter().enumerate().filter(|(i, _)| *i != gone).map(|(_, line)| format!("{line}\n"));
            fs::write(&path, kept.collect::<String>()).unwrap();
            store.journal().map(|journal| journal.unwrap().entries.len())
        };
        assert!(without(1).unwrap_err().to_string().contains("row 2: does not follow from the line before it"));
        // Only a head that was kept tells that the last is gone.
        let head = serde_json::from_str::<Entry>(lines[3]).unwrap().digest;
        assert_eq!(without(3).unwrap(), 3);
        assert!(store.journal().unwrap().unwrap().line_of_head(&head).is_none());
        fs::write(&path, text.replace("\"2\"", "\"9\"")).unwrap();
        assert!(store.journal().unwrap_err().to_string().contains("row 2: was altered"));
        // Every bit counts, those of the last line too.
        for (at, byte) in text.bytes().enumerate().skip(text.len() - lines[3].len() - 2) {
            let mut bad = text.clone().into_bytes();
            bad[at] = byte ^ 4;
            fs::write(&path, bad).unwrap();
            assert!(store.journal().is_err(), "byte {at} of {}", text.len());
        }
        // The end of the last line alone may be missing, and comes with the next one.
        fs::write(&path, text.trim_end()).unwrap();
        assert_eq!(store.journal().unwrap().unwrap().entries.len(), 4);
        store.note(None, vec![note(Event::Published, "a", "5")]).unwrap();
        assert_eq!(store.journal().unwrap().unwrap().entries.len(), 5);
    }

    #[test]
    fn eight_writers_make_one_chain() {
        let (_dir, store) = store();
        std::thread::scope(|scope| {
            for writer in 0..8 {
                let store = &store;
                scope.spawn(move || {
                    for _ in 0..5 {
                        store.note(None, vec![note(Event::Published, &format!("{writer}"), "1")]).unwrap();
                    }
                });
            }
        });
        assert_eq!(store.journal().unwrap().unwrap().entries.len(), 40);
    }

    /// Killed between the first journal and the layout that promises one.
    #[test]
    fn a_store_that_has_a_journal_says_so() {
        let (_dir, store) = store();
        fs::write(store.root().join("STORE.json"), "{\"layout\":1,\"made_by\":\"spin-store\"}\n").unwrap();
        store.note(None, vec![note(Event::Published, "a", "1")]).unwrap();
        assert_eq!((store.layout().unwrap(), store.journal().unwrap().unwrap().entries.len()), (LAYOUT, 1));
    }

    #[test]
    fn a_journal_that_is_gone_is_not_begun_anew_unseen() {
        let (_dir, store) = store();
        fs::remove_file(store.root().join(FILE_NAME)).unwrap();
        let error = store.note(None, Vec::new()).unwrap_err();
        assert!(error.is_bad_input() && error.to_string().contains("JOURNAL.jsonl: is gone"), "{error}");
    }
}
