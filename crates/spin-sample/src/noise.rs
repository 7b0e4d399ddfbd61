//! Counter-based noise: a number depends on its key and its counters, not on
//! how many were drawn before.

use spin_noise::{WEYL, finalize, nth};

/// The noise of one sample of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key([u64; 2]);

impl Key {
    /// The key of (run seed, stream, row id, sample index). `stream` tells
    /// the uses apart: an iteration, or the benchmark.
    pub fn new(seed: u64, stream: &str, row_id: &str, sample_index: u32) -> Key {
        let mut hasher = blake3::Hasher::new_derive_key("spin-sample noise v1");
        hasher.update(&seed.to_le_bytes());
        hasher.update(&(stream.len() as u64).to_le_bytes());
        hasher.update(stream.as_bytes());
        hasher.update(&(row_id.len() as u64).to_le_bytes());
        hasher.update(row_id.as_bytes());
        hasher.update(&sample_index.to_le_bytes());
        let bytes = hasher.finalize();
        let word = |i: usize| u64::from_le_bytes(bytes.as_bytes()[i..i + 8].try_into().expect("8 bytes"));
        Key([word(0), word(8)])
    }

    /// The noise of the `step`-th token.
    pub fn step(self, step: u64) -> StepNoise {
        StepNoise(finalize(self.0[0] ^ finalize(self.0[1].wrapping_add(step.wrapping_mul(WEYL)))))
    }
}

/// The noise of one step: a SplitMix64 sequence indexed by token id.
#[derive(Clone, Copy, Debug)]
pub struct StepNoise(u64);

impl StepNoise {
    fn bits(self, token: u64) -> u64 {
        nth(self.0, token)
    }

    /// Uniform on the open interval (0, 1), with 52 bits: with one more the
    /// largest would round to 1.
    pub fn uniform(self, token: u64) -> f64 {
        ((self.bits(token) >> 12) as f64 + 0.5) / (1u64 << 52) as f64
    }

    /// A number that 1 − [`uniform`](Self::uniform) is larger than, by at most
    /// 2⁻²⁴; cheap, as all of it is exact in f32.
    #[inline(always)]
    pub fn one_minus_at_least(self, token: u64) -> f32 {
        const LARGEST: i32 = (1 << 24) - 1;
        let high = (self.bits(token) >> 40) as i32;
        (LARGEST - high) as f32 * (1.0 / (1 << 24) as f32)
    }

    /// Standard Gumbel: −ln(−ln U).
    pub fn gumbel(self, token: u64) -> f64 {
        -(-self.uniform(token).ln()).ln()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By an implementation of its own in Python: published samples follow from these.
    #[test]
    fn numbers_are_the_published_ones() {
        let key = Key([1, 2]);
        assert_eq!((key.step(0).0, key.step(3).0), (0x3EC2_D42F_3A45_CC6E, 0x9DF8_2B5E_CED9_E621));
        assert_eq!(key.step(3).bits(5), 0x3BC9_1C3C_25C4_E523);
        assert_eq!(key.step(3).uniform(5), 0.233_537_449_535_805_69);
    }

    #[test]
    fn keys_and_counters_all_matter() {
        let base = Key::new(1, "iter-0", "a", 0);
        let draw = |k: Key, s: u64, t: u64| k.step(s).uniform(t);
        let reference = draw(base, 0, 0);
        assert_eq!(reference, draw(Key::new(1, "iter-0", "a", 0), 0, 0));
        for other in [
            draw(Key::new(2, "iter-0", "a", 0), 0, 0),
            draw(Key::new(1, "iter-1", "a", 0), 0, 0),
            draw(Key::new(1, "iter-0", "b", 0), 0, 0),
            draw(Key::new(1, "iter-0", "a", 1), 0, 0),
            draw(base, 1, 0),
            draw(base, 0, 1),
        ] {
            assert_ne!(reference, other);
        }
        // The stream and the row id cannot run into each other.
        assert_ne!(Key::new(1, "ab", "c", 0), Key::new(1, "a", "bc", 0));
    }

    #[test]
    fn uniforms_are_uniform() {
        let key = Key::new(7, "test", "row", 0);
        let n = 200_000u64;
        let mut bins = [0u32; 20];
        let mut product = 0.0;
        for i in 0..n {
            let step = key.step(i / 100);
            let u = step.uniform(i % 100);
            assert!(u > 0.0 && u < 1.0);
            bins[(u * 20.0) as usize] += 1;
            product += (u - 0.5) * (step.uniform(i % 100 + 1) - 0.5);
        }
        let expected = n as f64 / 20.0;
        let chi2: f64 = bins.iter().map(|&b| (f64::from(b) - expected).powi(2) / expected).sum();
        // 19 degrees of freedom: the 99.99% point is 50.8.
        assert!(chi2 < 50.8, "chi2 {chi2}");
        // Correlation of neighbours, in units of its standard error.
        let z = product / n as f64 * 12.0 * (n as f64).sqrt();
        assert!(z.abs() < 4.0, "z {z}");
        for token in 0..n {
            let rest = 1.0 - StepNoise(5).uniform(token) - f64::from(StepNoise(5).one_minus_at_least(token));
            assert!(rest > 0.0 && rest <= 1.0 / f64::from(1 << 24), "{rest}");
        }
    }
}
