//! Throws mutated inputs at a reader: `mutate TARGET SECONDS [SEED]`.
#![allow(clippy::print_stdout, reason = "it prints what it found")]

use std::path::Path;
use std::time::Duration;

use clap::Parser;
use spin_tests::mutate;

#[derive(Parser)]
#[command(about = "Throw mutated inputs at a reader of files")]
struct Cli {
    /// manifest, journal, reference, run-file, set, jsonl, csv, parquet, bundle, safetensors, template or task-file
    target: String,
    /// For how long
    seconds: u64,
    /// Another seed, other inputs
    #[arg(default_value_t = 1)]
    seed: u64,
}

fn main() -> anyhow::Result<()> {
    let Cli { target, seconds, seed } = Cli::parse();
    std::panic::set_hook(Box::new(|_| {}));
    let outcome = mutate::run(&target, Duration::from_secs(seconds), seed, Path::new("."))?;
    println!(
        "{target}: {} tried, {} accepted, slowest {:.3} s",
        outcome.tried,
        outcome.accepted,
        outcome.slowest.as_secs_f64()
    );
    Ok(())
}
