//! Logits of the next tokens of many sequences, each at its own length.
//!
//! The keys and values of each sequence's tokens are kept, so a step computes
//! new tokens only: all of a prompt, or the one that was chosen last. Sequences
//! come and go between steps. Nothing is padded, and a sequence's logits are
//! the same, bit for bit, whichever sequences share its steps; on processors
//! with other vector instructions their last bits differ.

use crate::backend::Growing;
use crate::config::ModelConfig;
use crate::cpu::{LayerCache, Part};
use crate::error::{Error, Result};
use crate::model::CausalLm;

/// A model whose weights are laid out for generation, on the CPU and in f32.
pub struct Generator {
    config: ModelConfig,
    layers: usize,
    decoder: Box<dyn Growing>,
}

/// A sequence that grows: the keys and values of its tokens so far.
#[derive(Debug, Clone)]
pub struct Sequence {
    layers: Vec<LayerCache>,
    len: usize,
    room: usize,
}

/// New tokens of a sequence, at least one.
pub struct StepInput<'a> {
    /// What is before them.
    pub sequence: &'a mut Sequence,
    /// Their ids.
    pub tokens: &'a [u32],
}

impl Sequence {
    /// Tokens so far.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Tokens that there is room for.
    pub fn room(&self) -> usize {
        self.room
    }

    /// Whether it has no tokens yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

fn zeros(len: usize) -> Result<Vec<f32>> {
    let mut values = Vec::new();
    values.try_reserve_exact(len).map_err(|_| Error::Memory { bytes: len * size_of::<f32>() })?;
    values.resize(len, 0.0);
    Ok(values)
}

impl Generator {
    /// Takes a model apart: each of its weights is freed once it is laid out
    /// anew, unless it is still in use elsewhere. An adapter is merged.
    ///
    /// # Errors
    ///
    /// If the model is not on the CPU.
    pub fn new(model: CausalLm) -> Result<Self> {
        let model = if model.adapter().is_some() { model.merge_adapter()? } else { model };
        let backend = model.backend();
        let decoder = model.into_decoder();
        let config = (*decoder.config).clone();
        Ok(Self { layers: decoder.layers.len(), decoder: backend.growing(decoder)?, config })
    }

    /// The model's shape.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Bytes of memory that a sequence with room for so many tokens takes.
    pub fn sequence_bytes(&self, room: usize) -> usize {
        2 * size_of::<f32>() * self.layers * self.head_len(room)
    }

    /// Bytes of memory that a step takes for itself, at most: `tokens` of all
    /// inputs, and logits for `inputs`.
    pub fn step_bytes(&self, inputs: usize, tokens: usize) -> usize {
        let config = &self.config;
        let heads = config.num_attention_heads + 2 * config.num_key_value_heads;
        let row = 6 * config.hidden_size + 2 * heads * config.head_dim + 4 * config.intermediate_size;
        size_of::<f32>() * (tokens * row + 2 * inputs * config.vocab_size)
    }

    fn head_len(&self, room: usize) -> usize {
        self.config.num_key_value_heads * room * self.config.head_dim
    }

    /// An empty sequence with room for so many tokens. The last token of an
    /// answer needs none.
    ///
    /// # Errors
    ///
    /// If there is not enough memory, or the model reads fewer tokens.
    pub fn sequence(&self, room: usize) -> Result<Sequence> {
        let limit = self.config.max_position_embeddings;
        if room > limit {
            return Err(Error::Batch {
                sequence: 0,
                message: format!("{room} tokens are more than the model's max_position_embeddings {limit}"),
            });
        }
        let len = self.head_len(room);
        let layer = |_| Ok(LayerCache { keys: zeros(len)?, values: zeros(len)? });
        Ok(Sequence { layers: (0..self.layers).map(layer).collect::<Result<_>>()?, len: 0, room })
    }

    /// A sequence that begins with the same tokens, with room of its own.
    ///
    /// # Errors
    ///
    /// As [`sequence`](Self::sequence), or if there is less room than tokens.
    pub fn fork(&self, from: &Sequence, room: usize) -> Result<Sequence> {
        let mut fork = self.sequence(room)?;
        if from.len > room {
            return Err(full(0, from.len, room));
        }
        let (dim, len) = (self.config.head_dim, from.len * self.config.head_dim);
        for (to, from_layer) in fork.layers.iter_mut().zip(&from.layers) {
            for (to, values) in [(&mut to.keys, &from_layer.keys), (&mut to.values, &from_layer.values)] {
                for (to, values) in to.chunks_exact_mut(room * dim).zip(values.chunks_exact(from.room * dim)) {
                    to[..len].copy_from_slice(&values[..len]);
                }
            }
        }
        fork.len = from.len;
        Ok(fork)
    }

    /// Appends new tokens to sequences and writes the logits after the last of
    /// each to `logits`, `[inputs, vocab]`.
    ///
    /// A prompt that is split over several steps gives logits that differ in
    /// their last bits from those of the whole.
    ///
    /// # Errors
    ///
    /// If a sequence has no new tokens or no room for them, or a token is
    /// outside the vocabulary. No sequence has changed then.
    pub fn step(&self, inputs: &mut [StepInput<'_>], logits: &mut Vec<f32>) -> Result<()> {
        let mut ids = Vec::new();
        for (index, StepInput { sequence, tokens }) in inputs.iter().enumerate() {
            if tokens.is_empty() {
                return Err(Error::Batch { sequence: index, message: "no new tokens".to_owned() });
            }
            if sequence.len + tokens.len() > sequence.room {
                return Err(full(index, sequence.len + tokens.len(), sequence.room));
            }
            if let Some(id) = tokens.iter().find(|id| **id as usize >= self.config.vocab_size) {
                let message = format!(
                    "token id {id} is outside the vocabulary of {}; the tokenizer does not belong to this model",
                    self.config.vocab_size
                );
                return Err(Error::Batch { sequence: index, message });
            }
            ids.extend_from_slice(tokens);
        }
        let mut first = 0;
        let mut parts: Vec<Part<'_>> = inputs
            .iter_mut()
            .map(|StepInput { sequence, tokens }| {
                let rows = first..first + tokens.len();
                first = rows.end;
                let position = sequence.len;
                sequence.len += tokens.len();
                Part { layers: &mut sequence.layers, rows, position }
            })
            .collect();
        self.decoder.step(&ids, &mut parts, logits)
    }
}

fn full(sequence: usize, wanted: usize, room: usize) -> Error {
    Error::Batch { sequence, message: format!("{wanted} tokens do not fit its room for {room}") }
}

#[cfg(test)]
mod tests;
