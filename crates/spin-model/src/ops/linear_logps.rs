//! The log-probabilities of target tokens under an output projection.
//!
//! Logits exist for one block of rows at a time. The forward pass keeps each
//! row's log-sum-exp; the backward pass computes the logits again. With
//! p = softmax(h W^T): dL/dlogits = g (onehot(target) - p).

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::math::{Matrix, exp, matmul, max};
use super::slices::{self, bind_slice};

/// Logits held at once, unless a block of [`MIN_ROWS`] rows needs more.
const LOGITS_PER_BLOCK: usize = 1 << 18;
/// Fewer rows would make the matrix products inefficient.
const MIN_ROWS: usize = 64;

pub(super) fn linear_logps(hidden: &Tensor, weight: &Tensor, targets: &Tensor) -> Result<Tensor> {
    hidden.contiguous()?.apply_op3(
        &weight.contiguous()?,
        &targets.contiguous()?,
        LinearLogps { log_sums: OnceLock::new() },
    )
}

struct LinearLogps {
    log_sums: OnceLock<Vec<f32>>,
}

/// Rows of a block: a constant for a vocabulary, so that results do not
/// depend on the number of threads.
fn rows_per_block(vocab: usize) -> usize {
    (LOGITS_PER_BLOCK / vocab).max(MIN_ROWS)
}

fn log_sum_exp(logits: &[f32]) -> f32 {
    let max = max(logits);
    let mut sums = [0.0_f32; 8];
    let chunks = logits.chunks_exact(8);
    let rest: f32 = chunks.remainder().iter().map(|x| exp(x - max)).sum();
    for chunk in chunks {
        for lane in 0..8 {
            sums[lane] += exp(chunk[lane] - max);
        }
    }
    (sums.iter().sum::<f32>() + rest).ln() + max
}

impl CustomOp3 for LinearLogps {
    fn name(&self) -> &'static str {
        "linear-logps"
    }

    fn cpu_fwd(
        &self,
        hidden: &CpuStorage,
        hidden_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        targets: &CpuStorage,
        targets_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, width) = hidden_layout.shape().dims2()?;
        let (vocab, weight_width) = weight_layout.shape().dims2()?;
        if weight_width != width || targets_layout.dims() != [rows] {
            candle_core::bail!(
                "linear-logps: {:?}, {:?} and {:?} do not fit together",
                hidden_layout.shape(),
                weight_layout.shape(),
                targets_layout.shape()
            );
        }
        let hidden = slices::of_storage(hidden, hidden_layout)?;
        let weight = Matrix::new(slices::of_storage(weight, weight_layout)?, vocab, width);
        let targets = slices::of_u32_storage(targets, targets_layout)?;
        if let Some(target) = targets.iter().find(|target| **target as usize >= vocab) {
            candle_core::bail!("linear-logps: target {target} is outside {vocab} classes");
        }
        let block = rows_per_block(vocab);
        let mut logits = vec![0.0; block.min(rows) * vocab];
        let mut logps = vec![0.0; rows];
        let mut log_sums = vec![0.0; rows];
        for start in (0..rows).step_by(block) {
            let count = block.min(rows - start);
            let end = start + count;
            let logits = &mut logits[..count * vocab];
            let hidden = Matrix::new(&hidden[start * width..end * width], count, width);
            matmul(logits, hidden, weight.transposed(), false);
            logits
                .par_chunks(vocab)
                .zip(&targets[start..end])
                .zip(logps[start..end].par_iter_mut().zip(&mut log_sums[start..end]))
                .with_min_len(16)
                .for_each(|((logits, target), (logp, log_sum))| {
                    *log_sum = log_sum_exp(logits);
                    *logp = logits[*target as usize] - *log_sum;
                });
        }
        // The operation is made for one call, so this is the first and only one.
        self.log_sums.get_or_init(|| log_sums);
        Ok((CpuStorage::F32(logps), rows.into()))
    }

    fn bwd(
        &self,
        hidden: &Tensor,
        weight: &Tensor,
        targets: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (rows, width) = hidden.dims2()?;
        let vocab = weight.dim(0)?;
        let Some(log_sums) = self.log_sums.get() else {
            candle_core::bail!("linear-logps: backward before forward");
        };
        let grad = grad.contiguous()?;
        let targets = targets.to_vec1::<u32>()?;
        let (tracks_hidden, tracks_weight) = (hidden.track_op(), weight.track_op());
        let mut hidden_grad = vec![0.0; if tracks_hidden { rows * width } else { 0 }];
        let mut weight_grad = vec![0.0; if tracks_weight { vocab * width } else { 0 }];
        {
            bind_slice!(hidden, hidden);
            bind_slice!(weight, weight);
            bind_slice!(grad, grad);
            let weight = Matrix::new(weight, vocab, width);
            let block = rows_per_block(vocab);
            let mut logits = vec![0.0; block.min(rows) * vocab];
            for start in (0..rows).step_by(block) {
                let count = block.min(rows - start);
                let end = start + count;
                let logits = &mut logits[..count * vocab];
                let hidden = Matrix::new(&hidden[start * width..end * width], count, width);
                matmul(logits, hidden, weight.transposed(), false);
                logits
                    .par_chunks_mut(vocab)
                    .zip(&targets[start..end])
                    .zip(log_sums[start..end].par_iter().zip(&grad[start..end]))
                    .with_min_len(16)
                    .for_each(|((logits, target), (log_sum, grad))| {
                        for logit in logits.iter_mut() {
                            *logit = -grad * exp(*logit - log_sum);
                        }
                        logits[*target as usize] += grad;
                    });
                let logit_grad = Matrix::new(logits, count, vocab);
                if tracks_hidden {
                    let out = &mut hidden_grad[start * width..end * width];
                    matmul(out, logit_grad, weight, false);
                }
                if tracks_weight {
                    matmul(&mut weight_grad, logit_grad.transposed(), hidden, true);
                }
            }
        }
        let hidden_grad = tracks_hidden.then(|| slices::tensor(hidden_grad, hidden));
        let weight_grad = tracks_weight.then(|| slices::tensor(weight_grad, weight));
        Ok((hidden_grad.transpose()?, weight_grad.transpose()?, None))
    }
}
