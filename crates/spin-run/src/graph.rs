//! The artifacts that a run file stands for, and what each is made from.
//!
//! Stages never pass anything to each other: each asks this graph for the
//! artifact it needs. The graph walks from the imported data along the
//! recipes, so a stage can only ever find what belongs to *this* run file,
//! whatever else lies in the store under the same name, and an absent
//! artifact is answered with the command that makes it.

mod pairs;

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde_json::{Value, json};
use spin_text::{Chat, TemplateChoice};

use crate::import;
use crate::run::{self, FitConfig, RunFile, SampleConfig, as_params};
use crate::schema::{Demonstration, Row};
use spin_store::digest;
use spin_store::error::{Result, StoreError};
use spin_store::kind::Kind;
use spin_store::manifest::StageId;
use spin_store::store::{Artifact, Recipe, Store};

pub use pairs::PairsOf;

/// Behaviour versions: raise one when a stage makes something else of the
/// same inputs.
pub mod stage_version {
    /// `spin-sample`.
    pub const SAMPLE: u32 = 3;
    /// `spin-pair`.
    pub const PAIR: u32 = 1;
    /// `spin-fit`.
    pub const FIT: u32 = 4;
    /// The reference pass of `spin-fit`.
    pub const REFERENCE: u32 = 3;
    /// `spin-bench`.
    pub const BENCH: u32 = 2;
}

/// A model of the run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ModelId {
    /// The model that enters iteration `t`; `Iteration(0)` is θ0.
    Iteration(usize),
    /// A `[[baseline]]`.
    Baseline(String),
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ModelId::Iteration(t) => write!(f, "iter-{t}"),
            ModelId::Baseline(name) => f.write_str(name),
        }
    }
}

impl ModelId {
    /// The flags that select it on a stage's command line.
    pub fn flags(&self) -> Vec<String> {
        match self {
            ModelId::Iteration(t) => vec!["--iteration".into(), t.to_string()],
            ModelId::Baseline(name) => vec!["--baseline".into(), name.clone()],
        }
    }
}

/// Which demonstrations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// Trained on.
    Train,
    /// Scored on.
    Test,
}

impl Split {
    fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Test => "test",
        }
    }
}

/// How answers for scoring are decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoding {
    /// The likeliest token at each step.
    Greedy,
    /// Sampled at temperature 1.
    Sampled,
}

impl Decoding {
    /// Its name in artifacts and tables.
    pub fn name(self) -> &'static str {
        match self {
            Decoding::Greedy => "greedy",
            Decoding::Sampled => "sampled",
        }
    }
}

/// A run file seen against a store.
#[derive(Debug)]
pub struct Graph<'a> {
    /// The run.
    pub run: &'a RunFile,
    /// Where its artifacts are.
    pub store: &'a Store,
    /// What was found already: each artifact is asked for by all that follow.
    known: RefCell<BTreeMap<String, Artifact>>,
    /// The tasks of `[bench]`, once they are known.
    bench_tasks: OnceCell<Vec<String>>,
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
    Ok(params)
}

impl<'a> Graph<'a> {
    /// A graph.
    pub fn new(run: &'a RunFile, store: &'a Store) -> Self {
        Graph { run, store, known: RefCell::default(), bench_tasks: OnceCell::new() }
    }

    fn name(&self, rest: impl fmt::Display) -> String {
        format!("{}/{rest}", self.run.run)
    }

    fn stage(name: &str, version: u32) -> StageId {
        StageId { name: name.into(), version }
    }

    /// The command that a user of this run file types for a stage.
    pub fn command(&self, program: &str, rest: &[String]) -> String {
        let mut words = vec![program.to_owned()];
        if self.run.path.as_os_str().is_empty() {
            // A model without a run file is the only one there is.
            let flags =
                ["--model".into(), self.run.model.path.display().to_string(), "--name".into(), self.run.run.clone()];
            words.extend(flags);
            words.extend(["--store".into(), self.run.store.display().to_string()]);
            words.extend(rest.iter().filter(|word| !["--iteration", "0"].contains(&word.as_str())).cloned());
        } else {
            words.push(self.run.path.display().to_string());
            words.extend_from_slice(rest);
        }
        words.join(" ")
    }

    /// The artifact of a recipe, looked up once per `key`.
    fn found(&self, key: String, recipe: impl FnOnce() -> Result<Recipe>, command: String) -> Result<Artifact> {
        if let Some(artifact) = self.known.borrow().get(&key) {
            return Ok(artifact.clone());
        }
        let recipe = recipe()?;
        let artifact = self.store.find(&recipe)?.ok_or_else(|| StoreError::Missing {
            reference: format!("{}/{} of this run file", recipe.kind, recipe.name),
            store: self.store.root().to_path_buf(),
            remedy: format!("make it with `{command}` (and the same --set, if any)"),
        })?;
        self.known.borrow_mut().insert(key, artifact.clone());
        Ok(artifact)
    }

    fn import_command(&self) -> String {
        format!("spin-store import {}", self.run.path.display())
    }

    /// What a source of the run file was imported as, looked up once per
    /// `key`. The source itself is looked at only where no import of it is
    /// known, as those of earlier releases.
    ///
    /// # Errors
    /// When it is not imported.
    pub fn imported(
        &self,
        key: String,
        kind: Kind,
        name: &str,
        source: &import::Source,
        recipe: impl FnOnce() -> Result<Recipe>,
    ) -> Result<Artifact> {
        if let Some(artifact) = self.known.borrow().get(&key) {
            return Ok(artifact.clone());
        }
        let (found, unread) = match import::recall(self.store, kind, name, source)? {
            Some(found) => (Some(found), String::new()),
            None => match recipe() {
                Ok(recipe) => (self.store.find(&recipe)?, String::new()),
                Err(error) => (None, format!("; what it would be made from cannot be used: {error}")),
            },
        };
        let artifact = found.ok_or_else(|| StoreError::Missing {
            reference: format!("{kind}/{name} of this run file"),
            store: self.store.root().to_path_buf(),
            remedy: format!("make it with `{}` (and the same --set, if any){unread}", self.import_command()),
        })?;
        self.known.borrow_mut().insert(key, artifact.clone());
        Ok(artifact)
    }

    /// The name of a split's demonstrations.
    pub fn demonstrations_name(&self, split: Split) -> String {
        self.name(split.name())
    }

    /// The name of the imported base model.
    pub fn base_name(&self) -> String {
        self.name("base")
    }

    /// Configuration and path of a split's source.
    ///
    /// # Errors
    /// When the run file has no `[data]`.
    pub fn source(&self, split: Split) -> Result<(&'a crate::run::SourceConfig, PathBuf)> {
        let data = self.run.data.as_ref().ok_or_else(|| {
            StoreError::run(&self.run.path, "has no [data], which this stage needs; add data.train and data.test")
        })?;
        let source = match split {
            Split::Train => &data.train,
            Split::Test => &data.test,
        };
        Ok((source, self.run.resolve(&source.path)))
    }

    /// Recipe of a split's demonstrations.
    ///
    /// # Errors
    /// When the source cannot be read.
    pub fn demonstrations_recipe(&self, split: Split) -> Result<Recipe> {
        let (source, path) = self.source(split)?;
        import::demonstrations_recipe(&self.demonstrations_name(split), source, &path)
    }

    /// A split's demonstrations.
    ///
    /// # Errors
    /// When they are not imported.
    pub fn demonstrations(&self, split: Split) -> Result<Artifact> {
        let name = self.demonstrations_name(split);
        let source = import::Source::of_rows(self.run, self.store, self.source(split)?.0);
        let recipe = || self.demonstrations_recipe(split);
        self.imported(split.name().into(), Kind::Demonstrations, &name, &source, recipe)
    }

    /// Recipe of the imported base model.
    ///
    /// # Errors
    /// When its directory cannot be read.
    pub fn base_recipe(&self) -> Result<Recipe> {
        import::model_recipe(self.store, &self.base_name(), &self.run.resolve(&self.run.model.path))
    }

    /// The imported base model.
    ///
    /// # Errors
    /// When it is not imported.
    pub fn base(&self) -> Result<Artifact> {
        let source = import::Source::of_model(self.run, self.store);
        self.imported("base".into(), Kind::Model, &self.base_name(), &source, || self.base_recipe())
    }

    /// Template parameters; a template file counts by its text.
    ///
    /// # Errors
    /// When the template file cannot be read.
    pub fn template_params(&self) -> Result<Value> {
        let mut params = as_params(&self.run.template);
        if let Some(path) = self.template_file() {
            params["chat"] = json!(format!("file:{}", digest::of_file(&path)?.0));
        }
        Ok(params)
    }

    /// The Jinja file of `template.chat`, when it names one.
    pub fn template_file(&self) -> Option<PathBuf> {
        match self.run.template.chat.as_str() {
            "model" | "alpaca" => None,
            path => Some(self.run.resolve(path.as_ref())),
        }
    }

    /// How the run writes conversations.
    ///
    /// # Errors
    /// When the template file cannot be read.
    pub fn chat(&self) -> Result<Chat> {
        let template = match (self.run.template.chat.as_str(), self.template_file()) {
            ("alpaca", _) => TemplateChoice::Alpaca,
            (_, Some(path)) => {
                let source = std::fs::read_to_string(&path).map_err(StoreError::io("read", &path))?;
                TemplateChoice::File(path, source)
            }
            _ => TemplateChoice::Model,
        };
        Ok(Chat { template, date: self.run.template.day() })
    }

    /// What the run file says about a model's training, as far as it decides
    /// numbers; an adapter to start from counts by its content.
    ///
    /// # Errors
    /// When the run trains no such model, or the adapter cannot be read.
    pub fn training_params(&self, model: &ModelId) -> Result<Value> {
        fit_params(self.run, &self.fit_of(model)?)
    }

    /// Recipe of a model; `None` when it is the base model as it is.
    ///
    /// # Errors
    /// When something it is made from is missing.
    pub fn model_recipe(&self, model: &ModelId) -> Result<Option<Recipe>> {
        let mut params = json!({"seed": self.run.seed, "template": self.template_params()?});
        if *model == ModelId::Iteration(0) && self.run.sft.is_none() {
            return Ok(None);
        }
        params["fit"] = self.training_params(model)?;
        match model {
            ModelId::Iteration(0) => params["init"] = as_params(&self.run.model.init),
            ModelId::Iteration(_) => {}
            ModelId::Baseline(name) => {
                params["updates"] = json!(self.matched_updates(self.run.baseline_named(name)?.match_iterations)?);
            }
        }
        let mut parents = vec![self.start_of(model)?.as_parent("model")];
        match self.trained_on(model)? {
            None => parents.push(self.demonstrations(Split::Train)?.as_parent("demonstrations")),
            Some(pairs) => {
                parents.push(self.pairs_of(&pairs)?.as_parent("pairs"));
                parents.push(self.reference_of(&pairs)?.as_parent("reference"));
            }
        }
        Ok(Some(Recipe {
            kind: Kind::Model,
            name: self.name(model),
            stage: Self::stage("spin-fit", stage_version::FIT),
            params,
            parents,
        }))
    }

    /// Recipe of the metrics of the training with this recipe. Times are in
    /// them, so they are an artifact beside the model: equal trainings give
    /// equal models, and metrics that differ.
    pub fn metrics_recipe(model: &Recipe) -> Recipe {
        let stage = Self::stage("spin-fit metrics", model.stage.version);
        Recipe { kind: Kind::Metrics, stage, ..model.clone() }
    }

    /// Updates that the first `rounds` iterations made together; 0 for none.
    fn matched_updates(&self, rounds: usize) -> Result<u64> {
        let updates = |t| {
            let model = self.model(&ModelId::Iteration(t))?;
            let updates = model.manifest.facts.get("updates").and_then(Value::as_u64);
            updates.ok_or_else(|| {
                let problem = "does not say how many updates made it, which match_iterations needs";
                StoreError::corrupt(&model.dir, problem, "delete it and train it again")
            })
        };
        (1..=rounds).map(updates).sum()
    }

    /// A model of the run.
    ///
    /// # Errors
    /// When it, or something before it, is missing.
    pub fn model(&self, model: &ModelId) -> Result<Artifact> {
        if *model == ModelId::Iteration(0) && self.run.sft.is_none() {
            return self.base();
        }
        let recipe = || Ok(self.model_recipe(model)?.expect("only θ0 without SFT has no recipe"));
        self.found(format!("model {model}"), recipe, self.fit_command(model))
    }

    fn fit_command(&self, model: &ModelId) -> String {
        let flags = match model {
            ModelId::Iteration(0) => vec!["--sft".to_owned()],
            ModelId::Iteration(next) => ModelId::Iteration(next - 1).flags(),
            baseline => baseline.flags(),
        };
        self.command("spin-fit", &flags)
    }

    fn samples_recipe_of(
        &self,
        name: String,
        model: &Artifact,
        split: Split,
        config: &SampleConfig,
        stream: &str,
    ) -> Result<Recipe> {
        Ok(Recipe {
            kind: Kind::Samples,
            name,
            stage: Self::stage("spin-sample", stage_version::SAMPLE),
            params: json!({
                "seed": self.run.seed,
                "stream": stream,
                "sample": config.params(),
                "template": self.template_params()?,
            }),
            parents: vec![model.as_parent("model"), self.demonstrations(split)?.as_parent("demonstrations")],
        })
    }

    /// Recipe of the opponent's answers of iteration `t`.
    ///
    /// # Errors
    /// When the opponent or the demonstrations are missing.
    pub fn samples_recipe(&self, t: usize) -> Result<Recipe> {
        let config = self.run.sample_at(t)?;
        let iteration = format!("iter-{t}");
        let model = self.model(&ModelId::Iteration(t))?;
        self.samples_recipe_of(self.name(&iteration), &model, Split::Train, &config, &iteration)
    }

    /// The opponent's answers of iteration `t`.
    ///
    /// # Errors
    /// When they, or something before them, are missing.
    pub fn samples(&self, t: usize) -> Result<Artifact> {
        let command = self.command("spin-sample", &ModelId::Iteration(t).flags());
        self.found(format!("samples {t}"), || self.samples_recipe(t), command)
    }

    /// What `[bench]` measures: the run file's tasks, or those that follow
    /// from the test rows.
    ///
    /// # Errors
    /// When the test rows are missing, or cannot serve a task of the run file.
    pub fn bench_tasks(&self) -> Result<&[String]> {
        if self.bench_tasks.get().is_none() {
            let artifact = self.demonstrations(Split::Test)?;
            let rows = Demonstration::read_all(&artifact)?;
            let tasks = run::tasks_for(&self.run.bench, &rows, &artifact.reference())?;
            return Ok(self.bench_tasks.get_or_init(|| tasks));
        }
        Ok(self.bench_tasks.get().map(Vec::as_slice).unwrap_or_default())
    }

    /// Recipe of a model's answers to the held-out prompts. The noise does
    /// not depend on the model, so that models are compared on common random
    /// numbers.
    ///
    /// # Errors
    /// When the model or the demonstrations are missing.
    pub fn bench_samples_recipe(&self, model: &ModelId, decoding: Decoding) -> Result<Recipe> {
        // Answers that nothing could be made of are not generated.
        self.bench_tasks()?;
        let config = self.run.bench_sample(decoding == Decoding::Greedy);
        let name = self.name(format!("bench/{model}/{}", decoding.name()));
        self.samples_recipe_of(name, &self.model(model)?, Split::Test, &config, "bench")
    }

    /// A model's answers to the held-out prompts.
    ///
    /// # Errors
    /// When they, or something before them, are missing.
    pub fn bench_samples(&self, model: &ModelId, decoding: Decoding) -> Result<Artifact> {
        let mut flags = model.flags();
        flags.push("--bench".into());
        let command = self.command("spin-sample", &flags);
        let key = format!("bench {model} {}", decoding.name());
        self.found(key, || self.bench_samples_recipe(model, decoding), command)
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

    /// Recipe of a model's scores. The held-out pairs of the preference task
    /// are θ0's sampled answers, the same for every model.
    ///
    /// # Errors
    /// When the model or its answers are missing.
    pub fn scores_recipe(&self, model: &ModelId) -> Result<Recipe> {
        let mut parents =
            vec![self.model(model)?.as_parent("model"), self.demonstrations(Split::Test)?.as_parent("demonstrations")];
        let tasks = self.bench_tasks()?;
        if tasks.iter().any(|t| t == run::GSM8K || t == run::EXACT_MATCH) {
            parents.push(self.bench_samples(model, Decoding::Sampled)?.as_parent("samples sampled"));
            parents.push(self.bench_samples(model, Decoding::Greedy)?.as_parent("samples greedy"));
        }
        if tasks.iter().any(|t| t == run::PREFERENCE) {
            let opponent = self.bench_samples(&ModelId::Iteration(0), Decoding::Sampled)?;
            parents.push(opponent.as_parent("generated"));
        }
        Ok(Recipe {
            kind: Kind::Scores,
            name: self.name(model),
            stage: Self::stage("spin-bench", stage_version::BENCH),
            params: json!({"bench": as_params(&self.run.bench.resolved(tasks)), "template": self.template_params()?}),
            parents,
        })
    }

    /// A model's scores.
    ///
    /// # Errors
    /// When they, or something before them, are missing.
    pub fn scores(&self, model: &ModelId) -> Result<Artifact> {
        let command = self.command("spin-bench", &model.flags());
        self.found(format!("scores {model}"), || self.scores_recipe(model), command)
    }

    /// The name of what `spin-bench eval` makes of a model for a task or group.
    pub fn evaluation_name(&self, model: &ModelId, unit: &str) -> String {
        self.name(format!("{model}/{unit}"))
    }

    /// The command that evaluates a model.
    pub fn eval_command(&self, model: &ModelId) -> String {
        self.command("spin-bench eval", &model.flags())
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
        Ok(Recipe {
            kind: Kind::Samples,
            name: format!("{}/eval", requests.manifest.name),
            stage: Self::stage("spin-sample", stage_version::SAMPLE),
            params: json!({"seed": self.run.seed, "stream": "eval", "dtype": self.run.eval.dtype}),
            parents: vec![self.model(model)?.as_parent("model"), requests.as_parent("requests")],
        })
    }

    /// A model's answers to the prompts of leaderboard tasks.
    ///
    /// # Errors
    /// When they are missing.
    pub fn answers(&self, model: &ModelId, requests: &Artifact) -> Result<Artifact> {
        let mut flags = model.flags();
        flags.push("--eval".into());
        let command = self.command("spin-sample", &flags);
        let key = format!("answers {}", requests.reference());
        self.found(key, || self.answers_recipe(model, requests), command)
    }

    /// All models of the run that are scored: θ0, each iteration, baselines.
    pub fn models(&self) -> Vec<ModelId> {
        let iterations = (0..=self.run.rounds()).map(ModelId::Iteration);
        let baselines = self.run.baseline.iter().map(|b| ModelId::Baseline(b.name.clone()));
        iterations.chain(baselines).collect()
    }

    /// The commands of the whole run in order, each a program with its
    /// arguments, without `--set`.
    pub fn plan(&self) -> Vec<Vec<String>> {
        let file = self.run.path.display().to_string();
        let mut plan = Vec::new();
        let mut push = |program: &[&str], flags: Vec<String>| {
            let mut words: Vec<String> = program.iter().map(|w| (*w).to_owned()).collect();
            words.push(file.clone());
            words.extend(flags);
            plan.push(words);
        };
        push(&["spin-store", "import"], vec![]);
        if self.run.sft.is_some() {
            push(&["spin-fit"], vec!["--sft".into()]);
        }
        for t in 0..self.run.rounds() {
            let flags = ModelId::Iteration(t).flags();
            for program in ["spin-sample", "spin-pair", "spin-fit"] {
                push(&[program], flags.clone());
            }
        }
        for baseline in &self.run.baseline {
            let flags = ModelId::Baseline(baseline.name.clone()).flags();
            if baseline.preferences.is_some() {
                push(&["spin-pair"], flags.clone());
            }
            push(&["spin-fit"], flags);
        }
        if self.run.data.is_some() {
            for model in self.models() {
                let mut flags = model.flags();
                if self.run.bench.generates() {
                    flags.push("--bench".into());
                    push(&["spin-sample"], flags);
                }
                push(&["spin-bench"], model.flags());
            }
            push(&["spin-bench", "table"], vec![]);
        }
        if !self.run.eval.tasks.is_empty() {
            let with = |model: &ModelId, flag: &str| [model.flags(), vec![flag.to_owned()]].concat();
            for model in self.models() {
                // The second round is for conversations of two turns.
                for _ in 0..1 + usize::from(self.run.eval.has_conversations()) {
                    push(&["spin-bench", "eval"], with(&model, "--requests"));
                    push(&["spin-sample"], with(&model, "--eval"));
                }
                push(&["spin-bench", "eval"], model.flags());
            }
        }
        plan
    }
}
