//! The settings of an adapter, as PEFT's `adapter_config.json` has them.

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::neutral::{Neutral, allows};

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
    /// `all-linear` for every projection of the blocks; empty where
    /// [`LoraPatterns::target`] says it.
    pub target_modules: Vec<String>,
    /// Whether the scale is `lora_alpha / sqrt(r)` instead (Kalajdzievski
    /// 2023).
    pub use_rslora: bool,
    /// What differs between projections.
    pub patterns: LoraPatterns,
}

impl Default for LoraConfig {
    fn default() -> Self {
        let target_modules = ["q_proj", "k_proj", "v_proj", "o_proj"].map(str::to_owned).to_vec();
        Self {
            r: 16,
            lora_alpha: 32.0,
            lora_dropout: 0.05,
            target_modules,
            use_rslora: false,
            patterns: LoraPatterns::default(),
        }
    }
}

/// Which projections have adapters, and of which kind, beyond a list of names.
/// Rules are those of PEFT 0.21 (`tuners_utils.check_target_module_exists`,
/// `utils.other.get_pattern_key`).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LoraPatterns {
    /// A regular expression for whole names, instead of a list.
    pub target: Option<String>,
    /// Ranks other than `r`, by expressions for the ends of names; the first
    /// that matches holds.
    pub ranks: Vec<(String, usize)>,
    /// Values other than `lora_alpha`, likewise.
    pub alphas: Vec<(String, f64)>,
    /// The layers that have adapters; all where it is empty.
    pub layers: Vec<usize>,
    /// Expressions for what stands before a layer's number; anything where it
    /// is empty.
    pub layers_pattern: Vec<String>,
    /// Ends of names of projections without adapters.
    pub exclude: Vec<String>,
    /// A regular expression for whole names, instead of such a list.
    pub exclude_pattern: Option<String>,
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
    ("megatron_config", &[Neutral::Absent]),
    ("alora_invocation_tokens", &[Neutral::Absent]),
    ("modules_to_save", &[Neutral::Absent, Neutral::Empty]),
    ("target_parameters", &[Neutral::Absent, Neutral::Empty]),
    ("trainable_token_indices", &[Neutral::Absent, Neutral::Empty]),
    ("layer_replication", &[Neutral::Absent, Neutral::Empty]),
];

/// Keys that are read below.
const READ: &[&str] = &[
    "alpha_pattern",
    "exclude_modules",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "peft_type",
    "r",
    "rank_pattern",
    "target_modules",
    "use_rslora",
];

/// Keys that decide nothing of what a trained adapter computes: where it came
/// from, how it was initialised, what other kinds would need.
const INERT: &[&str] = &[
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "enable_lora",
    "ensure_weight_tying",
    "eva_config",
    "inference_mode",
    "loftq_config",
    "lora_ga_config",
    "megatron_core",
    "merge_weights",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
];

/// Whether a key of an `adapter_config.json` is known.
pub(super) fn is_known(key: &str) -> bool {
    READ.contains(&key)
        || INERT.contains(&key)
        || key.starts_with("unsloth_")
        || NEUTRAL.iter().any(|(name, _)| *name == key)
}

impl LoraConfig {
    /// The factor of the addition where no pattern says another rank or alpha.
    pub fn scale(&self) -> f64 {
        self.scale_of(self.r, self.lora_alpha)
    }

    /// The factor for a rank and an alpha.
    pub(super) fn scale_of(&self, r: usize, alpha: f64) -> f64 {
        alpha / if self.use_rslora { (r as f64).sqrt() } else { r as f64 }
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
            if !allows(neutral, get(key)) {
                return Err(error(format!("`{key}` is {}, which is not supported; train without it", get(key))));
            }
        }
        if let Some((key, value)) = raw.iter().find(|(key, value)| !value.is_null() && !is_known(key)) {
            return Err(error(format!(
                "the key `{key}` ({value}) is not known: it may change what the adapter computes; remove it if it \
                 decides nothing"
            )));
        }
        let number = |key: &str, default: f64| match get(key) {
            Value::Null => Ok(default),
            value => value.as_f64().ok_or_else(|| error(format!("`{key}` must be a number, not {value}"))),
        };
        let (target_modules, target) = match get("target_modules") {
            Value::String(all) if all == "all-linear" => (vec![all.clone()], None),
            Value::String(pattern) => (Vec::new(), Some(pattern.clone())),
            Value::Array(list) if !list.is_empty() && list.iter().all(Value::is_string) => {
                (list.iter().filter_map(Value::as_str).map(str::to_owned).collect(), None)
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
            patterns: LoraPatterns { target, ..LoraPatterns::read(&raw).map_err(error)? },
        };
        config.check().map_err(error)?;
        Ok(config)
    }

    /// Whether two settings make the same adapter; dropout may differ.
    pub(crate) fn computes_like(&self, other: &Self) -> bool {
        let sorted = |config: &Self| {
            let mut names = config.target_modules.clone();
            names.sort();
            names
        };
        self.r == other.r
            && self.scale() == other.scale()
            && sorted(self) == sorted(other)
            && self.patterns == other.patterns
    }

    /// The text to write as `adapter_config.json`. `base` is what PEFT loads
    /// the adapter onto by itself: a directory or a name on the hub.
    pub fn to_json(&self, base: &str) -> String {
        let mut value = json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base,
            "r": self.r,
            "lora_alpha": number(self.lora_alpha),
            "lora_dropout": self.lora_dropout,
            "target_modules": self.target_modules,
            "use_rslora": self.use_rslora,
            "bias": "none",
            "fan_in_fan_out": false,
            "init_lora_weights": true,
            "inference_mode": true,
            "modules_to_save": null,
        });
        self.patterns.write(&mut value);
        format!("{value:#}\n")
    }
}

impl LoraPatterns {
    /// All but the target, which is read with the list.
    fn read(raw: &Map<String, Value>) -> std::result::Result<Self, String> {
        let get = |key: &str| raw.get(key).unwrap_or(&Value::Null);
        let wrong = |key: &str, wanted: &str| format!("`{key}` must be {wanted}, not {}", get(key));
        let table = |key: &str| match get(key) {
            Value::Null => Ok(Vec::new()),
            Value::Object(map) => Ok(map.iter().collect::<Vec<_>>()),
            _ => Err(wrong(key, "an object of numbers by names")),
        };
        let index = |value: &Value| value.as_u64().and_then(|index| usize::try_from(index).ok());
        let names = |key: &str, value: &Value| match value {
            Value::Null => Ok(Vec::new()),
            Value::Array(list) => {
                let names = list.iter().map(|name| name.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>();
                names.ok_or_else(|| wrong(key, "a list of names"))
            }
            _ => Err(wrong(key, "a list of names")),
        };
        let ranks = table("rank_pattern")?.into_iter().map(|(name, rank)| Some((name.clone(), index(rank)?)));
        let alphas = table("alpha_pattern")?.into_iter().map(|(name, alpha)| Some((name.clone(), alpha.as_f64()?)));
        let layers = match get("layers_to_transform") {
            Value::Null => Some(Vec::new()),
            Value::Array(list) => list.iter().map(index).collect(),
            one => index(one).map(|one| vec![one]),
        };
        let (exclude, exclude_pattern) = match get("exclude_modules") {
            Value::String(pattern) if pattern.is_empty() => (Vec::new(), None),
            Value::String(pattern) => (Vec::new(), Some(pattern.clone())),
            list => (names("exclude_modules", list)?, None),
        };
        Ok(Self {
            target: None,
            ranks: ranks.collect::<Option<_>>().ok_or_else(|| wrong("rank_pattern", "whole numbers by names"))?,
            alphas: alphas.collect::<Option<_>>().ok_or_else(|| wrong("alpha_pattern", "numbers by names"))?,
            layers: layers.ok_or_else(|| wrong("layers_to_transform", "a number of a layer or a list of them"))?,
            layers_pattern: match get("layers_pattern") {
                Value::String(one) if one.is_empty() => Vec::new(),
                Value::String(one) => vec![one.clone()],
                list => names("layers_pattern", list)?,
            },
            exclude,
            exclude_pattern,
        })
    }

    /// Adds what is not as by default.
    fn write(&self, value: &mut Value) {
        let table = |pairs: Vec<(String, Value)>| Value::Object(pairs.into_iter().collect());
        if let Some(pattern) = &self.target {
            value["target_modules"] = pattern.clone().into();
        }
        if !self.ranks.is_empty() {
            value["rank_pattern"] = table(self.ranks.iter().map(|(key, rank)| (key.clone(), (*rank).into())).collect());
        }
        if !self.alphas.is_empty() {
            value["alpha_pattern"] =
                table(self.alphas.iter().map(|(key, alpha)| (key.clone(), number(*alpha))).collect());
        }
        if !self.layers.is_empty() {
            value["layers_to_transform"] = self.layers.clone().into();
        }
        if !self.layers_pattern.is_empty() {
            value["layers_pattern"] = self.layers_pattern.clone().into();
        }
        match &self.exclude_pattern {
            Some(pattern) => value["exclude_modules"] = pattern.clone().into(),
            None if !self.exclude.is_empty() => value["exclude_modules"] = self.exclude.clone().into(),
            None => {}
        }
    }
}

/// A whole number without a point, as PEFT has it.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 { json!(value as u64) } else { json!(value) }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
