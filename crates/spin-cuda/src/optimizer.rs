//! `squared_norm.cu` and `optimizer.cu`: the norm of gradients, and steps on f32 masters.

use half::bf16;

use crate::call::{Call, Runner};
use crate::error::Result;
use crate::memory::{View, ViewMut};

const THREADS: u32 = 256;
/// Numbers whose squares one block adds.
pub const CHUNK: usize = 1 << 14;

/// Sums of squares that a tensor of `len` numbers gives.
pub fn squared_norm_parts(len: usize) -> usize {
    len.div_ceil(CHUNK)
}

/// The sums of squares of the chunks of `values`, in f64; those of several tensors go side by side.
///
/// # Errors
///
/// If shapes do not fit or the device refuses; likewise for the others.
pub fn squared_norm(on: &(impl Runner + ?Sized), values: View<'_, f32>, parts: &mut ViewMut<'_, f64>) -> Result<()> {
    let (kernel, count) = ("squared_norm_parts", squared_norm_parts(values.len()));
    parts.check(kernel, "parts", count)?;
    let call = Call::new(kernel, [count, 1, 1], [THREADS, 1, 1])?.read(values).write(parts);
    call.u64(values.len() as u64).count(CHUNK)?.on(on)
}

/// From the sums of all chunks of all gradients their norm, and what they are to be multiplied with so that it is at
/// most `max_norm` (1 where it is, where it is not finite, or where `max_norm` is 0), on the device.
///
/// # Errors
///
/// As [`squared_norm`].
pub fn clip_factor(
    on: &(impl Runner + ?Sized),
    parts: View<'_, f64>,
    norm: &mut ViewMut<'_, f64>,
    factor: &mut ViewMut<'_, f32>,
    max_norm: f64,
) -> Result<()> {
    let kernel = "clip_factor";
    norm.check(kernel, "norm", 1)?;
    factor.check(kernel, "factor", 1)?;
    let call = Call::new(kernel, [1, 1, 1], [THREADS, 1, 1])?.read(parts).write(norm).write(factor);
    call.count(parts.len())?.f64(max_norm).on(on)
}

/// AdamW (`spin-fit/src/optim/rule.rs`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Decay of the running means of gradients and of their squares.
    pub betas: [f64; 2],
    /// Added to the root of the mean square.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}

/// RMSProp (`spin-fit/src/optim/rule.rs`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RmsProp {
    /// Decay of the running mean of squares.
    pub alpha: f64,
    /// Added to the root of the mean square.
    pub eps: f64,
    /// L2 penalty, added to the gradient.
    pub weight_decay: f64,
}

/// What a step changes, and what it is given: all of one length.
#[derive(Debug)]
pub struct Weights<'a> {
    /// The f32 weights.
    pub masters: ViewMut<'a, f32>,
    /// Their gradients.
    pub grads: View<'a, f32>,
    /// The running mean of squares.
    pub squares: ViewMut<'a, f32>,
    /// Where the weights are bf16: the masters, rounded.
    pub rounded: Option<ViewMut<'a, bf16>>,
    /// What gradients are multiplied with first, of [`clip_factor`].
    pub factor: Option<View<'a, f32>>,
}

impl Weights<'_> {
    fn check(&self, kernel: &'static str) -> Result<usize> {
        let len = self.masters.len();
        self.grads.check(kernel, "grads", len)?;
        self.squares.check(kernel, "squares", len)?;
        self.rounded.as_ref().map_or(Ok(()), |rounded| rounded.check(kernel, "rounded", len))?;
        self.factor.map_or(Ok(()), |factor| factor.check(kernel, "factor", 1))?;
        Ok(len)
    }
}

/// One step of AdamW with the running means of gradients `means`; `step` counts from 1.
///
/// # Errors
///
/// As [`squared_norm`].
pub fn adamw(
    on: &(impl Runner + ?Sized),
    rule: &AdamW,
    step: u32,
    lr: f64,
    weights: &mut Weights<'_>,
    means: &mut ViewMut<'_, f32>,
) -> Result<()> {
    let kernel = "adamw";
    let len = weights.check(kernel)?;
    means.check(kernel, "means", len)?;
    let [first, second] = rule.betas.map(|beta| 1.0 - beta.powi(step as i32));
    let [first_rest, second_rest] = rule.betas.map(|beta| (1.0 - beta) as f32);
    let call = Call::strided(kernel, len.div_ceil(4), THREADS)?.write(&weights.masters).read(weights.grads);
    let call = call.write(means).write(&weights.squares);
    let call = call.read_any(weights.rounded.as_ref().map(ViewMut::as_view)).read_any(weights.factor);
    let call = call.u64(len as u64).f32((lr / first) as f32).f32(second.sqrt() as f32);
    let call = call.f32((1.0 - lr * rule.weight_decay) as f32).f32(first_rest).f32(rule.betas[1] as f32);
    call.f32(second_rest).f32(rule.eps as f32).on(on)
}

/// One step of RMSProp.
///
/// # Errors
///
/// As [`squared_norm`].
pub fn rmsprop(on: &(impl Runner + ?Sized), rule: &RmsProp, lr: f64, weights: &mut Weights<'_>) -> Result<()> {
    let kernel = "rmsprop";
    let len = weights.check(kernel)?;
    let call = Call::strided(kernel, len.div_ceil(4), THREADS)?.write(&weights.masters).read(weights.grads);
    let call = call.write(&weights.squares);
    let call = call.read_any(weights.rounded.as_ref().map(ViewMut::as_view)).read_any(weights.factor);
    let call = call.u64(len as u64).f32(lr as f32).f32(rule.alpha as f32).f32((1.0 - rule.alpha) as f32);
    call.f32(rule.eps as f32).f32(rule.weight_decay as f32).on(on)
}
