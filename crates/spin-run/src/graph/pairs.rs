//! What a model is trained on: the pairs of a round of self-play or of
//! somebody's preference set, and the opponent's view of them.

use serde_json::json;

use super::{Graph, ModelId, Split, stage_version};
use crate::import;
use crate::run::{FitConfig, SourceConfig, as_params};
use spin_store::error::{Result, StoreError};
use spin_store::kind::Kind;
use spin_store::store::{Artifact, Recipe};

/// Which pairs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PairsOf {
    /// Those of this round: the human answers against the opponent's.
    Iteration(usize),
    /// Those of a baseline's preference set: chosen against rejected answers.
    Baseline(String),
}

impl PairsOf {
    /// The name of the pairs, and of their reference, after the run's.
    fn id(&self) -> ModelId {
        match self {
            PairsOf::Iteration(t) => ModelId::Iteration(*t),
            PairsOf::Baseline(name) => ModelId::Baseline(name.clone()),
        }
    }
}

impl Graph<'_> {
    /// The pairs that a model is trained on; `None` when it is trained on
    /// demonstrations.
    ///
    /// # Errors
    /// When the run has no such model.
    pub fn trained_on(&self, model: &ModelId) -> Result<Option<PairsOf>> {
        Ok(match model {
            ModelId::Iteration(0) => None,
            ModelId::Iteration(next) => {
                self.run.check_iteration(next - 1)?;
                Some(PairsOf::Iteration(next - 1))
            }
            ModelId::Baseline(name) => {
                self.run.baseline_named(name)?.preferences.as_ref().map(|_| PairsOf::Baseline(name.clone()))
            }
        })
    }

    /// The model that a training starts from: of pairs, the opponent.
    ///
    /// # Errors
    /// When it, or something before it, is missing.
    pub fn start_of(&self, model: &ModelId) -> Result<Artifact> {
        match model {
            ModelId::Iteration(0) => self.base(),
            ModelId::Iteration(next) => {
                self.run.check_iteration(next - 1)?;
                self.model(&ModelId::Iteration(next - 1))
            }
            ModelId::Baseline(name) => self.model(&ModelId::Iteration(self.run.baseline_named(name)?.from)),
        }
    }

    /// The model whose log-probabilities the reference of pairs holds, and
    /// whose tokens the pairs are of.
    ///
    /// # Errors
    /// When it, or something before it, is missing.
    pub fn opponent(&self, pairs: &PairsOf) -> Result<Artifact> {
        match pairs {
            PairsOf::Iteration(t) => self.model(&ModelId::Iteration(*t)),
            PairsOf::Baseline(_) => self.start_of(&pairs.id()),
        }
    }

    /// How a model is trained.
    ///
    /// # Errors
    /// When the run has no such model, or θ0 is the base model as it is.
    pub fn fit_of(&self, model: &ModelId) -> Result<FitConfig> {
        match model {
            ModelId::Iteration(0) => self.run.sft.clone().ok_or_else(|| {
                StoreError::run(&self.run.path, "has no [sft] table: θ0 is the model as it is, and nothing is trained")
            }),
            ModelId::Iteration(next) => self.run.fit_at(next - 1),
            ModelId::Baseline(name) => self.run.baseline_fit(self.run.baseline_named(name)?),
        }
    }

    /// Configuration and path of a baseline's preference set.
    ///
    /// # Errors
    /// When the run has no such baseline, or it has none.
    pub fn preference_source(&self, baseline: &str) -> Result<(&SourceConfig, std::path::PathBuf)> {
        let source = self.run.baseline_named(baseline)?.preferences.as_ref().ok_or_else(|| {
            StoreError::run(
                &self.run.path,
                format!(
                    "baseline {baseline:?} is trained on demonstrations and has no pairs; for a preference set give it \
                     preferences = {{ path = \"…\" }}"
                ),
            )
        })?;
        Ok((source, self.run.resolve(&source.path)))
    }

    /// Recipe of a baseline's imported preference set.
    ///
    /// # Errors
    /// When the source cannot be read.
    pub fn preferences_recipe(&self, baseline: &str) -> Result<Recipe> {
        let (source, path) = self.preference_source(baseline)?;
        import::preferences_recipe(&self.preferences_name(baseline), source, &path)
    }

    /// A baseline's imported preference set.
    ///
    /// # Errors
    /// When it is not imported.
    pub fn preferences(&self, baseline: &str) -> Result<Artifact> {
        let recipe = || self.preferences_recipe(baseline);
        let source = import::Source::of_rows(self.run, self.store, self.preference_source(baseline)?.0);
        let name = self.preferences_name(baseline);
        self.imported(format!("preferences {baseline}"), Kind::Preferences, &name, &source, recipe)
    }

    /// The name of a baseline's imported preference set.
    pub fn preferences_name(&self, baseline: &str) -> String {
        self.name(baseline)
    }

    /// Recipe of pairs.
    ///
    /// # Errors
    /// When what they are made from is missing.
    pub fn pairs_recipe_of(&self, pairs: &PairsOf) -> Result<Recipe> {
        let (mut params, parents) = match pairs {
            PairsOf::Iteration(t) => {
                let mut parents = vec![
                    self.demonstrations(Split::Train)?.as_parent("demonstrations"),
                    self.opponent(pairs)?.as_parent("tokenizer"),
                ];
                for i in self.window(*t)? {
                    parents.push(self.samples(i)?.as_parent(&format!("samples iter-{i}")));
                }
                (json!({"pair": as_params(&self.run.pair_at(*t)?)}), parents)
            }
            PairsOf::Baseline(name) => {
                let preferences = self.preferences(name)?.as_parent("preferences");
                (json!({}), vec![preferences, self.opponent(pairs)?.as_parent("tokenizer")])
            }
        };
        params["template"] = self.template_params()?;
        Ok(Recipe {
            kind: Kind::Pairs,
            name: self.name(pairs.id()),
            stage: Self::stage("spin-pair", stage_version::PAIR),
            params,
            parents,
        })
    }

    /// Pairs.
    ///
    /// # Errors
    /// When they, or something before them, are missing.
    pub fn pairs_of(&self, pairs: &PairsOf) -> Result<Artifact> {
        let command = self.command("spin-pair", &pairs.id().flags());
        self.found(format!("pairs {}", pairs.id()), || self.pairs_recipe_of(pairs), command)
    }

    /// Recipe of the opponent's log-probabilities of pairs.
    ///
    /// # Errors
    /// When the opponent or the pairs are missing.
    pub fn reference_recipe_of(&self, pairs: &PairsOf) -> Result<Recipe> {
        let fit = match pairs {
            PairsOf::Iteration(t) => self.run.fit_at(*t)?,
            PairsOf::Baseline(_) => self.fit_of(&pairs.id())?,
        };
        Ok(Recipe {
            kind: Kind::Reference,
            name: self.name(pairs.id()),
            stage: Self::stage("spin-fit reference", stage_version::REFERENCE),
            params: json!({
                "dtype": fit.dtype.name(),
                "micro_batch_size": fit.micro_batch_size,
                "max_tokens_per_batch": fit.max_tokens_per_batch,
            }),
            parents: vec![self.opponent(pairs)?.as_parent("model"), self.pairs_of(pairs)?.as_parent("pairs")],
        })
    }

    /// The opponent's log-probabilities of pairs.
    ///
    /// # Errors
    /// When they, or something before them, are missing.
    pub fn reference_of(&self, pairs: &PairsOf) -> Result<Artifact> {
        let command = self.command("spin-fit", &pairs.id().flags());
        self.found(format!("reference {}", pairs.id()), || self.reference_recipe_of(pairs), command)
    }

    /// Recipe of the pairs of iteration `t`.
    ///
    /// # Errors
    /// When samples or demonstrations are missing.
    pub fn pairs_recipe(&self, t: usize) -> Result<Recipe> {
        self.pairs_recipe_of(&PairsOf::Iteration(t))
    }

    /// The pairs of iteration `t`.
    ///
    /// # Errors
    /// When they, or something before them, are missing.
    pub fn pairs(&self, t: usize) -> Result<Artifact> {
        self.pairs_of(&PairsOf::Iteration(t))
    }

    /// The opponent's log-probabilities of the pairs of `t`.
    ///
    /// # Errors
    /// When they, or something before them, are missing.
    pub fn reference(&self, t: usize) -> Result<Artifact> {
        self.reference_of(&PairsOf::Iteration(t))
    }
}
