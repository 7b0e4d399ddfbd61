//! Scores of tokens after hidden states: the output head in parts of the
//! vocabulary, forward only.

use rayon::prelude::*;

use super::math::{Matrix, MatrixMut, Write, exp, matmul_here, max, tanh, transpose};
use super::rounded::{COLUMNS, Panels, ROWS, Tiles};
use super::scores::sum_of;
use super::weight::CpuWeight;
use crate::ops::Projection;
use crate::params::Numbers;
use crate::request::{ScoreOptions, Target, TargetScore};

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
    panels: Option<&'a Panels>,
    vocab: usize,
    width: usize,
    softcap: Option<f32>,
}

/// What a part of the vocabulary adds to the scores.
struct Part {
    /// As of [`sum_of`], of each row.
    sums: Vec<(f32, f32)>,
    /// The logits of its targets, and the largest before each in this part.
    targets: Vec<(f32, f32)>,
}

impl<'a> Head<'a> {
    /// `by` is prepared.
    pub fn new(by: &Projection<'a, CpuWeight<'_>>, softcap: Option<f32>) -> Self {
        let (weight, panels) = (by.weight.numbers(), by.weight.panels());
        Self { weight, panels, vocab: by.outputs, width: by.inputs, softcap }
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
        let tiles = self.panels.map(|_| Tiles::new(Matrix::new(hidden, rows, self.width).into()));
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
            if let (Some(panels), Some(tiles)) = (self.panels, tiles) {
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
}
