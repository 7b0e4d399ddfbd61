//! Products of rows with a weight in the type that it is kept in.

use super::math::{self, Matrix, MatrixMut, Write};
use super::rounded::{self, Factor, Panels};
use crate::ops::Projection;
use crate::params::{Kept, Numbers};

/// A weight on the CPU. One of bf16 may be laid out for products in either
/// direction.
pub(crate) struct CpuWeight<'a> {
    kept: Kept<'a>,
    forward: Option<Panels>,
    back: Option<Panels>,
}

impl<'a> CpuWeight<'a> {
    pub(super) fn new(kept: Kept<'a>) -> Self {
        Self { kept, forward: None, back: None }
    }

    /// Lays out a weight `[outputs, inputs]`, if it is bf16.
    pub(super) fn prepare(&mut self, [outputs, inputs]: [usize; 2], back: bool) {
        if let Numbers::Bf16(_) = self.numbers() {
            let factor = Factor::new(self.numbers(), outputs, inputs);
            let (forward, back) = (Panels::new(factor.transposed()), back.then(|| Panels::new(factor)));
            (self.forward, self.back) = (Some(forward), back);
        }
    }

    pub(super) fn numbers(&self) -> Numbers<'_> {
        self.kept.numbers()
    }

    /// The numbers of a weight that is f32, or was widened.
    pub(super) fn wide(&self) -> &[f32] {
        match self.numbers() {
            Numbers::F32(values) => values,
            Numbers::Bf16(_) => unreachable!("norms, biases and adapters are widened"),
        }
    }

    /// As laid out for products forward.
    pub(super) fn panels(&self) -> Option<&Panels> {
        self.forward.as_ref()
    }

    /// Whether products with it round both factors.
    pub(super) fn rounds(&self) -> bool {
        matches!(self.numbers(), Numbers::Bf16(_))
    }
}

/// As [`crate::ops::Operations::project`].
pub(super) fn project(out: MatrixMut<'_>, x: Matrix<'_>, by: &Projection<'_, CpuWeight<'_>>, write: Write) {
    match by.weight.numbers() {
        Numbers::F32(values) => {
            let weight = Matrix::new(values, by.outputs, by.inputs);
            math::matmul(out, x, if by.back { weight } else { weight.transposed() }, by.scale, write);
        }
        Numbers::Bf16(_) => {
            assert_eq!(by.scale, 1.0, "only adapters scale products, and they are f32");
            let laid_out = if by.back { &by.weight.back } else { &by.weight.forward };
            if let Some(panels) = laid_out {
                return panels.multiply(out, x.into(), write);
            }
            let weight = Factor::new(by.weight.numbers(), by.outputs, by.inputs);
            rounded::matmul(out, x.into(), if by.back { weight } else { weight.transposed() }, write);
        }
    }
}

/// As [`crate::ops::Operations::add_outer`].
pub(super) fn add_outer(sum: MatrixMut<'_>, a: Matrix<'_>, b: Matrix<'_>, scale: f32, rounds: bool) {
    if rounds {
        assert_eq!(scale, 1.0, "only adapters scale products, and they are f32");
        rounded::matmul(sum, a.transposed().into(), b.into(), Write::Add);
    } else {
        math::matmul(sum, a.transposed(), b, scale, Write::Add);
    }
}
