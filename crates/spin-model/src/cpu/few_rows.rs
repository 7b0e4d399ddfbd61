//! Projections of the same rows, side by side, laid out for a few rows at a time in
//! the type that the weights have.

use rayon::prelude::*;

use super::math::{Matrix, MatrixMut, Write};
use super::packed::Packed;
use super::rounded::{Factor, Panels};
use crate::error::Result;
use crate::params::{Kept, Numbers, Param};

/// Weights of one type or the other.
pub(crate) enum FewRows {
    /// Multiplied in f32.
    F32(Packed),
    /// Kept and multiplied in bf16.
    Bf16 { panels: Panels, bias: Option<Vec<f32>> },
}

impl FewRows {
    /// Of weights `[outputs, inputs]` with their biases.
    pub fn new(weights: &[&Param], biases: &[Option<&Param>], inputs: usize, outputs: &[usize]) -> Result<Self> {
        let all = outputs.iter().sum();
        let kept: Vec<Kept<'_>> = weights.iter().map(|weight| weight.kept()).collect::<candle_core::Result<_>>()?;
        let mut bias: Option<Vec<f32>> = None;
        let mut first = 0;
        for (own, outputs) in biases.iter().zip(outputs) {
            if let Some(own) = own {
                bias.get_or_insert_with(|| vec![0.0; all])[first..first + outputs].copy_from_slice(&own.read()?);
            }
            first += outputs;
        }
        if kept.iter().all(|kept| matches!(kept, Kept::Bf16 { .. })) {
            let mut rows = Vec::with_capacity(all * inputs);
            for kept in &kept {
                if let Numbers::Bf16(values) = kept.numbers() {
                    rows.extend_from_slice(values);
                }
            }
            let panels = Panels::new(Factor::new(Numbers::Bf16(&rows), all, inputs).transposed());
            return Ok(Self::Bf16 { panels, bias });
        }
        let mut packed = Packed::new(inputs, all);
        let mut first = 0;
        for (weight, outputs) in weights.iter().zip(outputs) {
            packed.set(first, &weight.read()?);
            first += outputs;
        }
        if let Some(bias) = bias {
            packed.set_bias(0, &bias);
        }
        Ok(Self::F32(packed))
    }

    /// Number of outputs.
    pub fn outputs(&self) -> usize {
        match self {
            Self::F32(packed) => packed.outputs(),
            Self::Bf16 { panels, .. } => panels.outputs(),
        }
    }

    /// The weights of one output, `[inputs]`.
    pub fn read_row(&self, output: usize, row: &mut [f32]) {
        match self {
            Self::F32(packed) => packed.read_row(output, row),
            Self::Bf16 { panels, .. } => panels.read(output, row),
        }
    }

    /// Writes (or adds) the outputs for `x` `[rows, inputs]` to `out` `[rows,
    /// outputs]`.
    pub fn forward(&self, x: &[f32], out: &mut [f32], write: Write) {
        let (panels, bias) = match self {
            Self::F32(packed) => return packed.forward(x, out, write),
            Self::Bf16 { panels, bias } => (panels, bias),
        };
        let (rows, outputs) = (x.len() / panels.inputs(), panels.outputs());
        panels.multiply(MatrixMut::new(out, rows, outputs), Matrix::new(x, rows, panels.inputs()).into(), write);
        if let Some(bias) = bias {
            out.par_chunks_mut(outputs).for_each(|row| row.iter_mut().zip(bias).for_each(|(out, bias)| *out += bias));
        }
    }
}
