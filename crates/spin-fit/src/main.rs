//! `spin-fit`: train the main player, θ0, or a baseline.

mod plan;
mod processes;

use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;

use anyhow::Context as _;
use candle_core::{DType, Device};
use clap::{Parser, Subcommand, ValueEnum};
use spin_cli::{Exit, Place, Progress, say, stop_flag};
use spin_fit::TrainingWatch;
use spin_fit::collective::{Collective, Failure, conclude};
use spin_fit::error::{FitError, Verdict};
use spin_fit::merge::merge;
use spin_fit::metrics::LogLine;
use spin_fit::metrics::flops::measure_peak;
use spin_fit::stage::{self, Options};
use spin_fit::watch::Unwatched;
use spin_model::open_device;
use spin_run::facts::{Facts as _, TrainingFacts};
use spin_run::graph::{Graph, ModelId};
use spin_run::run::RunFile;
use spin_store::{Context, Left, Outcome, Store, StoreError};

use processes::Processes;

#[derive(Parser)]
#[command(
    version,
    about = "Train the main player",
    after_help = after_help(),
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// The run file; one that is called merge, peak or plan is ./merge
    #[arg(value_name = "RUN.toml", required = true)]
    run: Option<PathBuf>,
    /// Override a key of the run file, e.g. --set fit.learning_rate=1e-6
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    target: Target,
    /// The machine's peak, for the model FLOP utilisation [default: measured at the start by a short matrix product]
    #[arg(long, value_name = "GFLOP/s", value_parser = positive)]
    peak_gflops: Option<f64>,
    /// Where to compute: cpu, cuda:N for one of CUDA_VISIBLE_DEVICES, or cuda for the first, or for each of several
    /// processes its own
    #[arg(long, value_name = "cpu|cuda[:N]", default_value = "cpu", value_parser = Place::parse)]
    device: Place,
    #[command(flatten)]
    log: spin_cli::LogArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Measure this machine's peak of matrix products in f32 and print it in GFLOP/s
    Peak,
    /// Reckon what a training takes on other machines: memory of a process, bytes between them, time of an update
    #[command(after_help = spin_cli::EXIT_CODES)]
    Plan(plan::Args),
    /// Merge a LoRA adapter in PEFT's format into whole weights
    #[command(after_help = spin_cli::EXIT_CODES)]
    Merge(Merge),
}

/// What the flags do not say.
fn after_help() -> String {
    format!(
        "Keys of [fit], [sft] and a baseline's fit that choose what is minimised:\n  \
         objective = \"spin\"  with loss = \"logistic\", \"hinge\", \"exponential\" or \"correlation\"\n  \
         objective = \"dpo\"   with loss = \"sigmoid\" (and label_smoothing), \"hinge\" or \"ipo\"\n  \
         objective = \"sft\"   (and label_smoothing)\n\
         A [[baseline]] with preferences = {{ path = \"…\" }} trains by spin or dpo on somebody's chosen and rejected \
         answers.\n\
         Others: max_tokens_per_batch, dtype, recompute_every, on_nonfinite, eval_every, eval_rows, patience, \
         stop_margin, keep, the table lora; an unknown key is answered with the nearest one.\n\n\
         With [fit] shards = S, so many processes or a divisor of it train together where mpirun or srun starts them \
         (built with --features spin-fit/mpi; docs/training.md).\n\n\
         A training can be watched while it runs: tensorboard --logdir STORE/.work; a finished one lies under \
         STORE/metrics.\n\n{}",
        spin_cli::EXIT_CODES
    )
}

#[derive(clap::Args)]
struct Merge {
    /// Hugging Face directory of the base model
    base: PathBuf,
    /// Directory of the adapter
    adapter: PathBuf,
    /// Directory to write; must not exist
    out: PathBuf,
    /// Type of the weights to write
    #[arg(long, value_enum, default_value = "f32")]
    dtype: Dtype,
}

#[derive(Clone, Copy, ValueEnum)]
enum Dtype {
    F32,
    Bf16,
    F16,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Target {
    /// Train the main player of this round: from the model that enters it, θN, the next, θN+1
    #[arg(long, value_name = "N")]
    iteration: Option<usize>,
    /// Train θ0 by supervised fine-tuning
    #[arg(long)]
    sft: bool,
    /// Train a [[baseline]] of the run file
    #[arg(long, value_name = "NAME")]
    baseline: Option<String>,
}

#[derive(Default)]
struct Screen {
    label: String,
    bar: Option<Progress>,
    reference: Option<Progress>,
}

impl TrainingWatch for Screen {
    fn reference(&mut self, done: u64, total: u64) {
        let bar = self.reference.get_or_insert_with(|| Progress::new("reference", "pairs", done, total));
        bar.set(done, "");
    }

    fn update(&mut self, line: &LogLine, last: usize) {
        if let Some(bar) = self.reference.take() {
            bar.finish();
        }
        let entry = &line.update;
        let (done, total) = (entry.update as u64, last as u64);
        let bar = self.bar.get_or_insert_with(|| Progress::new(&self.label, "updates", done.saturating_sub(1), total));
        let number = |name: &str, value: Option<f64>, digits: usize| {
            value.map_or_else(String::new, |value| format!(", {name} {value:.digits$}"))
        };
        let margin = number("margin", entry.rewards_margins, 3);
        let accuracy = number("accuracy", entry.rewards_accuracies, 2);
        let speed = line.timing.tokens_per_second;
        bar.set(done, &format!("loss {:.4}{margin}{accuracy}, {speed:.0} tokens/s", entry.loss));
        if let Some(eval) = entry.eval_loss {
            let unit = if entry.eval_margin.is_some() { "per pair" } else { "nats per token" };
            let margin = number("margin", entry.eval_margin, 3);
            let accuracy = number("accuracy", entry.eval_accuracy, 3);
            bar.say(&format!("{}: update {done}, held-out loss {eval:.4} {unit}{margin}{accuracy}", self.label));
        }
    }

    fn note(&mut self, text: &str) {
        let text = format!("{}: {text}", self.label);
        match &self.bar {
            Some(bar) => bar.say(&text),
            None => say(&text),
        }
    }

    fn resident_mib(&self) -> Option<f64> {
        spin_cli::resident_memory_mib()
    }
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value.is_finite() => Ok(value),
        _ => Err("give a number above 0".into()),
    }
}

fn main() -> ExitCode {
    let cli = spin_cli::parse::<Cli>();
    let processes = Processes::default();
    let body = || match &cli.command {
        Some(Command::Peak) => peak(),
        Some(Command::Merge(args)) => merged(args),
        Some(Command::Plan(args)) => plan::plan(args),
        None => train_together(&cli, &processes),
    };
    spin_cli::run_then(cli.log, spin_cli::bad_input!(FitError, StoreError), body, |exit| processes.part(exit))
}

fn peak() -> anyhow::Result<Exit> {
    let peak = measure_peak(&Device::Cpu, DType::F32)?;
    spin_cli::out(&format!("{:.0}\n", peak / 1e9));
    Ok(Exit::Done)
}

fn merged(Merge { base, adapter, out, dtype }: &Merge) -> anyhow::Result<Exit> {
    let dtype = match dtype {
        Dtype::F32 => DType::F32,
        Dtype::Bf16 => DType::BF16,
        Dtype::F16 => DType::F16,
    };
    merge(base, adapter, out, dtype)?;
    say(&format!("made {}", out.display()));
    Ok(Exit::Done)
}

/// Trains as one of the processes that were started together, or alone.
fn train_together(cli: &Cli, processes: &Processes) -> anyhow::Result<Exit> {
    let world = processes.join()?;
    let failure = |error: &anyhow::Error| match error.downcast_ref::<FitError>() {
        Some(error) => Failure::of(error),
        None => {
            let of_store = error.chain().find_map(|cause| cause.downcast_ref::<StoreError>());
            let verdict = match of_store {
                Some(StoreError::Locked { .. }) => Verdict::Again,
                Some(error) if error.is_bad_input() => Verdict::BadInput,
                _ => Verdict::Failed,
            };
            Some(Failure { verdict, message: format!("{error:#}") })
        }
    };
    let result = conclude(&*world, train(cli, world.clone()), failure);
    // All have concluded; what one of them fails with, that one says.
    processes.concluded();
    let error = match result {
        Ok(exit) => return Ok(exit),
        Err(error) => error,
    };
    match error.downcast_ref::<FitError>() {
        Some(FitError::Peer { verdict, .. }) if !world.is_first() => Ok(exit_of(*verdict)),
        // Not a failure: the work is being done.
        Some(FitError::Store(locked @ StoreError::Locked { .. })) => {
            // Above it is the name of what is made.
            say(&format!("{error}: {locked}"));
            Ok(Exit::Again)
        }
        _ if !world.is_first() => Err(error.context(format!("process {} of {}", world.rank(), world.world()))),
        _ => Err(error),
    }
}

fn exit_of(verdict: Verdict) -> Exit {
    match verdict {
        Verdict::Failed => Exit::Failed,
        Verdict::BadInput => Exit::BadInput,
        Verdict::Again => Exit::Again,
    }
}

fn open(place: Place) -> Result<Device, FitError> {
    let problem = |error: spin_model::Error| FitError::Device { device: place.to_string(), problem: error.to_string() };
    open_device(place.gpu()).map_err(problem)
}

fn train(cli: &Cli, world: Rc<dyn Collective>) -> anyhow::Result<Exit> {
    let run = RunFile::load(cli.run.as_deref().context("give a run file")?, &cli.set)?;
    let store = Store::open(&run.store_dir())?;
    let graph = Graph::new(&run, &store);
    let id = match (&cli.target.baseline, cli.target.iteration) {
        (Some(name), _) => ModelId::Baseline(name.clone()),
        (None, Some(t)) => {
            run.check_iteration(t)?;
            ModelId::Iteration(t + 1)
        }
        (None, None) => ModelId::Iteration(0),
    };
    let speaks = world.is_first();
    let options = Options { world, device: open(cli.device)?, peak_gflops: cli.peak_gflops };
    let stop = stop_flag()?;
    let mut screen = Screen { label: format!("model/{}/{id}", run.run), ..Screen::default() };
    let holder = spin_cli::whoami();
    let context = Context {
        environment: &|| run.noted(spin_cli::environment(spin_cli::features!("cuda", "mpi"))),
        holder: &holder,
        device: &cli.device.to_string(),
        stop: &stop,
        ..Context::silent(&store)
    };
    let watch: &mut dyn TrainingWatch = if speaks { &mut screen } else { &mut Unwatched };
    let outcome = stage::run(&graph, &id, &options, &context, watch);
    if let Some(bar) = screen.bar.take() {
        bar.finish();
    }
    let outcome = match outcome {
        Err(error @ FitError::Store(StoreError::Locked { .. })) => return Err(error).context(screen.label),
        outcome => outcome?,
    };
    if !speaks {
        return Ok(if matches!(outcome, Outcome::Left(_)) { Exit::Again } else { Exit::Done });
    }
    match outcome {
        Outcome::Found(artifact) => say(&format!("{} is already there", artifact.reference())),
        Outcome::Made(artifact) => {
            let facts = TrainingFacts::of(&artifact)?;
            let best = facts.best_eval_loss.zip(facts.kept_update).map_or_else(String::new, |(loss, update)| {
                format!(", best held-out loss {loss:.4} at update {update}")
            });
            let (updates, cost) = (facts.updates.unwrap_or_default(), spin_cli::cost());
            let skipped = match facts.skipped_updates {
                0 => String::new(),
                count => format!(", {count} of them skipped as not finite"),
            };
            say(&format!("made {}: {updates} updates{skipped}{best}, {cost}", artifact.reference()));
        }
        Outcome::Left(Left::Stopped(place) | Left::Held(place) | Left::Partial(place)) => {
            say(&format!("{}: stopped {place}; run it again", screen.label));
            return Ok(Exit::Again);
        }
    }
    Ok(Exit::Done)
}
