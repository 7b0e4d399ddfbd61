//! The flags, and the run file they stand for.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{ArgGroup, Parser};
use spin_cli::Place;
use spin_net::Name;
use spin_run::graph::ModelId;
use spin_run::run::{Dtype, EvalConfig, RunFile};
use spin_sample::engine::{Device, EngineKind, EngineOptions, Memory};
use spin_sample::parts::Shard;
use spin_sample::task::Options;

/// Answers of the opponent, or of any model to other prompts.
#[derive(Parser)]
#[command(
    version,
    about = "Generate answers with mistral.rs or the trainer's forward pass",
    after_help = spin_cli::EXIT_CODES,
    group(ArgGroup::new("scored").args(["bench", "eval"]))
)]
pub struct Cli {
    /// The run file
    #[arg(value_name = "RUN.toml", required_unless_present = "model")]
    run: Option<PathBuf>,
    /// Override a key of the run file, e.g. --set sample.temperature=0.7
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "run")]
    set: Vec<String>,
    /// The model that enters this round answers, θN
    #[arg(long, value_name = "N", required_unless_present_any = ["baseline", "model"])]
    iteration: Option<usize>,
    /// A baseline of the run file instead (with --bench or --eval)
    #[arg(long, conflicts_with = "iteration", requires = "scored")]
    baseline: Option<String>,
    /// Answer the held-out prompts, greedily and sampled, for spin-bench
    #[arg(long)]
    pub bench: bool,
    /// Answer the prompts that `spin-bench eval --requests` published for this model
    #[arg(long)]
    pub eval: bool,
    /// With --eval: a Hugging Face directory, or a model by its name on the hub (hf:OWNER/NAME[@REVISION]), without a run file
    #[arg(long, value_name = "DIR", requires = "eval", conflicts_with_all = ["run", "iteration", "baseline"])]
    model: Option<PathBuf>,
    /// The name that spin-bench eval gave --model in the store; by default the directory's
    #[arg(long, requires = "model")]
    name: Option<String>,
    /// The store of --model
    #[arg(long, requires = "model", default_value = "data")]
    store: PathBuf,
    /// Element type of --model's weights: f32, bf16 or f16; as for spin-bench eval
    #[arg(long, requires = "model", default_value_t = Dtype::F32)]
    dtype: Dtype,
    /// Make only this share of the parts, e.g. 3/16; the rows are the same. By default all
    /// of them, or, of several processes that mpirun or srun started, each its share
    #[arg(long, value_name = "K/N")]
    shard: Option<Shard>,
    /// List the parts that are missing on standard output, and make none
    #[arg(long)]
    pub missing: bool,
    /// Where to compute: cpu, cuda:N for one of CUDA_VISIBLE_DEVICES, or cuda
    /// for the first, or for each of several processes its own
    #[arg(long, value_name = "cpu|cuda[:N]", default_value = "cpu", value_parser = Place::parse)]
    device: Place,
    /// Answers in one batch, at most; 0 for a default. On a GPU 1 makes the
    /// answers exact, slowly; on the CPU the rows are the same with any
    #[arg(long, default_value_t = 0)]
    batch_size: usize,
    /// Memory for keys and values on the CPU, in MiB; 0 for half of what is
    /// free once the weights are loaded
    #[arg(long, default_value_t = 0)]
    cache_mib: u64,
    /// Share of the GPU's memory for weights, keys and values
    #[arg(long, default_value_t = 0.9)]
    gpu_memory_utilization: f32,
    /// Copies of the model that mistral.rs runs side by side on the CPU; 0 for
    /// two per core, at most 8. The rows are the same
    #[arg(long, default_value_t = 0)]
    engines: usize,
    #[command(flatten)]
    pub log: spin_cli::LogArgs,
}

/// Paths of flags count from where the user is.
fn here(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("no path {}", path.display()))
}

/// A model's directory, or its name on the hub.
fn place(model: &Path) -> anyhow::Result<PathBuf> {
    if Name::is_meant(model) { Ok(model.to_path_buf()) } else { here(model) }
}

impl Cli {
    /// The run file, or the one that `spin-bench eval --model` makes of the
    /// same flags: only then do both mean the same artifacts.
    pub fn run_file(&self) -> anyhow::Result<RunFile> {
        let Some(dir) = &self.model else {
            let path = self.run.as_deref().context("give a run file or --model DIR")?;
            return Ok(RunFile::load(path, &self.set)?);
        };
        let eval = EvalConfig { dtype: self.dtype, ..EvalConfig::default() };
        eval.check().map_err(|problem| anyhow::anyhow!("--{problem}"))?;
        Ok(RunFile::of_directory(place(dir)?, self.name.as_deref(), here(&self.store)?, eval)?)
    }

    /// Whether the model is a directory of the flags, which no run file imports.
    pub fn is_model(&self) -> bool {
        self.model.is_some()
    }

    /// What computes.
    pub fn device(&self) -> &'static str {
        self.device.kind()
    }

    /// Which share of the parts this process makes.
    pub fn shard(&self) -> anyhow::Result<Shard> {
        if let Some(shard) = self.shard {
            return Ok(shard);
        }
        let Some(launched) = spin_cli::launched() else { return Ok(Shard::WHOLE) };
        let rank = launched.rank.filter(|rank| *rank < launched.world).with_context(|| {
            format!(
                "{} says that {} processes were started, and nothing says which of them this is; give each its --shard",
                launched.variable, launched.world
            )
        })?;
        Ok(Shard::of_rank(rank, launched.world))
    }

    /// How the engine is to run.
    pub fn options(&self) -> anyhow::Result<Options> {
        if !(self.gpu_memory_utilization > 0.0 && self.gpu_memory_utilization <= 1.0) {
            anyhow::bail!("--gpu-memory-utilization is a share, above 0 and at most 1");
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let engine = EngineOptions {
            kind: EngineKind::Auto,
            device: self.device.gpu().map_or(Device::Cpu, Device::Cuda),
            batch_size: self.batch_size,
            copies: if self.engines == 0 { (2 * cores).min(8) } else { self.engines },
            memory: match self.cache_mib {
                0 => Memory::Ask(|| spin_cli::available_memory().map_or(1 << 30, |bytes| bytes / 2)),
                mib => Memory::Bytes(mib << 20),
            },
            gpu_memory_utilization: self.gpu_memory_utilization,
        };
        Ok(Options { shard: self.shard()?, engine, processor: spin_cli::processor() })
    }

    /// Which model answers.
    pub fn model_id(&self) -> ModelId {
        match (&self.baseline, self.iteration) {
            (Some(name), _) => ModelId::Baseline(name.clone()),
            (None, t) => ModelId::Iteration(t.unwrap_or(0)),
        }
    }
}
