//! What generation takes, on paper.

use candle_core::DType;
use spin_model::{Footprint, ModelConfig};

use super::{Lengths, NUMBER, count};

/// Sequences that are generated at a time.
#[derive(Clone, Copy, Debug)]
pub struct Generating<'a> {
    /// The model.
    pub model: &'a ModelConfig,
    /// What its weights are kept in.
    pub dtype: DType,
    /// How many.
    pub sequences: usize,
    /// How many prompts are read at a time.
    pub together: usize,
    /// Tokens of prompts, and room for answers.
    pub lengths: Lengths,
}

/// Bytes that it takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Generation {
    /// Weights.
    pub weights: u64,
    /// Keys and values of all sequences, at their longest.
    pub cache: u64,
    /// The largest step: prompts that are read, or a token of each sequence.
    pub buffers: u64,
}

impl Generation {
    /// All of it.
    pub fn memory(&self) -> u64 {
        self.weights + self.cache + self.buffers
    }
}

impl Generating<'_> {
    /// What it takes.
    pub fn scale(&self) -> Generation {
        let m = self.model;
        let (prompt, room) = (self.lengths.prompt as u64, (self.lengths.prompt + self.lengths.answer) as u64);
        let sequences = self.sequences as u64;
        let (hidden, inner) = (m.hidden_size as u64, m.intermediate_size as u64);
        let keys = (m.num_key_value_heads * m.head_dim) as u64;
        let queries = (m.num_attention_heads * m.head_dim) as u64;
        let parameters: u64 = m.param_shapes().iter().map(|(_, shape)| count(shape)).sum();
        // In a block: the stream, and what attention or the feed-forward layer makes of it. The last block goes on with
        // the last row of each sequence.
        let qkv = queries + 2 * keys;
        let attention = (hidden + qkv + queries.max(hidden)) * NUMBER;
        let fed = (hidden + 3 * inner) * NUMBER;
        let widest = if m.num_hidden_layers > 1 { attention.max(fed) } else { attention };
        let head = (m.vocab_size as u64 + 2 * hidden) * NUMBER;
        let step = |rows: u64, sequences: u64| (rows * widest).max(sequences * head);
        let together = (self.together as u64).clamp(1, sequences.max(1));
        // Cosines and sines of all positions.
        let rope = (m.max_position_embeddings * m.head_dim) as u64 * NUMBER;
        Generation {
            weights: parameters * self.dtype.size_in_bytes() as u64,
            cache: sequences * room * m.num_hidden_layers as u64 * 2 * keys * NUMBER,
            buffers: step(together * prompt, together).max(step(sequences, sequences)) + rope,
        }
    }

    /// What the code asks for, as [`super::Training::dry_run`].
    ///
    /// # Errors
    ///
    /// If sequences are longer than the model's.
    pub fn dry_run(&self) -> spin_model::Result<Footprint> {
        let Lengths { prompt, answer } = self.lengths;
        Footprint::of_generation(self.model, self.dtype, self.sequences, prompt, answer, self.together)
    }
}

#[cfg(test)]
mod tests {
    use super::super::SHAPES;
    use super::*;

    #[test]
    fn paper_agrees_with_what_the_code_asks_for() {
        for ((name, text), together) in SHAPES[..2].iter().zip([1, 32]) {
            let model = ModelConfig::from_json(text, name).expect("a configuration");
            let lengths = Lengths { prompt: 512, answer: 512 };
            let generating = Generating { model: &model, dtype: DType::BF16, sequences: 256, together, lengths };
            let (paper, asked) = (generating.scale(), generating.dry_run().expect("it fits"));
            assert_eq!((paper.weights, paper.cache), (asked.weights, asked.cache), "{name}");
            let ratio = paper.buffers as f64 / asked.buffers as f64;
            assert!((0.9..1.1).contains(&ratio), "{name}: {paper:?} for {asked:?}");
        }
    }
}
