//! Conversations: who says what, and which of it is a demonstration.

use serde_json::{Map, Value};

use crate::records::{Bad, type_name};
use crate::run::Turns;
use crate::schema::Message;

/// A turn whose role is known. Its content matters only where it is used:
/// turns that are not may call tools or show images.
pub(super) struct Turn {
    /// What its role amounts to: `system`, `user`, `assistant` or `tool`.
    pub(super) role: &'static str,
    /// What templates get: the same, but those of tools and developers keep
    /// their own names, which templates tell apart.
    name: String,
    content: Result<String, Bad>,
    /// "turn 3 of `messages`", for messages.
    place: String,
}

const USER: [&str; 3] = ["user", "human", "prompter"];
const ASSISTANT: [&str; 8] = ["assistant", "gpt", "chatgpt", "bot", "model", "ai", "bing", "bard"];
const SYSTEM: [&str; 2] = ["system", "developer"];
const TOOL: [&str; 7] = ["tool", "function", "function_call", "tool_call", "tool_response", "observation", "ipython"];

/// The role that a name stands for, whatever its case.
fn role(name: &str) -> Option<&'static str> {
    let lower = name.trim().to_ascii_lowercase();
    [("user", &USER[..]), ("assistant", &ASSISTANT), ("system", &SYSTEM), ("tool", &TOOL)]
        .into_iter()
        .find(|(_, names)| names.contains(&lower.as_str()))
        .map(|(role, _)| role)
}

impl Turn {
    fn parse(item: Value, place: String) -> Result<Turn, Bad> {
        let Value::Object(mut turn) = item else {
            return Err(Bad::new("wrong type", format!("{place} is {}, not a message", type_name(&item))));
        };
        let name_key = if present(&turn, "from") { "from" } else { "role" };
        let name = match turn.get(name_key) {
            Some(Value::String(name)) => name.clone(),
            None | Some(Value::Null) => return Err(Bad::new("unknown role", format!("{place} has no `role`"))),
            Some(other) => {
                return Err(Bad::new("unknown role", format!("the role of {place} is {}, not text", type_name(other))));
            }
        };
        let Some(role) = role(&name) else {
            let known = "system, user (human), assistant (gpt) and tool (function)";
            return Err(Bad::new("unknown role", format!("{place} has the role {name:?}; known are {known}")));
        };
        let name = match role {
            "system" | "tool" => name.trim().to_ascii_lowercase(),
            role => role.to_owned(),
        };
        let content_key = match name_key {
            "from" if turn.contains_key("value") || !turn.contains_key("content") => "value",
            "role" if turn.contains_key("value") && !turn.contains_key("content") => "value",
            _ => "content",
        };
        let content = turn.swap_remove(content_key);
        let content = text_of(content, content_key, &turn, &format!("{place} ({role})"));
        Ok(Turn { role, name, content, place })
    }

    /// A turn that a key holds as mere text.
    pub(super) fn of_text(role: &'static str, text: String, key: &str) -> Turn {
        Turn { role, name: role.into(), content: Ok(text), place: format!("`{key}`") }
    }

    /// Role's name and text.
    ///
    /// # Errors
    /// When the content is not plain text.
    pub(super) fn message(&self) -> Result<Message, Bad> {
        Ok(Message::new(&self.name, self.content.clone()?))
    }

    fn answer(&self) -> Result<String, Bad> {
        let text = self.content.clone()?;
        if text.trim().is_empty() {
            return Err(Bad::new("empty answer", format!("the answer is empty ({})", self.place)));
        }
        Ok(text)
    }
}

fn present(map: &Map<String, Value>, key: &str) -> bool {
    match map.get(key) {
        None | Some(Value::Null) => false,
        Some(Value::Array(items)) => !items.is_empty(),
        Some(Value::Object(map)) => map.values().any(|v| !v.is_null()),
        Some(_) => true,
    }
}

/// The content of a turn: text, or parts that are all text.
fn text_of(content: Option<Value>, key: &str, turn: &Map<String, Value>, place: &str) -> Result<String, Bad> {
    for call in ["tool_calls", "function_call"] {
        if present(turn, call) {
            return Err(Bad::new("tool call", format!("{place} has `{call}`, which is no text to learn")));
        }
    }
    for thought in ["reasoning_content", "reasoning", "thinking"] {
        if present(turn, thought) && turn.get(thought).is_some_and(|t| t.as_str().is_none_or(|t| !t.trim().is_empty()))
        {
            let detail = format!(
                "{place} has `{thought}` beside its content, which would be left out; write it into the content or remove it"
            );
            return Err(Bad::new("reasoning beside the content", detail));
        }
    }
    match content {
        Some(Value::String(text)) => Ok(text),
        Some(Value::Array(parts)) => {
            parts.into_iter().map(|part| part_text(part, place)).collect::<Result<Vec<_>, _>>().map(|p| p.concat())
        }
        None => Err(Bad::new("content is not text", format!("{place} has no `{key}`"))),
        Some(other) => {
            Err(Bad::new("content is not text", format!("`{key}` of {place} is {}, not text", type_name(&other))))
        }
    }
}

/// One part of a content, as of `{"type": "text", "text": …}`. Several are
/// joined as they are, which is what templates that know parts do.
fn part_text(part: Value, place: &str) -> Result<String, Bad> {
    let bad = |what: String| Err(Bad::new("content is not text", format!("{place} has {what}, not only text")));
    match part {
        Value::String(text) => Ok(text),
        Value::Object(mut part) => {
            let kind = match part.get("type") {
                Some(Value::String(kind)) => kind.clone(),
                _ => "text".to_owned(),
            };
            if !["text", "input_text", "output_text"].contains(&kind.as_str()) {
                return bad(format!("a part of type {kind:?}"));
            }
            match part.swap_remove("text") {
                Some(Value::String(text)) => Ok(text),
                _ => bad("a part without text".into()),
            }
        }
        other => bad(format!("a part that is {}", type_name(&other))),
    }
}

/// The turns of a list under `key`.
///
/// # Errors
/// When it is no list, or a turn is no message or has a role that is not
/// known.
pub(super) fn turns(value: Value, key: &str) -> Result<Vec<Turn>, Bad> {
    let Value::Array(items) = value else {
        let remedy = if value.is_string() { "; a CSV file cannot hold lists, JSON lines and Parquet can" } else { "" };
        let kind = type_name(&value);
        return Err(Bad::new("wrong type", format!("`{key}` is {kind}, not a list of messages{remedy}")));
    };
    let place = |i: usize| format!("turn {} of `{key}`", i + 1);
    items.into_iter().enumerate().map(|(i, item)| Turn::parse(item, place(i))).collect()
}

/// One demonstration of a conversation.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Exchange {
    pub(super) prompt: Vec<Message>,
    pub(super) answer: String,
}

/// The demonstrations of a conversation, and how many turns are in none of
/// them. Answers are looked for after the first `given` turns, which are a
/// prompt in whatever order they stand; from there on users (or tools) and
/// assistants take turns.
///
/// # Errors
/// When a turn stands where another belongs, there is no answer, or a turn
/// that is used is no plain text.
pub(super) fn exchanges(turns: &[Turn], given: usize, which: Turns) -> Result<(Vec<Exchange>, usize), Bad> {
    let answers: Vec<usize> = (given..turns.len()).filter(|&i| turns[i].role == "assistant").collect();
    let chosen: &[usize] = match which {
        Turns::First => answers.get(..1),
        Turns::Last => answers.len().checked_sub(1).and_then(|last| answers.get(last..)),
        Turns::All => Some(&answers[..]).filter(|a| !a.is_empty()),
    }
    .unwrap_or_default();
    let end = chosen.last().copied().unwrap_or(turns.len().saturating_sub(1));
    in_order(turns, given, end)?;
    if chosen.is_empty() {
        return Err(Bad::new("no answer", "the conversation has no answer: no turn of the assistant"));
    }
    let mut found = Vec::with_capacity(chosen.len());
    for &at in chosen {
        let answer = turns[at].answer()?;
        let prompt = turns[..at].iter().map(Turn::message).collect::<Result<Vec<_>, _>>()?;
        check_prompt(&turns[..at], &prompt, given)?;
        found.push(Exchange { prompt, answer });
    }
    Ok((found, turns.len() - 1 - end))
}

/// Checks the order of the turns up to `end`.
fn in_order(turns: &[Turn], given: usize, end: usize) -> Result<(), Bad> {
    for (i, turn) in turns.iter().enumerate().take(end + 1).skip(given) {
        let before = i.checked_sub(1).map(|b| turns[b].role);
        let fits = match turn.role {
            role if i == given && given > 0 => role == "assistant",
            "system" => i == 0,
            "user" => before.is_none_or(|b| b == "system" || b == "assistant"),
            "tool" => before.is_some_and(|b| b == "assistant" || b == "tool"),
            _ => before.is_some_and(|b| b == "user" || b == "tool"),
        };
        if !fits {
            let wanted = match before {
                _ if i == given && given > 0 => "the assistant's answer belongs",
                None | Some("system") => "the first user turn belongs",
                Some("assistant") => "a user turn belongs",
                _ => "the assistant's answer belongs",
            };
            let detail = format!("{} is a turn of role {:?} where {wanted}", turn.place, turn.role);
            return Err(Bad::new("order of turns", detail));
        }
    }
    Ok(())
}

/// A prompt says something, and so does each of its turns that somebody
/// speaks; an empty system turn is common and harmless.
fn check_prompt(turns: &[Turn], prompt: &[Message], given: usize) -> Result<(), Bad> {
    if prompt.iter().all(|m| m.content.trim().is_empty()) {
        return Err(Bad::new("empty prompt", "the prompt is empty"));
    }
    for (i, (turn, message)) in turns.iter().zip(prompt).enumerate() {
        if i >= given && turn.role != "system" && message.content.trim().is_empty() {
            return Err(Bad::new("empty turn", format!("{} ({}) is empty", turn.place, turn.role)));
        }
    }
    Ok(())
}

/// The turns of a given prompt.
///
/// # Errors
/// When there are none, or the last one is an answer already.
pub(super) fn given_prompt(turns: &[Turn]) -> Result<(), Bad> {
    match turns.last() {
        None => Err(Bad::new("empty prompt", "the prompt is empty")),
        Some(last) if last.role == "assistant" => {
            Err(Bad::new("order of turns", format!("{}, the prompt's last, is an answer of the assistant", last.place)))
        }
        Some(_) => Ok(()),
    }
}
