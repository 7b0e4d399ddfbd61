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

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::artifact::Artifact;
use crate::digest;
use crate::error::{Result, StoreError};
use crate::fault;
use crate::fsutil;

/// The file's name in the store.
pub const FILE_NAME: &str = "JOURNAL.jsonl";

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

pub(crate) fn nothing() -> String {
    "0".repeat(64)
}

/// The whole lines of a file. What a killed writer left behind the last of them is
/// none; it may have left out the end of a line alone.
pub(crate) fn whole_lines(bytes: &[u8]) -> (Vec<&[u8]>, &[u8]) {
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
    /// Reads the journal of the store in a directory; `None` where there is none, as in stores of
    /// the first layout.
    ///
    /// # Errors
    /// When it cannot be read, a line is none, or a line is not chained to the
    /// one before it.
    pub fn read(root: &Path) -> Result<Option<Journal>> {
        let path = root.join(FILE_NAME);
        let Some(bytes) = fsutil::read_if_there(&path)? else { return Ok(None) };
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
    pub fn denied(&self, root: &Path, head: &str, found: &BTreeMap<String, String>) -> Result<Vec<StoreError>> {
        let path = root.join(FILE_NAME);
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
    pub(crate) fn problems(&self, root: &Path, found: &BTreeMap<String, Option<String>>) -> Vec<(String, StoreError)> {
        let last = self.last();
        let path = root.join(FILE_NAME);
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
pub(crate) fn lines_of(notes: Vec<Note>, at: Option<&str>, (mut number, mut previous): (u64, String)) -> String {
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
