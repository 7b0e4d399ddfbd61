//! `spin-sample`: answers of the opponent, or of any model of the run to the
//! held-out prompts or to those of leaderboard tasks.

#[path = "main/cli.rs"]
mod cli;

use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use clap::Parser;
use spin_cli::{Exit, Progress, say, stop_flag};
use spin_sample::error::is_bad_input;
use spin_sample::stage::{self, Outcome, Task};
use spin_store::graph::{Decoding, Graph, ModelId};
use spin_store::{Store, import};

use crate::cli::Cli;

fn main() -> ExitCode {
    let cli = Cli::parse();
    spin_cli::run(is_bad_input, || body(&cli))
}

fn tasks(cli: &Cli, graph: &Graph<'_>) -> anyhow::Result<Vec<Task>> {
    let model = cli.model_id();
    if cli.eval {
        let tasks = Task::eval(graph, &model)?;
        if tasks.is_empty() {
            let name = graph.evaluation_name(&model, "");
            let name = name.trim_end_matches('/');
            say(&format!(
                "no requests are published for {name}: its tasks need no answers, or `spin-bench eval --requests` comes first"
            ));
        }
        return Ok(tasks);
    }
    match &model {
        _ if cli.bench => {
            Ok(vec![Task::bench(graph, &model, Decoding::Sampled)?, Task::bench(graph, &model, Decoding::Greedy)?])
        }
        ModelId::Iteration(t) => Ok(vec![Task::iteration(graph, *t)?]),
        ModelId::Baseline(_) => unreachable!("--baseline requires --bench or --eval"),
    }
}

fn body(cli: &Cli) -> anyhow::Result<Exit> {
    let run = cli.run_file()?;
    let store = Store::open(&run.store_dir())?;
    let graph = Graph::new(&run, &store);
    let stop = stop_flag()?;
    if cli.is_model() {
        let dir = run.resolve(&run.model.path);
        import::model(&store, &graph.base_recipe()?, &dir, spin_cli::environment())?;
    }
    let mut exit = Exit::Done;
    let tasks = tasks(cli, &graph)?;
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
