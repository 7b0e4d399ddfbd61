//! The decoder over new tokens of sequences that grow.

use super::cached::Part;
use super::decode::{DecodeBlock, decode_logits};
use super::few_rows::FewRows;
use crate::config::ModelConfig;
use crate::decoder::Decoder;
use crate::error::{Error, Result};
use crate::params::Param;
use crate::rope::RopeTable;

/// Weights that are laid out for a few rows at a time.
pub(crate) struct GrowingDecoder {
    config: ModelConfig,
    /// `[vocab, hidden]`, unless it is the output projection.
    embedding: Option<Param>,
    blocks: Vec<DecodeBlock>,
    norm: Vec<f32>,
    output: FewRows,
    rope: RopeTable,
}

impl GrowingDecoder {
    /// Takes a decoder apart: each of its weights is freed once it is laid out
    /// anew, unless it is still in use elsewhere.
    pub fn new(decoder: Decoder) -> Result<Self> {
        let config = (*decoder.config).clone();
        let mut blocks = Vec::with_capacity(decoder.layers.len());
        for layer in decoder.layers {
            let read = |param: &Param| Ok::<_, Error>(param.read()?.to_vec());
            let norms = layer.head_norms.as_ref();
            blocks.push(DecodeBlock {
                config: layer.config,
                attention_norm: read(&layer.attention_norm)?,
                head_norms: norms.map(|[queries, keys]| Ok::<_, Error>([read(queries)?, read(keys)?])).transpose()?,
                attention_post_norm: layer.attention_post_norm.as_ref().map(read).transpose()?,
                feed_forward_norm: read(&layer.feed_forward_norm)?,
                feed_forward_post_norm: layer.feed_forward_post_norm.as_ref().map(read).transpose()?,
                qkv: FewRows::of(&layer.qkv)?,
                attention_output: FewRows::of(&[layer.attention_output])?,
                gate_up: FewRows::of(&layer.gate_up)?,
                down: FewRows::of(&[layer.down])?,
            });
        }
        let output = FewRows::of_table(&decoder.output, config.vocab_size, config.hidden_size)?;
        Ok(Self {
            rope: RopeTable::new(&config.rope, config.max_position_embeddings),
            norm: decoder.norm.read()?.to_vec(),
            embedding: (!config.tie_word_embeddings).then_some(decoder.embedding),
            blocks,
            output,
            config,
        })
    }

    /// As [`crate::backend::Growing::step`].
    pub fn step(&self, ids: &[u32], parts: &mut [Part<'_>], logits: &mut Vec<f32>) -> Result<()> {
        let mut x = self.embed(ids)?;
        for (layer, block) in self.blocks.iter().enumerate() {
            let last = layer + 1 == self.blocks.len();
            block.forward(&self.config, &self.rope, layer, parts, last, &mut x);
        }
        decode_logits(&self.config, &self.norm, &self.output, &x, logits);
        Ok(())
    }

    /// The embeddings of tokens, `[tokens, hidden]`.
    fn embed(&self, ids: &[u32]) -> Result<Vec<f32>> {
        let width = self.config.hidden_size;
        let scale = self.config.embedding_scale as f32;
        let mut x = vec![0.0; ids.len() * width];
        let table = self.embedding.as_ref().map(Param::kept).transpose()?;
        for (row, id) in x.chunks_exact_mut(width).zip(ids) {
            let id = *id as usize;
            match &table {
                Some(table) => table.numbers().read(id * width, row),
                None => self.output.read_row(id, row),
            }
            row.iter_mut().for_each(|value| *value *= scale);
        }
        Ok(x)
    }
}
