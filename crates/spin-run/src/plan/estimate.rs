//! What a step takes: what it cannot do with less of, and what it took before.

use std::path::Path;

use serde_json::{Value, json};

use super::forecast::{Forecast, parameters};
use super::{Options, Plan, Step};
use crate::graph::{Graph, ModelId, PairsOf, Product, Split};
use crate::run::{FitConfig, FitDtype, OptimizerKind};
use spin_store::error::Result;
use spin_store::store::Artifact;

/// What a step takes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resources {
    /// Where its model computes; `cpu` for steps without one.
    pub device: String,
    /// Bytes of memory for weights, gradients and an optimizer's state. What
    /// grows with rows (activations, keys and values, the process itself) comes
    /// on top.
    pub memory_at_least: Option<u64>,
    /// Seconds that it will take, reckoned from sizes and the machine's peak.
    pub expected_seconds: Option<f64>,
    /// Bytes that what it makes takes of the disk, the model of a training.
    pub disk: Option<u64>,
    /// What it, or one of its kind in this store, took.
    pub measured: Option<Cost>,
}

/// What a step took.
#[derive(Clone, Debug, PartialEq)]
pub struct Cost {
    /// Wall-clock time of the process that published, in seconds.
    pub seconds: f64,
    /// Its largest resident memory, in bytes.
    pub memory: Option<u64>,
    /// The artifact that has it in its record.
    pub of: String,
}

impl Resources {
    /// For other programs.
    pub(super) fn to_json(&self) -> Value {
        let measured = self
            .measured
            .as_ref()
            .map(|measured| json!({"seconds": measured.seconds, "memory_bytes": measured.memory, "of": measured.of}));
        json!({
            "device": self.device, "memory_at_least_bytes": self.memory_at_least, "measured": measured,
            "expected_seconds": self.expected_seconds, "disk_bytes": self.disk,
        })
    }

    /// Seconds, as measured or else as reckoned.
    pub fn seconds(&self) -> Option<f64> {
        self.measured.as_ref().map(|measured| measured.seconds).or(self.expected_seconds)
    }
}

/// Fills in shards and resources of all steps.
pub(super) fn fill(graph: &Graph<'_>, options: &Options, plan: &mut Plan) -> Result<()> {
    let config = base_config(graph);
    let weights = config.as_ref().and_then(parameters);
    let peak = options.peak_gflops.filter(|_| options.device == "cpu");
    let forecast = config.as_ref().zip(peak).and_then(|(config, peak)| Forecast::new(graph, config, peak * 1e9));
    let records = Records::read(graph)?;
    for step in &mut plan.steps {
        let computes = computes(&step.command);
        let generates = step.command[0] == "spin-sample";
        step.resources = Resources {
            device: if computes { options.device.clone() } else { "cpu".into() },
            memory_at_least: weights.filter(|_| computes).map(|weights| memory(graph, step, weights)).transpose()?,
            expected_seconds: forecast.as_ref().and_then(|forecast| forecast.seconds(step)),
            disk: weights.and_then(|weights| disk(graph, step, weights)),
            measured: records.of(step),
        };
        step.shards = if generates { shards(graph, step, options.shards.max(1)) } else { 1 };
    }
    Ok(())
}

/// Whether a step loads a model.
pub(super) fn computes(command: &[String]) -> bool {
    let program = command[0].as_str();
    let is_table = ["table", "--requests"].iter().any(|word| command.iter().any(|w| w == word));
    ["spin-fit", "spin-sample", "spin-bench"].contains(&program) && !is_table
}

fn base_config(graph: &Graph<'_>) -> Option<Value> {
    let read = |dir: &Path| serde_json::from_slice(&std::fs::read(dir.join("config.json")).ok()?).ok();
    let imported =
        graph.base().ok().and_then(|base| read(base.verified_where(|path| path == "config.json").ok()?.dir()));
    imported.or_else(|| read(&graph.run.resolve(&graph.run.model.path)))
}

/// Bytes that a step cannot do without.
fn memory(graph: &Graph<'_>, step: &Step, weights: u64) -> Result<u64> {
    let trained = step.makes.iter().find_map(|node| match &node.product {
        Product::Model(model) => Some(model),
        _ => None,
    });
    Ok(match trained {
        Some(model) => training(&graph.fit_of(model)?, weights),
        None if step.name.starts_with("eval-") => weights * graph.run.eval.dtype.bytes(),
        None if step.command[0] == "spin-sample" => weights * graph.run.sample.dtype.bytes(),
        None => weights * 4,
    })
}

/// Bytes of the model that a step makes.
fn disk(graph: &Graph<'_>, step: &Step, weights: u64) -> Option<u64> {
    let model = step.makes.iter().find_map(|node| match &node.product {
        Product::Model(model) => Some(model),
        _ => None,
    })?;
    let fit = graph.fit_of(model).ok()?;
    let bytes = match fit.dtype {
        FitDtype::F32 => 4,
        FitDtype::Bf16 => 2,
    };
    fit.lora.is_none().then_some(weights * bytes)
}

/// Weights, and where all are trained gradients, the optimizer's state and, for
/// weights of two bytes, masters: all in f32. One process that computes several
/// shares has the sum so far beside a share's gradients.
fn training(fit: &FitConfig, weights: u64) -> u64 {
    let own = match fit.dtype {
        FitDtype::F32 => 4,
        FitDtype::Bf16 => 2,
    };
    let state = match fit.optimizer {
        OptimizerKind::Adamw => 8,
        OptimizerKind::Rmsprop => 4,
    };
    let gradients = if fit.shards > 1 { 8 } else { 4 };
    match (&fit.lora, own) {
        (Some(_), own) => weights * own,
        (None, 4) => weights * (4 + gradients + state),
        (None, own) => weights * (own + 4 + gradients + state),
    }
}

/// No more shares than there are parts.
fn shards(graph: &Graph<'_>, step: &Step, asked: u32) -> u32 {
    let parts = step.makes.iter().filter_map(|node| parts(graph, &node.product));
    parts.max().map_or(asked, |parts| asked.min(u32::try_from(parts.max(1)).unwrap_or(u32::MAX)))
}

/// Into how many parts answers are generated, at most: prompts that are too long
/// are none of them. `None` for what is not generated, and before the import.
pub(crate) fn parts(graph: &Graph<'_>, product: &Product) -> Option<u64> {
    let (split, per_row, rows_per_part) = match product {
        Product::Samples(t) => {
            let config = graph.run.sample_at(*t).ok()?;
            (Split::Train, config.samples_per_prompt, config.rows_per_part)
        }
        Product::BenchSamples(..) => (Split::Test, 1, graph.run.sample.rows_per_part),
        _ => return None,
    };
    let rows = graph.demonstrations(split).ok()?.manifest.rows() * u64::from(per_row);
    Some(rows.div_ceil(rows_per_part as u64))
}

/// What is recorded of the run's artifacts.
struct Records(Vec<Artifact>);

impl Records {
    fn read(graph: &Graph<'_>) -> Result<Records> {
        let prefix = format!("{}/", graph.run.run);
        let own = graph.store.list()?.into_iter().filter(|(_, name, _)| name.starts_with(&prefix));
        // What is damaged says nothing; `verify` names it.
        let mut records: Vec<Artifact> = own.filter_map(|entry| graph.store.load_listed(&entry).ok()).collect();
        records.reverse();
        Ok(Records(records))
    }

    /// What making a step's first artifact took, or else the like of it; of a
    /// training its model, with which the process ended.
    fn of(&self, step: &Step) -> Option<Cost> {
        let mut made = step.makes.iter().filter(|node| !matches!(node.product, Product::Reference(_)));
        let node = made.next().filter(|_| step.name != "import")?;
        let own = |artifact: &&Artifact| format!("{}/{}", artifact.manifest.kind, artifact.manifest.name) == node.name;
        let stage = node.maker.id().name;
        let like = |artifact: &&Artifact| {
            let m = &artifact.manifest;
            m.kind == node.product.kind() && m.stage.name == stage && is_alike(&node.product, &m.name)
        };
        let found = self.0.iter().find(own).or_else(|| self.0.iter().find(like))?;
        let environment = &found.manifest.environment;
        Some(Cost {
            seconds: environment.get("seconds")?.as_f64()?,
            memory: environment.get("peak_memory_mib").and_then(Value::as_u64).map(|mib| mib << 20),
            of: found.manifest.reference(),
        })
    }
}

/// Whether an artifact of the same stage is of the same sort.
fn is_alike(product: &Product, name: &str) -> bool {
    let last = name.rsplit('/').next().unwrap_or(name);
    let is_round = last.strip_prefix("iter-").is_some_and(|t| t != "0");
    match product {
        Product::BenchSamples(_, decoding) => last == decoding.name() && name.contains("/bench/"),
        Product::Samples(_) => !name.contains("/bench/") && !name.ends_with("/eval"),
        Product::Model(ModelId::Iteration(t)) => *t > 0 && is_round,
        Product::Model(ModelId::Baseline(_)) => false,
        Product::Pairs(PairsOf::Baseline(_)) => false,
        Product::Evaluation(_, unit) => last == unit,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn training_takes_weights_gradients_state_and_masters() {
        let mut fit = FitConfig { optimizer: OptimizerKind::Adamw, dtype: FitDtype::F32, ..FitConfig::default() };
        assert_eq!(training(&fit, 10), 160);
        fit.optimizer = OptimizerKind::Rmsprop;
        assert_eq!(training(&fit, 10), 120);
        assert_eq!(training(&FitConfig { shards: 2, ..fit.clone() }, 10), 160);
        fit.dtype = FitDtype::Bf16;
        assert_eq!(training(&fit, 10), 140);
        fit.lora = Some(serde_json::from_value(json!({"r": 4})).expect("a table"));
        assert_eq!(training(&fit, 10), 20);
    }

    #[test]
    fn weights_are_counted_as_llama_2_7b_has_them() {
        let config = json!({
            "hidden_size": 4096, "num_hidden_layers": 32, "vocab_size": 32000, "intermediate_size": 11008,
            "num_attention_heads": 32, "tie_word_embeddings": false,
        });
        assert_eq!(parameters(&config), Some(6_738_415_616));
        assert_eq!(parameters(&json!({"hidden_size": 4096})), None);
    }
}
