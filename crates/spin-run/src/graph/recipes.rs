//! What decides each artifact of a run beside its parents.

use serde_json::{Value, json};

use super::{Decoding, Graph, ModelId, PairsOf, Product};
use crate::Maker;
use crate::facts::{Facts as _, TrainingFacts};
use crate::run::{Dtype, FitConfig, FitDtype, RunFile, SampleConfig, as_params};
use spin_store::digest;
use spin_store::error::{Result, StoreError};
use spin_store::kind::Kind;
use spin_store::store::Recipe;

/// Notes how weights of bf16 are multiplied on the CPU, in what depends on it: their
/// factors are rounded to bf16. Earlier releases widened the weights and rounded
/// nothing, and noted nothing; of f32 nothing has changed.
pub(super) fn note_products(params: &mut Value, is_bf16: bool) {
    if is_bf16 {
        params["products"] = json!("bf16");
    }
}

/// `params` of a training stage without what cannot change the result.
fn fit_params(run: &RunFile, fit: &FitConfig) -> Result<Value> {
    let mut params = as_params(fit);
    let table = params.as_object_mut().expect("a table");
    for key in ["checkpoint_every", "checkpoint_minutes", "recompute_every"] {
        table.remove(key);
    }
    // A default spelled out is the same training.
    table.insert("loss".into(), as_params(&fit.loss()));
    // An adapter to start from counts by its content, not by its place.
    if let Some(from) = fit.lora.as_ref().and_then(|lora| lora.from.as_ref()) {
        let (digest, _) = digest::of_file(&run.resolve(from).join("adapter_model.safetensors"))?;
        params["lora"]["from"] = json!(digest);
    }
    note_products(&mut params, fit.dtype == FitDtype::Bf16);
    Ok(params)
}

/// Recipe of the metrics of the training with this recipe. Times are in them,
/// so they are an artifact beside the model: equal trainings give equal models,
/// and metrics that differ.
pub fn metrics_recipe(model: &Recipe) -> Recipe {
    Recipe { kind: Kind::Metrics, stage: Maker::Metrics.id(), ..model.clone() }
}

impl Graph<'_> {
    /// Template parameters; a template file counts by its text.
    ///
    /// # Errors
    /// When the template file cannot be read.
    pub fn template_params(&self) -> Result<Value> {
        let mut params = as_params(&self.run.template);
        if let Some(path) = self.run.template_path() {
            params["chat"] = json!(format!("file:{}", digest::of_file(&path)?.0));
        }
        Ok(params)
    }

    /// What the run file says about a model's training, as far as it decides
    /// numbers; an adapter to start from counts by its content.
    ///
    /// # Errors
    /// When the run trains no such model, or the adapter cannot be read.
    pub fn training_params(&self, model: &ModelId) -> Result<Value> {
        fit_params(self.run, &self.fit_of(model)?)
    }

    /// By which settings an artifact is made.
    pub(super) fn params(&self, product: &Product) -> Result<Value> {
        Ok(match product {
            Product::Model(model) | Product::Metrics(model) => self.model_params(model)?,
            Product::Samples(t) => self.sample_params(&self.run.sample_at(*t)?, &format!("iter-{t}"))?,
            // The noise does not depend on the model, so that models are
            // compared on common random numbers.
            Product::BenchSamples(_, decoding) => {
                // Answers that nothing could be made of are not generated.
                self.bench_tasks()?;
                let config = self.run.bench_sample(*decoding == Decoding::Greedy);
                self.sample_params(&config, "bench")?
            }
            Product::Pairs(pairs) => {
                let mut params = match pairs {
                    PairsOf::Iteration(t) => json!({"pair": as_params(&self.run.pair_at(*t)?)}),
                    PairsOf::Baseline(_) => json!({}),
                };
                params["template"] = self.template_params()?;
                params
            }
            Product::Reference(pairs) => {
                let fit = match pairs {
                    PairsOf::Iteration(t) => self.run.fit_at(*t)?,
                    PairsOf::Baseline(_) => self.fit_of(&pairs.id())?,
                };
                let mut params = json!({
                    "dtype": fit.dtype.name(),
                    "micro_batch_size": fit.micro_batch_size,
                    "max_tokens_per_batch": fit.max_tokens_per_batch,
                });
                note_products(&mut params, fit.dtype == FitDtype::Bf16);
                params
            }
            Product::Scores(_) => {
                let bench = self.run.bench.resolved(self.bench_tasks()?);
                json!({"bench": as_params(&bench), "template": self.template_params()?})
            }
            Product::Demonstrations(_) | Product::Preferences(_) | Product::Base | Product::Evaluation(..) => {
                unreachable!("imports and evaluations have recipes of their own")
            }
        })
    }

    fn sample_params(&self, config: &SampleConfig, stream: &str) -> Result<Value> {
        let mut params = json!({
            "seed": self.run.seed,
            "stream": stream,
            "sample": config.params(),
            "template": self.template_params()?,
        });
        note_products(&mut params, config.dtype == Dtype::Bf16);
        Ok(params)
    }

    fn model_params(&self, model: &ModelId) -> Result<Value> {
        let mut params = json!({"seed": self.run.seed, "template": self.template_params()?});
        params["fit"] = self.training_params(model)?;
        match model {
            ModelId::Iteration(0) => params["init"] = as_params(&self.run.model.init),
            ModelId::Iteration(_) => {}
            ModelId::Baseline(_) => params["updates"] = json!(self.matched_updates(model)?),
        }
        Ok(params)
    }

    /// Updates that the models which a training counts took together; 0 for none.
    fn matched_updates(&self, model: &ModelId) -> Result<u64> {
        let updates = |product: Product| {
            let model = self.artifact(&product)?;
            TrainingFacts::of(&model)?.updates.ok_or_else(|| {
                let problem = "does not say how many updates made it, which match_iterations needs";
                StoreError::corrupt(model.place(), problem, "delete it and train it again")
            })
        };
        self.counted_by(&Product::Model(model.clone()))?.into_iter().map(updates).sum()
    }
}
