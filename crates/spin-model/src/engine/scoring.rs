//! Log-probabilities of tokens in a tree of sequences: the forward pass alone,
//! batch by batch, with the keys and values of the path that leads from one
//! batch to the next.

use super::block::Block;
use super::head::Head;
use super::pass::final_norm;
use crate::decoder::Decoder;
use crate::error::Result;
use crate::ops::{Heads, TreeInputs, TreeOperations, View, ViewMut};
use crate::request::{ScoreOptions, Target, TargetScore, TreeRows};
use crate::rope::RopeTable;

/// A decoder that computes the rows of a tree.
pub(crate) struct TreePass<'a, O: TreeOperations> {
    ops: &'a O,
    decoder: &'a Decoder,
    rope: O::Rope,
    /// Of each layer, for the path to the next batch.
    cache: O::TreeCache,
    buffers: Buffers<O::Buffer>,
}

/// Memory that all layers use.
struct Buffers<B> {
    /// `[rows, hidden]`.
    normed: B,
    /// `[rows, qkv_width]`, or less of it.
    qkv: B,
    /// `[queries, heads * head_dim]`, where they are apart.
    queries: B,
    /// `[queries, heads * head_dim]`.
    attended: B,
    /// `[queries, 2 * intermediate]`.
    gate_up: B,
    /// `[queries, intermediate]`.
    activated: B,
}

/// The rows of a batch.
struct Rows<'a, O: TreeOperations> {
    all: usize,
    tree: O::Tree,
    wanted: O::Indices,
    given: &'a TreeRows<'a>,
}

impl<'a, O: TreeOperations> TreePass<'a, O> {
    /// For sequences of at most `longest` rows, of which paths of at most
    /// `longest_path` lead from one batch to another.
    pub fn new(ops: &'a O, decoder: &'a Decoder, longest: usize, longest_path: usize) -> Result<Self> {
        let layers = decoder.layers.iter().map(|layer| Heads::new(&decoder.config, layer.config));
        let empty = || ops.room(0);
        Ok(Self {
            ops,
            decoder,
            rope: ops.rope(RopeTable::new(&decoder.config.rope, longest))?,
            cache: ops.tree_cache(&layers.collect::<Vec<_>>(), longest_path)?,
            buffers: Buffers {
                normed: empty()?,
                qkv: empty()?,
                queries: empty()?,
                attended: empty()?,
                gate_up: empty()?,
                activated: empty()?,
            },
        })
    }

    /// Computes the next rows, which continue the path that is cached, and
    /// what is asked of them: targets are in the order of the rows that are
    /// wanted, by their numbers among these.
    pub fn score(
        &mut self,
        rows: &TreeRows<'_>,
        targets: &[Target],
        options: &ScoreOptions,
    ) -> Result<Vec<TargetScore>> {
        let hidden = self.hidden_states(rows)?;
        let hidden = View::new(&hidden, rows.wanted.len(), self.decoder.config.hidden_size);
        Head::new(self.ops, self.decoder, 0.0, false)?.score(hidden, targets, options)
    }

    /// The normalised hidden states of the rows that are wanted,
    /// `[wanted, hidden]`.
    fn hidden_states(&mut self, given: &TreeRows<'_>) -> Result<O::Buffer> {
        let (ops, config) = (self.ops, &self.decoder.config);
        let hidden = config.hidden_size;
        let rows: Rows<'_, O> =
            Rows { all: given.ids.len(), tree: ops.tree(given)?, wanted: ops.indices(&given.wanted)?, given };
        let mut x = ops.room(rows.all * hidden)?;
        let table = ops.weight(&self.decoder.embedding)?;
        ops.embed(&table, &ops.indices(given.ids)?, hidden, config.embedding_scale as f32, &mut x)?;
        drop(table);
        let layers = self.decoder.layers.len();
        for layer in 0..layers {
            // Nothing sees what the last block computes but the output projection.
            x = self.layer(layer, &rows, layer + 1 == layers, x)?;
        }
        let mut normed = ops.room(given.wanted.len() * hidden)?;
        ops.norm(&final_norm(ops, self.decoder)?, View::new(&x, given.wanted.len(), hidden), &mut normed)?;
        Ok(normed)
    }

    /// Computes a block; with `only_wanted`, only these rows of it.
    fn layer(&mut self, layer: usize, rows: &Rows<'_, O>, only_wanted: bool, mut x: O::Buffer) -> Result<O::Buffer> {
        let (ops, decoder) = (self.ops, self.decoder);
        let config = &*decoder.config;
        let block = Block { ops, config, layer: &decoder.layers[layer], rope: &self.rope, dropout_seed: None };
        let heads = block.heads();
        let Buffers { normed, qkv, queries, attended, gate_up, activated } = &mut self.buffers;
        let (hidden, out_width, kv_width) = (config.hidden_size, heads.out_width(), heads.kv_width());

        ops.at_least(normed, rows.all * hidden)?;
        ops.norm(&block.norm(&block.layer.attention_norm)?, block.hidden(&x, rows.all), normed)?;
        let linears = &block.layer.qkv;
        // One projection of all three is not taken apart.
        let apart = only_wanted && linears.len() > 1;
        let joint = if apart { &linears[1..] } else { linears };
        let width = joint.iter().map(|linear| linear.outputs).sum();
        ops.at_least(qkv, rows.all * width)?;
        block.project(joint, block.hidden(normed, rows.all), ViewMut::new(qkv, rows.all, width))?;

        let count = if only_wanted { rows.given.wanted.len() } else { rows.all };
        let all = View::new(&*qkv, rows.all, width);
        let first = width - 2 * kv_width;
        let own_queries = if apart {
            let mut wanted = ops.room(count * hidden)?;
            ops.gather(normed, hidden, &rows.wanted, &mut wanted)?;
            ops.at_least(queries, count * out_width)?;
            let target = ViewMut::new(queries, count, out_width);
            block.project(&linears[..1], block.hidden(&wanted, count), target)?;
            View::new(&*queries, count, out_width)
        } else if only_wanted {
            ops.at_least(queries, count * width)?;
            ops.gather(qkv, width, &rows.wanted, queries)?;
            View::new(&*queries, count, width).columns(0..out_width)
        } else {
            all.columns(0..out_width)
        };
        if only_wanted {
            let mut wanted = ops.room(count * hidden)?;
            ops.gather(&x, hidden, &rows.wanted, &mut wanted)?;
            x = wanted;
        }
        let norms = block.layer.head_norms.as_ref();
        let inputs = TreeInputs {
            queries: own_queries,
            only_wanted,
            keys: all.columns(first..first + kv_width),
            values: all.columns(first + kv_width..width),
            norms: match norms {
                None => None,
                Some([queries, keys]) => Some([block.norm(queries)?, block.norm(keys)?]),
            },
        };
        ops.at_least(attended, count * out_width)?;
        ops.attend_tree(&heads, &self.rope, &rows.tree, &inputs, layer, &mut self.cache, attended)?;
        let input = View::new(&*attended, count, out_width);
        block.add_projection(&mut x, &block.layer.attention_output, input, block.layer.attention_post_norm.as_ref())?;

        let width = config.intermediate_size;
        ops.norm(&block.norm(&block.layer.feed_forward_norm)?, block.hidden(&x, count), normed)?;
        ops.at_least(gate_up, count * 2 * width)?;
        let target = ViewMut::new(gate_up, count, 2 * width);
        block.project(&block.layer.gate_up, block.hidden(normed, count), target)?;
        ops.at_least(activated, count * width)?;
        ops.activate(config.activation, gate_up, count, width, activated)?;
        let input = View::new(&*activated, count, width);
        block.add_projection(&mut x, &block.layer.down, input, block.layer.feed_forward_post_norm.as_ref())?;
        Ok(x)
    }
}
