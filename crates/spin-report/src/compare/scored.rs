//! What there is to compare: the scores of a model, as they are stored.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use spin_run::facts::{EvaluationFacts, Facts as _};
use spin_run::schema::{EvaluationRow, Row, ScoreRow};
use spin_store::kind::Kind;
use spin_store::{Artifact, Store};

use crate::error::{ReportError, Result};
use crate::stats::Weighted;

/// Values by document or row.
pub(super) type Values = BTreeMap<String, Weighted>;

/// What the store knows of one model: values by metric, and the rules by which they came about.
#[derive(Clone, Debug)]
pub struct Scored {
    /// Its label.
    pub label: String,
    pub(super) metrics: Vec<((String, String), Values)>,
    pub(super) rules: BTreeMap<String, Value>,
}

impl Scored {
    /// Everything that the store has of a model: `reference` is an artifact
    /// (`scores/demo/iter-1@v2`, `evaluations/demo/iter-1/mmlu`) or a model's
    /// name (`demo/iter-1`), which stands for the newest of all its scores.
    /// With `single`, groups are also taken apart.
    ///
    /// # Errors
    /// When there is nothing of that name, or it is damaged.
    pub fn read(store: &Store, reference: &str, single: bool) -> Result<Self> {
        let mut found = Vec::new();
        match reference.parse() {
            Ok(reference) => found.push(store.get(&reference)?),
            Err(_) => {
                let mut newest: BTreeMap<(Kind, String), (Kind, String, u32)> = BTreeMap::new();
                for entry in store.list()? {
                    let own = match entry.0 {
                        Kind::Scores => entry.1 == reference,
                        Kind::Evaluations => entry.1.rsplit_once('/').is_some_and(|(model, _)| model == reference),
                        _ => false,
                    };
                    if own {
                        newest.insert((entry.0, entry.1.clone()), entry);
                    }
                }
                for entry in newest.values() {
                    found.push(store.load_listed(entry)?);
                }
            }
        }
        if found.is_empty() {
            return Err(ReportError::Compare(format!(
                "the store has no scores of {reference:?}; name a model (demo/iter-1) or an artifact \
                 (evaluations/demo/iter-1/mmlu); `spin-store ls` shows them"
            )));
        }
        // A name may have been given to other weights since.
        let weights = |artifact: &Artifact| {
            let parent = artifact.manifest.parents.iter().find(|parent| parent.role == "model");
            parent.map(|parent| parent.content.clone())
        };
        if let Some(other) = found.iter().find(|artifact| weights(artifact) != weights(&found[0])) {
            return Err(ReportError::Compare(format!(
                "{} and {} are of different weights; evaluate {reference} again, or name single artifacts",
                found[0].reference(),
                other.reference()
            )));
        }
        let mut all = Self { label: reference.into(), metrics: Vec::new(), rules: BTreeMap::new() };
        for artifact in &found {
            all.add(artifact, single)?;
        }
        Ok(all)
    }

    fn add(&mut self, artifact: &Artifact, single: bool) -> Result<()> {
        let manifest = &artifact.manifest;
        match manifest.kind {
            Kind::Scores => {
                for row in ScoreRow::read_all(artifact)? {
                    let part = Weighted { sum: row.value, weight: row.weight };
                    self.values(&row.task, &row.metric).insert(row.row_id, part);
                }
            }
            Kind::Evaluations => {
                let rows = EvaluationRow::read_all(artifact)?;
                let unit = manifest.name.rsplit('/').next().unwrap_or_default().to_owned();
                let grouped = rows.first().is_some_and(|row| row.task != unit);
                for row in &rows {
                    let id = format!("{}/{}", row.task, row.doc_id);
                    for (metric, value) in row.metrics.iter().zip(&row.values) {
                        let part = Weighted { sum: *value, weight: 1.0 };
                        self.values(&unit, metric).insert(id.clone(), part);
                        if grouped && single {
                            self.values(&row.task, metric).insert(id.clone(), part);
                        }
                    }
                }
                let rules = json!({
                    "settings": manifest.params["eval"],
                    "tasks": manifest.params["tasks"],
                    "data": EvaluationFacts::of(artifact)?.data,
                });
                self.rules.insert(unit, rules);
            }
            other => {
                return Err(ReportError::Compare(format!(
                    "{} is of the kind {other}; scores and evaluations can be compared",
                    artifact.reference()
                )));
            }
        }
        Ok(())
    }

    fn values(&mut self, task: &str, metric: &str) -> &mut Values {
        let same = |(key, _): &((String, String), Values)| key.0 == task && key.1 == metric;
        let at = self.metrics.iter().position(same).unwrap_or_else(|| {
            self.metrics.push(((task.into(), metric.into()), Values::new()));
            self.metrics.len() - 1
        });
        &mut self.metrics[at].1
    }
}
