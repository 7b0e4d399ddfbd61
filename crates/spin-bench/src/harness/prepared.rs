//! A unit with its data: what is asked, with which examples.

use serde_json::json;
use spin_run::graph::UnitInputs;
use spin_run::run::RunFile;
use spin_store::digest;
use spin_store::manifest::Parent;

use super::dataset::{self, DocSet};
use super::prompt::{self, Prompt, Style, Subset, Turn};
use super::registry::Unit;
use super::{Answer, Doc, Examples, Task};
use crate::error::{BenchError, Result};

/// A unit with its data, ready to be scored.
pub struct Prepared {
    /// Its name.
    pub name: String,
    /// Warnings about its data, for people.
    pub warnings: Vec<String>,
    pub(super) tasks: Vec<PreparedTask>,
}

/// A task with its documents, and which are asked about with which examples.
pub(super) struct PreparedTask {
    pub task: Task,
    pub shots: usize,
    pub docs: DocSet,
    pub pool: Option<DocSet>,
    pub turns: Vec<Turn>,
}

impl PreparedTask {
    fn example(&self, index: usize) -> &Doc {
        match (&self.task.examples, &self.pool) {
            (Examples::Given(own), _) => &own[index],
            (_, Some(pool)) => &pool.docs[index],
            (_, None) => unreachable!("examples are drawn from a pool"),
        }
    }

    /// The prompt of a document.
    pub fn prompt(&self, style: &Style<'_>, turn: &Turn) -> Result<Prompt> {
        let examples: Vec<&Doc> = turn.examples.iter().map(|i| self.example(*i)).collect();
        let doc = &self.docs.docs[turn.row];
        let written = prompt::write(&self.task, style, &examples, doc)?;
        if let Answer::Choices { choices, .. } | Answer::Labels { choices, .. } = &doc.answer
            && let Some(empty) = choices.iter().position(String::is_empty)
        {
            return Err(self.bad_doc(turn.row, format!("has an empty choice {empty}")));
        }
        Ok(written)
    }

    /// Digest of the examples that the task brings along, with what stands
    /// before them.
    fn own_examples(&self) -> Option<String> {
        let Examples::Given(own) = &self.task.examples else { return None };
        let value = json!({"description": self.task.description, "examples": own});
        Some(digest::of_json(&value))
    }

    fn bad_doc(&self, row: usize, problem: String) -> BenchError {
        BenchError::Doc { path: self.docs.path.clone(), row, task: self.task.name.clone(), problem }
    }

    /// Says which row an error is about.
    pub fn at_row<T>(&self, row: usize, result: Result<T>) -> Result<T> {
        result.map_err(|error| match error {
            BenchError::Continuation { text, problem } => {
                self.bad_doc(row, format!("has the answer {text:?}, which {problem}"))
            }
            BenchError::Text(error) => self.bad_doc(row, format!("does not fit the chat template ({error})")),
            other => other,
        })
    }
}

impl Prepared {
    /// Reads a unit's data and draws its examples.
    ///
    /// # Errors
    /// When data is missing or has a bad row.
    pub(super) fn read(run: &RunFile, unit: Unit) -> Result<Prepared> {
        let config = &run.eval;
        let data = run.resolve(&config.data);
        let mut warnings = Vec::new();
        let mut tasks = Vec::with_capacity(unit.tasks.len());
        for task in unit.tasks {
            let shots = config.num_fewshot.filter(|_| !task.fixed_shots).unwrap_or(task.num_fewshot);
            let docs = dataset::read_split(&task, &data, &task.split)?;
            let pool = match (&task.examples, &task.fewshot_split) {
                (Examples::Given(_), _) => None,
                _ if shots == 0 => None,
                (_, Some(split)) => Some(dataset::read_split(&task, &data, split)?),
                (_, None) => None,
            };
            for split in [Some(&docs), pool.as_ref()].into_iter().flatten() {
                if let Some(warning) = &split.warning {
                    warnings.push(format!("{}: {} {warning}", task.name, split.path.display()));
                }
            }
            let pool_rows = pool.as_ref().map(|pool| pool.row_digests.as_slice()).unwrap_or_default();
            let subset = Subset::of(config);
            let turns = prompt::turns(&task, config.profile, &docs.row_digests, pool_rows, shots, subset)?;
            tasks.push(PreparedTask { task, shots, docs, pool, turns });
        }
        Ok(Prepared { name: unit.name, warnings, tasks })
    }

    /// What decides a unit's prompts and results, beside run file and model.
    pub(super) fn inputs(&self) -> UnitInputs<'_> {
        let tasks = self.tasks.iter().map(|task| {
            json!({
                "name": task.task.name,
                "version": task.task.version,
                "num_fewshot": task.shots,
                "declaration": task.task.declaration,
                "examples": task.own_examples(),
            })
        });
        let mut data = Vec::new();
        for task in &self.tasks {
            for split in [Some(&task.docs), task.pool.as_ref()].into_iter().flatten() {
                let name = split.path.file_name().map_or_else(|| "-".into(), |n| n.to_string_lossy().into_owned());
                let role = format!("data {}", task.task.name);
                data.push(Parent::file(role, name, &split.file_digest));
            }
        }
        UnitInputs {
            name: &self.name,
            tasks: tasks.collect(),
            data,
            generates: self.generates(),
            is_whole: self.tasks.iter().all(|task| task.turns.len() == task.docs.docs.len()),
        }
    }

    /// Whether it needs generated answers.
    pub fn generates(&self) -> bool {
        self.tasks.iter().any(|task| task.task.generation.is_some())
    }
}

/// Names a document's prompt.
pub(super) fn row_id(task: &Task, row: usize) -> String {
    format!("{}/{row}", task.name)
}
