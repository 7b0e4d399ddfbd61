//! What is to be generated: which model answers which rows, in which parts.

use std::path::Path;
use std::sync::Arc;

use spin_run::ModelShape;
use spin_run::graph::{Decoding, Graph, ModelId, Product, Split};
use spin_run::run::Dtype;
use spin_store::work::WorkDir;
use spin_store::{Artifact, Recipe, Verified};
use spin_text::Codec;
use tempfile::TempDir;

use crate::engine::{self, Engine, EngineOptions};
use crate::error::{Result, SampleError};
use crate::loadable;
use crate::parts::{self, Job, Shard};
use crate::prompts::{Prompts, Rows};
use crate::queue::Source;

/// What is to be generated.
#[derive(Clone, Debug)]
pub struct Task {
    /// The artifact to make.
    pub recipe: Recipe,
    /// The model that answers.
    pub model: Artifact,
    /// What, and how.
    pub prompts: Prompts,
    /// Which use of the run's seed.
    pub stream: String,
}

impl Task {
    /// The opponent's answers of iteration `t`.
    ///
    /// # Errors
    /// When something it needs is missing.
    pub fn iteration(graph: &Graph<'_>, t: usize) -> Result<Task> {
        Ok(Task {
            recipe: graph.recipe(&Product::Samples(t))?,
            model: graph.model(&ModelId::Iteration(t))?,
            prompts: Prompts::Demonstrations {
                table: graph.demonstrations(Split::Train)?,
                config: graph.run.sample_at(t)?,
            },
            stream: format!("iter-{t}"),
        })
    }

    /// A model's answers to the held-out prompts.
    ///
    /// # Errors
    /// When something it needs is missing.
    pub fn bench(graph: &Graph<'_>, model: &ModelId, decoding: Decoding) -> Result<Task> {
        Ok(Task {
            recipe: graph.recipe(&Product::BenchSamples(model.clone(), decoding))?,
            model: graph.model(model)?,
            prompts: Prompts::Demonstrations {
                table: graph.demonstrations(Split::Test)?,
                config: graph.run.bench_sample(decoding == Decoding::Greedy),
            },
            stream: "bench".into(),
        })
    }

    /// A model's answers to the prompts of leaderboard tasks that were
    /// published for it, a task for each table; none for a model without any.
    ///
    /// # Errors
    /// When the model is missing, or the store cannot be read.
    pub fn eval(graph: &Graph<'_>, model: &ModelId) -> Result<Vec<Task>> {
        let tables = graph.requests(model)?.into_iter();
        tables
            .map(|table| {
                Ok(Task {
                    recipe: graph.answers_recipe(model, &table)?,
                    model: graph.model(model)?,
                    prompts: Prompts::Requests {
                        table,
                        dtype: graph.run.eval.dtype,
                        rows_per_part: graph.run.sample.rows_per_part,
                    },
                    stream: "eval".into(),
                })
            })
            .collect()
    }
}

/// How a call works. Nothing of it changes the answers, but for rounding.
#[derive(Clone, Debug)]
pub struct Options {
    /// The parts to make.
    pub shard: Shard,
    /// How the model is run; the kind of engine is the run file's.
    pub engine: EngineOptions,
    /// The processor, for manifests: another one may round in another way.
    pub processor: String,
}

/// A task with what a call needs to know of it.
pub(crate) struct Prepared {
    pub codec: Arc<Codec>,
    pub rows: Rows,
    pub plan: Vec<Vec<Job>>,
    pub work: WorkDir,
}

/// Reads rows and tokenizer, and plans the parts.
pub(crate) fn prepare(graph: &Graph<'_>, task: &Task) -> Result<Prepared> {
    let model = task.model.verified_where(ModelShape::is_beside_weights)?;
    let codec = Arc::new(match &task.prompts {
        Prompts::Demonstrations { .. } => Codec::of_run(model.dir(), graph.chat()?)?,
        // Already in tokens; a base model may have no template.
        Prompts::Requests { .. } => Codec::plain(model.dir())?,
    });
    let shape = ModelShape::read(model.dir())?;
    codec.check_vocab(shape.vocab_size)?;
    let prompts = &task.prompts;
    let rows = prompts.read(graph, &codec, shape)?;
    rows.check(graph, task)?;
    let plan = parts::parts(0..rows.rows.len(), prompts.samples_per_prompt(), prompts.rows_per_part());
    let work = graph.store.work(&task.recipe.identity())?;
    Ok(Prepared { codec, rows, plan, work })
}

impl Rows {
    /// Checks that something is left to answer, and of answers that are trained on that
    /// there will be something to learn.
    fn check(&self, graph: &Graph<'_>, task: &Task) -> Result<()> {
        let Prompts::Demonstrations { table, .. } = &task.prompts else { return Ok(()) };
        let table = table.reference();
        let template = &graph.run.template;
        if self.rows.is_empty() {
            let problem = format!("no row is left, {} prompts are too long", self.dropped);
            let remedy = format!("raise template.max_prompt_length (now {})", template.max_prompt_length);
            return Err(SampleError::NoRows { table, problem, remedy });
        }
        if self.fitting == 0 && task.stream != "bench" {
            let problem = format!(
                "of {} rows none has prompt and human answer of at most template.max_length = {} tokens",
                self.rows.len(),
                template.max_length
            );
            return Err(SampleError::NoRows { table, problem, remedy: "raise template.max_length".into() });
        }
        Ok(())
    }
}

impl Prepared {
    /// The task as an engine's work.
    pub fn source<'a>(&'a self, graph: &Graph<'_>, task: &'a Task) -> Source<'a> {
        Source {
            rows: &self.rows.rows,
            plan: &self.plan,
            codec: &self.codec,
            seed: graph.run.seed,
            stream: &task.stream,
        }
    }
}

/// What a call has for making parts and for putting them together.
pub(crate) struct Shared<'a, 'g> {
    pub graph: &'a Graph<'g>,
    pub task: &'a Task,
    pub options: &'a Options,
    pub prepared: Prepared,
    pub loader: Loader,
}

/// Loads a task's model, as often as it is needed.
pub(crate) struct Loader {
    model: Verified,
    links: TempDir,
    linked: bool,
    dtype: Dtype,
    options: EngineOptions,
}

impl Loader {
    pub fn new(graph: &Graph<'_>, task: &Task, options: &EngineOptions) -> Result<Self> {
        let model = task.model.verified()?;
        let links = graph.store.staging()?;
        let linked = loadable::link(model.dir(), links.path())?;
        let options = EngineOptions { kind: task.prompts.engine(graph), ..options.clone() };
        Ok(Self { model, links, linked, dtype: task.prompts.dtype(), options })
    }

    /// The model's files.
    pub fn dir(&self) -> &Path {
        self.model.dir()
    }

    pub fn engine(&self) -> Result<Box<dyn Engine>> {
        engine::load(if self.linked { self.links.path() } else { self.dir() }, self.dtype, &self.options)
    }
}
