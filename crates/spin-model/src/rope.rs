//! Rotary position embeddings (Su et al. 2021) in the half-split layout of
//! Hugging Face: dimension `i` is rotated together with `i + dim / 2`.

use candle_core::{DType, Device, Result, Tensor};

use crate::config::RopeConfig;

/// Cosines and sines of the rotation of every position, `[length, dim / 2]`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RopeTable {
    pub half: usize,
    pub cos: Vec<f32>,
    pub sin: Vec<f32>,
}

impl RopeTable {
    /// The table for positions `0..length`.
    pub fn new(config: &RopeConfig, length: usize) -> Self {
        let frequencies = config.frequencies();
        let angles =
            (0..length).flat_map(|position| frequencies.iter().map(move |frequency| position as f32 * frequency));
        let (sin, cos) = angles.map(f32::sin_cos).unzip();
        Self { half: frequencies.len(), cos, sin }
    }

    /// Cosines and sines as tensors `[length, dim / 2]`.
    pub fn tensors(&self, length: usize, device: &Device, dtype: DType) -> Result<(Tensor, Tensor)> {
        let tensor = |values: &[f32]| {
            Tensor::from_slice(&values[..length * self.half], (length, self.half), device)?.to_dtype(dtype)
        };
        Ok((tensor(&self.cos)?, tensor(&self.sin)?))
    }

    /// Rotates one head in place. `direction` is 1, or -1 for the inverse,
    /// which is also the gradient, as rotations are orthogonal.
    #[inline]
    pub fn rotate(&self, head: &mut [f32], position: usize, direction: f32) {
        let at = position * self.half;
        let cos = &self.cos[at..at + self.half];
        let sin = &self.sin[at..at + self.half];
        let (first, second) = head[..2 * self.half].split_at_mut(self.half);
        for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
            let sin = sin * direction;
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
}
