//! Which examples precede a document, and the text of it all.

use spin_report::random::PyRandom;
use spin_run::run::EvalConfig;
use spin_text::{Codec, Message};

use super::text::{ends_with_space, starts_with_space};
use super::{Answer, Doc, Examples, Profile, Task};
use crate::error::{BenchError, Result};

/// A document's turn: which it is, and its examples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The document's row.
    pub row: usize,
    /// Rows of the examples, in the order of the prompt.
    pub examples: Vec<usize>,
}

/// Which documents of a task are scored.
#[derive(Clone, Copy, Debug, Default)]
pub struct Subset {
    /// How many; 0 for all.
    pub limit: usize,
    /// Drawn by this seed, in place of the first.
    pub seed: Option<u32>,
}

impl Subset {
    /// What `[eval]` says.
    pub fn of(config: &EvalConfig) -> Self {
        Self { limit: config.limit, seed: config.limit_seed }
    }

    /// Leaves out of `items` what is not scored; what stays keeps its order.
    /// With a seed these are the positions that Python's
    /// `random.Random(seed).sample(range(len(items)), limit)` takes, which
    /// lm-evaluation-harness scores when its `samples` name them.
    pub fn apply<T>(self, items: &mut Vec<T>) {
        if self.limit == 0 || self.limit >= items.len() {
            return;
        }
        let Some(seed) = self.seed else { return items.truncate(self.limit) };
        let drawn = PyRandom::new(seed).sample(items.len(), self.limit).expect("fewer than there are");
        let mut is_drawn = vec![false; items.len()];
        drawn.into_iter().for_each(|position| is_drawn[position] = true);
        let mut is_drawn = is_drawn.into_iter();
        items.retain(|_| is_drawn.next() == Some(true));
    }
}

/// The order in which documents are scored, and the examples drawn for each.
/// Drawing goes on from document to document, so all draws are made here, in
/// the harness's order, whatever is computed later and in which order.
///
/// `docs` and `pool` are digests of the rows to score and of those that
/// examples are drawn from (none for tasks that have their own).
///
/// # Errors
/// When there are fewer documents than examples.
pub fn turns(
    task: &Task,
    profile: Profile,
    docs: &[String],
    pool: &[String],
    shots: usize,
    subset: Subset,
) -> Result<Vec<Turn>> {
    let mut order: Vec<usize> = (0..docs.len()).collect();
    let mut rng = PyRandom::new(1234);
    if profile == Profile::LeaderboardV1 {
        rng = PyRandom::new(42);
        rng.shuffle(&mut order);
    }
    subset.apply(&mut order);
    let too_few = || BenchError::Examples { task: task.name.clone(), wanted: shots, there: pool.len() };
    let same_split = task.fewshot_split.as_deref() == Some(task.split.as_str());
    let turn = |row: usize| {
        let others = || (0..pool.len()).filter(|index| !same_split || pool[*index] != docs[row]);
        let mut draw = |n: usize, k: usize| rng.sample(n, k).ok_or_else(too_few);
        let examples: Vec<usize> = match &task.examples {
            _ if shots == 0 => Vec::new(),
            Examples::Given(own) => (0..shots.min(own.len())).collect(),
            Examples::First => others().take(shots).collect(),
            Examples::Drawn if !task.draws_spare => draw(pool.len(), shots)?,
            Examples::Drawn => {
                let mut drawn = draw(pool.len(), shots + 1)?;
                drawn.retain(|index| !same_split || pool[*index] != docs[row]);
                drawn.truncate(shots);
                if drawn.len() < shots {
                    // Rows may stand in the pool several times.
                    let others: Vec<usize> = others().collect();
                    drawn = draw(others.len(), shots)?.into_iter().map(|i| others[i]).collect();
                }
                drawn
            }
        };
        if examples.len() < shots {
            return Err(too_few());
        }
        Ok(Turn { row, examples })
    };
    order.into_iter().map(turn).collect()
}

/// How prompts are written, besides the task.
pub struct Style<'a> {
    /// Whether through a chat template, and whose.
    pub chat: Option<&'a Codec>,
    /// With a chat template: examples as turns of their own.
    pub multiturn: bool,
    /// Shown before the task's description.
    pub system_instruction: &'a str,
}

/// The prompt of one document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// One context for all continuations, or one for each.
    pub contexts: Vec<String>,
    /// What may follow, with the delimiter; none for a generated answer.
    pub continuations: Vec<String>,
    /// Whether the chat template refused the system message, which was then
    /// left out, as the harness does.
    pub dropped_system: bool,
}

impl Prompt {
    /// Each continuation with its context.
    pub fn requests(&self) -> impl Iterator<Item = (&str, &str)> {
        let context = |i: usize| self.contexts.get(i).unwrap_or(&self.contexts[0]).as_str();
        self.continuations.iter().enumerate().map(move |(i, continuation)| (context(i), continuation.as_str()))
    }
}

/// Joins two texts, with a delimiter unless there is white space already.
fn delimited(prefix: &str, suffix: &str, delimiter: &str) -> String {
    match (prefix, suffix) {
        ("", text) | (text, "") => text.to_owned(),
        _ if ends_with_space(prefix) || starts_with_space(suffix) => format!("{prefix}{suffix}"),
        _ => format!("{prefix}{delimiter}{suffix}"),
    }
}

/// Writes the prompt of a document behind its examples.
///
/// # Errors
/// When the chat template fails, or a choice is empty.
pub fn write(task: &Task, style: &Style<'_>, examples: &[&Doc], doc: &Doc) -> Result<Prompt> {
    let system = delimited(style.system_instruction, &task.description, &task.fewshot_delimiter);
    let question = match task.strips_newline {
        true => doc.question.strip_suffix('\n').unwrap_or(&doc.question),
        false => &doc.question,
    };
    let questions: Vec<&str> = match &doc.answer {
        Answer::Blank { contexts, .. } => contexts.iter().map(String::as_str).collect(),
        _ => vec![question],
    };
    let mut contexts = Vec::with_capacity(questions.len());
    let mut dropped_system = false;
    for question in questions {
        let context = if task.loses_context && matches!(doc.answer, Answer::Blank { .. }) {
            question.to_owned()
        } else if let Some(codec) = style.chat {
            let (text, dropped) = chat(task, codec, style.multiturn, &system, examples, question)?;
            dropped_system |= dropped;
            text
        } else {
            system.clone() + &shown(task, examples) + question
        };
        contexts.push(context);
    }
    let delimiter = if style.chat.is_some() { "" } else { &task.target_delimiter };
    let continuations = match &doc.answer {
        Answer::Choices { choices, .. } | Answer::Labels { choices, .. } => {
            choices.iter().map(|choice| format!("{delimiter}{choice}")).collect()
        }
        Answer::Blank { contexts, ending, .. } => vec![format!("{delimiter}{ending}"); contexts.len()],
        Answer::Text(_) => Vec::new(),
    };
    Ok(Prompt { contexts, continuations, dropped_system })
}

/// The examples as plain text.
fn shown(task: &Task, examples: &[&Doc]) -> String {
    let mut out = String::new();
    for example in examples {
        let (question, answer) = example.shown();
        let question = if task.strips_newline && !matches!(task.examples, Examples::Given(_)) {
            question.strip_suffix('\n').unwrap_or(question)
        } else {
            question
        };
        out.push_str(question);
        out.push_str(&task.target_delimiter);
        out.push_str(answer);
        out.push_str(&task.fewshot_delimiter);
    }
    out
}

fn chat(
    task: &Task,
    codec: &Codec,
    multiturn: bool,
    system: &str,
    examples: &[&Doc],
    question: &str,
) -> Result<(String, bool)> {
    let mut messages = Vec::new();
    if !system.is_empty() {
        messages.push(Message::system(system));
    }
    if multiturn {
        for example in examples {
            let (question, answer) = example.shown();
            messages.push(Message::user(question));
            messages.push(Message::assistant(answer));
        }
        messages.push(Message::user(question));
    } else {
        messages.push(Message::user(shown(task, examples) + question));
    }
    match codec.prompt_text(&messages) {
        Err(_) if !system.is_empty() => Ok((codec.prompt_text(&messages[1..])?, true)),
        text => Ok((text?, false)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tasks::arc;
    use super::*;

    fn rows(count: usize) -> Vec<String> {
        (0..count).map(|row| row.to_string()).collect()
    }

    fn drawn(task: &Task, docs: &[String], pool: &[String], shots: usize) -> Vec<Vec<usize>> {
        let turns = turns(task, Profile::Current, docs, pool, shots, Subset::default()).unwrap();
        turns.into_iter().map(|turn| turn.examples).collect()
    }

    #[test]
    fn a_document_is_no_example_of_itself() {
        let split =
            |examples| Task { fewshot_split: Some("test".into()), draws_spare: true, examples, ..arc::arc_challenge() };
        let docs = rows(5);
        assert_eq!(drawn(&split(Examples::First), &docs[..3], &docs, 2), [[1, 2], [0, 2], [0, 1]]);
        for (row, examples) in drawn(&split(Examples::Drawn), &docs, &docs, 4).into_iter().enumerate() {
            assert!(examples.len() == 4 && !examples.contains(&row), "{row}: {examples:?}");
        }
        // Copies of the document are none either.
        let copies = ["a", "a", "a", "b", "c"].map(str::to_owned);
        for examples in &drawn(&split(Examples::Drawn), &copies, &copies, 2)[..3] {
            assert!(examples.iter().all(|i| *i > 2), "{examples:?}");
        }
    }

    // CPython 3.11: sorted(random.Random(7).sample(range(n), k)).
    #[test]
    fn a_seed_draws_the_documents_of_python() {
        let drawn = |count: usize, limit, seed| {
            let mut items: Vec<usize> = (0..count).collect();
            Subset { limit, seed }.apply(&mut items);
            items
        };
        assert_eq!(drawn(30, 6, Some(7)), [1, 2, 4, 10, 12, 20]);
        assert_eq!(drawn(1267, 5, Some(7)), [98, 148, 308, 663, 808]);
        assert_eq!(drawn(30, 3, None), [0, 1, 2]);
        assert_eq!(drawn(3, 3, Some(7)), [0, 1, 2]);
        assert_eq!(drawn(3, 0, None), [0, 1, 2]);
    }

    #[test]
    fn too_few_examples_are_an_error() {
        let task = arc::arc_challenge();
        let error = turns(&task, Profile::Current, &rows(2), &rows(3), 4, Subset::default()).unwrap_err().to_string();
        assert!(error.contains("wants 4 examples and has 3"), "{error}");
    }
}
