//! `rope.cu` and `activation.cu`.

use crate::call::{Call, Runner, of_type};
use crate::error::{Error, Result};
use crate::memory::{Kind, Number, View, ViewMut};

const THREADS: u32 = 256;

/// Cosines and sines, `[positions, half]` each.
#[derive(Debug, Clone, Copy)]
pub struct Rotation<'a> {
    /// Cosines.
    pub cos: View<'a, f32>,
    /// Sines.
    pub sin: View<'a, f32>,
    /// Dimensions rotated with others: half of those that are rotated at all.
    pub half: usize,
}

/// Which heads of which rows.
#[derive(Debug, Clone, Copy)]
pub struct RotatedHeads {
    /// The first so many of each row.
    pub heads: usize,
    /// Their width.
    pub dim: usize,
    /// Numbers from row to row.
    pub stride: usize,
}

/// Rotates heads in place, each row by its position; `back` is the other way, which is the gradient.
///
/// # Errors
///
/// If shapes do not fit or the device refuses.
pub fn rotate<T: Number>(
    on: &(impl Runner + ?Sized),
    rows: &mut ViewMut<'_, T>,
    positions: View<'_, u32>,
    rotation: &Rotation<'_>,
    of: RotatedHeads,
    back: bool,
) -> Result<()> {
    let (kernel, count) = (of_type!("rotate", T), positions.len());
    let RotatedHeads { heads, dim, stride } = of;
    if 2 * rotation.half > dim || heads * dim > stride || rotation.half == 0 {
        return Err(Error::shape(kernel, format!("{of:?} with half {} is no rotation", rotation.half)));
    }
    rows.check(kernel, "rows", if count == 0 { 0 } else { (count - 1) * stride + heads * dim })?;
    rotation.sin.check(kernel, "sin", rotation.cos.len())?;
    let call = Call::new(kernel, [count, 1, 1], [THREADS, 1, 1])?;
    let call = call.write(rows).read(positions).read(rotation.cos).read(rotation.sin);
    let call = call.count(heads)?.count(dim)?.count(rotation.half)?.u64(stride as u64);
    call.f32(if back { -1.0 } else { 1.0 }).on(on)
}

/// The function of gated feed-forward layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// x sigmoid(x).
    Silu,
    /// GELU by its tanh approximation.
    GeluTanh,
}

fn gated_rows<T>(kernel: &'static str, gate_up: usize, out: View<'_, T>, width: usize) -> Result<usize> {
    if width == 0 || !out.len().is_multiple_of(width) {
        return Err(Error::shape(kernel, format!("{} numbers are no rows of {width}", out.len())));
    }
    if gate_up < 2 * out.len() {
        return Err(Error::Length { kernel, what: "gate_up", found: gate_up, wanted: 2 * out.len() });
    }
    Ok(out.len() / width)
}

/// `out` `[rows, width]` = gate(g) u, where rows of `gate_up` have g, then u.
///
/// # Errors
///
/// As [`rotate`].
pub fn gated<T: Number>(
    on: &(impl Runner + ?Sized),
    gate: Gate,
    gate_up: View<'_, T>,
    out: &mut ViewMut<'_, T>,
    width: usize,
) -> Result<()> {
    let kernel = match (gate, T::KIND) {
        (Gate::Silu, Kind::F32) => "silu_forward_float",
        (Gate::Silu, Kind::Bf16) => "silu_forward_bf16",
        (Gate::GeluTanh, Kind::F32) => "gelu_forward_float",
        (Gate::GeluTanh, Kind::Bf16) => "gelu_forward_bf16",
    };
    let rows = gated_rows(kernel, gate_up.len(), out.as_view(), width)?;
    Call::new(kernel, [rows, 1, 1], [THREADS, 1, 1])?.read(gate_up).write(out).count(rows)?.count(width)?.on(on)
}

/// Turns `gate_up` into its own gradient, given that of the output `[rows, width]`.
///
/// # Errors
///
/// As [`rotate`].
pub fn gated_backward<T: Number>(
    on: &(impl Runner + ?Sized),
    gate: Gate,
    gate_up: &mut ViewMut<'_, T>,
    grad: View<'_, T>,
    width: usize,
) -> Result<()> {
    let kernel = match (gate, T::KIND) {
        (Gate::Silu, Kind::F32) => "silu_backward_float",
        (Gate::Silu, Kind::Bf16) => "silu_backward_bf16",
        (Gate::GeluTanh, Kind::F32) => "gelu_backward_float",
        (Gate::GeluTanh, Kind::Bf16) => "gelu_backward_bf16",
    };
    let rows = gated_rows(kernel, gate_up.len(), grad, width)?;
    Call::new(kernel, [rows, 1, 1], [THREADS, 1, 1])?.write(gate_up).read(grad).count(rows)?.count(width)?.on(on)
}
