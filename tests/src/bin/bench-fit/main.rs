//! spin-fit against TRL's DPOTrainer on the CPU: `just bench fit`.
//!
//! Both sides train the same model on the same ids in processes of their own,
//! one after the other, in turns; the report gives both sides' figures and
//! their ratios. TRL's side is `tests/bench/trl_dpo.py`.
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
    /// Measure both sides and write fit.md and fit.json
    Run {
        /// What `tests/bench/prepare.py` wrote
        #[arg(long)]
        data: PathBuf,
        #[command(flatten)]
        sides: Sides,
        /// Turns of the comparison at 512 tokens
        #[arg(long, default_value_t = 3)]
        turns: usize,
        /// Only the comparison at 512 tokens, without the growth curves
        #[arg(long)]
        short: bool,
    },
    /// One measurement of spin-fit: prints a line of JSON
    Worker {
        /// What to measure
        spec: PathBuf,
    },
}

fn main() -> anyhow::Result<()> {
    match Args::parse().command {
        Command::Worker { spec } => worker::run(&spec),
        Command::Run { data, sides, turns, short } => {
            let Sides { python, peer, out, threads } = sides;
            let bench = plan::Bench { data, python, peer, threads };
            let measured = plan::run(&bench, turns, short)?;
            report::write(&measured, &out)
        }
    }
}
