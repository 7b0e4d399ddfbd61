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

use minijinja::{Environment, UndefinedBehavior, Value};
use regex::Regex;
use serde::Deserialize;
use spin_store::StoreError;
use spin_store::digest;

use crate::error::{BenchError, Result};
use crate::harness::dataset::Source;
use crate::harness::filter::{Extract, Normalise};
use crate::harness::{Answer, Doc, Examples, Generation, Metric, RawRow, Task};

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
        declaration: Some(digest::of_bytes(text.as_bytes())),
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
    choices: ChoiceTemplates,
    target: Option<usize>,
    is_choice: bool,
}

enum ChoiceTemplates {
    List(usize),
    Expression(String),
}

impl Templates {
    fn new(declared: &Declaration) -> Result<Self, String> {
        let mut env = Environment::new();
        env.set_undefined_behavior(UndefinedBehavior::Strict);
        env.set_keep_trailing_newline(true);
        env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        let mut add = |name: String, key: &str, source: &str| {
            // The name of a column stands for its value, as in the harness.
            let is_column = !source.is_empty() && source.chars().all(|c| c.is_alphanumeric() || c == '_');
            let source = if is_column { format!("{{{{ {source} }}}}") } else { source.to_owned() };
            env.add_template_owned(name, source).map_err(|e| format!("{key}: {e}"))
        };
        add("text".into(), "doc_to_text", &declared.doc_to_text)?;
        let target = match &declared.doc_to_target {
            Target::Index(index) => Some(*index),
            Target::Template(source) => {
                add("target".into(), "doc_to_target", source)?;
                None
            }
        };
        let choices = match &declared.doc_to_choice {
            Some(Choices::List(sources)) => {
                for (i, source) in sources.iter().enumerate() {
                    // A choice is a text more often than a column's name.
                    env.add_template_owned(format!("choice {i}"), source.clone())
                        .map_err(|e| format!("doc_to_choice: {e}"))?;
                }
                ChoiceTemplates::List(sources.len())
            }
            Some(Choices::Expression(source)) => {
                let inner = source.trim();
                let inner = inner.strip_prefix("{{").and_then(|s| s.strip_suffix("}}")).unwrap_or(inner).trim();
                env.compile_expression(inner).map_err(|e| format!("doc_to_choice: {e}"))?;
                ChoiceTemplates::Expression(inner.to_owned())
            }
            None => ChoiceTemplates::List(0),
        };
        Ok(Self { env, choices, target, is_choice: declared.output_type == OutputType::MultipleChoice })
    }

    fn render(&self, name: &str, row: &Value) -> Result<String, String> {
        let explain = |e: minijinja::Error| format!("does not fit the template of doc_to_{name}: {e:#}");
        self.env.get_template(name).and_then(|template| template.render(row)).map_err(explain)
    }

    fn doc(&self, row: &RawRow) -> Result<Doc, String> {
        let row = Value::from_serialize(row);
        let question = self.render("text", &row)?;
        if !self.is_choice {
            let target = match self.target {
                Some(number) => number.to_string(),
                None => self.render("target", &row)?,
            };
            return Ok(Doc { question, answer: Answer::Text(target) });
        }
        let choices: Vec<String> = match &self.choices {
            ChoiceTemplates::List(count) => {
                (0..*count).map(|i| self.render(&format!("choice {i}"), &row)).collect::<Result<_, _>>()?
            }
            ChoiceTemplates::Expression(source) => {
                let explain = |e: minijinja::Error| format!("does not fit doc_to_choice: {e:#}");
                let list = self.env.compile_expression(source).and_then(|e| e.eval(&row)).map_err(explain)?;
                let items = list.try_iter().map_err(|_| format!("has no list in {source:?} for doc_to_choice"))?;
                items.map(|item| item.to_string()).collect()
            }
        };
        let index = match self.target {
            Some(index) => Some(index),
            None => {
                let target = self.render("target", &row)?;
                // Digits are an index, as in the harness; anything else is a
                // choice's text.
                let index = match target.parse::<usize>() {
                    Ok(number) => Some(number),
                    Err(_) => choices.iter().position(|choice| *choice == target),
                };
                index
                    .filter(|index| *index < choices.len())
                    .ok_or_else(|| {
                        format!("has the answer {target:?}, which is none of its {} choices", choices.len())
                    })?
                    .into()
            }
        };
        let gold = super::gold(index, choices.len(), &format!("{index:?}"))?;
        Ok(Doc { question, answer: Answer::Choices { choices, gold } })
    }
}

#[cfg(test)]
mod tests {
    use super::super::row;
    use super::*;

    const CAPITALS: &str = r#"
task = "capitals"
dataset = "capitals.jsonl"
doc_to_text = "Capital of {{ country.strip() }}?"
doc_to_choice = "{{ cities }}"
doc_to_target = "{{ answer }}"
metrics = ["acc_norm", "acc"]
"#;

    fn parse(text: &str) -> Result<Task> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.toml");
        std::fs::write(&path, text).unwrap();
        read(&path)
    }

    #[test]
    fn a_file_makes_a_task() {
        let task = parse(CAPITALS).unwrap();
        assert_eq!((task.name.as_str(), task.metric_names().len()), ("capitals", 2));
        for answer in ["1", "\"Rome\""] {
            let json = format!(r#"{{"country": " Italy", "cities": ["Bari", "Rome"], "answer": {answer}}}"#);
            assert_eq!((task.read)(&row(&json)).unwrap().shown(), ("Capital of Italy?", "Rome"));
        }
        let list =
            CAPITALS.replace("\"{{ cities }}\"", "[\"{{ cities[0] }}\", \"no\"]").replace("\"{{ answer }}\"", "0");
        let json = r#"{"country": "Italy", "cities": ["Bari"]}"#;
        assert_eq!((parse(&list).unwrap().read)(&row(json)).unwrap().shown().1, "Bari");
    }

    #[test]
    fn generated_answers_have_filters() {
        let text = r#"
task = "sums"
dataset = "sums.jsonl"
output_type = "generate_until"
doc_to_text = "question"
doc_to_target = "answer"
until = ["\n"]
ignore_case = true
[[filter]]
name = "last-number"
regex = "-?[0-9]+"
select = "last"
"#;
        let task = parse(text).unwrap();
        assert_eq!(task.metric_names(), ["exact_match,last-number"]);
        let doc = (task.read)(&row(r#"{"question": "1+1=", "answer": 2}"#)).unwrap();
        assert_eq!(doc, Doc { question: "1+1=".into(), answer: Answer::Text("2".into()) });
        let error = parse(&text.replace("-?[0-9]+", "(?<=a)b")).unwrap_err().to_string();
        assert!(error.contains("last-number") && error.contains("look-around"), "{error}");
    }

    #[test]
    fn mistakes_are_named() {
        let error = |text: &str| parse(text).unwrap_err().to_string();
        let text = error(&CAPITALS.replace("doc_to_text", "doc_to_txt"));
        assert!(text.contains("t.toml") && text.contains("doc_to_txt"), "{text}");
        assert!(error("task = \"x\"\n").contains("missing field"));
        assert!(error(&CAPITALS.replace("{{ cities }}", "{{ cities")).contains("doc_to_choice"));
        assert!(error(&CAPITALS.replace("acc_norm", "f1")).contains("acc_bytes"));
        assert!(error(&format!("{CAPITALS}num_fewshot = 2\n")).contains("fewshot_split"));
        let task = parse(CAPITALS).unwrap();
        let text = (task.read)(&row(r#"{"country": "Italy", "cities": ["Bari"], "answer": "Rome"}"#)).unwrap_err();
        assert!(text.contains("none of its 1 choices"), "{text}");
        let text = (task.read)(&row(r#"{"cities": ["Bari"], "answer": 0}"#)).unwrap_err();
        assert!(text.contains("doc_to_text"), "{text}");
    }
}
