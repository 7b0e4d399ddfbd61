//! The model that a training starts from, and the device it is on.

use std::path::Path;

use candle_core::{DType, Device};
use spin_model::{CausalLm, ModelConfig};
use spin_run::graph::Graph;
use spin_run::run::{FitConfig, FitDtype};
use spin_store::{Artifact, StoreError, Verified};

use crate::error::{FitError, Result};
use crate::publish;

/// `cuda` of `cuda:1`: which one of several computes changes nothing.
pub(crate) fn kind_of(device: &str) -> &str {
    device.split(':').next().unwrap_or(device)
}

/// The weights of a model, or new ones of its shape, in the type they are
/// trained in.
pub(crate) fn load(
    start: &Verified,
    graph: &Graph<'_>,
    config: &FitConfig,
    random: bool,
    device: &Device,
) -> Result<CausalLm> {
    let dtype = match config.dtype {
        FitDtype::F32 => DType::F32,
        FitDtype::Bf16 => DType::BF16,
    };
    let model = match random {
        true => CausalLm::init(&ModelConfig::load(start.dir())?, graph.run.seed, device)?.to_dtype(dtype)?,
        false => CausalLm::load(start.dir(), device, dtype)?,
    };
    Ok(model.with_recompute(config.recompute_every))
}

/// Checks an adapter to start from as far as that goes without weights.
pub(crate) fn check_adapter(graph: &Graph<'_>, config: &FitConfig) -> Result<()> {
    let Some((lora, from)) = config.lora.as_ref().and_then(|lora| Some((lora, lora.from.as_ref()?))) else {
        return Ok(());
    };
    let dir = graph.run.resolve(from);
    let path = dir.join("adapter_config.json");
    let text = std::fs::read_to_string(&path).map_err(StoreError::io("read", &path))?;
    let found = spin_model::LoraConfig::from_json(&text, &path.display().to_string())?;
    let wanted = publish::peft(lora);
    if found.r == wanted.r && found.scale() == wanted.scale() { Ok(()) } else { Err(other_adapter(&dir, &found)) }
}

fn other_adapter(dir: &Path, found: &spin_model::LoraConfig) -> FitError {
    FitError::OtherAdapter { path: dir.display().to_string(), found: found.to_json("").replace('\n', " ") }
}

/// The model with the adapter that is trained instead of its weights, if the
/// configuration has one. The reference was computed without it.
pub(crate) fn adapted(
    model: &CausalLm,
    config: &FitConfig,
    graph: &Graph<'_>,
    start: &Artifact,
    seed: u64,
) -> Result<CausalLm> {
    let Some(lora) = &config.lora else { return Ok(model.clone()) };
    let wanted = publish::peft(lora);
    let Some(from) = &lora.from else { return Ok(model.with_new_adapter(&wanted, seed)?) };
    let dir = graph.run.resolve(from);
    let model = model.load_adapter(&dir, Some(&start.manifest.content))?;
    match model.adapter() {
        Some(found) if !model.adapter_is(&wanted) => Err(other_adapter(&dir, found)),
        _ => Ok(model),
    }
}
