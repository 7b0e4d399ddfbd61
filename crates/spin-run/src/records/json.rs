//! JSON: one object per line, or a list of objects, read piece by piece.

use std::fmt;
use std::io::{BufRead, Read};

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::bytes::{CONVERT, Text, not_utf8};
use super::{Bad, Budget, Each, Record};
use spin_store::error::{Result, StoreError};

/// Lines, of which blank ones do not count.
pub(super) fn read_lines(text: &mut Text, wanted: &[&str], budget: &mut Budget, each: &mut Each) -> Result<()> {
    let failure = text.failure();
    let mut line = Vec::new();
    for row in 1.. {
        line.clear();
        let most = budget.row.saturating_add(2);
        let n = text.reader.by_ref().take(most).read_until(b'\n', &mut line).map_err(&failure)?;
        if n == 0 {
            break;
        }
        if n as u64 == most && line.last() != Some(&b'\n') {
            return Err(budget.row_too_long(&text.path, row));
        }
        let piece = line.trim_ascii();
        // Blank lines are no rows, and not for nothing either.
        budget.spend(&text.path, piece.len() as u64)?;
        if piece.is_empty() {
            continue;
        }
        if each(row, object(piece, wanted))?.is_break() {
            break;
        }
    }
    Ok(())
}

/// A list, or lines when it does not begin like one.
pub(super) fn read_json(text: &mut Text, wanted: &[&str], budget: &mut Budget, each: &mut Each) -> Result<()> {
    let failure = text.failure();
    loop {
        let head = text.reader.fill_buf().map_err(&failure)?;
        let blank = head.iter().take_while(|b| b.is_ascii_whitespace()).count();
        if head.get(blank) == Some(&b'[') {
            text.reader.consume(blank + 1);
            return read_list(text, wanted, budget, each);
        }
        if blank < head.len() || head.is_empty() {
            return read_lines(text, wanted, budget, each);
        }
        // Nothing but white space so far. Line numbers do not matter for a
        // list; for lines they do, so a file that begins with more blank
        // lines than a buffer holds is told by its list or not at all.
        text.reader.consume(blank);
    }
}

/// Where one element of a list ends: at a comma or bracket outside strings
/// and inner brackets. That each is JSON is checked when it is parsed.
#[derive(Default)]
struct Splitter {
    depth: usize,
    in_string: bool,
    escaped: bool,
}

enum Piece {
    Inside,
    Element,
    End,
    Malformed,
}

impl Splitter {
    fn step(&mut self, byte: u8) -> Piece {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return Piece::Inside;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth += 1,
            b']' if self.depth == 0 => return Piece::End,
            b',' if self.depth == 0 => return Piece::Element,
            b'}' if self.depth == 0 => return Piece::Malformed,
            b'}' | b']' => self.depth -= 1,
            _ => {}
        }
        Piece::Inside
    }
}

fn read_list(text: &mut Text, wanted: &[&str], budget: &mut Budget, each: &mut Each) -> Result<()> {
    let failure = text.failure();
    let path = text.path.clone();
    let bad =
        |problem: String| StoreError::corrupt(&path, format!("is not a JSON list ({problem})"), "is it complete?");
    let (mut splitter, mut element, mut row) = (Splitter::default(), Vec::new(), 0);
    loop {
        let chunk = text.reader.fill_buf().map_err(&failure)?;
        if chunk.is_empty() {
            return Err(bad(format!("it ends in row {row}")));
        }
        let found = chunk.iter().enumerate().find_map(|(i, b)| match splitter.step(*b) {
            Piece::Inside => None,
            other => Some((i, other)),
        });
        let (used, piece) = found.unwrap_or((chunk.len(), Piece::Inside));
        element.extend_from_slice(&chunk[..used]);
        if element.len() as u64 > budget.row {
            return Err(budget.row_too_long(&path, row));
        }
        match piece {
            Piece::Inside => text.reader.consume(used),
            Piece::Malformed => return Err(bad(format!("row {row} has a bracket too many"))),
            Piece::Element | Piece::End => {
                text.reader.consume(used + 1);
                let end = matches!(piece, Piece::End);
                let content = element.trim_ascii();
                if content.is_empty() && !(end && row == 0) {
                    return Err(bad(format!("row {row} is missing between two commas or before the end")));
                }
                if !content.is_empty() {
                    budget.spend(&path, content.len() as u64)?;
                    if each(row, object(content, wanted))?.is_break() {
                        return Ok(());
                    }
                }
                element.clear();
                row += 1;
                if end {
                    return nothing_follows(text);
                }
            }
        }
    }
}

fn nothing_follows(text: &mut Text) -> Result<()> {
    let failure = text.failure();
    loop {
        let chunk = text.reader.fill_buf().map_err(&failure)?;
        if chunk.is_empty() {
            return Ok(());
        }
        if !chunk.iter().all(u8::is_ascii_whitespace) {
            return Err(StoreError::corrupt(
                &text.path,
                "goes on after the end of its list",
                "write one list, or lines",
            ));
        }
        let n = chunk.len();
        text.reader.consume(n);
    }
}

/// Parses an object; of its own keys only `wanted` are kept, all when that is
/// empty; the others stand for nothing but their names.
fn object<'r>(bytes: &[u8], wanted: &[&str]) -> Result<Record<'r>, Bad> {
    let text = std::str::from_utf8(bytes)
        .map_err(|e| Bad::new("not UTF-8", format!("{}; {CONVERT}", not_utf8(bytes, e.valid_up_to()))))?;
    let mut parser = serde_json::Deserializer::from_str(text);
    let value = Strict { wanted }
        .deserialize(&mut parser)
        .and_then(|value| parser.end().map(|()| value))
        .map_err(|e| explain(text, &e))?;
    match value {
        Value::Object(map) => Ok(Record::Json(map)),
        other => {
            Err(Bad::new("not an object", format!("is {}, not an object; write one object per row", type_name(&other))))
        }
    }
}

fn explain(text: &str, error: &serde_json::Error) -> Bad {
    let message = error.to_string();
    if let Some(key) = message.strip_prefix(TWICE) {
        let key = key.split(" at line ").next().unwrap_or(key);
        return Bad::new("repeated key", format!("has the key {key} twice"));
    }
    let near = |word: &str| {
        let at = error.column().saturating_sub(1);
        text.match_indices(word).any(|(i, _)| i <= at + 1 && at <= i + word.len())
    };
    if let Some(word) = ["NaN", "Infinity"].into_iter().find(|w| near(w)) {
        return Bad::new("not JSON", format!("has {word}, which Python writes and JSON has not; write null or text"));
    }
    let hint = if text.contains("}\r{") { "; its lines end in CR alone" } else { "" };
    Bad::new("not JSON", format!("is not JSON ({message}{hint}); is the file complete, one object per line?"))
}

const TWICE: &str = "a key stands twice: ";

/// A JSON value no object of which has a key twice: readers differ in which
/// one they take.
struct Strict<'a> {
    wanted: &'a [&'a str],
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E: Error>(self, v: i64) -> Result<Value, E> {
        Ok(Value::from(v))
    }

    fn visit_u64<E: Error>(self, v: u64) -> Result<Value, E> {
        Ok(Value::from(v))
    }

    fn visit_f64<E: Error>(self, v: f64) -> Result<Value, E> {
        Ok(Number::from_f64(v).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: Error>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(v.to_owned()))
    }

    fn visit_string<E: Error>(self, v: String) -> Result<Value, E> {
        Ok(Value::String(v))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(Strict { wanted: &[] })? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let value = if self.wanted.is_empty() || self.wanted.contains(&key.as_str()) {
                entries.next_value_seed(Strict { wanted: &[] })?
            } else {
                entries.next_value::<IgnoredAny>()?;
                Value::Null
            };
            if map.contains_key(&key) {
                return Err(A::Error::custom(format_args!("{TWICE}{key:?}")));
            }
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

/// A JSON value from text, strictly.
pub(super) fn value(text: &str) -> Result<Value, String> {
    let mut parser = serde_json::Deserializer::from_str(text);
    Strict { wanted: &[] }
        .deserialize(&mut parser)
        .and_then(|value| parser.end().map(|()| value))
        .map_err(|e| e.to_string())
}

/// What a value is, in words.
pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
