//! What a task is: its documents, its examples, its measures.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value};

use super::filter::{Extract, Normalise};

/// A row of a data set.
pub type RawRow = Map<String, Value>;

/// How a task reads a row; the error says what is wrong with it.
pub type Reader = Arc<dyn Fn(&RawRow) -> Result<Doc, String> + Send + Sync>;

/// A document: a question and what may follow it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Doc {
    /// What the model is shown last, without the delimiter before the answer.
    pub question: String,
    /// What is scored.
    pub answer: Answer,
}

/// The answers of a document.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum Answer {
    /// One right choice among several.
    Choices {
        /// The choices.
        choices: Vec<String>,
        /// The right one's index.
        gold: usize,
    },
    /// Several choices may be right.
    Labels {
        /// The choices.
        choices: Vec<String>,
        /// Which are right.
        labels: Vec<bool>,
    },
    /// One ending after each of several beginnings, which stand in place of
    /// the question.
    Blank {
        /// The beginnings.
        contexts: Vec<String>,
        /// The ending.
        ending: String,
        /// The right beginning's index.
        gold: usize,
    },
    /// A text to be generated.
    Text(String),
}

impl Doc {
    /// The question and the answer that an example shows.
    pub fn shown(&self) -> (&str, &str) {
        match &self.answer {
            Answer::Choices { choices, gold } => (&self.question, &choices[*gold]),
            Answer::Labels { choices, labels } => {
                let right = labels.iter().position(|label| *label).unwrap_or(0);
                (&self.question, &choices[right])
            }
            Answer::Blank { contexts, ending, gold } => (&contexts[*gold], ending),
            Answer::Text(text) => (&self.question, text),
        }
    }
}

/// Where the examples in a prompt come from.
#[derive(Clone, Debug)]
pub enum Examples {
    /// Drawn at random from a split.
    Drawn,
    /// The first ones of a split.
    First,
    /// These.
    Given(Vec<Doc>),
}

/// A metric of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Whether the likeliest choice is right.
    Acc,
    /// The same with log-probabilities divided by the choices' lengths in
    /// characters.
    AccNorm,
    /// The same with lengths in UTF-8 bytes.
    AccBytes,
    /// The share of probability on right choices; the harness calls it `acc`.
    Mc2,
    /// Whether the text that a filter found is the right one.
    ExactMatch,
}

impl Metric {
    /// Its name in results.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Acc | Metric::Mc2 => "acc",
            Metric::AccNorm => "acc_norm",
            Metric::AccBytes => "acc_bytes",
            Metric::ExactMatch => "exact_match",
        }
    }
}

/// How an answer is generated and read.
#[derive(Clone, Debug)]
pub struct Generation {
    /// Texts that end it.
    pub until: Vec<String>,
    /// Its longest length in tokens.
    pub max_gen_toks: usize,
    /// How an answer is found in it, by filter name.
    pub filters: Vec<(String, Extract)>,
    /// What is removed from both sides before they are compared.
    pub normalise: Normalise,
}

/// A task.
#[derive(Clone)]
pub struct Task {
    /// Its name, e.g. `mmlu_anatomy`.
    pub name: String,
    /// Version of the harness's declaration that it follows.
    pub version: String,
    /// Where its documents are.
    pub source: Source,
    /// The split that is scored.
    pub split: String,
    /// The split that examples come from.
    pub fewshot_split: Option<String>,
    /// How examples are chosen.
    pub examples: Examples,
    /// How many examples, unless told otherwise.
    pub num_fewshot: usize,
    /// Whether `num_fewshot` has no effect, as in the harness where its
    /// declaration says 0.
    pub fixed_shots: bool,
    /// Whether examples are drawn from the split that is scored, as far as the
    /// harness knows: it then draws one more and drops the document itself.
    pub draws_spare: bool,
    /// Stands before the examples.
    pub description: String,
    /// Between question and answer.
    pub target_delimiter: String,
    /// After each example.
    pub fewshot_delimiter: String,
    /// Whether the context is lost, as by a bug of the `spin-paper` profile.
    pub loses_context: bool,
    /// Whether a final line break of the question is lost (`spin-paper`).
    pub strips_newline: bool,
    /// How a row reads.
    pub read: Reader,
    /// What is measured; the first is the headline.
    pub metrics: Vec<Metric>,
    /// For tasks that need a generated answer.
    pub generation: Option<Generation>,
    /// Digest of the task file, for tasks of one's own.
    pub declaration: Option<String>,
}

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Task").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Task {
    /// A task without examples that measures `acc` on choices, to be completed.
    pub fn new(name: impl Into<String>, source: Source, split: &str, read: Reader) -> Self {
        Self {
            name: name.into(),
            version: "1.0".into(),
            source,
            split: split.into(),
            fewshot_split: None,
            examples: Examples::Drawn,
            num_fewshot: 0,
            fixed_shots: false,
            draws_spare: false,
            description: String::new(),
            target_delimiter: " ".into(),
            fewshot_delimiter: "\n\n".into(),
            loses_context: false,
            strips_newline: false,
            read,
            metrics: vec![Metric::Acc],
            generation: None,
            declaration: None,
        }
    }

    /// The names of its metrics with their filters, as in results, e.g.
    /// `acc_norm,none`; the headline first.
    pub fn metric_names(&self) -> Vec<String> {
        let name = |metric: &Metric, filter: &str| format!("{},{filter}", metric.name());
        match &self.generation {
            None => self.metrics.iter().map(|metric| name(metric, "none")).collect(),
            Some(generation) => {
                generation.filters.iter().map(|(filter, _)| name(&Metric::ExactMatch, filter)).collect()
            }
        }
    }
}

/// Where a data set is below the data directory. `{split}` stands for the
/// split's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The hub's repository, which is also a directory.
    pub repo: String,
    /// The file in it.
    pub path: String,
    /// The file of the JSON layout.
    pub local: String,
    /// Whether the place is a whole path rather than one below the data
    /// directory, as for tasks of one's own.
    pub elsewhere: Option<PathBuf>,
}

impl Source {
    /// A data set of the hub.
    pub fn new(repo: &str, path: &str, local: &str) -> Self {
        Self { repo: repo.into(), path: path.into(), local: local.into(), elsewhere: None }
    }

    /// One file for all splits, or with `{split}` in its name.
    pub fn file(path: PathBuf) -> Self {
        Self { repo: String::new(), path: String::new(), local: String::new(), elsewhere: Some(path) }
    }
}
