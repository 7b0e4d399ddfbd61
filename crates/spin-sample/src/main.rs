//! `spin-sample`: answers of the opponent, or of any model of the run to the
//! held-out prompts or to those of leaderboard tasks.

#[path = "main/cli.rs"]
mod cli;

use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use spin_cli::{Exit, Progress, say, stop_flag};
use spin_net::hub::Settings;
use spin_net::secret::BadSecret;
use spin_run::facts::{Facts as _, LogpsCheck, SampleFacts};
use spin_run::graph::{Decoding, Graph, ModelId};
use spin_run::import::{ImportError, Importer};
use spin_run::run::NameError;
use spin_sample::error::SampleError;
use spin_sample::stage::{self, GenerationWatch, Missing, PartDone};
use spin_sample::task::Task;
use spin_store::{Context, Left, Outcome, Store, StoreError};
use spin_text::TextError;

use crate::cli::Cli;

fn main() -> ExitCode {
    let cli = spin_cli::parse::<Cli>();
    let is_bad_input = spin_cli::bad_input!(SampleError, StoreError, TextError, NameError, ImportError, BadSecret);
    spin_cli::run(cli.log, is_bad_input, || body(&cli))
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
    // A look creates no store.
    let store = if cli.missing { Store::open_existing(&run.store_dir())? } else { Store::open(&run.store_dir())? };
    let graph = Graph::new(&run, &store);
    let stop = stop_flag()?;
    let holder = spin_cli::whoami();
    let context = Context {
        environment: &|| run.noted(spin_cli::environment(spin_cli::features!("cuda", "flash-attn"))),
        holder: &holder,
        device: cli.device(),
        stop: &stop,
        watch: &say,
        ..Context::silent(&store)
    };
    if cli.is_model() {
        let hub = Settings::from_vars(&|name| std::env::var(name).ok())?;
        Importer { hub: Some(&hub), ..Importer::new(context) }.base(&run)?;
    }
    let mut exit = Exit::Done;
    let tasks = tasks(cli, &graph)?;
    if cli.missing {
        list_missing(cli, &graph, &tasks)?;
        return Ok(Exit::Done);
    }
    let options = cli.options()?;
    for task in &tasks {
        let label = format!("samples/{}", task.recipe.name);
        let screen = Screen::new(&label);
        let outcome = stage::run(&graph, task, &options, &context, &screen);
        let speed = screen.finish();
        match outcome? {
            Outcome::Found(artifact) => say(&format!("{} is already there", artifact.reference())),
            Outcome::Made(artifact) => {
                let m = &artifact.manifest;
                let LogpsCheck { rows, largest_difference } = SampleFacts::of(&artifact)?.logps_check;
                let checked = largest_difference.map_or_else(String::new, |largest| {
                    format!(", log-probabilities of {rows} checked: within {largest:.1e} of the trainer's")
                });
                let cost = spin_cli::cost();
                say(&format!("made {}: {} answers, {speed:.0} tokens/s, {cost}{checked}", m.reference(), m.rows()));
            }
            Outcome::Left(Left::Partial(place)) => {
                say(&format!("{label}: shard done, {place} are there; the last shard publishes"));
            }
            Outcome::Left(Left::Held(place)) => {
                say(&format!("{label}: {place}; run this again when it is done"));
                exit = Exit::Again;
            }
            Outcome::Left(Left::Stopped(place)) => {
                say(&format!("{label}: stopped with {place}; run it again"));
                exit = Exit::Again;
                break;
            }
        }
    }
    Ok(exit)
}

/// A line for each part that is missing: task, part, answers, who makes it.
fn list_missing(cli: &Cli, graph: &Graph<'_>, tasks: &[Task]) -> anyhow::Result<()> {
    for task in tasks {
        let missing = stage::missing(graph, task, cli.shard()?)?;
        let rows: usize = missing.iter().map(|part| part.rows).sum();
        say(&format!("samples/{}: {} parts missing, {rows} answers", task.recipe.name, missing.len()));
        for Missing { part, rows, holder } in missing {
            let holder = spin_cli::printable(&holder.unwrap_or_default());
            spin_cli::out(&format!("samples/{}\t{part}\t{rows}\t{holder}\n", task.recipe.name));
        }
    }
    Ok(())
}

/// Shows how the work on a task goes.
struct Screen<'a> {
    label: &'a str,
    state: Mutex<ScreenState>,
}

#[derive(Default)]
struct ScreenState {
    /// With when it began and the answers there were.
    bar: Option<(Progress, f64, u64)>,
    tokens_per_second: f64,
}

impl<'a> Screen<'a> {
    fn new(label: &'a str) -> Screen<'a> {
        Screen { label, state: Mutex::default() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, ScreenState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Clears the line; tokens per second.
    fn finish(&self) -> f64 {
        let mut state = self.state();
        if let Some((bar, ..)) = state.bar.take() {
            bar.finish();
        }
        state.tokens_per_second
    }
}

impl GenerationWatch for Screen<'_> {
    fn progress(&self, done: u64, all: u64, tokens: u64) {
        let mut state = self.state();
        let now = spin_cli::elapsed_seconds();
        let ScreenState { bar, tokens_per_second } = &mut *state;
        let (bar, start, before) =
            bar.get_or_insert_with(|| (Progress::new(self.label, "answers", done, all), now, done));
        let seconds = (now - *start).max(1e-9);
        *tokens_per_second = tokens as f64 / seconds;
        let rows = (done - *before) as f64 / seconds;
        bar.set(done, &format!("{rows:.1} rows/s, {tokens_per_second:.0} tokens/s"));
    }

    fn part(&self, done: &PartDone) {
        let PartDone { part, rows, tokens, seconds } = done;
        if let Some((bar, ..)) = &self.state().bar {
            let speed = *tokens as f64 / seconds.max(1e-9);
            bar.say_without_bar(&format!(
                "{}: part {part}, {rows} answers, {tokens} tokens, {seconds:.1} s, {speed:.0} tokens/s",
                self.label
            ));
        }
    }

    fn note(&self, text: &str) {
        match &self.state().bar {
            Some((bar, ..)) => bar.say(&format!("{}: {text}", self.label)),
            None => say(&format!("{}: {text}", self.label)),
        }
    }
}
