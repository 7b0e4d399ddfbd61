//! The decoder over new tokens of sequences that grow.

use super::cached::Part;
use super::decode::{DecodeBlock, decode_logits};
use super::packed::Packed;
use crate::config::ModelConfig;
use crate::decoder::{Decoder, Linear};
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
    output: Packed,
    rope: RopeTable,
}

/// The linear projections of the same rows, side by side.
fn packed(linears: Vec<Linear>) -> Result<Packed> {
    let outputs = linears.iter().map(|linear| linear.outputs).sum();
    let mut packed = Packed::new(linears[0].inputs, outputs);
    let mut first = 0;
    for linear in linears {
        packed.set(first, &linear.weight.read()?);
        if let Some(bias) = &linear.bias {
            packed.set_bias(first, &bias.read()?);
        }
        first += linear.outputs;
    }
    Ok(packed)
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
                qkv: packed(layer.qkv)?,
                attention_output: packed(vec![layer.attention_output])?,
                gate_up: packed(layer.gate_up)?,
                down: packed(vec![layer.down])?,
            });
        }
        let mut output = Packed::new(config.hidden_size, config.vocab_size);
        output.set(0, &decoder.output.read()?);
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
        let table = self.embedding.as_ref().map(Param::read).transpose()?;
        for (row, id) in x.chunks_exact_mut(width).zip(ids) {
            let id = *id as usize;
            match &table {
                Some(table) => row.copy_from_slice(&table[id * width..(id + 1) * width]),
                None => self.output.read_row(id, row),
            }
            row.iter_mut().for_each(|value| *value *= scale);
        }
        Ok(x)
    }
}
