//! Leaderboard tasks of a run's models, as far as the store has them.

use std::collections::BTreeMap;

use serde_json::Value;
use spin_run::graph::{Graph, ModelId};
use spin_run::schema::{EvaluationRow, Row};
use spin_store::{Artifact, Kind};

use super::lineage::Link;
use crate::error::Result;
use crate::evaluations::summaries;
use crate::stats::{self, Estimate, Weighted};
use crate::verdict::{Judged, PairedRow, Tested, judge};

/// One model on one unit: a task, or a group of tasks.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The model.
    pub label: String,
    /// The unit.
    pub unit: String,
    /// Its first metric, with the filter.
    pub metric: String,
    /// Over all documents.
    pub estimate: Estimate,
    /// Beside the first model that has the unit, judged with all other entries.
    pub judged: Option<Judged>,
    /// The artifact.
    pub link: Link,
}

/// All of a run.
#[derive(Clone, Debug, Default)]
pub struct Leaderboard {
    /// Entries, models in the run's order.
    pub entries: Vec<Entry>,
    /// What could not be compared, and why.
    pub notes: Vec<String>,
    /// The artifacts.
    pub artifacts: Vec<Artifact>,
}

type Values = BTreeMap<String, Weighted>;

/// Reads the newest evaluations of the run's models, of the weights that the
/// run has now.
///
/// # Errors
/// When one is damaged.
pub fn read(graph: &Graph<'_>, models: &[ModelId]) -> Result<Leaderboard> {
    let listed = graph.store.list()?;
    let mut board = Leaderboard::default();
    let mut firsts: BTreeMap<String, (Value, Values)> = BTreeMap::new();
    let mut tested: Vec<Option<Tested>> = Vec::new();
    for model in models {
        let Ok(weights) = graph.model(model) else { continue };
        let prefix = graph.evaluation_name(model, "");
        let mut newest: BTreeMap<String, Artifact> = BTreeMap::new();
        for entry in listed.iter().filter(|entry| entry.0 == Kind::Evaluations) {
            let Some(unit) = entry.1.strip_prefix(&prefix).filter(|unit| !unit.contains('/')) else { continue };
            let artifact = graph.store.load_listed(entry)?;
            let of_these = |p: &spin_store::Parent| p.role == "model" && p.content == weights.manifest.content;
            if artifact.manifest.parents.iter().any(of_these) {
                newest.insert(unit.to_owned(), artifact);
            }
        }
        for (unit, artifact) in newest {
            let rows = EvaluationRow::read_all(&artifact)?;
            let sums = summaries(&artifact, &rows)?;
            let Some((metric, single)) = sums.first().and_then(|task| task.metrics.first().cloned()) else { continue };
            let values: Values = rows
                .iter()
                .filter_map(|row| {
                    let part = Weighted { sum: row.value(&metric)?, weight: 1.0 };
                    Some((format!("{}/{}", row.task, row.doc_id), part))
                })
                .collect();
            let estimate = match sums.len() {
                1 => single,
                _ => match stats::ratio(&values.values().copied().collect::<Vec<_>>()) {
                    Some(estimate) => estimate,
                    None => continue,
                },
            };
            let rules = Value::Array(vec![
                artifact.manifest.params["eval"].clone(),
                artifact.manifest.params["tasks"].clone(),
                artifact.manifest.facts.get("data").cloned().unwrap_or_default(),
            ]);
            tested.push(match firsts.get(&unit) {
                None => None,
                Some((first, _)) if *first != rules => {
                    board.notes.push(format!("{model} was evaluated on {unit} by other rules, so it is not compared."));
                    None
                }
                Some((_, first)) => {
                    let paired: Vec<PairedRow> =
                        values.iter().filter_map(|(id, own)| Some((*first.get(id)?, *own))).collect();
                    Tested::of(&metric, &paired)
                }
            });
            firsts.entry(unit.clone()).or_insert((rules, values));
            let (label, link) = (model.to_string(), Link::of(&artifact));
            board.entries.push(Entry { label, unit, metric, estimate, judged: None, link });
            board.artifacts.push(artifact);
        }
    }
    let mut told = judge(&tested.iter().flatten().copied().collect::<Vec<_>>()).into_iter();
    for (entry, tested) in board.entries.iter_mut().zip(tested) {
        entry.judged = tested.and_then(|_| told.next());
    }
    Ok(board)
}
