//! Numbers that look random and follow from a key and a counter.
//!
//! Every weight, mask, token, order of rows and pause of this workspace that is
//! drawn is drawn from here, so that what was drawn does not depend on the
//! machine, on the number of threads or on what was drawn before. Integer
//! arithmetic alone: no two processors can disagree. **These numbers are a
//! promise**: published weights and samples follow from them, and a change of
//! any would be another behaviour of every stage that draws.
//!
//! The generator is SplitMix64: G. L. Steele, D. Lea and C. H. Flood, "Fast
//! splittable pseudorandom number generators", OOPSLA 2014, with the finaliser
//! that D. Stafford published as Mix13. Its n-th number is [`finalize`] of
//! `state + n * WEYL`, so that a counter can stand in place of a sequence. Not
//! for secrets: it can be run backwards.

/// What the state of SplitMix64 grows by: 2⁶⁴/φ, made odd.
pub const WEYL: u64 = 0x9E37_79B9_7F4A_7C15;

/// SplitMix64's finaliser (Stafford's Mix13): a bijection of 64 bits in which
/// every bit of the argument reaches every bit of the result. It keeps 0.
#[inline(always)]
pub const fn finalize(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The next number of SplitMix64 in a state; as a function of its argument, a
/// hash of 64 bits.
#[inline(always)]
pub const fn mix(state: u64) -> u64 {
    finalize(state.wrapping_add(WEYL))
}

/// The number at `index`, counted from 0, of the sequence that begins in
/// `state`, without those before it.
#[inline(always)]
pub const fn nth(state: u64, index: u64) -> u64 {
    finalize(state.wrapping_add(index.wrapping_add(1).wrapping_mul(WEYL)))
}

/// FNV-1a of 64 bits: the key of a name (G. Fowler, L. C. Noll, K.-P. Vo and
/// others, 1991; isthe.com/chongo/tech/comp/fnv).
pub fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3))
}

/// A number below `n` from 64 random bits, by the high half of their product
/// (D. Lemire, "Fast random integer generation in an interval", 2019, without
/// the rejection: the bias is below n / 2⁶⁴). 0 for `n` = 0.
#[inline]
pub const fn below(bits: u64, n: u64) -> u64 {
    ((bits as u128 * n as u128) >> 64) as u64
}

/// A number in [0, 1) with 53 bits from 64 random ones.
#[inline]
pub const fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

/// The numbers of SplitMix64 one after the other, for what is drawn in a fixed
/// order.
#[derive(Clone, Debug)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// The sequence that begins in `state`.
    pub const fn new(state: u64) -> SplitMix64 {
        SplitMix64(state)
    }

    /// The next 64 bits.
    #[inline]
    pub const fn next_u64(&mut self) -> u64 {
        let bits = mix(self.0);
        self.0 = self.0.wrapping_add(WEYL);
        bits
    }

    /// The next number below `n`.
    #[inline]
    pub const fn below(&mut self, n: u64) -> u64 {
        below(self.next_u64(), n)
    }

    /// The numbers below `n` in the order that the next numbers give: R. A.
    /// Fisher and F. Yates, from the last place to the second.
    pub fn permutation(mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(i as u64 + 1) as usize);
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What S. Vigna's splitmix64.c (prng.di.unimi.it, 2015) prints.
    #[test]
    fn splitmix64_is_the_published_one() {
        let first = |state, n| -> Vec<u64> {
            let mut numbers = SplitMix64::new(state);
            (0..n).map(|_| numbers.next_u64()).collect()
        };
        assert_eq!(
            first(0, 4),
            [0xE220_A839_7B1D_CDAF, 0x6E78_9E6A_A1B9_65F4, 0x06C4_5D18_8009_454F, 0xF88B_B8A8_724C_81EC]
        );
        assert_eq!(
            first(1_234_567, 5),
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423,
                4_593_380_528_125_082_431,
                16_408_922_859_458_223_821
            ]
        );
    }

    #[test]
    fn a_counter_finds_what_a_sequence_gives() {
        for state in [0, 7, u64::MAX - 3] {
            let mut numbers = SplitMix64::new(state);
            for index in 0..100 {
                assert_eq!(numbers.next_u64(), nth(state, index), "{state} {index}");
            }
            assert_eq!(mix(state), nth(state, 0));
        }
        assert_eq!(nth(WEYL.wrapping_neg(), 0), finalize(0));
        assert_eq!(finalize(0), 0);
    }

    /// Vectors of the authors' test suite.
    #[test]
    fn fnv1a_is_the_published_one() {
        for (text, hash) in
            [("", 0xCBF2_9CE4_8422_2325), ("a", 0xAF63_DC4C_8601_EC8C), ("foobar", 0x8594_4171_F739_67E8)]
        {
            assert_eq!(fnv1a(text), hash, "{text:?}");
        }
    }

    #[test]
    fn numbers_stay_in_their_ranges() {
        assert_eq!((below(0, 6), below(u64::MAX, 6), below(1 << 63, 6), below(u64::MAX, 0)), (0, 5, 3, 0));
        assert_eq!((unit(0), unit(1 << 63)), (0.0, 0.5));
        assert_eq!(unit(u64::MAX), 1.0 - f64::EPSILON / 2.0);
    }
}
