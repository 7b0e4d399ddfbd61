//! Log-probabilities of tokens in a tree of sequences: the forward pass alone,
//! batch by batch, with the keys and values of the path that leads from one
//! batch to the next.

use candle_core::Result;

use super::activation;
use super::block::Block;
use super::branches::{HeadColumns, KeyValues};
use super::head::Head;
use super::linear::Rows;
use super::norm::Norm;
use super::pass::{embed, final_norm, gather};
use super::tree::{Segments, TileList};
use crate::decoder::Decoder;
use crate::request::{ScoreOptions, Target, TargetScore, TreeRows};
use crate::rope::RopeTable;

/// A decoder that computes the rows of a tree.
pub(crate) struct TreePass<'a> {
    decoder: &'a Decoder,
    rope: RopeTable,
    /// Of each layer, for the path to the next batch.
    cache: Vec<KeyValues>,
    buffers: Buffers,
}

/// Memory that all layers use.
#[derive(Default)]
struct Buffers {
    /// `[rows, hidden]`.
    normed: Vec<f32>,
    /// `[rows, qkv_width]`, or less of it.
    qkv: Vec<f32>,
    /// `[queries, heads * head_dim]`, where they are apart.
    queries: Vec<f32>,
    key_values: KeyValues,
    /// `[queries, heads * head_dim]`.
    attended: Vec<f32>,
    /// `[queries, 2 * intermediate]`.
    gate_up: Vec<f32>,
    /// `[queries, intermediate]`.
    activated: Vec<f32>,
}

/// The first numbers of a buffer, whatever they are.
fn resized(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

impl<'a> TreePass<'a> {
    /// For sequences of at most `longest` rows, of which paths of at most
    /// `longest_path` lead from one batch to another.
    pub fn new(decoder: &'a Decoder, longest: usize, longest_path: usize) -> Self {
        let mut pass = Self {
            decoder,
            rope: RopeTable::new(&decoder.config.rope, longest),
            cache: Vec::new(),
            buffers: Buffers::default(),
        };
        pass.cache = (0..decoder.layers.len())
            .map(|layer| {
                let mut cache = KeyValues::default();
                cache.make_room(&block(decoder, &pass.rope, layer).attention(), longest_path);
                cache
            })
            .collect();
        pass
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
        let weight = self.decoder.output.kept()?;
        Ok(Head::new(self.decoder, weight.numbers(), 0.0).score(&hidden, targets, options))
    }

    /// The normalised hidden states of the rows that are wanted,
    /// `[wanted, hidden]`.
    fn hidden_states(&mut self, rows: &TreeRows<'_>) -> Result<Vec<f32>> {
        let segments = Segments::new(rows);
        let all: Vec<u32> = (0..rows.ids.len() as u32).collect();
        let tiles = segments.tiles(&all);
        let mut x = embed(self.decoder, rows.ids)?;
        let layers = self.decoder.layers.len();
        for layer in 0..layers - 1 {
            self.layer(layer, rows, None, &tiles, &mut x)?;
        }
        // Nothing sees what the last block computes but the output projection.
        self.layer(layers - 1, rows, Some(&rows.wanted), &segments.tiles(&rows.wanted), &mut x)?;
        Ok(final_norm(self.decoder)?.forward(&x))
    }

    /// Computes a block in place. With `queries`, only these rows are
    /// computed, of which `x` then consists.
    fn layer(
        &mut self,
        layer: usize,
        rows: &TreeRows<'_>,
        queries: Option<&[u32]>,
        tiles: &TileList,
        x: &mut Vec<f32>,
    ) -> Result<()> {
        let block = block(self.decoder, &self.rope, layer);
        let (attention, config) = (block.attention(), block.config);
        let buffers = &mut self.buffers;
        let (hidden, out_width) = (config.hidden_size, attention.out_width());
        let count = rows.ids.len();

        let normed = resized(&mut buffers.normed, x.len());
        block.norm(&block.layer.attention_norm)?.forward_into(x, normed);
        let linears = &block.layer.qkv;
        // One projection of all three is not taken apart.
        let apart = queries.filter(|_| linears.len() > 1);
        let joint = if apart.is_some() { &linears[1..] } else { linears };
        let width = joint.iter().map(|linear| linear.outputs).sum();
        let qkv = resized(&mut buffers.qkv, count * width);
        block.project(joint, block.hidden(normed), width, qkv)?;
        let first = width - 2 * attention.kv_heads * attention.head_dim;
        let columns = |first| HeadColumns { rows: qkv, width, first };
        let (keys, values) = (columns(first), columns(first + attention.kv_heads * attention.head_dim));
        let norms = block.layer.head_norms.as_ref();
        let norms: Option<[Norm; 2]> = norms
            .map(|[queries, keys]| Ok::<_, candle_core::Error>([block.norm(queries)?, block.norm(keys)?]))
            .transpose()?;
        let [query_norm, key_norm] = [0, 1].map(|at| norms.as_ref().map(|norms| &norms[at]));
        buffers.key_values.make_room(&attention, count);
        attention.fill_tree(keys, values, rows.positions, key_norm, &mut buffers.key_values);

        let queries = match (queries, apart) {
            (None, _) => HeadColumns { rows: qkv, width, first: 0 },
            (Some(wanted), None) => {
                buffers.queries = gather(qkv, width, wanted);
                HeadColumns { rows: &buffers.queries, width, first: 0 }
            }
            (Some(_), Some(wanted)) => {
                let normed = gather(normed, hidden, wanted);
                let queries = resized(&mut buffers.queries, wanted.len() * out_width);
                block.project(&linears[..1], block.hidden(&normed), out_width, queries)?;
                HeadColumns { rows: queries, width: out_width, first: 0 }
            }
        };
        let count = queries.rows.len() / queries.width;
        if x.len() != count * hidden {
            *x = gather(x, hidden, &rows.wanted);
        }
        let attended = resized(&mut buffers.attended, count * out_width);
        attention.forward_tree(tiles, queries, query_norm, &buffers.key_values, &self.cache[layer], attended);
        self.cache[layer].extend(rows.kept, &buffers.key_values, &rows.added);
        let input = Rows { values: attended, width: out_width };
        block.add_projection(x, &block.layer.attention_output, input, block.layer.attention_post_norm.as_ref())?;

        let width = config.intermediate_size;
        let normed = resized(&mut buffers.normed, x.len());
        block.norm(&block.layer.feed_forward_norm)?.forward_into(x, normed);
        let gate_up = resized(&mut buffers.gate_up, count * 2 * width);
        block.project(&block.layer.gate_up, block.hidden(normed), 2 * width, gate_up)?;
        let activated = resized(&mut buffers.activated, count * width);
        activation::forward_into(config.activation, gate_up, width, activated);
        let input = Rows { values: activated, width };
        block.add_projection(x, &block.layer.down, input, block.layer.feed_forward_post_norm.as_ref())?;
        Ok(())
    }
}

fn block<'a>(decoder: &'a Decoder, rope: &'a RopeTable, layer: usize) -> Block<'a> {
    Block { config: &decoder.config, layer: &decoder.layers[layer], rope, dropout_seed: None }
}
