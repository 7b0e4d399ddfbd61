//! The time of one training step (forward, backward, update of the weights)
//! with fused and composed kernels.
//!
//!     cargo run --release -p spin-model --example step_time -- [hidden] [layers] [batch]
#![allow(clippy::print_stdout, reason = "an example prints what it measured")]

use std::time::Instant;

use candle_core::Device;
use spin_model::{Batch, CausalLm, Kernels, ModelConfig};

const VOCAB: usize = 400;
const STEPS: usize = 20;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let sizes: Vec<usize> = std::env::args().skip(1).map(|arg| arg.parse()).collect::<Result<_, _>>()?;
    let size = |index: usize, default| sizes.get(index).copied().unwrap_or(default);
    let (hidden, layers, sequences) = (size(0, 128), size(1, 4), size(2, 64));
    let config = serde_json::json!({
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": VOCAB, "hidden_size": hidden, "intermediate_size": hidden * 8 / 3,
        "num_hidden_layers": layers, "num_attention_heads": 8, "num_key_value_heads": 4,
        "max_position_embeddings": 512, "tie_word_embeddings": true,
    });
    let config = ModelConfig::from_json(&config.to_string(), "step_time")?;
    let model = CausalLm::init(&config, 1, &Device::Cpu)?;
    let batch = batch(sequences)?;
    println!(
        "{} parameters, {} sequences of 40 to 70 tokens, {} tokens, {} of responses",
        model.num_params(),
        batch.len(),
        batch.num_tokens(),
        batch.num_response_tokens(),
    );
    for kernels in [Kernels::Fused, Kernels::Composed] {
        let model = model.with_kernels(kernels);
        step(&model, &batch)?;
        let mut times = Vec::new();
        for _ in 0..STEPS {
            let start = Instant::now();
            let forward = step(&model, &batch)?;
            times.push((start.elapsed().as_secs_f64() * 1e3, forward));
        }
        times.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (median, forward) = times[STEPS / 2];
        println!("{kernels:?}: {median:.1} ms a step, of which forward {forward:.1}");
    }
    Ok(())
}

fn batch(sequences: usize) -> Result<Batch, spin_model::Error> {
    let tokens: Vec<u32> = (0..10_000).map(|i| (i * 31 + 7) % VOCAB as u32).collect();
    let pairs: Vec<(&[u32], &[u32])> = (0..sequences)
        .map(|index| {
            let own = &tokens[index * 10..index * 10 + 40 + index * 7 % 31];
            own.split_at(15)
        })
        .collect();
    Batch::new(pairs)
}

/// Plain gradient descent, so that the optimiser costs little; returns the
/// milliseconds of the forward pass.
fn step(model: &CausalLm, batch: &Batch) -> Result<f64, Box<dyn std::error::Error>> {
    let start = Instant::now();
    let loss = model.response_logps(batch)?.mean_all()?.neg()?;
    let forward = start.elapsed().as_secs_f64() * 1e3;
    let grads = loss.backward()?;
    for var in model.params().values() {
        let grad = grads.get(var).ok_or("no gradient")?;
        var.set(&(var.as_tensor() - (grad * 1e-4)?)?.detach())?;
    }
    Ok(forward)
}
