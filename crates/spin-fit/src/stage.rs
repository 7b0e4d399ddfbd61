//! The stage: what is trained on what, and what is published.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use candle_core::{DType, Device};
use serde_json::{Map, Value, json};
use spin_model::{CausalLm, ModelConfig};
use spin_store::graph::{Graph, ModelId, Split};
use spin_store::run::{FitConfig, Init};
use spin_store::schema::{Demonstration, Pair, Row};
use spin_store::{Artifact, Recipe, StoreError};

use crate::data::{self, Example, Lengths};
use crate::error::{FitError, Result};
use crate::reference;
use crate::trainer::{self, End, Files, Summary, Trainer, UpdateLog};

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

/// Told about progress.
pub trait Watch {
    /// Reference pass: pairs done, all pairs.
    fn reference(&mut self, done: u64, total: u64);
    /// An update, with the number of updates of the schedule.
    fn update(&mut self, entry: &UpdateLog, scheduled: usize);
    /// Something worth a line.
    fn note(&mut self, text: &str);
    /// Facts about the process, for the manifest.
    fn environment(&self) -> Map<String, Value>;
}

/// Trains a model of the run unless it is there: θ0 (`Iteration(0)`, by SFT),
/// the main player of iteration t (`Iteration(t + 1)`), or a baseline.
///
/// # Errors
/// Missing inputs, bad rows, a loss that is not finite, a full disk. The last
/// checkpoint is kept.
pub fn run(graph: &Graph<'_>, id: &ModelId, stop: &AtomicBool, watch: &mut dyn Watch) -> Result<Outcome> {
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
        let rows = Pair::read_all(pairs)?;
        let model = load(&start, graph, false)?;
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
    let config = config_of(graph, id)?;
    let random = matches!(id, ModelId::Iteration(0)) && graph.run.model.init == Init::Random;
    let (model, rows) = match loaded {
        Some((model, rows)) => (model, Some(rows)),
        None => (load(&start, graph, random)?, None),
    };
    let mut facts = Map::new();
    let (examples, held_out) = match &pairs {
        Some((t, artifact)) => {
            let rows = rows.map_or_else(|| Pair::read_all(artifact), Ok)?;
            let reference = spin_store::schema::ReferenceRow::read_all(&graph.reference(*t)?)?;
            (data::of_pairs(rows, &reference, &artifact.reference())?, Vec::new())
        }
        None => demonstrations(graph, &start, &model, &config, &mut facts)?,
    };
    watch.note(&format!(
        "{} rows, {} held out, {} parameters, objective {}",
        examples.len(),
        held_out.len(),
        model.num_params(),
        spin_store::run::as_params(&config.objective).as_str().unwrap_or_default()
    ));
    let mut trainer = Trainer {
        model,
        config: &config,
        examples: &examples,
        held_out: &held_out,
        seed: graph.run.seed,
        updates: recipe.params["updates"].as_u64().unwrap_or(0) as usize,
        files: Files {
            checkpoint: work.path("checkpoint.safetensors"),
            best: work.path("best.safetensors"),
            log: work.path("training_metrics.jsonl"),
        },
    };
    match trainer.run(stop, &mut |entry, scheduled| watch.update(entry, scheduled))? {
        End::Stopped(update) => Ok(Outcome::Stopped(format!("after update {update}"))),
        End::Finished(summary) => {
            add_facts(&mut facts, &summary, examples.len());
            let artifact = publish(graph, &recipe, &trainer.model, &start, &summary, facts, watch.environment())?;
            graph.store.discard_work(&identity)?;
            Ok(Outcome::Made(artifact))
        }
    }
}

fn config_of(graph: &Graph<'_>, id: &ModelId) -> Result<FitConfig> {
    Ok(match id {
        ModelId::Iteration(0) => graph.run.sft.clone().expect("checked by the recipe"),
        ModelId::Iteration(next) => graph.run.fit_at(next - 1)?,
        ModelId::Baseline(name) => graph.run.baseline_fit(graph.run.baseline_named(name)?)?,
    })
}

fn load(start: &Artifact, graph: &Graph<'_>, random: bool) -> Result<CausalLm> {
    if random {
        let config = ModelConfig::load(&start.dir)?;
        return Ok(CausalLm::init(&config, graph.run.seed, &Device::Cpu)?);
    }
    Ok(CausalLm::load(&start.dir, &Device::Cpu, DType::F32)?)
}

/// Training and held-out rows of a supervised training.
fn demonstrations(
    graph: &Graph<'_>,
    start: &Artifact,
    model: &CausalLm,
    config: &FitConfig,
    facts: &mut Map<String, Value>,
) -> Result<(Vec<Example>, Vec<Example>)> {
    let artifact = graph.demonstrations(Split::Train)?;
    let codec = spin_text::codec_of(graph, &start.dir)?;
    codec.check_vocab(model.config().vocab_size)?;
    let template = &graph.run.template;
    let context = model.config().max_position_embeddings;
    let lengths = Lengths {
        max_prompt_length: template.max_prompt_length.min(context - 1),
        max_length: template.max_length.min(context),
        overlong: template.overlong,
    };
    let rows = Demonstration::read_all(&artifact)?;
    let (mut examples, dropped) = data::of_demonstrations(&rows, &codec, lengths, &artifact.reference())?;
    facts.insert("dropped_over_length".into(), json!(dropped));
    let held_out = match config.eval_every {
        0 => Vec::new(),
        _ => examples.split_off(examples.len().saturating_sub(config.eval_rows)),
    };
    if examples.is_empty() {
        return Err(FitError::NoRows {
            table: artifact.reference(),
            why: format!("{} rows, {dropped} too long, {} held out", rows.len(), held_out.len()),
            remedy: "raise template.max_length or lower eval_rows".into(),
        });
    }
    Ok((examples, held_out))
}

fn add_facts(facts: &mut Map<String, Value>, summary: &Summary, rows: usize) {
    facts.insert("rows".into(), json!(rows));
    facts.insert("updates".into(), json!(summary.updates));
    facts.insert("scheduled_updates".into(), json!(summary.scheduled_updates));
    facts.insert("kept_update".into(), json!(summary.kept_update));
    facts.insert("first_loss".into(), json!(summary.log.first().map(|l| l.loss)));
    facts.insert("last_loss".into(), json!(summary.log.last().map(|l| l.loss)));
    if let Some(loss) = summary.best_eval_loss {
        facts.insert("best_eval_loss".into(), json!(loss));
    }
}

fn publish(
    graph: &Graph<'_>,
    recipe: &Recipe,
    model: &CausalLm,
    start: &Artifact,
    summary: &Summary,
    facts: Map<String, Value>,
    environment: Map<String, Value>,
) -> Result<Artifact> {
    let staged = graph.store.staging()?;
    let dir = staged.path();
    copy_companions(start, dir)?;
    model.save(dir)?;
    write(&dir.join("training_metrics.jsonl"), &trainer::log_text(&summary.log))?;
    write(&dir.join("README.md"), &model_card(recipe, start, &facts))?;
    Ok(graph.store.publish(staged, recipe, facts, environment)?)
}

fn write(path: &Path, text: &str) -> Result<()> {
    Ok(std::fs::write(path, text).map_err(StoreError::io("write", path))?)
}

/// Tokenizer, template and other files that belong to the model but are not
/// weights.
fn copy_companions(start: &Artifact, dir: &Path) -> Result<()> {
    let made_here = ["config.json", "README.md", "training_metrics.jsonl", "model.safetensors.index.json"];
    for file in &start.manifest.files {
        let skip =
            made_here.contains(&file.path.as_str()) || file.path.ends_with(".safetensors") || file.path.contains('/');
        if !skip {
            let from = start.dir.join(&file.path);
            std::fs::copy(&from, dir.join(&file.path)).map_err(StoreError::io("copy", &from))?;
        }
    }
    Ok(())
}

fn model_card(recipe: &Recipe, start: &Artifact, facts: &Map<String, Value>) -> String {
    let objective = recipe.params["fit"]["objective"].as_str().unwrap_or("unknown");
    let parents: String =
        recipe.parents.iter().map(|p| format!("- {}: `{}` ({})\n", p.role, p.reference, &p.content[..12])).collect();
    let pretty = |v: &Value| serde_json::to_string_pretty(v).unwrap_or_default();
    format!(
        "---\nlibrary_name: transformers\ntags:\n- spin\n- {objective}\n---\n\n# {}\n\nTrained from `{}` with objective \
         `{objective}`.\n\n## Made from\n\n{parents}\n## Settings\n\n```json\n{}\n```\n\n## Facts\n\n```json\n{}\n```\n",
        recipe.name,
        start.reference(),
        pretty(&recipe.params),
        pretty(&Value::Object(facts.clone())),
    )
}
