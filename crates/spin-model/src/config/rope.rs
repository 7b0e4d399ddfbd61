//! Rotary positions as a configuration describes them.

use serde_json::{Map, Value, json};

use super::architecture::Architecture;
use super::keys::{Keys, short};
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

/// The tables that describe rotary positions, with the names of their places.
fn tables(keys: &Keys<'_>) -> Result<Vec<(String, Map<String, Value>)>> {
    let mut tables = Vec::new();
    for key in ["rope_scaling", "rope_parameters"] {
        let Some(value) = keys.get(key) else { continue };
        let table = value.as_object().ok_or_else(|| keys.error(format!("`{key}` must be an object or null")))?;
        // By kind of layer, as transformers 5 has it for models whose layers differ.
        let mut flat = Map::new();
        for (name, value) in table {
            match value {
                Value::Object(inner) => tables.push((format!("{key}.{name}"), inner.clone())),
                Value::Null => {}
                value => {
                    flat.insert(name.clone(), value.clone());
                }
            }
        }
        if !flat.is_empty() {
            tables.push((key.to_owned(), flat));
        }
    }
    Ok(tables)
}

/// How a table says that wavelengths are stretched.
fn read_scaling(
    keys: &Keys<'_>,
    place: &str,
    table: &Map<String, Value>,
    max_position_embeddings: usize,
) -> Result<RopeScaling> {
    let optional = |name: &str| {
        let Some(value) = table.get(name) else { return Ok(None) };
        let number = value.as_f64().filter(|value| value.is_finite() && *value > 0.0);
        number.map(Some).ok_or_else(|| keys.error(format!("`{place}.{name}` must be a positive number")))
    };
    let number = |name: &str| {
        optional(name)?.ok_or_else(|| keys.error(format!("`{place}.{name}` is missing; it must be a positive number")))
    };
    let kind = |name: &str| {
        let Some(value) = table.get(name) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| keys.error(format!("`{place}.{name}` must be a string")))
    };
    // "type" is the spelling of transformers before 4.43.
    let kind = match (kind("rope_type")?, kind("type")?) {
        (Some(new), Some(old)) if new != old => {
            return Err(
                keys.error(format!("`{place}.rope_type` is `{new}` and `{place}.type` is `{old}`; they must agree"))
            );
        }
        (new, old) => new.or(old).unwrap_or("default"),
    };
    let (scaling, own): (_, &[&str]) = match kind {
        "default" => (RopeScaling::None, &[]),
        "linear" => (RopeScaling::Linear { factor: number("factor")? }, &["factor"]),
        "llama3" => {
            let top = keys.float("original_max_position_embeddings")?;
            let original = match (optional("original_max_position_embeddings")?, top) {
                (Some(nested), Some(top)) if nested != top => {
                    return Err(keys.error(format!(
                        "`original_max_position_embeddings` is {top} and `{place}.original_max_position_embeddings` is \
                         {nested}; they must agree"
                    )));
                }
                // transformers' default.
                (nested, top) => nested.or(top).unwrap_or(max_position_embeddings as f64),
            };
            let (low, high) = (number("low_freq_factor")?, number("high_freq_factor")?);
            if low >= high {
                return Err(keys.error(format!("`{place}`: low_freq_factor must be below high_freq_factor")));
            }
            let scaling = RopeScaling::Llama3 {
                factor: number("factor")?,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings: original,
            };
            (scaling, &["factor", "low_freq_factor", "high_freq_factor"])
        }
        other => {
            return Err(
                keys.error(format!("`{place}` of type `{other}` is not supported; supported: default, linear, llama3"))
            );
        }
    };
    // What is read elsewhere, and what only other kinds read and says nothing by itself.
    let common = ["rope_type", "type", "rope_theta", "partial_rotary_factor", "original_max_position_embeddings"];
    for (name, value) in table {
        let one = ["factor", "attention_factor"].contains(&name.as_str()) && value.as_f64() == Some(1.0);
        if !(own.contains(&name.as_str()) || common.contains(&name.as_str()) || one) {
            return Err(keys.error(format!(
                "`{place}.{name}` is {}, which positions of type `{kind}` do not read; set `rope_type`, or remove it",
                short(value)
            )));
        }
    }
    Ok(scaling)
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
    /// `rope_scaling`, and `rope_parameters`, flat or by kind of layer. What
    /// stands in more than one place must be the same there: transformers
    /// takes one of them without a word.
    pub(super) fn read(
        keys: &Keys<'_>,
        architecture: Architecture,
        head_dim: usize,
        max_position_embeddings: usize,
    ) -> Result<Self> {
        let tables = tables(keys)?;
        let agreed = |key: &str| -> Result<Option<f64>> {
            let mut found: Option<(String, f64)> = keys.float(key)?.map(|top| (format!("`{key}`"), top));
            for (place, table) in &tables {
                let Some(value) = table.get(key).filter(|value| !value.is_null()) else { continue };
                let number = value.as_f64().filter(|number| number.is_finite() && *number > 0.0);
                let number = number.ok_or_else(|| keys.error(format!("`{place}.{key}` must be a positive number")))?;
                match &found {
                    Some((before, other)) if *other != number => {
                        return Err(keys.error(format!(
                            "{before} is {other} and `{place}.{key}` is {number}; they must agree, or one of them go"
                        )));
                    }
                    _ => found = Some((format!("`{place}.{key}`"), number)),
                }
            }
            Ok(found.map(|(_, number)| number))
        };
        // The defaults of transformers' configuration classes.
        let default = if architecture == Architecture::SmolLm3 { 2_000_000.0 } else { 10_000.0 };
        let theta = agreed("rope_theta")?.unwrap_or(default);
        let part = agreed("partial_rotary_factor")?.unwrap_or(1.0);
        if part != 1.0 && architecture != Architecture::Phi3 {
            return Err(keys.error(format!(
                "`partial_rotary_factor` is {part}, but a {} rotates whole heads; remove it",
                architecture.name()
            )));
        }
        let dim = (head_dim as f64 * part) as usize;
        if dim == 0 || !dim.is_multiple_of(2) || dim > head_dim {
            return Err(keys.error(format!(
                "{dim} of {head_dim} dimensions of a head would be rotated; rotary embeddings need pairs"
            )));
        }
        let mut scaling: Option<(&str, RopeScaling)> = None;
        for (place, table) in &tables {
            let found = read_scaling(keys, place, table, max_position_embeddings)?;
            match &scaling {
                Some((before, other)) if *other != found => {
                    return Err(keys.error(format!(
                        "`{before}` and `{place}` describe different positions; they must agree, or one of them go"
                    )));
                }
                _ => scaling = Some((place, found)),
            }
        }
        let scaling = scaling.map_or(RopeScaling::None, |(_, scaling)| scaling);
        if architecture == Architecture::Phi3 && scaling != RopeScaling::None {
            return Err(
                keys.error("a Phi3ForCausalLM's positions are scaled by type `longrope` only, which is not supported")
            );
        }
        Ok(Self { theta, dim, scaling })
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
            for (key, value) in old.iter().filter(|(_, value)| !value.is_object()) {
                parameters.as_object_mut().expect("an object").entry(key).or_insert_with(|| value.clone());
            }
        }
        if let Some(part) = raw.get("rope_scaling").and_then(|old| old.get("partial_rotary_factor")) {
            parameters.as_object_mut().expect("an object").entry("partial_rotary_factor").or_insert(part.clone());
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
