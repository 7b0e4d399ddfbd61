//! What becomes of a finished training: the model, and its metrics beside it.

use std::path::Path;

use serde_json::{Map, Value, json};
use spin_model::{CausalLm, LoraConfig};
use spin_run::graph::metrics_recipe;
use spin_run::schema::{MetricsRow, Row};
use spin_store::{Making, Recipe, Staged, StoreError, Verified, fsutil, table};

use crate::error::Result;
use crate::metrics::{LogLine, events, json_lines};
use crate::trainer::{EarlyStop, TrainingSummary};

/// Where a model's directory has the adapter that its weights were merged from.
const ADAPTER_DIR: &str = "adapter";

/// The run file's settings of an adapter as the model takes them.
pub fn peft(lora: &spin_run::run::LoraSettings) -> LoraConfig {
    LoraConfig {
        r: lora.r,
        lora_alpha: lora.lora_alpha,
        lora_dropout: lora.lora_dropout,
        target_modules: lora.target_modules.clone(),
        use_rslora: lora.use_rslora,
        ..LoraConfig::default()
    }
}

/// Adds what a training counted to the facts of its model.
pub fn add_facts(facts: &mut Map<String, Value>, summary: &TrainingSummary, rows: usize) {
    let loss = |line: Option<&LogLine>| json!(line.map(|l| l.update.loss));
    facts.insert("rows".into(), json!(rows));
    facts.insert("updates".into(), json!(summary.updates));
    facts.insert("scheduled_updates".into(), json!(summary.scheduled_updates));
    facts.insert("kept_update".into(), json!(summary.kept_update));
    facts.insert("skipped_updates".into(), json!(summary.skipped_updates));
    facts.insert("first_loss".into(), loss(summary.log.first()));
    facts.insert("last_loss".into(), loss(summary.log.last()));
    if let Some(loss) = summary.best_eval_loss {
        facts.insert("best_eval_loss".into(), json!(loss));
    }
    if let Some(line) = summary.log.iter().rev().find(|l| l.update.eval_margin.is_some()) {
        facts.insert("last_eval_margin".into(), json!(line.update.eval_margin));
        facts.insert("last_eval_accuracy".into(), json!(line.update.eval_accuracy));
    }
    if let Some(reason) = summary.early_stop {
        let reason = match reason {
            EarlyStop::Patience => "patience",
            EarlyStop::Margin => "stop_margin",
        };
        facts.insert("stopped_by".into(), json!(reason));
    }
    if let Some(line) = summary.log.iter().find(|l| l.update.real_falls) {
        facts.insert("real_falls_since_update".into(), json!(line.update.update));
    }
}

/// Publishes the metrics of the model that is made, unless a run that was
/// killed right afterwards did.
///
/// # Errors
/// When they cannot be written.
pub fn metrics(making: &Making<'_>, log: &[LogLine], facts: &Map<String, Value>) -> Result<()> {
    let recipe = metrics_recipe(making.recipe);
    making.context.make(&recipe, |making| -> Result<Staged> {
        let staged = making.staging()?;
        let rows: Vec<MetricsRow> = log.iter().map(LogLine::row).collect();
        MetricsRow::write_part(&staged.path().join(table::part_name(0)), &rows, &recipe.identity(), 0)?;
        fsutil::write_atomic(&staged.path().join(events::FILE_NAME), &events::file_of(log))?;
        Ok(Staged::new(staged, facts.clone()))
    })?;
    Ok(())
}

/// The model's directory.
///
/// # Errors
/// When it cannot be written.
pub fn model(
    making: &Making<'_>,
    model: &CausalLm,
    start: &Verified,
    log: &[LogLine],
    facts: Map<String, Value>,
) -> Result<Staged> {
    let staged = making.staging()?;
    let dir = staged.path();
    copy_companions(start, dir)?;
    if model.adapter().is_some() {
        // Whole weights, because generation takes a model; and the adapter
        // below, where transformers does not take it for the model's own.
        model.save_merged(dir)?;
        let adapter = dir.join(ADAPTER_DIR);
        std::fs::create_dir(&adapter).map_err(StoreError::io("create", &adapter))?;
        // The base by its content: a name says nothing about weights.
        let base = format!("model@{}", short(&start.manifest.content));
        model.save_adapter(&adapter, &base, Some(&start.manifest.content))?;
    } else {
        model.save(dir)?;
    }
    write(&dir.join("training_metrics.jsonl"), &json_lines(log.iter().map(|line| &line.update)))?;
    write(&dir.join("README.md"), &model_card(making.recipe, &facts))?;
    Ok(Staged::new(staged, facts))
}

fn write(path: &Path, text: &str) -> Result<()> {
    Ok(std::fs::write(path, text).map_err(StoreError::io("write", path))?)
}

/// Tokenizer, template and other files that belong to the model but are not
/// weights.
fn copy_companions(start: &Verified, dir: &Path) -> Result<()> {
    for file in &start.manifest.files {
        if is_companion(&file.path) {
            let from = start.dir().join(&file.path);
            std::fs::copy(&from, dir.join(&file.path)).map_err(StoreError::io("copy", &from))?;
        }
    }
    Ok(())
}

/// Whether a file of a model's directory is true of a model trained from it:
/// neither weights of any format nor what is written anew.
pub(crate) fn is_companion(path: &str) -> bool {
    let made_here = ["config.json", "README.md", "training_metrics.jsonl", "manifest.json", "adapter_config.json"];
    let weights = [".safetensors", ".index.json", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx"];
    !made_here.contains(&path) && !path.contains('/') && !weights.iter().any(|end| path.ends_with(end))
}

/// The first digits of a digest, as people write them.
fn short(digest: &str) -> &str {
    &digest[..digest.len().min(12)]
}

/// What a directory says about itself once it is away from its manifest.
/// Names and version numbers are the store's and not the model's, so there
/// are none: equal trainings give equal bytes in every run and every store.
fn model_card(recipe: &Recipe, facts: &Map<String, Value>) -> String {
    let objective = recipe.params["fit"]["objective"].as_str().unwrap_or("unknown");
    let parents: String = recipe.parents.iter().map(|p| format!("- {}: `{}`\n", p.role, short(&p.content))).collect();
    let pretty = |v: &Value| serde_json::to_string_pretty(v).unwrap_or_default();
    format!(
        "---\nlibrary_name: transformers\ntags:\n- spin\n- {objective}\n---\n\n# A model trained by SPIN in Rust\n\n\
         Trained with objective `{objective}`. A model is scored after it is made: its scores are an artifact of the \
         store that it comes from.\n\n## Made from\n\nDigests of content, to be found with `spin-store ls`:\n\n\
         {parents}\n## Settings\n\n```json\n{}\n```\n\n## Facts\n\n```json\n{}\n```\n",
        pretty(&recipe.params),
        pretty(&Value::Object(facts.clone())),
    )
}
