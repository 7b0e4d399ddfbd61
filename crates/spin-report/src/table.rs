//! The models of a run side by side, from their stored scores.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value, json};
use spin_run::graph::{Decoding, Graph, ModelId};
use spin_run::run::{EXACT_MATCH, GSM8K, NLL, PREFERENCE};
use spin_run::schema::{Row, ScoreRow};
use spin_store::{Artifact, StoreError};

use crate::error::Result;
use crate::grid;
use crate::names::{NLL_PER_TOKEN, PREFERS_REAL, STRICT, WHOLE, exact_match_metric};
use crate::stats::{self, Estimate, Weighted};

/// Estimates by `task` and `metric`.
pub fn summarise(rows: &[ScoreRow]) -> Value {
    let mut tasks: BTreeMap<&str, BTreeMap<&str, Vec<Weighted>>> = BTreeMap::new();
    for row in rows {
        let part = Weighted { sum: row.value, weight: row.weight };
        tasks.entry(&row.task).or_default().entry(&row.metric).or_default().push(part);
    }
    let mut out = Map::new();
    for (task, metrics) in tasks {
        let mut entry = Map::new();
        for (metric, parts) in metrics {
            if let Some(e) = stats::ratio(&parts) {
                entry.insert(metric.into(), json!({"value": e.value, "stderr": e.stderr, "rows": e.rows}));
            }
        }
        out.insert(task.into(), Value::Object(entry));
    }
    Value::Object(out)
}

/// A column of the table.
struct Column {
    title: &'static str,
    task: &'static str,
    metric: String,
    higher_is_better: bool,
}

fn columns() -> [Column; 6] {
    let column = |title, task, metric, higher_is_better| Column { title, task, metric, higher_is_better };
    [
        column("accuracy, sampled", GSM8K, exact_match_metric(STRICT, Decoding::Sampled), true),
        column("accuracy, greedy", GSM8K, exact_match_metric(STRICT, Decoding::Greedy), true),
        column("exact match, sampled", EXACT_MATCH, exact_match_metric(WHOLE, Decoding::Sampled), true),
        column("exact match, greedy", EXACT_MATCH, exact_match_metric(WHOLE, Decoding::Greedy), true),
        column("NLL per token", NLL, NLL_PER_TOKEN.into(), false),
        column("prefers real", PREFERENCE, PREFERS_REAL.into(), true),
    ]
}

/// One model's line.
struct Line {
    model: ModelId,
    artifact: Artifact,
    rows: Vec<ScoreRow>,
}

/// The table of a run.
pub struct Table {
    run: String,
    seed: u64,
    lines: Vec<Line>,
    missing: Vec<ModelId>,
}

/// Output format of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Aligned columns.
    Text,
    /// For programs.
    Json,
    /// For a README.
    Markdown,
}

impl Table {
    /// Reads the stored scores of all models of the run.
    ///
    /// # Errors
    /// When no model is scored yet, or scores are damaged.
    pub fn read(graph: &Graph<'_>) -> Result<Table> {
        let (mut lines, mut missing, mut why) = (Vec::new(), Vec::new(), None);
        for model in graph.models() {
            match graph.scores(&model) {
                Ok(artifact) => lines.push(Line { rows: ScoreRow::read_all(&artifact)?, model, artifact }),
                Err(e @ StoreError::Missing { .. }) => {
                    why.get_or_insert(e);
                    missing.push(model);
                }
                Err(e) => return Err(e.into()),
            }
        }
        match why {
            Some(e) if lines.is_empty() => Err(e.into()),
            _ => Ok(Table { run: graph.run.run.clone(), seed: graph.run.seed, lines, missing }),
        }
    }

    /// The table as text.
    pub fn render(&self, format: Format) -> String {
        match format {
            Format::Json => self.json(),
            Format::Text => self.grid(false),
            Format::Markdown => self.grid(true),
        }
    }

    fn estimate(line: &Line, column: &Column) -> Option<Estimate> {
        let parts: Vec<Weighted> = Self::parts(line, column).map(|(_, part)| part).collect();
        stats::ratio(&parts)
    }

    fn parts<'a>(line: &'a Line, column: &'a Column) -> impl Iterator<Item = (&'a str, Weighted)> {
        line.rows
            .iter()
            .filter(|r| r.task == column.task && r.metric == column.metric)
            .map(|r| (r.row_id.as_str(), Weighted { sum: r.value, weight: r.weight }))
    }

    /// Difference to the first line on the rows both have.
    fn difference(&self, line: &Line, column: &Column) -> Option<Estimate> {
        let first: HashMap<&str, Weighted> = Self::parts(self.lines.first()?, column).collect();
        let rows: Vec<(Weighted, Weighted)> =
            Self::parts(line, column).filter_map(|(id, part)| Some((part, *first.get(id)?))).collect();
        stats::paired_ratio_difference(&rows)
    }

    fn grid(&self, markdown: bool) -> String {
        let columns: Vec<Column> =
            columns().into_iter().filter(|c| self.lines.iter().any(|l| Self::parts(l, c).next().is_some())).collect();
        let mut cells: Vec<Vec<String>> = Vec::new();
        let mut head = vec!["model".to_owned()];
        head.extend(columns.iter().map(|c| c.title.to_owned()));
        if let Some(first) = columns.first() {
            head.push(format!("{} against {}", first.title, self.lines[0].model));
        }
        cells.push(head);
        for (i, line) in self.lines.iter().enumerate() {
            let mut row = vec![line.model.to_string()];
            row.extend(
                columns.iter().map(|c| Self::estimate(line, c).map_or_else(|| "-".into(), |e| shown(&e, false))),
            );
            if let Some(c) = columns.first() {
                let difference = (i > 0).then(|| self.difference(line, c)).flatten();
                row.push(difference.map_or_else(String::new, |d| {
                    let gain = if c.higher_is_better { d.value } else { -d.value };
                    let verdict = match d.interval95() {
                        Some((low, high)) if low > 0.0 || high < 0.0 => {
                            if gain > 0.0 {
                                " better"
                            } else {
                                " worse"
                            }
                        }
                        _ => " (within noise)",
                    };
                    shown(&d, true) + verdict
                }));
            }
            cells.push(row);
        }
        let mut out = grid::aligned(&cells, if markdown { " | " } else { "   " }, markdown);
        let rows = self.lines.first().zip(columns.first()).map_or(0, |(l, c)| Self::parts(l, c).count());
        out.push_str(&format!("\n± is a 95% confidence interval over {rows} held-out rows; seed {}.\n", self.seed));
        if !self.missing.is_empty() {
            let names: Vec<String> = self.missing.iter().map(ToString::to_string).collect();
            out.push_str(&format!("Not scored yet: {}.\n", names.join(", ")));
        }
        out
    }

    fn json(&self) -> String {
        let models: Vec<Value> = self
            .lines
            .iter()
            .enumerate()
            .map(|(i, line)| {
                let mut differences = Map::new();
                for column in columns().iter().filter(|_| i > 0) {
                    if let Some(d) = self.difference(line, column) {
                        let key = format!("{}/{}", column.task, column.metric);
                        differences.insert(key, json!({"value": d.value, "stderr": d.stderr, "rows": d.rows}));
                    }
                }
                json!({
                    "model": line.model.to_string(),
                    "scores": line.artifact.reference(),
                    "content": line.artifact.manifest.content,
                    "results": summarise(&line.rows),
                    "difference_to_first": differences,
                })
            })
            .collect();
        let missing: Vec<String> = self.missing.iter().map(ToString::to_string).collect();
        let value = json!({"run": self.run, "seed": self.seed, "models": models, "missing": missing});
        serde_json::to_string_pretty(&value).expect("plain numbers") + "\n"
    }
}

/// `0.4321 ±0.0123`, or with a sign.
fn shown(e: &Estimate, signed: bool) -> String {
    let value = if signed { format!("{:+.4}", e.value) } else { format!("{:.4}", e.value) };
    e.stderr.map_or(value.clone(), |s| format!("{value} ±{:.4}", 1.96 * s))
}

/// One line for people after a model is scored.
pub fn headline(results: &Value) -> String {
    let parts: Vec<String> = columns()
        .iter()
        .filter_map(|c| Some(format!("{} {:.4}", c.title, results[c.task][&c.metric]["value"].as_f64()?)))
        .collect();
    parts.join(", ")
}
