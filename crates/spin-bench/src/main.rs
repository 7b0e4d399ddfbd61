//! `spin-bench`: scores of the models of a run, and their table.

#[path = "main/compare.rs"]
mod compare;
#[path = "main/eval.rs"]
mod eval;
#[path = "main/fetch.rs"]
mod fetch;
#[path = "main/report.rs"]
mod page;
#[path = "main/screen.rs"]
mod screen;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use candle_core::Device;
use clap::{Parser, Subcommand, ValueEnum};
use spin_bench::{BenchError, stage};
use spin_cli::{Exit, Place, RunArgs, say};
use spin_report::{ReportError, seeds::Seeds, table as report};
use spin_run::facts::{Facts as _, ScoreFacts};
use spin_run::graph::{Decoding, Graph, ModelId};
use spin_run::import::ImportError;
use spin_run::run::RunFile;
use spin_store::{Context, Store, StoreError};

use crate::screen::Screen;

#[derive(Parser)]
#[command(
    version,
    about = "Score the models of a run",
    after_help = spin_cli::EXIT_CODES,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// The run file
    #[arg(value_name = "RUN.toml", required = true)]
    run: Option<PathBuf>,
    /// Override a key of the run file, e.g. --set bench.batch_size=8
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Score the model that enters this round, θN: of R rounds, N = R is the last model
    #[arg(long, value_name = "N", required_unless_present = "baseline")]
    iteration: Option<usize>,
    /// Score a [[baseline]] of the run file
    #[arg(long, conflicts_with = "iteration")]
    baseline: Option<String>,
    /// Where to compute: cpu, cuda for the first of CUDA_VISIBLE_DEVICES, or cuda:N
    #[arg(long, value_name = "cpu|cuda[:N]", default_value = "cpu", value_parser = Place::parse)]
    device: Place,
    #[command(flatten)]
    log: spin_cli::LogArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Evaluate a model on leaderboard tasks, by the rules of lm-evaluation-harness
    Eval(Box<eval::Args>),
    /// Download the leaderboard tasks' data, pinned and checked
    Fetch(fetch::Args),
    /// Set models side by side on the same documents and test the differences
    Compare(compare::Args),
    /// Write a page of everything that is stored of one or more runs: tables, charts, answers, lineage
    Report(page::Args),
    /// Print the stored scores of all models of a run
    Table {
        #[command(flatten)]
        run: RunArgs,
        /// Output format
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// Print what every model of a run answered to a few held-out rows
    Answers {
        #[command(flatten)]
        run: RunArgs,
        /// Rows of each kind: learnt since θ0, lost, still wrong
        #[arg(long, default_value_t = 1)]
        each: usize,
        /// Show sampled answers instead of greedy ones
        #[arg(long)]
        sampled: bool,
    },
    /// Sum up several seeds of a run, and several runs, from their tables in JSON
    Seeds {
        /// What `spin-bench table --format json` printed, a file for each run and seed; all
        /// models are compared with the first of the first
        #[arg(value_name = "TABLE.json", required = true)]
        tables: Vec<PathBuf>,
        /// Print Markdown instead of aligned columns
        #[arg(long)]
        markdown: bool,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// Aligned columns
    Text,
    /// For programs
    Json,
    /// For a README
    Markdown,
}

fn main() -> ExitCode {
    let cli = spin_cli::parse::<Cli>();
    spin_cli::run(cli.log, spin_cli::bad_input!(BenchError, ReportError, StoreError, ImportError), || {
        match &cli.command {
            Some(Command::Table { run, format }) => table(run, *format),
            Some(Command::Answers { run, each, sampled }) => answers(run, *each, *sampled),
            Some(Command::Seeds { tables, markdown }) => seeds(tables, *markdown),
            Some(Command::Eval(args)) => eval::run(args),
            Some(Command::Compare(args)) => compare::run(args),
            Some(Command::Fetch(args)) => fetch::run(args),
            Some(Command::Report(args)) => page::run(args),
            None => score(&cli),
        }
    })
}

/// What a model is computed on.
fn open(place: Place) -> Result<Device, BenchError> {
    let problem = |error| BenchError::Settings(format!("{place} cannot be used: {error}"));
    spin_model::open_device(place.gpu()).map_err(problem)
}

fn table(args: &RunArgs, format: Format) -> anyhow::Result<Exit> {
    let run = RunFile::load(&args.run, &args.set)?;
    let store = Store::open_existing(&run.store_dir())?;
    let table = report::Table::read(&Graph::new(&run, &store))?;
    let format = match format {
        Format::Text => report::Format::Text,
        Format::Json => report::Format::Json,
        Format::Markdown => report::Format::Markdown,
    };
    spin_cli::out(&table.render(format));
    Ok(Exit::Done)
}

fn answers(args: &RunArgs, each: usize, sampled: bool) -> anyhow::Result<Exit> {
    let run = RunFile::load(&args.run, &args.set)?;
    let store = Store::open_existing(&run.store_dir())?;
    let graph = Graph::new(&run, &store);
    let decoding = if sampled { Decoding::Sampled } else { Decoding::Greedy };
    spin_cli::out(&report::Table::read(&graph)?.answers(&graph, decoding, each)?);
    Ok(Exit::Done)
}

fn seeds(paths: &[PathBuf], markdown: bool) -> anyhow::Result<Exit> {
    let mut tables = Vec::new();
    for path in paths {
        let text = std::fs::read(path).map_err(StoreError::io("read", path))?;
        let wrong = |e| ReportError::Compare(format!("{} is no table in JSON: {e}", path.display()));
        tables.push((path.display().to_string(), serde_json::from_slice(&text).map_err(wrong)?));
    }
    spin_cli::out(&Seeds::read(&tables)?.render(markdown));
    Ok(Exit::Done)
}

fn score(args: &Cli) -> anyhow::Result<Exit> {
    let path = args.run.as_deref().context("give a run file")?;
    let run = RunFile::load(path, &args.set)?;
    let store = Store::open_existing(&run.store_dir())?;
    let id = match (&args.baseline, args.iteration) {
        (Some(name), _) => ModelId::Baseline(name.clone()),
        (None, t) => ModelId::Iteration(t.unwrap_or(0)),
    };
    let screen = Screen::new(format!("scores/{}/{id}", run.run), "rows");
    let holder = spin_cli::whoami();
    let context = Context {
        environment: &|| run.noted(spin_cli::environment(spin_cli::features!("cuda"))),
        holder: &holder,
        device: args.device.kind(),
        watch: &screen,
        ..Context::silent(&store)
    };
    let device = open(args.device)?;
    let result = stage::run(&Graph::new(&run, &store), &id, &device, &context);
    screen.finish();
    let (artifact, made) = result?;
    let headline = report::headline(&ScoreFacts::of(&artifact)?.results);
    let cost = if made { format!(", {}", spin_cli::cost()) } else { String::new() };
    say(&format!("{} {}: {headline}{cost}", if made { "made" } else { "already there:" }, artifact.reference()));
    Ok(Exit::Done)
}
