//! Tokens per second of training and generation, beside what the device can do at
//! most: copy, and multiply.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::Context as _;
use candle_core::{Device, Tensor};
use serde_json::{Value, json};
use spin_cli::Place as Where;
use spin_fit::data::{Example, Opponent};
use spin_fit::learner::Learner;
use spin_fit::metrics::flops;
use spin_model::{CausalLm, ModelConfig};
use spin_run::run::{Dtype, FitConfig};
use spin_sample::answer::Wanted;
use spin_sample::choose::SamplingParams;
use spin_sample::engine::{self, Device as Place, EngineKind, EngineOptions, Memory, answer_all};
use spin_sample::noise::Key;
use spin_tests::measure::{element, median};

use crate::Line;

/// What is measured: a model's shape, and how much of it.
struct Size {
    name: &'static str,
    config: Value,
    dtype: Dtype,
    /// Pairs of an update, and tokens of prompt and of each answer.
    pairs: usize,
    tokens: usize,
    /// Sequences that are generated together, and new tokens of each.
    batch: usize,
    new_tokens: usize,
}

fn sizes(device: &Device) -> Vec<Size> {
    let llama = |hidden: usize, inner: usize, layers: usize, heads: usize, kv_heads: usize, vocab: usize| {
        json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": vocab, "hidden_size": hidden,
            "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads,
            "num_key_value_heads": kv_heads, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5,
            "tie_word_embeddings": true, "initializer_range": 0.02, "hidden_act": "silu", "rope_theta": 10000.0,
            "bos_token_id": 1, "eos_token_id": 2, "attention_bias": false, "mlp_bias": false,
        })
    };
    if device.is_cpu() {
        let config = llama(64, 128, 2, 4, 2, 512);
        return vec![Size { name: "tiny", config, dtype: Dtype::F32, pairs: 2, tokens: 32, batch: 8, new_tokens: 8 }];
    }
    vec![
        Size {
            name: "SmolLM2-135M's shape",
            config: llama(576, 1536, 30, 9, 3, 49152),
            dtype: Dtype::Bf16,
            pairs: 16,
            tokens: 256,
            batch: 256,
            new_tokens: 128,
        },
        Size {
            name: "Llama 3.2 1B's shape",
            config: llama(2048, 8192, 16, 32, 8, 128_256),
            dtype: Dtype::Bf16,
            pairs: 8,
            tokens: 512,
            batch: 256,
            new_tokens: 128,
        },
    ]
}

/// Bytes read and written per second by copies of a quarter of a GiB.
fn copy_rate(device: &Device) -> anyhow::Result<f64> {
    let numbers = if device.is_cpu() { 1 << 22 } else { 1 << 26 };
    let tensor = Tensor::full(0.37_f32, numbers, device)?;
    let mut best = 0.0_f64;
    for _ in 0..8 {
        device.synchronize()?;
        let start = Instant::now();
        let copy = tensor.copy()?;
        device.synchronize()?;
        best = best.max(8.0 * numbers as f64 / start.elapsed().as_secs_f64());
        drop(copy);
    }
    Ok(best)
}

fn ids(seed: usize, length: usize, vocab: usize) -> Vec<u32> {
    (0..length).map(|i| (3 + (seed * 131 + i * i * 7 + i * 29) % (vocab - 3)) as u32).collect()
}

/// Tokens per second of updates, and the share of the peak that the model's own
/// arithmetic takes.
fn fit(size: &Size, dir: &Path, device: &Device, peak: f64, own: bool) -> anyhow::Result<(f64, f64)> {
    let model = CausalLm::load(dir, device, element(size.dtype))?.with_recompute(1);
    let model = if own { model } else { model.composed_on(device)? };
    let vocab = model.config().vocab_size;
    let rows: Vec<Example> = (0..size.pairs)
        .map(|row| Example {
            row_id: row.to_string(),
            prompt_ids: ids(3 * row, size.tokens, vocab),
            real_ids: ids(3 * row + 1, size.tokens, vocab),
            opponent: Some(Opponent {
                generated_ids: ids(3 * row + 2, size.tokens, vocab),
                ref_real: -10.0 * size.tokens as f64,
                ref_generated: -10.0 * size.tokens as f64,
                initial_ids: None,
            }),
        })
        .collect();
    let rows: Vec<&Example> = rows.iter().collect();
    let config = FitConfig { batch_size: size.pairs, micro_batch_size: size.pairs, ..FitConfig::default() };
    let counted = flops::ModelFlops::new(&model).of_rows(&rows);
    let mut learner = Learner::new(model, &config, 1)?;
    let mut seconds = Vec::new();
    for _ in 0..5 {
        let start = Instant::now();
        learner.update(&rows, 1e-6)?;
        device.synchronize()?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    // The first also allocates.
    let time = median(seconds[1..].to_vec());
    Ok((4.0 * (size.pairs * size.tokens) as f64 / time, counted / time / peak))
}

/// New tokens per second.
fn sample(size: &Size, dir: &Path, place: Place, kind: EngineKind) -> anyhow::Result<f64> {
    let options = EngineOptions {
        kind,
        device: place,
        batch_size: size.batch,
        copies: 1,
        memory: Memory::Bytes(1 << 30),
        gpu_memory_utilization: 0.8,
    };
    let engine = engine::load(dir, size.dtype, &options)?;
    let vocab = size.config["vocab_size"].as_u64().context("a vocabulary")? as usize;
    let wanted = |number: usize| Wanted {
        row_id: number.to_string(),
        prompt_ids: ids(number, 64, vocab).into(),
        key: Key::new(1, "check", &number.to_string(), 0),
        decoding: SamplingParams::PLAIN,
        max_new_tokens: size.new_tokens,
        stop_ids: [].into(),
        stop: None,
    };
    let wanted: Vec<Wanted> = (0..size.batch).map(wanted).collect();
    let start = Instant::now();
    let outcomes = answer_all(engine.as_ref(), wanted, &|text| eprintln!("{text}"));
    let seconds = start.elapsed().as_secs_f64();
    let mut tokens = 0;
    for outcome in outcomes {
        tokens += outcome?.ids.len();
    }
    Ok(tokens as f64 / seconds)
}

/// What torch makes of the same, from its script.
fn peer(python: &Path, script: &Path, size: &Size, dir: &Path, device: &str) -> anyhow::Result<Value> {
    let spec = json!({
        "model": dir, "device": device, "dtype": size.dtype.name(), "pairs": size.pairs, "tokens": size.tokens,
        "batch": size.batch, "new_tokens": size.new_tokens,
    });
    let output = Command::new(python).arg(script).arg(spec.to_string()).output()?;
    let said = String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned();
    anyhow::ensure!(output.status.success(), "{} failed: {said}", script.display());
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Speeds of all sizes, and of the peers where a Python is given with their scripts.
pub fn measure(
    device: &Device,
    at: Where,
    place: &Path,
    data: &Path,
    peers: Option<(&Path, &Path)>,
) -> anyhow::Result<Vec<Line>> {
    let copied = copy_rate(device)?;
    let mut lines = vec![Line::told("copies, GB/s read and written", copied / 1e9)];
    for size in sizes(device) {
        let peak = flops::measure_peak(device, element(size.dtype))?;
        lines.push(Line::told(format!("products in {}, TFLOP/s", size.dtype), peak / 1e12));
        let dir: PathBuf = place.join(size.name.replace([' ', '\''], "-"));
        std::fs::create_dir_all(&dir)?;
        let config = ModelConfig::from_json(&size.config.to_string(), "gpu-check")?;
        let model = CausalLm::init(&config, 1, &Device::Cpu)?.to_dtype(element(size.dtype))?;
        let bytes = model.num_params() as f64 * size.dtype.bytes() as f64;
        model.save(&dir)?;
        drop(model);
        for file in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
            std::fs::copy(data.join("model").join(file), dir.join(file))?;
        }
        let mut add = |what: &str, found: f64| lines.push(Line::told(format!("{}, {what}", size.name), found));
        // On the CPU its own operations are looked at elsewhere.
        let ways: &[(bool, &str)] =
            if device.is_cpu() { &[(false, "")] } else { &[(false, " by candle's operations"), (true, "")] };
        for (own, suffix) in ways {
            let (speed, share) = fit(&size, &dir, device, peak, *own)?;
            add(&format!("training{suffix}, tokens/s"), speed);
            add(&format!("training{suffix}, share of the products' ceiling"), share);
        }
        let place = at.gpu().map_or(Place::Cpu, Place::Cuda);
        let engines: &[(EngineKind, &str)] = match place {
            Place::Cpu => &[(EngineKind::Auto, "")],
            Place::Cuda(_) => &[(EngineKind::Mistralrs, " by mistral.rs"), (EngineKind::SpinModel, "")],
        };
        for (kind, suffix) in engines {
            let speed = sample(&size, &dir, place, *kind)?;
            add(&format!("generation{suffix}, tokens/s"), speed);
            // Each step reads all weights.
            let share = speed / size.batch as f64 * bytes / copied;
            add(&format!("generation{suffix}, share of the copies' ceiling, by weights alone"), share);
        }
        if let Some((python, scripts)) = peers {
            let torch = peer(python, &scripts.join("gpu_peer.py"), &size, &dir, &at.to_string())?;
            for (key, what) in [("fit", "torch: training, tokens/s"), ("sample", "transformers: generation, tokens/s")]
            {
                add(what, torch[key].as_f64().unwrap_or(f64::NAN));
            }
        }
    }
    Ok(lines)
}
