//! spin-bench against lm-evaluation-harness on the CPU: `just bench score`.
//!
//! Both sides score the same documents with the same model in processes of
//! their own, in turns. Times are those of evaluation: prompts, tokens, model
//! and metrics, without loading data. The harness's side is
//! `tests/bench/lm_eval_score.py`.
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
    /// Measure both sides and write score.md and score.json
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
        /// Only the comparison, without the growth curves
        #[arg(long)]
        short: bool,
    },
    /// One measurement of spin-bench: prints a line of JSON
    Worker {
        /// What to measure
        spec: PathBuf,
    },
}

fn main() -> anyhow::Result<()> {
    match Args::parse().command {
        Command::Worker { spec } => worker::run(&spec),
        Command::Run { data, benchmarks, sides, turns, short } => {
            let Sides { python, peer, out, threads } = sides;
            let bench = plan::Bench { model: data.join("model"), benchmarks, python, peer, threads };
            let measured = plan::run(&bench, turns, short)?;
            report::write(&measured, &out)
        }
    }
}
