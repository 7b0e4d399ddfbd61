//! Dropout that can be replayed: whether an element is dropped is a function
//! of a seed, the tensor it meets and its position, so that a recomputed
//! forward pass drops the same ones.

use rayon::prelude::*;
use spin_noise::mix;

use crate::init::tensor_key;

/// Numbers that one parallel task works on.
const CHUNK: usize = 1 << 14;

/// Which elements are dropped.
pub(crate) struct Mask {
    pub key: u64,
    /// Elements whose 32 random bits are below this are dropped.
    pub threshold: u32,
    /// What the others are multiplied with: 1 / (1 - rate).
    pub kept: f32,
}

impl Mask {
    /// `None` if nothing is dropped.
    pub fn new(rate: f64, seed: u64, name: &str) -> Option<Self> {
        (rate > 0.0).then(|| Self {
            key: tensor_key(seed, name),
            threshold: (rate * 4_294_967_296.0) as u32,
            kept: (1.0 / (1.0 - rate)) as f32,
        })
    }

    fn factor(&self, index: u64) -> f32 {
        if (mix(self.key ^ mix(index)) as u32) < self.threshold { 0.0 } else { self.kept }
    }

    /// Drops and scales elements in place.
    pub fn apply(&self, values: &mut [f32]) {
        values.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, values)| {
            for (at, value) in values.iter_mut().enumerate() {
                *value *= self.factor((chunk * CHUNK + at) as u64);
            }
        });
    }

    /// The factors of the first `len` elements.
    pub fn factors(&self, len: usize) -> Vec<f32> {
        let mut factors = vec![1.0; len];
        self.apply(&mut factors);
        factors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_dropped_and_the_mean_stays() {
        assert!(Mask::new(0.0, 1, "a").is_none());
        let factors = Mask::new(0.25, 1, "a").unwrap().factors(100_000);
        let dropped = factors.iter().filter(|factor| **factor == 0.0).count();
        assert!((24_400..25_600).contains(&dropped), "{dropped}");
        assert!(factors.iter().all(|factor| *factor == 0.0 || (*factor - 4.0 / 3.0).abs() < 1e-6));
        assert_eq!(factors[..50], Mask::new(0.25, 1, "a").unwrap().factors(50)[..]);
        assert_ne!(factors[..50], Mask::new(0.25, 2, "a").unwrap().factors(50)[..]);
        assert_ne!(factors[..50], Mask::new(0.25, 1, "b").unwrap().factors(50)[..]);
    }
}
