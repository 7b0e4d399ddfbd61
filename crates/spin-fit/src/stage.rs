//! The stage: what is trained on what, and what is published.

use std::sync::atomic::AtomicBool;

use candle_core::{DType, Device};
use serde_json::{Map, Value, json};
use spin_model::{CausalLm, ModelConfig};
use spin_store::graph::{Graph, ModelId, Split};
use spin_store::run::{FitConfig, FitDtype, Init, Objective};
use spin_store::schema::{Demonstration, Pair, Row};
use spin_store::{Artifact, Recipe, StoreError};

use crate::checkpoint::Settings;
use crate::data::{self, Example};
use crate::error::{FitError, Result};
use crate::metrics::{events, flops};
use crate::publish;
use crate::reference;
use crate::trainer::{End, Files, Job, Trainer};
use crate::watch::Watch;

/// How far a call came.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The model was there already.
    Found(Artifact),
    /// The model is published.
    Made(Artifact),
    /// A stop was asked for; the work so far is kept.
    Stopped(String),
}

/// Where the model is computed.
///
/// # Errors
/// When there is no such device, or this program was built without it.
pub fn device(name: &str) -> Result<Device> {
    let problem = |problem: String| FitError::Device { device: name.to_owned(), problem };
    if name == "cpu" {
        return Ok(Device::Cpu);
    }
    match name.split_once(':').unwrap_or((name, "0")) {
        ("cuda", _) if !cfg!(feature = "cuda") => {
            Err(problem("this program was built without it; build with `--features cuda`".into()))
        }
        ("cuda", ordinal) => {
            let ordinal = ordinal.parse().map_err(|_| problem("give cuda or cuda:N".into()))?;
            Device::new_cuda(ordinal).map_err(|error| problem(error.to_string()))
        }
        _ => Err(problem("give cpu, cuda or cuda:N".into())),
    }
}

/// What is not of the training itself.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the model is computed; devices round differently.
    pub device: Device,
    /// The machine's peak in 10⁹ floating-point operations per second, for
    /// the model FLOP utilisation; measured when not given.
    pub peak_gflops: Option<f64>,
}

/// Trains a model of the run unless it is there: θ0 (`Iteration(0)`, by SFT),
/// the main player of iteration t (`Iteration(t + 1)`), or a baseline.
///
/// # Errors
/// Missing inputs, bad rows, a loss that is not finite, a full disk. The last
/// checkpoint is kept.
pub fn run(
    graph: &Graph<'_>,
    id: &ModelId,
    options: &Options,
    stop: &AtomicBool,
    watch: &mut dyn Watch,
) -> Result<Outcome> {
    let (start, pairs) = match id {
        ModelId::Iteration(0) => (graph.base()?, None),
        ModelId::Iteration(next) => {
            let t = next - 1;
            graph.run.check_iteration(t)?;
            (graph.model(&ModelId::Iteration(t))?, Some((t, graph.pairs(t)?)))
        }
        ModelId::Baseline(name) => {
            let from = graph.run.baseline_named(name)?.from;
            (graph.model(&ModelId::Iteration(from))?, None)
        }
    };
    // The reference comes first: the main player's recipe names it.
    let mut loaded = None;
    if let Some((t, pairs)) = &pairs
        && graph.store.find(&graph.reference_recipe(*t)?)?.is_none()
    {
        start.verify()?;
        let rows = read_pairs(pairs, &start)?;
        let model = load(&start, graph, &graph.run.fit_at(*t)?, false, &options.device)?;
        watch.note(&format!("reference log-probabilities of {} pairs under {}", rows.len(), start.reference()));
        let environment = watch.environment();
        let made =
            reference::run(graph, *t, &model, &rows, stop, &|| environment.clone(), &mut |d, n| watch.reference(d, n))?;
        if made.is_none() {
            return Ok(Outcome::Stopped("during the reference pass".into()));
        }
        loaded = Some((model, rows));
    }
    let Some(recipe) = graph.model_recipe(id)? else {
        return Err(StoreError::run(&graph.run.path, "has no [sft] table: θ0 is the model as it is").into());
    };
    let identity = recipe.identity();
    if let Some(found) = graph.store.find(&recipe)? {
        graph.store.discard_work(&identity)?;
        return Ok(Outcome::Found(found));
    }
    start.verify()?;
    let work = graph.store.work(&identity)?;
    let _lock = work.lock("lock")?;
    // Another process may have finished between the look and the lock.
    if let Some(found) = graph.store.find(&recipe)? {
        graph.store.discard_work(&identity)?;
        return Ok(Outcome::Found(found));
    }
    let config = config_of(graph, id)?;
    let random = matches!(id, ModelId::Iteration(0)) && graph.run.model.init == Init::Random;
    let (loaded_model, rows) = loaded.unzip();
    let mut facts = Map::new();
    let (examples, table) = match &pairs {
        Some((t, artifact)) => {
            let rows = rows.map_or_else(|| read_pairs(artifact, &start), Ok)?;
            let reference = reference::read(&graph.reference(*t)?, &start, artifact, config.dtype)?;
            let mut examples = data::of_pairs(rows, &reference, &artifact.reference())?;
            if config.objective == Objective::Sft {
                examples.iter_mut().for_each(|e| e.opponent = None);
            }
            (examples, artifact.reference())
        }
        None => demonstrations(graph, &start, &mut facts)?,
    };
    let model = loaded_model.map_or_else(|| load(&start, graph, &config, random, &options.device), Ok)?;
    let model = adapted(model, &config, graph, &start, &recipe)?;
    let (examples, held_out) = split(examples, &config, &table, &mut facts)?;
    watch.note(&format!(
        "{} rows, {} held out, {} parameters, {} of them trained, objective {}",
        examples.len(),
        held_out.len(),
        model.num_params(),
        model.num_trainable(),
        crate::objective::Objective::describe(&config),
    ));
    let files = Files {
        checkpoint: work.path("checkpoint.safetensors"),
        best: work.path("best.safetensors"),
        log: work.path("training_log.jsonl"),
        events: work.path(events::FILE_NAME),
    };
    // A device without room for the measurement leaves the column empty.
    let peak = match options.peak_gflops {
        Some(gflops) => Some(gflops * 1e9),
        None => flops::measure_peak(model.device(), model.dtype()).ok(),
    };
    let job = Job {
        config: &config,
        examples: &examples,
        held_out: &held_out,
        seed: graph.run.seed,
        updates: recipe.params["updates"].as_u64().unwrap_or(0) as usize,
    };
    let mut trainer = Trainer::new(model, job)?.with_peak_flops(peak).with_files(files, settings_of(&recipe))?;
    match trainer.run(stop, watch)? {
        End::Stopped(update) => Ok(Outcome::Stopped(format!("after update {update}"))),
        End::Finished(summary) => {
            publish::add_facts(&mut facts, &summary, examples.len());
            // Before the model: with the model there, nothing would be made
            // any more.
            publish::metrics(graph, &recipe, &summary.log, &facts, watch.environment())?;
            let environment = watch.environment();
            let artifact = publish::model(graph, &recipe, trainer.model(), &start, &summary.log, facts, environment)?;
            graph.store.discard_work(&identity)?;
            Ok(Outcome::Made(artifact))
        }
    }
}

/// The settings that a checkpoint of a recipe belongs to: all that decides
/// numbers, the inputs by content.
pub fn settings_of(recipe: &Recipe) -> Settings {
    let parents: Map<String, Value> =
        recipe.parents.iter().map(|p| (p.role.clone(), json!(&p.content[..p.content.len().min(12)]))).collect();
    let mut value = recipe.params.clone();
    if let Some(table) = value.as_object_mut() {
        table.insert("parents".into(), Value::Object(parents));
        table.insert("stage_version".into(), json!(recipe.stage.version));
    }
    Settings::of(&value)
}

fn config_of(graph: &Graph<'_>, id: &ModelId) -> Result<FitConfig> {
    Ok(match id {
        ModelId::Iteration(0) => graph.run.sft.clone().expect("checked by the recipe"),
        ModelId::Iteration(next) => graph.run.fit_at(next - 1)?,
        ModelId::Baseline(name) => graph.run.baseline_fit(graph.run.baseline_named(name)?)?,
    })
}

fn load(start: &Artifact, graph: &Graph<'_>, config: &FitConfig, random: bool, device: &Device) -> Result<CausalLm> {
    let dtype = match config.dtype {
        FitDtype::F32 => DType::F32,
        FitDtype::Bf16 => DType::BF16,
    };
    let model = match random {
        true => CausalLm::init(&ModelConfig::load(&start.dir)?, graph.run.seed, device)?.to_dtype(dtype)?,
        false => CausalLm::load(&start.dir, device, dtype)?,
    };
    Ok(model.with_recompute(config.recompute_every))
}

/// The model with the adapter that is trained instead of its weights, if the
/// configuration has one. The reference was computed without it.
fn adapted(
    model: CausalLm,
    config: &FitConfig,
    graph: &Graph<'_>,
    start: &Artifact,
    recipe: &Recipe,
) -> Result<CausalLm> {
    let Some(lora) = &config.lora else { return Ok(model) };
    let wanted = publish::peft(lora);
    let Some(from) = &lora.from else {
        // A model's adapters differ from iteration to iteration.
        let name = recipe
            .name
            .bytes()
            .fold(graph.run.seed, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        return Ok(model.with_new_adapter(&wanted, name)?);
    };
    let dir = graph.run.resolve(from);
    let model = model.load_adapter(&dir, Some(&start.manifest.content))?;
    match model.adapter() {
        Some(found) if !model.adapter_is(&wanted) => {
            Err(FitError::OtherAdapter { path: dir.display().to_string(), found: found.to_json("").replace('\n', " ") })
        }
        _ => Ok(model),
    }
}

/// Pairs that the model can read.
fn read_pairs(pairs: &Artifact, model: &Artifact) -> Result<Vec<Pair>> {
    let rows = Pair::read_all(pairs)?;
    let config = ModelConfig::load(&model.dir)?;
    data::check_pairs(&rows, config.vocab_size, config.max_position_embeddings, &pairs.reference())?;
    Ok(rows)
}

/// Rows of a supervised training, and the table they are from.
fn demonstrations(
    graph: &Graph<'_>,
    start: &Artifact,
    facts: &mut Map<String, Value>,
) -> Result<(Vec<Example>, String)> {
    let artifact = graph.demonstrations(Split::Train)?;
    let config = ModelConfig::load(&start.dir)?;
    let codec = spin_text::codec_of(graph, &start.dir)?;
    codec.check_vocab(config.vocab_size)?;
    let template = &graph.run.template;
    let context = config.max_position_embeddings;
    let rows = Demonstration::read_all(&artifact)?;
    let (examples, dropped) = data::of_demonstrations(&rows, &codec, template, context, &artifact.reference())?;
    facts.insert("dropped_over_length".into(), json!(dropped));
    Ok((examples, artifact.reference()))
}

/// Rows to train on and rows held out.
fn split(
    examples: Vec<Example>,
    config: &FitConfig,
    table: &str,
    facts: &mut Map<String, Value>,
) -> Result<(Vec<Example>, Vec<Example>)> {
    let all = examples.len();
    let (examples, held_out) = match config.eval_every {
        0 => (examples, Vec::new()),
        _ => data::hold_out(examples, config.eval_rows),
    };
    if config.eval_every > 0 {
        facts.insert("held_out".into(), json!(held_out.len()));
    }
    if examples.is_empty() {
        let dropped = facts.get("dropped_over_length").map_or_else(String::new, |n| format!(", {n} too long"));
        return Err(FitError::NoRows {
            table: table.into(),
            why: format!("{all} rows fit{dropped}, {} held out", held_out.len()),
            remedy: "raise template.max_length or lower eval_rows".into(),
        });
    }
    Ok((examples, held_out))
}
