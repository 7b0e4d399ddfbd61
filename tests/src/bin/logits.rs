//! Prints our logits of a sequence as JSON, for `tests/golden/check_saved_model.py`.

use std::io::Write;
use std::path::PathBuf;

use clap::Parser;
use spin_model::CausalLm;

#[derive(Parser)]
#[command(about = "Print a model's logits of a sequence of token ids")]
struct Cli {
    /// A Hugging Face model directory
    model: PathBuf,
    /// Token ids
    #[arg(required = true)]
    ids: Vec<u32>,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let model = CausalLm::load(&cli.model, &candle_core::Device::Cpu, candle_core::DType::F32)?;
    let logits = model.logits(&cli.ids)?.to_vec2::<f32>()?;
    writeln!(std::io::stdout(), "{}", serde_json::json!({"ids": cli.ids, "logits": logits}))?;
    Ok(())
}
