//! What tests of gradients share: numbers, and slopes by finite differences.

/// Numbers of about unit size that are the same everywhere.
pub(crate) fn numbers(seed: u64, count: usize) -> Vec<f32> {
    crate::init::standard_normal(seed, "test", count)
}

/// The sum of products.
pub(crate) fn weigh(values: &[f32], weights: &[f32]) -> f64 {
    values.iter().zip(weights).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// Checks `grad`, the gradient of `f` at `x`, along random directions.
pub(crate) fn check(what: &str, x: &[f32], grad: &[f32], f: impl Fn(&[f32]) -> f64) {
    assert_eq!(x.len(), grad.len());
    let norm = weigh(grad, grad).sqrt();
    assert!(norm > 0.0, "{what}: no gradient");
    for seed in 0..4 {
        let direction = numbers(1_000 + seed, x.len());
        let size = weigh(&direction, &direction).sqrt();
        let step = 2e-2 / size.max(1.0);
        let moved = |by: f64| {
            let x: Vec<f32> =
                x.iter().zip(&direction).map(|(x, d)| (f64::from(*x) + by * f64::from(*d)) as f32).collect();
            f(&x)
        };
        let slope = (moved(step) - moved(-step)) / (2.0 * step);
        let expected = weigh(grad, &direction);
        // Along a random direction the slope is about the gradient's norm.
        assert!((slope - expected).abs() < 5e-3 * norm.max(expected.abs()), "{what}: {slope} for {expected} ({norm})");
    }
}
