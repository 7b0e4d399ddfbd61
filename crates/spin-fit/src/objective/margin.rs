//! Functions of the margin: convex, decreasing, with a negative slope at 0
//! (Chen et al. 2024, Assumption 5.1).

/// A value with its derivative.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slope {
    /// The value.
    pub value: f64,
    /// The derivative.
    pub slope: f64,
}

/// log(1 + e^-t), which is -log sigmoid(t).
pub fn logistic(t: f64) -> Slope {
    // The larger exponent stands outside, so that nothing overflows.
    let small = (-t.abs()).exp();
    let value = small.ln_1p() + if t < 0.0 { -t } else { 0.0 };
    let slope = -(if t >= 0.0 { small } else { 1.0 }) / (1.0 + small);
    Slope { value: if t.is_nan() { t } else { value }, slope: if t.is_nan() { t } else { slope } }
}

/// max(0, 1 - t); at the kink the slope is 0, as torch's relu.
pub fn hinge(t: f64) -> Slope {
    if t < 1.0 {
        Slope { value: 1.0 - t, slope: -1.0 }
    } else if t >= 1.0 {
        Slope { value: 0.0, slope: 0.0 }
    } else {
        Slope { value: f64::NAN, slope: f64::NAN }
    }
}

/// The margin below which [`exponential`] goes on along its tangent. e^60 is
/// 10²⁶: far beyond any useful loss, and far from the end of f32, in which
/// gradients are.
pub const EXPONENTIAL_TANGENT: f64 = -60.0;

/// e^-t, continued along its tangent below [`EXPONENTIAL_TANGENT`].
pub fn exponential(t: f64) -> Slope {
    let start = if t < EXPONENTIAL_TANGENT { EXPONENTIAL_TANGENT } else { t };
    let value = (-start).exp();
    Slope { value: value * (1.0 + start - t), slope: -value }
}

/// 1 - t: no lower bound.
pub fn correlation(t: f64) -> Slope {
    Slope { value: 1.0 - t, slope: if t.is_nan() { t } else { -1.0 } }
}
