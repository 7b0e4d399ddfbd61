//! What a training takes, on paper: memory of a process, bytes between
//! processes, time of an update.
//!
//! Sizes follow from the code: which buffers there are, and of how many numbers.
//! Times follow from a machine's peak and the share of it that is reached, which
//! of GPUs was not measured.

mod generation;

use candle_core::DType;
use spin_model::{Batch, Footprint, ModelConfig};
use spin_run::run::{FitConfig, FitDtype, ObjectiveKind, OptimizerKind};

pub use generation::{Generating, Generation};

/// What computes, and what is between.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Machine {
    /// What it is called.
    pub name: &'static str,
    /// Products and sums of numbers of the weights' type per second; 0 where it is
    /// to be measured.
    pub peak: f64,
    /// Share of the peak that training reaches.
    pub share: f64,
    /// Bytes of memory; 0 where it is not known.
    pub memory: u64,
    /// Devices that the fast links join.
    pub per_node: usize,
    /// Bytes per second that a process sends to others of its node.
    pub link: f64,
    /// Bytes per second that a process sends to other nodes.
    pub network: f64,
    /// Bytes per second between a device and the host's memory, where masters and the
    /// optimiser's state are; `None` where it computes there itself.
    pub host_link: Option<f64>,
}

/// Machines by name. Peaks, memory and links of the GPUs are those of NVIDIA's data
/// sheets (dense bf16; one network port a GPU; PCI Express with 16 lanes, of
/// generation 4 and 5); that training reaches 0.4 of the peak is an assumption.
/// Processes with GPUs tell each other gradients and weights from the host's memory,
/// where each byte is written and read: none goes by NVLink. Of a CPU the peak is measured, and the share was (docs/bench/fit.md).
pub const MACHINES: [Machine; 4] = [
    Machine {
        name: "cpu",
        peak: 0.0,
        share: 0.5,
        memory: 0,
        per_node: usize::MAX,
        link: 4e9,
        network: 1e9,
        host_link: None,
    },
    gpu("a100", 312e12, 80, [25e9, 32e9]),
    gpu("h100", 989e12, 80, [50e9, 64e9]),
    gpu("h200", 989e12, 141, [50e9, 64e9]),
];

const fn gpu(name: &'static str, peak: f64, gigabytes: u64, [network, host_link]: [f64; 2]) -> Machine {
    let (memory, per_node) = (gigabytes * 1_000_000_000, 8);
    let link = HOST_MEMORY / (2 * per_node) as f64;
    Machine { name, peak, share: 0.4, memory, per_node, link, network, host_link: Some(host_link) }
}

/// Bytes per second that are read and written in the memory of a host of GPUs, by all
/// processes of a node together: two thirds of what eight channels of DDR5 have, an
/// assumption.
const HOST_MEMORY: f64 = 200e9;

/// Bytes that are on their way to and from a process at a time: see
/// `collective::folding`.
const WINDOWS: u64 = 64 << 20;
/// A process without a model: code, threads, tables of rows.
const PROCESS: u64 = 64 << 20;
/// Logits that the output head holds at a time, in numbers, as `spin-model` has it.
const LOGITS: u64 = 1 << 24;
const MIN_LOGIT_ROWS: u64 = 64;
/// Bytes of a number that is computed, whatever the weights are kept in.
const NUMBER: u64 = 4;

/// Rows of a training, in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lengths {
    /// Tokens of a prompt.
    pub prompt: usize,
    /// Tokens of an answer.
    pub answer: usize,
}

/// A training on several processes.
#[derive(Clone, Copy, Debug)]
pub struct Training<'a> {
    /// The model.
    pub model: &'a ModelConfig,
    /// Its settings.
    pub config: &'a FitConfig,
    /// Into how many shares an update is cut.
    pub shards: usize,
    /// Processes.
    pub world: usize,
    /// Rows, in the mean.
    pub lengths: Lengths,
    /// What computes.
    pub machine: Machine,
}

/// What it takes. Bytes are of one process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Scale {
    /// Weights of the model.
    pub parameters: u64,
    /// Those that are trained.
    pub trained: u64,
    /// Bytes of the weights.
    pub weights: u64,
    /// Bytes of the gradient, and, in the memory that is computed in, of the sum so
    /// far where there is one.
    pub gradient: u64,
    /// Bytes of masters and the optimiser's state: this process's part.
    pub state: u64,
    /// Bytes of the host's memory, beside a device with its own: weights, gradient,
    /// state, what is on its way.
    pub host: u64,
    /// Bytes kept for the backward pass, and of the block under way.
    pub activations: u64,
    /// Bytes of the largest chunk of logits.
    pub logits: u64,
    /// Bytes on their way between processes, and of the process itself.
    pub rest: u64,
    /// Bytes of a checkpoint.
    pub checkpoint: u64,
    /// Bytes that a process sends in an update.
    pub sent: u64,
    /// Seconds of computing in an update.
    pub computing: f64,
    /// Seconds of an update between a device and its host: gradients come, the step is
    /// made, weights go.
    pub hosting: f64,
    /// Seconds of sending in an update, which nothing overlaps.
    pub sending: f64,
}

impl Scale {
    /// Bytes of the memory that is computed in, of a process.
    pub fn memory(&self) -> u64 {
        let state = if self.host > 0 { 0 } else { self.state };
        self.weights + self.gradient + state + self.activations + self.logits + self.rest
    }

    /// Seconds of an update.
    pub fn seconds(&self) -> f64 {
        self.computing + self.hosting + self.sending
    }

    /// Seconds of an update whose sending is hidden behind the last backward pass as
    /// far as that goes: what overlapping could gain.
    pub fn overlapped(&self) -> f64 {
        let backward = self.computing * 2.0 / 3.0;
        self.computing + self.hosting + (self.sending - backward).max(0.0)
    }
}

impl Training<'_> {
    /// What it takes.
    pub fn scale(&self) -> Scale {
        let (world, shards) = (self.world.max(1) as u64, self.shards.max(1) as u64);
        let shapes = self.model.param_shapes();
        let parameters: u64 = shapes.iter().map(|(_, shape)| count(shape)).sum();
        let trained = self.trained(&shapes, parameters);
        let own = if self.config.dtype == FitDtype::F32 { 4 } else { 2 };
        let state = match self.config.optimizer {
            OptimizerKind::Adamw => 8,
            OptimizerKind::Rmsprop => 4,
        };
        // Adapters are f32 beside weights of any type.
        let adapters = if self.config.lora.is_some() { 4 * trained } else { 0 };
        let master = if own < 4 && self.config.lora.is_none() { 4 } else { 0 };
        let sum = if shards > world { 4 * trained / world } else { 0 };
        let widened = if own < 4 { shapes.iter().map(|(_, shape)| 4 * count(shape)).max().unwrap_or(0) } else { 0 };
        let moved = if world > 1 { WINDOWS } else { 0 };
        let (computing, sending, sent) = self.times(parameters, trained, own);
        let weights = parameters * own + adapters;
        let state_of_weight = state + master;
        let state = state_of_weight * trained / world;
        let own = if self.config.lora.is_some() { 4 } else { own };
        let (host, hosting) = match self.machine.host_link {
            None => (0, 0.0),
            Some(link) => {
                // Each share's gradient comes whole; of the step each process makes its part, read and written.
                let rounds = shards.div_ceil(world);
                let moved_here = (4 * rounds + own) * trained;
                let stepped = (4 + 2 * state_of_weight + own) * trained / world;
                let together = world.min(self.machine.per_node as u64);
                let seconds = moved_here as f64 / link + (stepped * together) as f64 / HOST_MEMORY;
                (weights + 4 * trained + sum + state + PROCESS + moved, seconds)
            }
        };
        let is_apart = host > 0;
        Scale {
            parameters,
            trained,
            weights,
            gradient: 4 * trained + if is_apart { 0 } else { sum },
            state,
            host,
            activations: self.activations(),
            logits: self.logits(),
            rest: PROCESS + if is_apart { 0 } else { moved + widened },
            checkpoint: trained * (own + state_of_weight),
            sent,
            computing,
            hosting,
            sending,
        }
    }

    /// Weights that are trained: all, or those of adapters on the modules that the
    /// settings name.
    fn trained(&self, shapes: &[(String, Vec<usize>)], parameters: u64) -> u64 {
        let Some(lora) = &self.config.lora else { return parameters };
        let is_chosen = |name: &str| {
            let module = name.trim_end_matches(".weight").rsplit('.').next().unwrap_or_default();
            let is_projection = name.contains(".layers.") && module.ends_with("_proj");
            let all = lora.target_modules.iter().any(|target| target == "all-linear");
            is_projection && (all || lora.target_modules.iter().any(|target| target == module))
        };
        let chosen = shapes.iter().filter(|(name, shape)| shape.len() == 2 && is_chosen(name));
        chosen.map(|(_, shape)| (lora.r * (shape[0] + shape[1])) as u64).sum()
    }

    /// Answers of a row.
    fn answers(&self) -> usize {
        if self.config.objective == ObjectiveKind::Sft { 1 } else { 2 }
    }

    /// Rows of a process's forward pass, and passes of an update.
    fn passes(&self) -> (usize, usize) {
        let share = self.config.batch_size.div_ceil(self.shards.max(1));
        let rows = match self.config.max_tokens_per_batch {
            0 => self.config.micro_batch_size.clamp(1, share),
            tokens => {
                let row = self.answers() * (self.lengths.prompt + self.lengths.answer);
                (tokens / row.max(1)).clamp(1, share)
            }
        };
        (rows, share.div_ceil(rows) * self.shards.max(1).div_ceil(self.world.max(1)))
    }

    /// Tokens of a pass: a prompt is computed once for its answers.
    fn tokens(&self) -> u64 {
        let (rows, _) = self.passes();
        (rows * (self.lengths.prompt + self.answers() * self.lengths.answer)) as u64
    }

    fn activations(&self) -> u64 {
        let m = self.model;
        let (hidden, inner) = (m.hidden_size as u64, m.intermediate_size as u64);
        let attended = (m.num_attention_heads * m.head_dim) as u64;
        let qkv = attended + 2 * (m.num_key_value_heads * m.head_dim) as u64;
        let heads = m.num_attention_heads as u64;
        let post = if m.post_norms { 2 * hidden } else { 0 };
        // `engine/block.rs`, `Saved`.
        let block = 2 * hidden + qkv + heads + attended + 2 * inner + post;
        let layers = m.num_hidden_layers as u64;
        // Of the blocks that are computed again together, the first's input is kept.
        let kept = match self.config.recompute_every as u64 {
            0 => layers * block,
            every => (layers.div_ceil(every).max(1) - 1) * hidden + every.min(layers) * block,
        };
        // The gradient of the stream and, in the feed-forward layer under way, the
        // activated rows and their gradient.
        let under_way = hidden + 2 * inner;
        self.tokens() * (kept + under_way) * NUMBER
    }

    /// What the passes of an update ask for, buffer by buffer, on the CPU and without
    /// computing: [`Scale::weights`], [`Scale::gradient`] less the sum so far, and
    /// activations with logits. `None` where adapters are trained.
    ///
    /// # Errors
    ///
    /// If rows are longer than the model's.
    pub fn dry_run(&self) -> spin_model::Result<Option<Footprint>> {
        if self.config.lora.is_some() {
            return Ok(None);
        }
        let (rows, _) = self.passes();
        let (prompt, answer) = (vec![0; self.lengths.prompt], vec![0; self.lengths.answer]);
        let batch = Batch::grouped((0..rows).map(|_| (&prompt[..], vec![&answer[..]; self.answers()])))?;
        Footprint::of_training(self.model, dtype(self.config), &batch, self.config.recompute_every).map(Some)
    }

    fn logits(&self) -> u64 {
        let (rows, _) = self.passes();
        let vocab = self.model.vocab_size as u64;
        let targets = (rows * self.answers() * self.lengths.answer) as u64;
        targets.min((LOGITS / vocab).max(MIN_LOGIT_ROWS)) * vocab * 4
    }

    /// Seconds of computing and of sending, and bytes sent, of an update.
    fn times(&self, parameters: u64, trained: u64, own: u64) -> (f64, f64, u64) {
        let m = self.model;
        let Machine { peak, share, per_node, link, network, .. } = self.machine;
        let (rows, passes) = self.passes();
        let tokens = (self.tokens() * passes as u64) as f64;
        let table = (m.vocab_size * m.hidden_size) as f64;
        let tables = if m.tie_word_embeddings { 1.0 } else { 2.0 };
        let blocks = parameters as f64 - tables * table;
        let backward = if self.config.lora.is_some() { 2.0 } else { 4.0 };
        let again = if self.config.recompute_every > 0 { 2.0 } else { 0.0 };
        let operations = 2.0 + backward + again;
        let answers = (rows * passes * self.answers() * self.lengths.answer) as f64;
        let width = (m.num_hidden_layers * m.num_attention_heads * m.head_dim) as f64;
        let length = (self.lengths.prompt + self.lengths.answer) as f64;
        let flops = tokens * (operations * blocks + 2.0 * operations * width * length / 2.0)
            + answers * (2.0 + backward) * table;
        let computing = if peak > 0.0 { flops / (peak * share) } else { 0.0 };
        // To each other process its part of the gradient, once for each round; and of
        // the weights its own part to all.
        let world = self.world.max(1) as u64;
        let rounds = (self.shards.max(1) as u64).div_ceil(world);
        let weight = if self.config.lora.is_some() { 4 } else { own };
        let sent = (world - 1) * (rounds * 4 * trained + weight * trained) / world;
        // The slower of both ways: what leaves the node, and what stays.
        let near = (self.world.min(per_node) - 1) as f64 / (self.world.max(2) - 1) as f64;
        let sending = (sent as f64 * near / link).max(sent as f64 * (1.0 - near) / network);
        (computing, sending, sent)
    }
}

/// What weights are kept in.
pub fn dtype(config: &FitConfig) -> DType {
    match config.dtype {
        FitDtype::F32 => DType::F32,
        FitDtype::Bf16 => DType::BF16,
    }
}

fn count(shape: &[usize]) -> u64 {
    shape.iter().map(|n| *n as u64).product()
}

/// The `config.json` of Llama models of several sizes, for tables: `llama-1b` and
/// `llama-3-70b` of Llama 3 (vocabulary 128,256), `llama-7b` and `llama-13b` of
/// Llama 2 (32,000).
pub const SHAPES: [(&str, &str); 4] = [
    ("llama-1b", include_str!("shapes/llama-1b.json")),
    ("llama-7b", include_str!("shapes/llama-7b.json")),
    ("llama-13b", include_str!("shapes/llama-13b.json")),
    ("llama-70b", include_str!("shapes/llama-70b.json")),
];

#[cfg(test)]
mod tests;
