//! Decoder blocks over new tokens of many sequences.

use rayon::prelude::*;

use super::ROWS_PER_TASK;
use super::activation;
use super::attention::{Attention, SharedRows};
use super::cached::{HeadCache, LayerCache, NewRows, Part, Scratch};
use super::few_rows::FewRows;
use super::math::{Write, add_scaled, tanh};
use super::norm::Norm;
use super::rows::gather;
use crate::config::{LayerConfig, ModelConfig};
use crate::ops::Heads;
use crate::rope::RopeTable;

/// A decoder block's weights.
pub(super) struct DecodeBlock {
    pub config: LayerConfig,
    pub attention_norm: Vec<f32>,
    pub head_norms: Option<[Vec<f32>; 2]>,
    pub attention_post_norm: Option<Vec<f32>>,
    pub feed_forward_norm: Vec<f32>,
    pub feed_forward_post_norm: Option<Vec<f32>>,
    pub qkv: FewRows,
    pub attention_output: FewRows,
    pub gate_up: FewRows,
    pub down: FewRows,
}

fn norm(config: &ModelConfig, weight: &[f32]) -> Norm {
    Norm::new(weight, config.norm_offset, config.rms_norm_eps)
}

fn normed(config: &ModelConfig, weight: &[f32], x: &[f32]) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    norm(config, weight).forward(x, &mut out);
    out
}

/// Adds a projection of `input` to `stream`, through a norm if there is one.
fn add(config: &ModelConfig, stream: &mut [f32], linear: &FewRows, input: &[f32], post_norm: Option<&Vec<f32>>) {
    let Some(weight) = post_norm else {
        linear.forward(input, stream, Write::Add);
        return;
    };
    let mut projected = vec![0.0; stream.len()];
    linear.forward(input, &mut projected, Write::Over);
    add_scaled(stream, &normed(config, weight, &projected), 1.0);
}

impl DecodeBlock {
    /// Computes the block for the rows `x` `[rows, hidden]` of all parts, in
    /// place; with `last_rows`, only for the last row of each part, of which
    /// `x` then consists.
    pub fn forward(
        &self,
        config: &ModelConfig,
        rope: &RopeTable,
        layer: usize,
        parts: &mut [Part<'_>],
        last_rows: bool,
        x: &mut Vec<f32>,
    ) {
        let hidden = config.hidden_size;
        let attention = Attention::new(&Heads::new(config, self.config), rope);
        let normed = normed(config, &self.attention_norm, x);
        let mut qkv = vec![0.0; normed.len() / hidden * self.qkv.outputs()];
        self.qkv.forward(&normed, &mut qkv, Write::Over);
        if last_rows {
            let rows: Vec<u32> = parts.iter().map(|part| part.rows.end as u32 - 1).collect();
            *x = gather(x, hidden, &rows);
        }
        let mut attended = vec![0.0; x.len() / hidden * attention.out_width()];
        self.attend(config, &attention, layer, parts, last_rows, &qkv, &mut attended);
        add(config, x, &self.attention_output, &attended, self.attention_post_norm.as_ref());

        let normed = self::normed(config, &self.feed_forward_norm, x);
        let mut gate_up = vec![0.0; normed.len() / hidden * self.gate_up.outputs()];
        self.gate_up.forward(&normed, &mut gate_up, Write::Over);
        let mut activated = vec![0.0; gate_up.len() / 2];
        activation::forward(config.activation, &gate_up, config.intermediate_size, &mut activated);
        add(config, x, &self.down, &activated, self.feed_forward_post_norm.as_ref());
    }

    #[expect(clippy::too_many_arguments, reason = "the operands of one operation")]
    fn attend(
        &self,
        config: &ModelConfig,
        attention: &Attention<'_>,
        layer: usize,
        parts: &mut [Part<'_>],
        last_rows: bool,
        qkv: &[f32],
        out: &mut [f32],
    ) {
        let norms = self.head_norms.as_ref().map(|norms| norms.each_ref().map(|weight| norm(config, weight)));
        let width = attention.qkv_width();
        let shared = SharedRows::new(out, attention.out_width());
        let mut tasks = Vec::with_capacity(parts.len() * attention.kv_heads);
        for (index, part) in parts.iter_mut().enumerate() {
            let count = part.rows.len();
            let (wanted, out_row) = if last_rows { (count - 1..count, index) } else { (0..count, part.rows.start) };
            let new = NewRows {
                qkv: &qkv[part.rows.start * width..part.rows.end * width],
                position: part.position,
                wanted,
                out_row,
            };
            let LayerCache { keys, values } = &mut part.layers[layer];
            let len = keys.len() / attention.kv_heads;
            for (head, (keys, values)) in keys.chunks_exact_mut(len).zip(values.chunks_exact_mut(len)).enumerate() {
                tasks.push((new.clone(), head, HeadCache { keys, values }));
            }
        }
        tasks.into_par_iter().for_each_init(Scratch::default, |scratch, (new, head, mut cache)| {
            attention.forward_cached(&new, head, norms.as_ref(), &mut cache, &shared, scratch);
        });
    }
}

/// Writes the logits after rows `x` `[rows, hidden]`, `[rows, vocab]`.
pub(super) fn decode_logits(
    config: &ModelConfig,
    final_norm: &[f32],
    output: &FewRows,
    x: &[f32],
    logits: &mut Vec<f32>,
) {
    let normed = normed(config, final_norm, x);
    logits.resize(normed.len() / config.hidden_size * output.outputs(), 0.0);
    output.forward(&normed, logits, Write::Over);
    if let Some(cap) = config.final_softcap {
        let cap = cap as f32;
        logits.par_chunks_mut(ROWS_PER_TASK * 1024).for_each(|logits| {
            logits.iter_mut().for_each(|logit| *logit = cap * tanh(*logit / cap));
        });
    }
}
