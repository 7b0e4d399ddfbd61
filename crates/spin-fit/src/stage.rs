//! The stage: what is trained on what, and what is published.

use std::rc::Rc;

use candle_core::Device;
use serde_json::{Map, Value, json};
use spin_model::CausalLm;
use spin_run::graph::{Graph, ModelId, PairsOf, Product};
use spin_run::run::{FitConfig, Init, ObjectiveKind};
use spin_store::{Artifact, Context, Ending, Left, Making, Outcome, Recipe, Verified};

use crate::batches::Limit;
use crate::checkpoint::Settings;
use crate::collective::Collective;
use crate::data;
use crate::error::Result;
use crate::metrics::{events, flops};
use crate::publish;
use crate::reference;
use crate::rows::{Rows, demonstrations, read_pairs, split, without_reference};
use crate::shares;
use crate::start::{adapted, check_adapter, kind_of, load};
use crate::together;
use crate::trainer::{End, Files, Job, Trainer};
use crate::watch::TrainingWatch;

/// What is not of the training itself.
#[derive(Clone, Debug)]
pub struct Options {
    /// The processes that train together.
    pub world: Rc<dyn Collective>,
    /// Where the model is computed; devices round differently.
    pub device: Device,
    /// The peak in 10⁹ floating-point operations per second of all that
    /// computes, for the model FLOP utilisation; measured when not given, on
    /// the first process for all.
    pub peak_gflops: Option<f64>,
}

/// Trains a model of the run unless it is there: θ0 (`Iteration(0)`, by SFT),
/// the main player of iteration t (`Iteration(t + 1)`), or a baseline.
///
/// Whatever the run file, the rows and the model's configuration can refuse
/// is refused before weights are loaded.
///
/// # Errors
/// Missing inputs, bad rows, a loss that is not finite, a full disk. The last
/// checkpoint is kept. [`StoreError::Locked`] when another process is at it.
pub fn run(
    graph: &Graph<'_>,
    id: &ModelId,
    options: &Options,
    context: &Context<'_>,
    watch: &mut dyn TrainingWatch,
) -> Result<Outcome> {
    let config = graph.fit_of(id)?;
    let world = &*options.world;
    shares::check(config.shards, world.world())?;
    // An adapter to start from is there.
    graph.training_params(id)?;
    let start = graph.artifact(&graph.start_of(id)?)?;
    let pairs = match graph.trained_on(id)? {
        Some(of) => Some((graph.pairs_of(&of)?, of)),
        None => None,
    };
    let mut training = Training { graph, id, options, config, start, pairs, loaded: None };
    // The reference comes first: the model's recipe names it.
    if let Some((_, of)) = training.pairs.as_ref().filter(|_| training.config.has_reference()) {
        let recipe = graph.recipe(&Product::Reference(of.clone()))?;
        let outcome =
            together::make_or_leave(world, context, &recipe, |making| training.reference(making, context, watch))?;
        if let Outcome::Left(left) = outcome {
            return Ok(Outcome::Left(left));
        }
    }
    let recipe = graph.recipe(&Product::Model(id.clone()))?;
    together::make_or_leave(world, context, &recipe, |making| training.train(making, &recipe, context, watch))
}

/// A model to train, with what that takes.
struct Training<'a, 'g> {
    graph: &'a Graph<'g>,
    id: &'a ModelId,
    options: &'a Options,
    config: FitConfig,
    start: Artifact,
    pairs: Option<(Artifact, PairsOf)>,
    /// Read and loaded once, for the reference and the training.
    loaded: Option<Loaded>,
}

struct Loaded {
    rows: Rows,
    facts: Map<String, Value>,
    model: CausalLm,
    start: Verified,
}

impl Training<'_, '_> {
    /// Rows and weights, once nothing but them is left to refuse.
    fn load(&mut self) -> Result<Loaded> {
        if let Some(loaded) = self.loaded.take() {
            return Ok(loaded);
        }
        let graph = self.graph;
        let start = &self.start.verified()?;
        let mut facts = Map::new();
        let rows = match &self.pairs {
            Some((artifact, _)) => Rows::Pairs(read_pairs(artifact, start)?, artifact.reference()),
            None => demonstrations(graph, start, &mut facts)?,
        };
        rows.check(&self.config, &facts)?;
        check_adapter(graph, &self.config)?;
        let random = matches!(self.id, ModelId::Iteration(0)) && graph.run.model.init == Init::Random;
        let model = load(start, graph, &self.config, random, &self.options.device)?;
        Ok(Loaded { rows, facts, model, start: start.clone() })
    }

    /// The opponent's log-probabilities of the pairs; a process without a
    /// making helps the one that has it.
    fn reference(
        &mut self,
        making: Option<&Making<'_>>,
        context: &Context<'_>,
        watch: &mut dyn TrainingWatch,
    ) -> Result<Option<Ending>> {
        let loaded = self.load()?;
        // What the adapter's settings ask for is there, too.
        adapted(&loaded.model, &self.config, self.graph, &self.start, 0)?;
        let Rows::Pairs(rows, _) = &loaded.rows else { unreachable!("a reference is of pairs") };
        watch.note(&format!("reference log-probabilities of {} pairs under {}", rows.len(), self.start.reference()));
        let (limit, world) = (Limit::of(&self.config), &*self.options.world);
        let ending = match making {
            Some(making) => Some(reference::step(making, &loaded.model, rows, limit, world, watch)?),
            None => reference::help(&loaded.model, rows, limit, world, context.stop)?,
        };
        self.loaded = Some(loaded);
        Ok(ending)
    }

    fn train(
        &mut self,
        making: Option<&Making<'_>>,
        recipe: &Recipe,
        context: &Context<'_>,
        watch: &mut dyn TrainingWatch,
    ) -> Result<Option<Ending>> {
        let Loaded { rows, mut facts, model, start } = self.load()?;
        let (config, graph, start) = (&self.config, self.graph, &start);
        // The others read there, and the first has made it.
        let work = context.store.work(&recipe.identity())?;
        let examples = match (rows, &self.pairs) {
            (Rows::Pairs(rows, _), Some(_)) if !config.has_reference() => {
                without_reference(graph, self.id, start, rows, &mut facts)?
            }
            (Rows::Pairs(rows, table), Some((artifact, of))) => {
                let reference = graph.reference_of(of)?;
                let reference = reference::read(&reference, start, artifact, config.dtype, context.device)?;
                let mut examples = data::of_pairs(rows, &reference, &table)?;
                if config.objective == ObjectiveKind::Sft {
                    examples.iter_mut().for_each(|e| e.opponent = None);
                }
                examples
            }
            (Rows::Pairs(..), None) => unreachable!("pairs come from pairs"),
            (Rows::Examples(examples, _), _) => examples,
        };
        let model = adapted(&model, config, graph, start, seed_of(recipe))?;
        let (examples, held_out) = split(examples, config, &mut facts);
        watch.note(&format!(
            "{} rows, {} held out, {} parameters, {} of them trained, objective {}",
            examples.len(),
            held_out.len(),
            model.num_params(),
            model.num_trainable(),
            crate::objective::Objective::describe(config),
        ));
        let files = Files {
            checkpoint: work.path("checkpoint.safetensors"),
            best: work.path("best.safetensors"),
            log: work.path("training_log.jsonl"),
            events: work.path(events::FILE_NAME),
        };
        // A device without room for the measurement leaves the column empty.
        let peak = match self.options.peak_gflops {
            Some(gflops) => Some(gflops * 1e9),
            None if making.is_none() => None,
            None => {
                let peak = flops::measure_peak(model.device(), model.dtype()).ok();
                peak.map(|peak| peak * self.options.world.world() as f64)
            }
        };
        let job = Job {
            config,
            examples: &examples,
            held_out: &held_out,
            seed: graph.run.seed,
            updates: recipe.params["updates"].as_u64().unwrap_or(0) as usize,
        };
        let settings = settings_of(recipe, context.device);
        let mut trainer = Trainer::among(model, job, self.options.world.clone())?
            .with_peak_flops(peak)
            .with_files(files, settings)?;
        let stopped = |place: String| Ok(Some(Ending::Leave(Left::Stopped(place))));
        match trainer.run(context.stop, watch)? {
            End::Stopped(0) => stopped("before the end of the first update".into()),
            End::Stopped(update) => stopped(format!("after update {update}, checkpointed")),
            End::Finished(summary) => {
                let Some(making) = making else { return Ok(None) };
                publish::add_facts(&mut facts, &summary, examples.len());
                // Before the model: with the model there, nothing would be made
                // any more.
                publish::metrics(making, &summary.log, &facts)?;
                publish::model(making, trainer.model(), start, &summary.log, facts)
                    .map(|staged| Some(Ending::Publish(staged)))
            }
        }
    }
}

/// The seed of a new adapter. It follows from all that decides the training,
/// and from nothing else: not from the run's name.
fn seed_of(recipe: &Recipe) -> u64 {
    u64::from_str_radix(&recipe.identity()[..16], 16).expect("a digest in hexadecimal")
}

/// The settings that a checkpoint of a recipe belongs to: all that decides
/// numbers, the inputs by content.
///
/// Those of a graphics processor name it: it rounds in another way.
fn settings_of(recipe: &Recipe, device: &str) -> Settings {
    let parents: Map<String, Value> =
        recipe.parents.iter().map(|p| (p.role.clone(), json!(&p.content[..p.content.len().min(12)]))).collect();
    let mut value = recipe.params.clone();
    if let Some(table) = value.as_object_mut() {
        table.insert("parents".into(), Value::Object(parents));
        table.insert("stage_version".into(), json!(recipe.stage.version));
        if kind_of(device) != "cpu" {
            table.insert("device".into(), json!(kind_of(device)));
        }
    }
    Settings::of(&value)
}
