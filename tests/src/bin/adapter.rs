//! Writes an adapter of ours with our logits, for `tests/golden/check_adapter.py`.

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use clap::Parser;
use spin_model::{CausalLm, LoraConfig};

#[derive(Parser)]
#[command(about = "Write a random adapter for a model, token ids, and our logits of them with the adapter on")]
struct Cli {
    /// A Hugging Face model directory
    model: PathBuf,
    /// Directory to write adapter/, ids.json and logits.safetensors to
    out: PathBuf,
    /// Scale as rsLoRA does
    #[arg(long)]
    rslora: bool,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let base = CausalLm::load(&cli.model, &Device::Cpu, DType::F32)?;
    let target_modules = vec!["all-linear".to_owned()];
    let config = LoraConfig {
        r: 3,
        lora_alpha: 6.0,
        lora_dropout: 0.1,
        target_modules,
        use_rslora: cli.rslora,
        ..LoraConfig::default()
    };
    let model = base.with_new_adapter(&config, 5)?;
    // A fresh adapter computes nothing: lora_B is 0.
    for (_, var) in model.trainable().iter().filter(|(name, _)| name.contains("lora_B")) {
        let values: Vec<f32> = (0..var.elem_count()).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.004).collect();
        var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu)?)?;
    }
    let adapter = cli.out.join("adapter");
    std::fs::create_dir_all(&adapter)?;
    model.save_adapter(&adapter, &cli.model.display().to_string(), None)?;
    let vocab = model.config().vocab_size as u32;
    let ids: Vec<Vec<u32>> = (1..4u32).map(|k| (0..8 * k).map(|i| (i * i * 5 + i * k + 3) % vocab).collect()).collect();
    let mut logits = HashMap::new();
    for (index, ids) in ids.iter().enumerate() {
        logits.insert(format!("logits.{index}"), model.logits(ids)?);
    }
    std::fs::write(cli.out.join("ids.json"), serde_json::to_string(&ids)?)?;
    candle_core::safetensors::save(&logits, cli.out.join("logits.safetensors"))?;
    Ok(())
}
