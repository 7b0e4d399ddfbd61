//! Python's `random.Random`: few-shot examples are drawn by it, so scores can
//! only be equal if every draw is; so are the resamples of a bootstrap, whose
//! p-values have been printed.
//!
//! Source: CPython 3.11, `Lib/random.py`. The generator itself, Matsumoto and
//! Nishimura's MT19937, is RustPython's.

use mt19937::{MT19937, gen_res53};
use rand_core::Rng as _;

/// A Mersenne Twister, seeded and read as Python does.
pub struct PyRandom(MT19937);

impl PyRandom {
    /// `random.Random(seed)` for a seed below 2^32.
    pub fn new(seed: u32) -> Self {
        Self(MT19937::new_with_slice_seed(&[seed]))
    }

    /// `getrandbits(bits)` for 1 to 32 bits.
    pub fn bits(&mut self, bits: u32) -> u32 {
        self.0.next_u32() >> (32 - bits)
    }

    /// `random()`: a number in [0, 1) with 53 bits.
    pub fn random(&mut self) -> f64 {
        gen_res53(&mut self.0)
    }

    /// `_randbelow(n)`: a whole number below `n`, by rejection.
    ///
    /// # Panics
    /// When `n` is 0 or beyond 32 bits.
    pub fn below(&mut self, n: usize) -> usize {
        let n = u32::try_from(n).expect("no data set has 2^32 rows");
        assert!(n > 0, "nothing is below 0");
        let bits = 32 - n.leading_zeros();
        loop {
            let r = self.bits(bits);
            if r < n {
                return r as usize;
            }
        }
    }

    /// `shuffle(items)`.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let j = self.below(i + 1);
            items.swap(i, j);
        }
    }

    /// The indices that `sample(population, k)` takes from a population of
    /// `n`, or `None` where Python raises because `k > n`.
    pub fn sample(&mut self, n: usize, k: usize) -> Option<Vec<usize>> {
        if k > n {
            return None;
        }
        // Python keeps a list of what is left for small populations and a set
        // of what was taken for large ones; they consume the generator
        // differently.
        let mut set_size = 21;
        if k > 5 {
            set_size += 4_usize.pow((3.0 * k as f64).log(4.0).ceil() as u32);
        }
        let mut taken = Vec::with_capacity(k);
        if n <= set_size {
            let mut pool: Vec<usize> = (0..n).collect();
            for i in 0..k {
                let j = self.below(n - i);
                taken.push(pool[j]);
                pool[j] = pool[n - i - 1];
            }
        } else {
            let mut seen = std::collections::HashSet::with_capacity(k);
            for _ in 0..k {
                let mut j = self.below(n);
                while !seen.insert(j) {
                    j = self.below(n);
                }
                taken.push(j);
            }
        }
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_what_python_draws() {
        let mut rng = PyRandom::new(1234);
        let bits: Vec<u32> = (0..8).map(|_| rng.bits(32)).collect();
        assert_eq!(bits, [4150886329, 3342196574, 1892932127, 501869158, 32175636, 389311301, 3912611952, 4048155970]);
        let mut rng = PyRandom::new(42);
        assert_eq!(rng.random(), 0.6394267984578837);
        assert_eq!(rng.random(), 0.025010755222666936);
        assert_eq!(rng.random(), 0.27502931836911926);
        let mut items: Vec<u32> = (0..20).collect();
        PyRandom::new(42).shuffle(&mut items);
        assert_eq!(items, [19, 5, 14, 4, 9, 13, 15, 18, 6, 12, 17, 10, 1, 11, 2, 16, 7, 8, 0, 3]);
        assert_eq!(PyRandom::new(1234).sample(10, 3).unwrap(), [7, 1, 0]);
        let many = PyRandom::new(1234).sample(1119, 25).unwrap();
        assert_eq!(many[..6], [902, 239, 15, 185, 71, 171]);
        assert_eq!(many[22..], [511, 132, 1108]);
        assert_eq!(PyRandom::new(1).sample(3, 4), None);
    }
}
