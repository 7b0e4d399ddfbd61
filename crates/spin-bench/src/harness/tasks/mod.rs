//! The tasks, one file each. To add one, write a file like its neighbours and
//! name it in [`super::registry`]; or write a task file, which needs no
//! compiler: see [`custom`].

pub mod arc;
pub mod bbh;
pub mod custom;
pub mod gsm8k;
pub mod hellaswag;
pub mod mmlu;
pub mod openbookqa;
pub mod truthfulqa;
pub mod winogrande;

use serde_json::Value;

use super::RawRow;

/// A text of a row.
fn text<'a>(row: &'a RawRow, key: &str) -> Result<&'a str, String> {
    row.get(key).and_then(Value::as_str).ok_or_else(|| format!("has no text {key:?}"))
}

/// A list of texts.
fn texts(value: Option<&Value>, key: &str) -> Result<Vec<String>, String> {
    let list = value.and_then(Value::as_array).ok_or_else(|| format!("has no list {key:?}"))?;
    let texts: Option<Vec<String>> = list.iter().map(|item| item.as_str().map(str::to_owned)).collect();
    texts.ok_or_else(|| format!("has something that is not a text in {key:?}"))
}

/// The index of the right choice, checked.
fn gold(index: Option<usize>, choices: usize, shown: &str) -> Result<usize, String> {
    index
        .filter(|index| *index < choices)
        .ok_or_else(|| format!("has the answer {shown}, which is none of its {choices} choices"))
}

/// Choices and the right one's index, from the hub's `choices` with labels and
/// `answerKey`, or from a list with `gold`.
fn lettered(row: &RawRow) -> Result<(Vec<String>, usize), String> {
    let choices = row.get("choices").ok_or("has no \"choices\"")?;
    if let Some(labelled) = choices.as_object() {
        let labels = texts(labelled.get("label"), "choices.label")?;
        let choices = texts(labelled.get("text"), "choices.text")?;
        let key = text(row, "answerKey")?.trim_start();
        let index = labels.iter().position(|label| label == key);
        let gold = gold(index, choices.len(), &format!("{key:?}"))?;
        return Ok((choices, gold));
    }
    let choices = texts(Some(choices), "choices")?;
    let index = row.get("gold").and_then(Value::as_u64).ok_or("has no number \"gold\"")?;
    let gold = gold(usize::try_from(index).ok(), choices.len(), &index.to_string())?;
    Ok((choices, gold))
}

#[cfg(test)]
pub(super) fn row(json: &str) -> RawRow {
    serde_json::from_str(json).expect("valid JSON")
}
