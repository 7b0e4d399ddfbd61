//! Low-rank adapters (Hu et al. 2021) in PEFT's own format.
//!
//! A directory holds `adapter_config.json` and `adapter_model.safetensors`, with
//! the names and meaning PEFT gives them, so that either side reads the
//! other's.

mod config;
mod pattern;
mod targets;

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};

use crate::decoder::{Adapter, Decoder, Linear};
use crate::error::{Error, Result};
use crate::init;
use crate::params::Param;
use crate::weights::{self, Header, Leftover};
pub use config::{LoraConfig, LoraPatterns};
use targets::Targets;

const CONFIG_FILE: &str = "adapter_config.json";
const WEIGHTS_FILE: &str = "adapter_model.safetensors";
/// What PEFT puts before a module's name.
const PREFIX: &str = "base_model.model.";
/// In the metadata of the weights: what the adapter was trained on.
const BASE_KEY: &str = "spin.base";

/// The settings with `all-linear` written out, as PEFT has it in its files.
pub(crate) fn expanded(decoder: &Decoder, config: &LoraConfig) -> LoraConfig {
    if !config.target_modules.iter().any(|target| target == "all-linear") {
        return config.clone();
    }
    LoraConfig { target_modules: projections(decoder), ..config.clone() }
}

/// The last parts of the names of the projections, sorted.
fn projections(decoder: &Decoder) -> Vec<String> {
    let modules = decoder.layers.iter().flat_map(|layer| layer.linears().map(Linear::module));
    let mut names: Vec<String> = modules.filter_map(|module| module.rsplit('.').next()).map(str::to_owned).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Where an adapter's weights come from.
pub(crate) enum Source<'a> {
    /// As PEFT initialises: `lora_A` uniform, `lora_B` zero.
    Seed(u64),
    /// A file's tensors by name.
    Tensors(&'a BTreeMap<String, Tensor>),
}

/// Gives the targeted projections adapters, and returns their tensors, which
/// are f32 whatever the type of the model's.
pub(crate) fn attach(decoder: &mut Decoder, config: &LoraConfig, source: &Source<'_>) -> Result<BTreeMap<String, Var>> {
    let device = &place(decoder);
    let mut adapters = BTreeMap::new();
    let modules: Vec<String> =
        decoder.layers.iter().flat_map(|layer| layer.linears().map(|linear| linear.module().to_owned())).collect();
    // A file may name projections of other models beside this one's, as PEFT's do.
    let fresh = matches!(source, Source::Seed(_));
    let wrong = |message: String| Error::Config { origin: "target_modules".to_owned(), message };
    let targets = Targets::of(config).map_err(wrong)?;
    let chosen = modules.iter().map(|module| targets.has(module)).collect::<std::result::Result<Vec<_>, _>>();
    if fresh || !chosen.map_err(wrong)?.contains(&true) {
        let names = || projections(decoder).join(", ");
        for target in &config.target_modules {
            let single = LoraConfig { target_modules: vec![target.clone()], ..config.clone() };
            let single = Targets::of(&single).map_err(wrong)?;
            if !modules.iter().any(|module| single.has(module) == Ok(true)) {
                return Err(wrong(format!("`{target}` names no projection of this model; it has: {}", names())));
            }
        }
        if let Some(pattern) = &config.patterns.target {
            return Err(wrong(format!(
                "`{pattern}` matches the name of no projection of this model; it has: {}",
                names()
            )));
        }
    }
    for linear in decoder.layers.iter_mut().flat_map(crate::decoder::Layer::linears_mut) {
        if !targets.has(linear.module()).map_err(wrong)? {
            continue;
        }
        let (rank, scale) = targets.rank_and_scale(linear.module()).map_err(wrong)?;
        let mut param = |part: &str, shape: [usize; 2]| -> Result<Param> {
            let name = format!("{PREFIX}{}.{part}.weight", linear.module());
            let tensor = match source {
                Source::Tensors(tensors) => tensors[&name].clone(),
                Source::Seed(seed) if part == "lora_A" => {
                    // kaiming_uniform with a = sqrt(5): bounded by 1 / sqrt(inputs).
                    let bound = 1.0 / (shape[1] as f32).sqrt();
                    let values = init::uniform(*seed, &name, shape[0] * shape[1]);
                    Tensor::from_vec(values.into_iter().map(|x| x * bound).collect::<Vec<_>>(), &shape, device)?
                }
                Source::Seed(_) => Tensor::zeros(&shape, DType::F32, device)?,
            };
            let var = Var::from_tensor(&tensor)?;
            adapters.insert(name.clone(), var.clone());
            Ok(Param::new(name, var))
        };
        let down = param("lora_A", [rank, linear.inputs])?;
        let up = param("lora_B", [linear.outputs, rank])?;
        linear.adapter = Some(Adapter { down, up, rank, scale, dropout: config.lora_dropout });
    }
    Ok(adapters)
}

/// Where the base's weights are, and the adapter's beside them.
fn place(decoder: &Decoder) -> Device {
    decoder.embedding.var.device().clone()
}

/// The names and shapes of an adapter's tensors, with the inputs and outputs of
/// the projection.
fn shapes(decoder: &Decoder, targets: &Targets<'_>) -> std::result::Result<Vec<(String, Vec<usize>)>, String> {
    let mut shapes = Vec::new();
    for linear in decoder.layers.iter().flat_map(|layer| layer.linears()) {
        if targets.has(linear.module())? {
            let (rank, _) = targets.rank_and_scale(linear.module())?;
            let name = |part: &str| format!("{PREFIX}{}.{part}.weight", linear.module());
            shapes.push((name("lora_A"), vec![rank, linear.inputs]));
            shapes.push((name("lora_B"), vec![linear.outputs, rank]));
        }
    }
    Ok(shapes)
}

/// The modules outside of the blocks that PEFT can give adapters.
const OUTSIDE: [(&str, &str); 2] = [("lm_head", "the output projection"), ("model.embed_tokens", "the embedding")];

/// Weights of the base that PEFT writes beside an adapter where it was told to,
/// or the vocabulary has grown: what stands for them in the base.
fn base_weight<'a>(name: &str, decoder: &'a Decoder) -> Option<&'a Param> {
    let name = name.strip_prefix(PREFIX)?.replace(".base_layer.", ".");
    match name.as_str() {
        "model.embed_tokens.weight" => Some(&decoder.embedding),
        "lm_head.weight" => Some(&decoder.output),
        _ => None,
    }
}

/// Reads an adapter's directory for a model. If the file says which base it was
/// trained on and `base` is given, they must agree.
pub(crate) fn read(
    dir: &Path,
    decoder: &Decoder,
    base: Option<&str>,
) -> Result<(LoraConfig, BTreeMap<String, Tensor>)> {
    let path = dir.join(CONFIG_FILE);
    let text = std::fs::read_to_string(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
    let config = LoraConfig::from_json(&text, &path.display().to_string())?;
    let wrong = |message: String| Error::Config { origin: path.display().to_string(), message };
    let targets = Targets::of(&config).map_err(wrong)?;
    for (module, what) in OUTSIDE {
        // `all-linear` is of the blocks.
        let all = config.target_modules.iter().any(|target| target == "all-linear");
        if !all && targets.has(module).map_err(wrong)? {
            return Err(wrong(format!(
                "`target_modules` means `{module}`, too: an adapter on {what} is not supported; merge it with PEFT \
                 (`merge_and_unload`), or train without it"
            )));
        }
    }
    let file = dir.join(WEIGHTS_FILE);
    if !file.exists() && dir.join("adapter_model.bin").exists() {
        return Err(Error::WeightsFile {
            path: dir.join("adapter_model.bin"),
            message: "only safetensors files are read; load the adapter with PEFT and save it again".to_owned(),
        });
    }
    let header = Header::open(&file)?;
    if let (Some(expected), Some(found)) = (base, header.metadata.get(BASE_KEY))
        && expected != found
    {
        return Err(Error::WeightsFile {
            path: file,
            message: format!(
                "the adapter was trained on the base {found}, not on {expected}; give the base it belongs to"
            ),
        });
    }
    let wanted = shapes(decoder, &targets).map_err(wrong)?;
    check_ranks(&header, &wanted).map_err(wrong)?;
    let leftover = |name: &str| {
        if base_weight(name, decoder).is_some() {
            Leftover::Checked
        } else if name.contains("lora_magnitude_vector") {
            Leftover::Refused("is of DoRA, which is not supported; train without it".to_owned())
        } else if name.contains("lora_") {
            Leftover::Refused(format!(
                "belongs to no projection that {CONFIG_FILE} gives an adapter; correct it; is the adapter of another \
                 base model?"
            ))
        } else {
            Leftover::Refused("is no part of an adapter; is it of modules that were trained as a whole?".to_owned())
        }
    };
    let (tensors, rest) = weights::read_tensors(&header, &wanted, leftover, &place(decoder), DType::F32).map_err(
        |error| match error {
            Error::Tensor { path, tensor, message } if message.contains("missing") || message.contains("shape") => {
                let message = message.replace("config.json", "the base model");
                Error::Tensor { path, tensor, message: format!("{message}; is the adapter of another base model?") }
            }
            other => other,
        },
    )?;
    for name in rest {
        let Some(own) = base_weight(&name, decoder) else { continue };
        if !weights::compare(&header, &name, &own.var.as_detached_tensor())? {
            return Err(Error::Tensor {
                path: file.display().to_string(),
                tensor: name,
                message: "is not the base's: the adapter was trained with a changed embedding or output projection, \
                          which is not supported; merge it with PEFT (`merge_and_unload`)"
                    .to_owned(),
            });
        }
    }
    Ok((config, tensors))
}

/// Whether the tensors have the ranks of the settings, where everything else
/// fits.
fn check_ranks(header: &Header, wanted: &[(String, Vec<usize>)]) -> std::result::Result<(), String> {
    for pair in wanted.chunks_exact(2) {
        let [(down_name, down), (_, up)] = pair else { continue };
        let shape = |name: &str| header.entry(name).map(|entry| entry.shape.as_slice());
        let (Some([rank, inputs]), Some([outputs, up_rank])) = (shape(down_name), shape(&pair[1].0)) else { continue };
        if rank != &down[0] && rank == up_rank && inputs == &down[1] && outputs == &up[0] {
            return Err(format!(
                "`r` (or `rank_pattern`) makes adapters of rank {} where tensor `{down_name}` of {} has rank {rank}; \
                 correct it there, or give the tensors that belong to it",
                down[0],
                header.path.display()
            ));
        }
    }
    Ok(())
}

/// Writes an adapter's directory.
pub(crate) fn write(
    dir: &Path,
    config: &LoraConfig,
    adapters: &BTreeMap<String, Var>,
    base_path: &str,
    base: Option<&str>,
) -> Result<()> {
    weights::write_bytes(&dir.join(CONFIG_FILE), config.to_json(base_path).as_bytes())?;
    let tensors = adapters.iter().map(|(name, var)| weights::Stored::of(name, var.as_detached_tensor())).collect();
    let extra: Vec<(&str, &str)> = base.map(|base| (BASE_KEY, base)).into_iter().collect();
    weights::write_file(&dir.join(WEIGHTS_FILE), tensors, &extra)
}

/// The projections that have adapters, by the names of their weights.
pub(crate) fn adapted(decoder: &Decoder) -> BTreeMap<&str, &Linear> {
    let linears = decoder.layers.iter().flat_map(|layer| layer.linears());
    linears.filter(|linear| linear.adapter.is_some()).map(|linear| (linear.weight.name.as_str(), linear)).collect()
}

/// A projection's weight with its adapter added: W + scale B A, computed in f32
/// and rounded once.
pub(crate) fn merged(linear: &Linear) -> Result<Tensor> {
    let weight = linear.weight.var.as_detached_tensor();
    let Some(adapter) = &linear.adapter else { return Ok(weight) };
    let delta = adapter.up.var.as_detached_tensor().matmul(&adapter.down.var.as_detached_tensor())?;
    let sum = (weight.to_dtype(DType::F32)? + (delta * adapter.scale)?)?;
    let sum = sum.to_dtype(weight.dtype())?;
    if weights::is_finite(&sum)? {
        return Ok(sum);
    }
    Err(Error::Tensor {
        path: "the adapter merged into its base".to_owned(),
        tensor: linear.weight.name.clone(),
        message: "would hold NaN or an infinity; the adapter is damaged, or its training had diverged".to_owned(),
    })
}
