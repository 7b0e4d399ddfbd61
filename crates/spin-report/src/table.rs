//! The models of a run side by side, from their stored scores.

mod answers;
mod temperatures;

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value, json};
use spin_run::graph::{Decoding, Graph, ModelId};
use spin_run::run::{CER, EXACT_MATCH, GSM8K, MARGIN, NLL, PREFERENCE, WER};
use spin_run::schema::{Row, ScoreRow};
use spin_store::StoreError;

use crate::error::Result;
use crate::grid;
use crate::names::{LOGP_MARGIN, NLL_PER_TOKEN, PREFERS_REAL, STRICT, WHOLE, error_rate_metric, exact_match_metric};
use crate::stats::{self, Estimate, Weighted};
use crate::verdict::{Judged, PairedRow, Tested, Verdict, difference, judge};

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
pub(crate) struct Column {
    /// What people read.
    pub title: &'static str,
    /// Its task.
    pub task: &'static str,
    /// Its metric.
    pub metric: String,
}

pub(crate) fn columns() -> [Column; 11] {
    let column = |title, task, metric| Column { title, task, metric };
    [
        column("accuracy, sampled", GSM8K, exact_match_metric(STRICT, Decoding::Sampled)),
        column("accuracy, greedy", GSM8K, exact_match_metric(STRICT, Decoding::Greedy)),
        column("exact match, sampled", EXACT_MATCH, exact_match_metric(WHOLE, Decoding::Sampled)),
        column("exact match, greedy", EXACT_MATCH, exact_match_metric(WHOLE, Decoding::Greedy)),
        column("WER, sampled", WER, error_rate_metric(WER, Decoding::Sampled)),
        column("WER, greedy", WER, error_rate_metric(WER, Decoding::Greedy)),
        column("CER, sampled", CER, error_rate_metric(CER, Decoding::Sampled)),
        column("CER, greedy", CER, error_rate_metric(CER, Decoding::Greedy)),
        column("NLL per token", NLL, NLL_PER_TOKEN.into()),
        column("prefers real", PREFERENCE, PREFERS_REAL.into()),
        column("margin", MARGIN, LOGP_MARGIN.into()),
    ]
}

/// One model's line.
struct Line {
    model: ModelId,
    /// The artifact of its scores, and that one's digest of content.
    scores: String,
    content: String,
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
                Ok(artifact) => lines.push(Line {
                    model,
                    scores: artifact.reference(),
                    rows: ScoreRow::read_all(&artifact)?,
                    content: artifact.manifest.content,
                }),
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

    /// The rows that the first line and another both have, in the order of the latter.
    fn pairs(&self, line: &Line, column: &Column) -> Vec<PairedRow> {
        let first: HashMap<&str, Weighted> =
            self.lines.first().map(|first| Self::parts(first, column).collect()).unwrap_or_default();
        Self::parts(line, column).filter_map(|(id, part)| Some((*first.get(id)?, part))).collect()
    }

    /// What is said of each line but the first, which is what they are compared with. The differences
    /// are judged together, as they stand in one column.
    fn verdicts(&self, column: &Column) -> Vec<Option<Judged>> {
        let others = self.lines.iter().skip(1);
        let tested: Vec<Option<Tested>> =
            others.map(|line| Tested::of(&column.metric, &self.pairs(line, column))).collect();
        let mut judged = judge(&tested.iter().flatten().copied().collect::<Vec<_>>()).into_iter();
        tested.into_iter().map(|tested| tested.and_then(|_| judged.next())).collect()
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
        let verdicts = columns.first().map(|column| self.verdicts(column)).unwrap_or_default();
        for (i, line) in self.lines.iter().enumerate() {
            let mut row = vec![line.model.to_string()];
            row.extend(
                columns.iter().map(|c| Self::estimate(line, c).map_or_else(|| "-".into(), |e| shown(&e, false))),
            );
            if !columns.is_empty() {
                let judged = i.checked_sub(1).and_then(|i| verdicts[i]);
                row.push(judged.map_or_else(String::new, |judged| {
                    let difference = shown(&judged.tested.difference, true);
                    match judged.verdict {
                        Verdict::WithinNoise => format!("{difference} ({})", judged.verdict),
                        told => format!("{difference} {told}"),
                    }
                }));
            }
            cells.push(row);
        }
        let mut out = grid::aligned(&cells, if markdown { " | " } else { "   " }, markdown);
        let rows = self.lines.first().zip(columns.first()).map_or(0, |(l, c)| Self::parts(l, c).count());
        let cooled = temperatures::cells(&self.lines);
        if !cooled.is_empty() {
            out.push('\n');
            out.push_str(&grid::aligned(&cooled, if markdown { " | " } else { "   " }, markdown));
        }
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
                    if let Some(d) = difference(&self.pairs(line, column)) {
                        let key = format!("{}/{}", column.task, column.metric);
                        differences.insert(key, json!({"value": d.value, "stderr": d.stderr, "rows": d.rows}));
                    }
                }
                json!({
                    "model": line.model.to_string(),
                    "scores": line.scores,
                    "content": line.content,
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
    e.reach95().map_or(value.clone(), |reach| format!("{value} ±{reach:.4}"))
}

/// One line for people after a model is scored.
pub fn headline(results: &Value) -> String {
    let parts: Vec<String> = columns()
        .iter()
        .filter_map(|c| Some(format!("{} {:.4}", c.title, results[c.task][&c.metric]["value"].as_f64()?)))
        .collect();
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A model that has the first `hits` of ten rows right.
    fn line(t: usize, hits: usize) -> Line {
        let row = |i: usize| ScoreRow {
            task: GSM8K.into(),
            metric: exact_match_metric(STRICT, Decoding::Sampled),
            row_id: i.to_string(),
            value: f64::from(u8::from(i < hits)),
            weight: 1.0,
            prediction: None,
            target: None,
        };
        let rows = (0..10).map(row).collect();
        Line { model: ModelId::Iteration(t), scores: String::new(), content: String::new(), rows }
    }

    /// The same numbers as in `compare`'s test of verdicts, and the same words.
    #[test]
    fn verdicts_are_those_of_compare() {
        let lines = [0, 5, 6, 7].into_iter().enumerate().map(|(t, hits)| line(t, hits)).collect();
        let mut table = Table { run: "r".into(), seed: 1, lines, missing: Vec::new() };
        let text = table.render(Format::Text);
        let words = |text: &str| -> Vec<String> {
            let cells = text.lines().skip(3).take_while(|line| !line.is_empty());
            cells.map(|line| line.split("   ").last().unwrap().to_owned()).collect()
        };
        let noise = ["+0.5000 ±0.3267 (within noise)", "+0.6000 ±0.3201 (within noise)"];
        assert_eq!(words(&text), [noise[0], noise[1], "+0.7000 ±0.2994 better"]);
        // An interval that leaves out 0 is no difference where three are looked at, and is one alone.
        table.lines.remove(3);
        table.lines.remove(1);
        assert_eq!(words(&table.render(Format::Text)), ["+0.6000 ±0.3201 better"]);
        // Who has no rows in common with the first is not judged, and takes nobody's place.
        let strangers = line(9, 3).rows.into_iter().map(|row| ScoreRow { row_id: row.row_id + "x", ..row }).collect();
        table.lines.insert(1, Line { rows: strangers, ..line(9, 3) });
        let text = table.render(Format::Markdown);
        assert!(text.contains("| iter-9 | 0.3000 ±0.2994    |"), "{text}");
        assert!(text.contains("| iter-2 | 0.6000 ±0.3201    | +0.6000 ±0.3201 better           |"), "{text}");
    }
}
