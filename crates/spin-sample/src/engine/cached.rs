//! The trainer's forward pass with cached keys and values.
//!
//! A step takes one token of every sequence that is under way, and the prompts
//! of those that begin, whatever their lengths; a sequence that ends makes room
//! for the next. A row's logits do not depend on the others ([`Generator`]), so
//! neither does its answer.

use std::path::Path;

use candle_core::DType;
use rayon::prelude::*;
use spin_model::{CausalLm, Generator, Sequence, StepInput, open_device};
use spin_run::run::Dtype;

use super::{Engine, Job, Jobs, Memory, Replay};
use crate::answer::{Growing, Wanted};
use crate::choose::Chooser;
use crate::error::{Result, SampleError};

/// Sequences in one batch unless something else is asked for, at least and at
/// most; and those for each thread. The weights are read once for all, so more
/// gain little.
const BATCH: [usize; 2] = [64, 512];
const BATCH_PER_THREAD: usize = 16;
/// Sequences in one batch on a GPU.
const GPU_BATCH: usize = 256;
/// Prompt tokens that may begin in one step; a longer prompt begins alone.
const PROMPT_TOKENS: usize = 512;

/// An engine on the CPU or a GPU.
pub struct CachedEngine {
    generator: Generator,
    on_gpu: bool,
    batch_size: usize,
    memory: u64,
}

/// A sequence under way.
struct Active {
    job: Job,
    growing: Growing,
    sequence: Sequence,
    bytes: u64,
}

/// Sequences that begin with one prompt in this step.
struct Newcomers {
    sequence: Sequence,
    /// Of each: room that it needs.
    jobs: Vec<(Job, usize)>,
}

/// Positions that are cached: the last token of an answer is not.
fn room(wanted: &Wanted) -> usize {
    wanted.prompt_ids.len() + wanted.max_new_tokens - 1
}

/// The model, laid out for generation on the CPU or a GPU.
fn generator(dir: &Path, dtype: Dtype, gpu: Option<usize>) -> Result<Generator> {
    let failed = |e: spin_model::Error| SampleError::Model { dir: dir.into(), source: e };
    let device = open_device(gpu).map_err(|e| SampleError::Unsuitable { problem: e.to_string() })?;
    let dtype = if dtype == Dtype::Bf16 { DType::BF16 } else { DType::F32 };
    let model = CausalLm::load(dir, &device, dtype).map_err(failed)?;
    Generator::new(model).map_err(failed)
}

impl CachedEngine {
    /// Loads a Hugging Face directory. `batch_size` 0 stands for a default;
    /// `memory` is what keys and values may take.
    ///
    /// # Errors
    /// When the trainer could not read it either.
    pub fn load(dir: &Path, dtype: Dtype, batch_size: usize, memory: Memory) -> Result<CachedEngine> {
        let generator = generator(dir, dtype, None)?;
        let default = || (BATCH_PER_THREAD * rayon::current_num_threads()).clamp(BATCH[0], BATCH[1]);
        let batch_size = if batch_size == 0 { default() } else { batch_size };
        Ok(CachedEngine { generator, on_gpu: false, batch_size, memory: memory.bytes() })
    }

    /// The same on the GPU with a number: keys and values may take a share of what
    /// memory it has left when the weights are there. Never run on a GPU yet.
    ///
    /// # Errors
    /// As [`CachedEngine::load`], and when the GPU or its libraries are not there.
    pub fn load_on_gpu(dir: &Path, dtype: Dtype, batch_size: usize, number: usize, share: f32) -> Result<CachedEngine> {
        let generator = generator(dir, dtype, Some(number))?;
        let memory = generator.free_memory().map_or(u64::MAX, |free| (free as f64 * f64::from(share)) as u64);
        let batch_size = if batch_size == 0 { GPU_BATCH } else { batch_size };
        Ok(CachedEngine { generator, on_gpu: true, batch_size, memory })
    }

    fn bytes(&self, room: usize) -> u64 {
        self.generator.sequence_bytes(room) as u64
    }

    /// A sequence, if memory suffices for a step of so many inputs and tokens as
    /// well.
    fn sequence(&self, room: usize, inputs: usize, tokens: usize) -> Result<Sequence, spin_model::Error> {
        let sequence = self.generator.sequence(room)?;
        let bytes = self.generator.step_bytes(inputs, tokens);
        // A GPU says it itself when there is none.
        if self.on_gpu {
            return Ok(sequence);
        }
        match Vec::<u8>::new().try_reserve_exact(bytes) {
            Ok(()) => Ok(sequence),
            Err(_) => Err(spin_model::Error::Memory { bytes }),
        }
    }

    /// Takes jobs while there is room for them.
    fn admit(&self, jobs: &dyn Jobs, state: &mut State) -> Vec<Newcomers> {
        let mut all: Vec<Newcomers> = Vec::new();
        let (mut count, mut tokens) = (state.active.len(), 0);
        let mut used: u64 = state.active.iter().map(|active| active.bytes).sum();
        while count < state.limit
            && let Some(job) = jobs.next()
        {
            let room = room(&job.wanted);
            let bytes = self.bytes(room);
            let prompt = job.wanted.prompt_ids.len();
            let same = all.last_mut().filter(|last| last.jobs[0].0.wanted.prompt_ids == job.wanted.prompt_ids);
            let begins = if same.is_some() { 0 } else { prompt };
            if count > 0 && (used + bytes > self.memory || (tokens > 0 && tokens + begins > PROMPT_TOKENS)) {
                jobs.put_back(job);
                break;
            }
            match same {
                Some(last) => last.jobs.push((job, room)),
                None => match self.sequence(room, count + 1, (count + tokens + begins).max(PROMPT_TOKENS)) {
                    Ok(sequence) => all.push(Newcomers { sequence, jobs: vec![(job, room)] }),
                    Err(error) => {
                        self.refuse(jobs, job, error, count, state);
                        break;
                    }
                },
            }
            (count, tokens, used) = (count + 1, tokens + begins, used + bytes);
        }
        all
    }

    /// A sequence that memory does not suffice for waits until there are fewer.
    fn refuse(&self, jobs: &dyn Jobs, job: Job, error: spin_model::Error, count: usize, state: &mut State) {
        match error {
            error if error.is_memory() && count > 0 => {
                state.limit = (count / 2).max(1);
                jobs.note(&format!(
                    "memory does not suffice for {} answers: going on with batches of {}",
                    count + 1,
                    state.limit
                ));
                jobs.put_back(job);
            }
            error => jobs.done(job, Err(SampleError::Engine(error.to_string()))),
        }
    }

    /// Makes sequences of those that began and are not done with one token.
    fn settle(&self, jobs: &dyn Jobs, newcomers: Newcomers, growing: Vec<Result<Growing>>, state: &mut State) {
        let mut under_way = Vec::new();
        for ((job, room), growing) in newcomers.jobs.into_iter().zip(growing) {
            match growing {
                Ok(growing) if growing.is_done(&job.wanted) => jobs.done(job, Ok(growing.generated)),
                Ok(growing) => under_way.push((job, room, growing)),
                Err(error) => jobs.done(job, Err(error)),
            }
        }
        // The last takes the sequence itself, if there is room in it.
        let own = newcomers.sequence;
        while let Some((job, room, growing)) = under_way.pop() {
            let bytes = self.bytes(room);
            if under_way.is_empty() && own.room() >= room {
                state.active.push(Active { job, growing, sequence: own, bytes });
                return;
            }
            match self.generator.fork(&own, room) {
                Ok(sequence) => state.active.push(Active { job, growing, sequence, bytes }),
                // The others of this prompt, and the prompt, are still there.
                Err(error) => self.refuse(jobs, job, error, state.active.len() + under_way.len() + 1, state),
            }
        }
    }
}

/// What is under way.
struct State {
    active: Vec<Active>,
    /// Sequences that memory suffices for.
    limit: usize,
}

impl Engine for CachedEngine {
    fn describe(&self) -> String {
        format!("spin-model {} ({})", env!("CARGO_PKG_VERSION"), if self.on_gpu { "cuda" } else { "cpu" })
    }

    fn replay(&self) -> Replay {
        // A GPU's kernels are made to repeat themselves, too; none has shown it.
        if self.on_gpu { Replay::Statistical } else { Replay::Exact }
    }

    fn run(&self, jobs: &dyn Jobs) {
        let mut state = State { active: Vec::new(), limit: self.batch_size };
        let vocab = self.generator.config().vocab_size;
        let mut logits = Vec::new();
        while !jobs.stopped() {
            let mut newcomers = self.admit(jobs, &mut state);
            if state.active.is_empty() && newcomers.is_empty() {
                return;
            }
            let mut inputs: Vec<StepInput<'_>> = Vec::with_capacity(state.active.len() + newcomers.len());
            for Active { growing, sequence, .. } in &mut state.active {
                let last = growing.generated.ids.len() - 1;
                inputs.push(StepInput { sequence, tokens: &growing.generated.ids[last..] });
            }
            for Newcomers { sequence, jobs } in &mut newcomers {
                inputs.push(StepInput { sequence, tokens: &jobs[0].0.wanted.prompt_ids });
            }
            let step = self.generator.step(&mut inputs, &mut logits);
            if let Err(error) = step {
                // A request is bad, or the program is: all of them are told.
                let error = error.to_string();
                let begun = newcomers.into_iter().flat_map(|newcomers| newcomers.jobs).map(|(job, _)| job);
                for job in state.active.drain(..).map(|active| active.job).chain(begun) {
                    jobs.done(job, Err(SampleError::Engine(error.clone())));
                }
                continue;
            }
            let (old, new) = logits.split_at(state.active.len() * vocab);
            let outcomes: Vec<Result<()>> = state
                .active
                .par_iter_mut()
                .zip(old.par_chunks_exact(vocab))
                .map_init(Chooser::default, |chooser, (Active { job, growing, .. }, logits)| {
                    growing.draw(&job.wanted, chooser, logits)
                })
                .collect();
            let first: Vec<Vec<Result<Growing>>> = newcomers
                .par_iter()
                .zip(new.par_chunks_exact(vocab))
                .map_init(Chooser::default, |chooser, (newcomers, logits)| {
                    let draw = |(job, _): &(Job, usize)| {
                        let mut growing = Growing::default();
                        growing.draw(&job.wanted, chooser, logits).map(|()| growing)
                    };
                    newcomers.jobs.iter().map(draw).collect()
                })
                .collect();
            let before = std::mem::take(&mut state.active);
            for (active, outcome) in before.into_iter().zip(outcomes) {
                match outcome {
                    Ok(()) if active.growing.is_done(&active.job.wanted) => {
                        jobs.done(active.job, Ok(active.growing.generated));
                    }
                    Ok(()) => state.active.push(active),
                    Err(error) => jobs.done(active.job, Err(error)),
                }
            }
            for (newcomers, growing) in newcomers.into_iter().zip(first) {
                self.settle(jobs, newcomers, growing, &mut state);
            }
        }
    }
}
