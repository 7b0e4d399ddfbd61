//! `[template]`: how messages become prompts, and which are too long.

use chrono::{Datelike, NaiveDate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[template]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TemplateConfig {
    /// `model` for the chat template in the model's directory, `alpaca` for
    /// the paper's `### Instruction: … ### Response: `, or a path to a Jinja
    /// file.
    pub chat: String,
    /// The day, as `2024-02-29`, that `strftime_now` is in templates; without
    /// it, templates that insist on one are refused.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "super::parse::day")]
    pub date: Option<String>,
    /// Longest prompt in tokens; longer rows are refused or dropped, see
    /// `overlong`.
    pub max_prompt_length: usize,
    /// Longest prompt and response together, in tokens.
    pub max_length: usize,
    /// What to do with a row whose prompt is too long.
    pub overlong: Overlong,
}

impl Default for TemplateConfig {
    fn default() -> Self {
        TemplateConfig {
            chat: "model".into(),
            date: None,
            max_prompt_length: 512,
            max_length: 1024,
            overlong: Overlong::Error,
        }
    }
}

impl TemplateConfig {
    /// `date`, where it is one: from the year 1000 on, so that every year has
    /// the four digits that Python writes.
    pub fn day(&self) -> Option<NaiveDate> {
        let text = self.date.as_deref()?;
        let day = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
        (text == day.format("%Y-%m-%d").to_string() && (1000..=9999).contains(&day.year())).then_some(day)
    }
}

/// What to do with a row whose prompt exceeds `max_prompt_length`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Overlong {
    /// Stop and name the row.
    #[default]
    Error,
    /// Leave it out and count it.
    Drop,
    /// Keep the last `max_prompt_length` tokens, as TRL does, and count it.
    Truncate,
}

/// What becomes of a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PromptFate {
    /// It is used: its tokens, and whether some were cut away.
    Used(Vec<u32>, bool),
    /// It is left out.
    Dropped,
    /// It is an error, for this reason and with this remedy.
    TooLong(String, &'static str),
}

impl TemplateConfig {
    /// What becomes of a prompt of a model that reads `context` tokens: at
    /// least one is left for the answer.
    pub fn prompt(&self, mut ids: Vec<u32>, context: usize) -> PromptFate {
        let limit = self.max_prompt_length.min(context - 1);
        if ids.len() <= limit {
            return PromptFate::Used(ids, false);
        }
        match self.overlong {
            Overlong::Drop => PromptFate::Dropped,
            Overlong::Truncate => PromptFate::Used(ids.split_off(ids.len() - limit), true),
            Overlong::Error => PromptFate::TooLong(
                format!(
                    "its prompt has {} tokens, more than template.max_prompt_length = {} or the model's context of {context} allow",
                    ids.len(),
                    self.max_prompt_length
                ),
                "raise the length, remove the row, or set template.overlong = \"drop\" or \"truncate\"",
            ),
        }
    }
}
