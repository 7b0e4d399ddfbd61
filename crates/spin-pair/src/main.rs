//! `spin-pair`: tables of real against generated answers.

use std::process::ExitCode;

use clap::Parser;
use spin_cli::{Exit, say};
use spin_pair::{PairError, preferences, stage};
use spin_run::facts::{Facts as _, PairFacts};
use spin_run::graph::Graph;
use spin_run::run::RunFile;
use spin_store::{Context, Store, StoreError};

/// Tokenizers and templates make many small allocations: with the system's allocator they take
/// half of the time (docs/bench/pair-profile.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(version, about = "Pair human answers with the opponent's, or chosen with rejected ones", after_help = spin_cli::EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    run: spin_cli::RunArgs,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    log: spin_cli::LogArgs,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Target {
    /// Pair for this round: the answers of the model that enters it, θN
    #[arg(long, value_name = "N")]
    iteration: Option<usize>,
    /// Pair the answers of this [[baseline]]'s preference set
    #[arg(long, value_name = "NAME")]
    baseline: Option<String>,
}

fn main() -> ExitCode {
    let cli = spin_cli::parse::<Cli>();
    spin_cli::run(cli.log, spin_cli::bad_input!(PairError, StoreError), || {
        let run = RunFile::load(&cli.run.run, &cli.run.set)?;
        let store = Store::open(&run.store_dir())?;
        let graph = Graph::new(&run, &store);
        let holder = spin_cli::whoami();
        let context = Context {
            environment: &|| run.noted(spin_cli::environment(&[])),
            holder: &holder,
            watch: &say,
            ..Context::silent(&store)
        };
        let (artifact, made) = match &cli.target.baseline {
            Some(baseline) => preferences::run(&graph, baseline, &context)?,
            None => stage::run(&graph, cli.target.iteration.unwrap_or_default(), &context)?,
        };
        if made {
            let fates = serde_json::to_string(&PairFacts::of(&artifact)?.fates)?;
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
