//! The operations of the CPU: f32 on all threads of the current rayon pool, and
//! products of weights of bf16 in bf16.

use super::activation;
use super::attention::Attention;
use super::loss::{Wanted, soft_cap};
use super::math::{Matrix, MatrixMut, add_scaled};
use super::norm::Norm;
use super::rows;
use super::weight::{self, CpuWeight};
use crate::batch::Group;
use crate::config::Activation;
use crate::dropout::Mask;
use crate::error::Result;
use crate::ops::{Attended, Heads, LogitsHeld, Operations, Projection, RmsNorm, Targets, View, ViewMut, Write};
use crate::params::Param;
use crate::rope::RopeTable;

/// Logits held at once: 64 MiB.
pub(crate) const LOGITS: usize = 1 << 24;
/// Rows per chunk while logits fit the processor's caches.
const CACHED_LOGITS: usize = 1 << 20;

/// The set of operations of the CPU.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cpu;

type Weight<'a> = CpuWeight<'a>;

pub(super) fn norm_of(norm: &RmsNorm<Weight<'_>>) -> Norm {
    Norm::new(norm.weight.wide(), norm.offset, norm.eps)
}

/// Whole rows.
pub(super) fn slice(view: View<'_, Vec<f32>>) -> &[f32] {
    &view.buffer[view.at.whole()]
}

/// The first columns of heads in some columns of a row.
fn starts(columns: std::ops::Range<usize>, dim: usize) -> Vec<usize> {
    columns.step_by(dim).collect()
}

/// Rows of a buffer of which a view has some columns, and these.
fn columns_mut(view: ViewMut<'_, Vec<f32>>) -> (&mut [f32], usize, std::ops::Range<usize>) {
    let at = view.at;
    let column = at.first % at.stride;
    let row = at.first - column;
    (&mut view.buffer[row..row + at.rows * at.stride], at.stride, column..column + at.columns)
}

impl Operations for Cpu {
    type Buffer = Vec<f32>;
    type Indices = Vec<u32>;
    type Weight<'a> = CpuWeight<'a>;
    type Rope = RopeTable;
    type Groups = Vec<Group>;

    fn zeros(&self, len: usize) -> Result<Vec<f32>> {
        Ok(vec![0.0; len])
    }

    // The system clears new memory anyway.
    fn room(&self, len: usize) -> Result<Vec<f32>> {
        Ok(vec![0.0; len])
    }

    fn at_least(&self, buffer: &mut Vec<f32>, len: usize) -> Result<()> {
        if buffer.len() < len {
            buffer.resize(len, 0.0);
        }
        Ok(())
    }

    fn copied(&self, x: View<'_, Vec<f32>>) -> Result<Vec<f32>> {
        Ok(slice(x).to_vec())
    }

    fn download(&self, x: View<'_, Vec<f32>>) -> Result<Vec<f32>> {
        self.copied(x)
    }

    fn room_in(&self, mut memory: Vec<f32>, len: usize) -> Result<Vec<f32>> {
        memory.resize(len, 0.0);
        Ok(memory)
    }

    fn taken(&self, mut x: Vec<f32>, len: usize) -> Result<Vec<f32>> {
        x.truncate(len);
        Ok(x)
    }

    fn indices(&self, values: &[u32]) -> Result<Vec<u32>> {
        Ok(values.to_vec())
    }

    fn rope(&self, table: RopeTable) -> Result<RopeTable> {
        Ok(table)
    }

    fn groups(&self, groups: &[Group]) -> Result<Vec<Group>> {
        Ok(groups.to_vec())
    }

    fn weight<'a>(&self, param: &'a Param) -> Result<CpuWeight<'a>> {
        Ok(CpuWeight::new(param.kept()?))
    }

    fn wide<'a>(&self, param: &'a Param) -> Result<CpuWeight<'a>> {
        Ok(CpuWeight::new(param.widened()?))
    }

    fn prepare(&self, weight: &mut Weight<'_>, shape: [usize; 2], back: bool) -> Result<()> {
        weight.prepare(shape, back);
        Ok(())
    }

    /// Constants for a vocabulary, so that results do not depend on the number
    /// of threads. Small groups go together while their logits stay in the
    /// caches; rounded factors are laid out for each chunk, which more rows pay
    /// for.
    fn logits_held(&self, weight: &Weight<'_>) -> LogitsHeld {
        let together = if weight.rounds() { LOGITS } else { CACHED_LOGITS };
        LogitsHeld { forward: CACHED_LOGITS, together, most: LOGITS }
    }

    fn embed(&self, table: &Weight<'_>, ids: &Vec<u32>, width: usize, scale: f32, out: &mut Vec<f32>) -> Result<()> {
        rows::embed(table.numbers(), ids, width, scale, &mut out[..ids.len() * width]);
        Ok(())
    }

    fn embed_backward(
        &self,
        grad: &Vec<f32>,
        ids: &Vec<u32>,
        width: usize,
        scale: f32,
        sum: &mut Vec<f32>,
    ) -> Result<()> {
        rows::scatter_add(grad, width, ids, scale, sum);
        Ok(())
    }

    fn gather(&self, x: &Vec<f32>, width: usize, rows: &Vec<u32>, out: &mut Vec<f32>) -> Result<()> {
        rows::gather(x, width, rows, &mut out[..rows.len() * width]);
        Ok(())
    }

    fn scatter_add(&self, values: &Vec<f32>, width: usize, rows: &Vec<u32>, x: &mut Vec<f32>) -> Result<()> {
        rows::scatter_add(values, width, rows, 1.0, x);
        Ok(())
    }

    fn add_scaled(&self, sums: &mut Vec<f32>, values: &Vec<f32>, len: usize, scale: f32) -> Result<()> {
        add_scaled(&mut sums[..len], &values[..len], scale);
        Ok(())
    }

    fn project(
        &self,
        out: ViewMut<'_, Vec<f32>>,
        x: View<'_, Vec<f32>>,
        by: Projection<'_, Weight<'_>>,
        write: Write,
    ) -> Result<()> {
        weight::project(MatrixMut::of(out), Matrix::of(x), &by, write);
        Ok(())
    }

    fn add_outer(
        &self,
        sum: &mut Vec<f32>,
        a: View<'_, Vec<f32>>,
        b: View<'_, Vec<f32>>,
        scale: f32,
        like: Option<&Weight<'_>>,
    ) -> Result<()> {
        let sum = MatrixMut::new(sum, a.at.columns, b.at.columns);
        weight::add_outer(sum, Matrix::of(a), Matrix::of(b), scale, like.is_some_and(CpuWeight::rounds));
        Ok(())
    }

    fn add_bias(&self, out: ViewMut<'_, Vec<f32>>, bias: &Weight<'_>) -> Result<()> {
        rows::add_bias(&mut out.buffer[out.at.range()], out.at.stride, &bias.wide()[..out.at.columns]);
        Ok(())
    }

    fn add_column_sums(&self, grad: View<'_, Vec<f32>>, sum: &mut Vec<f32>) -> Result<()> {
        rows::add_column_sums(&grad.buffer[grad.at.range()], grad.at.stride, grad.at.columns, sum);
        Ok(())
    }

    fn drop_out(&self, values: &mut Vec<f32>, len: usize, mask: &Mask) -> Result<()> {
        mask.apply(&mut values[..len]);
        Ok(())
    }

    fn activate(
        &self,
        activation: Activation,
        gate_up: &Vec<f32>,
        rows: usize,
        width: usize,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        activation::forward(activation, &gate_up[..rows * 2 * width], width, &mut out[..rows * width]);
        Ok(())
    }

    fn activate_backward(
        &self,
        activation: Activation,
        gate_up: &mut Vec<f32>,
        rows: usize,
        width: usize,
        grad: &Vec<f32>,
    ) -> Result<()> {
        activation::backward(activation, &mut gate_up[..rows * 2 * width], width, &grad[..rows * width]);
        Ok(())
    }

    fn norm(&self, norm: &RmsNorm<Weight<'_>>, x: View<'_, Vec<f32>>, out: &mut Vec<f32>) -> Result<()> {
        norm_of(norm).forward(slice(x), &mut out[..x.at.rows * x.at.columns]);
        Ok(())
    }

    fn norm_backward(
        &self,
        norm: &RmsNorm<Weight<'_>>,
        x: View<'_, Vec<f32>>,
        grad: &Vec<f32>,
        x_grad: &mut Vec<f32>,
        sum: Option<&mut Vec<f32>>,
    ) -> Result<()> {
        let len = x.at.rows * x.at.columns;
        norm_of(norm).backward(slice(x), &grad[..len], &mut x_grad[..len], sum.map(Vec::as_mut_slice));
        Ok(())
    }

    fn norm_heads(&self, norm: &RmsNorm<Weight<'_>>, x: ViewMut<'_, Vec<f32>>) -> Result<()> {
        let (rows, width, columns) = columns_mut(x);
        norm_of(norm).forward_heads(rows, width, &starts(columns, norm.weight.wide().len()));
        Ok(())
    }

    fn norm_heads_backward(
        &self,
        norm: &RmsNorm<Weight<'_>>,
        x: View<'_, Vec<f32>>,
        grad: ViewMut<'_, Vec<f32>>,
        sum: Option<&mut Vec<f32>>,
    ) -> Result<()> {
        assert_eq!(x.at, grad.at, "the same columns");
        let (rows, width, columns) = columns_mut(grad);
        let from = x.at.first - columns.start;
        let x = &x.buffer[from..from + rows.len()];
        let starts = starts(columns, norm.weight.wide().len());
        norm_of(norm).backward_heads(x, rows, width, &starts, sum.map(Vec::as_mut_slice));
        Ok(())
    }

    fn attention(
        &self,
        heads: &Heads,
        rope: &RopeTable,
        groups: &Vec<Group>,
        qkv: View<'_, Vec<f32>>,
        out: &mut Vec<f32>,
        log_sums: &mut Vec<f32>,
    ) -> Result<()> {
        Attention::new(heads, rope).forward(groups, slice(qkv), out, log_sums);
        Ok(())
    }

    fn attention_backward(
        &self,
        heads: &Heads,
        rope: &RopeTable,
        groups: &Vec<Group>,
        known: Attended<'_, Vec<f32>>,
        out_grad: View<'_, Vec<f32>>,
        qkv_grad: &mut Vec<f32>,
    ) -> Result<()> {
        Attention::new(heads, rope).backward(groups, known, slice(out_grad), qkv_grad);
        Ok(())
    }

    fn soft_cap(&self, logits: &mut Vec<f32>, rows: usize, vocab: usize, cap: f32) -> Result<()> {
        soft_cap(&mut logits[..rows * vocab], vocab, cap);
        Ok(())
    }

    fn log_probs(
        &self,
        logits: &Vec<f32>,
        targets: &Targets<'_, Vec<u32>>,
        logps: &mut Vec<f32>,
        log_sums: &mut Vec<f32>,
    ) -> Result<()> {
        let rows = targets.part.len();
        wanted(targets).log_probs(&logits[..rows * targets.vocab], &mut logps[..rows], &mut log_sums[..rows]);
        Ok(())
    }

    fn log_probs_backward(
        &self,
        logits: &mut Vec<f32>,
        targets: &Targets<'_, Vec<u32>>,
        log_sums: &Vec<f32>,
        slopes: &[f32],
    ) -> Result<()> {
        let rows = targets.part.len();
        wanted(targets).backward(&mut logits[..rows * targets.vocab], &log_sums[..rows], slopes);
        Ok(())
    }
}

fn wanted<'a>(targets: &'a Targets<'_, Vec<u32>>) -> Wanted<'a> {
    Wanted {
        targets: &targets.ids[targets.part.clone()],
        vocab: targets.vocab,
        smoothing: targets.smoothing,
        softcap: targets.softcap,
    }
}
