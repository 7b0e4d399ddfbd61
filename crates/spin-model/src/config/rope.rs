//! Rotary positions as a configuration describes them.

use serde_json::{Map, Value, json};

use super::architecture::Architecture;
use super::keys::Keys;
use crate::error::Result;

/// Rotary position embeddings (Su et al. 2021).
#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    /// Base of the wavelengths.
    pub theta: f64,
    /// Leading dimensions of a head that are rotated; even, at most `head_dim`.
    pub dim: usize,
    /// How wavelengths are stretched for longer contexts.
    pub scaling: RopeScaling,
}

/// How wavelengths are stretched; names and meaning are those of transformers'
/// `modeling_rope_utils`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All alike (Chen et al. 2023).
    Linear {
        /// By this much.
        factor: f64,
    },
    /// Long ones only, with a smooth transition (Llama 3.1).
    Llama3 {
        /// Stretches the longest.
        factor: f64,
        /// Wavelengths beyond `original / low_freq_factor` are stretched.
        low_freq_factor: f64,
        /// Wavelengths below `original / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Positions the model was first trained with.
        original_max_position_embeddings: f64,
    },
}

impl RopeConfig {
    /// Reads both generations of transformers: `rope_theta` with
    /// `rope_scaling`, and `rope_parameters`.
    pub(super) fn read(keys: &Keys<'_>, architecture: Architecture, head_dim: usize) -> Result<Self> {
        for key in ["rope_scaling", "rope_parameters"] {
            if keys.get(key).is_some_and(|table| !table.is_object()) {
                return Err(keys.error(format!("`{key}` must be an object or null")));
            }
        }
        let parameters = keys.get("rope_parameters").and_then(Value::as_object);
        let nested = |key: &str| parameters.and_then(|table| table.get(key)).and_then(Value::as_f64);
        let agreed = |key: &str, default: f64| match (keys.float(key)?, nested(key)) {
            (Some(top), Some(nested)) if top != nested => {
                Err(keys
                    .error(format!("{key} is {top} at the top level and {nested} in rope_parameters; they must agree")))
            }
            (Some(value), _) | (None, Some(value)) => Ok(value),
            (None, None) => Ok(default),
        };
        let theta = agreed("rope_theta", if architecture == Architecture::SmolLm3 { 2_000_000.0 } else { 10_000.0 })?;
        let dim = (head_dim as f64 * agreed("partial_rotary_factor", 1.0)?) as usize;
        if dim == 0 || !dim.is_multiple_of(2) || dim > head_dim {
            return Err(keys.error(format!(
                "{dim} of {head_dim} dimensions of a head would be rotated; rotary embeddings need pairs"
            )));
        }
        let mut scaling = RopeScaling::None;
        for key in ["rope_scaling", "rope_parameters"] {
            if let Some(table) = keys.get(key).and_then(Value::as_object) {
                let found = Self::read_scaling(keys, key, table)?;
                if scaling == RopeScaling::None {
                    scaling = found;
                }
            }
        }
        Ok(Self { theta, dim, scaling })
    }

    fn read_scaling(keys: &Keys<'_>, key: &str, table: &Map<String, Value>) -> Result<RopeScaling> {
        let number = |name: &str| {
            table
                .get(name)
                .and_then(Value::as_f64)
                .filter(|value| *value > 0.0)
                .ok_or_else(|| keys.error(format!("`{key}.{name}` must be a positive number")))
        };
        if let Some(layers) = table.keys().find(|name| name.ends_with("_attention")) {
            return Err(
                keys.error(format!("`{key}.{layers}`: rotary positions that differ by layer are not supported"))
            );
        }
        // "type" is the spelling of transformers before 4.43.
        let kind = table.get("rope_type").or_else(|| table.get("type")).and_then(Value::as_str).unwrap_or("default");
        match kind {
            "default" => Ok(RopeScaling::None),
            "linear" => Ok(RopeScaling::Linear { factor: number("factor")? }),
            "llama3" => {
                let scaling = RopeScaling::Llama3 {
                    factor: number("factor")?,
                    low_freq_factor: number("low_freq_factor")?,
                    high_freq_factor: number("high_freq_factor")?,
                    original_max_position_embeddings: number("original_max_position_embeddings")?,
                };
                match scaling {
                    RopeScaling::Llama3 { low_freq_factor, high_freq_factor, .. }
                        if low_freq_factor >= high_freq_factor =>
                    {
                        Err(keys.error(format!("`{key}`: low_freq_factor must be below high_freq_factor")))
                    }
                    scaling => Ok(scaling),
                }
            }
            other => {
                Err(keys
                    .error(format!("`{key}` of type `{other}` is not supported; supported: default, linear, llama3")))
            }
        }
    }

    /// Writes both spellings of what changed between transformers 4 and 5:
    /// mistral.rs 0.8.1 needs `rope_theta` and `rope_scaling` at the top level,
    /// transformers 5 reads `rope_parameters`.
    pub(super) fn write(&self, raw: &mut Map<String, Value>) {
        let scaling = match self.scaling {
            RopeScaling::None => json!({ "rope_type": "default" }),
            RopeScaling::Linear { factor } => json!({ "rope_type": "linear", "factor": factor }),
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings: original,
            } => json!({
                "rope_type": "llama3", "factor": factor, "low_freq_factor": low_freq_factor,
                "high_freq_factor": high_freq_factor, "original_max_position_embeddings": original as u64,
            }),
        };
        let mut parameters = scaling.clone();
        // What else the file says of its rotary embedding stays.
        if let Some(old) = raw.get("rope_parameters").and_then(Value::as_object) {
            for (key, value) in old {
                parameters.as_object_mut().expect("an object").entry(key).or_insert_with(|| value.clone());
            }
        }
        parameters["rope_theta"] = self.theta.into();
        raw.insert("rope_parameters".to_owned(), parameters);
        raw.insert("rope_theta".to_owned(), self.theta.into());
        let scaled = self.scaling != RopeScaling::None;
        raw.insert("rope_scaling".to_owned(), if scaled { scaling } else { Value::Null });
    }

    /// The angle by which one position turns each pair of dimensions, rounded
    /// to f32 where transformers rounds it.
    pub fn frequencies(&self) -> Vec<f32> {
        // transformers computes exponent, power and reciprocal in f32. At a few
        // thousand positions the last bit of a frequency is 1e-4 of an angle.
        let base = |i: usize| {
            let exponent = (2 * i) as f32 / self.dim as f32;
            1.0 / self.theta.powf(f64::from(exponent)) as f32
        };
        (0..self.dim / 2).map(|i| self.scaled(base(i))).collect()
    }

    fn scaled(&self, frequency: f32) -> f32 {
        match self.scaling {
            RopeScaling::None => frequency,
            RopeScaling::Linear { factor } => frequency / factor as f32,
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings: original,
            } => {
                let wavelength = std::f32::consts::TAU / frequency;
                let stretched = frequency / factor as f32;
                if wavelength < (original / high_freq_factor) as f32 {
                    frequency
                } else if wavelength > (original / low_freq_factor) as f32 {
                    stretched
                } else {
                    let smooth = (original as f32 / wavelength - low_freq_factor as f32)
                        / (high_freq_factor - low_freq_factor) as f32;
                    (1.0 - smooth) * stretched + smooth * frequency
                }
            }
        }
    }
}
