//! What turns prompts into answers: mistral.rs, or the trainer's own forward
//! pass with cached keys and values. On a GPU it is mistral.rs unless the other is
//! asked for.

mod all;
mod cached;
mod mistral;
mod overlooked;

use std::path::Path;

use spin_model::Architecture;
use spin_run::run::Dtype;

use crate::answer::{Generated, Wanted};
use crate::error::{Result, SampleError};

pub use spin_run::run::EngineKind;

pub use all::answer_all;
pub use cached::CachedEngine;
pub use mistral::MistralEngine;

/// A piece of work, with its number.
#[derive(Clone)]
pub struct Job {
    /// For who gave it.
    pub number: usize,
    /// What to generate.
    pub wanted: Wanted,
}

/// Where engines get work and leave answers. Called from several threads.
pub trait Jobs: Sync {
    /// The next piece of work; `None` when there is none now. There may be more
    /// once a job is [`done`](Jobs::done) that failed.
    fn next(&self) -> Option<Job>;

    /// Takes the outcome of a job.
    fn done(&self, job: Job, outcome: Result<Generated>);

    /// Takes back a job that was not begun, for which there is no memory now.
    fn put_back(&self, job: Job);

    /// Whether to leave everything as it is and come back.
    fn stopped(&self) -> bool;

    /// Something that people should know.
    fn note(&self, text: &str);
}

/// How far an answer can be made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// To the last bit, on the same kind of processor: what shares a batch with
    /// a sequence does not change it.
    Exact,
    /// A logit's last bits depend on what shares its batch, and with them now
    /// and then a token.
    Statistical,
}

impl Replay {
    /// As in manifests.
    pub fn name(self) -> &'static str {
        match self {
            Replay::Exact => "exact",
            Replay::Statistical => "statistical",
        }
    }
}

/// A loaded model that generates.
pub trait Engine: Sync {
    /// Its name and version, and where it computes, for manifests.
    fn describe(&self) -> String;

    /// How far its answers can be made again.
    fn replay(&self) -> Replay;

    /// Works until there is no more work.
    fn run(&self, jobs: &dyn Jobs);
}

/// Where an engine computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// The CPU.
    #[default]
    Cpu,
    /// The GPU of this number, from 0, of those that `CUDA_VISIBLE_DEVICES` leaves.
    Cuda(usize),
}

/// How much memory keys and values may take on the CPU.
#[derive(Clone, Copy, Debug)]
pub enum Memory {
    /// So many bytes.
    Bytes(u64),
    /// What this says once the weights are loaded, in bytes.
    Ask(fn() -> u64),
}

impl Memory {
    fn bytes(self) -> u64 {
        match self {
            Memory::Bytes(bytes) => bytes,
            Memory::Ask(ask) => ask(),
        }
    }
}

/// How a model is loaded and run. Nothing of it changes what is drawn, but for
/// rounding.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Which engine.
    pub kind: EngineKind,
    /// Where.
    pub device: Device,
    /// Sequences in one batch, at most; 0 for a default. 1 makes a GPU's answers
    /// exact, slowly.
    pub batch_size: usize,
    /// Copies of the model that mistral.rs runs side by side on the CPU, as it
    /// gets batches wrong there.
    pub copies: usize,
    /// Memory for keys and values on the CPU.
    pub memory: Memory,
    /// Share of a GPU's memory for weights, keys and values.
    pub gpu_memory_utilization: f32,
}

/// Loads the engine that the options ask for.
///
/// # Errors
/// When it refuses the model, or cannot do what is asked.
pub fn load(dir: &Path, dtype: Dtype, options: &EngineOptions) -> Result<Box<dyn Engine>> {
    let cannot = |problem: &str| SampleError::Unsuitable { problem: problem.into() };
    let cached = || CachedEngine::load(dir, dtype, options.batch_size, options.memory);
    match (options.kind, options.device) {
        (EngineKind::SpinModel, _) if dtype == Dtype::F16 => {
            Err(cannot("the engine spin-model computes in f32 and bf16 only"))
        }
        (EngineKind::SpinModel, Device::Cuda(number)) => {
            let share = options.gpu_memory_utilization;
            Ok(Box::new(CachedEngine::load_on_gpu(dir, dtype, options.batch_size, number, share)?))
        }
        (EngineKind::SpinModel, Device::Cpu) => Ok(Box::new(cached()?)),
        // A model of a family that both read is not handed on to a library that would overlook what this one refuses.
        (EngineKind::Auto, Device::Cpu) if dtype != Dtype::F16 && Architecture::of_dir(dir).is_some() => {
            Ok(Box::new(cached()?))
        }
        (EngineKind::Auto | EngineKind::Mistralrs, _) => Ok(Box::new(MistralEngine::load(dir, dtype, options)?)),
    }
}
