//! What each artifact of a run is made from: the edges of the graph.

use super::{Decoding, Graph, Input, ModelId, PairsOf, Product, Split};
use crate::run::{self, FitConfig};
use spin_store::error::{Result, StoreError};

impl Graph<'_> {
    /// The artifact that a model of the run is: the imported one, where θ0 is
    /// the base model as it is.
    pub fn weights(&self, model: &ModelId) -> Product {
        match *model == ModelId::Iteration(0) && self.run.sft.is_none() {
            true => Product::Base,
            false => Product::Model(model.clone()),
        }
    }

    /// The artifacts that one is made from, in the order in which manifests
    /// have them as parents. What an evaluation is made from is known to
    /// `spin-bench eval` alone, but for the model.
    ///
    /// # Errors
    /// When the run has no such artifact; for scores, whose tasks may follow
    /// from the test rows, when those are missing.
    pub fn inputs(&self, product: &Product) -> Result<Vec<Input>> {
        match product {
            Product::Scores(model) => Ok(self.scores_inputs(model, Some(self.bench_tasks()?))),
            other => self.planned_inputs(other),
        }
    }

    /// As [`inputs`](Self::inputs), before there are test rows: what scores may
    /// need.
    ///
    /// # Errors
    /// When the run has no such artifact.
    pub fn planned_inputs(&self, product: &Product) -> Result<Vec<Input>> {
        let demonstrations = |split| Input::new("demonstrations", Product::Demonstrations(split));
        let model = |id: &ModelId| Input::new("model", self.weights(id));
        Ok(match product {
            Product::Demonstrations(_) | Product::Preferences(_) | Product::Base => Vec::new(),
            Product::Model(id) | Product::Metrics(id) => {
                let mut inputs = vec![Input::new("model", self.start_of(id)?)];
                match self.trained_on(id)? {
                    None => inputs.push(demonstrations(Split::Train)),
                    Some(pairs) => {
                        inputs.push(Input::new("pairs", Product::Pairs(pairs.clone())));
                        if self.has_reference(id)? {
                            inputs.push(Input::new("reference", Product::Reference(pairs)));
                        }
                        if self.has_initial(id)? {
                            inputs.push(Input::new("initial", Product::Samples(0)));
                        }
                    }
                }
                inputs
            }
            Product::Samples(t) => vec![model(&ModelId::Iteration(*t)), demonstrations(Split::Train)],
            Product::BenchSamples(id, _) => vec![model(id), demonstrations(Split::Test)],
            Product::Pairs(pairs @ PairsOf::Iteration(t)) => {
                let mut inputs = vec![demonstrations(Split::Train), Input::new("tokenizer", self.opponent_of(pairs)?)];
                inputs.extend(self.window(*t)?.map(|i| Input::new(format!("samples iter-{i}"), Product::Samples(i))));
                inputs
            }
            Product::Pairs(pairs @ PairsOf::Baseline(name)) => vec![
                Input::new("preferences", Product::Preferences(name.clone())),
                Input::new("tokenizer", self.opponent_of(pairs)?),
            ],
            Product::Reference(pairs) => {
                vec![Input::new("model", self.opponent_of(pairs)?), Input::new("pairs", Product::Pairs(pairs.clone()))]
            }
            Product::Scores(id) => self.scores_inputs(id, self.bench_tasks().ok()),
            Product::Evaluation(id, _) => vec![model(id)],
        })
    }

    /// The held-out pairs of the preference task are θ0's sampled answers, the
    /// same for every model.
    fn scores_inputs(&self, model: &ModelId, tasks: Option<&[String]>) -> Vec<Input> {
        let has = |names: &[&str]| match tasks {
            Some(tasks) => tasks.iter().any(|task| names.contains(&task.as_str())),
            None => self.run.bench.generates(),
        };
        let answers =
            |role: &str, id: &ModelId, decoding| Input::new(role, Product::BenchSamples(id.clone(), decoding));
        let mut inputs = vec![
            Input::new("model", self.weights(model)),
            Input::new("demonstrations", Product::Demonstrations(Split::Test)),
        ];
        if has(&run::OF_ANSWERS) {
            inputs.push(answers("samples sampled", model, Decoding::Sampled));
            inputs.push(answers("samples greedy", model, Decoding::Greedy));
        }
        if has(&run::OF_FIRST_ANSWERS) {
            inputs.push(answers("generated", &ModelId::Iteration(0), Decoding::Sampled));
        }
        inputs
    }

    /// Models whose number of updates a training counts: they are no parents of
    /// it, and must be there before it.
    ///
    /// # Errors
    /// When the run has no such model.
    pub fn counted_by(&self, product: &Product) -> Result<Vec<Product>> {
        let (Product::Model(ModelId::Baseline(name)) | Product::Metrics(ModelId::Baseline(name))) = product else {
            return Ok(Vec::new());
        };
        let rounds = self.run.baseline_named(name)?.match_iterations;
        Ok((1..=rounds).map(|t| Product::Model(ModelId::Iteration(t))).collect())
    }

    /// The pairs that a model is trained on; `None` when it is trained on
    /// demonstrations.
    ///
    /// # Errors
    /// When the run has no such model.
    pub fn trained_on(&self, model: &ModelId) -> Result<Option<PairsOf>> {
        Ok(match model {
            ModelId::Iteration(0) => None,
            ModelId::Iteration(next) => {
                self.run.check_model(*next)?;
                Some(PairsOf::Iteration(next - 1))
            }
            ModelId::Baseline(name) => {
                self.run.baseline_named(name)?.preferences.as_ref().map(|_| PairsOf::Baseline(name.clone()))
            }
        })
    }

    /// Whether the opponent's log-probabilities are in a model's loss.
    ///
    /// # Errors
    /// When the run has no such model.
    pub fn has_reference(&self, model: &ModelId) -> Result<bool> {
        Ok(self.trained_on(model)?.is_some() && self.fit_of(model)?.has_reference())
    }

    /// Whether θ0's answers are in a model's loss beside those of its pairs.
    ///
    /// # Errors
    /// When the run has no such model.
    pub fn has_initial(&self, model: &ModelId) -> Result<bool> {
        Ok(matches!(model, ModelId::Iteration(next) if *next > 1) && self.fit_of(model)?.has_initial())
    }

    /// The model that a training starts from: of pairs, the opponent.
    ///
    /// # Errors
    /// When the run has no such model.
    pub fn start_of(&self, model: &ModelId) -> Result<Product> {
        Ok(match model {
            ModelId::Iteration(0) => Product::Base,
            ModelId::Iteration(next) => {
                self.run.check_model(*next)?;
                self.weights(&ModelId::Iteration(next - 1))
            }
            ModelId::Baseline(name) => self.weights(&ModelId::Iteration(self.run.baseline_named(name)?.from)),
        })
    }

    /// The model whose log-probabilities the reference of pairs holds, and
    /// whose tokens the pairs are of.
    ///
    /// # Errors
    /// When the run has no such pairs.
    pub fn opponent_of(&self, pairs: &PairsOf) -> Result<Product> {
        match pairs {
            PairsOf::Iteration(t) => Ok(self.weights(&ModelId::Iteration(*t))),
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

    /// The iterations whose samples are mixed into the pairs of `t`, oldest
    /// first.
    ///
    /// # Errors
    /// When the iteration does not exist.
    pub fn window(&self, t: usize) -> Result<std::ops::RangeInclusive<usize>> {
        let window = self.run.pair_at(t)?.window as usize;
        Ok((t + 1).saturating_sub(window)..=t)
    }
}
