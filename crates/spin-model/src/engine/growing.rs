//! The decoder over new tokens of sequences that grow.

use std::any::Any;
use std::ops::Range;

use super::block::norm;
use crate::config::{LayerConfig, ModelConfig};
use crate::decoder::{Decoder, Linear};
use crate::error::Result;
use crate::ops::{GrowingOperations, Heads, NewRows, RmsNorm, View, Write};
use crate::params::Param;
use crate::rope::RopeTable;

/// Keys and values of all layers of a sequence, wherever they are.
#[derive(Debug)]
pub(crate) struct Cache(Box<dyn Any + Send + Sync>);

/// A sequence's part in a step.
pub(crate) struct Part<'a> {
    pub cache: &'a mut Cache,
    /// Rows of its new tokens.
    pub rows: Range<usize>,
    /// Position of the first of them.
    pub position: usize,
}

/// Weights that are laid out for a few rows at a time.
pub(crate) struct GrowingDecoder<O: GrowingOperations> {
    ops: O,
    config: ModelConfig,
    /// `[vocab, hidden]`, unless it is the output projection.
    embedding: Option<Param>,
    blocks: Vec<DecodeBlock<O::FewRows>>,
    norm: Param,
    output: O::FewRows,
    rope: O::Rope,
}

/// A decoder block's weights.
struct DecodeBlock<W> {
    config: LayerConfig,
    attention_norm: Param,
    head_norms: Option<[Param; 2]>,
    attention_post_norm: Option<Param>,
    feed_forward_norm: Param,
    feed_forward_post_norm: Option<Param>,
    qkv: W,
    attention_output: W,
    gate_up: W,
    down: W,
}

/// Linear projections of the same rows, laid out.
fn few_rows<O: GrowingOperations>(ops: &O, linears: &[Linear]) -> Result<O::FewRows> {
    let weights: Vec<&Param> = linears.iter().map(|linear| &linear.weight).collect();
    let biases: Vec<Option<&Param>> = linears.iter().map(|linear| linear.bias.as_ref()).collect();
    let outputs: Vec<usize> = linears.iter().map(|linear| linear.outputs).collect();
    ops.few_rows(&weights, &biases, &outputs, linears[0].inputs)
}

impl Cache {
    /// What operations keep of each layer.
    ///
    /// # Panics
    ///
    /// If other operations made it: decoders and their sequences stay together.
    pub fn layers<C: 'static>(&self) -> &[C] {
        self.0.downcast_ref::<Vec<C>>().expect("a cache of these operations")
    }

    fn layers_mut<C: 'static>(&mut self) -> &mut [C] {
        self.0.downcast_mut::<Vec<C>>().expect("a cache of these operations")
    }
}

impl<O: GrowingOperations> GrowingDecoder<O> {
    /// Takes a decoder apart: each of its matrices is freed once it is laid out
    /// anew, unless it is still in use elsewhere.
    pub fn new(ops: O, decoder: Decoder) -> Result<Self> {
        let config = (*decoder.config).clone();
        let mut blocks = Vec::with_capacity(decoder.layers.len());
        for layer in decoder.layers {
            blocks.push(DecodeBlock {
                config: layer.config,
                attention_norm: layer.attention_norm,
                head_norms: layer.head_norms,
                attention_post_norm: layer.attention_post_norm,
                feed_forward_norm: layer.feed_forward_norm,
                feed_forward_post_norm: layer.feed_forward_post_norm,
                qkv: few_rows(&ops, &layer.qkv)?,
                attention_output: few_rows(&ops, &[layer.attention_output])?,
                gate_up: few_rows(&ops, &layer.gate_up)?,
                down: few_rows(&ops, &[layer.down])?,
            });
        }
        let output = ops.few_rows(&[&decoder.output], &[None], &[config.vocab_size], config.hidden_size)?;
        Ok(Self {
            rope: ops.rope(RopeTable::new(&config.rope, config.max_position_embeddings))?,
            norm: decoder.norm,
            embedding: (!config.tie_word_embeddings).then_some(decoder.embedding),
            blocks,
            output,
            config,
            ops,
        })
    }

    /// As [`GrowingOperations::free_memory`].
    pub fn free_memory(&self) -> Option<u64> {
        self.ops.free_memory()
    }

    fn heads(&self, block: &DecodeBlock<O::FewRows>) -> Heads {
        Heads::new(&self.config, block.config)
    }

    /// Room for so many tokens.
    pub fn cache(&self, room: usize) -> Result<Cache> {
        let layer = |block| self.ops.layer_cache(&self.heads(block), room);
        Ok(Cache(Box::new(self.blocks.iter().map(layer).collect::<Result<Vec<O::LayerCache>>>()?)))
    }

    /// Another with the first `len` tokens of one.
    pub fn fork(&self, from: &Cache, len: usize, room: usize) -> Result<Cache> {
        let mut fork = self.cache(room)?;
        for ((block, to), from) in self.blocks.iter().zip(fork.layers_mut()).zip(from.layers()) {
            self.ops.copy_cache(&self.heads(block), from, len, to)?;
        }
        Ok(fork)
    }

    fn norm<'a>(&self, param: &'a Param) -> Result<RmsNorm<O::Weight<'a>>> {
        norm(&self.ops, &self.config, param)
    }

    fn normed(&self, param: &Param, x: &O::Buffer, rows: usize) -> Result<O::Buffer> {
        let mut normed = self.ops.room(rows * self.config.hidden_size)?;
        self.ops.norm(&self.norm(param)?, View::new(x, rows, self.config.hidden_size), &mut normed)?;
        Ok(normed)
    }

    /// As [`crate::backend::Growing::step`].
    pub fn step(&self, ids: &[u32], parts: &mut [Part<'_>], logits: &mut Vec<f32>) -> Result<()> {
        let (ops, config) = (&self.ops, &self.config);
        let mut x = self.embed(ids)?;
        for (layer, block) in self.blocks.iter().enumerate() {
            x = self.block(block, layer, ids.len(), parts, layer + 1 == self.blocks.len(), x)?;
        }
        let (rows, vocab) = (parts.len(), config.vocab_size);
        let normed = self.normed(&self.norm, &x, rows)?;
        let mut out = ops.room_in(std::mem::take(logits), rows * vocab)?;
        ops.project_few(&mut out, View::new(&normed, rows, config.hidden_size), &self.output, Write::Over)?;
        if let Some(cap) = config.final_softcap {
            ops.soft_cap(&mut out, rows, vocab, cap as f32)?;
        }
        *logits = ops.taken(out, rows * vocab)?;
        Ok(())
    }

    /// The embeddings of tokens, `[tokens, hidden]`.
    fn embed(&self, ids: &[u32]) -> Result<O::Buffer> {
        let (ops, width, scale) = (&self.ops, self.config.hidden_size, self.config.embedding_scale as f32);
        let mut x = ops.room(ids.len() * width)?;
        let ids = ops.indices(ids)?;
        match &self.embedding {
            Some(table) => ops.embed(&ops.weight(table)?, &ids, width, scale, &mut x)?,
            None => ops.embed_few(&self.output, &ids, width, scale, &mut x)?,
        }
        Ok(x)
    }

    /// Computes the block for the rows `x` `[rows, hidden]` of all parts; with
    /// `last_rows`, only for the last row of each part.
    fn block(
        &self,
        block: &DecodeBlock<O::FewRows>,
        layer: usize,
        rows: usize,
        parts: &mut [Part<'_>],
        last_rows: bool,
        mut x: O::Buffer,
    ) -> Result<O::Buffer> {
        let (ops, hidden, heads) = (&self.ops, self.config.hidden_size, self.heads(block));
        let normed = self.normed(&block.attention_norm, &x, rows)?;
        let mut qkv = ops.room(rows * heads.qkv_width())?;
        ops.project_few(&mut qkv, View::new(&normed, rows, hidden), &block.qkv, Write::Over)?;
        // Of the prompts of a batch each of these is large.
        drop(normed);
        let count = if last_rows { parts.len() } else { rows };
        if last_rows {
            let rows: Vec<u32> = parts.iter().map(|part| part.rows.end as u32 - 1).collect();
            let mut last = ops.room(count * hidden)?;
            ops.gather(&x, hidden, &ops.indices(&rows)?, &mut last)?;
            x = last;
        }
        let mut attended = ops.room(count * heads.out_width())?;
        let norms = match &block.head_norms {
            None => None,
            Some([queries, keys]) => Some([self.norm(queries)?, self.norm(keys)?]),
        };
        let mut new: Vec<NewRows<'_, O::LayerCache>> = Vec::with_capacity(parts.len());
        for (index, part) in parts.iter_mut().enumerate() {
            let own = part.rows.len();
            let (wanted, out_row) = if last_rows { (own - 1..own, index) } else { (0..own, part.rows.start) };
            let cache = &mut part.cache.layers_mut()[layer];
            new.push(NewRows { cache, rows: part.rows.clone(), position: part.position, wanted, out_row });
        }
        let new_rows = View::new(&qkv, rows, heads.qkv_width());
        ops.attend_cached(&heads, &self.rope, new_rows, norms.as_ref(), &mut new, &mut attended)?;
        drop((new, qkv));
        let input = View::new(&attended, count, heads.out_width());
        self.add(&mut x, &block.attention_output, input, block.attention_post_norm.as_ref())?;
        drop(attended);

        let width = self.config.intermediate_size;
        let normed = self.normed(&block.feed_forward_norm, &x, count)?;
        let mut gate_up = ops.room(count * 2 * width)?;
        ops.project_few(&mut gate_up, View::new(&normed, count, hidden), &block.gate_up, Write::Over)?;
        drop(normed);
        let mut activated = ops.room(count * width)?;
        ops.activate(self.config.activation, &gate_up, count, width, &mut activated)?;
        drop(gate_up);
        let input = View::new(&activated, count, width);
        self.add(&mut x, &block.down, input, block.feed_forward_post_norm.as_ref())?;
        Ok(x)
    }

    /// Adds a projection of `input` to `stream` `[rows, hidden]`, through a norm
    /// if there is one.
    fn add(
        &self,
        stream: &mut O::Buffer,
        by: &O::FewRows,
        input: View<'_, O::Buffer>,
        post_norm: Option<&Param>,
    ) -> Result<()> {
        let Some(param) = post_norm else { return self.ops.project_few(stream, input, by, Write::Add) };
        let (rows, len) = (input.at.rows, input.at.rows * self.config.hidden_size);
        let mut projected = self.ops.room(len)?;
        self.ops.project_few(&mut projected, input, by, Write::Over)?;
        self.ops.add_scaled(stream, &self.normed(param, &projected, rows)?, len, 1.0)
    }
}
