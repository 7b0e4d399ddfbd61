//! From hidden states to the log-probabilities of target tokens.
//!
//! Logits exist for one chunk of rows at a time. A chunk holds whole groups of
//! sequences where it can: their log-probabilities are then known, and with
//! them the slopes of the loss, while the logits are still there.

use std::ops::Range;

use crate::batch::RowPlan;
use crate::decoder::Decoder;
use crate::error::Result;
use crate::ops::{Operations, Projection, Targets, TreeOperations, View, ViewMut, Write};
use crate::request::{ScoreOptions, Target, TargetScore};

/// Fewer rows would make the matrix products inefficient.
const MIN_ROWS: usize = 64;

/// The output projection.
pub(super) struct Head<'a, O: Operations> {
    ops: &'a O,
    /// `[vocab, width]`.
    weight: O::Weight<'a>,
    vocab: usize,
    width: usize,
    softcap: Option<f32>,
    smoothing: f32,
}

/// A chunk's logits with what is known of its rows.
struct Chunk<B> {
    /// `[rows, vocab]`.
    logits: B,
    /// What counts of each target, `[rows]`.
    logps: B,
    /// `[rows]`.
    log_sums: B,
}

impl<'a, O: Operations> Head<'a, O> {
    /// For many products, also `back` from gradients.
    pub fn new(ops: &'a O, decoder: &'a Decoder, smoothing: f64, back: bool) -> Result<Self> {
        let config = &decoder.config;
        let mut weight = ops.weight(&decoder.output)?;
        ops.prepare(&mut weight, [config.vocab_size, config.hidden_size], back)?;
        Ok(Self {
            ops,
            weight,
            vocab: config.vocab_size,
            width: config.hidden_size,
            softcap: config.final_softcap.map(|cap| cap as f32),
            smoothing: smoothing as f32,
        })
    }

    /// Rows whose logits are held at once.
    fn rows_within(&self, logits: usize) -> usize {
        (logits / self.vocab).max(MIN_ROWS)
    }

    fn by(&self, back: bool) -> Projection<'_, O::Weight<'a>> {
        Projection { weight: &self.weight, outputs: self.vocab, inputs: self.width, back, scale: 1.0 }
    }

    fn targets<'b>(&self, ids: &'b O::Indices, part: Range<usize>) -> Targets<'b, O::Indices> {
        Targets { ids, part, vocab: self.vocab, smoothing: self.smoothing, softcap: self.softcap }
    }

    /// Writes the logits of `hidden` `[rows, width]`.
    pub fn logits(&self, hidden: View<'_, O::Buffer>, logits: &mut O::Buffer) -> Result<()> {
        let rows = hidden.at.rows;
        self.ops.project(ViewMut::new(logits, rows, self.vocab), hidden, self.by(false), Write::Over)?;
        self.softcap.map_or(Ok(()), |cap| self.ops.soft_cap(logits, rows, self.vocab, cap))
    }

    /// A chunk of at most so many rows.
    fn chunk(&self, rows: usize) -> Result<Chunk<O::Buffer>> {
        let ops = self.ops;
        Ok(Chunk { logits: ops.room(rows * self.vocab)?, logps: ops.room(rows)?, log_sums: ops.room(rows)? })
    }

    /// Computes logits and what counts of the targets.
    fn fill(
        &self,
        chunk: &mut Chunk<O::Buffer>,
        hidden: View<'_, O::Buffer>,
        targets: &Targets<'_, O::Indices>,
    ) -> Result<()> {
        let rows = hidden.at.rows;
        self.ops.at_least(&mut chunk.logits, rows * self.vocab)?;
        self.ops.at_least(&mut chunk.logps, rows)?;
        self.ops.at_least(&mut chunk.log_sums, rows)?;
        self.logits(hidden, &mut chunk.logits)?;
        self.ops.log_probs(&chunk.logits, targets, &mut chunk.logps, &mut chunk.log_sums)
    }

    /// The log-probabilities of targets after `hidden` `[rows, width]`, the
    /// first of which is that at `first`.
    pub fn logps(&self, hidden: View<'_, O::Buffer>, targets: &O::Indices, first: usize) -> Result<Vec<f32>> {
        let rows = hidden.at.rows;
        let block = self.rows_within(self.ops.logits_held(&self.weight).forward);
        let mut chunk = self.chunk(block.min(rows))?;
        let mut logps = Vec::with_capacity(rows);
        for start in (0..rows).step_by(block) {
            let part = start..(start + block).min(rows);
            let targets = self.targets(targets, first + part.start..first + part.end);
            self.fill(&mut chunk, hidden.part(part.clone()), &targets)?;
            logps.extend(self.ops.download(View::new(&chunk.logps, part.len(), 1))?);
        }
        Ok(logps)
    }

    /// The sums of log-probabilities of the sequences, the gradient of
    /// `hidden` `[response rows, width]`, and that of the weight added to
    /// `weight_grad`.
    pub fn backward(
        &self,
        hidden: &O::Buffer,
        plan: &RowPlan,
        slopes: &mut dyn FnMut(usize, &[f64]) -> Vec<f64>,
        mut weight_grad: Option<&mut O::Buffer>,
    ) -> Result<(Vec<f64>, O::Buffer)> {
        let (ops, rows) = (self.ops, plan.targets.len());
        let ids = ops.indices(&plan.targets)?;
        let hidden = View::new(hidden, rows, self.width);
        let mut sums = Vec::new();
        let mut hidden_grad = ops.room(rows * self.width)?;
        let held = ops.logits_held(&self.weight);
        let limit = self.rows_within(held.most);
        let mut chunk = self.chunk(0)?;
        for groups in plan.chunks(self.rows_within(held.together)) {
            let all = groups.rows.clone();
            let whole = all.len() <= limit;
            let logps = if whole {
                self.fill(&mut chunk, hidden.part(all.clone()), &self.targets(&ids, all.clone()))?;
                ops.download(View::new(&chunk.logps, all.len(), 1))?
            } else {
                // One group has more logits than are held: they are computed twice.
                self.logps(hidden.part(all.clone()), &ids, all.start)?
            };
            let slopes = plan.slopes_of(&groups, &logps, slopes, &mut sums);
            for (start, slopes) in all.clone().step_by(limit).zip(slopes.chunks(limit)) {
                let part = start..start + slopes.len();
                let (hidden, targets) = (hidden.part(part.clone()), self.targets(&ids, part.clone()));
                if !whole {
                    self.fill(&mut chunk, hidden, &targets)?;
                }
                ops.log_probs_backward(&mut chunk.logits, &targets, &chunk.log_sums, slopes)?;
                let logit_grad = View::new(&chunk.logits, part.len(), self.vocab);
                let target = ViewMut::new(&mut hidden_grad, rows, self.width).part(part);
                ops.project(target, logit_grad, self.by(true), Write::Over)?;
                if let Some(sum) = &mut weight_grad {
                    ops.add_outer(sum, logit_grad, hidden, 1.0, Some(&self.weight))?;
                }
            }
        }
        Ok((sums, hidden_grad))
    }
}

impl<O: TreeOperations> Head<'_, O> {
    /// As [`TreeOperations::score`].
    pub fn score(
        &self,
        hidden: View<'_, O::Buffer>,
        targets: &[Target],
        options: &ScoreOptions,
    ) -> Result<Vec<TargetScore>> {
        self.ops.score(hidden, self.by(false), self.softcap, targets, options)
    }
}
