//! Which template writes a conversation.

use std::path::PathBuf;

use chrono::NaiveDate;

/// Which chat template a `Codec` uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TemplateChoice {
    /// The one in the model directory.
    #[default]
    Model,
    /// That of the Alpaca project, which the paper's code uses.
    Alpaca,
    /// A Jinja source given by the caller.
    Custom(String),
    /// A Jinja source with the file that it is from, for messages.
    File(PathBuf, String),
}

/// How the conversations of a run are written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chat {
    /// The template.
    pub template: TemplateChoice,
    /// What `strftime_now` says in it; templates that insist on a day are
    /// refused without one.
    pub date: Option<NaiveDate>,
}
