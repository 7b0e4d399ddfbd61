//! A dry run: the [orchestration](crate::engine) with operations that compute
//! nothing and count the bytes that they would be given.
//!
//! What memory a training or a generation of a large model takes is then what its
//! code asks for, buffer by buffer, and no formula beside the code. The operations
//! also check that every operand holds what is read and written.

mod growing;
mod operations;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Tensor, Var};

use crate::batch::{Batch, Layout, RowPlan};
use crate::config::ModelConfig;
use crate::decoder::Decoder;
use crate::engine::{self, Cache, GrowingDecoder, Part};
use crate::error::{Error, Result};
use crate::ops::{Region, Sums};

/// Bytes that a dry run was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Footprint {
    /// Of the weights that were used, in the type that they are kept in.
    pub weights: u64,
    /// Of the sums of gradients, f32.
    pub gradient: u64,
    /// Of the keys and values of sequences that grow.
    pub cache: u64,
    /// Of everything else, at the moment when it was most.
    pub buffers: u64,
}

impl Footprint {
    /// All of it.
    pub fn bytes(&self) -> u64 {
        self.weights + self.gradient + self.cache + self.buffers
    }

    /// What one forward and backward pass over a batch takes, of a model whose
    /// weights are all trained: sequences of a group share their prompt's rows, and
    /// only the inputs of every `recompute_every`-th block are kept, or everything
    /// with 0. Token ids do not matter.
    ///
    /// # Errors
    ///
    /// If sequences are longer than the model's, or weights have no such type.
    pub fn of_training(config: &ModelConfig, dtype: DType, batch: &Batch, recompute_every: usize) -> Result<Self> {
        batch.check(config.vocab_size, config.max_position_embeddings)?;
        let decoder = decoder(config, dtype)?;
        let ops = Dry::default();
        let plan = RowPlan::new(batch, Layout::SharedPrompts);
        let mut sums = CountedSums { ops: &ops, sums: BTreeMap::new(), shapes: config.param_shapes() };
        let mut slopes = |_: usize, logps: &[f64]| vec![1.0; logps.len()];
        engine::accumulate_gradients(&ops, &decoder, &plan, 0.0, recompute_every, &mut slopes, &mut sums)?;
        let gradient = sums.sums.values().map(Counted::bytes).sum();
        Ok(Self { weights: ops.weights(), gradient, cache: 0, buffers: ops.tally.most() })
    }

    /// What it takes to generate: `sequences` of them at a time, with prompts of
    /// `prompt` tokens that are read `together` at a time, and room for `answer`
    /// tokens more each.
    ///
    /// # Errors
    ///
    /// As [`Footprint::of_training`].
    pub fn of_generation(
        config: &ModelConfig,
        dtype: DType,
        sequences: usize,
        prompt: usize,
        answer: usize,
        together: usize,
    ) -> Result<Self> {
        let (prompt, together) = (prompt.max(1), together.clamp(1, sequences.max(1)));
        if prompt + answer > config.max_position_embeddings {
            let message = format!(
                "{} tokens are more than the model's max_position_embeddings {}",
                prompt + answer,
                config.max_position_embeddings
            );
            return Err(Error::Batch { sequence: 0, message });
        }
        let ops = Dry::default();
        let decoder = GrowingDecoder::new(ops.clone(), decoder(config, dtype)?)?;
        let mut caches = Vec::with_capacity(sequences);
        for _ in 0..sequences {
            caches.push(decoder.cache(prompt + answer)?);
        }
        let mut logits = Vec::new();
        for caches in caches.chunks_mut(together) {
            step(&decoder, caches, prompt, 0, &mut logits)?;
        }
        step(&decoder, &mut caches, 1, prompt, &mut logits)?;
        Ok(Self { weights: ops.weights(), gradient: 0, cache: ops.cached.most(), buffers: ops.tally.most() })
    }
}

/// Some new tokens of each sequence.
fn step(
    decoder: &GrowingDecoder<Dry>,
    caches: &mut [Cache],
    tokens: usize,
    position: usize,
    logits: &mut Vec<f32>,
) -> Result<()> {
    let ids = vec![0; tokens * caches.len()];
    let part = |(at, cache)| Part { cache, rows: at * tokens..(at + 1) * tokens, position };
    let mut parts: Vec<Part<'_>> = caches.iter_mut().enumerate().map(part).collect();
    decoder.step(&ids, &mut parts, logits)
}

/// A decoder of this shape, whose weights of equal shapes are the same numbers: a
/// large model's would not fit.
fn decoder(config: &ModelConfig, dtype: DType) -> Result<Decoder> {
    let mut of_shape: BTreeMap<Vec<usize>, Var> = BTreeMap::new();
    let mut params = BTreeMap::new();
    for (name, shape) in config.param_shapes() {
        let var = match of_shape.get(&shape) {
            Some(var) => var.clone(),
            None => Var::from_tensor(&Tensor::zeros(shape.as_slice(), dtype, &Device::Cpu)?)?,
        };
        of_shape.insert(shape, var.clone());
        params.insert(name, var);
    }
    Ok(Decoder::new(&Arc::new(config.clone()), &params))
}

/// Bytes that are in use, and the most that were.
#[derive(Debug, Default)]
struct Tally {
    now: AtomicU64,
    most: AtomicU64,
}

impl Tally {
    fn add(&self, bytes: u64) {
        let now = self.now.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.most.fetch_max(now, Ordering::Relaxed);
    }

    fn remove(&self, bytes: u64) {
        self.now.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn most(&self) -> u64 {
        self.most.load(Ordering::Relaxed)
    }
}

/// Memory that nobody has: so many numbers of four bytes.
#[derive(Debug)]
struct Counted {
    tally: Arc<Tally>,
    len: usize,
}

impl Counted {
    fn new(tally: &Arc<Tally>, len: usize) -> Self {
        let counted = Self { tally: tally.clone(), len };
        tally.add(counted.bytes());
        counted
    }

    fn bytes(&self) -> u64 {
        4 * self.len as u64
    }

    /// # Panics
    ///
    /// If there is less.
    #[track_caller]
    fn has(&self, len: usize) {
        assert!(len <= self.len, "{len} numbers of {}", self.len);
    }

    /// # Panics
    ///
    /// If a place is not within it.
    #[track_caller]
    fn has_all_of(&self, at: Region) {
        self.has(at.range().end);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.tally.remove(self.bytes());
    }
}

/// The set of operations.
#[derive(Debug, Clone, Default)]
struct Dry {
    tally: Arc<Tally>,
    /// Keys and values.
    cached: Arc<Tally>,
    /// Sums of gradients, which [`Footprint`] counts apart.
    apart: Arc<Tally>,
    /// Bytes of each weight by name: however often it is used, it is there once.
    weights: Arc<Mutex<BTreeMap<String, u64>>>,
}

impl Dry {
    fn weights(&self) -> u64 {
        self.weights.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }
}

/// Sums of the gradients of all weights, made when they are first added to.
struct CountedSums<'a> {
    ops: &'a Dry,
    sums: BTreeMap<String, Counted>,
    shapes: Vec<(String, Vec<usize>)>,
}

impl Sums<Counted> for CountedSums<'_> {
    fn wants(&self, _name: &str) -> bool {
        true
    }

    fn sum(&mut self, name: &str) -> Option<&mut Counted> {
        if !self.sums.contains_key(name) {
            let (_, shape) = self.shapes.iter().find(|(known, _)| known == name)?;
            let counted = Counted::new(&self.ops.apart, shape.iter().product());
            self.sums.insert(name.to_owned(), counted);
        }
        self.sums.get_mut(name)
    }
}

#[cfg(test)]
mod tests;
