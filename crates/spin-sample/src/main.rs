//! `spin-sample`: answers of the opponent, or of any model of the run to the
//! held-out prompts.

use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use clap::Parser;
use spin_cli::{Exit, Progress, say, stop_flag};
use spin_sample::error::is_bad_input;
use spin_sample::parts::Shard;
use spin_sample::stage::{self, Outcome, Task};
use spin_store::Store;
use spin_store::graph::{Decoding, Graph, ModelId};
use spin_store::run::RunFile;

#[derive(Parser)]
#[command(version, about = "Generate answers with mistral.rs", after_help = spin_cli::EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    run: spin_cli::RunArgs,
    /// The iteration whose opponent answers
    #[arg(long, required_unless_present = "baseline")]
    iteration: Option<usize>,
    /// A baseline of the run file instead (with --bench)
    #[arg(long, conflicts_with = "iteration", requires = "bench")]
    baseline: Option<String>,
    /// Answer the held-out prompts, greedily and sampled, for spin-bench
    #[arg(long)]
    bench: bool,
    /// Make only this share of the parts, e.g. 3/16; the rows are the same
    #[arg(long, value_name = "K/N", default_value = "1/1")]
    shard: Shard,
    /// Engines side by side, each with the model in memory; 0 for two per core,
    /// at most 8. The rows are the same
    #[arg(long, default_value_t = 0)]
    engines: usize,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    spin_cli::run(is_bad_input, || body(&cli))
}

fn body(cli: &Cli) -> anyhow::Result<Exit> {
    let run = RunFile::load(&cli.run.run, &cli.run.set)?;
    let store = Store::open(&run.store_dir())?;
    let graph = Graph::new(&run, &store);
    let stop = stop_flag()?;
    let model = match (&cli.baseline, cli.iteration) {
        (Some(name), _) => ModelId::Baseline(name.clone()),
        (None, t) => ModelId::Iteration(t.unwrap_or(0)),
    };
    let mut exit = Exit::Done;
    let tasks = match (cli.bench, &model) {
        (true, _) => {
            vec![Task::bench(&graph, &model, Decoding::Sampled)?, Task::bench(&graph, &model, Decoding::Greedy)?]
        }
        (false, ModelId::Iteration(t)) => vec![Task::iteration(&graph, *t)?],
        (false, ModelId::Baseline(_)) => unreachable!("--baseline requires --bench"),
    };
    let engines = match cli.engines {
        0 => std::thread::available_parallelism().map_or(1, |cores| 2 * usize::from(cores)).min(8),
        n => n,
    };
    for task in &tasks {
        let label = format!("samples/{}", task.recipe.name);
        let screen: Mutex<Option<(Progress, f64)>> = Mutex::new(None);
        let speed = Mutex::new(0.0);
        let watch = |done: u64, total: u64, tokens: u64| {
            let mut screen = screen.lock().unwrap_or_else(PoisonError::into_inner);
            let (bar, start) = screen
                .get_or_insert_with(|| (Progress::new(&label, "answers", done, total), spin_cli::elapsed_seconds()));
            let now = tokens as f64 / (spin_cli::elapsed_seconds() - *start).max(1e-9);
            *speed.lock().unwrap_or_else(PoisonError::into_inner) = now;
            bar.set(done, &format!("{now:.0} tokens/s"));
        };
        let outcome = stage::run(&graph, task, cli.shard, engines, &stop, &spin_cli::environment, &watch);
        if let Some((bar, _)) = screen.into_inner().unwrap_or_else(PoisonError::into_inner) {
            bar.finish();
        }
        let speed = speed.into_inner().unwrap_or_else(PoisonError::into_inner);
        match outcome? {
            Outcome::Found(artifact) => say(&format!("{} is already there", artifact.reference())),
            Outcome::Made(artifact) => {
                let m = &artifact.manifest;
                let cost = spin_cli::cost();
                say(&format!("made {}: {} answers, {speed:.0} tokens/s, {cost}", m.reference(), m.rows()));
            }
            Outcome::Partial(present, all) => {
                say(&format!("{label}: shard done, {present} of {all} parts are there; the last shard publishes"));
            }
            Outcome::Stopped(present, all) => {
                say(&format!("{label}: stopped with {present} of {all} parts; run it again"));
                exit = Exit::Again;
                break;
            }
        }
    }
    Ok(exit)
}
