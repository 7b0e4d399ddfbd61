//! spin-sample against transformers on the CPU: `just bench sample`.
//!
//! Both sides answer the same prompts (GSM8K's questions in the paper's
//! template, as tokens) with the same number of new tokens, sampled from the
//! whole distribution, in processes of their own, in turns. Times are those of
//! generation; loading is not in them. The peer's side is
//! `tests/bench/transformers_generate.py`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints what it measured")]

mod plan;
mod report;
mod worker;

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use spin_tests::measure::Sides;

#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure both sides and write sample.md and sample.json
    Run {
        /// What `tests/bench/prepare_score.py` wrote, in `model`
        #[arg(long)]
        data: PathBuf,
        /// The benchmarks' data
        #[arg(long, default_value = "../shared/benchmarks")]
        benchmarks: PathBuf,
        #[command(flatten)]
        sides: Sides,
        /// Turns of the comparison
        #[arg(long, default_value_t = 2)]
        turns: usize,
        /// Prompts
        #[arg(long, default_value_t = 2000)]
        prompts: usize,
        /// New tokens for each
        #[arg(long, default_value_t = 64)]
        new_tokens: usize,
    },
    /// One measurement of an engine: prints a line of JSON
    Worker {
        /// What to measure
        spec: PathBuf,
    },
}

fn main() -> anyhow::Result<()> {
    match Args::parse().command {
        Command::Worker { spec } => worker::run(&spec),
        Command::Run { data, benchmarks, sides, turns, prompts, new_tokens } => {
            let Sides { python, peer, out, threads } = sides;
            let bench = plan::Bench::prepare(&data, &benchmarks, python, peer, prompts, new_tokens, threads)?;
            let measured = plan::run(&bench, turns)?;
            report::write(&bench, &measured, &out)
        }
    }
}
