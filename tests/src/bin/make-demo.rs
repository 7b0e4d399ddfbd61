//! Writes the demo's data and model directory: `make-demo data/raw/demo`.

use std::path::PathBuf;

use clap::Parser;

#[derive(Parser)]
#[command(about = "Write the demo's data and model directory")]
struct Cli {
    /// Where to
    #[arg(default_value = "data/raw/demo")]
    dir: PathBuf,
}

fn main() -> anyhow::Result<()> {
    spin_tests::demo::write(&Cli::parse().dir)
}
