//! Low-rank adapters (Hu et al. 2021) in PEFT's own format.
//!
//! A directory holds `adapter_config.json` and `adapter_model.safetensors`, with
//! the names and meaning PEFT gives them, so that either side reads the
//! other's.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};
use serde_json::{Map, Value, json};

use crate::decoder::{Adapter, Decoder, Linear};
use crate::error::{Error, Result};
use crate::init;
use crate::params::Param;
use crate::weights;

const CONFIG_FILE: &str = "adapter_config.json";
const WEIGHTS_FILE: &str = "adapter_model.safetensors";
/// What PEFT puts before a module's name.
const PREFIX: &str = "base_model.model.";
/// In the metadata of the weights: what the adapter was trained on.
const BASE_KEY: &str = "spin.base";

/// No projection has more inputs or outputs, and a larger number is a mistake.
const MAX_RANK: usize = 65_536;

/// The settings of an adapter; names and defaults are those of PEFT's
/// `LoraConfig`.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraConfig {
    /// Rank of the addition.
    pub r: usize,
    /// The addition is scaled by `lora_alpha / r`.
    pub lora_alpha: f64,
    /// Share of an adapter's inputs dropped in training.
    pub lora_dropout: f64,
    /// The ends of the names of the projections that get an adapter, or
    /// `all-linear` for every projection of the blocks.
    pub target_modules: Vec<String>,
    /// Whether the scale is `lora_alpha / sqrt(r)` instead (Kalajdzievski
    /// 2023).
    pub use_rslora: bool,
}

impl Default for LoraConfig {
    fn default() -> Self {
        let target_modules = ["q_proj", "k_proj", "v_proj", "o_proj"].map(str::to_owned).to_vec();
        Self { r: 16, lora_alpha: 32.0, lora_dropout: 0.05, target_modules, use_rslora: false }
    }
}

/// Keys of PEFT's configuration that change what an adapter computes, with the
/// values under which it computes what this crate does.
const NEUTRAL: &[(&str, &[Neutral])] = &[
    ("bias", &[Neutral::Absent, Neutral::Text("none")]),
    // Others change the base's weights when PEFT loads the adapter.
    (
        "init_lora_weights",
        &[
            Neutral::Absent,
            Neutral::Flag(true),
            Neutral::Flag(false),
            Neutral::Text("gaussian"),
            Neutral::Text("eva"),
            Neutral::Text("orthogonal"),
        ],
    ),
    ("use_dora", &[Neutral::Absent, Neutral::Flag(false)]),
    ("fan_in_fan_out", &[Neutral::Absent, Neutral::Flag(false)]),
    ("lora_bias", &[Neutral::Absent, Neutral::Flag(false)]),
    ("use_qalora", &[Neutral::Absent, Neutral::Flag(false)]),
    ("use_bdlora", &[Neutral::Absent, Neutral::Flag(false)]),
    ("kasa_config", &[Neutral::Absent]),
    ("arrow_config", &[Neutral::Absent]),
    ("velora_config", &[Neutral::Absent]),
    ("monteclora_config", &[Neutral::Absent]),
    ("alora_invocation_tokens", &[Neutral::Absent]),
    ("modules_to_save", &[Neutral::Absent, Neutral::Empty]),
    ("rank_pattern", &[Neutral::Absent, Neutral::Empty]),
    ("alpha_pattern", &[Neutral::Absent, Neutral::Empty]),
    ("layers_to_transform", &[Neutral::Absent, Neutral::Empty]),
    ("exclude_modules", &[Neutral::Absent, Neutral::Empty]),
    ("target_parameters", &[Neutral::Absent, Neutral::Empty]),
    ("trainable_token_indices", &[Neutral::Absent, Neutral::Empty]),
    ("layer_replication", &[Neutral::Absent, Neutral::Empty]),
];

enum Neutral {
    Absent,
    Empty,
    Flag(bool),
    Text(&'static str),
}

impl Neutral {
    fn is(&self, value: &Value) -> bool {
        match self {
            Self::Absent => value.is_null(),
            Self::Empty => value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty),
            Self::Flag(flag) => value.as_bool() == Some(*flag),
            Self::Text(text) => value.as_str() == Some(text),
        }
    }
}

impl LoraConfig {
    /// The factor of the addition.
    pub fn scale(&self) -> f64 {
        self.lora_alpha / if self.use_rslora { (self.r as f64).sqrt() } else { self.r as f64 }
    }

    /// Parses the text of an `adapter_config.json`; `origin` names it in
    /// errors.
    ///
    /// # Errors
    ///
    /// If it is not LoRA, or asks for something this crate would compute
    /// wrongly.
    pub fn from_json(text: &str, origin: &str) -> Result<Self> {
        let error = |message: String| Error::Config { origin: origin.to_owned(), message };
        let raw: Map<String, Value> =
            serde_json::from_str(text).map_err(|problem| error(format!("not a JSON object: {problem}")))?;
        let get = |key: &str| raw.get(key).unwrap_or(&Value::Null);
        if get("peft_type").as_str() != Some("LORA") {
            return Err(error(format!("peft_type is {}; only LORA adapters are supported", get("peft_type"))));
        }
        for (key, neutral) in NEUTRAL {
            if !neutral.iter().any(|neutral| neutral.is(get(key))) {
                return Err(error(format!("`{key}` is {}, which is not supported; train without it", get(key))));
            }
        }
        let number = |key: &str, default: f64| match get(key) {
            Value::Null => Ok(default),
            value => value.as_f64().ok_or_else(|| error(format!("`{key}` must be a number, not {value}"))),
        };
        let target_modules = match get("target_modules") {
            Value::String(all) if all == "all-linear" => vec![all.clone()],
            Value::Array(list) if !list.is_empty() && list.iter().all(Value::is_string) => {
                list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
            }
            other => {
                return Err(error(format!(
                    "`target_modules` is {other}; give a list of names such as [\"q_proj\", \"v_proj\"]"
                )));
            }
        };
        let r = match get("r") {
            Value::Null => 8,
            value => value.as_u64().ok_or_else(|| error(format!("`r` must be a whole number, not {value}")))? as usize,
        };
        let use_rslora = match get("use_rslora") {
            Value::Null => false,
            value => {
                value.as_bool().ok_or_else(|| error(format!("`use_rslora` must be true or false, not {value}")))?
            }
        };
        let config = Self {
            r,
            lora_alpha: number("lora_alpha", 8.0)?,
            lora_dropout: number("lora_dropout", 0.0)?,
            target_modules,
            use_rslora,
        };
        config.check().map_err(error)?;
        Ok(config)
    }

    /// Whether the numbers make sense.
    ///
    /// # Errors
    ///
    /// A sentence on what does not.
    pub fn check(&self) -> std::result::Result<(), String> {
        if !(1..=MAX_RANK).contains(&self.r) {
            return Err(format!("`r` must be at least 1 and at most {MAX_RANK}, not {}", self.r));
        }
        if !(self.lora_alpha.is_finite() && self.lora_alpha > 0.0) {
            return Err(format!("`lora_alpha` must be positive, not {}", self.lora_alpha));
        }
        if !(0.0..1.0).contains(&self.lora_dropout) {
            return Err(format!("`lora_dropout` must be at least 0 and below 1, not {}", self.lora_dropout));
        }
        Ok(())
    }

    /// Whether two settings make the same adapter; dropout may differ.
    pub(crate) fn computes_like(&self, other: &Self) -> bool {
        let sorted = |config: &Self| {
            let mut names = config.target_modules.clone();
            names.sort();
            names
        };
        self.r == other.r && self.scale() == other.scale() && sorted(self) == sorted(other)
    }

    /// The text to write as `adapter_config.json`. `base` is what PEFT loads
    /// the adapter onto by itself: a directory or a name on the hub.
    pub fn to_json(&self, base: &str) -> String {
        let value = json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base,
            "r": self.r,
            "lora_alpha": if self.lora_alpha.fract() == 0.0 {
                json!(self.lora_alpha as u64)
            } else {
                json!(self.lora_alpha)
            },
            "lora_dropout": self.lora_dropout,
            "target_modules": self.target_modules,
            "use_rslora": self.use_rslora,
            "bias": "none",
            "fan_in_fan_out": false,
            "init_lora_weights": true,
            "inference_mode": true,
            "modules_to_save": null,
        });
        format!("{value:#}\n")
    }

    fn targets(&self, module: &str) -> bool {
        self.target_modules.iter().any(|target| {
            target == "all-linear"
                || module == target
                || module.strip_suffix(target).is_some_and(|rest| rest.ends_with('.'))
        })
    }
}

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
pub(crate) fn attach(
    decoder: &mut Decoder,
    config: &LoraConfig,
    source: &Source<'_>,
    device: &Device,
) -> Result<BTreeMap<String, Var>> {
    let mut adapters = BTreeMap::new();
    let modules: Vec<String> =
        decoder.layers.iter().flat_map(|layer| layer.linears().map(|linear| linear.module().to_owned())).collect();
    // A file may name projections of other models beside this one's, as PEFT's do.
    let fresh = matches!(source, Source::Seed(_));
    if fresh || !modules.iter().any(|module| config.targets(module)) {
        for target in &config.target_modules {
            let single = LoraConfig { target_modules: vec![target.clone()], ..config.clone() };
            if !modules.iter().any(|module| single.targets(module)) {
                let names = projections(decoder).join(", ");
                return Err(Error::Config {
                    origin: "target_modules".to_owned(),
                    message: format!("`{target}` names no projection of this model; it has: {names}"),
                });
            }
        }
    }
    for linear in decoder.layers.iter_mut().flat_map(crate::decoder::Layer::linears_mut) {
        if !config.targets(linear.module()) {
            continue;
        }
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
            Ok(Param { name, var })
        };
        let down = param("lora_A", [config.r, linear.inputs])?;
        let up = param("lora_B", [linear.outputs, config.r])?;
        linear.adapter =
            Some(Adapter { down, up, rank: config.r, scale: config.scale(), dropout: config.lora_dropout });
    }
    Ok(adapters)
}

/// The names and shapes of an adapter's tensors.
fn shapes(decoder: &Decoder, config: &LoraConfig) -> Vec<(String, Vec<usize>)> {
    let linears = decoder.layers.iter().flat_map(|layer| layer.linears());
    linears
        .filter(|linear| config.targets(linear.module()))
        .flat_map(|linear| {
            let name = |part: &str| format!("{PREFIX}{}.{part}.weight", linear.module());
            [(name("lora_A"), vec![config.r, linear.inputs]), (name("lora_B"), vec![linear.outputs, config.r])]
        })
        .collect()
}

/// Reads an adapter's directory for a model. If the file says which base it was
/// trained on and `base` is given, they must agree.
pub(crate) fn read(
    dir: &Path,
    decoder: &Decoder,
    base: Option<&str>,
    device: &Device,
) -> Result<(LoraConfig, BTreeMap<String, Tensor>)> {
    let path = dir.join(CONFIG_FILE);
    let text = std::fs::read_to_string(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
    let config = LoraConfig::from_json(&text, &path.display().to_string())?;
    let file = dir.join(WEIGHTS_FILE);
    let metadata = weights::read_metadata(&file)?;
    if let (Some(expected), Some(found)) = (base, metadata.get(BASE_KEY))
        && expected != found
    {
        return Err(Error::WeightsFile {
            path: file,
            message: format!(
                "the adapter was trained on the base {found}, not on {expected}; give the base it belongs to"
            ),
        });
    }
    let wanted = shapes(decoder, &config);
    let tensors = weights::read_files(&file, std::slice::from_ref(&file), &wanted, |_| false, device, DType::F32)
        .map_err(|error| match error {
            Error::Tensor { path, tensor, message } => {
                Error::Tensor { path, tensor, message: format!("{message}; is the adapter of another base model?") }
            }
            other => other,
        })?;
    Ok((config, tensors))
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
    Ok(sum.to_dtype(weight.dtype())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(key: &str, value: Value) -> String {
        let mut raw: Map<String, Value> = serde_json::from_str(&LoraConfig::default().to_json("base")).unwrap();
        raw.insert(key.to_owned(), value);
        LoraConfig::from_json(&Value::Object(raw).to_string(), "a/adapter_config.json").unwrap_err().to_string()
    }

    #[test]
    fn settings_survive_and_foreign_ones_are_refused() {
        let config = LoraConfig { use_rslora: true, lora_alpha: 6.5, ..LoraConfig::default() };
        assert_eq!(LoraConfig::from_json(&config.to_json("base"), "x").unwrap(), config);
        assert_eq!(config.scale(), 6.5 / 4.0);
        assert_eq!(LoraConfig::default().scale(), 2.0);
        assert!(refusal("peft_type", "IA3".into()).contains("only LORA"));
        assert!(refusal("use_dora", true.into()).contains("`use_dora` is true"));
        assert!(refusal("bias", "all".into()).contains("bias"));
        assert!(refusal("rank_pattern", json!({"q_proj": 4})).contains("rank_pattern"));
        assert!(refusal("target_modules", ".*proj".into()).contains("give a list"));
        assert!(refusal("lora_dropout", 1.0.into()).contains("below 1"));
        assert!(refusal("r", 0.into()).contains("at least 1"));
    }

    #[test]
    fn targets_are_whole_ends_of_names() {
        let config =
            LoraConfig { target_modules: vec!["q_proj".into(), "layers.1.mlp.up_proj".into()], ..Default::default() };
        assert!(config.targets("model.layers.0.self_attn.q_proj"));
        assert!(config.targets("model.layers.1.mlp.up_proj"));
        assert!(!config.targets("model.layers.11.mlp.up_proj") && !config.targets("model.layers.0.self_attn.aq_proj"));
        let all = LoraConfig { target_modules: vec!["all-linear".into()], ..Default::default() };
        assert!(all.targets("model.layers.0.mlp.down_proj"));
    }
}
