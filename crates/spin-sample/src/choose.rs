//! Picking a token from logits: greedy, or an exact draw by the Gumbel-max
//! rule (argmax of logit/T + Gumbel noise is distributed as softmax(logit/T)).
//!
//! What is filtered, and in which order, is as in transformers: repetition
//! penalty, temperature, top-k, top-p, min-p. Only ties at the border of top-p
//! differ: transformers keeps some of them, by how its sort happened to place
//! them, here all stay.

use spin_model::{largest_logit, softmax_weights};

use crate::noise::{Key, StepNoise};

/// How tokens are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplingParams {
    /// 0 is greedy.
    pub temperature: f64,
    /// Keep the k most likely; 0 for all.
    pub top_k: usize,
    /// Keep the smallest set with this probability; 1 for all.
    pub top_p: f64,
    /// Keep what is at least this share as likely as the likeliest; 0 for all.
    pub min_p: f64,
    /// What is in the prompt or the answer already has its logit divided by
    /// this, or multiplied where it is negative (Keskar et al. 2019); 1 for
    /// nothing.
    pub repetition_penalty: f64,
}

impl SamplingParams {
    /// The model's own distribution.
    pub const PLAIN: SamplingParams =
        SamplingParams { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0 };

    /// The likeliest token.
    pub const GREEDY: SamplingParams = SamplingParams { temperature: 0.0, ..SamplingParams::PLAIN };
}

/// A token, with natural logarithms of probabilities that it had.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// The token.
    pub id: u32,
    /// Under the model itself: temperature 1, whole vocabulary, no penalty.
    pub logp: f64,
    /// The same at the temperature it was drawn at; at 1 where that is 0.
    pub temperature_logp: f64,
    /// In the distribution it was drawn from, with penalty and filters; 0 for
    /// greedy.
    pub sampling_logp: f64,
}

/// Picks tokens. It holds memory of the size of the vocabulary, so one is to be
/// used for many.
#[derive(Debug, Default)]
pub struct Chooser {
    weights: Vec<f32>,
    penalised: Vec<f32>,
    sorted: Vec<f32>,
}

impl Chooser {
    /// Picks the token of step `step` from `[vocab]` logits; `context` is the
    /// prompt and the answer so far. `None` when a logit is NaN or infinite, or
    /// all are −∞.
    pub fn choose(
        &mut self,
        logits: &[f32],
        context: [&[u32]; 2],
        decoding: &SamplingParams,
        key: Key,
        step: u64,
    ) -> Option<Choice> {
        // `-inf` is a legal logit (a forbidden token); NaN and `+inf` are not.
        let top = largest_logit(logits)?;
        let greedy = decoding.temperature == 0.0;
        let temperature = if greedy { 1.0 } else { decoding.temperature };
        let log_total = softmax_weights(logits, top, 1.0, &mut self.weights).ln();
        let log_warm_total = match temperature == 1.0 {
            true => log_total,
            false => softmax_weights(logits, top, temperature, &mut self.weights).ln(),
        };
        let mut penalised = std::mem::take(&mut self.penalised);
        let (mut scores, mut best, mut log_kept) = (logits, top, log_warm_total);
        if decoding.repetition_penalty != 1.0 {
            penalise(logits, context, decoding.repetition_penalty, &mut penalised);
            scores = &penalised;
            best = largest_logit(scores)?;
            log_kept = softmax_weights(scores, best, temperature, &mut self.weights).ln();
        }
        let id = if greedy {
            scores.iter().position(|score| *score == best)?
        } else {
            if let Some(floor) = self.floor(scores, best, decoding) {
                let mut kept = 0.0;
                for (weight, score) in self.weights.iter_mut().zip(scores) {
                    *weight = if *score >= floor { *weight } else { 0.0 };
                    kept += f64::from(*weight);
                }
                log_kept = kept.ln();
            }
            race(&self.weights, scores, best, temperature, key.step(step))
        };
        let logp = |logit: f32, top: f32, temperature: f64| (f64::from(logit) - f64::from(top)) / temperature;
        let choice = Choice {
            id: u32::try_from(id).ok()?,
            logp: logp(logits[id], top, 1.0) - log_total,
            temperature_logp: logp(logits[id], top, temperature) - log_warm_total,
            sampling_logp: if greedy { 0.0 } else { logp(scores[id], best, temperature) - log_kept },
        };
        self.penalised = penalised;
        Some(choice)
    }

    /// The lowest logit that the filters leave in, if there are any. Ties with
    /// it stay in.
    fn floor(&mut self, scores: &[f32], best: f32, decoding: &SamplingParams) -> Option<f32> {
        let SamplingParams { temperature, top_k, top_p, min_p, .. } = *decoding;
        let keep_k = top_k > 0 && top_k < scores.len();
        if !keep_k && top_p >= 1.0 && min_p <= 0.0 {
            return None;
        }
        let mut floor = f32::NEG_INFINITY;
        if keep_k || top_p < 1.0 {
            self.sorted.clear();
            self.sorted.extend_from_slice(scores);
            // Sorting all of a vocabulary costs more than the rest together.
            let mut sorted = 0;
            if keep_k {
                sort_largest(&mut self.sorted, 0, top_k);
                floor = self.sorted[top_k - 1];
                // What ties with the last is kept, too.
                let ties = scores.iter().filter(|score| **score == floor).count();
                let above = scores.iter().filter(|score| **score > floor).count();
                self.sorted.truncate(above);
                self.sorted.resize(above + ties, floor);
                sorted = self.sorted.len();
            }
            if top_p < 1.0 {
                let weight = |score: f32| ((f64::from(score) - f64::from(best)) / temperature).exp();
                let total: f64 = match keep_k {
                    true => self.sorted.iter().map(|score| weight(*score)).sum(),
                    false => self.weights.iter().map(|weight| f64::from(*weight)).sum(),
                };
                let (mut sum, mut at) = (0.0, 0);
                floor = loop {
                    if at == sorted {
                        sorted = (sorted * 8).max(64).min(self.sorted.len());
                        sort_largest(&mut self.sorted, at, sorted);
                    }
                    sum += weight(self.sorted[at]);
                    if sum >= top_p * total || at + 1 == self.sorted.len() {
                        break self.sorted[at];
                    }
                    at += 1;
                };
            }
        }
        if min_p > 0.0 {
            // The smallest f32 that is not below the limit.
            let limit = f64::from(best) + temperature * min_p.ln();
            let nearest = limit as f32;
            floor = floor.max(if f64::from(nearest) < limit { nearest.next_up() } else { nearest });
        }
        Some(floor)
    }
}

/// Puts the largest `count` values in order; the first `done` of them are.
fn sort_largest(values: &mut [f32], done: usize, count: usize) {
    let rest = &mut values[done..];
    let count = count - done;
    if count < rest.len() {
        rest.select_nth_unstable_by(count, |a, b| b.total_cmp(a));
    }
    rest[..count].sort_unstable_by(|a, b| b.total_cmp(a));
}

fn penalise(logits: &[f32], context: [&[u32]; 2], penalty: f64, out: &mut Vec<f32>) {
    out.clear();
    out.extend_from_slice(logits);
    let penalty = penalty as f32;
    for id in context.into_iter().flatten() {
        // From the original: a token counts once however often it is there.
        if let (Some(logit), Some(out)) = (logits.get(*id as usize), out.get_mut(*id as usize)) {
            *out = if *logit < 0.0 { logit * penalty } else { logit / penalty };
        }
    }
}

/// The token with the largest score/T + Gumbel noise, of those whose weight
/// e^((score - best)/T) is not 0.
///
/// Equivalently it is the smallest of -ln(u)/weight (the exponential race). As
/// -ln(u) ≥ 1 - u, a token whose (1 - u)/weight is not below the smallest so
/// far cannot win; so logarithms are taken of a handful of tokens and not of
/// all the vocabulary.
fn race(weights: &[f32], scores: &[f32], best: f32, temperature: f64, noise: StepNoise) -> usize {
    const BLOCK: usize = 128;
    /// More than the weights and products in f32 are off.
    const SLACK: f64 = 1.001;
    let score = |id: usize| (f64::from(scores[id]) - f64::from(best)) / temperature + noise.gumbel(id as u64);
    let reach_of = |score: f64| ((-score).exp() * SLACK) as f32;
    let first = scores.iter().position(|score| *score == best).unwrap_or(0);
    let (mut winner, mut winning) = (first, score(first));
    let mut reach = reach_of(winning);
    for (block, weights) in weights.chunks(BLOCK).enumerate() {
        let start = block * BLOCK;
        let mut any = false;
        for (at, weight) in weights.iter().enumerate() {
            any |= noise.one_minus_at_least((start + at) as u64) < reach * weight;
        }
        if !any {
            continue;
        }
        for (at, weight) in weights.iter().enumerate() {
            let id = start + at;
            if noise.one_minus_at_least(id as u64) < reach * weight {
                let score = score(id);
                if score > winning || (score == winning && id < winner) {
                    (winner, winning) = (id, score);
                    reach = reach_of(winning);
                }
            }
        }
    }
    winner
}

#[cfg(test)]
#[path = "choose_tests.rs"]
mod tests;
