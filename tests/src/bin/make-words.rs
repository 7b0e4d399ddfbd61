//! Writes the words' data and model directory: `make-words cmudict.dict`.

use std::path::PathBuf;

use clap::Parser;

#[derive(Parser)]
#[command(about = "Write the pronunciation task's data and model directory")]
struct Cli {
    /// The CMU Pronouncing Dictionary
    dictionary: PathBuf,
    /// Where to
    #[arg(default_value = "data/raw/words")]
    dir: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    spin_tests::words::write(&std::fs::read_to_string(&cli.dictionary)?, &cli.dir)
}
