//! Reading demonstrations in the layouts people have.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Result, StoreError};
use crate::run::SourceFormat;
use crate::schema::{Demonstration, Message, Preference};
use crate::table;

type Record = Map<String, Value>;

/// Reads the first `limit` rows (0 for all) of a `.jsonl`, `.json` or
/// `.parquet` file.
///
/// # Errors
/// Names the file and the row: no JSON, no known keys, a wrong type, an empty
/// prompt or answer, an id that stands twice.
pub(super) fn read(path: &Path, format: SourceFormat, limit: usize) -> Result<Vec<Demonstration>> {
    let limit = if limit == 0 { usize::MAX } else { limit };
    let records = records(path, limit)?;
    let Some((first_row, first)) = records.first() else {
        return Err(StoreError::corrupt(path, "has no rows", "give a file with at least one demonstration"));
    };
    let format = match format {
        SourceFormat::Auto => detect(first).map_err(|problem| {
            let remedy = "use messages, prompt/response, question/answer or instruction/input/output, or set `format`";
            StoreError::row(path, *first_row, problem, remedy)
        })?,
        given => given,
    };
    let width = records.len().to_string().len().max(6);
    let mut rows = Vec::with_capacity(records.len());
    let mut seen: HashMap<String, usize> = HashMap::with_capacity(records.len());
    for (index, (row, record)) in records.iter().enumerate() {
        let bad = |problem: String| StoreError::row(path, *row, problem, "correct or remove the row");
        let (prompt, response) = convert(record, format).map_err(bad)?;
        if prompt.iter().all(|m| m.content.trim().is_empty()) {
            return Err(bad("the prompt is empty".into()));
        }
        if response.trim().is_empty() {
            return Err(bad("the answer is empty".into()));
        }
        let row_id = match record.get("row_id").or_else(|| record.get("id")) {
            None | Some(Value::Null) => format!("{index:0width$}"),
            Some(Value::String(id)) if !id.is_empty() => id.clone(),
            Some(Value::Number(id)) => id.to_string(),
            Some(_) => return Err(bad("its id is neither text nor a number".into())),
        };
        if let Some(earlier) = seen.insert(row_id.clone(), *row) {
            return Err(StoreError::row(
                path,
                *row,
                format!("its id {row_id:?} already stands in row {earlier}"),
                "make ids unique or leave them out",
            ));
        }
        rows.push(Demonstration { row_id, prompt, response });
    }
    Ok(rows)
}

/// Reads the first `limit` rows (0 for all) of a preference set: TRL's
/// `prompt`/`chosen`/`rejected`, with the prompt given or as the common
/// beginning of both conversations, and the published SPIN sets'
/// `real`/`generated`.
///
/// # Errors
/// As [`read`].
pub(super) fn read_preferences(path: &Path, format: SourceFormat, limit: usize) -> Result<Vec<Preference>> {
    let _ = (format, limit);
    Err(StoreError::corrupt(path, "is a preference set, which cannot be read yet", "wait for a later release"))
}

/// Records with their row numbers: lines from 1 in text, rows from 0 else.
fn records(path: &Path, limit: usize) -> Result<Vec<(usize, Record)>> {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("").to_ascii_lowercase();
    if extension == "parquet" {
        let batch = table::read_any(path)?;
        let batch = batch.slice(0, batch.num_rows().min(limit));
        let mut writer = arrow::json::LineDelimitedWriter::new(Vec::new());
        let failed = |e: arrow::error::ArrowError| {
            StoreError::corrupt(path, format!("has a column that cannot be read ({e})"), "use text and list columns")
        };
        writer.write(&batch).and_then(|()| writer.finish()).map_err(failed)?;
        let text = String::from_utf8(writer.into_inner()).expect("JSON is UTF-8");
        return lines(path, &text, limit).map(|rows| rows.into_iter().map(|(n, r)| (n - 1, r)).collect());
    }
    let text = std::fs::read_to_string(path).map_err(StoreError::io("read", path))?;
    if extension == "json" && text.trim_start().starts_with('[') {
        let values: Vec<Value> = serde_json::from_str(&text)
            .map_err(|e| StoreError::corrupt(path, format!("is not a JSON list ({e})"), "is it complete?"))?;
        return values.into_iter().enumerate().take(limit).map(|(i, v)| object(path, i, v)).collect();
    }
    lines(path, &text, limit)
}

fn lines(path: &Path, text: &str, limit: usize) -> Result<Vec<(usize, Record)>> {
    let numbered = text.lines().enumerate().map(|(i, line)| (i + 1, line));
    numbered
        .filter(|(_, line)| !line.trim().is_empty())
        .take(limit)
        .map(|(row, line)| {
            let value = serde_json::from_str(line).map_err(|e| {
                StoreError::row(path, row, format!("is not JSON ({e})"), "is the file complete, one object per line?")
            })?;
            object(path, row, value)
        })
        .collect()
}

fn object(path: &Path, row: usize, value: Value) -> Result<(usize, Record)> {
    match value {
        Value::Object(record) => Ok((row, record)),
        other => {
            let kind = type_name(&other);
            Err(StoreError::row(path, row, format!("is {kind}, not an object"), "write one object per row"))
        }
    }
}

const CHAT_KEYS: [&str; 3] = ["messages", "conversations", "real"];
const RESPONSE_KEYS: [&str; 2] = ["response", "completion"];

fn detect(record: &Record) -> Result<SourceFormat, String> {
    let has = |key: &str| record.contains_key(key);
    if CHAT_KEYS.iter().any(|k| has(k)) {
        Ok(SourceFormat::Chat)
    } else if has("prompt") && RESPONSE_KEYS.iter().any(|k| has(k)) {
        Ok(SourceFormat::Prompt)
    } else if has("question") && has("answer") {
        Ok(SourceFormat::Question)
    } else if has("instruction") && has("output") {
        Ok(SourceFormat::Alpaca)
    } else {
        let keys: Vec<&str> = record.keys().map(String::as_str).collect();
        Err(format!("its keys ({}) are none of the known layouts", keys.join(", ")))
    }
}

fn convert(record: &Record, format: SourceFormat) -> Result<(Vec<Message>, String), String> {
    let user = |text: String| vec![Message::new("user", text)];
    match format {
        SourceFormat::Auto => unreachable!("resolved by the caller"),
        SourceFormat::Chat => {
            let key = CHAT_KEYS.iter().find(|k| record.contains_key(**k)).ok_or("it has no `messages`")?;
            first_exchange(messages(record, key)?)
        }
        SourceFormat::Prompt => {
            let prompt = match record.get("prompt") {
                Some(Value::Array(_)) => messages(record, "prompt")?,
                _ => user(text(record, "prompt")?),
            };
            let key = RESPONSE_KEYS.iter().find(|k| record.contains_key(**k)).ok_or("it has no `response`")?;
            let response = match record.get(*key) {
                Some(Value::Array(_)) => {
                    let turns = messages(record, key)?;
                    turns.into_iter().next().map(|m| m.content).ok_or_else(|| format!("`{key}` is empty"))?
                }
                _ => text(record, key)?,
            };
            Ok((prompt, response))
        }
        SourceFormat::Question => Ok((user(text(record, "question")?), text(record, "answer")?)),
        SourceFormat::Alpaca => {
            let instruction = text(record, "instruction")?;
            let input = match record.get("input") {
                None | Some(Value::Null) => String::new(),
                Some(_) => text(record, "input")?,
            };
            let prompt = if input.is_empty() { instruction } else { format!("{instruction}\n\n{input}") };
            Ok((user(prompt), text(record, "output")?))
        }
    }
}

/// A leading system turn, the first user turn, and the answer to it: the part
/// of a conversation that the original code trains on.
fn first_exchange(turns: Vec<Message>) -> Result<(Vec<Message>, String), String> {
    let mut prompt = Vec::new();
    for turn in turns {
        match turn.role.as_str() {
            "system" if prompt.is_empty() => prompt.push(turn),
            "user" if prompt.iter().all(|m: &Message| m.role == "system") => prompt.push(turn),
            "assistant" if prompt.last().is_some_and(|m| m.role == "user") => return Ok((prompt, turn.content)),
            role => return Err(format!("a turn of role {role:?} where the first user turn or its answer belongs")),
        }
    }
    Err("the conversation has no answer to its first user turn".into())
}

/// Turns in either of the two common spellings, `{role, content}` and
/// `{from, value}`.
fn messages(record: &Record, key: &str) -> Result<Vec<Message>, String> {
    let Some(Value::Array(items)) = record.get(key) else {
        return Err(wrong_type(record, key, "a list of messages"));
    };
    items
        .iter()
        .map(|item| {
            let turn = item.as_object().ok_or_else(|| format!("`{key}` holds {}, not messages", type_name(item)))?;
            let (role, content) = if turn.contains_key("from") { ("from", "value") } else { ("role", "content") };
            let role = text(turn, role)?;
            let role = match role.as_str() {
                "human" => "user".into(),
                "gpt" => "assistant".into(),
                _ => role,
            };
            Ok(Message { role, content: text(turn, content)? })
        })
        .collect()
}

fn text(record: &Record, key: &str) -> Result<String, String> {
    match record.get(key) {
        Some(Value::String(text)) => Ok(text.clone()),
        _ => Err(wrong_type(record, key, "text")),
    }
}

fn wrong_type(record: &Record, key: &str, wanted: &str) -> String {
    match record.get(key) {
        None => format!("it has no `{key}`"),
        Some(value) => format!("`{key}` is {}, not {wanted}", type_name(value)),
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(name: &str, text: &str) -> Result<Vec<Demonstration>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        read(&path, SourceFormat::Auto, 0)
    }

    #[test]
    fn each_layout_is_told_from_its_keys() {
        let user = |t: &str| vec![Message::new("user", t)];
        for (line, prompt, response) in [
            (
                r#"{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"},{"role":"user","content":"more"}]}"#,
                user("q"),
                "a",
            ),
            (r#"{"conversations":[{"from":"human","value":"q"},{"from":"gpt","value":"a"}]}"#, user("q"), "a"),
            (r#"{"prompt":"q","completion":"a"}"#, user("q"), "a"),
            (r#"{"prompt":[{"role":"user","content":"q"}],"response":"a"}"#, user("q"), "a"),
            (r#"{"question":"q","answer":"a"}"#, user("q"), "a"),
            (r#"{"instruction":"i","input":"x","output":"a"}"#, user("i\n\nx"), "a"),
            (r#"{"instruction":"i","input":"","output":"a"}"#, user("i"), "a"),
        ] {
            let rows = read_text("t.jsonl", line).unwrap();
            assert_eq!((&rows[0].prompt, rows[0].response.as_str()), (&prompt, response), "{line}");
            assert_eq!(rows[0].row_id, "000000");
            let list = read_text("t.json", &format!("[{line}]")).unwrap();
            assert_eq!(list, rows);
        }
    }

    #[test]
    fn bad_rows_are_named() {
        for (text, part) in [
            ("{\"question\":\"q\",\"answer\":\"a\"}\n{\"question\":\"q\"}", "row 2: it has no `answer`"),
            (
                "{\"question\":\"q\",\"answer\":\"a\"}\n\n{\"question\":3,\"answer\":\"a\"}",
                "row 3: `question` is a number",
            ),
            ("{\"question\":\"q\",\"answer\":\" \"}", "row 1: the answer is empty"),
            ("{\"question\":\"\",\"answer\":\"a\"}", "row 1: the prompt is empty"),
            ("{\"question\":\"q\",\"answer\"", "row 1: is not JSON"),
            ("[1]", "row 1: is a list"),
            ("{\"x\":1}", "keys (x)"),
            ("", "no rows"),
            (
                "{\"id\":\"k\",\"prompt\":\"q\",\"response\":\"a\"}\n{\"id\":\"k\",\"prompt\":\"q\",\"response\":\"b\"}",
                "row 2: its id \"k\" already stands in row 1",
            ),
            (r#"{"messages":[{"role":"assistant","content":"a"}]}"#, "role \"assistant\""),
            (r#"{"messages":[{"role":"user","content":"a"}]}"#, "no answer"),
        ] {
            let error = read_text("bad.jsonl", text).unwrap_err().to_string();
            assert!(error.contains("bad.jsonl") && error.contains(part), "{text} gave {error}");
        }
    }

    #[test]
    fn parquet_rows_read_like_json() {
        use crate::schema::Row;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.parquet");
        let rows = vec![Demonstration {
            row_id: "x".into(),
            prompt: vec![Message::new("user", "q \"quoted\"")],
            response: "a".into(),
        }];
        Demonstration::write_part(&path, &rows, "id", 0).unwrap();
        assert_eq!(read(&path, SourceFormat::Auto, 0).unwrap(), rows);
    }
}
