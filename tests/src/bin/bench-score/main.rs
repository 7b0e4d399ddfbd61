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
        /// A Python with torch, transformers and lm_eval
        #[arg(long, default_value = "python3")]
        python: PathBuf,
        /// `tests/bench/lm_eval_score.py`
        #[arg(long)]
        peer: PathBuf,
        /// Directory of the report
        #[arg(long)]
        out: PathBuf,
        /// Turns of the comparison
        #[arg(long, default_value_t = 2)]
        turns: usize,
        /// Threads of each side
        #[arg(long, default_value_t = 2)]
        threads: usize,
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
        Command::Run { data, benchmarks, python, peer, out, turns, threads, short } => {
            let bench = plan::Bench { model: data.join("model"), benchmarks, python, peer, threads };
            let measured = plan::run(&bench, turns, short)?;
            report::write(&measured, &out)
        }
    }
}
