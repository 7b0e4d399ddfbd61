//! The stage: which rows, which parts, who makes them.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::json;
use spin_run::ModelShape;
use spin_run::graph::{Decoding as BenchDecoding, Graph, ModelId, Product, Split};
use spin_store::work::{Found, WorkDir};
use spin_store::{Artifact, Context, Left, Making, Outcome, Recipe, Share, StoreError};
use spin_text::Codec;
use tempfile::TempDir;

use crate::engine::{self, Engine, EngineKind, EngineOptions};
use crate::error::{Result, SampleError};
use crate::loadable;
use crate::parts::{self, Job, Shard};
use crate::prompts::{Prompts, Rows};
use crate::queue::{self, Queue, Source, Worker};

pub use crate::queue::{PartDone, Watch};

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
    pub fn bench(graph: &Graph<'_>, model: &ModelId, decoding: BenchDecoding) -> Result<Task> {
        Ok(Task {
            recipe: graph.recipe(&Product::BenchSamples(model.clone(), decoding))?,
            model: graph.model(model)?,
            prompts: Prompts::Demonstrations {
                table: graph.demonstrations(Split::Test)?,
                config: graph.run.bench_sample(decoding == BenchDecoding::Greedy),
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
                        dtype: graph.run.eval.dtype.clone(),
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

fn prepare(graph: &Graph<'_>, task: &Task) -> Result<Prepared> {
    let codec = Arc::new(match &task.prompts {
        Prompts::Demonstrations { .. } => Codec::of_run(&task.model.dir, graph.chat()?)?,
        // Already in tokens; a base model may have no template.
        Prompts::Requests { .. } => Codec::plain(&task.model.dir)?,
    });
    let shape = ModelShape::read(&task.model.dir)?;
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

/// A part that is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Its number.
    pub part: usize,
    /// Its answers.
    pub rows: usize,
    /// Who makes it, if somebody does.
    pub holder: Option<String>,
}

/// The parts of a shard that are not there; none once the artifact is.
///
/// # Errors
/// As [`run`].
pub fn missing(graph: &Graph<'_>, task: &Task, shard: Shard) -> Result<Vec<Missing>> {
    if graph.store.find(&task.recipe)?.is_some() {
        return Ok(Vec::new());
    }
    let prepared = prepare(graph, task)?;
    let source = prepared.source(graph, task);
    let mut parts = Vec::new();
    for part in (0..prepared.plan.len()).filter(|part| shard.has(*part)) {
        if source.look(&prepared.work, part)?.whole().is_none() {
            parts.push(part);
        }
    }
    parts
        .into_iter()
        .map(|part| {
            let holder = match prepared.work.lock(&queue::lock_name(part)) {
                Ok(_) => None,
                Err(StoreError::Locked { holder, .. }) => Some(holder),
                Err(error) => return Err(error.into()),
            };
            Ok(Missing { part, rows: prepared.plan[part].len(), holder })
        })
        .collect()
}

/// Generates this shard's missing parts, and publishes when all parts are
/// there.
///
/// # Errors
/// Bad rows, a model that cannot be loaded, answers that fail, a full disk.
/// Finished parts stay.
pub fn run(
    graph: &Graph<'_>,
    task: &Task,
    options: &Options,
    context: &Context<'_>,
    watch: &dyn Watch,
) -> Result<Outcome> {
    context.make_together(
        &task.recipe,
        is_taken_away,
        |making| {
            task.model.verify()?;
            let prepared = prepare(graph, task)?;
            let loader = Loader::new(graph, task, &options.engine)?;
            let shared = Shared { graph, task, options, prepared, loader };
            let mut engine = None;
            Ok(match work(&shared, &mut engine, making, watch)? {
                // What the parts were made with is used again to check them.
                Ok(place) => Share::Whole { place, with: (shared, engine) },
                Err(left) => Share::Left(left),
            })
        },
        |making, (shared, engine)| shared.assemble(engine, making),
    )
}

/// What a call has for making parts and for putting them together.
pub(crate) struct Shared<'a, 'g> {
    pub graph: &'a Graph<'g>,
    pub task: &'a Task,
    pub options: &'a Options,
    pub prepared: Prepared,
    pub loader: Loader<'a>,
}

/// Whether an error is one of those that come when another process clears the
/// work away.
fn is_taken_away(error: &SampleError) -> bool {
    match error {
        SampleError::Store(StoreError::Io { source, .. }) => source.kind() == std::io::ErrorKind::NotFound,
        SampleError::Store(StoreError::Locked { .. }) | SampleError::Changed { .. } => true,
        _ => false,
    }
}

/// Makes the parts of this shard that are missing: where all parts are there,
/// how many, else what is left.
fn work(
    shared: &Shared<'_, '_>,
    engine: &mut Option<Box<dyn Engine>>,
    making: &Making<'_>,
    watch: &dyn Watch,
) -> Result<std::result::Result<String, Left>> {
    let Shared { graph, task, options, prepared, loader } = shared;
    let stop = making.context.stop;
    let source = prepared.source(graph, task);
    let Prepared { plan, work, .. } = prepared;
    let mine: Vec<usize> = (0..plan.len()).filter(|&part| options.shard.has(part)).collect();
    let (mut missing, mut there) = (Vec::new(), Vec::new());
    for &part in &mine {
        match source.look(work, part)? {
            Found::Whole(_) => there.push(part),
            Found::Absent => missing.push(part),
            Found::Unusable(why) => {
                watch.note(&format!("part {part} is made again: {why}"));
                missing.push(part);
            }
        }
    }
    let count = |parts: &[usize]| parts.iter().map(|&part| plan[part].len() as u64).sum::<u64>();
    let (done, all) = (count(&there), count(&there) + count(&missing));
    watch.progress(done, all, 0);
    let (mut held, mut stopped) = (Vec::new(), false);
    if !missing.is_empty() {
        let engine = engine.insert(loader.engine()?);
        let facts =
            json!({"engine": engine.describe(), "processor": options.processor, "replay": engine.replay().name()});
        let samples: usize = plan.iter().map(Vec::len).sum();
        let allowed = (task.prompts.max_failed() * samples as f64) as usize;
        let worker = Worker { work, holder: making.context.holder, facts, allowed };
        let queue = Queue::new(&source, worker, missing, (done, all), stop, watch);
        // An engine may leave while a job is on its way back.
        while queue.has_work() {
            engine.run(&queue);
        }
        let ended = queue.end();
        if let Some(error) = ended.error {
            return Err(error);
        }
        (held, stopped) = (ended.held, stop.load(Ordering::Relaxed));
    }
    let is_there = |part| Ok(source.look(work, part)?.whole().is_some());
    let there: Vec<bool> = (0..plan.len()).map(is_there).collect::<Result<_>>()?;
    let present = there.iter().filter(|there| **there).count();
    let place = format!("{present} of {} parts", plan.len());
    if stopped {
        return Ok(Err(Left::Stopped(place)));
    }
    if let Some(part) = mine.iter().copied().find(|&part| !there[part]) {
        let who = match held.into_iter().find(|(other, _)| *other == part) {
            Some((part, holder)) => format!("part {part} is held by {holder}"),
            None => format!("part {part} was taken away or written anew by another process"),
        };
        return Ok(Err(Left::Held(format!("{place} are there, {who}"))));
    }
    Ok(if present < plan.len() { Err(Left::Partial(place)) } else { Ok(place) })
}

/// Loads a task's model, as often as it is needed.
pub(crate) struct Loader<'a> {
    dir: &'a Path,
    links: TempDir,
    linked: bool,
    dtype: &'a str,
    options: EngineOptions,
}

impl<'a> Loader<'a> {
    fn new(graph: &Graph<'_>, task: &'a Task, options: &EngineOptions) -> Result<Self> {
        let links = graph.store.staging()?;
        let linked = loadable::link(&task.model.dir, links.path())?;
        let kind = match task.prompts.engine(graph) {
            "mistralrs" => EngineKind::Mistralrs,
            "spin-model" => EngineKind::SpinModel,
            _ => EngineKind::Auto,
        };
        let options = EngineOptions { kind, ..options.clone() };
        Ok(Self { dir: &task.model.dir, links, linked, dtype: task.prompts.dtype(), options })
    }

    pub fn engine(&self) -> Result<Box<dyn Engine>> {
        engine::load(if self.linked { self.links.path() } else { self.dir }, self.dtype, &self.options)
    }
}
