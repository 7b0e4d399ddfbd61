//! Logits of the next tokens of many sequences, each at its own length.
//!
//! The keys and values of each sequence's tokens are kept, so a step computes
//! new tokens only: all of a prompt, or the one that was chosen last. Sequences
//! come and go between steps. Nothing is padded, and a sequence's logits are
//! the same, bit for bit, whichever sequences share its steps; on processors
//! with other vector instructions their last bits differ.

use crate::backend::Growing;
use crate::config::ModelConfig;
use crate::engine::{Cache, Part};
use crate::error::{Error, Result};
use crate::model::CausalLm;

/// A model whose weights are laid out for generation.
pub struct Generator {
    config: ModelConfig,
    layers: usize,
    decoder: Box<dyn Growing>,
}

/// A sequence that grows: the keys and values of its tokens so far.
#[derive(Debug)]
pub struct Sequence {
    cache: Cache,
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

impl Generator {
    /// Takes a model apart: each of its weights is freed once it is laid out
    /// anew, unless it is still in use elsewhere. An adapter is merged.
    ///
    /// # Errors
    ///
    /// If composed kernels compute the model, or its device has no memory.
    pub fn new(model: CausalLm) -> Result<Self> {
        let model = if model.adapter().is_some() { model.merge_adapter()? } else { model };
        let backend = model.backend()?;
        let decoder = model.into_decoder();
        let config = (*decoder.config).clone();
        Ok(Self { layers: decoder.layers.len(), decoder: backend.growing(decoder)?, config })
    }

    /// The model's shape.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Bytes of a device's memory that are left for sequences and steps; `None` where
    /// they are in the host's.
    pub fn free_memory(&self) -> Option<u64> {
        self.decoder.free_memory()
    }

    /// Bytes of memory that a sequence with room for so many tokens takes.
    pub fn sequence_bytes(&self, room: usize) -> usize {
        2 * size_of::<f32>() * self.layers * self.config.num_key_value_heads * room * self.config.head_dim
    }

    /// Bytes of memory that a step takes for itself, at most: `tokens` of all
    /// inputs, and logits for `inputs`.
    pub fn step_bytes(&self, inputs: usize, tokens: usize) -> usize {
        let config = &self.config;
        let heads = config.num_attention_heads + 2 * config.num_key_value_heads;
        let row = 6 * config.hidden_size + 2 * heads * config.head_dim + 4 * config.intermediate_size;
        size_of::<f32>() * (tokens * row + 2 * inputs * config.vocab_size)
    }

    /// An empty sequence with room for so many tokens. The last token of an
    /// answer needs none.
    ///
    /// # Errors
    ///
    /// If there is not enough memory, or the model reads fewer tokens.
    pub fn sequence(&self, room: usize) -> Result<Sequence> {
        self.check_room(room)?;
        Ok(Sequence { cache: self.decoder.cache(room)?, len: 0, room })
    }

    fn check_room(&self, room: usize) -> Result<()> {
        let limit = self.config.max_position_embeddings;
        if room > limit {
            return Err(Error::Batch {
                sequence: 0,
                message: format!("{room} tokens are more than the model's max_position_embeddings {limit}"),
            });
        }
        Ok(())
    }

    /// A sequence that begins with the same tokens, with room of its own.
    ///
    /// # Errors
    ///
    /// As [`sequence`](Self::sequence), or if there is less room than tokens.
    pub fn fork(&self, from: &Sequence, room: usize) -> Result<Sequence> {
        self.check_room(room)?;
        if from.len > room {
            return Err(full(0, from.len, room));
        }
        Ok(Sequence { cache: self.decoder.fork(&from.cache, from.len, room)?, len: from.len, room })
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
                Part { cache: &mut sequence.cache, rows, position }
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
