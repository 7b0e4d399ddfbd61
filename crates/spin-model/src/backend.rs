//! Who computes a decoder. Everything above asks a [`Backend`], and nothing
//! above knows which there are.

use candle_core::{Device, DeviceLocation, Tensor};

use crate::batch::{Layout, RowPlan};
use crate::config::ModelConfig;
use crate::cpu::Cpu;
use crate::decoder::Decoder;
use crate::engine::{Cache, GrowingDecoder, Part, TreePass};
use crate::error::{Error, Result};
use crate::gradients::{GradientSums, Gradients};
use crate::ops::{GrowingOperations, TreeOperations};
use crate::request::{ScoreOptions, Target, TargetScore, TreeRows};
use crate::{composed, engine};

/// Which implementation computes a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernels {
    /// Hand-written operations with hand-written backward passes; on the CPU,
    /// in f32 whatever the type of the weights.
    Fused,
    /// Compositions of candle's operations; any device and type.
    Composed,
    /// The same operations as [`Kernels::Fused`] with the kernels of `spin-cuda`, on
    /// the GPU with a number. Weights are in memory, where they are trained, and the GPU
    /// has a copy. Never run on a GPU yet.
    #[cfg(feature = "cuda-kernels")]
    Cuda(usize),
}

/// How gradients are computed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backward {
    /// Of torch's `cross_entropy(label_smoothing=smoothing)`.
    pub smoothing: f64,
    /// Only the inputs of every so many blocks are kept; 0 keeps everything.
    pub recompute_every: usize,
}

/// An implementation of a decoder. Every call is about a whole batch.
pub(crate) trait Backend {
    /// How it takes the rows of a batch, which may share prompts.
    fn layout(&self, share_prompts: bool) -> Layout;

    /// The logits after the plan's response rows, `[response rows, vocab]` f32.
    fn logits(&self, decoder: &Decoder, plan: &RowPlan) -> Result<Tensor>;

    /// The log-probability of each of the plan's targets.
    fn row_logps(&self, decoder: &Decoder, plan: &RowPlan) -> Result<Vec<f32>>;

    /// Begins a sum of gradients over several batches.
    ///
    /// # Errors
    ///
    /// If there is no memory for it.
    fn accumulation<'a>(&'a self, grads: &'a mut Gradients) -> Result<Box<dyn Accumulates + 'a>>;

    /// Computes trees of sequences with at most `longest` rows, of which paths
    /// of at most `longest_path` lead from one batch to another; `None` where
    /// nothing is shared, and each sequence has to be computed by itself.
    ///
    /// # Errors
    ///
    /// If there is no memory for them.
    fn tree<'a>(
        &'a self,
        decoder: &'a Decoder,
        longest: usize,
        longest_path: usize,
    ) -> Result<Option<Box<dyn TreeScorer + 'a>>>;

    /// Takes a decoder apart to compute sequences that grow.
    fn growing(&self, decoder: Decoder) -> Result<Box<dyn Growing>>;
}

/// Adds up gradients over batches, wherever the sums are meanwhile.
pub(crate) trait Accumulates {
    /// Sums of the sequences' log-probabilities, and the gradient of the loss
    /// added: see [`crate::Accumulation::add`].
    fn add(
        &mut self,
        decoder: &Decoder,
        plan: &RowPlan,
        backward: Backward,
        slopes: &mut dyn FnMut(usize, &[f64]) -> Vec<f64>,
    ) -> Result<Vec<f64>>;

    /// What was added is in the gradients afterwards.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// Scores a tree of sequences batch by batch.
pub(crate) trait TreeScorer {
    /// Computes the next rows, which continue the path that is cached, and
    /// what is asked of them: targets are in the order of the rows that are
    /// wanted, by their numbers among these.
    fn score(&mut self, rows: &TreeRows<'_>, targets: &[Target], options: &ScoreOptions) -> Result<Vec<TargetScore>>;
}

/// Computes steps of sequences that grow.
pub(crate) trait Growing: Send + Sync {
    /// Bytes of memory for keys and values that nobody has, where they are in a
    /// device's memory that says so.
    fn free_memory(&self) -> Option<u64>;

    /// Room for so many tokens of a sequence.
    fn cache(&self, room: usize) -> Result<Cache>;

    /// Room that has the first `len` tokens of another sequence.
    fn fork(&self, from: &Cache, len: usize, room: usize) -> Result<Cache>;

    /// Appends new tokens, `ids` of all parts one after the other, and writes
    /// the logits after the last of each part to `logits`, `[parts, vocab]`.
    fn step(&self, ids: &[u32], parts: &mut [Part<'_>], logits: &mut Vec<f32>) -> Result<()>;
}

impl Kernels {
    /// Who computes models with weights on a device, unless told otherwise.
    pub(crate) fn of(device: &Device, config: &ModelConfig) -> Self {
        match device.location() {
            DeviceLocation::Cpu => Kernels::Fused,
            #[cfg(feature = "cuda-kernels")]
            DeviceLocation::Cuda { gpu_id } if crate::cuda::computes(config) => Kernels::Cuda(gpu_id),
            _ => {
                let _ = config;
                Kernels::Composed
            }
        }
    }

    /// Where it has the weights that it computes with, for a model on `device`:
    /// what has copies of its own leaves them in memory, where they are trained.
    pub(crate) fn keeps_weights(self, device: &Device) -> Device {
        match self {
            Kernels::Composed => device.clone(),
            _ => Device::Cpu,
        }
    }

    /// The implementation.
    ///
    /// # Errors
    ///
    /// If the GPU is not there, or its libraries are not.
    pub(crate) fn backend(self) -> Result<&'static dyn Backend> {
        Ok(match self {
            Kernels::Fused => &Engine(Cpu),
            Kernels::Composed => &Composed,
            #[cfg(feature = "cuda-kernels")]
            Kernels::Cuda(ordinal) => gpu(ordinal)?,
        })
    }
}

/// The GPU with a number, opened once.
#[cfg(feature = "cuda-kernels")]
fn gpu(ordinal: usize) -> Result<&'static dyn Backend> {
    use std::collections::BTreeMap;
    use std::sync::{Mutex, PoisonError};

    use crate::cuda::{Cuda, Gpu};

    static OPENED: Mutex<BTreeMap<usize, &'static Engine<Cuda<Gpu>>>> = Mutex::new(BTreeMap::new());
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(engine) = opened.get(&ordinal) {
        return Ok(*engine);
    }
    let engine: &'static Engine<_> = Box::leak(Box::new(Engine(Cuda::new(Box::leak(Box::new(Gpu::new(ordinal)?))))));
    opened.insert(ordinal, engine);
    Ok(engine)
}

/// [`crate::engine`] with a set of operations.
struct Engine<O>(O);

impl<O: TreeOperations + GrowingOperations + GradientSums + Copy + Send + Sync + 'static> Backend for Engine<O> {
    fn layout(&self, share_prompts: bool) -> Layout {
        if share_prompts { Layout::SharedPrompts } else { Layout::Packed }
    }

    fn logits(&self, decoder: &Decoder, plan: &RowPlan) -> Result<Tensor> {
        let logits = engine::logits(&self.0, decoder, plan)?;
        let vocab = decoder.config.vocab_size;
        let shape = (logits.len() / vocab, vocab);
        Ok(Tensor::from_vec(logits, shape, &Device::Cpu)?)
    }

    fn row_logps(&self, decoder: &Decoder, plan: &RowPlan) -> Result<Vec<f32>> {
        engine::row_logps(&self.0, decoder, plan)
    }

    fn accumulation<'a>(&'a self, grads: &'a mut Gradients) -> Result<Box<dyn Accumulates + 'a>> {
        Ok(Box::new(EngineSums { ops: &self.0, sums: self.0.sums(grads)? }))
    }

    fn tree<'a>(
        &'a self,
        decoder: &'a Decoder,
        longest: usize,
        longest_path: usize,
    ) -> Result<Option<Box<dyn TreeScorer + 'a>>> {
        Ok(Some(Box::new(TreePass::new(&self.0, decoder, longest, longest_path)?)))
    }

    fn growing(&self, decoder: Decoder) -> Result<Box<dyn Growing>> {
        Ok(Box::new(GrowingDecoder::new(self.0, decoder)?))
    }
}

/// Sums of a set of operations.
struct EngineSums<'a, O: GradientSums + 'a> {
    ops: &'a O,
    sums: O::Sums<'a>,
}

impl<O: GradientSums> Accumulates for EngineSums<'_, O> {
    fn add(
        &mut self,
        decoder: &Decoder,
        plan: &RowPlan,
        Backward { smoothing, recompute_every }: Backward,
        slopes: &mut dyn FnMut(usize, &[f64]) -> Vec<f64>,
    ) -> Result<Vec<f64>> {
        engine::accumulate_gradients(self.ops, decoder, plan, smoothing, recompute_every, slopes, &mut self.sums)
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.ops.finish(self.sums)
    }
}

impl<O: TreeOperations> TreeScorer for TreePass<'_, O> {
    fn score(&mut self, rows: &TreeRows<'_>, targets: &[Target], options: &ScoreOptions) -> Result<Vec<TargetScore>> {
        self.score(rows, targets, options)
    }
}

impl<O: GrowingOperations + Send + Sync + 'static> Growing for GrowingDecoder<O> {
    fn free_memory(&self) -> Option<u64> {
        self.free_memory()
    }

    fn cache(&self, room: usize) -> Result<Cache> {
        self.cache(room)
    }

    fn fork(&self, from: &Cache, len: usize, room: usize) -> Result<Cache> {
        self.fork(from, len, room)
    }

    fn step(&self, ids: &[u32], parts: &mut [Part<'_>], logits: &mut Vec<f32>) -> Result<()> {
        self.step(ids, parts, logits)
    }
}

/// [`crate::composed`].
struct Composed;

impl Backend for Composed {
    fn layout(&self, _share_prompts: bool) -> Layout {
        Layout::Padded
    }

    fn logits(&self, decoder: &Decoder, plan: &RowPlan) -> Result<Tensor> {
        Ok(composed::logits(decoder, plan)?)
    }

    fn row_logps(&self, decoder: &Decoder, plan: &RowPlan) -> Result<Vec<f32>> {
        Ok(composed::row_logps(decoder, plan)?)
    }

    fn accumulation<'a>(&'a self, grads: &'a mut Gradients) -> Result<Box<dyn Accumulates + 'a>> {
        Ok(Box::new(ComposedSums(grads)))
    }

    fn tree<'a>(&'a self, _: &'a Decoder, _: usize, _: usize) -> Result<Option<Box<dyn TreeScorer + 'a>>> {
        Ok(None)
    }

    fn growing(&self, _: Decoder) -> Result<Box<dyn Growing>> {
        Err(Error::Config {
            origin: "composed kernels".to_owned(),
            message: "compute no sequences that grow; load the model on the CPU".to_owned(),
        })
    }
}

/// Where the gradients are.
struct ComposedSums<'a>(&'a mut Gradients);

impl Accumulates for ComposedSums<'_> {
    fn add(
        &mut self,
        decoder: &Decoder,
        plan: &RowPlan,
        Backward { smoothing, recompute_every }: Backward,
        slopes: &mut dyn FnMut(usize, &[f64]) -> Vec<f64>,
    ) -> Result<Vec<f64>> {
        composed::accumulate_gradients(decoder, plan, smoothing, recompute_every, slopes, self.0)
    }

    fn finish(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
