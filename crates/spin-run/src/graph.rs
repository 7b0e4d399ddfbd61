//! The artifacts that a run file stands for, and what each is made from.
//!
//! Stages never pass anything to each other: each asks this graph for the
//! artifact it needs. The graph walks from the imported data along the
//! recipes, so a stage can only ever find what belongs to *this* run file,
//! whatever else lies in the store under the same name, and an absent
//! artifact is answered with the command that makes it.
//!
//! - [`Product`] says which artifact, [`Graph::inputs`] what it is made from:
//!   recipes and the plan have their edges from there;
//! - [`crate::Maker`] has every program's version of its behaviour.

mod edges;
mod evaluations;
mod ids;
mod recipes;

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use spin_net::Name;
use spin_text::{Chat, TemplateChoice};

use crate::Maker;
use crate::import;
use crate::run::{self, RunFile, SourceConfig};
use crate::schema::{Demonstration, Row};
use spin_store::error::{Result, StoreError};
use spin_store::store::{Artifact, Recipe, Store};

pub use evaluations::UnitInputs;
pub use ids::{Decoding, Input, ModelId, PairsOf, Product, Split};
pub use recipes::metrics_recipe;

/// A run file seen against a store.
#[derive(Debug)]
pub struct Graph<'a> {
    /// The run.
    pub run: &'a RunFile,
    /// Where its artifacts are.
    pub store: &'a Store,
    /// What was found already: each artifact is asked for by all that follow.
    known: RefCell<BTreeMap<Product, Artifact>>,
    /// The tasks of `[bench]`, once they are known.
    bench_tasks: OnceCell<Vec<String>>,
}

impl<'a> Graph<'a> {
    /// A graph.
    pub fn new(run: &'a RunFile, store: &'a Store) -> Self {
        Graph { run, store, known: RefCell::default(), bench_tasks: OnceCell::new() }
    }

    fn name(&self, rest: impl fmt::Display) -> String {
        format!("{}/{rest}", self.run.run)
    }

    /// The name of an artifact in the store.
    pub fn name_of(&self, product: &Product) -> String {
        product.name_in(&self.run.run)
    }

    /// Recipe of an artifact that the run makes; of an import, what its source
    /// would be imported as now.
    ///
    /// # Errors
    /// When the run has no such artifact, something it is made from is missing,
    /// or a source cannot be read. Evaluations have recipes of their own.
    pub fn recipe(&self, product: &Product) -> Result<Recipe> {
        let name = self.name_of(product);
        match product {
            Product::Demonstrations(split) => {
                let (source, path) = self.source(*split)?;
                return import::demonstrations_recipe(&name, source, &import::Files::at(&at_hand(&path)?)?);
            }
            Product::Preferences(baseline) => {
                let (source, path) = self.preference_source(baseline)?;
                return import::preferences_recipe(&name, source, &import::Files::at(&at_hand(&path)?)?);
            }
            Product::Base => {
                let dir = self.run.resolve(&self.run.model.path);
                return import::model_recipe(self.store, &name, &at_hand(&dir)?);
            }
            Product::Evaluation(_, unit) => {
                let problem = format!("has no recipe of {unit} without its data; `spin-bench eval` knows it");
                return Err(StoreError::run(&self.run.path, problem));
            }
            _ => {}
        }
        let inputs = self.inputs(product)?;
        let (stage, params) = (self.stage_of(product).id(), self.params(product)?);
        let parents = inputs.iter().map(|input| Ok(self.artifact(&input.product)?.as_parent(&input.role)));
        Ok(Recipe { kind: product.kind(), name, stage, params, parents: parents.collect::<Result<_>>()? })
    }

    /// An artifact of the run, looked up once. Of an import, what its source
    /// was imported as: the source itself is looked at only where no import of
    /// it is known, as those of earlier releases.
    ///
    /// # Errors
    /// When it, or something before it, is missing.
    pub fn artifact(&self, product: &Product) -> Result<Artifact> {
        if let Some(artifact) = self.known.borrow().get(product) {
            return Ok(artifact.clone());
        }
        let artifact = match self.import_source(product)? {
            Some(source) => self.imported(product, &source)?,
            None => {
                let recipe = self.recipe(product)?;
                let command = self.command_of(product);
                self.store.find(&recipe)?.ok_or_else(|| self.missing(&recipe, &command, ""))?
            }
        };
        self.known.borrow_mut().insert(product.clone(), artifact.clone());
        Ok(artifact)
    }

    /// What the run file says about the source of an import.
    ///
    /// # Errors
    /// When it has none.
    pub fn import_source(&self, product: &Product) -> Result<Option<import::Source>> {
        let rows = |source: &SourceConfig| Some(import::Source::of_rows(self.run, self.store, source));
        Ok(match product {
            Product::Demonstrations(split) => rows(self.source(*split)?.0),
            Product::Preferences(baseline) => rows(self.preference_source(baseline)?.0),
            Product::Base => Some(import::Source::of_model(self.run, self.store)),
            _ => None,
        })
    }

    fn imported(&self, product: &Product, source: &import::Source) -> Result<Artifact> {
        let (kind, name) = (product.kind(), self.name_of(product));
        let (found, unread) = match import::recall(self.store, kind, &name, source)? {
            Some(found) => (Some(found), String::new()),
            None => match self.recipe(product) {
                Ok(recipe) => (self.store.find(&recipe)?, String::new()),
                Err(error) => (None, format!("; what it would be made from cannot be used: {error}")),
            },
        };
        found.ok_or_else(|| StoreError::Missing {
            reference: format!("{kind}/{name} of this run file"),
            store: self.store.root().to_path_buf(),
            remedy: format!("make it with `{}` (and the same --set, if any){unread}", self.command_of(product)),
        })
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

    /// The program, and its flags behind the run file, that make an artifact.
    pub fn maker_of(&self, product: &Product) -> (&'static str, Vec<String>) {
        match product {
            Product::Demonstrations(_) | Product::Preferences(_) | Product::Base => ("spin-store import", Vec::new()),
            Product::Model(ModelId::Iteration(0)) | Product::Metrics(ModelId::Iteration(0)) => {
                ("spin-fit", vec!["--sft".into()])
            }
            Product::Model(ModelId::Iteration(next)) | Product::Metrics(ModelId::Iteration(next)) => {
                ("spin-fit", ModelId::Iteration(next - 1).flags())
            }
            Product::Model(baseline) | Product::Metrics(baseline) => ("spin-fit", baseline.flags()),
            Product::Samples(t) => ("spin-sample", ModelId::Iteration(*t).flags()),
            Product::Pairs(pairs) => ("spin-pair", pairs.id().flags()),
            Product::Reference(pairs) => ("spin-fit", pairs.id().flags()),
            Product::BenchSamples(model, _) => ("spin-sample", [model.flags(), vec!["--bench".into()]].concat()),
            Product::Scores(model) => ("spin-bench", model.flags()),
            Product::Evaluation(model, _) => ("spin-bench eval", model.flags()),
        }
    }

    /// What makes an artifact, with the version of its behaviour.
    pub fn stage_of(&self, product: &Product) -> Maker {
        match product {
            Product::Demonstrations(_) | Product::Preferences(_) => Maker::ImportRows,
            Product::Base => Maker::ImportModel,
            Product::Model(_) => Maker::Fit,
            Product::Metrics(_) => Maker::Metrics,
            Product::Samples(_) | Product::BenchSamples(..) => Maker::Sample,
            Product::Pairs(_) => Maker::Pair,
            Product::Reference(_) => Maker::Reference,
            Product::Scores(_) => Maker::Bench,
            Product::Evaluation(_, unit) if unit == run::MT_BENCH => Maker::MtBench,
            Product::Evaluation(..) => Maker::Eval,
        }
    }

    fn command_of(&self, product: &Product) -> String {
        let (program, flags) = self.maker_of(product);
        self.command(program, &flags)
    }

    /// Configuration and path of a split's source.
    ///
    /// # Errors
    /// When the run file has no `[data]`.
    pub fn source(&self, split: Split) -> Result<(&'a SourceConfig, PathBuf)> {
        let data = self.run.data.as_ref().ok_or_else(|| {
            StoreError::run(&self.run.path, "has no [data], which this stage needs; add data.train and data.test")
        })?;
        let source = match split {
            Split::Train => &data.train,
            Split::Test => &data.test,
        };
        Ok((source, self.run.resolve(&source.path)))
    }

    /// Configuration and path of a baseline's preference set.
    ///
    /// # Errors
    /// When the run has no such baseline, or it has none.
    pub fn preference_source(&self, baseline: &str) -> Result<(&SourceConfig, PathBuf)> {
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

    /// How the run writes conversations.
    ///
    /// # Errors
    /// When the template file cannot be read.
    pub fn chat(&self) -> Result<Chat> {
        let template = match (self.run.template.chat.as_str(), self.run.template_path()) {
            ("alpaca", _) => TemplateChoice::Alpaca,
            (_, Some(path)) => {
                let source = std::fs::read_to_string(&path).map_err(StoreError::io("read", &path))?;
                TemplateChoice::File(path, source)
            }
            _ => TemplateChoice::Model,
        };
        Ok(Chat { template, date: self.run.template.day() })
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

    /// All models of the run that are scored: θ0, each iteration, baselines.
    pub fn models(&self) -> Vec<ModelId> {
        let iterations = (0..=self.run.rounds()).map(ModelId::Iteration);
        let baselines = self.run.baseline.iter().map(|b| ModelId::Baseline(b.name.clone()));
        iterations.chain(baselines).collect()
    }
}

/// A path of this machine.
///
/// # Errors
/// When it is a name on the hub.
fn at_hand(path: &Path) -> Result<PathBuf> {
    if Name::is_meant(path) { Err(import::not_imported(path)) } else { Ok(path.to_path_buf()) }
}

/// [`Graph::artifact`] by name. Each is an error when the artifact, or
/// something before it, is missing.
impl Graph<'_> {
    /// A split's demonstrations.
    ///
    /// # Errors
    /// When they are not imported.
    pub fn demonstrations(&self, split: Split) -> Result<Artifact> {
        self.artifact(&Product::Demonstrations(split))
    }

    /// A baseline's imported preference set.
    ///
    /// # Errors
    /// When it is not imported.
    pub fn preferences(&self, baseline: &str) -> Result<Artifact> {
        self.artifact(&Product::Preferences(baseline.into()))
    }

    /// The imported base model.
    ///
    /// # Errors
    /// When it is not imported.
    pub fn base(&self) -> Result<Artifact> {
        self.artifact(&Product::Base)
    }

    /// A model of the run.
    ///
    /// # Errors
    /// When it, or something before it, is missing.
    pub fn model(&self, model: &ModelId) -> Result<Artifact> {
        self.artifact(&self.weights(model))
    }

    /// The opponent's answers of iteration `t`.
    ///
    /// # Errors
    /// When they, or something before them, are missing.
    pub fn samples(&self, t: usize) -> Result<Artifact> {
        self.artifact(&Product::Samples(t))
    }

    /// A model's answers to the held-out prompts.
    ///
    /// # Errors
    /// When they, or something before them, are missing.
    pub fn bench_samples(&self, model: &ModelId, decoding: Decoding) -> Result<Artifact> {
        self.artifact(&Product::BenchSamples(model.clone(), decoding))
    }

    /// Pairs.
    ///
    /// # Errors
    /// When they, or something before them, are missing.
    pub fn pairs_of(&self, pairs: &PairsOf) -> Result<Artifact> {
        self.artifact(&Product::Pairs(pairs.clone()))
    }

    /// The pairs of iteration `t`.
    ///
    /// # Errors
    /// When they, or something before them, are missing.
    pub fn pairs(&self, t: usize) -> Result<Artifact> {
        self.pairs_of(&PairsOf::Iteration(t))
    }

    /// The opponent's log-probabilities of pairs.
    ///
    /// # Errors
    /// When they, or something before them, are missing.
    pub fn reference_of(&self, pairs: &PairsOf) -> Result<Artifact> {
        self.artifact(&Product::Reference(pairs.clone()))
    }

    /// The opponent's log-probabilities of the pairs of `t`.
    ///
    /// # Errors
    /// When they, or something before them, are missing.
    pub fn reference(&self, t: usize) -> Result<Artifact> {
        self.reference_of(&PairsOf::Iteration(t))
    }

    /// A model's scores.
    ///
    /// # Errors
    /// When they, or something before them, are missing.
    pub fn scores(&self, model: &ModelId) -> Result<Artifact> {
        self.artifact(&Product::Scores(model.clone()))
    }
}
