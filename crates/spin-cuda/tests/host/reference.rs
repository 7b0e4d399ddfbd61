//! Formulas in f64, from the files of the CPU that they name.

use std::ops::Range;

use spin_cuda::{Attention, Span};

/// `spin-model/src/cpu/norm.rs`: rows normalised, times (weight + offset).
pub fn rms_norm(x: &[f64], weight: &[f64], offset: f64, eps: f64) -> Vec<f64> {
    x.chunks_exact(weight.len())
        .flat_map(|row| {
            let inverse = 1.0 / (row.iter().map(|v| v * v).sum::<f64>() / row.len() as f64 + eps).sqrt();
            row.iter().zip(weight).map(move |(v, w)| v * inverse * (w + offset)).collect::<Vec<_>>()
        })
        .collect()
}

/// The derivative of sum over i of grad[i] f(x)[i] by each x, by central differences.
pub fn numeric_gradient(x: &[f64], grad: &[f64], f: impl Fn(&[f64]) -> Vec<f64>) -> Vec<f64> {
    const STEP: f64 = 1e-5;
    let value = |x: &[f64]| f(x).iter().zip(grad).map(|(y, g)| y * g).sum::<f64>();
    let mut x = x.to_vec();
    (0..x.len())
        .map(|at| {
            let own = x[at];
            x[at] = own + STEP;
            let above = value(&x);
            x[at] = own - STEP;
            let below = value(&x);
            x[at] = own;
            (above - below) / (2.0 * STEP)
        })
        .collect()
}

/// Attention of one head of each of some queries to some keys: `sees(query, key)`; outputs `[queries, dim]` and
/// log-sum-exps. `spin-model/src/cpu/attention/mod.rs`.
pub fn attend(
    queries: &[&[f64]],
    keys: &[&[f64]],
    values: &[&[f64]],
    (scale, softcap): (f64, Option<f64>),
    sees: impl Fn(usize, usize) -> bool,
) -> (Vec<Vec<f64>>, Vec<f64>) {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let cap = |score: f64| softcap.map_or(score, |cap| cap * (score / cap).tanh());
    let row = |(q, query): (usize, &&[f64])| {
        let seen: Vec<usize> = (0..keys.len()).filter(|key| sees(q, *key)).collect();
        let scores: Vec<f64> = seen.iter().map(|key| cap(dot(query, keys[*key]) * scale)).collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = scores.iter().map(|score| (score - max).exp()).sum();
        let mut out = vec![0.0; query.len()];
        for (score, key) in scores.iter().zip(seen) {
            let weight = (score - max).exp() / sum;
            out.iter_mut().zip(values[key]).for_each(|(out, value)| *out += weight * value);
        }
        (out, max + sum.ln())
    };
    queries.iter().enumerate().map(row).unzip()
}

/// Rows of queries, keys and values of all heads.
#[derive(Clone, Copy)]
pub struct Shape {
    pub of: Attention,
}

impl Shape {
    fn columns(&self, head: usize) -> Range<usize> {
        head * self.of.dim..(head + 1) * self.of.dim
    }

    pub fn query<'a>(&self, rows: &'a [f64], row: usize, head: usize) -> &'a [f64] {
        &rows[row * self.of.qkv_width()..][self.columns(head)]
    }

    pub fn key<'a>(&self, rows: &'a [f64], row: usize, head: usize) -> &'a [f64] {
        self.query(rows, row, self.of.heads + head / (self.of.heads / self.of.kv_heads))
    }

    pub fn value<'a>(&self, rows: &'a [f64], row: usize, head: usize) -> &'a [f64] {
        self.query(rows, row, self.of.heads + self.of.kv_heads + head / (self.of.heads / self.of.kv_heads))
    }

    pub fn sees(&self, query: usize, key: usize) -> bool {
        key <= query && self.of.window.is_none_or(|window| key + window > query)
    }

    pub fn scores(&self) -> (f64, Option<f64>) {
        (f64::from(self.of.scale), self.of.softcap.map(f64::from))
    }
}

/// Outputs `[rows, heads * dim]` and log-sum-exps `[rows, heads]` of spans.
pub fn attention(shape: Shape, groups: &[Vec<Span>], qkv: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let (heads, dim) = (shape.of.heads, shape.of.dim);
    let rows = qkv.len() / shape.of.qkv_width();
    let (mut out, mut log_sums) = (vec![f64::NAN; rows * heads * dim], vec![f64::NAN; rows * heads]);
    for span in groups.iter().flatten() {
        let all = rows_of(span);
        for head in 0..heads {
            let queries: Vec<_> = (span.own..span.own + span.own_len).map(|row| shape.query(qkv, row, head)).collect();
            let keys: Vec<_> = all.iter().map(|row| shape.key(qkv, *row, head)).collect();
            let values: Vec<_> = all.iter().map(|row| shape.value(qkv, *row, head)).collect();
            let sees = |q: usize, k: usize| shape.sees(span.shared_len + q, k);
            let (outs, sums) = attend(&queries, &keys, &values, shape.scores(), sees);
            for (q, (own, sum)) in outs.iter().zip(sums).enumerate() {
                let at = (span.own + q) * heads + head;
                out[at * dim..(at + 1) * dim].copy_from_slice(own);
                log_sums[at] = sum;
            }
        }
    }
    (out, log_sums)
}

/// Rows of a sequence by position.
pub fn rows_of(span: &Span) -> Vec<usize> {
    (span.shared..span.shared + span.shared_len).chain(span.own..span.own + span.own_len).collect()
}

/// The gradient of `qkv`, by the formulas at the top of `spin-model/src/cpu/attention/mod.rs`.
pub fn attention_backward(shape: Shape, groups: &[Vec<Span>], qkv: &[f64], grad: &[f64]) -> Vec<f64> {
    let Attention { heads, kv_heads, dim, .. } = shape.of;
    let (scale, softcap) = shape.scores();
    let (out, log_sums) = attention(shape, groups, qkv);
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let mut qkv_grad = vec![0.0; qkv.len()];
    let mut add = |row: usize, head: usize, factor: f64, values: &[f64]| {
        let at = row * shape.of.qkv_width() + head * dim;
        qkv_grad[at..at + dim].iter_mut().zip(values).for_each(|(sum, value)| *sum += factor * value);
    };
    for span in groups.iter().flatten() {
        for (q, head) in (0..span.own_len).flat_map(|q| (0..heads).map(move |head| (q, head))) {
            let (row, kv_head) = (span.own + q, head / (heads / kv_heads));
            let at = row * heads + head;
            let (query, g) = (shape.query(qkv, row, head), &grad[at * dim..(at + 1) * dim]);
            let mean = dot(g, &out[at * dim..(at + 1) * dim]);
            for (k, key_row) in rows_of(span).into_iter().enumerate() {
                if !shape.sees(span.shared_len + q, k) {
                    continue;
                }
                let (key, value) = (shape.key(qkv, key_row, head), shape.value(qkv, key_row, head));
                let raw = dot(query, key) * scale;
                let score = softcap.map_or(raw, |cap| cap * (raw / cap).tanh());
                let bend = softcap.map_or(1.0, |cap| 1.0 - (score / cap).powi(2));
                let p = (score - log_sums[at]).exp();
                let ds = p * (dot(g, value) - mean) * bend;
                add(row, head, scale * ds, key);
                add(key_row, heads + kv_head, scale * ds, query);
                add(key_row, heads + kv_heads + kv_head, p, g);
            }
        }
    }
    qkv_grad
}
