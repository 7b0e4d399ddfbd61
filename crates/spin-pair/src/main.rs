//! `spin-pair`: tables of real against generated answers.

use std::process::ExitCode;

use clap::Parser;
use spin_cli::{Exit, say};
use spin_pair::error::is_bad_input;
use spin_pair::stage;
use spin_store::Store;
use spin_store::graph::Graph;
use spin_store::run::RunFile;

#[derive(Parser)]
#[command(version, about = "Pair human answers with the opponent's", after_help = spin_cli::EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    run: spin_cli::RunArgs,
    /// The iteration to pair for
    #[arg(long)]
    iteration: usize,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    spin_cli::run(is_bad_input, || {
        let run = RunFile::load(&cli.run.run, &cli.run.set)?;
        let store = Store::open(&run.store_dir())?;
        let (artifact, made) = stage::run(&Graph::new(&run, &store), cli.iteration, spin_cli::environment())?;
        if made {
            let fates = &artifact.manifest.facts["fates"];
            say(&format!(
                "made {}: {} pairs of {fates}, {}",
                artifact.reference(),
                artifact.manifest.rows(),
                spin_cli::cost()
            ));
        } else {
            say(&format!("{} is already there", artifact.reference()));
        }
        Ok(Exit::Done)
    })
}
