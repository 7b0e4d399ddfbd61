//! `spin-fit plan`: what a training takes on other machines, on paper.

mod sizes;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use candle_core::{DType, Device};
use clap::ValueEnum;
use serde_json::{Value, json};
use spin_cli::{Exit, out};
use spin_fit::error::FitError;
use spin_fit::metrics::flops::measure_peak;
use spin_fit::scale::{Generating, Lengths, MACHINES, Machine, SHAPES, Scale, Training};
use spin_model::ModelConfig;
use spin_run::ModelShape;
use spin_run::graph::{Graph, ModelId, Split};
use spin_run::run::{FitConfig, OptimizerKind, RunFile};
use spin_store::{Store, StoreError};

use sizes::{Sizes, aligned};

/// Flags of `plan`.
#[derive(clap::Args)]
pub struct Args {
    /// The run file
    #[arg(value_name = "RUN.toml")]
    run: PathBuf,
    /// Override a key of the run file, e.g. --set fit.recompute_every=1
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Which round's settings
    #[arg(long, value_name = "N", default_value_t = 0)]
    iteration: usize,
    /// Processes, one or more numbers: a row for each. Shares are the run file's, or else as many as processes
    #[arg(long, value_delimiter = ',', default_value = "1", value_parser = clap::value_parser!(u16).range(1..))]
    world: Vec<u16>,
    /// What each of them computes with: cpu, a100, h100 or h200
    #[arg(long, value_name = "NAME", default_value = "cpu", value_parser = machine)]
    gpu: Machine,
    /// The model's shape, in place of the run's: a config.json, or llama-1b, llama-7b, llama-13b, llama-70b
    #[arg(long, value_name = "SHAPE")]
    model: Option<String>,
    /// Tokens of a prompt, in the mean [default: the most that the run file takes]
    #[arg(long, value_name = "N")]
    prompt_tokens: Option<usize>,
    /// Tokens of an answer, in the mean [default: the most that the run file takes]
    #[arg(long, value_name = "N")]
    answer_tokens: Option<usize>,
    /// The peak in 10¹² operations per second, in place of the data sheet's or the measured one
    #[arg(long, value_name = "TFLOP/s", value_parser = super::positive)]
    peak_tflops: Option<f64>,
    /// Beside what is reckoned, what the code asks for: its passes are run without computing anything
    #[arg(long)]
    dry_run: bool,
    /// Reckon also what it takes to generate so many answers at a time
    #[arg(long, value_name = "SEQUENCES", value_parser = clap::value_parser!(u32).range(1..))]
    generate: Option<u32>,
    /// The share of the peak that training reaches
    #[arg(long, value_name = "0..1", value_parser = super::positive)]
    share: Option<f64>,
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// A table for people
    Text,
    /// Rows of a Markdown table
    Markdown,
    /// Numbers for programs
    Json,
}

fn machine(name: &str) -> Result<Machine, String> {
    let names = || MACHINES.map(|machine| machine.name).join(", ");
    MACHINES.into_iter().find(|machine| machine.name == name).ok_or_else(|| format!("there are {}", names()))
}

/// Prints the plan.
pub fn plan(args: &Args) -> anyhow::Result<Exit> {
    let run = RunFile::load(&args.run, &args.set)?;
    run.check_iteration(args.iteration)?;
    let store = match Store::open_existing(&run.store_dir()) {
        Err(StoreError::Missing { .. }) => Store::handle(&run.store_dir()),
        store => store?,
    };
    let graph = Graph::new(&run, &store);
    let config = graph.fit_of(&ModelId::Iteration(args.iteration + 1))?;
    let model = model(args, &run, &graph)?;
    let template = &run.template;
    let prompt = args.prompt_tokens.unwrap_or(template.max_prompt_length);
    let lengths =
        Lengths { prompt, answer: args.answer_tokens.unwrap_or(template.max_length.saturating_sub(prompt).max(1)) };
    let mut machine = args.gpu;
    machine.share = args.share.unwrap_or(machine.share);
    machine.peak = match args.peak_tflops {
        Some(peak) => peak * 1e12,
        None if machine.peak == 0.0 => measure_peak(&Device::Cpu, DType::F32)?,
        None => machine.peak,
    };
    if machine.memory == 0 {
        machine.memory = spin_cli::available_memory().unwrap_or(0);
    }
    let updates = updates(&graph, &config, args.iteration);
    let training = |world: usize| {
        // As a run that is made for so many has it.
        let shards = if config.shards > 1 { config.shards } else { world };
        Training { model: &model, config: &config, shards, world, lengths, machine }
    };
    let worlds: Vec<usize> = args.world.iter().map(|world| usize::from(*world)).collect();
    let rows: Vec<(usize, usize, Scale)> =
        worlds.iter().map(|world| (*world, training(*world).shards, training(*world).scale())).collect();
    if let Some((world, shards, _)) = rows.iter().find(|(world, shards, _)| !shards.is_multiple_of(*world)) {
        let problem = format!("fit.shards = {shards} is not shared evenly by {world} processes; take a divisor of it");
        return Err(StoreError::run(&run.path, problem).into());
    }
    let sizes = sizes(args, &rows[0].2, &training(worlds[0]))?;
    match args.format {
        Format::Json => {
            let mut all: Vec<Value> =
                rows.iter().map(|(world, shards, scale)| to_json(*world, *shards, scale, updates)).collect();
            all.extend(sizes.iter().map(Sizes::to_json));
            out(&format!("{}\n", serde_json::to_string_pretty(&Value::from(all))?));
        }
        Format::Text => {
            out(&head(&config, &rows[0].2, lengths, machine));
            out(&table(&rows, updates, machine, "  ", ""));
            sizes.iter().for_each(|sizes| out(&format!("\n{}", sizes.table("  ", ""))));
        }
        Format::Markdown => {
            out(&table(&rows, updates, machine, " | ", "|"));
            sizes.iter().for_each(|sizes| out(&format!("\n{}", sizes.table(" | ", "|"))));
        }
    }
    Ok(Exit::Done)
}

/// What was asked for besides.
fn sizes(args: &Args, scale: &Scale, training: &Training<'_>) -> anyhow::Result<Vec<Sizes>> {
    let mut sizes = Vec::new();
    if args.dry_run {
        match training.dry_run().map_err(FitError::from)? {
            Some(asked) => sizes.push(Sizes::of_training(scale, &asked)),
            None => anyhow::bail!("--dry-run is of trainings of all weights; this one is of adapters (fit.lora)"),
        }
    }
    if let Some(sequences) = args.generate {
        let generating = Generating {
            model: training.model,
            dtype: spin_fit::scale::dtype(training.config),
            sequences: sequences as usize,
            together: 1,
            lengths: training.lengths,
        };
        let asked = args.dry_run.then(|| generating.dry_run()).transpose().map_err(FitError::from)?;
        sizes.push(Sizes::of_generation(&generating.scale(), asked.as_ref()));
    }
    Ok(sizes)
}

fn model(args: &Args, run: &RunFile, graph: &Graph<'_>) -> anyhow::Result<ModelConfig> {
    let Some(shape) = &args.model else {
        let imported = graph.base().and_then(|base| base.verified_where(ModelShape::is_beside_weights));
        return Ok(match imported {
            Ok(base) => ModelConfig::load(base.dir()).map_err(FitError::from)?,
            Err(_) => ModelConfig::load(&run.resolve(&run.model.path)).map_err(FitError::from)?,
        });
    };
    if let Some((name, text)) = SHAPES.iter().find(|(name, _)| name == shape) {
        return Ok(ModelConfig::from_json(text, name).map_err(FitError::from)?);
    }
    let path = Path::new(shape);
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read the model's shape, {shape}"))?;
    Ok(ModelConfig::from_json(&text, shape).map_err(FitError::from)?)
}

/// Updates of a round, where it is known how many rows there are.
fn updates(graph: &Graph<'_>, config: &FitConfig, iteration: usize) -> Option<f64> {
    let run = graph.run;
    let limit = run.data.as_ref().map(|data| data.train.limit).filter(|limit| *limit > 0);
    let rows = graph.demonstrations(Split::Train).ok().map(|artifact| artifact.manifest.rows() as usize).or(limit)?;
    let samples = run.sample_at(iteration).ok()?.samples_per_prompt as usize;
    let pairs = rows * samples * (run.pair.window as usize).clamp(1, iteration + 1);
    Some((pairs as f64 / config.batch_size as f64).ceil() * config.stop_epoch)
}

fn head(config: &FitConfig, scale: &Scale, lengths: Lengths, machine: Machine) -> String {
    let measured = if machine.name == "cpu" { "" } else { " (assumed; nothing was measured on a GPU)" };
    format!(
        "{} parameters, {} of them trained, {} with {}, {} rows an update, {} + {} tokens a row\n\
         {}: {:.1} TFLOP/s, of which training reaches {:.2}{measured}\n\n",
        numbers(scale.parameters),
        numbers(scale.trained),
        config.dtype.name(),
        match config.optimizer {
            OptimizerKind::Adamw => "AdamW",
            OptimizerKind::Rmsprop => "RMSProp",
        },
        config.batch_size,
        lengths.prompt,
        lengths.answer,
        machine.name,
        machine.peak / 1e12,
        machine.share,
    )
}

/// How many, as models are called.
fn numbers(count: u64) -> String {
    let count = count as f64;
    if count < 1e9 { format!("{:.1}M", count / 1e6) } else { format!("{:.2}B", count / 1e9) }
}

fn table(rows: &[(usize, usize, Scale)], updates: Option<f64>, machine: Machine, between: &str, edge: &str) -> String {
    let columns = [
        "processes",
        "shares",
        "weights",
        "gradient",
        "state",
        "activations",
        "logits",
        "rest",
        "memory each",
        "of the host",
        "fits",
        "checkpoint",
        "sent each",
        "computing",
        "host",
        "sending",
        "update",
        "overlapped",
        "round",
    ];
    let mut lines = vec![columns.map(str::to_owned)];
    for (world, shards, s) in rows {
        let fits = match machine.memory {
            0 => "-".to_owned(),
            memory if s.memory() <= memory => "yes".into(),
            _ => "no".into(),
        };
        // What nothing is sent for takes no time.
        let time = |seconds: f64| if seconds == 0.0 { "-".into() } else { spin_cli::duration(seconds) };
        lines.push([
            world.to_string(),
            shards.to_string(),
            spin_cli::size(s.weights),
            spin_cli::size(s.gradient),
            spin_cli::size(s.state),
            spin_cli::size(s.activations),
            spin_cli::size(s.logits),
            spin_cli::size(s.rest),
            spin_cli::size(s.memory()),
            if s.host > 0 { spin_cli::size(s.host) } else { "-".into() },
            fits,
            spin_cli::size(s.checkpoint),
            spin_cli::size(s.sent),
            time(s.computing),
            time(s.hosting),
            time(s.sending),
            time(s.seconds()),
            time(s.overlapped()),
            updates.map_or_else(|| "-".into(), |updates| time(updates * s.seconds())),
        ]);
    }
    aligned(lines, between, edge)
}

fn to_json(world: usize, shards: usize, s: &Scale, updates: Option<f64>) -> Value {
    json!({
        "world": world, "shards": shards, "parameters": s.parameters, "trained": s.trained,
        "bytes": {"weights": s.weights, "gradient": s.gradient, "state": s.state, "activations": s.activations,
            "logits": s.logits, "rest": s.rest, "memory": s.memory(), "host": s.host, "checkpoint": s.checkpoint, "sent": s.sent},
        "seconds": {"computing": s.computing, "host": s.hosting, "sending": s.sending, "update": s.seconds(),
            "overlapped": s.overlapped(), "round": updates.map(|updates| updates * s.seconds())},
    })
}
