//! Values separated by commas or tabs, with a header. All values are text.

use std::cell::Cell;
use std::io::{Cursor, Read};
use std::rc::Rc;

use csv::{ByteRecord, ReaderBuilder};
use serde_json::{Map, Value};

use super::bytes::{CONVERT, Text, not_utf8};
use super::{Bad, Budget, Each, Record};
use spin_store::error::{Result, StoreError};

/// Comes after the last byte. A quote that is opened and never closed takes
/// all that follows into one value without a word; then this is in it.
const END: &[u8] = b"\n\0end of file\0\n";

/// Fails once more than `allowed` bytes have passed.
struct Bounded<R> {
    inner: R,
    passed: u64,
    allowed: Rc<Cell<u64>>,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        if self.passed > self.allowed.get() {
            return Err(std::io::Error::other(TOO_LONG));
        }
        let n = self.inner.read(buf)?;
        self.passed += n as u64;
        Ok(n)
    }
}

const TOO_LONG: &str = "row too long";
const BUFFER: usize = 64 << 10;

pub(super) fn read(text: &mut Text, separator: u8, budget: &mut Budget, each: &mut Each) -> Result<()> {
    let (path, failure) = (text.path.clone(), text.failure());
    let slack = budget.row.saturating_add(4 * BUFFER as u64);
    let allowed = Rc::new(Cell::new(slack));
    let end = END.strip_suffix(b"\n").expect("ends a line").strip_prefix(b"\n").expect("begins a line");
    let inner = text.reader.by_ref().chain(Cursor::new(END));
    let bounded = Bounded { inner, passed: 0, allowed: allowed.clone() };
    let mut reader = ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .delimiter(separator)
        .buffer_capacity(BUFFER)
        .from_reader(bounded);
    let mut names: Option<Vec<String>> = None;
    let mut record = ByteRecord::new();
    loop {
        let more = reader.read_byte_record(&mut record).map_err(|e| {
            let line = e.position().map_or_else(|| reader_line(&record), |p| p.line());
            match e.into_kind() {
                csv::ErrorKind::Io(e) if e.to_string() == TOO_LONG => {
                    budget.row_too_long(&path, usize::try_from(line).unwrap_or(usize::MAX))
                }
                csv::ErrorKind::Io(e) => failure(e),
                other => StoreError::corrupt(&path, format!("cannot be read as CSV ({other:?})"), "write it again"),
            }
        })?;
        if !more {
            return Ok(());
        }
        allowed.set(reader.position().byte().saturating_add(slack));
        let row = usize::try_from(reader_line(&record)).unwrap_or(usize::MAX);
        if record.len() == 1 && &record[0] == end {
            return Ok(());
        }
        if record.iter().any(|value| value.trim_ascii_end().ends_with(end)) {
            return Err(StoreError::row(
                &path,
                row,
                "has a quote that is never closed",
                "close it, or double it inside a value",
            ));
        }
        let Some(names) = &names else {
            names = Some(header(&record).map_err(|problem| {
                StoreError::row(&path, row, problem, "the first row names the columns; write one name for each")
            })?);
            continue;
        };
        if record.len() == 1 && record[0].is_empty() {
            continue;
        }
        budget.spend(&path, record.as_slice().len() as u64)?;
        if each(row, fields(names, &record))?.is_break() {
            return Ok(());
        }
    }
}

fn reader_line(record: &ByteRecord) -> u64 {
    record.position().map_or(1, csv::Position::line)
}

fn header(record: &ByteRecord) -> Result<Vec<String>, String> {
    let mut names: Vec<String> = Vec::new();
    for name in record {
        let name = std::str::from_utf8(name).map_err(|e| not_utf8(name, e.valid_up_to()))?.trim().to_owned();
        if !name.is_empty() && names.contains(&name) {
            return Err(format!("names the column {name:?} twice"));
        }
        names.push(name);
    }
    Ok(names)
}

fn fields<'r>(names: &[String], record: &ByteRecord) -> Result<Record<'r>, Bad> {
    if record.len() != names.len() {
        let detail = format!("has {} values, the header has {} names", record.len(), names.len());
        return Err(Bad::new("number of values", detail));
    }
    let mut map = Map::new();
    for (name, value) in names.iter().zip(record) {
        let value = std::str::from_utf8(value)
            .map_err(|e| Bad::new("not UTF-8", format!("{}; {CONVERT}", not_utf8(value, e.valid_up_to()))))?;
        // A column without a name is the index that pandas writes.
        if !name.is_empty() {
            map.insert(name.clone(), Value::String(value.to_owned()));
        }
    }
    Ok(Record::Json(map))
}
