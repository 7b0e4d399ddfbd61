//! Rotary position embeddings (Su et al. 2021) in the half-split layout of
//! Hugging Face's Llama: dimension `i` is rotated together with `i + dim / 2`.

use candle_core::{DType, Device, Result, Tensor};

/// Cosines and sines of the rotation of every position, `[length, dim / 2]`.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeTable {
    pub(super) half: usize,
    pub(super) cos: Vec<f32>,
    pub(super) sin: Vec<f32>,
}

impl RopeTable {
    /// The table for positions `0..length` of heads of even width `head_dim`.
    ///
    /// Angles are rounded to f32 where transformers rounds them.
    pub fn new(head_dim: usize, length: usize, theta: f64) -> Self {
        let half = head_dim / 2;
        let frequencies: Vec<f32> =
            (0..half).map(|i| 1.0 / theta.powf((2 * i) as f64 / head_dim as f64) as f32).collect();
        let angles =
            (0..length).flat_map(|position| frequencies.iter().map(move |frequency| position as f32 * frequency));
        let (sin, cos) = angles.map(f32::sin_cos).unzip();
        Self { half, cos, sin }
    }

    /// Number of positions.
    pub fn len(&self) -> usize {
        self.cos.len() / self.half.max(1)
    }

    /// Whether there are no positions.
    pub fn is_empty(&self) -> bool {
        self.cos.is_empty()
    }

    /// Cosines and sines as tensors `[length, dim / 2]`.
    pub(super) fn tensors(&self, length: usize, device: &Device, dtype: DType) -> Result<(Tensor, Tensor)> {
        let tensor = |values: &[f32]| {
            Tensor::from_slice(&values[..length * self.half], (length, self.half), device)?.to_dtype(dtype)
        };
        Ok((tensor(&self.cos)?, tensor(&self.sin)?))
    }

    /// Rotates one head in place. `direction` is 1, or -1 for the inverse,
    /// which is also the gradient, as rotations are orthogonal.
    #[inline]
    pub(super) fn rotate(&self, head: &mut [f32], position: usize, direction: f32) {
        let at = position * self.half;
        let cos = &self.cos[at..at + self.half];
        let sin = &self.sin[at..at + self.half];
        let (first, second) = head.split_at_mut(self.half);
        for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
            let sin = sin * direction;
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
}
