//! From a source's rows to the parts of a table: what demonstrations and
//! preferences have in common.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::choice::Choice;
use super::{ROWS_PER_PART, file_parent, layout, stage_of};
use crate::records::{self, Bad, Budget, Files, Record};
use crate::run::{BadRows, SourceConfig, Turns};
use crate::schema::{Message, Row};
use spin_store::digest;
use spin_store::error::{Result, StoreError};
use spin_store::kind::Kind;
use spin_store::store::Recipe;
use spin_store::table;

/// A row that is imported.
pub(super) trait Imported: Row + Clone {
    fn row_id(&mut self) -> &mut String;
    fn prompt(&self) -> &[Message];
    fn answers(&self) -> Vec<&str>;
}

/// What a row of the source gives: rows of the table, each with what its id
/// has after the row's own, and what is left out of it, by reason.
pub(super) struct Taken<R> {
    pub(super) rows: Vec<(Option<String>, R)>,
    pub(super) left_out: Vec<(&'static str, u64)>,
}

/// Makes rows of the table of one of a file's rows, by its number.
pub(super) type Convert<'a, R> = dyn FnMut(&Path, usize, &mut Record<'_>) -> Result<Result<Taken<R>, Bad>> + 'a;

/// The fact that counts the rows of the source; earlier releases had none.
pub(super) const READ: &str = "read";
/// Bad rows that a message names.
const NAMED: usize = 10;
/// Offsets of Arrow's text columns have 31 bits.
const PART_BYTES: usize = i32::MAX as usize;
const REMEDY: &str = "correct or remove the row, or set on_bad_row = \"drop\" for its source";

/// The recipe of what is imported from a source; hashes its files.
///
/// Only what differs from the default is written beside `format` and `limit`,
/// so that what earlier releases imported keeps its identity; except where
/// they read something else: the hexadecimal digits of columns of bytes.
pub(super) fn recipe(kind: Kind, name: &str, source: &SourceConfig, files: &Files, columns: &[&str]) -> Result<Recipe> {
    let mut params = json!({"format": source.format, "limit": source.limit});
    if source.skip > 0 {
        params["skip"] = json!(source.skip);
    }
    if let Some(seed) = source.shuffle {
        params["shuffle"] = json!(seed);
    }
    if source.turns != Turns::default() {
        params["turns"] = json!(source.turns);
    }
    if source.on_bad_row != BadRows::default() {
        params["on_bad_row"] = json!(source.on_bad_row);
    }
    let mut parents = Vec::new();
    for file in &files.list {
        let (content, _) = digest::of_file(&file.path)?;
        if records::has_binary(&file.path, columns)? {
            params["bytes"] = json!("utf-8");
        }
        parents.push(file_parent("source", Path::new(&file.name), content));
    }
    Ok(Recipe { kind, name: name.into(), stage: stage_of(kind), params, parents })
}

/// A place in a source, for messages.
#[derive(Clone, Copy)]
struct Place {
    file: u32,
    row: usize,
}

/// Reads a source into parts in `dir`.
pub(super) struct Intake<'a, R> {
    path: &'a Path,
    source: &'a SourceConfig,
    names: Vec<PathBuf>,
    dir: &'a Path,
    identity: String,
    /// Rows of the source seen so far; the next one's number.
    read: usize,
    /// Rows that wait for their part, and bytes of their longest column.
    waiting: Vec<R>,
    widths: Vec<usize>,
    /// Rows with their place in the order that was asked for, and whether each
    /// has its number for an id; empty where that is the source's.
    held: Vec<(usize, R, bool)>,
    parts: usize,
    /// Whether each row that was kept has its number for an id.
    numbered: Vec<bool>,
    ids: HashMap<[u8; 16], Place>,
    prompts: HashSet<u64>,
    whole: HashSet<u64>,
    kept: usize,
    repeated: usize,
    left_out: BTreeMap<&'static str, u64>,
    bad: Vec<(Place, String)>,
    bad_count: usize,
}

/// Reads the rows that `recipe` stands for through `convert` and writes them
/// as parts into `dir`. Returns what was counted.
///
/// # Errors
/// Bad rows (all are counted, the first ten named), unless they are to be
/// dropped; no rows left; a file that changed since it was hashed; a full disk.
pub(super) fn run<R: Imported>(
    recipe: &Recipe,
    source: &SourceConfig,
    files: &Files,
    dir: &Path,
    columns: &[&str],
    convert: &mut Convert<'_, R>,
) -> Result<Map<String, Value>> {
    let Files { path, list: files, .. } = files;
    let columns: Vec<&str> = columns.iter().chain(&layout::CONTEXT).copied().collect();
    let mut budget = Budget::new(files, source.max_row_bytes, source.max_bytes);
    let mut intake = Intake::<R> {
        path,
        source,
        names: files.iter().map(|f| f.path.clone()).collect(),
        dir,
        identity: recipe.identity(),
        read: 0,
        waiting: Vec::new(),
        widths: Vec::new(),
        held: Vec::new(),
        parts: 0,
        numbered: Vec::new(),
        ids: HashMap::new(),
        prompts: HashSet::new(),
        whole: HashSet::new(),
        kept: 0,
        repeated: 0,
        left_out: BTreeMap::new(),
        bad: Vec::new(),
        bad_count: 0,
    };
    let choice = Choice::of(source, files, &columns)?;
    for (number, file) in files.iter().enumerate() {
        if intake.read >= choice.end() {
            break;
        }
        let place = |row| Place { file: u32::try_from(number).unwrap_or(u32::MAX), row };
        let content = records::read(&file.path, &columns, &mut budget, &mut |row, record| {
            if let Some(rank) = choice.rank(intake.read) {
                let taken = match record {
                    Ok(mut record) => intake.take(&file.path, place(row), rank, &mut record, convert)?,
                    Err(bad) => Err(bad),
                };
                if let Err(bad) = taken {
                    intake.refuse(place(row), bad);
                }
            }
            intake.read += 1;
            Ok(if intake.read >= choice.end() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        if recipe.parents.get(number).is_none_or(|parent| parent.content != content) {
            return Err(records::changed(&file.path));
        }
    }
    intake.finish()
}

impl<R: Imported> Intake<'_, R> {
    fn take(
        &mut self,
        path: &Path,
        place: Place,
        rank: usize,
        record: &mut Record,
        convert: &mut Convert<'_, R>,
    ) -> Result<Result<(), Bad>> {
        let taken = match convert(path, place.row, record)? {
            Ok(taken) => taken,
            Err(bad) => return Ok(Err(bad)),
        };
        if let Err(bad) = layout::no_context(record) {
            return Ok(Err(bad));
        }
        let id = match record.take_id() {
            Ok(id) => id,
            Err(bad) => return Ok(Err(bad)),
        };
        let numbered = id.is_none();
        let id = id.unwrap_or_else(|| format!("{:0width$}", self.read, width = MIN_WIDTH));
        let own = |suffix: &Option<String>| suffix.as_ref().map_or_else(|| id.clone(), |s| format!("{id}#{s}"));
        let claimed = self.claim(&id, place).and_then(|()| {
            taken.rows.iter().filter(|(suffix, _)| suffix.is_some()).try_for_each(|(s, _)| self.claim(&own(s), place))
        });
        if let Err(bad) = claimed {
            return Ok(Err(bad));
        }
        for (reason, count) in taken.left_out {
            *self.left_out.entry(reason).or_default() += count;
        }
        for (suffix, mut row) in taken.rows {
            *row.row_id() = own(&suffix);
            match self.source.shuffle {
                Some(_) => self.held.push((rank, row, numbered)),
                None => self.keep(row, numbered)?,
            }
        }
        Ok(Ok(()))
    }

    /// Ids are unique.
    fn claim(&mut self, id: &str, place: Place) -> Result<(), Bad> {
        let mut key = [0; 16];
        key.copy_from_slice(&blake3::hash(id.as_bytes()).as_bytes()[..16]);
        match self.ids.insert(key, place) {
            None => Ok(()),
            Some(earlier) => {
                self.ids.insert(key, earlier);
                let at = self.at(earlier);
                Err(Bad::new(
                    "repeated id",
                    format!("its id {id:?} already stands in {at}; make ids unique or leave them out"),
                ))
            }
        }
    }

    fn keep(&mut self, row: R, numbered: bool) -> Result<()> {
        if self.bad_count > 0 && self.source.on_bad_row == BadRows::Error {
            return Ok(());
        }
        let mut hasher = DefaultHasher::new();
        for turn in row.prompt() {
            (&turn.role, &turn.content).hash(&mut hasher);
        }
        self.prompts.insert(hasher.finish());
        let answers = row.answers();
        answers.hash(&mut hasher);
        self.repeated += usize::from(!self.whole.insert(hasher.finish()));
        let mut widths = vec![row.prompt().iter().map(|m| m.content.len()).sum()];
        widths.extend(answers.iter().map(|a| a.len()));
        self.widths.resize(widths.len(), 0);
        if self.widths.iter().zip(&widths).any(|(sum, more)| sum + more > PART_BYTES) {
            self.write()?;
        }
        for (sum, more) in self.widths.iter_mut().zip(widths) {
            *sum += more;
        }
        self.waiting.push(row);
        self.numbered.push(numbered);
        self.kept += 1;
        if self.waiting.len() == ROWS_PER_PART { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<()> {
        if !self.waiting.is_empty() {
            let path = self.dir.join(table::part_name(self.parts));
            R::write_part(&path, &self.waiting, &self.identity, self.parts)?;
            self.parts += 1;
            self.waiting.clear();
            self.widths.fill(0);
        }
        Ok(())
    }

    fn refuse(&mut self, place: Place, bad: Bad) {
        self.bad_count += 1;
        match self.source.on_bad_row {
            BadRows::Drop => *self.left_out.entry(bad.reason).or_default() += 1,
            BadRows::Error => {
                self.waiting = Vec::new();
                if self.bad.len() < NAMED {
                    self.bad.push((place, bad.detail));
                }
            }
        }
    }

    fn at(&self, place: Place) -> String {
        match self.names.len() {
            1 => format!("row {}", place.row),
            _ => {
                let name = self.names.get(place.file as usize).and_then(|n| n.file_name()).unwrap_or_default();
                format!("row {} of {}", place.row, name.to_string_lossy())
            }
        }
    }

    fn finish(mut self) -> Result<Map<String, Value>> {
        match (self.bad.as_slice(), self.bad_count) {
            (_, 0) | ([], _) => {}
            ([(place, detail)], 1) => {
                let file = &self.names[place.file as usize];
                return Err(StoreError::row(file, place.row, detail, REMEDY));
            }
            (first, count) => {
                let list: Vec<String> =
                    first.iter().map(|(place, detail)| format!("\n  {}: {detail}", self.at(*place))).collect();
                let rest = count - first.len();
                let more = if rest > 0 { format!("\n  and {rest} more") } else { String::new() };
                return Err(StoreError::corrupt(
                    self.path,
                    format!("{count} of {} rows are bad", self.read),
                    format!(
                        "correct or remove them, or set on_bad_row = \"drop\" for this source:{}{more}",
                        list.concat()
                    ),
                ));
            }
        }
        let mut held = std::mem::take(&mut self.held);
        // A stable sort: the rows of a conversation stay in order.
        held.sort_by_key(|(rank, ..)| *rank);
        for (_, row, numbered) in held {
            self.keep(row, numbered)?;
        }
        self.write()?;
        if self.read == 0 {
            return Err(StoreError::corrupt(self.path, "has no rows", "give a source with at least one row"));
        }
        if self.kept == 0 {
            let reasons: Vec<String> = self.left_out.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
            return Err(StoreError::corrupt(
                self.path,
                format!("has {} rows, of which none is left ({})", self.read, reasons.join(", ")),
                "give a source with at least one usable row",
            ));
        }
        let width = self.read.to_string().len();
        if width > MIN_WIDTH {
            self.renumber(width)?;
        }
        let mut facts = Map::new();
        facts.insert("rows".into(), json!(self.kept));
        facts.insert("repeated_prompts".into(), json!(self.kept - self.prompts.len()));
        facts.insert("repeated_rows".into(), json!(self.repeated));
        facts.insert(READ.into(), json!(self.read));
        if !self.left_out.is_empty() {
            facts.insert("left_out".into(), json!(self.left_out));
        }
        Ok(facts)
    }

    /// Numbers have as many digits as the last one needs, which is known at
    /// the end: from a million rows on, the parts are written once more.
    fn renumber(&mut self, width: usize) -> Result<()> {
        let mut numbered = std::mem::take(&mut self.numbered).into_iter();
        for part in 0..self.parts {
            let path = self.dir.join(table::part_name(part));
            let mut rows = R::read_part(&path)?;
            for row in &mut rows {
                if numbered.next() == Some(true) {
                    let id = row.row_id();
                    let (digits, suffix) = id.find('#').map_or((id.as_str(), ""), |at| id.split_at(at));
                    let wide = format!("{digits:0>width$}{suffix}");
                    *id = wide;
                }
            }
            R::write_part(&path, &rows, &self.identity, part)?;
        }
        Ok(())
    }
}

/// Least number of digits of ids that are numbers.
const MIN_WIDTH: usize = 6;
