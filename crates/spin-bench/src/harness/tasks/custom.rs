//! Tasks of one's own: a TOML file with the harness's keys and Jinja
//! templates over the columns of a row.
//!
//! ```toml
//! task = "capitals"
//! dataset = "capitals.jsonl"            # beside this file; {split} in it stands for the split
//! doc_to_text = "Question: What is the capital of {{ country }}?\nAnswer:"
//! doc_to_choice = ["{{ right }}", "{{ wrong }}"]
//! doc_to_target = 0
//! metrics = ["acc_norm", "acc"]
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;

use minijinja::{Environment, ErrorKind, Value};
use regex::Regex;
use serde::Deserialize;
use spin_store::StoreError;
use spin_store::digest;

use crate::error::{BenchError, Result};
use crate::harness::Source;
use crate::harness::filter::{Extract, Normalise};
use crate::harness::{Answer, Doc, Examples, Generation, Metric, RawRow, Task, jinja, literal};

/// Counts as part of every task file: raise it when templates read or print
/// otherwise than before.
const TEMPLATES: &str = "templates 2";

/// The keys of a task file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Declaration {
    task: String,
    #[serde(default = "one")]
    version: String,
    dataset: PathBuf,
    #[serde(default = "test")]
    test_split: String,
    #[serde(default)]
    fewshot_split: Option<String>,
    #[serde(default)]
    num_fewshot: usize,
    #[serde(default)]
    sampler: Sampler,
    #[serde(default)]
    output_type: OutputType,
    #[serde(default)]
    description: String,
    doc_to_text: String,
    #[serde(default)]
    doc_to_choice: Option<Choices>,
    doc_to_target: Target,
    #[serde(default = "space")]
    target_delimiter: String,
    #[serde(default = "blank_line")]
    fewshot_delimiter: String,
    #[serde(default)]
    metrics: Vec<String>,
    #[serde(default)]
    until: Vec<String>,
    #[serde(default = "default_max_gen_toks")]
    max_gen_toks: usize,
    #[serde(default)]
    ignore_case: bool,
    #[serde(default)]
    filter: Vec<Filter>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Sampler {
    #[default]
    Default,
    FirstN,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OutputType {
    #[default]
    MultipleChoice,
    GenerateUntil,
}

/// A list of templates, or one expression that gives a list.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Choices {
    List(Vec<String>),
    Expression(String),
}

/// An index, or a template that gives one, or a choice's text.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Target {
    Index(usize),
    Template(String),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Filter {
    name: String,
    regex: String,
    #[serde(default)]
    select: Select,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Select {
    #[default]
    First,
    Last,
}

fn one() -> String {
    "1.0".into()
}

fn test() -> String {
    "test".into()
}

fn space() -> String {
    " ".into()
}

fn blank_line() -> String {
    "\n\n".into()
}

fn default_max_gen_toks() -> usize {
    256
}

/// The task files (`*.toml`) of a directory, by name.
///
/// # Errors
/// When the directory cannot be read, or one of them is wrong.
pub fn read_dir(dir: &Path) -> Result<Vec<Task>> {
    let entries = std::fs::read_dir(dir).map_err(StoreError::io("read", dir))?;
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(StoreError::io("read", dir))?.path();
        if path.extension().is_some_and(|e| e == "toml") {
            paths.push(path);
        }
    }
    paths.sort();
    paths.iter().map(|path| read(path)).collect()
}

/// Reads a task file.
///
/// # Errors
/// When a key is missing, unknown or of the wrong type, or a template or a
/// pattern is malformed; the message has the place.
pub fn read(path: &Path) -> Result<Task> {
    let text = std::fs::read_to_string(path).map_err(StoreError::io("read the task file", path))?;
    let bad = |problem: String| BenchError::TaskFile { path: path.into(), problem };
    let declared: Declaration = toml::from_str(&text).map_err(|e| bad(e.to_string().trim_end().to_owned()))?;
    if !spin_store::store::is_name(&declared.task) || declared.task.contains('/') {
        return Err(bad(format!("task = {:?} is not a name; use letters, digits, `-`, `_` and `.`", declared.task)));
    }
    let file = path.parent().unwrap_or(Path::new(".")).join(&declared.dataset);
    let (metrics, generation) = measured(&declared).map_err(bad)?;
    let templates = Templates::new(&declared).map_err(bad)?;
    let read = move |row: &RawRow| templates.doc(row);
    Ok(Task {
        version: declared.version.clone(),
        draws_spare: declared.fewshot_split.as_ref() == Some(&declared.test_split),
        fewshot_split: declared.fewshot_split.clone(),
        examples: match declared.sampler {
            Sampler::Default => Examples::Drawn,
            Sampler::FirstN => Examples::First,
        },
        num_fewshot: declared.num_fewshot,
        description: declared.description.clone(),
        target_delimiter: declared.target_delimiter.clone(),
        fewshot_delimiter: declared.fewshot_delimiter.clone(),
        metrics,
        generation,
        declaration: Some(digest::of_bytes(format!("{TEMPLATES}\n{text}").as_bytes())),
        ..Task::new(declared.task.clone(), Source::file(file), &declared.test_split, Arc::new(read))
    })
}

fn measured(declared: &Declaration) -> Result<(Vec<Metric>, Option<Generation>), String> {
    if declared.num_fewshot > 0 && declared.fewshot_split.is_none() {
        return Err("num_fewshot needs fewshot_split: the split that examples come from".into());
    }
    if declared.output_type == OutputType::GenerateUntil {
        if declared.metrics.iter().any(|metric| metric != "exact_match") {
            return Err("the metric of a generated answer is \"exact_match\"".into());
        }
        let mut filters = Vec::new();
        for filter in &declared.filter {
            let pattern = Regex::new(&filter.regex)
                .map_err(|e| format!("filter {:?}: {e} (look-around is not supported)", filter.name))?;
            filters.push((filter.name.clone(), Extract::Pattern { pattern, last: filter.select == Select::Last }));
        }
        if filters.is_empty() {
            filters.push(("none".to_owned(), Extract::Whole));
        }
        let normalise = if declared.ignore_case { Normalise::Case } else { Normalise::Nothing };
        let generation =
            Generation { until: declared.until.clone(), max_gen_toks: declared.max_gen_toks, filters, normalise };
        return Ok((vec![Metric::ExactMatch], Some(generation)));
    }
    if declared.doc_to_choice.is_none() {
        return Err("missing field `doc_to_choice`, which output_type = \"multiple_choice\" needs".into());
    }
    let metric = |name: &String| match name.as_str() {
        "acc" => Ok(Metric::Acc),
        "acc_norm" => Ok(Metric::AccNorm),
        "acc_bytes" => Ok(Metric::AccBytes),
        other => Err(format!("metrics has {other:?}; there are acc, acc_norm and acc_bytes")),
    };
    let metrics: Vec<Metric> = declared.metrics.iter().map(metric).collect::<Result<_, _>>()?;
    Ok((if metrics.is_empty() { vec![Metric::Acc] } else { metrics }, None))
}

/// The templates of a task file, compiled.
struct Templates {
    env: Environment<'static>,
    text: Text,
    choices: Choosing,
    target: Aim,
    is_choice: bool,
}

/// A text of a row: a column's, or what a template of this name makes.
enum Text {
    Column(String),
    Template(&'static str),
}

enum Choosing {
    /// So many templates, one for each choice.
    List(usize),
    /// A text that reads as a list.
    One(Text),
}

enum Aim {
    Index(usize),
    Text(Text),
}

/// Whether a source can only be meant as the name of a column.
fn is_name(source: &str) -> bool {
    !source.is_empty() && source.chars().all(|c| c.is_alphanumeric() || c == '_')
}

impl Templates {
    fn new(declared: &Declaration) -> Result<Self, String> {
        let mut env = jinja::environment();
        let mut add = |name: String, key: &str, source: &str| {
            env.add_template_owned(name, jinja::without_percent(source)).map_err(|e| format!("{key}: {e}"))
        };
        let mut text = |name: &'static str, key: &str, source: &str| {
            if is_name(source) {
                return Ok(Text::Column(source.to_owned()));
            }
            add(name.into(), key, source).map(|()| Text::Template(name))
        };
        let question = text("text", "doc_to_text", &declared.doc_to_text)?;
        let target = match &declared.doc_to_target {
            Target::Index(index) => Aim::Index(*index),
            Target::Template(source) => Aim::Text(text("target", "doc_to_target", source)?),
        };
        let choices = match &declared.doc_to_choice {
            Some(Choices::List(sources)) => {
                for (i, source) in sources.iter().enumerate() {
                    // A choice is a text more often than a column's name.
                    add(format!("choice {i}"), "doc_to_choice", source)?;
                }
                Choosing::List(sources.len())
            }
            Some(Choices::Expression(source)) => Choosing::One(text("choice", "doc_to_choice", source)?),
            None => Choosing::List(0),
        };
        let is_choice = declared.output_type == OutputType::MultipleChoice;
        Ok(Self { env, text: question, choices, target, is_choice })
    }

    fn render(&self, name: &str, key: &str, row: &Value) -> Result<String, String> {
        jinja::render(&self.env, name, row).map_err(|e| {
            // The engine says that something is undefined, not what.
            let names = self.env.get_template(name).map(|template| template.undeclared_variables(false));
            let mut absent: Vec<String> = names.unwrap_or_default().into_iter().collect();
            let is_global = |name: &str| self.env.globals().any(|(global, _)| global == name);
            absent.retain(|name| row.get_attr(name).is_ok_and(|value| value.is_undefined()) && !is_global(name));
            absent.sort();
            let absent = match e.kind() {
                ErrorKind::UndefinedError if !absent.is_empty() => format!(": there is no {}", absent.join(", ")),
                _ => String::new(),
            };
            format!("does not fit the template of {key}: {e:#}{absent}")
        })
    }

    /// The harness's `doc_to_text`.
    fn question(&self, row: &RawRow, values: &Value) -> Result<String, String> {
        let text = match &self.text {
            Text::Column(name) => return Ok(jinja::str_of(&jinja::value_of(column(row, name, "doc_to_text")?))),
            Text::Template(name) => self.render(name, "doc_to_text", values)?,
        };
        if self.is_choice && !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(format!(
                "gives the bare number {text} for doc_to_text, which the harness takes for the index of a choice; write words beside it"
            ));
        }
        Ok(text)
    }

    /// The harness's `doc_to_choice`.
    fn choices(&self, row: &RawRow, values: &Value) -> Result<Vec<String>, String> {
        let value = match &self.choices {
            Choosing::List(count) => {
                let choice = |i| self.render(&format!("choice {i}"), "doc_to_choice", values);
                return (0..*count).map(choice).collect();
            }
            Choosing::One(Text::Column(name)) => column(row, name, "doc_to_choice")?.clone(),
            Choosing::One(Text::Template(name)) => {
                let text = self.render(name, "doc_to_choice", values)?;
                literal::eval(&text).ok_or_else(|| format!("gives {text:?} for doc_to_choice, which is no list"))?
            }
        };
        let list = value.as_array().ok_or_else(|| format!("gives {value} for doc_to_choice, which is no list"))?;
        let text = |item: &serde_json::Value| {
            item.as_str().map(str::to_owned).ok_or_else(|| {
                format!("has {item} among its choices for doc_to_choice, which is no text; write it as one")
            })
        };
        let choices: Vec<String> = list.iter().map(text).collect::<Result<_, _>>()?;
        if choices.is_empty() {
            return Err("has no choices: doc_to_choice gives an empty list".into());
        }
        Ok(choices)
    }

    /// The harness's `doc_to_target` for a task with choices.
    fn gold(&self, row: &RawRow, values: &Value, choices: &[String]) -> Result<usize, String> {
        let none = |shown: &dyn std::fmt::Display| {
            format!("has the answer {shown} for doc_to_target, which is none of its {} choices", choices.len())
        };
        let index = |index: Option<usize>, shown: &dyn std::fmt::Display| {
            index.filter(|index| *index < choices.len()).ok_or_else(|| none(shown))
        };
        let find = |text: &str| index(choices.iter().position(|choice| choice == text), &format!("{text:?}"));
        match &self.target {
            Aim::Index(given) => index(Some(*given), given),
            Aim::Text(Text::Column(name)) => match column(row, name, "doc_to_target")? {
                serde_json::Value::String(text) => find(text),
                serde_json::Value::Bool(yes) => index(Some(usize::from(*yes)), yes),
                serde_json::Value::Number(number) if number.is_u64() => {
                    index(number.as_u64().and_then(|n| usize::try_from(n).ok()), number)
                }
                serde_json::Value::Array(list) => Err(several(list)),
                other => Err(none(other)),
            },
            Aim::Text(Text::Template(name)) => {
                let text = self.render(name, "doc_to_target", values)?;
                // Digits are an index, as in the harness; anything else is a
                // choice's text.
                if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
                    return index(text.parse().ok(), &text);
                }
                refuse_several(&text)?;
                find(&text)
            }
        }
    }

    /// The harness's `doc_to_target` for an answer to be generated.
    fn answer(&self, row: &RawRow, values: &Value) -> Result<String, String> {
        match &self.target {
            Aim::Index(number) => Ok(number.to_string()),
            Aim::Text(Text::Column(name)) => match column(row, name, "doc_to_target")? {
                serde_json::Value::Array(list) => Err(several(list)),
                serde_json::Value::Null => Err(format!("has nothing in {name:?}, which is its doc_to_target")),
                value => Ok(jinja::str_of(&jinja::value_of(value))),
            },
            Aim::Text(Text::Template(name)) => {
                let text = self.render(name, "doc_to_target", values)?;
                refuse_several(&text)?;
                Ok(text)
            }
        }
    }

    fn doc(&self, row: &RawRow) -> Result<Doc, String> {
        let values = jinja::mapping(row);
        let question = self.question(row, &values)?;
        if !self.is_choice {
            return Ok(Doc { question, answer: Answer::Text(self.answer(row, &values)?) });
        }
        let choices = self.choices(row, &values)?;
        let gold = self.gold(row, &values, &choices)?;
        Ok(Doc { question, answer: Answer::Choices { choices, gold } })
    }
}

fn column<'a>(row: &'a RawRow, name: &str, key: &str) -> Result<&'a serde_json::Value, String> {
    row.get(name).ok_or_else(|| {
        let names: Vec<&str> = row.keys().map(String::as_str).collect();
        // The harness would take the word itself, the same for every row.
        format!(
            "has no column {name:?}, which is its {key}; it has {} (a text is {{{{ {name:?} }}}})",
            names.join(", ")
        )
    })
}

/// The harness takes a text that reads as a list for several right answers.
fn refuse_several(text: &str) -> Result<(), String> {
    if text.len() < 2 || !text.starts_with('[') || !text.ends_with(']') {
        return Ok(());
    }
    match literal::eval(text) {
        Some(serde_json::Value::Array(list)) => Err(several(&list)),
        _ => Ok(()),
    }
}

fn several(list: &[serde_json::Value]) -> String {
    let list = serde_json::Value::Array(list.to_vec());
    format!("has the list {list} for doc_to_target; there can be one right answer only")
}

#[cfg(test)]
#[path = "custom_tests.rs"]
mod tests;
