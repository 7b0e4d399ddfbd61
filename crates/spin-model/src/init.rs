//! Fresh weights that are the same on every machine.
//!
//! candle's CPU generator cannot be seeded. Here every number is a function of
//! (seed, tensor name, position) through integer mixing and IEEE arithmetic
//! that rounds alike everywhere; even the logarithm is our own, because
//! mathematical libraries differ in the last digit.

use spin_noise::{fnv1a, mix};

/// Standard normal numbers for one tensor.
pub(crate) fn standard_normal(seed: u64, name: &str, len: usize) -> Vec<f32> {
    let key = tensor_key(seed, name);
    (0..len as u64).map(|index| normal_at(key, index) as f32).collect()
}

/// Numbers spread evenly over (-1, 1) for one tensor.
pub(crate) fn uniform(seed: u64, name: &str, len: usize) -> Vec<f32> {
    let key = tensor_key(seed, name);
    (0..len as u64).map(|index| signed_unit((mix(key ^ mix(index)) >> 32) as u32) as f32).collect()
}

/// Mixes the seed with the name, so that a tensor's weights do not depend on
/// which other tensors a model has.
pub(crate) fn tensor_key(seed: u64, name: &str) -> u64 {
    mix(mix(seed) ^ fnv1a(name))
}

/// Marsaglia's polar method; a rejected attempt moves on to the next counter
/// of the same position, so positions stay independent.
fn normal_at(key: u64, index: u64) -> f64 {
    let base = mix(key ^ mix(index));
    let mut attempt = 0_u64;
    loop {
        let bits = mix(base.wrapping_add(attempt));
        let x = signed_unit((bits >> 32) as u32);
        let y = signed_unit(bits as u32);
        let square = x * x + y * y;
        if square < 1.0 && square > 0.0 {
            return x * (-2.0 * natural_log(square) / square).sqrt();
        }
        attempt += 1;
    }
}

/// Maps 32 bits to the open interval (-1, 1), symmetric around 0.
fn signed_unit(bits: u32) -> f64 {
    (f64::from(bits) + 0.5) / 2_147_483_648.0 - 1.0
}

/// ln(x) for positive normal x: x = m * 2^e with m in [1, 2), and
/// ln(m) = 2 artanh((m - 1) / (m + 1)) by its series.
fn natural_log(x: f64) -> f64 {
    let bits = x.to_bits();
    let exponent = ((bits >> 52) as i64 - 1023) as f64;
    let mantissa = f64::from_bits((bits & 0x000f_ffff_ffff_ffff) | 0x3ff0_0000_0000_0000);
    let ratio = (mantissa - 1.0) / (mantissa + 1.0);
    let square = ratio * ratio;
    // (1/3)^2 to the 20th power is below f64's resolution.
    let mut sum = 0.0;
    for term in (0..20).rev() {
        sum = sum * square + 1.0 / f64::from(2 * term + 1);
    }
    2.0 * ratio * sum + exponent * std::f64::consts::LN_2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_logarithm_agrees_with_the_library() {
        for x in [1e-12, 0.3, 0.5, 0.999_999, 1.0, 1.7, 1e9] {
            let difference = (natural_log(x) - f64::ln(x)).abs();
            assert!(difference <= 1e-15 * f64::ln(x).abs().max(1.0), "{x}: {difference}");
        }
    }

    /// By an implementation of its own in Python: published weights follow from these bits.
    #[test]
    fn numbers_are_the_published_ones() {
        let bits = |numbers: Vec<f32>| numbers.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(standard_normal(7, "a", 4)), [0xbc29_229e, 0x3ed5_8781, 0xbe9b_c3b1, 0x3f68_c49f]);
        assert_eq!(bits(uniform(7, "a", 4)), [0x3de9_bc37, 0xbf57_5a66, 0xbec2_16a4, 0x3f1e_5c8f]);
    }

    #[test]
    fn numbers_are_normal_and_keyed_by_seed_and_name() {
        let numbers = standard_normal(7, "a", 100_000);
        let mean = numbers.iter().map(|x| f64::from(*x)).sum::<f64>() / 1e5;
        let variance = numbers.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / 1e5;
        let beyond_two = numbers.iter().filter(|x| x.abs() > 2.0).count();
        assert!(mean.abs() < 0.01, "{mean}");
        assert!((variance - 1.0).abs() < 0.02, "{variance}");
        assert!((4_300..4_800).contains(&beyond_two), "{beyond_two}");
        assert_eq!(numbers[..10], standard_normal(7, "a", 10)[..]);
        assert_ne!(numbers[..10], standard_normal(8, "a", 10)[..]);
        assert_ne!(numbers[..10], standard_normal(7, "b", 10)[..]);
    }
}
