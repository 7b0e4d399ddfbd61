//! Leaderboard tasks: sums over documents, in the layout of lm-evaluation-harness's
//! `results_*.json` and as a table.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use spin_run::facts::{EvaluationFacts, Facts as _};
use spin_run::run::{BBH, LEADERBOARD, MMLU, Profile};
use spin_run::schema::{EvaluationRow, Row};
use spin_store::Artifact;

use crate::error::Result;
use crate::grid;
use crate::names::{LEADERBOARD_UNITS, MMLU_SUBJECTS};
use crate::stats::{self, Estimate};

/// The sums of one task.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskSummary {
    /// The task.
    pub name: String,
    /// What its artifact says of it: `version`, `num_fewshot`, `documents` of
    /// the whole split.
    pub declared: Value,
    /// Metrics with their filters, the headline first.
    pub metrics: Vec<(String, Estimate)>,
    /// Documents scored.
    pub documents: usize,
    /// Requests whose prompt was cut because the model's context is shorter.
    pub truncated: usize,
    /// Requests at whose boundary the tokenizer joined prompt and answer.
    pub merged: usize,
    /// Documents whose system message the chat template refused.
    pub dropped_system: usize,
}

/// Sums up the documents of a task; all have the same metrics.
pub fn summarise(name: &str, declared: Value, rows: &[&EvaluationRow]) -> TaskSummary {
    let names = rows.first().map(|row| row.metrics.as_slice()).unwrap_or_default();
    let metrics = names
        .iter()
        .enumerate()
        .filter_map(|(i, name)| {
            let values: Vec<f64> = rows.iter().map(|row| row.values[i]).collect();
            Some((name.clone(), stats::mean(&values)?))
        })
        .collect();
    TaskSummary {
        name: name.into(),
        declared,
        metrics,
        documents: rows.len(),
        truncated: rows.iter().flat_map(|row| &row.truncated_tokens).filter(|cut| **cut > 0).count(),
        merged: rows.iter().map(|row| row.merged_boundaries as usize).sum(),
        dropped_system: rows.iter().filter(|row| row.dropped_system).count(),
    }
}

/// What was evaluated of one model: units in the order asked for.
pub struct Results {
    /// The model's name, for people.
    pub model: String,
    /// Whose rules.
    pub profile: Profile,
    /// The run's settings, as recorded.
    pub settings: Value,
    units: Vec<(String, Vec<TaskSummary>, String)>,
}

impl Results {
    /// Reads evaluations, one artifact for each unit.
    ///
    /// # Errors
    /// When an artifact is damaged.
    pub fn read(model: &str, profile: Profile, settings: Value, artifacts: &[(String, Artifact)]) -> Result<Self> {
        let mut units = Vec::new();
        for (name, artifact) in artifacts {
            let rows = EvaluationRow::read_all(artifact)?;
            units.push((name.clone(), summaries(artifact, &rows)?, artifact.reference()));
        }
        Ok(Self { model: model.into(), profile, settings, units })
    }

    fn tasks(&self) -> impl Iterator<Item = &TaskSummary> {
        self.units.iter().flat_map(|(_, tasks, _)| tasks)
    }

    /// Groups of tasks with their sums, in order.
    fn groups(&self) -> Vec<(String, Vec<&TaskSummary>, Estimate, String)> {
        let mut groups = Vec::new();
        let mut add = |name: String, tasks: Vec<&TaskSummary>, metric: &str| {
            if let Some(estimate) = pooled(&tasks, metric, self.profile) {
                groups.push((name, self.owned(&tasks), estimate, metric.to_owned()));
            }
        };
        for (unit, tasks, _) in &self.units {
            let all: Vec<&TaskSummary> = tasks.iter().collect();
            match unit.as_str() {
                MMLU => {
                    add(MMLU.into(), all, "acc,none");
                    for (category, subjects) in MMLU_SUBJECTS {
                        let of = |task: &&TaskSummary| {
                            task.name.strip_prefix("mmlu_").is_some_and(|name| subjects.contains(&name))
                        };
                        add(format!("mmlu_{category}"), tasks.iter().filter(of).collect(), "acc,none");
                    }
                }
                BBH => add("bbh_cot_fewshot".into(), all, "exact_match,get-answer"),
                _ => {}
            }
        }
        groups
    }

    fn owned<'a>(&'a self, tasks: &[&TaskSummary]) -> Vec<&'a TaskSummary> {
        self.tasks().filter(|task| tasks.iter().any(|other| other.name == task.name)).collect()
    }

    /// The number that a unit contributes to an average.
    fn headline(&self, unit: &str) -> Option<Estimate> {
        let (_, tasks, _) = self.units.iter().find(|(name, ..)| name == unit)?;
        match unit {
            MMLU => pooled(&tasks.iter().collect::<Vec<_>>(), "acc,none", self.profile),
            _ => tasks.first()?.metrics.first().map(|(_, estimate)| *estimate),
        }
    }

    /// The leaderboard's average of its six tasks, if all are there.
    pub fn leaderboard_average(&self) -> Option<f64> {
        let values: Option<Vec<f64>> = LEADERBOARD_UNITS.iter().map(|unit| Some(self.headline(unit)?.value)).collect();
        values.map(|values| values.iter().sum::<f64>() / values.len() as f64)
    }

    /// The layout of `results_*.json`.
    pub fn to_json(&self) -> Value {
        let mut out = Map::new();
        let (mut results, mut versions, mut shots, mut samples, mut better) =
            (Map::new(), Map::new(), Map::new(), Map::new(), Map::new());
        for task in self.tasks() {
            let mut entry = Map::new();
            entry.insert("alias".into(), json!(task.name));
            let mut directions = Map::new();
            for (name, estimate) in &task.metrics {
                insert(&mut entry, name, estimate);
                directions.insert(name.split(',').next().unwrap_or(name).into(), json!(true));
            }
            results.insert(task.name.clone(), Value::Object(entry));
            versions.insert(task.name.clone(), task.declared["version"].clone());
            shots.insert(task.name.clone(), task.declared["num_fewshot"].clone());
            let sizes = json!({"original": task.declared["documents"], "effective": task.documents});
            samples.insert(task.name.clone(), sizes);
            better.insert(task.name.clone(), Value::Object(directions));
        }
        let (mut groups, mut subtasks) = (Map::new(), Map::new());
        for (name, tasks, estimate, metric) in self.groups() {
            let mut entry = Map::new();
            entry.insert("alias".into(), json!(name));
            insert(&mut entry, &metric, &estimate);
            groups.insert(name.clone(), Value::Object(entry));
            subtasks.insert(name, json!(tasks.iter().map(|task| &task.name).collect::<Vec<_>>()));
        }
        if let Some(average) = self.leaderboard_average() {
            groups.insert(LEADERBOARD.into(), json!({"alias": LEADERBOARD, "average,none": average}));
        }
        let counts = |count: fn(&TaskSummary) -> usize| -> Map<String, Value> {
            self.tasks().filter(|t| count(t) > 0).map(|t| (t.name.clone(), json!(count(t)))).collect()
        };
        out.insert("results".into(), Value::Object(results));
        out.insert("groups".into(), Value::Object(groups));
        out.insert("group_subtasks".into(), Value::Object(subtasks));
        out.insert("versions".into(), Value::Object(versions));
        out.insert("n-shot".into(), Value::Object(shots));
        out.insert("higher_is_better".into(), Value::Object(better));
        out.insert("n-samples".into(), Value::Object(samples));
        out.insert("config".into(), json!({"model": "spin-bench", "model_args": self.model, "eval": self.settings}));
        out.insert("profile".into(), json!(self.profile.name()));
        out.insert("truncated_requests".into(), Value::Object(counts(|task| task.truncated)));
        out.insert("merged_boundaries".into(), Value::Object(counts(|task| task.merged)));
        out.insert("dropped_system_messages".into(), Value::Object(counts(|task| task.dropped_system)));
        let artifacts: BTreeMap<&str, &str> =
            self.units.iter().map(|(name, _, reference)| (name.as_str(), reference.as_str())).collect();
        out.insert("evaluations".into(), json!(artifacts));
        Value::Object(out)
    }

    /// A table for people, as the harness prints it.
    pub fn table(&self) -> String {
        let head = ["Tasks", "Version", "n-shot", "Metric", "Value", "Stderr"].map(str::to_owned).to_vec();
        let mut lines = vec![head];
        let number = |estimate: &Estimate| {
            let stderr = estimate.stderr.map_or_else(|| "N/A".into(), |stderr| format!("{stderr:.4}"));
            (format!("{:.4}", estimate.value), stderr)
        };
        let groups = self.groups();
        for (name, tasks, estimate, metric) in &groups {
            let (value, stderr) = number(estimate);
            let shots = tasks.first().map_or_else(String::new, |task| task.declared["num_fewshot"].to_string());
            lines.push(vec![name.clone(), String::new(), shots, metric.clone(), value, stderr]);
        }
        for task in self.tasks() {
            let version = task.declared["version"].as_str().unwrap_or_default().to_owned();
            for (i, (metric, estimate)) in task.metrics.iter().enumerate() {
                let (value, stderr) = number(estimate);
                let (name, version, shots) = match i {
                    0 => (task.name.clone(), version.clone(), task.declared["num_fewshot"].to_string()),
                    _ => Default::default(),
                };
                lines.push(vec![name, version, shots, metric.clone(), value, stderr]);
            }
        }
        let mut out = grid::aligned(&lines, "  ", false);
        if let Some(average) = self.leaderboard_average() {
            out.push_str(&format!("\n{LEADERBOARD}: average {:.2}\n", 100.0 * average));
        }
        let truncated: usize = self.tasks().map(|task| task.truncated).sum();
        if truncated > 0 {
            out.push_str(&format!(
                "\n{truncated} prompts were longer than the model's context and lost their beginning.\n"
            ));
        }
        let dropped: usize = self.tasks().map(|task| task.dropped_system).sum();
        if dropped > 0 {
            out.push_str(&format!(
                "The chat template refused the system message of {dropped} prompts; it was left out.\n"
            ));
        }
        let merged: usize = self.tasks().map(|task| task.merged).sum();
        if merged > 0 {
            out.push_str(&format!("{merged} answers were joined with the end of their prompt by the tokenizer.\n"));
        }
        out
    }
}

/// The sums of an artifact's tasks, in its order.
///
/// # Errors
/// When its facts are not those of an evaluation.
pub fn summaries(artifact: &Artifact, rows: &[EvaluationRow]) -> Result<Vec<TaskSummary>> {
    let documents = EvaluationFacts::of(artifact)?.documents;
    let declared = artifact.manifest.params["tasks"].as_array().cloned().unwrap_or_default();
    let of = |declared: Value| {
        let name = declared["name"].as_str().unwrap_or_default().to_owned();
        let own: Vec<&EvaluationRow> = rows.iter().filter(|row| row.task == name).collect();
        let mut all = declared;
        all["documents"] = json!(documents.get(&name));
        summarise(&name, all, &own)
    };
    Ok(declared.into_iter().map(of).collect())
}

fn insert(entry: &mut Map<String, Value>, name: &str, estimate: &Estimate) {
    let (metric, filter) = name.split_once(',').unwrap_or((name, "none"));
    entry.insert(name.into(), json!(estimate.value));
    entry.insert(format!("{metric}_stderr,{filter}"), estimate.stderr.map_or_else(|| json!("N/A"), |e| json!(e)));
}

/// A group's metric: weighted by size, or on the first leaderboard the plain
/// mean of its tasks.
fn pooled(tasks: &[&TaskSummary], metric: &str, profile: Profile) -> Option<Estimate> {
    let estimates: Option<Vec<Estimate>> = tasks
        .iter()
        .map(|task| task.metrics.iter().find(|(name, _)| name == metric).map(|(_, estimate)| *estimate))
        .collect();
    let estimates = estimates.filter(|estimates| !estimates.is_empty())?;
    let count = estimates.len() as f64;
    let rows: usize = estimates.iter().map(|estimate| estimate.rows).sum();
    let stderrs: Option<Vec<f64>> = estimates.iter().map(|estimate| estimate.stderr).collect();
    if profile == Profile::LeaderboardV1 {
        let value = estimates.iter().map(|estimate| estimate.value).sum::<f64>() / count;
        let stderr = stderrs.map(|all| all.iter().map(|e| e * e).sum::<f64>().sqrt() / count);
        return Some(Estimate { rows, value, stderr });
    }
    let total = rows as f64;
    let value = estimates.iter().map(|e| e.value * e.rows as f64).sum::<f64>() / total;
    // The harness's pooled_sample_stderr.
    let stderr = stderrs.map(|all| {
        let sum: f64 = all.iter().zip(&estimates).map(|(e, of)| (of.rows as f64 - 1.0) * e * e * of.rows as f64).sum();
        (sum / (total - count) / total).sqrt()
    });
    Some(Estimate { rows, value, stderr })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(name: &str, hits: &[f64]) -> TaskSummary {
        let rows: Vec<EvaluationRow> = hits
            .iter()
            .map(|hit| EvaluationRow { metrics: vec!["acc,none".into()], values: vec![*hit], ..Default::default() })
            .collect();
        summarise(name, json!({"version": "1.0", "num_fewshot": 5}), &rows.iter().collect::<Vec<_>>())
    }

    // Python: lm_eval.api.metrics.pooled_sample_stderr and unweighted_mean_stderr.
    #[test]
    fn groups_are_pooled_as_in_the_harness() {
        let (a, b) = (task("mmlu_anatomy", &[1.0, 0.0, 1.0, 1.0]), task("mmlu_virology", &[0.0, 1.0, 0.0]));
        let micro = pooled(&[&a, &b], "acc,none", Profile::Current).unwrap();
        assert!((micro.value - 4.0 / 7.0).abs() < 1e-15);
        let pooled_variance = (3.0 * 0.25 * 0.25 * 4.0 + 2.0 * (1.0 / 9.0) * 3.0) / (7.0 - 2.0);
        assert!((micro.stderr.unwrap() - f64::sqrt(pooled_variance / 7.0)).abs() < 1e-12);
        let macro_ = pooled(&[&a, &b], "acc,none", Profile::LeaderboardV1).unwrap();
        assert!((macro_.value - (0.75 + 1.0 / 3.0) / 2.0).abs() < 1e-15);
    }

    #[test]
    fn json_has_the_harness_layout() {
        let units = vec![("arc_challenge".into(), vec![task("arc_challenge", &[1.0, 0.0])], "evaluations/x@v1".into())];
        let results = Results { model: "m".into(), profile: Profile::Current, settings: json!({}), units };
        let json = results.to_json();
        assert_eq!(json["results"]["arc_challenge"]["acc,none"], 0.5);
        assert_eq!(json["results"]["arc_challenge"]["acc_stderr,none"], 0.5);
        assert_eq!(json["n-shot"]["arc_challenge"], 5);
        assert!(results.leaderboard_average().is_none());
        assert!(
            results.table().contains("arc_challenge  1.0      5       acc,none  0.5000  0.5000"),
            "{}",
            results.table()
        );
    }
}
