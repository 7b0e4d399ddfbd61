//! The layouts of demonstrations, and what each says.

use serde_json::Value;

use super::turns::{Exchange, Turn, exchanges, given_prompt, turns};
use crate::records::{Bad, Record, type_name};
use crate::run::{SourceFormat, Turns};
use crate::schema::Message;

/// The columns that some layout uses.
pub(super) const COLUMNS: [&str; 16] = [
    "messages",
    "conversations",
    "real",
    "prompt",
    "response",
    "completion",
    "question",
    "answer",
    "instruction",
    "input",
    "output",
    "instances",
    "chosen",
    "rejected",
    "row_id",
    "id",
];

/// Columns beside a layout's that say something to the model or to its template, which no layout
/// reads.
pub(super) const CONTEXT: [&str; 8] =
    ["system", "system_prompt", "history", "tools", "functions", "documents", "chat_template_kwargs", "context"];

/// Checks that nothing a model would have been told is left out without a word.
///
/// # Errors
/// The first key of [`CONTEXT`] that says something.
pub(super) fn no_context(record: &mut Record) -> Result<(), Bad> {
    for key in CONTEXT {
        if !record.has(key) {
            continue;
        }
        let empty = match record.take(key) {
            Ok(None | Some(Value::Null | Value::Bool(false))) => true,
            Ok(Some(Value::String(text))) => text.trim().is_empty(),
            Ok(Some(Value::Array(items))) => items.is_empty(),
            Ok(Some(Value::Object(map))) => map.values().all(Value::is_null),
            // A type that has no form here says something all the same.
            Ok(Some(_)) | Err(_) => false,
        };
        if !empty {
            let detail = format!(
                "`{key}` stands beside the conversation and would be left out; write it into the messages, as a turn \
                 of the system for instance, or remove it"
            );
            return Err(Bad::new("context beside the conversation", detail));
        }
    }
    Ok(())
}

const CHAT_KEYS: [&str; 3] = ["messages", "conversations", "real"];
const RESPONSE_KEYS: [&str; 2] = ["response", "completion"];

/// Tells the layout from a row's keys.
///
/// # Errors
/// When they are those of none.
pub(super) fn detect(record: &Record) -> Result<SourceFormat, String> {
    let has = |key: &str| record.has(key);
    if CHAT_KEYS.iter().any(|k| has(k)) {
        Ok(SourceFormat::Chat)
    } else if has("prompt") && RESPONSE_KEYS.iter().any(|k| has(k)) {
        Ok(SourceFormat::Prompt)
    } else if has("question") && has("answer") {
        Ok(SourceFormat::Question)
    } else if has("instruction") && (has("output") || has("instances")) {
        Ok(SourceFormat::Alpaca)
    } else if has("chosen") && has("rejected") {
        Err("its keys chosen and rejected are a preference set's, not demonstrations'".into())
    } else {
        Err(format!("its keys ({}) are none of the known layouts", record.names().join(", ")))
    }
}

/// The demonstrations of a row, and how many turns are in none of them.
///
/// # Errors
/// When the row does not fit its layout.
pub(super) fn convert(record: &mut Record, format: SourceFormat, which: Turns) -> Result<(Vec<Exchange>, usize), Bad> {
    let one = |prompt: String, answer: String| {
        if prompt.trim().is_empty() {
            return Err(Bad::new("empty prompt", "the prompt is empty"));
        }
        if answer.trim().is_empty() {
            return Err(Bad::new("empty answer", "the answer is empty"));
        }
        Ok((vec![Exchange { prompt: vec![Message::user(prompt)], answer }], 0))
    };
    match format {
        SourceFormat::Auto => unreachable!("resolved by the caller"),
        SourceFormat::Chat => {
            let key = *first_of(record, &CHAT_KEYS)?;
            exchanges(&turns(needed(record, key)?, key)?, 0, which)
        }
        SourceFormat::Prompt => {
            let key = *first_of(record, &RESPONSE_KEYS)?;
            if RESPONSE_KEYS.iter().all(|key| record.has(key)) {
                let [first, second] = RESPONSE_KEYS.map(|key| record.peek(key));
                if first != second {
                    return Err(Bad::new("two answers", "`response` and `completion` say different things"));
                }
            }
            let (prompt, response) = (needed(record, "prompt")?, needed(record, key)?);
            match (prompt, response) {
                (Value::String(prompt), Value::String(response)) => one(prompt, response),
                (prompt, response) => {
                    let mut all = prompt_turns(prompt, "prompt")?;
                    given_prompt(&all)?;
                    let given = all.len();
                    match response {
                        Value::String(answer) => all.push(Turn::of_text("assistant", answer, key)),
                        list => all.extend(turns(list, key)?),
                    }
                    if all.len() == given {
                        return Err(Bad::new("empty answer", format!("`{key}` is empty")));
                    }
                    exchanges(&all, given, which)
                }
            }
        }
        SourceFormat::Question => one(text(record, "question")?, text(record, "answer")?),
        SourceFormat::Alpaca if record.has("instances") => {
            if record.has("output") {
                return Err(Bad::new("two answers", "`output` and `instances` stand beside each other"));
            }
            let instruction = text(record, "instruction")?;
            instances(&instruction, needed(record, "instances")?, which)
        }
        SourceFormat::Alpaca => {
            let instruction = text(record, "instruction")?;
            let input = input(record.take("input")?)?;
            one(with_input(&instruction, &input), text(record, "output")?)
        }
    }
}

/// The demonstrations of Self-Instruct's `instances`, pairs of `input` and `output` to one
/// instruction: the first, the last or each, and how many are left out.
fn instances(instruction: &str, value: Value, which: Turns) -> Result<(Vec<Exchange>, usize), Bad> {
    let Value::Array(mut items) = value else { return Err(wrong_type(&value, "instances", "a list")) };
    if items.is_empty() {
        return Err(Bad::new("no answer", "`instances` is empty"));
    }
    let all = items.len();
    match which {
        Turns::First => items.truncate(1),
        Turns::Last => drop(items.drain(..all - 1)),
        Turns::All => {}
    }
    let left_out = all - items.len();
    let exchange = |item: Value| {
        let Value::Object(mut item) = item else { return Err(wrong_type(&item, "instances", "a list of objects")) };
        let prompt = with_input(instruction, &input(item.remove("input"))?);
        match item.remove("output") {
            None => Err(Bad::new("missing key", "an instance has no `output`")),
            Some(Value::String(answer)) if prompt.trim().is_empty() || answer.trim().is_empty() => {
                Err(Bad::new("empty answer", "the instruction or an instance's output is empty"))
            }
            Some(Value::String(answer)) => Ok(Exchange { prompt: vec![Message::user(prompt)], answer }),
            Some(other) => Err(wrong_type(&other, "output", "text")),
        }
    };
    Ok((items.into_iter().map(exchange).collect::<Result<_, _>>()?, left_out))
}

fn input(value: Option<Value>) -> Result<String, Bad> {
    match value {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(input)) => Ok(input),
        Some(other) => Err(wrong_type(&other, "input", "text")),
    }
}

fn with_input(instruction: &str, input: &str) -> String {
    if input.is_empty() { instruction.to_owned() } else { format!("{instruction}\n\n{input}") }
}

/// The key and role of a completion that does not begin with an answer.
pub(super) fn other_speaker(record: &mut Record) -> Option<(&'static str, &'static str)> {
    let key = RESPONSE_KEYS.into_iter().find(|k| record.has(k))?;
    let value = record.take(key).ok()??;
    let first = turns(value, key).ok()?.into_iter().next()?;
    (first.role != "assistant").then_some((key, first.role))
}

/// A prompt of messages, or of text, which is a user's.
///
/// # Errors
/// As [`turns`].
pub(super) fn prompt_turns(prompt: Value, key: &str) -> Result<Vec<Turn>, Bad> {
    match prompt {
        Value::String(text) => Ok(vec![Turn::of_text("user", text, key)]),
        list => turns(list, key),
    }
}

fn first_of<'k>(record: &Record, keys: &'k [&'k str]) -> Result<&'k &'k str, Bad> {
    keys.iter().find(|k| record.has(k)).ok_or_else(|| missing(keys[0]))
}

fn missing(key: &str) -> Bad {
    Bad::new("missing key", format!("it has no `{key}`"))
}

/// A value that must be there.
///
/// # Errors
/// When it is not.
pub(super) fn needed(record: &mut Record, key: &str) -> Result<Value, Bad> {
    record.take(key)?.ok_or_else(|| missing(key))
}

fn text(record: &mut Record, key: &str) -> Result<String, Bad> {
    match needed(record, key)? {
        Value::String(text) => Ok(text),
        other => Err(wrong_type(&other, key, "text")),
    }
}

/// A value of another type than its key wants.
pub(super) fn wrong_type(value: &Value, key: &str, wanted: &str) -> Bad {
    Bad::new("wrong type", format!("`{key}` is {}, not {wanted}", type_name(value)))
}
