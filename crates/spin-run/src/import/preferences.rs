//! Importing preference sets: prompts with a chosen and a rejected answer.
//!
//! Read as TRL reads them (`maybe_extract_prompt`, `extract_prompt`): where
//! the prompt is not given apart, it is what both conversations, or both
//! texts, begin with. The published SPIN sets (`real`, `generated`) are such
//! conversations.

use serde_json::Value;

use super::intake::{self, Imported, Taken};
use super::layout::{needed, prompt_turns, wrong_type};
use super::noted;
use super::turns::{given_prompt, turns};
use crate::records::{Bad, Files, Record};
use crate::run::{SourceConfig, SourceFormat, Turns};
use crate::schema::{Message, Preference};
use spin_store::error::{Result, StoreError};
use spin_store::kind::Kind;
use spin_store::{Artifact, Context, Recipe, Staged};

const COLUMNS: [&str; 7] = ["prompt", "chosen", "rejected", "real", "generated", "row_id", "id"];

/// The recipe of preferences imported from a source; hashes its files.
///
/// # Errors
/// When there is no such source, or a file cannot be read.
pub fn preferences_recipe(name: &str, source: &SourceConfig, files: &Files) -> Result<Recipe> {
    intake::recipe(Kind::Preferences, name, source, files, &COLUMNS)
}

/// Imports preferences unless the store has them. The flag says whether
/// something was made. Facts as [`super::demonstrations`]'; rows whose answers
/// are the same are left out and counted.
///
/// # Errors
/// Bad rows, with file and row; no rows; settings that only demonstrations
/// have; a source that changed after the recipe was made; a full disk.
pub fn preferences(
    context: &Context<'_>,
    recipe: &Recipe,
    source: &SourceConfig,
    files: &Files,
) -> Result<(Artifact, bool)> {
    context.make(recipe, |making| {
        if source.format != SourceFormat::Auto || source.turns != Turns::First {
            return Err(StoreError::corrupt(
                &files.path,
                "is named as preferences with `format` or `turns`, which only demonstrations have",
                "leave them out: the layout of preferences is told from their keys",
            ));
        }
        let staged = making.staging()?;
        let facts = intake::run(recipe, source, files, staged.path(), &COLUMNS, &mut |path, row, record| {
            let keys = keys(record).map_err(|problem| {
                let remedy = "use prompt/chosen/rejected, chosen/rejected or real/generated";
                StoreError::row(path, row, problem, remedy)
            })?;
            Ok(pair(record, keys))
        })?;
        Ok(Staged { environment: noted(&files.hub), ..Staged::new(staged, facts) })
    })
}

impl Imported for Preference {
    fn row_id(&mut self) -> &mut String {
        &mut self.row_id
    }

    fn prompt(&self) -> &[Message] {
        &self.prompt
    }

    fn answers(&self) -> Vec<&str> {
        vec![&self.chosen, &self.rejected]
    }
}

/// The keys of the better and the other answer.
type Keys = (&'static str, &'static str);

fn keys(record: &Record) -> Result<Keys, String> {
    for keys in [("chosen", "rejected"), ("real", "generated")] {
        // One of them suffices: that the other is missing is the row's fault.
        if record.has(keys.0) || record.has(keys.1) {
            return Ok(keys);
        }
    }
    Err(format!("its keys ({}) are not those of a preference set", record.names().join(", ")))
}

fn pair(record: &mut Record, keys: Keys) -> Result<Taken<Preference>, Bad> {
    let (better, other) = (needed(record, keys.0)?, needed(record, keys.1)?);
    let prompt = record.take("prompt")?.filter(|v| !v.is_null());
    let (prompt, chosen, rejected) = match (better, other) {
        (Value::String(better), Value::String(other)) => texts(prompt, better, other)?,
        (better @ Value::Array(_), other @ Value::Array(_)) => conversations(prompt, better, other, keys)?,
        (Value::String(_) | Value::Array(_), other) | (other, _) => {
            return Err(wrong_type(&other, keys.1, "text or a list of messages as the other answer"));
        }
    };
    if prompt.iter().all(|m| m.content.trim().is_empty()) {
        return Err(Bad::new("empty prompt", "the prompt is empty"));
    }
    if chosen == rejected {
        return Ok(Taken { rows: Vec::new(), left_out: vec![(IDENTICAL, 1)] });
    }
    for (key, text) in [(keys.0, &chosen), (keys.1, &rejected)] {
        if text.trim().is_empty() {
            return Err(Bad::new("empty answer", format!("the answer of `{key}` is empty")));
        }
    }
    let row = Preference { row_id: String::new(), prompt, chosen, rejected };
    Ok(Taken { rows: vec![(None, row)], left_out: Vec::new() })
}

/// What is counted for rows with twice the same answer.
pub const IDENTICAL: &str = "identical answers";

type Parts = (Vec<Message>, String, String);

/// Two texts. A prompt that is given is taken as it is, one of messages with
/// text after it as well.
fn texts(prompt: Option<Value>, chosen: String, rejected: String) -> Result<Parts, Bad> {
    if let Some(prompt) = prompt {
        let turns = prompt_turns(prompt, "prompt")?;
        given_prompt(&turns)?;
        let prompt = turns.iter().map(|t| t.message()).collect::<Result<_, _>>()?;
        return Ok((prompt, chosen, rejected));
    }
    if let (Some(better), Some(other)) = (transcript(&chosen), transcript(&rejected)) {
        return common(better, other, ("chosen", "rejected"));
    }
    let at = common_text(&chosen, &rejected);
    if at == 0 {
        return Err(Bad::new("empty prompt", "it has no `prompt`, and its answers have no common beginning"));
    }
    let prompt = vec![Message::user(&chosen[..at])];
    Ok((prompt, chosen[at..].to_owned(), rejected[at..].to_owned()))
}

/// Bytes of the beginning that TRL takes for the prompt of two texts: up to
/// the first character that differs, without a space before it; of texts of
/// which one begins the other, up to the shorter one's last character.
fn common_text(chosen: &str, rejected: &str) -> usize {
    let mut pairs = chosen.char_indices().zip(rejected.chars());
    let differs = pairs.find(|((_, a), b)| a != b).map(|((at, _), _)| at);
    match differs {
        Some(at) if chosen[..at].ends_with(' ') => at - 1,
        Some(at) => at,
        None => {
            let shorter = if chosen.len() <= rejected.len() { chosen } else { rejected };
            shorter.char_indices().next_back().map_or(0, |(at, _)| at)
        }
    }
}

/// A conversation written as "\n\nHuman: … \n\nAssistant: …", as Anthropic's
/// sets have it.
fn transcript(text: &str) -> Option<Vec<Message>> {
    const MARKS: [(&str, &str); 2] = [("\n\nHuman:", "user"), ("\n\nAssistant:", "assistant")];
    if !text.starts_with(MARKS[0].0) {
        return None;
    }
    let mut starts: Vec<(usize, &str, &str)> =
        MARKS.iter().flat_map(|(mark, role)| text.match_indices(mark).map(move |(at, _)| (at, *mark, *role))).collect();
    starts.sort_unstable();
    let ends = starts.iter().skip(1).map(|s| s.0).chain([text.len()]);
    let turns =
        starts.iter().zip(ends).map(|((at, mark, role), end)| Message::new(*role, text[at + mark.len()..end].trim()));
    Some(turns.collect())
}

fn conversations(prompt: Option<Value>, better: Value, other: Value, keys: Keys) -> Result<Parts, Bad> {
    let messages = |value: Value, key: &str| -> Result<Vec<Message>, Bad> {
        turns(value, key)?.iter().map(|t| t.message()).collect()
    };
    let (mut better, mut other) = (messages(better, keys.0)?, messages(other, keys.1)?);
    // A prompt of text beside conversations only says their first turn again.
    let Some(prompt @ Value::Array(_)) = prompt else { return common(better, other, keys) };
    let prompt = turns(prompt, "prompt")?;
    given_prompt(&prompt)?;
    let prompt: Vec<Message> = prompt.iter().map(|t| t.message()).collect::<Result<_, _>>()?;
    if better.starts_with(&prompt) && other.starts_with(&prompt) {
        better.drain(..prompt.len());
        other.drain(..prompt.len());
    }
    Ok((prompt, only_answer(better, keys.0)?, only_answer(other, keys.1)?))
}

/// Splits two conversations where they begin to differ.
fn common(mut better: Vec<Message>, mut other: Vec<Message>, keys: Keys) -> Result<Parts, Bad> {
    let same = better.iter().zip(&other).take_while(|(a, b)| a == b).count();
    // Of equal conversations the last turn is the answer.
    let at = same.min(better.len().saturating_sub(1)).min(other.len().saturating_sub(1));
    if at == 0 {
        return Err(Bad::new(
            "no common prompt",
            format!("`{}` and `{}` have no common beginning, which would be the prompt", keys.0, keys.1),
        ));
    }
    if better[at - 1].role == "assistant" {
        return Err(Bad::new("order of turns", format!("turn {at}, before the answers, is an assistant's")));
    }
    let (better_rest, other_rest) = (better.split_off(at), other.split_off(at));
    Ok((better, only_answer(better_rest, keys.0)?, only_answer(other_rest, keys.1)?))
}

fn only_answer(mut rest: Vec<Message>, key: &str) -> Result<String, Bad> {
    match (rest.len(), rest.first().map(|m| m.role.as_str())) {
        (1, Some("assistant")) => Ok(rest.remove(0).content),
        (1, Some(role)) => Err(Bad::new(
            "order of turns",
            format!("`{key}` ends with a turn of role {role:?} where the answer belongs"),
        )),
        (n, _) => {
            Err(Bad::new("order of turns", format!("`{key}` has {n} turns after the prompt, where one answer belongs")))
        }
    }
}
