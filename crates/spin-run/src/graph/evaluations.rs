//! Evaluations: which there are, and what decides them. Their tasks and data
//! are known to `spin-bench eval` alone, which brings them.

use serde_json::{Value, json};

use super::recipes::note_products;
use super::{Graph, ModelId};
use crate::Maker;
use crate::run::{self, Dtype, MT_BENCH, as_params};
use spin_store::error::{Result, StoreError};
use spin_store::kind::Kind;
use spin_store::manifest::Parent;
use spin_store::store::{Artifact, Recipe};

/// A task or group with its data: what decides its prompts and results beside
/// the run file and the model.
#[derive(Clone, Debug)]
pub struct UnitInputs<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its tasks with their settings.
    pub tasks: Value,
    /// Its files of data.
    pub data: Vec<Parent>,
    /// Whether answers are generated for it.
    pub generates: bool,
    /// Whether all its documents are used, so that a limit has no effect.
    pub is_whole: bool,
}

impl Graph<'_> {
    /// The tasks and groups that are scored and stored together, each once.
    pub fn evaluation_units(&self) -> Vec<String> {
        let mut units: Vec<String> = Vec::new();
        for name in &self.run.eval.tasks {
            for unit in run::units_of(name) {
                if !units.iter().any(|known| known == unit) {
                    units.push(unit.into());
                }
            }
        }
        units
    }

    /// The name of what `spin-bench eval` makes of a model for a task or group.
    pub fn evaluation_name(&self, model: &ModelId, unit: &str) -> String {
        self.name(format!("{model}/{unit}"))
    }

    /// The command that evaluates a model.
    pub fn eval_command(&self, model: &ModelId) -> String {
        self.command("spin-bench eval", &model.flags())
    }

    /// `[eval]` as far as it decides the prompts of a unit, or its results.
    ///
    /// # Errors
    /// When the template file cannot be read.
    pub(super) fn evaluation_params(&self, kind: Kind, unit: &UnitInputs<'_>) -> Result<Value> {
        let eval = &self.run.eval;
        let mut settings = as_params(eval);
        let table = settings.as_object_mut().expect("a table");
        // Names of tasks and places of data stand in `tasks` and as parents;
        // the others change no result.
        for key in ["tasks", "data", "include", "max_batch_tokens", "docs_per_part", "judge", "num_fewshot"] {
            table.remove(key);
        }
        // Settings without an effect on this unit.
        if kind == Kind::Requests || unit.generates {
            table.remove("dtype");
            table.remove("softmax_dtype");
        }
        if !unit.generates {
            table.remove("max_gen_toks");
        }
        if !eval.apply_chat_template {
            table.remove("fewshot_as_multiturn");
        }
        if unit.is_whole {
            table.insert("limit".into(), json!(0));
            table.remove("limit_seed");
        }
        let mut params = json!({"eval": settings, "tasks": unit.tasks});
        let is_bf16 = params["eval"]["dtype"] == "bf16";
        note_products(&mut params, is_bf16);
        if eval.apply_chat_template {
            params["template"] = self.template_params()?;
        }
        Ok(params)
    }

    /// Recipe of the prompts of a unit whose answers are generated.
    ///
    /// # Errors
    /// When the template file cannot be read, or the model is missing.
    pub fn requests_recipe(&self, model: &ModelId, unit: &UnitInputs<'_>) -> Result<Recipe> {
        let parents = vec![self.model(model)?.as_parent("tokenizer")];
        self.evaluation(Kind::Requests, model, unit, parents)
    }

    /// Recipe of a model's results in a unit; `answers` where they are generated.
    ///
    /// # Errors
    /// When the template file cannot be read, or the model is missing.
    pub fn evaluation_recipe(
        &self,
        model: &ModelId,
        unit: &UnitInputs<'_>,
        answers: Option<&Artifact>,
    ) -> Result<Recipe> {
        let mut parents = vec![self.model(model)?.as_parent("model")];
        parents.extend(answers.map(|answers| answers.as_parent("answers")));
        self.evaluation(Kind::Evaluations, model, unit, parents)
    }

    fn evaluation(
        &self,
        kind: Kind,
        model: &ModelId,
        unit: &UnitInputs<'_>,
        mut parents: Vec<Parent>,
    ) -> Result<Recipe> {
        let params = self.evaluation_params(kind, unit)?;
        parents.extend_from_slice(&unit.data);
        Ok(Recipe { kind, name: self.evaluation_name(model, unit.name), stage: Maker::Eval.id(), params, parents })
    }

    /// Recipe of the prompts of a turn of MT-Bench, 1 or 2; those of the second
    /// contain the `answers` to the first. `data` are the files of questions
    /// and prompts, `questions` how many are asked, `longest` the longest answer
    /// in tokens.
    ///
    /// # Errors
    /// When the template file cannot be read, or the model is missing.
    pub fn conversation_recipe(
        &self,
        model: &ModelId,
        turn: usize,
        data: &[Parent],
        answers: Option<&Artifact>,
        (questions, longest): (usize, usize),
    ) -> Result<Recipe> {
        let mut parents = data.to_vec();
        parents.push(self.model(model)?.as_parent("tokenizer"));
        parents.extend(answers.map(|artifact| artifact.as_parent("answers")));
        Ok(Recipe {
            kind: Kind::Requests,
            name: self.evaluation_name(model, &format!("{MT_BENCH}-{turn}")),
            stage: Maker::MtBench.id(),
            params: json!({
                "template": self.template_params()?, "turn": turn, "max_gen_toks": longest,
                "questions": questions,
                "system_instruction": self.run.eval.system_instruction,
            }),
            parents,
        })
    }

    /// Recipe of what a judge says of the answers to both turns of MT-Bench.
    pub fn judgments_recipe(&self, model: &ModelId, judge: &str, data: &[Parent], answers: &[Artifact; 2]) -> Recipe {
        let config = self.run.eval.judge.as_ref();
        let mut parents = data.to_vec();
        parents.extend(answers.iter().map(|artifact| artifact.as_parent("answers")));
        Recipe {
            kind: Kind::Judgments,
            name: self.evaluation_name(model, MT_BENCH),
            stage: Maker::MtBench.id(),
            // The same name may be another model elsewhere.
            params: json!({
                "judge": judge,
                "base_url": config.map(|config| spin_net::url::public(&config.base_url)),
            }),
            parents,
        }
    }

    /// The prompts of leaderboard tasks that were made for a model, of all
    /// settings: which one is wanted next is not known here.
    ///
    /// # Errors
    /// When the store cannot be read, or the model is missing.
    pub fn requests(&self, model: &ModelId) -> Result<Vec<Artifact>> {
        let weights = self.model(model)?;
        let prefix = self.name(format!("{model}/"));
        let mut found = Vec::new();
        for entry in self.store.list()? {
            if entry.0 == Kind::Requests && entry.1.starts_with(&prefix) {
                let artifact = self.store.load_listed(&entry)?;
                if artifact.manifest.parents.iter().any(|p| p.content == weights.manifest.content) {
                    found.push(artifact);
                }
            }
        }
        Ok(found)
    }

    /// Recipe of a model's answers to the prompts of leaderboard tasks.
    ///
    /// # Errors
    /// When the model is missing.
    pub fn answers_recipe(&self, model: &ModelId, requests: &Artifact) -> Result<Recipe> {
        let mut params = json!({"seed": self.run.seed, "stream": "eval", "dtype": self.run.eval.dtype});
        note_products(&mut params, self.run.eval.dtype == Dtype::Bf16);
        Ok(Recipe {
            kind: Kind::Samples,
            name: format!("{}/eval", requests.manifest.name),
            stage: Maker::Sample.id(),
            params,
            parents: vec![self.model(model)?.as_parent("model"), requests.as_parent("requests")],
        })
    }

    /// A model's answers to the prompts of leaderboard tasks.
    ///
    /// # Errors
    /// When they are missing.
    pub fn answers(&self, model: &ModelId, requests: &Artifact) -> Result<Artifact> {
        let recipe = self.answers_recipe(model, requests)?;
        let command = self.command("spin-sample", &[model.flags(), vec!["--eval".into()]].concat());
        self.store.find(&recipe)?.ok_or_else(|| self.missing(&recipe, &command, ""))
    }

    /// The error for an artifact that is not there.
    pub(super) fn missing(&self, recipe: &Recipe, command: &str, beside: &str) -> StoreError {
        StoreError::Missing {
            reference: format!("{}/{} of this run file", recipe.kind, recipe.name),
            store: self.store.root().to_path_buf(),
            remedy: format!("make it with `{command}` (and the same --set, if any){beside}"),
        }
    }
}
