//! mistral.rs: several copies side by side on the CPU, one with batches on a
//! GPU.
//!
//! mistral.rs 0.8.1 gets batches wrong on the CPU: its decode kernel
//! (`flash_attn_cpu_single_q` in `attention/backends/cpu.rs`) keeps one scratch
//! row per head and not per sequence, so that from the second token on all
//! sequences of a batch read each other's attention. One sequence at a time it
//! is right, and what a row gets cannot depend on its neighbours. Several
//! copies keep the cores busy instead.
//!
//! On a GPU it batches sequences of equal length only, and sets memory aside
//! for every request that waits. So no more are sent than a batch holds, in the
//! order of their lengths.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Device as CandleDevice, Tensor};
use mistralrs::{
    Constraint, CustomLogitsProcessor, MemoryGpuConfig, Model, ModelDType, NormalRequest, PagedAttentionMetaBuilder,
    Request, RequestMessage, Response, SamplingParams, StopTokens, TextModelBuilder,
};

use spin_run::run::Dtype;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use super::overlooked;
use super::{Device, Engine, EngineOptions, Job, Jobs, Replay};
use crate::answer::{Generated, Growing, Wanted};
use crate::choose::Chooser;
use crate::error::{Result, SampleError};

/// Sequences in a GPU's batch unless something else is asked for.
const BATCH: usize = 128;

/// What runs on the version that `Cargo.toml` pins.
const NAME: &str = "mistralrs 0.8.1";

/// One or more loaded copies of a model.
pub struct MistralEngine {
    copies: Vec<Instance>,
    /// Sequences at a time, of each copy.
    batch_size: usize,
    device: Device,
}

/// A model with the threads that drive it.
struct Instance {
    runtime: Runtime,
    model: Model,
}

/// How often a load that panics is tried.
const LOADS: usize = 5;

impl Instance {
    fn load(dir: &Path, dtype: Dtype, batch_size: usize, options: &EngineOptions) -> Result<Instance> {
        let failed = |problem: String| SampleError::Load { dir: dir.into(), problem };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|e| failed(e.to_string()))?;
        let dtype = match dtype {
            Dtype::Bf16 => ModelDType::BF16,
            Dtype::F16 => ModelDType::F16,
            Dtype::F32 => ModelDType::F32,
        };
        let build = || {
            let builder = TextModelBuilder::new(dir.display())
                .with_dtype(dtype)
                .with_max_num_seqs(batch_size)
                // A cached prefix would make a row's numbers depend on earlier rows.
                .with_prefix_cache_n(None);
            let builder = match options.device {
                Device::Cpu => builder.with_force_cpu(),
                Device::Cuda(number) => builder.with_device(gpu(number)?).with_paged_attn(
                    PagedAttentionMetaBuilder::default()
                        .with_gpu_memory(MemoryGpuConfig::Utilization(options.gpu_memory_utilization))
                        .build()
                        .map_err(|e| failed(format!("{e:#}")))?,
                ),
            };
            runtime.block_on(builder.build()).map_err(|e| failed(format!("{e:#}")))
        };
        // mistral.rs 0.8.1 looks at the model (`MistralRs::new`, a `try_lock`) while the thread that it
        // has just started may do so, too, and panics then: seen on a busy machine, and never twice.
        let model = (0..LOADS).find_map(|_| spin_cli::caught(build));
        let model = model.unwrap_or_else(|| Err(failed(format!("it panicked {LOADS} times"))))?;
        Ok(Instance { runtime, model })
    }

    /// Generates one answer.
    fn generate(&self, wanted: &Wanted) -> Result<Generated> {
        let failed = |e: &dyn std::fmt::Display| SampleError::Engine(e.to_string());
        let picker = Arc::new(Picker { wanted: wanted.clone(), state: Mutex::default() });
        let sender = self.model.inner().get_sender(None).map_err(|e| failed(&e))?;
        let (answer, mut receiver) = mpsc::channel(2);
        let request = request(wanted, picker.clone(), answer);
        let response = self.runtime.block_on(async {
            sender.send(request).await.map_err(|e| failed(&e))?;
            let first = receiver.recv().await;
            // It may take one more step with the sequence, and its thread dies
            // of an error in that step (there is none after a full context)
            // that nobody receives. The channel closes when the sequence is gone.
            while receiver.recv().await.is_some() {}
            Ok::<_, SampleError>(first)
        })?;
        let mut state = picker.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = state.error.take() {
            return Err(error);
        }
        match response {
            Some(Response::CompletionDone(_)) => Ok(state.growing.generated.clone()),
            Some(Response::CompletionModelError(message, _)) => Err(failed(&message)),
            Some(Response::InternalError(e) | Response::ValidationError(e)) => Err(failed(&e)),
            Some(_) => Err(failed(&"an answer of another kind than asked for")),
            None => Err(failed(&"it stopped without an answer")),
        }
    }
}

fn request(wanted: &Wanted, processor: Arc<dyn CustomLogitsProcessor>, response: mpsc::Sender<Response>) -> Request {
    // Temperature 0 is the argmax path: the engine's own generator, whose
    // seed is fixed and shared, is never asked.
    let sampling_params = SamplingParams {
        temperature: Some(0.0),
        stop_toks: Some(StopTokens::Ids(wanted.stop_ids.to_vec())),
        max_len: Some(wanted.max_new_tokens),
        ..SamplingParams::deterministic()
    };
    Request::Normal(Box::new(NormalRequest {
        messages: RequestMessage::CompletionTokens(wanted.prompt_ids.to_vec()),
        sampling_params,
        response,
        return_logprobs: false,
        is_streaming: false,
        id: 0,
        constraint: Constraint::None,
        suffix: None,
        tools: None,
        tool_choice: None,
        logits_processors: Some(vec![processor]),
        return_raw_logits: false,
        web_search_options: None,
        model_id: None,
        truncate_sequence: false,
    }))
}

/// Draws the tokens of one sequence and records them.
struct Picker {
    wanted: Wanted,
    state: Mutex<PickerState>,
}

#[derive(Default)]
struct PickerState {
    growing: Growing,
    chooser: Chooser,
    error: Option<SampleError>,
}

impl CustomLogitsProcessor for Picker {
    /// Returns one-hot logits, so that the engine's argmax takes our token.
    /// The step is counted here: the context's length is not reliable.
    fn apply(&self, logits: &Tensor, _context: &[u32]) -> candle_core::Result<Tensor> {
        let values = logits.to_vec1::<f32>()?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let PickerState { growing, chooser, error } = &mut *state;
        let stop = self.wanted.stop_ids.first().copied().unwrap_or(0);
        // mistral.rs takes one more step after it has answered, when the first
        // token ended the sequence: that token is nobody's, and ends it again.
        if growing.is_done(&self.wanted) {
            return one_hot(logits, stop);
        }
        if let Err(problem) = growing.draw(&self.wanted, chooser, &values) {
            let message = problem.to_string();
            *error = Some(problem);
            candle_core::bail!("{message}");
        }
        // A stop id in place of the token that completes a stop text ends the
        // sequence here. It is told to mistral.rs only.
        let last = growing.generated.ids.last().copied().unwrap_or(stop);
        one_hot(logits, if growing.generated.stopped { stop } else { last })
    }
}

fn one_hot(logits: &Tensor, id: u32) -> candle_core::Result<Tensor> {
    let mut values = vec![0f32; logits.elem_count()];
    values[id as usize] = 1.0;
    Tensor::from_vec(values, logits.shape(), &CandleDevice::Cpu)
}

impl MistralEngine {
    /// Loads a Hugging Face directory.
    ///
    /// # Errors
    /// When mistral.rs refuses it, or there is no such device.
    pub fn load(dir: &Path, dtype: Dtype, options: &EngineOptions) -> Result<MistralEngine> {
        let device = options.device;
        let (copies, batch_size) = match (device, options.batch_size) {
            (Device::Cpu, _) => (options.copies.max(1), 1),
            (Device::Cuda(_), 0) => (1, BATCH),
            (Device::Cuda(_), n) => (1, n),
        };
        overlooked::check(dir)?;
        if let Device::Cuda(number) = device {
            gpu(number)?;
        }
        let load = |_| Instance::load(dir, dtype, batch_size, options);
        Ok(MistralEngine { copies: (0..copies).map(load).collect::<Result<_>>()?, batch_size, device })
    }

    /// One copy on the CPU that is sent `queued` requests at once and batches
    /// as it likes, to measure: the answers are wrong.
    ///
    /// # Errors
    /// When mistral.rs refuses the model.
    pub fn load_batched(dir: &Path, dtype: Dtype, options: &EngineOptions, queued: usize) -> Result<MistralEngine> {
        let copies = vec![Instance::load(dir, dtype, options.batch_size, options)?];
        Ok(MistralEngine { copies, batch_size: queued, device: Device::Cpu })
    }
}

/// The GPU of a number.
fn gpu(number: usize) -> Result<CandleDevice> {
    CandleDevice::new_cuda(number).map_err(|e| SampleError::Unsuitable {
        problem: format!("there is no GPU {number} for this program ({e}); give --device cpu or use a CUDA build"),
    })
}

fn is_out_of_memory(error: &SampleError) -> bool {
    let text = error.to_string().to_lowercase();
    text.contains("out of memory") || text.contains("out_of_memory")
}

impl Engine for MistralEngine {
    fn describe(&self) -> String {
        match self.device {
            Device::Cpu => format!("{NAME} (cpu)"),
            Device::Cuda(_) => format!("{NAME} (cuda)"),
        }
    }

    fn replay(&self) -> Replay {
        if self.batch_size == 1 { Replay::Exact } else { Replay::Statistical }
    }

    fn run(&self, jobs: &dyn Jobs) {
        let limit = AtomicUsize::new(self.batch_size);
        let work = |copy: &Instance, lane: usize| {
            while lane < limit.load(Ordering::Relaxed)
                && let Some(job) = jobs.next()
            {
                // All of a batch fail together, and halve it together once.
                let before = limit.load(Ordering::Relaxed);
                let Job { wanted, .. } = &job;
                match copy.generate(wanted) {
                    Err(error) if before > 1 && is_out_of_memory(&error) => {
                        let fewer = before / 2;
                        if limit.fetch_min(fewer, Ordering::Relaxed) > fewer {
                            jobs.note(&format!("the GPU is out of memory: going on with batches of {fewer}"));
                        }
                        jobs.put_back(job);
                    }
                    outcome => jobs.done(job, outcome),
                }
            }
        };
        std::thread::scope(|scope| {
            for copy in &self.copies {
                for lane in 0..self.batch_size {
                    let work = &work;
                    scope.spawn(move || work(copy, lane));
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_memory_are_recognised() {
        for text in ["DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")", "CUDA out of memory"] {
            assert!(is_out_of_memory(&SampleError::Engine(text.into())), "{text}");
        }
        assert!(!is_out_of_memory(&SampleError::Engine("it stopped".into())));
    }
}
