//! Model FLOP utilisation: the share of the machine's peak that the model's
//! own arithmetic takes (Chowdhery et al. 2022, PaLM, appendix B).

use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use half::bf16;
use spin_model::{CausalLm, bf16_square};

use crate::data::Example;
use crate::error::Result;

/// Counts the floating-point operations of training a model.
///
/// A token of a sequence of T tokens costs 6 N + 12 L H Q T in forward and
/// backward pass, with N the weights of the blocks, L layers, H heads of width
/// Q. Causality is not subtracted and recomputation not added, as the paper
/// has it. The output projection is counted beside that, for the tokens of
/// answers alone: 6 V D for vocabulary V and width D. A prompt counts with
/// each of its answers, also where it is computed once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ModelFlops {
    per_token: f64,
    per_token_and_length: f64,
    per_response_token: f64,
}

impl ModelFlops {
    /// Of a model.
    pub fn new(model: &CausalLm) -> ModelFlops {
        let config = model.config();
        let table = |name: &str| name.ends_with("embed_tokens.weight") || name.ends_with("lm_head.weight");
        let blocks = model.params().iter().filter(|(name, _)| !table(name)).map(|(_, var)| var.elem_count());
        // Frozen weights take no gradient of their own; an adapter's own
        // arithmetic is not counted.
        let passes = if model.adapter().is_some() { 4.0 } else { 6.0 };
        let heads = config.num_hidden_layers * config.num_attention_heads * config.head_dim;
        ModelFlops {
            per_token: passes * blocks.sum::<usize>() as f64,
            per_token_and_length: 12.0 * heads as f64,
            per_response_token: passes * (config.vocab_size * config.hidden_size) as f64,
        }
    }

    /// Of an update over `rows`.
    pub fn of_rows(&self, rows: &[&Example]) -> f64 {
        let of = |prompt: usize, answer: usize| {
            let tokens = (prompt + answer) as f64;
            tokens * (self.per_token + self.per_token_and_length * tokens) + answer as f64 * self.per_response_token
        };
        rows.iter().flat_map(|e| e.answers().map(|answer| of(e.prompt_ids.len(), answer.len()))).sum()
    }
}

/// Measures the peak of matrix products in FLOP per second: the best of a few
/// square ones, which takes about a tenth of a second. On the CPU they are of
/// bf16 numbers, summed in f32, or of f32 whatever else the weights are. A machine that is busy with other work, or
/// whose clock moves, shows a peak that is too low.
///
/// # Errors
/// When the device has no memory for them.
pub fn measure_peak(device: &Device, dtype: DType) -> Result<f64> {
    let rounded = device.is_cpu() && dtype == DType::BF16;
    let (size, dtype) = if device.is_cpu() { (768, DType::F32) } else { (8192, dtype) };
    // Not zeros, which some devices multiply with less power and so faster.
    let matrix = Tensor::full(0.37f32, (size, size), device)?.to_dtype(dtype)?.contiguous()?;
    let rounded = rounded.then(|| vec![bf16::from_f32(0.37); size * size]);
    let mut best = f64::INFINITY;
    for _ in 0..6 {
        let start = Instant::now();
        match &rounded {
            Some(rounded) => drop(bf16_square(rounded, size)),
            None => drop(matrix.matmul(&matrix)?),
        }
        device.synchronize()?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(2.0 * (size as f64).powi(3) / best.max(1e-9))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn a_rows_flops_are_those_counted_by_hand() {
        let model = testing::model();
        let config = model.config().clone();
        let row = testing::pair(0, 5, 3, 4);
        let all: usize = model.params().values().map(|var| var.elem_count()).sum();
        let tables = config.vocab_size * config.hidden_size * if config.tie_word_embeddings { 1 } else { 2 };
        let (n, lhq) =
            ((all - tables) as f64, (config.num_hidden_layers * config.num_attention_heads * config.head_dim) as f64);
        let head = 6.0 * (config.vocab_size * config.hidden_size) as f64;
        let sequence = |tokens: f64, answer: f64| 6.0 * n * tokens + 12.0 * lhq * tokens * tokens + head * answer;
        let expected = sequence(8.0, 3.0) + sequence(9.0, 4.0);
        assert_eq!(ModelFlops::new(&model).of_rows(&[&row]), expected);
    }
}
