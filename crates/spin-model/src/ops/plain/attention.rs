//! Attention, score by score.

use super::Numbers;
use crate::batch::{Group, Span};
use crate::ops::{Attended, Heads, View, ViewMut};
use crate::rope::RopeTable;

/// Rotates by a position, or back.
fn rotated(head: &[f64], rope: &RopeTable, position: usize, back: bool) -> Vec<f64> {
    // Numbers beyond stay: some architectures rotate a part.
    let half = rope.half;
    let mut out = head.to_vec();
    for i in 0..half {
        let cos = f64::from(rope.cos[position * half + i]);
        let sin = f64::from(rope.sin[position * half + i]) * if back { -1.0 } else { 1.0 };
        out[i] = head[i] * cos - head[half + i] * sin;
        out[half + i] = head[half + i] * cos + head[i] * sin;
    }
    out
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(sums: &mut [f64], values: &[f64], scale: f64) {
    sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += scale * value);
}

pub fn columns(first: usize, head: usize, dim: usize) -> std::ops::Range<usize> {
    first + head * dim..first + (head + 1) * dim
}

impl Heads {
    pub fn place(&self, head: &[f64], rope: &RopeTable, position: usize) -> Vec<f64> {
        if self.rotates { rotated(head, rope, position, false) } else { head.to_vec() }
    }

    fn back(&self, head: &[f64], rope: &RopeTable, position: usize) -> Vec<f64> {
        if self.rotates { rotated(head, rope, position, true) } else { head.to_vec() }
    }

    fn score(&self, query: &[f64], key: &[f64]) -> f64 {
        let score = f64::from(self.scale) * dot(query, key);
        self.softcap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
    }

    /// Whether a key is not too far before a query.
    pub fn near(&self, query: usize, key: usize) -> bool {
        self.window.is_none_or(|window| key + window > query)
    }

    /// A query's output and log-sum-exp over some keys and values.
    pub fn attend<'a>(&self, query: &[f64], seen: &[(&'a [f64], &'a [f64])]) -> (Vec<f64>, f64) {
        let scores: Vec<f64> = seen.iter().map(|(key, _)| self.score(query, key)).collect();
        let log_sum = scores.iter().map(|score| score.exp()).sum::<f64>().ln();
        let mut out = vec![0.0; self.head_dim];
        seen.iter().zip(scores).for_each(|((_, value), score)| add(&mut out, value, (score - log_sum).exp()));
        (out, log_sum)
    }
}

/// One span's queries, keys and values of one query head.
struct Sequence {
    rows: Vec<usize>,
    queries: Vec<Vec<f64>>,
    keys: Vec<Vec<f64>>,
    values: Vec<Vec<f64>>,
}

impl Sequence {
    fn new(heads: &Heads, rope: &RopeTable, span: &Span, qkv: View<'_, Numbers>, head: usize) -> Self {
        let (dim, rows) = (heads.head_dim, span.rows().collect::<Vec<_>>());
        let kv_head = head / (heads.heads / heads.kv_heads);
        let part = |first: usize, head: usize| {
            let part = qkv.columns(columns(first, head, dim));
            rows.iter().map(|row| part.row(*row)).collect::<Vec<_>>()
        };
        let place = |all: Vec<Vec<f64>>| {
            all.iter().enumerate().map(|(position, head)| heads.place(head, rope, position)).collect()
        };
        Self {
            queries: place(part(0, head)),
            keys: place(part(heads.out_width(), kv_head)),
            values: part(heads.out_width() + heads.kv_width(), kv_head),
            rows,
        }
    }
}

fn spans(groups: &[Group]) -> impl Iterator<Item = &Span> {
    groups.iter().flat_map(|group| &group.spans)
}

pub fn forward(
    heads: &Heads,
    rope: &RopeTable,
    groups: &[Group],
    qkv: View<'_, Numbers>,
    out: &mut Numbers,
    log_sums: &mut Numbers,
) {
    let (rows, dim) = (qkv.at.rows, heads.head_dim);
    for (span, head) in spans(groups).flat_map(|span| (0..heads.heads).map(move |head| (span, head))) {
        let sequence = Sequence::new(heads, rope, span, qkv, head);
        for position in span.shared.len()..span.len() {
            let seen: Vec<_> = (0..=position)
                .filter(|key| heads.near(position, *key))
                .map(|key| (&sequence.keys[key][..], &sequence.values[key][..]))
                .collect();
            let (values, log_sum) = heads.attend(&sequence.queries[position], &seen);
            let row = sequence.rows[position];
            ViewMut::new(out, rows, heads.out_width()).columns(columns(0, head, dim)).set_row(row, &values);
            log_sums.0[row * heads.heads + head] = log_sum as f32;
        }
    }
}

pub fn backward(
    heads: &Heads,
    rope: &RopeTable,
    groups: &[Group],
    known: &Attended<'_, Numbers>,
    out_grad: View<'_, Numbers>,
    qkv_grad: &mut Numbers,
) {
    let (rows, dim, width) = (out_grad.at.rows, heads.head_dim, heads.qkv_width());
    let qkv = View::new(known.qkv, rows, width);
    let out = View::new(known.out, rows, heads.out_width());
    let mut grads = vec![0.0; rows * width];
    let scale = f64::from(heads.scale);
    for (span, head) in spans(groups).flat_map(|span| (0..heads.heads).map(move |head| (span, head))) {
        let sequence = Sequence::new(heads, rope, span, qkv, head);
        let kv_head = head / (heads.heads / heads.kv_heads);
        let mut put = |position: usize, first: usize, head: usize, grad: &[f64]| {
            let at = sequence.rows[position] * width + columns(first, head, dim).start;
            add(&mut grads[at..at + dim], grad, 1.0);
        };
        for position in span.shared.len()..span.len() {
            let (row, query) = (sequence.rows[position], &sequence.queries[position]);
            let own = |view: View<'_, Numbers>| view.columns(columns(0, head, dim)).row(row);
            let (g, o) = (own(out_grad), own(out));
            let mut query_grad = vec![0.0; dim];
            for key in (0..=position).filter(|key| heads.near(position, *key)) {
                let score = heads.score(query, &sequence.keys[key]);
                let p = (score - f64::from(known.log_sums.0[row * heads.heads + head])).exp();
                let bend = heads.softcap.map_or(1.0, |cap| 1.0 - (score / f64::from(cap)).powi(2));
                let ds = p * (dot(&g, &sequence.values[key]) - dot(&g, &o)) * bend * scale;
                add(&mut query_grad, &sequence.keys[key], ds);
                let mut key_grad = vec![0.0; dim];
                add(&mut key_grad, query, ds);
                put(key, heads.out_width(), kv_head, &heads.back(&key_grad, rope, key));
                let value_grad: Vec<f64> = g.iter().map(|g| p * g).collect();
                put(key, heads.out_width() + heads.kv_width(), kv_head, &value_grad);
            }
            put(position, 0, head, &heads.back(&query_grad, rope, position));
        }
    }
    grads.iter().enumerate().for_each(|(index, grad)| qkv_grad.0[index] = *grad as f32);
}
