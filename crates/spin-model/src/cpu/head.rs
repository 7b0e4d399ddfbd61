//! From hidden states to the log-probabilities of target tokens.
//!
//! Logits exist for one chunk of rows at a time. A chunk holds whole groups of
//! sequences where it can: their log-probabilities are then known, and with
//! them the slopes of the loss, while the logits are still there. With
//! p = softmax(z), one-hot target e, smoothing s and slope g:
//! dL/dz = g ((1 - s) e + s / V - p); a soft cap c, which makes z = c tanh(r / c),
//! multiplies that by 1 - (z / c)^2.

use candle_core::Result;
use rayon::prelude::*;

use super::math::{Matrix, MatrixMut, Write, exp, matmul_here, max, tanh, transpose};
use super::rounded::{COLUMNS, Factor, Panels, ROWS, Tiles, by_weight, matmul_as};
use super::scores::{sum_exp, sum_of};
use crate::batch::{Chunk, RowPlan};
use crate::decoder::Decoder;
use crate::gradients::Gradients;
use crate::params::Numbers;
use crate::request::{ScoreOptions, Target, TargetScore};

/// Logits held at once: 64 MiB.
const LOGITS: usize = 1 << 24;
/// Fewer rows would make the matrix products inefficient.
const MIN_ROWS: usize = 64;
/// Rows per chunk while logits fit the processor's caches.
const CACHED_LOGITS: usize = 1 << 20;
/// Tokens of the vocabulary that one task of [`Head::score`] works on.
const PART: usize = 256;
/// Rows it multiplies at once.
const ROWS_PER_PRODUCT: usize = 128;
/// The same in tiles of rounded rows: 126.
const TILES_PER_PRODUCT: usize = 21;

/// The output projection.
pub(super) struct Head<'a> {
    weight: Numbers<'a>,
    /// The weight laid out, if it is bf16.
    panels: Option<Panels>,
    vocab: usize,
    width: usize,
    softcap: Option<f32>,
    smoothing: f32,
}

/// What is known of a row of logits: the log-probability that counts, and the
/// log-sum-exp.
#[derive(Clone, Copy, Default)]
struct RowSum {
    logp: f32,
    log_sum: f32,
}

fn log_sum_exp(logits: &[f32]) -> f32 {
    let max = max(logits);
    sum_exp(logits, max).ln() + max
}

/// What a part of the vocabulary adds to the scores.
struct Part {
    /// As of [`sum_of`], of each row.
    sums: Vec<(f32, f32)>,
    /// The logits of its targets, and the largest before each in this part.
    targets: Vec<(f32, f32)>,
}

impl<'a> Head<'a> {
    pub fn new(decoder: &Decoder, weight: Numbers<'a>, smoothing: f64) -> Self {
        let config = &decoder.config;
        Self::of(weight, config.vocab_size, config.hidden_size, config.final_softcap, smoothing)
    }

    /// `weight` is `[vocab, width]`.
    pub fn of(weight: Numbers<'a>, vocab: usize, width: usize, softcap: Option<f64>, smoothing: f64) -> Self {
        let panels = match weight {
            Numbers::F32(_) => None,
            Numbers::Bf16(_) => Some(Panels::new(Factor::new(weight, vocab, width).transposed())),
        };
        Self { weight, panels, vocab, width, softcap: softcap.map(|cap| cap as f32), smoothing: smoothing as f32 }
    }

    /// Rows whose logits are held at once; constants for a vocabulary, so that
    /// results do not depend on the number of threads.
    fn rows_within(&self, logits: usize) -> usize {
        (logits / self.vocab).max(MIN_ROWS)
    }

    /// Writes the logits of `hidden` `[rows, width]`.
    pub fn logits(&self, hidden: &[f32], logits: &mut [f32]) {
        let rows = hidden.len() / self.width;
        let hidden = Matrix::new(hidden, rows, self.width);
        let out = MatrixMut::new(logits, rows, self.vocab);
        match &self.panels {
            Some(panels) => panels.multiply(out, hidden.into(), Write::Over),
            None => by_weight(out, hidden, self.weight, [self.vocab, self.width], true, Write::Over),
        }
        if let Some(cap) = self.softcap {
            logits.par_chunks_mut(self.vocab).for_each(|row| {
                row.iter_mut().for_each(|logit| *logit = cap * tanh(*logit / cap));
            });
        }
    }

    fn row_sums(&self, logits: &[f32], targets: &[u32]) -> Vec<RowSum> {
        logits
            .par_chunks(self.vocab)
            .zip(targets)
            .with_min_len(4)
            .map(|(logits, target)| {
                let log_sum = log_sum_exp(logits);
                let mut counted = logits[*target as usize];
                if self.smoothing > 0.0 {
                    let mean = logits.iter().sum::<f32>() / self.vocab as f32;
                    counted += self.smoothing * (mean - counted);
                }
                RowSum { logp: counted - log_sum, log_sum }
            })
            .collect()
    }

    /// The log-probabilities of targets after `hidden` `[rows, width]`.
    pub fn logps(&self, hidden: &[f32], targets: &[u32]) -> Vec<f32> {
        let block = self.rows_within(CACHED_LOGITS);
        let mut logits = vec![0.0; block.min(targets.len()) * self.vocab];
        let mut logps = Vec::with_capacity(targets.len());
        for (hidden, targets) in hidden.chunks(block * self.width).zip(targets.chunks(block)) {
            let logits = &mut logits[..targets.len() * self.vocab];
            self.logits(hidden, logits);
            logps.extend(self.row_sums(logits, targets).into_iter().map(|sum| sum.logp));
        }
        logps
    }

    /// The scores of targets after rows of `hidden` `[rows, width]`, several
    /// of which may be after the same row; they are in the order of the rows.
    ///
    /// A task is a part of the vocabulary, which all rows are multiplied with:
    /// the weights are read once.
    pub fn score(&self, hidden: &[f32], targets: &[Target], options: &ScoreOptions) -> Vec<TargetScore> {
        let rows = hidden.len() / self.width;
        let part_of = |index: u32| targets[index as usize].token as usize / PART;
        let mut order: Vec<u32> = (0..targets.len() as u32).collect();
        order.sort_by_key(|index| part_of(*index));
        let count = self.vocab.div_ceil(PART);
        let mut own_targets = Vec::with_capacity(count);
        let mut rest = order.as_slice();
        for part in 0..count {
            let (own, others) = rest.split_at(rest.partition_point(|index| part_of(*index) <= part));
            own_targets.push(own);
            rest = others;
        }
        let tiles = self.panels.as_ref().map(|_| Tiles::new(Matrix::new(hidden, rows, self.width).into()));
        let parts: Vec<Part> = own_targets
            .par_iter()
            .enumerate()
            .with_max_len(1)
            .map(|(part, own)| self.part(hidden, tiles.as_ref(), part * PART, own, targets, options))
            .collect();

        // Which of its part's targets each is.
        let mut places = vec![(0, 0); targets.len()];
        for (part, own) in own_targets.iter().enumerate() {
            own.iter().enumerate().for_each(|(at, index)| places[*index as usize] = (part, at));
        }
        let sums: Vec<(f32, f32)> = (0..rows)
            .into_par_iter()
            .map(|row| {
                let max = parts.iter().map(|part| part.sums[row].0).fold(f32::NEG_INFINITY, f32::max);
                let scaled = parts.iter().map(|part| {
                    let (own, sum) = part.sums[row];
                    sum * exp(own - max)
                });
                (max, scaled.sum())
            })
            .collect();
        let score = |(target, (part, at)): (&Target, (usize, usize))| {
            let row = target.row as usize;
            let (logit, before) = parts[part].targets[at];
            let before = parts[..part].iter().map(|part| part.sums[row].0).fold(before, f32::max);
            TargetScore::of(logit, before, sums[row], options.rounding)
        };
        targets.par_iter().zip(places).map(score).collect()
    }

    /// Scores from the logits of [`PART`] tokens; `own` are the numbers of the
    /// targets among them, in the order of the rows.
    fn part(
        &self,
        hidden: &[f32],
        tiles: Option<&Tiles>,
        first: usize,
        own: &[u32],
        targets: &[Target],
        options: &ScoreOptions,
    ) -> Part {
        let tokens = first..(first + PART).min(self.vocab);
        let weight = match self.weight {
            Numbers::F32(weight) => {
                let rows = &weight[tokens.start * self.width..tokens.end * self.width];
                let mut weight = vec![0.0; rows.len()];
                transpose(rows, self.width, &mut weight);
                weight
            }
            Numbers::Bf16(_) => Vec::new(),
        };
        let at_once = if tiles.is_some() { TILES_PER_PRODUCT * ROWS } else { ROWS_PER_PRODUCT };
        let mut logits = vec![0.0; at_once * tokens.len()];
        let mut found = Part { sums: Vec::new(), targets: Vec::with_capacity(own.len()) };
        let mut own = own.iter().map(|index| targets[*index as usize]).peekable();
        for (number, hidden) in hidden.chunks(at_once * self.width).enumerate() {
            let count = hidden.len() / self.width;
            let logits = &mut logits[..count * tokens.len()];
            if let (Some(panels), Some(tiles)) = (&self.panels, tiles) {
                let own = number * TILES_PER_PRODUCT..((number + 1) * TILES_PER_PRODUCT).min(tiles.count());
                panels.multiply_here(logits, tiles, own, first / COLUMNS..tokens.end.div_ceil(COLUMNS));
            } else {
                let (hidden, weight) =
                    (Matrix::new(hidden, count, self.width), Matrix::new(&weight, self.width, tokens.len()));
                matmul_here(MatrixMut::new(logits, count, tokens.len()), hidden, weight, 1.0, Write::Over);
            }
            if let Some(cap) = self.softcap {
                logits.iter_mut().for_each(|logit| *logit = cap * tanh(*logit / cap));
            }
            if options.temperature != 1.0 {
                let scale = (1.0 / options.temperature) as f32;
                logits.iter_mut().for_each(|logit| *logit *= scale);
            }
            for logits in logits.chunks_exact_mut(tokens.len()) {
                let row = found.sums.len();
                found.sums.push(sum_of(logits, options.rounding));
                while let Some(target) = own.next_if(|target| target.row as usize == row) {
                    let token = target.token as usize - first;
                    found.targets.push((logits[token], max(&logits[..token])));
                }
            }
        }
        found
    }

    /// The sums of log-probabilities of the sequences, the gradient of
    /// `hidden`, and that of the weight added to `weight_grad`.
    pub fn backward(
        &self,
        hidden: &[f32],
        plan: &RowPlan,
        slopes: &mut dyn FnMut(usize, &[f64]) -> Vec<f64>,
        mut weight_grad: Option<&mut [f32]>,
    ) -> (Vec<f64>, Vec<f32>) {
        let mut sums = Vec::new();
        let mut hidden_grad = vec![0.0; hidden.len()];
        let limit = self.rows_within(LOGITS);
        let mut logits = Vec::new();
        // Laid out once for all chunks.
        let back = self.panels.as_ref().map(|_| Panels::new(Factor::new(self.weight, self.vocab, self.width)));
        // Small groups go together while their logits stay in the caches.
        // Rounded factors are laid out for each chunk, which more rows pay for.
        let held = if back.is_some() { LOGITS } else { CACHED_LOGITS };
        for chunk in plan.chunks(self.rows_within(held)) {
            let targets = &plan.targets[chunk.rows.clone()];
            let part = chunk.rows.start * self.width..chunk.rows.end * self.width;
            let (hidden, hidden_grad) = (&hidden[part.clone()], &mut hidden_grad[part]);
            if targets.len() <= limit {
                logits.resize(targets.len() * self.vocab, 0.0);
                self.logits(hidden, &mut logits);
                let rows = self.row_sums(&logits, targets);
                let slopes = self.slopes(plan, &chunk, &rows, slopes, &mut sums);
                self.backward_rows(
                    &mut logits,
                    hidden,
                    targets,
                    &rows,
                    &slopes,
                    hidden_grad,
                    &mut weight_grad,
                    back.as_ref(),
                );
                continue;
            }
            // One group has more logits than are held: they are computed twice.
            let logps = self.logps(hidden, targets);
            let rows: Vec<_> = logps.into_iter().map(|logp| RowSum { logp, log_sum: 0.0 }).collect();
            let slopes = self.slopes(plan, &chunk, &rows, slopes, &mut sums);
            let block = limit * self.width;
            let parts = hidden.chunks(block).zip(hidden_grad.chunks_mut(block));
            for ((hidden, hidden_grad), (targets, slopes)) in parts.zip(targets.chunks(limit).zip(slopes.chunks(limit)))
            {
                logits.resize(targets.len() * self.vocab, 0.0);
                self.logits(hidden, &mut logits);
                let rows = self.row_sums(&logits, targets);
                self.backward_rows(
                    &mut logits,
                    hidden,
                    targets,
                    &rows,
                    slopes,
                    hidden_grad,
                    &mut weight_grad,
                    back.as_ref(),
                );
            }
        }
        (sums, hidden_grad)
    }

    fn slopes(
        &self,
        plan: &RowPlan,
        chunk: &Chunk,
        rows: &[RowSum],
        slopes: &mut dyn FnMut(usize, &[f64]) -> Vec<f64>,
        sums: &mut Vec<f64>,
    ) -> Vec<f32> {
        let logps: Vec<f32> = rows.iter().map(|row| row.logp).collect();
        plan.slopes_of(chunk, &logps, slopes, sums)
    }

    /// Turns logits into their gradient, and that into those of `hidden` and
    /// the weight.
    #[expect(clippy::too_many_arguments, reason = "the operands of one formula")]
    fn backward_rows(
        &self,
        logits: &mut [f32],
        hidden: &[f32],
        targets: &[u32],
        rows: &[RowSum],
        slopes: &[f32],
        hidden_grad: &mut [f32],
        weight_grad: &mut Option<&mut [f32]>,
        back: Option<&Panels>,
    ) {
        let spread = self.smoothing / self.vocab as f32;
        logits.par_chunks_mut(self.vocab).zip(targets.par_iter().zip(rows).zip(slopes)).with_min_len(4).for_each(
            |(logits, ((target, row), slope))| {
                let at_target = logits[*target as usize];
                let bend = |logit: f32| self.softcap.map_or(1.0, |cap| 1.0 - (logit / cap) * (logit / cap));
                match self.softcap {
                    None => {
                        for logit in logits.iter_mut() {
                            *logit = slope * (spread - exp(*logit - row.log_sum));
                        }
                    }
                    Some(_) => {
                        for logit in logits.iter_mut() {
                            *logit = slope * (spread - exp(*logit - row.log_sum)) * bend(*logit);
                        }
                    }
                }
                logits[*target as usize] += slope * (1.0 - self.smoothing) * bend(at_target);
            },
        );
        let count = targets.len();
        let logit_grad = Matrix::new(logits, count, self.vocab);
        let out = MatrixMut::new(hidden_grad, count, self.width);
        match back {
            Some(panels) => panels.multiply(out, logit_grad.into(), Write::Over),
            None => by_weight(out, logit_grad, self.weight, [self.vocab, self.width], false, Write::Over),
        }
        if let Some(sum) = weight_grad {
            let hidden = Matrix::new(hidden, count, self.width);
            let sum = MatrixMut::new(sum, self.vocab, self.width);
            matmul_as(self.weight, sum, logit_grad.transposed(), hidden, Write::Add);
        }
    }
}

/// The logits after `hidden` `[rows, width]`.
pub(super) fn logits(decoder: &Decoder, hidden: &[f32]) -> Result<Vec<f32>> {
    let weight = decoder.output.kept()?;
    let head = Head::new(decoder, weight.numbers(), 0.0);
    let mut logits = vec![0.0; hidden.len() / head.width * head.vocab];
    head.logits(hidden, &mut logits);
    Ok(logits)
}

/// Log-probabilities of the plan's targets.
pub(super) fn logps(decoder: &Decoder, hidden: &[f32], targets: &[u32], smoothing: f64) -> Result<Vec<f32>> {
    let weight = decoder.output.kept()?;
    Ok(Head::new(decoder, weight.numbers(), smoothing).logps(hidden, targets))
}

/// As [`Head::backward`], with the weight's gradient where it is wanted.
pub(super) fn backward(
    decoder: &Decoder,
    hidden: &[f32],
    plan: &RowPlan,
    smoothing: f64,
    slopes: &mut dyn FnMut(usize, &[f64]) -> Vec<f64>,
    grads: &mut Gradients,
) -> Result<(Vec<f64>, Vec<f32>)> {
    let weight = decoder.output.kept()?;
    let head = Head::new(decoder, weight.numbers(), smoothing);
    Ok(head.backward(hidden, plan, slopes, grads.host_mut(&decoder.output.name)))
}
