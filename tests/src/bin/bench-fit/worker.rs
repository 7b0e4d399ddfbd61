//! One measurement of spin-fit: the steps of a [`Learner`] on pairs whose
//! reference log-probabilities are known, as in `spin-fit` itself.

use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use candle_core::Device;
use serde_json::{Value, json};
use spin_fit::batches::Limit;
use spin_fit::data::{Example, Opponent};
use spin_fit::learner::Learner;
use spin_fit::{metrics::flops, reference};
use spin_model::{CausalLm, ModelConfig};
use spin_run::run::{Dtype, FitConfig};
use spin_tests::measure::{element, memory};

use crate::plan::Spec;

fn examples(spec: &Spec) -> anyhow::Result<Vec<Example>> {
    let text = std::fs::read_to_string(&spec.pairs).with_context(|| format!("{}", spec.pairs.display()))?;
    let mut examples = Vec::new();
    for (row, line) in text.lines().enumerate() {
        let value: Value = serde_json::from_str(line)?;
        let ids = |key: &str| serde_json::from_value::<Vec<u32>>(value[key].clone());
        let opponent =
            Opponent { generated_ids: ids("generated_ids")?, ref_real: 0.0, ref_generated: 0.0, initial_ids: None };
        examples.push(Example {
            row_id: row.to_string(),
            prompt_ids: ids("prompt_ids")?,
            real_ids: ids("real_ids")?,
            opponent: Some(opponent),
        });
    }
    // The same rows as the peer: in order, again from the start if too few.
    let needed = spec.batch_size * spec.max_steps;
    Ok((0..needed).map(|index| examples[index % examples.len()].clone()).collect())
}

/// Operations that a step really makes, recomputation included; products of
/// matrices only. A product forward is recomputed once and has two backward.
fn performed_flops(config: &ModelConfig, spec: &Spec, rows: &[Example]) -> f64 {
    let tables = |name: &str| name.contains("embed_tokens") || name.contains("lm_head");
    let blocks: usize = config
        .param_shapes()
        .iter()
        .filter(|(name, _)| !tables(name))
        .map(|(_, shape)| shape.iter().product::<usize>())
        .sum();
    let passes = if spec.gradient_checkpointing { 4.0 } else { 3.0 };
    // Scores and mixing forward; two more of each kind and the scores again backward.
    let attention_passes = if spec.gradient_checkpointing { 2.0 + 2.0 + 5.0 } else { 2.0 + 5.0 };
    let heads = (config.num_hidden_layers * config.num_attention_heads * config.head_dim) as f64;
    let head = (config.vocab_size * config.hidden_size) as f64;
    let (mut computed, mut seen, mut responses) = (0.0, 0.0, 0.0);
    for row in rows {
        let prompt = row.prompt_ids.len();
        for (index, answer) in row.answers().enumerate() {
            // The last token predicts nothing; the prompt is computed once.
            let all = (prompt + answer.len() - 1) as f64;
            let shared = if index > 0 && spec.share_prompts { prompt as f64 } else { 0.0 };
            computed += all - shared;
            seen += (all * (all + 1.0) - shared * (shared + 1.0)) / 2.0;
            responses += answer.len() as f64;
        }
    }
    2.0 * (passes * blocks as f64 * computed + attention_passes * heads * seen + 3.0 * head * responses)
}

/// The machine's ceiling: the best square product of about half a second of
/// them. Measured before and after, as machines have better and worse moments.
fn ceiling(dtype: Dtype) -> anyhow::Result<f64> {
    let mut best = 0.0_f64;
    for _ in 0..40 {
        best = best.max(flops::measure_peak(&Device::Cpu, element(dtype))?);
    }
    Ok(best)
}

pub fn run(path: &Path) -> anyhow::Result<()> {
    let spec: Spec = serde_json::from_slice(&std::fs::read(path)?)?;
    // As the program does.
    spin_cli::keep_freed_memory();
    rayon::ThreadPoolBuilder::new().num_threads(spec.threads).build_global()?;
    let before = ceiling(spec.dtype)?;
    let model = CausalLm::load(&spec.model, &Device::Cpu, element(spec.dtype))?
        .with_recompute(usize::from(spec.gradient_checkpointing))
        .with_shared_prompts(spec.share_prompts);
    let mut rows = examples(&spec)?;
    let groups: Vec<reference::Group<'_>> =
        rows.iter().map(|row| (row.prompt_ids.as_slice(), row.answers().collect())).collect();
    let start = Instant::now();
    let logps = reference::logps(&model, &groups, Limit::new(spec.batch_size, 0))?;
    let prepare_seconds = start.elapsed().as_secs_f64();
    // Of each answer, by token.
    let reference: Vec<f64> = rows
        .iter()
        .zip(&logps)
        .flat_map(|(row, logps)| row.answers().zip(logps).map(|(answer, logp)| logp / answer.len() as f64))
        .collect();
    for (row, logps) in rows.iter_mut().zip(logps) {
        let opponent = row.opponent.as_mut().context("made above")?;
        (opponent.ref_real, opponent.ref_generated) = (logps[0], logps[1]);
    }
    let mut config = FitConfig { micro_batch_size: spec.batch_size, ..FitConfig::default() };
    config.learning_rate = spec.learning_rate.unwrap_or(config.learning_rate);
    let model_flops = flops::ModelFlops::new(&model);
    let mut learner = Learner::new(model.clone(), &config, 1)?;
    // VmHWM starts again from what is resident now.
    let separate_peak = std::fs::write("/proc/self/clear_refs", "5").is_ok();
    let (mut seconds, mut losses, mut shares, mut used) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (step, rows) in rows.chunks(spec.batch_size).enumerate() {
        let update: Vec<&Example> = rows.iter().collect();
        let rate = config.learning_rate * (1.0 - step as f64 / spec.max_steps as f64);
        let start = Instant::now();
        let outcome = learner.update(&update, rate)?;
        let time = start.elapsed().as_secs_f64();
        seconds.push(time);
        losses.push(outcome.loss);
        shares.push(performed_flops(model.config(), &spec, rows) / time);
        used.push(model_flops.of_rows(&update) / time);
    }
    let resident = memory("VmHWM")?;
    let peak = before.max(ceiling(spec.dtype)?);
    let tokens = 2 * spec.batch_size * spec.length;
    let median = |values: &[f64]| {
        let mut values = if values.len() > 1 { values[1..].to_vec() } else { values.to_vec() };
        values.sort_by(f64::total_cmp);
        (values[(values.len() - 1) / 2] + values[values.len() / 2]) / 2.0
    };
    let line = json!({
        "step_seconds": seconds,
        "median_step_seconds": median(&seconds),
        "tokens_per_step": tokens,
        "tokens_per_second": tokens as f64 / median(&seconds),
        "losses": losses,
        "peak_resident": resident,
        "peak_resident_training": separate_peak.then_some(resident),
        "prepare_seconds": prepare_seconds,
        "reference_logps_per_token": spec.reference.then_some(reference),
        "matmul_gflops": peak / 1e9,
        "share_of_peak": median(&shares) / peak,
        "model_flops_utilisation": median(&used) / peak,
        "threads": rayon::current_num_threads(),
        "parameters": model.num_params(),
        "versions": { "spin-fit": env!("CARGO_PKG_VERSION") },
    });
    println!("{line}");
    Ok(())
}
