//! mistral.rs, made to generate exactly the batches it is given.
//!
//! mistral.rs 0.8.1 starts on whatever requests have arrived when its loop
//! comes round, so which sequences share a forward pass would depend on
//! timing, and with it the last bits of the logits. A *gate* request holds
//! the engine inside its logits processor until the whole batch is queued;
//! then all of it is scheduled together.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use candle_core::{Device, Tensor};
use mistralrs::{
    Constraint, CustomLogitsProcessor, Model, ModelDType, NormalRequest, Request, RequestMessage, Response,
    SamplingParams, StopTokens, TextModelBuilder,
};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use crate::choose::{Decoding, choose};
use crate::error::{Result, SampleError};
use crate::noise::Key;

/// A sequence to generate.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// For messages.
    pub row_id: String,
    /// Token ids, all prompts of a batch of equal length.
    pub ids: Vec<u32>,
    /// Its noise.
    pub key: Key,
}

/// What came out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Generated {
    /// Token ids, with the EOS that ended them, if one did.
    pub ids: Vec<u32>,
    /// Sum of the natural log-probabilities of the ids under the model at
    /// temperature 1 over the whole vocabulary.
    pub logps: f64,
}

/// A loaded model.
pub struct Engine {
    runtime: Runtime,
    model: Model,
    decoding: Decoding,
    eos: Vec<u32>,
}

/// How a model is loaded and run.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// How tokens are drawn.
    pub decoding: Decoding,
    /// Ids that end an answer.
    pub eos: Vec<u32>,
    /// Most sequences at once.
    pub batch_size: usize,
    /// Element type: `f32`, `bf16` or `f16`.
    pub dtype: String,
}

impl Engine {
    /// Loads a Hugging Face directory, on the CPU.
    ///
    /// # Errors
    /// When mistral.rs refuses it.
    pub fn load(dir: &Path, config: &EngineConfig) -> Result<Engine> {
        let failed = |problem: String| SampleError::Load { dir: dir.into(), problem };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(|e| failed(e.to_string()))?;
        let dtype = match config.dtype.as_str() {
            "bf16" => ModelDType::BF16,
            "f16" => ModelDType::F16,
            _ => ModelDType::F32,
        };
        let builder = TextModelBuilder::new(dir.display())
            .with_force_cpu()
            .with_dtype(dtype)
            .with_max_num_seqs(config.batch_size)
            // A cached prefix would make a row's numbers depend on earlier rows.
            .with_prefix_cache_n(None);
        let model = runtime.block_on(builder.build()).map_err(|e| failed(format!("{e:#}")))?;
        Ok(Engine { runtime, model, decoding: config.decoding, eos: config.eos.clone() })
    }

    /// Generates one answer of at most `max_new_tokens` per prompt. The
    /// prompts share their forward passes as long as they run.
    ///
    /// # Errors
    /// When mistral.rs fails, or the model gives no numbers.
    pub fn generate(&self, prompts: &[Prompt], max_new_tokens: usize) -> Result<Vec<Generated>> {
        let pickers: Vec<Arc<Picker>> = prompts
            .iter()
            .map(|p| Arc::new(Picker { decoding: self.decoding, key: p.key, state: Mutex::default() }))
            .collect();
        self.runtime.block_on(self.run(prompts, &pickers, max_new_tokens))?;
        pickers
            .iter()
            .zip(prompts)
            .map(|(picker, prompt)| {
                let state = picker.state.lock().unwrap_or_else(PoisonError::into_inner);
                if state.broken {
                    return Err(SampleError::NotFinite { row_id: prompt.row_id.clone() });
                }
                Ok(state.generated.clone())
            })
            .collect()
    }

    async fn run(&self, prompts: &[Prompt], pickers: &[Arc<Picker>], max_new_tokens: usize) -> Result<()> {
        let failed = |e: &dyn std::fmt::Display| SampleError::Engine(e.to_string());
        let sender = self.model.inner().get_sender(None).map_err(|e| failed(&e))?;
        let gate = Gate::default();
        let mut answers = Vec::with_capacity(prompts.len() + 1);
        let gate_ids = prompts.first().map_or_else(Vec::new, |p| p.ids[..1].to_vec());
        let jobs = prompts.iter().zip(pickers).map(|(p, picker)| {
            (p.ids.clone(), picker.clone() as Arc<dyn CustomLogitsProcessor>, max_new_tokens)
        });
        let held = Arc::new(GateProcessor(gate.0.clone())) as Arc<dyn CustomLogitsProcessor>;
        for (id, (ids, processor, length)) in std::iter::once((gate_ids, held, 1)).chain(jobs).enumerate() {
            let (answer, receiver) = mpsc::channel(2);
            let request = self.request(id, ids, processor, length, answer);
            sender.send(request).await.map_err(|e| failed(&e))?;
            answers.push(receiver);
        }
        gate.open();
        for mut receiver in answers {
            match receiver.recv().await {
                Some(Response::CompletionDone(_)) => {}
                Some(Response::CompletionModelError(message, _)) => return Err(failed(&message)),
                Some(Response::InternalError(e) | Response::ValidationError(e)) => return Err(failed(&e)),
                Some(_) => return Err(failed(&"an answer of another kind than asked for")),
                None => return Err(failed(&"it stopped without an answer")),
            }
        }
        Ok(())
    }

    fn request(
        &self,
        id: usize,
        ids: Vec<u32>,
        processor: Arc<dyn CustomLogitsProcessor>,
        max_new_tokens: usize,
        response: mpsc::Sender<Response>,
    ) -> Request {
        // Temperature 0 is the argmax path: the engine's own generator, whose
        // seed is fixed and shared, is never asked.
        let sampling_params = SamplingParams {
            temperature: Some(0.0),
            stop_toks: Some(StopTokens::Ids(self.eos.clone())),
            max_len: Some(max_new_tokens),
            ..SamplingParams::deterministic()
        };
        Request::Normal(Box::new(NormalRequest {
            messages: RequestMessage::CompletionTokens(ids),
            sampling_params,
            response,
            return_logprobs: false,
            is_streaming: false,
            id,
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
}

/// Draws the tokens of one sequence and records them.
struct Picker {
    decoding: Decoding,
    key: Key,
    state: Mutex<PickerState>,
}

#[derive(Default)]
struct PickerState {
    generated: Generated,
    broken: bool,
}

impl CustomLogitsProcessor for Picker {
    /// Returns one-hot logits, so that the engine's argmax takes our token.
    /// The step is counted here: the context's length is not reliable.
    fn apply(&self, logits: &Tensor, _context: &[u32]) -> candle_core::Result<Tensor> {
        let values = logits.to_vec1::<f32>()?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let step = state.generated.ids.len() as u64;
        let Some((id, logp)) = choose(&values, &self.decoding, self.key, step) else {
            state.broken = true;
            candle_core::bail!("the logits are not finite");
        };
        state.generated.ids.push(id);
        state.generated.logps += logp;
        let mut one_hot = vec![0f32; values.len()];
        one_hot[id as usize] = 1.0;
        Tensor::from_vec(one_hot, logits.shape(), &Device::Cpu)
    }
}

/// Holds the engine until it is opened; opens when dropped, so that an error
/// cannot leave the engine waiting.
#[derive(Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn open(&self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_all();
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open();
    }
}

struct GateProcessor(Arc<(Mutex<bool>, Condvar)>);

impl CustomLogitsProcessor for GateProcessor {
    fn apply(&self, logits: &Tensor, _context: &[u32]) -> candle_core::Result<Tensor> {
        let mut open = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        while !*open {
            open = self.0.1.wait(open).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(logits.clone())
    }
}
