//! activation(gate) * up, the heart of gated feed-forward layers (Shazeer
//! 2020).
//!
//! silu: with s = sigmoid(g), the derivative is s (1 + g (1 - s)).
//! gelu: with t = tanh(u), u = c (g + a g^3), c = sqrt(2 / pi), a = 0.044715, the
//! value is g (1 + t) / 2, the derivative
//! (1 + t) / 2 + g (1 - t^2) c (1 + 3 a g^2) / 2.

use rayon::prelude::*;

use super::ROWS_PER_TASK;
use super::math::{sigmoid, tanh};
use crate::config::Activation;

const GELU_SCALE: f32 = 0.797_884_6;
const GELU_CUBE: f32 = 0.044_715;

/// Value and derivative.
#[inline(always)]
fn silu(gate: f32) -> (f32, f32) {
    let s = sigmoid(gate);
    let value = gate * s;
    (value, s + value * (1.0 - s))
}

#[inline(always)]
fn gelu_tanh(gate: f32) -> (f32, f32) {
    let square = gate * gate;
    let t = tanh(GELU_SCALE * gate * (1.0 + GELU_CUBE * square));
    let slope = (1.0 - t * t) * GELU_SCALE * (1.0 + 3.0 * GELU_CUBE * square);
    (0.5 * gate * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * gate * slope)
}

/// Writes rows of `width`, from rows of the gate, then up, each `width` wide.
pub(super) fn forward(activation: Activation, gate_up: &[f32], width: usize, out: &mut [f32]) {
    match activation {
        Activation::Silu => forward_with(gate_up, width, out, silu),
        Activation::GeluTanh => forward_with(gate_up, width, out, gelu_tanh),
    }
}

/// Turns `gate_up` into its own gradient, given that of the output.
pub(super) fn backward(activation: Activation, gate_up: &mut [f32], width: usize, grad: &[f32]) {
    match activation {
        Activation::Silu => backward_with(gate_up, width, grad, silu),
        Activation::GeluTanh => backward_with(gate_up, width, grad, gelu_tanh),
    }
}

#[inline(always)]
fn forward_with(gate_up: &[f32], width: usize, out: &mut [f32], f: impl Fn(f32) -> (f32, f32) + Sync) {
    out.par_chunks_mut(ROWS_PER_TASK * width).zip(gate_up.par_chunks(2 * ROWS_PER_TASK * width)).for_each(
        |(out, gate_up)| {
            for (out, row) in out.chunks_exact_mut(width).zip(gate_up.chunks_exact(2 * width)) {
                let (gate, up) = row.split_at(width);
                for i in 0..width {
                    out[i] = f(gate[i]).0 * up[i];
                }
            }
        },
    );
}

#[inline(always)]
fn backward_with(gate_up: &mut [f32], width: usize, grad: &[f32], f: impl Fn(f32) -> (f32, f32) + Sync) {
    gate_up.par_chunks_mut(2 * ROWS_PER_TASK * width).zip(grad.par_chunks(ROWS_PER_TASK * width)).for_each(
        |(gate_up, grad)| {
            for (row, grad) in gate_up.chunks_exact_mut(2 * width).zip(grad.chunks_exact(width)) {
                let (gate, up) = row.split_at_mut(width);
                for i in 0..width {
                    let (value, slope) = f(gate[i]);
                    gate[i] = grad[i] * up[i] * slope;
                    up[i] = grad[i] * value;
                }
            }
        },
    );
}
