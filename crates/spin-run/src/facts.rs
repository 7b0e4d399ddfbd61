//! What manifests count, by kind, as those who read it need it. A manifest may
//! say more; what it does not say is absent, for earlier releases said less.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use spin_store::error::{Result, StoreError};
use spin_store::kind::Kind;
use spin_store::store::Artifact;

/// Facts about artifacts of some kinds.
pub trait Facts: DeserializeOwned {
    /// Which kinds say this.
    const KINDS: &[Kind];

    /// Those of an artifact.
    ///
    /// # Errors
    /// When it says something else by these names.
    ///
    /// # Panics
    /// When it is of another kind: a mistake of the caller.
    fn of(artifact: &Artifact) -> Result<Self> {
        let manifest = &artifact.manifest;
        assert!(Self::KINDS.contains(&manifest.kind), "{} has other facts", manifest.reference());
        serde_json::from_value(Value::Object(manifest.facts.clone())).map_err(|error| {
            let problem = format!("has facts that this program does not understand ({error})");
            StoreError::corrupt(artifact.place(), problem, "use the release that made it, or make it again")
        })
    }
}

/// Facts about an import.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ImportFacts {
    /// Rows that were left out, by reason.
    pub left_out: BTreeMap<String, u64>,
    /// Rows that repeat another one, prompt and answer.
    pub repeated_rows: u64,
    /// Rows that repeat the prompt of another one.
    pub repeated_prompts: u64,
    /// Files of a model's directory that were left out.
    pub left_out_files: Option<LeftOutFiles>,
}

/// Files that are no part of a model.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct LeftOutFiles {
    /// How many.
    pub count: u64,
    /// The first of them.
    pub names: Vec<String>,
}

impl Facts for ImportFacts {
    const KINDS: &[Kind] = &[Kind::Demonstrations, Kind::Preferences, Kind::Model];
}

/// Facts about a trained model.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct TrainingFacts {
    /// Updates that made it.
    pub updates: Option<u64>,
    /// Those whose gradient was not finite and changed nothing.
    pub skipped_updates: u64,
    /// The update whose weights were kept.
    pub kept_update: Option<u64>,
    /// The lowest loss on held-out rows.
    pub best_eval_loss: Option<f64>,
}

impl Facts for TrainingFacts {
    const KINDS: &[Kind] = &[Kind::Model, Kind::Metrics];
}

/// Facts about pairs.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct PairFacts {
    /// Rows by what became of them.
    pub fates: BTreeMap<String, u64>,
}

impl Facts for PairFacts {
    const KINDS: &[Kind] = &[Kind::Pairs];
}

/// Facts about generated answers.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct SampleFacts {
    /// How log-probabilities compare with the trainer's.
    pub logps_check: LogpsCheck,
}

/// A comparison of log-probabilities.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct LogpsCheck {
    /// Answers that were compared.
    pub rows: u64,
    /// The largest difference, in nats.
    pub largest_difference: Option<f64>,
}

impl Facts for SampleFacts {
    const KINDS: &[Kind] = &[Kind::Samples];
}

/// Facts about scores on held-out rows.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ScoreFacts {
    /// Estimates by metric, as tables have them.
    pub results: Value,
}

impl Facts for ScoreFacts {
    const KINDS: &[Kind] = &[Kind::Scores];
}

/// Facts about results in leaderboard tasks.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct EvaluationFacts {
    /// Documents of each task's split, used or not.
    pub documents: BTreeMap<String, u64>,
    /// Digests of the rows of each split.
    pub data: BTreeMap<String, Option<String>>,
}

impl Facts for EvaluationFacts {
    const KINDS: &[Kind] = &[Kind::Evaluations];
}
