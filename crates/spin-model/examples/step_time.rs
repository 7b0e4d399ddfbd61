//! The time of the forward and backward pass of pairs, by kernels and settings;
//! a place to attach a profiler to.
//!
//!     step_time MODEL_DIR PAIRS.jsonl [pairs per batch] [recompute every] [share prompts 0/1] [repetitions]
#![allow(clippy::print_stdout, reason = "an example prints what it measured")]

use std::time::Instant;

use candle_core::{DType, Device};
use spin_model::{Batch, CausalLm, Gradients};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize, default: usize| args.get(index).map_or(Ok(default), |arg| arg.parse());
    let (pairs, recompute, share, repetitions) = (number(2, 4)?, number(3, 1)?, number(4, 1)? > 0, number(5, 5)?);
    let model = CausalLm::load(args[0].as_ref(), &Device::Cpu, DType::F32)?;
    let model = model.with_recompute(recompute).with_shared_prompts(share);
    let mut rows = Vec::new();
    for line in std::fs::read_to_string(&args[1])?.lines().take(pairs) {
        let row: serde_json::Value = serde_json::from_str(line)?;
        let ids = |key: &str| serde_json::from_value::<Vec<u32>>(row[key].clone());
        rows.push([ids("prompt_ids")?, ids("real_ids")?, ids("generated_ids")?]);
    }
    let groups = rows.iter().map(|[prompt, real, generated]| (prompt.as_slice(), [real.as_slice(), generated]));
    let batch = Batch::grouped(groups)?;
    let mut grads = Gradients::zeros(model.trainable())?;
    let mut best = f64::INFINITY;
    for _ in 0..repetitions {
        let start = Instant::now();
        grads.clear()?;
        model.accumulate_gradients(&batch, 0.0, &mut |_, _| vec![-0.05, 0.05], &mut grads)?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    println!("{} tokens in {best:.3} s: {:.0} tokens/s", batch.num_tokens(), batch.num_tokens() as f64 / best);
    Ok(())
}
