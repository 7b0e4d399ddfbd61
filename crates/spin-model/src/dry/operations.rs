//! The operations of passes forward and backward.

use std::sync::PoisonError;

use super::{Counted, Dry};
use crate::batch::Group;
use crate::config::Activation;
use crate::cpu::LOGITS;
use crate::dropout::Mask;
use crate::error::Result;
use crate::ops::{Attended, Heads, LogitsHeld, Operations, Projection, RmsNorm, Targets, View, ViewMut, Write};
use crate::params::Param;
use crate::rope::RopeTable;

/// How many numbers a weight has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size(usize);

impl Dry {
    /// Counts a weight, if it is not there already.
    pub(super) fn used(&self, param: &Param) -> Size {
        let numbers = param.var.elem_count();
        let bytes = (numbers * param.var.dtype().size_in_bytes()) as u64;
        self.weights.lock().unwrap_or_else(PoisonError::into_inner).insert(param.name.clone(), bytes);
        Size(numbers)
    }
}

impl Operations for Dry {
    type Buffer = Counted;
    type Indices = Counted;
    type Weight<'a> = Size;
    type Rope = Counted;
    type Groups = usize;

    fn zeros(&self, len: usize) -> Result<Counted> {
        self.room(len)
    }

    fn room(&self, len: usize) -> Result<Counted> {
        Ok(Counted::new(&self.tally, len))
    }

    fn at_least(&self, buffer: &mut Counted, len: usize) -> Result<()> {
        if buffer.len < len {
            // What was there may be given up first.
            *buffer = Counted::new(&self.tally, 0);
            *buffer = self.room(len)?;
        }
        Ok(())
    }

    fn copied(&self, x: View<'_, Counted>) -> Result<Counted> {
        x.buffer.has_all_of(x.at);
        self.room(x.at.whole().len())
    }

    fn download(&self, x: View<'_, Counted>) -> Result<Vec<f32>> {
        x.buffer.has_all_of(x.at);
        Ok(vec![0.0; x.at.whole().len()])
    }

    fn room_in(&self, _memory: Vec<f32>, len: usize) -> Result<Counted> {
        self.room(len)
    }

    fn taken(&self, x: Counted, len: usize) -> Result<Vec<f32>> {
        x.has(len);
        Ok(vec![0.0; len])
    }

    fn indices(&self, values: &[u32]) -> Result<Counted> {
        self.room(values.len())
    }

    fn rope(&self, table: RopeTable) -> Result<Counted> {
        self.room(table.cos.len() + table.sin.len())
    }

    fn groups(&self, groups: &[Group]) -> Result<usize> {
        Ok(groups.iter().map(|group| group.rows.end).max().unwrap_or(0))
    }

    fn weight(&self, param: &Param) -> Result<Size> {
        Ok(self.used(param))
    }

    fn wide(&self, param: &Param) -> Result<Size> {
        Ok(self.used(param))
    }

    fn prepare(&self, weight: &mut Size, shape: [usize; 2], _back: bool) -> Result<()> {
        assert_eq!(weight.0, shape[0] * shape[1]);
        Ok(())
    }

    fn logits_held(&self, _weight: &Size) -> LogitsHeld {
        LogitsHeld { forward: LOGITS, together: LOGITS, most: LOGITS }
    }

    fn embed(&self, table: &Size, ids: &Counted, width: usize, _scale: f32, out: &mut Counted) -> Result<()> {
        assert!(table.0.is_multiple_of(width));
        out.has(ids.len * width);
        Ok(())
    }

    fn embed_backward(
        &self,
        grad: &Counted,
        ids: &Counted,
        width: usize,
        _scale: f32,
        sum: &mut Counted,
    ) -> Result<()> {
        assert!(sum.len.is_multiple_of(width));
        grad.has(ids.len * width);
        Ok(())
    }

    fn gather(&self, x: &Counted, width: usize, rows: &Counted, out: &mut Counted) -> Result<()> {
        assert!(x.len.is_multiple_of(width));
        out.has(rows.len * width);
        Ok(())
    }

    fn scatter_add(&self, values: &Counted, width: usize, rows: &Counted, x: &mut Counted) -> Result<()> {
        assert!(x.len.is_multiple_of(width));
        values.has(rows.len * width);
        Ok(())
    }

    fn add_scaled(&self, sums: &mut Counted, values: &Counted, len: usize, _scale: f32) -> Result<()> {
        sums.has(len);
        values.has(len);
        Ok(())
    }

    fn project(
        &self,
        out: ViewMut<'_, Counted>,
        x: View<'_, Counted>,
        by: Projection<'_, Size>,
        _write: Write,
    ) -> Result<()> {
        x.buffer.has_all_of(x.at);
        out.buffer.has_all_of(out.at);
        let (from, to) = if by.back { (by.outputs, by.inputs) } else { (by.inputs, by.outputs) };
        assert_eq!((x.at.rows, x.at.columns, out.at.columns), (out.at.rows, from, to));
        assert_eq!(by.weight.0, from * to);
        Ok(())
    }

    fn add_outer(
        &self,
        sum: &mut Counted,
        a: View<'_, Counted>,
        b: View<'_, Counted>,
        _scale: f32,
        _like: Option<&Size>,
    ) -> Result<()> {
        a.buffer.has_all_of(a.at);
        b.buffer.has_all_of(b.at);
        assert_eq!((a.at.rows, sum.len), (b.at.rows, a.at.columns * b.at.columns));
        Ok(())
    }

    fn add_bias(&self, out: ViewMut<'_, Counted>, bias: &Size) -> Result<()> {
        out.buffer.has_all_of(out.at);
        assert_eq!(out.at.columns, bias.0);
        Ok(())
    }

    fn add_column_sums(&self, grad: View<'_, Counted>, sum: &mut Counted) -> Result<()> {
        grad.buffer.has_all_of(grad.at);
        sum.has(grad.at.columns);
        Ok(())
    }

    fn drop_out(&self, values: &mut Counted, len: usize, _mask: &Mask) -> Result<()> {
        values.has(len);
        Ok(())
    }

    fn activate(&self, _: Activation, gate_up: &Counted, rows: usize, width: usize, out: &mut Counted) -> Result<()> {
        gate_up.has(rows * 2 * width);
        out.has(rows * width);
        Ok(())
    }

    fn activate_backward(
        &self,
        _: Activation,
        gate_up: &mut Counted,
        rows: usize,
        width: usize,
        grad: &Counted,
    ) -> Result<()> {
        gate_up.has(rows * 2 * width);
        grad.has(rows * width);
        Ok(())
    }

    fn norm(&self, norm: &RmsNorm<Size>, x: View<'_, Counted>, out: &mut Counted) -> Result<()> {
        x.buffer.has_all_of(x.at);
        assert_eq!(x.at.columns, norm.weight.0);
        out.has(x.at.rows * x.at.columns);
        Ok(())
    }

    fn norm_backward(
        &self,
        norm: &RmsNorm<Size>,
        x: View<'_, Counted>,
        grad: &Counted,
        x_grad: &mut Counted,
        sum: Option<&mut Counted>,
    ) -> Result<()> {
        x.buffer.has_all_of(x.at);
        grad.has(x.at.rows * norm.weight.0);
        x_grad.has(x.at.rows * norm.weight.0);
        sum.iter().for_each(|sum| sum.has(norm.weight.0));
        Ok(())
    }

    fn norm_heads(&self, norm: &RmsNorm<Size>, x: ViewMut<'_, Counted>) -> Result<()> {
        x.buffer.has_all_of(x.at);
        assert!(x.at.columns.is_multiple_of(norm.weight.0));
        Ok(())
    }

    fn norm_heads_backward(
        &self,
        norm: &RmsNorm<Size>,
        x: View<'_, Counted>,
        grad: ViewMut<'_, Counted>,
        sum: Option<&mut Counted>,
    ) -> Result<()> {
        x.buffer.has_all_of(x.at);
        grad.buffer.has_all_of(grad.at);
        sum.iter().for_each(|sum| sum.has(norm.weight.0));
        Ok(())
    }

    fn attention(
        &self,
        heads: &Heads,
        _rope: &Counted,
        rows: &usize,
        qkv: View<'_, Counted>,
        out: &mut Counted,
        log_sums: &mut Counted,
    ) -> Result<()> {
        qkv.buffer.has_all_of(qkv.at);
        assert_eq!((qkv.at.rows, qkv.at.columns), (*rows, heads.qkv_width()));
        out.has(rows * heads.out_width());
        log_sums.has(rows * heads.heads);
        Ok(())
    }

    fn attention_backward(
        &self,
        heads: &Heads,
        _rope: &Counted,
        rows: &usize,
        known: Attended<'_, Counted>,
        out_grad: View<'_, Counted>,
        qkv_grad: &mut Counted,
    ) -> Result<()> {
        out_grad.buffer.has_all_of(out_grad.at);
        known.qkv.has(rows * heads.qkv_width());
        known.out.has(rows * heads.out_width());
        known.log_sums.has(rows * heads.heads);
        qkv_grad.has(rows * heads.qkv_width());
        Ok(())
    }

    fn soft_cap(&self, logits: &mut Counted, rows: usize, vocab: usize, _cap: f32) -> Result<()> {
        logits.has(rows * vocab);
        Ok(())
    }

    fn log_probs(
        &self,
        logits: &Counted,
        targets: &Targets<'_, Counted>,
        logps: &mut Counted,
        log_sums: &mut Counted,
    ) -> Result<()> {
        targets.ids.has(targets.part.end);
        logits.has(targets.part.len() * targets.vocab);
        logps.has(targets.part.len());
        log_sums.has(targets.part.len());
        Ok(())
    }

    fn log_probs_backward(
        &self,
        logits: &mut Counted,
        targets: &Targets<'_, Counted>,
        log_sums: &Counted,
        slopes: &[f32],
    ) -> Result<()> {
        assert_eq!(slopes.len(), targets.part.len());
        logits.has(targets.part.len() * targets.vocab);
        log_sums.has(targets.part.len());
        Ok(())
    }
}
