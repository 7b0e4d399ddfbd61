//! What a decoder is computed with: one set of operations for each kind of
//! machine, under one [orchestration](crate::engine).
//!
//! # Buffers
//!
//! Numbers are f32, row-major, `[rows, width]` without gaps, at the beginning of
//! a [`Operations::Buffer`]; a buffer may be longer than what is asked of it. Where
//! an operation takes a [`View`] or [`ViewMut`], numbers are some columns of some
//! rows. No two operands of an operation alias, as references already say; what
//! is worked on in place is one operand.
//!
//! # Order of additions
//!
//! An operation gives the same bits for the same operands, whatever the number
//! of threads or blocks. The last bits of a row may follow the number of rows of
//! the call, which may take another kernel, but never the other rows' numbers;
//! [`GrowingOperations`] promise more. Sums over rows are taken in an order that
//! follows from their number. Sets of operations differ from each other by
//! rounding.
//!
//! # A new set
//!
//! It implements [`Operations`], [`TreeOperations`] and [`GrowingOperations`], and
//! `GradientSums` of `gradients.rs`, which brings the [`Sums`] of its buffers to
//! [`crate::Gradients`]; `backend.rs` then names it.
//! The tests in `engine/tests/oracle.rs` compare sets. Norms of all gradients and
//! the optimiser's step are not here: [`crate::Gradients`] and its users do them.
//!
//! # Weights
//!
//! [`Operations::weight`] brings a weight to where it is computed with, in the
//! type that it is kept in; products with a weight of bf16 round both factors to
//! bf16 and add in f32. [`Operations::wide`] brings one as f32: of norms, biases
//! and adapters. Sums of gradients are f32, of whoever keeps them ([`Sums`]).

mod growing;
mod operands;
#[cfg(test)]
pub(crate) mod plain;
mod trees;

pub(crate) use growing::{GrowingOperations, NewRows};
pub(crate) use operands::{
    Attended, Heads, LogitsHeld, Projection, Region, RmsNorm, Targets, TreeInputs, View, ViewMut, Write,
};
pub(crate) use trees::TreeOperations;

use crate::batch::Group;
use crate::config::Activation;
use crate::dropout::Mask;
use crate::error::Result;
use crate::params::Param;
use crate::rope::RopeTable;

/// Where backward passes add gradients up.
pub(crate) trait Sums<B> {
    /// Whether a tensor is trained at all.
    fn wants(&self, name: &str) -> bool;

    /// The sum of a tensor's gradients, to be added to in place, where it is
    /// trained. It counts as having received one.
    fn sum(&mut self, name: &str) -> Option<&mut B>;
}

impl<B, S: Sums<B>> Sums<B> for &mut S {
    fn wants(&self, name: &str) -> bool {
        (**self).wants(name)
    }

    fn sum(&mut self, name: &str) -> Option<&mut B> {
        (**self).sum(name)
    }
}

/// A set of operations. Everything may fail for want of memory, or as machines
/// do.
///
/// Formulas name rows by r, numbers of a row by i. Every operation says what it
/// overwrites, whatever was there, and what it adds to.
pub(crate) trait Operations {
    /// Numbers in f32.
    type Buffer;
    /// Token ids, or numbers of rows.
    type Indices;
    /// A weight for as long as its parameter is borrowed.
    type Weight<'a>;
    /// Cosines and sines of positions.
    type Rope: Send + Sync;
    /// Which rows attend to which.
    type Groups;

    // Memory.

    /// `len` zeros.
    fn zeros(&self, len: usize) -> Result<Self::Buffer>;

    /// Room for `len` numbers, which may be anything.
    fn room(&self, len: usize) -> Result<Self::Buffer>;

    /// Makes a buffer hold at least `len` numbers, which may then be anything.
    fn at_least(&self, buffer: &mut Self::Buffer, len: usize) -> Result<()>;

    /// A copy of whole rows.
    fn copied(&self, x: View<'_, Self::Buffer>) -> Result<Self::Buffer>;

    /// Whole rows to the host; waits for what computes them.
    fn download(&self, x: View<'_, Self::Buffer>) -> Result<Vec<f32>>;

    /// As [`Operations::room`]; may use memory of the host.
    fn room_in(&self, memory: Vec<f32>, len: usize) -> Result<Self::Buffer>;

    /// As [`Operations::download`], of the first `len` numbers of a buffer that
    /// nobody needs any longer.
    fn taken(&self, x: Self::Buffer, len: usize) -> Result<Vec<f32>>;

    /// Ids or numbers of rows of the host.
    fn indices(&self, values: &[u32]) -> Result<Self::Indices>;

    /// Cosines and sines.
    fn rope(&self, table: RopeTable) -> Result<Self::Rope>;

    /// Groups of rows, which together are all rows of a batch.
    fn groups(&self, groups: &[Group]) -> Result<Self::Groups>;

    /// A weight in the type that it is kept in.
    fn weight<'a>(&self, param: &'a Param) -> Result<Self::Weight<'a>>;

    /// A weight as f32, whatever it is kept in; so are products with it.
    fn wide<'a>(&self, param: &'a Param) -> Result<Self::Weight<'a>>;

    /// Prepares a weight `[outputs, inputs]` for many products forward and, if
    /// asked, back. It changes no number.
    fn prepare(&self, weight: &mut Self::Weight<'_>, shape: [usize; 2], back: bool) -> Result<()>;

    /// How many logits there may be at once, for products with a weight: how the
    /// rows are split decides last bits of the weight's gradient, so these are
    /// constants of a set of operations.
    fn logits_held(&self, weight: &Self::Weight<'_>) -> LogitsHeld;

    // Rows.

    /// out[r] = scale table[ids[r]], for table `[vocab, width]` and out
    /// `[ids, width]`, which is overwritten.
    fn embed(
        &self,
        table: &Self::Weight<'_>,
        ids: &Self::Indices,
        width: usize,
        scale: f32,
        out: &mut Self::Buffer,
    ) -> Result<()>;

    /// sum[ids[r]] += scale grad[r], in the order of the rows: a token may stand
    /// in many.
    fn embed_backward(
        &self,
        grad: &Self::Buffer,
        ids: &Self::Indices,
        width: usize,
        scale: f32,
        sum: &mut Self::Buffer,
    ) -> Result<()>;

    /// out[r] = x[rows[r]]; out `[rows, width]` is overwritten.
    fn gather(&self, x: &Self::Buffer, width: usize, rows: &Self::Indices, out: &mut Self::Buffer) -> Result<()>;

    /// x[rows[r]] += values[r], in the order of r: a row may be named twice.
    fn scatter_add(
        &self,
        values: &Self::Buffer,
        width: usize,
        rows: &Self::Indices,
        x: &mut Self::Buffer,
    ) -> Result<()>;

    /// sums += scale values, for the first `len` numbers.
    fn add_scaled(&self, sums: &mut Self::Buffer, values: &Self::Buffer, len: usize, scale: f32) -> Result<()>;

    // Products.

    /// out = (or +=) scale x W^T for x `[rows, inputs]` and out `[rows,
    /// outputs]`; back, out = (or +=) scale x W for x `[rows, outputs]` and out
    /// `[rows, inputs]`. Both may be columns of wider rows.
    fn project(
        &self,
        out: ViewMut<'_, Self::Buffer>,
        x: View<'_, Self::Buffer>,
        by: Projection<'_, Self::Weight<'_>>,
        write: Write,
    ) -> Result<()>;

    /// sum += scale a^T b, for a `[rows, m]` and b `[rows, n]`, sum `[m, n]`;
    /// rounded as products with the weight `like` are, if given, with scale 1.
    fn add_outer(
        &self,
        sum: &mut Self::Buffer,
        a: View<'_, Self::Buffer>,
        b: View<'_, Self::Buffer>,
        scale: f32,
        like: Option<&Self::Weight<'_>>,
    ) -> Result<()>;

    /// Adds a bias `[columns]` to every row.
    fn add_bias(&self, out: ViewMut<'_, Self::Buffer>, bias: &Self::Weight<'_>) -> Result<()>;

    /// sum += the sum of the rows, sum `[columns]`.
    fn add_column_sums(&self, grad: View<'_, Self::Buffer>, sum: &mut Self::Buffer) -> Result<()>;

    // Element by element.

    /// Drops and scales the first `len` numbers in place, by their places.
    fn drop_out(&self, values: &mut Self::Buffer, len: usize, mask: &Mask) -> Result<()>;

    /// out = activation(gate) up, for rows of gate, then up, each `width` wide;
    /// out `[rows, width]` is overwritten. Shazeer 2020 (arXiv 2002.05202).
    fn activate(
        &self,
        activation: Activation,
        gate_up: &Self::Buffer,
        rows: usize,
        width: usize,
        out: &mut Self::Buffer,
    ) -> Result<()>;

    /// Turns `gate_up` into its own gradient, in place, given that of the
    /// output `[rows, width]`: activation'(gate) up g and activation(gate) g.
    fn activate_backward(
        &self,
        activation: Activation,
        gate_up: &mut Self::Buffer,
        rows: usize,
        width: usize,
        grad: &Self::Buffer,
    ) -> Result<()>;

    // Norms, of rows or of heads. Zhang and Sennrich 2019 (arXiv 1910.07467).
    // With r = 1 / sqrt(mean(x^2) + eps), n = r x, w the weight with its offset:
    // y = w n, dx = r (w g - n mean(w g n)), dw = the sum over rows of g n.

    /// Writes the normalised rows of x `[rows, width]` to `out`.
    fn norm(&self, norm: &RmsNorm<Self::Weight<'_>>, x: View<'_, Self::Buffer>, out: &mut Self::Buffer) -> Result<()>;

    /// Adds the gradient of x `[rows, width]` to `x_grad` and that of the weight
    /// to `sum`, if given, from that of the output.
    fn norm_backward(
        &self,
        norm: &RmsNorm<Self::Weight<'_>>,
        x: View<'_, Self::Buffer>,
        grad: &Self::Buffer,
        x_grad: &mut Self::Buffer,
        sum: Option<&mut Self::Buffer>,
    ) -> Result<()>;

    /// Normalises the heads in some columns of each row, in place: as many as
    /// are as wide as the weight.
    fn norm_heads(&self, norm: &RmsNorm<Self::Weight<'_>>, x: ViewMut<'_, Self::Buffer>) -> Result<()>;

    /// Turns the gradients of normalised heads, in some columns of each row,
    /// into those of the heads `x` in the same columns, in place, and adds that
    /// of the weight to `sum`, if given.
    fn norm_heads_backward(
        &self,
        norm: &RmsNorm<Self::Weight<'_>>,
        x: View<'_, Self::Buffer>,
        grad: ViewMut<'_, Self::Buffer>,
        sum: Option<&mut Self::Buffer>,
    ) -> Result<()>;

    // Attention, causal within each span of the groups; positions count from the
    // span's beginning. Dao et al. 2022 (arXiv 2205.14135). Queries and keys are
    // rotated (Su et al. 2021, arXiv 2104.09864) where `heads.rotates`: numbers i and
    // i + half of a head together, for i below the table's `half`; any others stay. With s_j = cap(scale q . k_j) over the keys j that a query
    // sees, p = softmax(s): o = sum of p_j v_j.

    /// Writes the heads' outputs `[rows, out_width]` to `out`, and log(sum of
    /// e^s_j) of each query to `log_sums` `[rows, heads]`, from `qkv`
    /// `[rows, qkv_width]`. A query sees keys of its sequence up to its own, or
    /// the last `window` of them.
    fn attention(
        &self,
        heads: &Heads,
        rope: &Self::Rope,
        groups: &Self::Groups,
        qkv: View<'_, Self::Buffer>,
        out: &mut Self::Buffer,
        log_sums: &mut Self::Buffer,
    ) -> Result<()>;

    /// Writes the gradient of `qkv` to `qkv_grad` `[rows, qkv_width]`, given
    /// that of the output: dp_j = g . v_j, ds_j = p_j (dp_j - g . o) by (1 -
    /// (s_j / c)^2) with a cap c, dq = scale times the sum of ds_j k_j, dk_j +=
    /// scale ds_j q, dv_j += p_j g; dq and dk rotated back. Rows that several
    /// spans share get the sum of what each gives.
    fn attention_backward(
        &self,
        heads: &Heads,
        rope: &Self::Rope,
        groups: &Self::Groups,
        known: Attended<'_, Self::Buffer>,
        out_grad: View<'_, Self::Buffer>,
        qkv_grad: &mut Self::Buffer,
    ) -> Result<()>;

    // The output head. z are logits, p = softmax(z), V the size of the vocabulary,
    // s the smoothing, e one-hot of the target.

    /// z = cap tanh(z / cap) for logits `[rows, vocab]`, in place.
    fn soft_cap(&self, logits: &mut Self::Buffer, rows: usize, vocab: usize, cap: f32) -> Result<()>;

    /// Writes log(sum of e^z) of each row to `log_sums` `[rows]` and what counts
    /// of its target, (1 - s) z_target + s mean(z) less that, to `logps`
    /// `[rows]`, both from their beginnings.
    fn log_probs(
        &self,
        logits: &Self::Buffer,
        targets: &Targets<'_, Self::Indices>,
        logps: &mut Self::Buffer,
        log_sums: &mut Self::Buffer,
    ) -> Result<()>;

    /// Turns logits, as the cap left them, into the loss's gradient by what was
    /// there before it, in place: g ((1 - s) e + s / V - p), by (1 - (z / c)^2) with a cap c. `slopes`
    /// `[rows]` are g, the loss's slopes by each row's log-probability.
    fn log_probs_backward(
        &self,
        logits: &mut Self::Buffer,
        targets: &Targets<'_, Self::Indices>,
        log_sums: &Self::Buffer,
        slopes: &[f32],
    ) -> Result<()>;
}
