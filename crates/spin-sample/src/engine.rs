//! mistral.rs, one sequence at a time.
//!
//! mistral.rs 0.8.1 gets batches wrong on the CPU: its decode kernel
//! (`flash_attn_cpu_single_q` in `attention/backends/cpu.rs`) keeps one scratch
//! row per head and not per sequence, so that from the second token on all
//! sequences of a batch read each other's attention. One sequence at a time it
//! is right, and what a row gets cannot depend on its neighbours. Several
//! engines side by side keep the cores busy instead.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

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
use crate::stop::{Search, StopTexts};

/// A sequence to generate.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// For messages.
    pub row_id: String,
    /// Token ids.
    pub ids: Vec<u32>,
    /// Its noise.
    pub key: Key,
}

/// A sequence to generate, with how it is drawn and what ends it.
#[derive(Clone)]
pub struct Wanted {
    /// The sequence.
    pub prompt: Prompt,
    /// How its tokens are drawn.
    pub decoding: Decoding,
    /// Longest answer in tokens.
    pub max_new_tokens: usize,
    /// Texts that end it, besides the ids of [`EngineConfig::eos`].
    pub stop: Option<Arc<StopTexts>>,
}

/// What came out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Generated {
    /// Token ids, with the EOS that ended them, if one did.
    pub ids: Vec<u32>,
    /// Sum of the natural log-probabilities of the ids under the model at
    /// temperature 1 over the whole vocabulary.
    pub logps: f64,
    /// Whether a stop text or an EOS ended it, not the length.
    pub stopped: bool,
}

/// A loaded model.
pub struct Engine {
    runtime: Runtime,
    model: Model,
    eos: Vec<u32>,
}

/// How a model is loaded and run.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// How tokens are drawn where nothing else is said.
    pub decoding: Decoding,
    /// Ids that end an answer.
    pub eos: Vec<u32>,
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
            .worker_threads(1)
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
            .with_max_num_seqs(1)
            // A cached prefix would make a row's numbers depend on earlier rows.
            .with_prefix_cache_n(None);
        let model = runtime.block_on(builder.build()).map_err(|e| failed(format!("{e:#}")))?;
        Ok(Engine { runtime, model, eos: config.eos.clone() })
    }

    /// Generates one answer.
    ///
    /// # Errors
    /// When mistral.rs fails, or the model gives no numbers.
    pub fn generate(&self, wanted: &Wanted) -> Result<Generated> {
        let Wanted { prompt, max_new_tokens, .. } = wanted;
        let failed = |e: &dyn std::fmt::Display| SampleError::Engine(e.to_string());
        let picker = Arc::new(Picker {
            decoding: wanted.decoding,
            key: prompt.key,
            eos: self.eos.clone(),
            max_new_tokens: *max_new_tokens,
            stop: wanted.stop.clone(),
            state: Mutex::default(),
        });
        let sender = self.model.inner().get_sender(None).map_err(|e| failed(&e))?;
        let (answer, mut receiver) = mpsc::channel(2);
        let request = self.request(prompt.ids.clone(), picker.clone(), *max_new_tokens, answer);
        let response = self.runtime.block_on(async {
            sender.send(request).await.map_err(|e| failed(&e))?;
            let first = receiver.recv().await;
            // It may take one more step with the sequence, and its thread dies
            // of an error in that step (there is none after a full context)
            // that nobody receives. The channel closes when the sequence is gone.
            while receiver.recv().await.is_some() {}
            Ok::<_, SampleError>(first)
        })?;
        let state = picker.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.broken {
            return Err(SampleError::NotFinite { row_id: prompt.row_id.clone() });
        }
        match response {
            Some(Response::CompletionDone(_)) => Ok(state.generated.clone()),
            Some(Response::CompletionModelError(message, _)) => Err(failed(&message)),
            Some(Response::InternalError(e) | Response::ValidationError(e)) => Err(failed(&e)),
            Some(_) => Err(failed(&"an answer of another kind than asked for")),
            None => Err(failed(&"it stopped without an answer")),
        }
    }

    fn request(
        &self,
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
}

/// Draws the tokens of one sequence and records them.
struct Picker {
    decoding: Decoding,
    key: Key,
    eos: Vec<u32>,
    max_new_tokens: usize,
    stop: Option<Arc<StopTexts>>,
    state: Mutex<PickerState>,
}

#[derive(Default)]
struct PickerState {
    generated: Generated,
    search: Search,
    broken: bool,
}

impl CustomLogitsProcessor for Picker {
    /// Returns one-hot logits, so that the engine's argmax takes our token.
    /// The step is counted here: the context's length is not reliable.
    fn apply(&self, logits: &Tensor, _context: &[u32]) -> candle_core::Result<Tensor> {
        let values = logits.to_vec1::<f32>()?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let PickerState { generated, search, broken } = &mut *state;
        // mistral.rs takes one more step after it has answered, when the first
        // token ended the sequence: that token is nobody's, and ends it again.
        if generated.stopped || generated.ids.len() == self.max_new_tokens {
            return one_hot(logits, self.eos.first().copied().unwrap_or(0));
        }
        let step = generated.ids.len() as u64;
        let Some((id, logp)) = choose(&values, &self.decoding, self.key, step) else {
            *broken = true;
            candle_core::bail!("the logits are not finite");
        };
        generated.ids.push(id);
        generated.logps += logp;
        generated.stopped = self.eos.contains(&id);
        let mut taken = id;
        if let (false, Some(stop)) = (generated.stopped, &self.stop) {
            generated.stopped = search.found(stop, &generated.ids).map_err(candle_core::Error::wrap)?;
            // An EOS in place of our token ends the sequence here. It is told
            // to mistral.rs only: the recorded ids are the answer.
            if let (true, Some(&eos)) = (generated.stopped, self.eos.first()) {
                taken = eos;
            }
        }
        one_hot(logits, taken)
    }
}

fn one_hot(logits: &Tensor, id: u32) -> candle_core::Result<Tensor> {
    let mut values = vec![0f32; logits.elem_count()];
    values[id as usize] = 1.0;
    Tensor::from_vec(values, logits.shape(), &Device::Cpu)
}

/// Several engines with the same model, each on a thread of its own.
pub struct Pool {
    engines: Vec<Engine>,
    decoding: Decoding,
}

impl Pool {
    /// Loads `count` engines, at least one.
    ///
    /// # Errors
    /// When mistral.rs refuses the model.
    pub fn load(dir: &Path, config: &EngineConfig, count: usize) -> Result<Pool> {
        let engines = (0..count.max(1)).map(|_| Engine::load(dir, config)).collect::<Result<_>>()?;
        Ok(Pool { engines, decoding: config.decoding })
    }

    /// Generates an answer to each prompt, all drawn as the pool was told, of
    /// at most as many tokens as `max_new_tokens` has for it; otherwise as
    /// [`answer`](Pool::answer).
    ///
    /// # Errors
    /// The first of the engines' errors.
    pub fn generate(
        &self,
        prompts: &[Prompt],
        max_new_tokens: &[usize],
        stop: &AtomicBool,
        done: &(dyn Fn(usize) + Sync),
    ) -> Result<Option<Vec<Generated>>> {
        let wanted: Vec<Wanted> = prompts
            .iter()
            .zip(max_new_tokens)
            .map(|(prompt, &max_new_tokens)| Wanted {
                prompt: prompt.clone(),
                decoding: self.decoding,
                max_new_tokens,
                stop: None,
            })
            .collect();
        self.answer(&wanted, stop, done)
    }

    /// Generates each of the sequences, in their order. `done` is told after
    /// each answer how many tokens it has. `None` when `stop` became true on
    /// the way.
    ///
    /// # Errors
    /// The first of the engines' errors.
    pub fn answer(
        &self,
        wanted: &[Wanted],
        stop: &AtomicBool,
        done: &(dyn Fn(usize) + Sync),
    ) -> Result<Option<Vec<Generated>>> {
        let next = AtomicUsize::new(0);
        let answers: Mutex<Vec<Option<Generated>>> = Mutex::new(vec![None; wanted.len()]);
        let work = |engine: &Engine| -> Result<()> {
            while !stop.load(Ordering::Relaxed) {
                let i = next.fetch_add(1, Ordering::Relaxed);
                let Some(wanted) = wanted.get(i) else { break };
                let answer = engine.generate(wanted)?;
                done(answer.ids.len());
                answers.lock().unwrap_or_else(PoisonError::into_inner)[i] = Some(answer);
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let work = &work;
            let threads: Vec<_> = self.engines.iter().map(|engine| scope.spawn(move || work(engine))).collect();
            threads.into_iter().try_for_each(|t| {
                t.join().unwrap_or_else(|_| Err(SampleError::Engine("an engine's thread died".into())))
            })
        })?;
        Ok(answers.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().collect())
    }
}
