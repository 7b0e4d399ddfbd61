//! Logits, log-probabilities, gradients and updates of small models of several kinds,
//! against the hand-written operations of the CPU in f32.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};
use spin_fit::data::{Example, Opponent};
use spin_fit::learner::Learner;
use spin_model::{Batch, CausalLm, Gradients, ModelConfig};
use spin_run::run::{FitConfig, OptimizerKind};

use crate::Line;

const VOCAB: usize = 1000;

/// What differs between families: key-value heads, norms of heads, norms after, soft
/// caps, windows, one table for both ends.
fn families() -> [(&'static str, Value); 3] {
    let base = json!({
        "vocab_size": VOCAB, "hidden_size": 96, "intermediate_size": 200, "num_hidden_layers": 3,
        "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5, "initializer_range": 0.1, "tie_word_embeddings": false, "eos_token_id": 2,
    });
    let with = |more: Value| {
        let mut config = base.clone();
        config.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        config
    };
    [
        ("Llama", with(json!({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}))),
        (
            "Qwen 3",
            with(json!({"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "tie_word_embeddings": true})),
        ),
        (
            "Gemma 2",
            with(json!({
                "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "query_pre_attn_scalar": 16,
                "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "sliding_window": 32,
                "hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": true,
            })),
        ),
    ]
}

fn config(json: &Value) -> anyhow::Result<ModelConfig> {
    Ok(ModelConfig::from_json(&json.to_string(), "gpu-check")?)
}

/// What computes on a device: candle's operations, and on a GPU our own kernels too.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Candle,
    Own,
}

impl Way {
    fn all(device: &Device) -> &'static [Way] {
        if device.is_cpu() { &[Way::Candle] } else { &[Way::Candle, Way::Own] }
    }

    /// After the name of what is checked.
    fn suffix(self) -> &'static str {
        match self {
            Way::Candle => "",
            Way::Own => ", own kernels",
        }
    }
}

/// The model on the CPU, and on the device with the operations of a GPU.
fn models(config: &ModelConfig, device: &Device, dtype: DType, way: Way) -> anyhow::Result<(CausalLm, CausalLm)> {
    let ours = CausalLm::init(config, 5, &Device::Cpu)?;
    let dir = tempfile::tempdir()?;
    ours.save(dir.path())?;
    let theirs = CausalLm::load(dir.path(), device, dtype)?;
    Ok((ours, if way == Way::Own { theirs } else { theirs.composed_on(device)? }))
}

fn ids(seed: usize, length: usize) -> Vec<u32> {
    (0..length).map(|i| ((seed * 131 + i * i * 7 + i * 29 + 5) % VOCAB) as u32).collect()
}

/// Pairs of very different lengths.
fn pairs(rows: usize) -> Vec<Example> {
    let length = |row: usize, factor: usize, most: usize| 1 + (row * factor + row * row * 3) % most;
    let pair = |row: usize| {
        let (prompt, real, generated) = (length(row, 7, 40), length(row, 11, 60), length(row, 5, 70));
        let uniform = -(VOCAB as f64).ln();
        let opponent = Opponent {
            generated_ids: ids(3 * row + 2, generated),
            ref_real: uniform * real as f64,
            ref_generated: uniform * generated as f64,
            initial_ids: None,
        };
        Example {
            row_id: row.to_string(),
            prompt_ids: ids(3 * row, prompt),
            real_ids: ids(3 * row + 1, real),
            opponent: Some(opponent),
        }
    };
    (0..rows).map(pair).collect()
}

fn numbers(tensor: &Tensor) -> anyhow::Result<Vec<f32>> {
    Ok(tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}

/// The largest difference, by the largest number of the first.
fn apart(a: &[f32], b: &[f32]) -> f64 {
    if a.len() != b.len() {
        return f64::INFINITY;
    }
    let largest = a.iter().fold(0.0_f32, |all, x| all.max(x.abs())).max(f32::MIN_POSITIVE);
    // A comparison would lose what is not a number.
    a.iter().zip(b).fold(0.0_f64, |all, (x, y)| {
        let apart = f64::from((x - y).abs() / largest);
        if apart.is_nan() { f64::INFINITY } else { all.max(apart) }
    })
}

/// Gradients of the sum of all log-probabilities, each weighed differently.
fn gradients(model: &CausalLm, batch: &Batch) -> anyhow::Result<BTreeMap<String, Tensor>> {
    let mut gradients = Gradients::zeros(model.trainable())?;
    let mut slopes = |group: usize, logps: &[f64]| -> Vec<f64> {
        (0..logps.len()).map(|answer| if answer == 0 { -0.1 } else { 0.07 } * (1.0 + group as f64 * 0.1)).collect()
    };
    model.accumulate_gradients(batch, 0.0, &mut slopes, &mut gradients)?;
    gradients.check_complete()?;
    Ok(gradients.to_tensors()?)
}

fn of_family(name: &str, json: &Value, device: &Device, dtype: DType, way: Way) -> anyhow::Result<Vec<Line>> {
    // What f32 rounds, and what bf16 does to a model of three blocks.
    let limit = if dtype == DType::F32 { 1e-4 } else { 8e-2 };
    let (ours, theirs) = models(&config(json)?, device, dtype, way)?;
    let mut lines = Vec::new();
    let mut add = |what: &str, found: f64| {
        let dtype = if dtype == DType::F32 { "f32" } else { "bf16" };
        lines.push(Line::at_most(format!("{name}, {dtype}, {what}{}", way.suffix()), found, limit));
    };
    let sequence = ids(77, 129);
    add("logits", apart(&numbers(&ours.logits(&sequence)?)?, &numbers(&theirs.logits(&sequence)?)?));
    let rows = pairs(7);
    let batch = Batch::grouped(rows.iter().map(|row| (row.prompt_ids.as_slice(), row.answers())))?;
    let logps = |model: &CausalLm| -> anyhow::Result<Vec<f32>> { Ok(model.response_token_logps(&batch)?.concat()) };
    add("log-probabilities", apart(&logps(&ours)?, &logps(&theirs)?));
    let (a, b) = (gradients(&ours, &batch)?, gradients(&theirs, &batch)?);
    let mut largest = 0.0_f64;
    for (name, tensor) in &a {
        let other = b.get(name).ok_or_else(|| anyhow::anyhow!("{name} has no gradient on the device"))?;
        largest = largest.max(apart(&numbers(tensor)?, &numbers(other)?));
    }
    add("gradients, the worst tensor", largest);
    Ok(lines)
}

/// Every family in f32, and in bf16 where the device computes in it.
pub fn check(device: &Device) -> anyhow::Result<Vec<Line>> {
    let mut lines = Vec::new();
    for ((name, json), way) in
        families().iter().flat_map(|family| Way::all(device).iter().map(move |way| (family, *way)))
    {
        lines.extend(of_family(name, json, device, DType::F32, way)?);
        if !device.is_cpu() {
            lines.extend(of_family(name, json, device, DType::BF16, way)?);
        }
    }
    Ok(lines)
}

/// Weights after some updates, and their losses.
fn trained(model: CausalLm, optimizer: OptimizerKind) -> anyhow::Result<(Vec<f32>, Vec<f32>)> {
    let config = FitConfig { optimizer, batch_size: 8, micro_batch_size: 4, ..FitConfig::default() };
    let mut learner = Learner::new(model, &config, 1)?;
    let rows = pairs(24);
    let mut losses = Vec::new();
    for rows in rows.chunks(8) {
        let rows: Vec<&Example> = rows.iter().collect();
        losses.push(learner.update(&rows, 1e-4)?.loss as f32);
    }
    let mut weights = Vec::new();
    for var in learner.model.trainable().values() {
        weights.extend(numbers(var.as_tensor())?);
    }
    Ok((weights, losses))
}

/// Three updates by each optimiser: against the CPU, and against themselves.
pub fn updates(device: &Device) -> anyhow::Result<Vec<Line>> {
    let mut lines = Vec::new();
    let [(name, json), ..] = families();
    let rules = [("RMSProp", OptimizerKind::Rmsprop), ("AdamW", OptimizerKind::Adamw)];
    for ((rule, optimizer), way) in
        rules.into_iter().flat_map(|rule| Way::all(device).iter().map(move |way| (rule, *way)))
    {
        let (ours, theirs) = models(&config(&json)?, device, DType::F32, way)?;
        let (_, losses) = trained(ours, optimizer)?;
        let (weights, on_device) = trained(theirs, optimizer)?;
        lines.push(Line::at_most(
            format!("{name}, f32, losses of 3 updates by {rule}{}", way.suffix()),
            apart(&losses, &on_device),
            1e-4,
        ));
        let (_, theirs) = models(&config(&json)?, device, DType::F32, way)?;
        let (again, _) = trained(theirs, optimizer)?;
        let other = weights.iter().zip(&again).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
        lines.push(Line::at_most(
            format!("{name}, f32, {rule}, weights of a second run that differ{}", way.suffix()),
            other as f64,
            0.0,
        ));
    }
    Ok(lines)
}
