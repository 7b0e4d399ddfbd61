//! `attention.cu`, `attention_mma.cu`, `attention_backward.cu` and `attention_tree.cu`.

use half::bf16;

use crate::call::{Call, Runner, of_type};
use crate::error::{Error, Result};
use crate::memory::{Kind, Number, View, ViewMut};
use crate::plan::{padded, shared_bytes};

/// Threads of a block.
const THREADS: u32 = 128;

/// Names of a kernel for every type and width of heads.
macro_rules! of_width {
    ($name:literal, $type:ty, $padded:expr) => {
        match (<$type as Number>::KIND, $padded) {
            (Kind::F32, 32) => concat!($name, "_float_32"),
            (Kind::F32, 64) => concat!($name, "_float_64"),
            (Kind::F32, 128) => concat!($name, "_float_128"),
            (Kind::F32, _) => concat!($name, "_float_256"),
            (Kind::Bf16, 32) => concat!($name, "_bf16_32"),
            (Kind::Bf16, 64) => concat!($name, "_bf16_64"),
            (Kind::Bf16, 128) => concat!($name, "_bf16_128"),
            (Kind::Bf16, _) => concat!($name, "_bf16_256"),
        }
    };
}
pub(crate) use of_width;

/// Attention of one layer. A row of queries, keys and values has all query heads, then all key heads, then all value
/// heads, queries and keys rotated already; query head h attends with key and value head h / (heads / kv_heads).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head, at most 256.
    pub dim: usize,
    /// What scores are multiplied with.
    pub scale: f32,
    /// Scores s become c tanh(s / c).
    pub softcap: Option<f32>,
    /// Each query sees the last so many keys, its own among them.
    pub window: Option<usize>,
}

impl Attention {
    pub(crate) fn check(&self, kernel: &'static str) -> Result<usize> {
        if self.kv_heads == 0 || self.heads == 0 || !self.heads.is_multiple_of(self.kv_heads) {
            return Err(Error::shape(kernel, format!("{self:?} has no whole number of heads for a key head")));
        }
        if self.window == Some(0) {
            return Err(Error::shape(kernel, "a window of no keys"));
        }
        padded(kernel, self.dim)
    }

    /// Numbers of a row of queries, keys and values.
    pub fn qkv_width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.dim
    }

    /// Numbers of a row of outputs.
    pub fn out_width(&self) -> usize {
        self.heads * self.dim
    }

    /// Heads, width and window.
    fn shape(&self, call: Call) -> Result<Call> {
        call.count(self.heads)?.count(self.kv_heads)?.count(self.dim)?.count(self.window.unwrap_or(0))
    }

    fn scores(&self, call: Call) -> Call {
        call.f32(self.scale).f32(self.softcap.unwrap_or(0.0))
    }
}

/// [`crate::AttentionPlan`] on the device.
#[derive(Debug, Clone, Copy)]
pub struct AttentionViews<'a> {
    /// `[spans, 4]`.
    pub spans: View<'a, u32>,
    /// `[tiles, 3]`.
    pub tiles: View<'a, u32>,
    /// `[tiles, 3]`.
    pub wide_tiles: View<'a, u32>,
    /// `[tiles, 5]`.
    pub key_tiles: View<'a, u32>,
    /// Rows of the batch.
    pub rows: usize,
    /// Of the heads that the plan was made for.
    pub dim: usize,
}

impl AttentionViews<'_> {
    fn check(&self, kernel: &'static str, dim: usize) -> Result<()> {
        if self.dim != dim {
            return Err(Error::shape(kernel, format!("the plan is for heads of {}, not of {dim}", self.dim)));
        }
        Ok(())
    }
}

/// The heads' outputs `[rows, heads * dim]` and the log-sum-exp of each row of scores `[rows, heads]`.
///
/// # Errors
///
/// If shapes do not fit or the device refuses; likewise for the others.
pub fn attention<T: Number>(
    on: &(impl Runner + ?Sized),
    of: &Attention,
    plan: &AttentionViews<'_>,
    qkv: View<'_, T>,
    out: &mut ViewMut<'_, T>,
    log_sums: &mut ViewMut<'_, f32>,
) -> Result<()> {
    let width = of.check("attention_forward")?;
    let kernel = of_width!("attention_forward", T, width);
    plan.check(kernel, of.dim)?;
    qkv.check(kernel, "qkv", plan.rows * of.qkv_width())?;
    out.check(kernel, "out", plan.rows * of.out_width())?;
    log_sums.check(kernel, "log_sums", plan.rows * of.heads)?;
    let call = Call::new(kernel, [plan.tiles.len() / 3, of.heads, 1], [THREADS, 1, 1])?;
    let call = call.shared(shared_bytes(width, 1, 1)).read(qkv).write(out).write(log_sums);
    of.scores(of.shape(call.read(plan.spans).read(plan.tiles))?).on(on)
}

/// [`attention`] of bf16 on tensor cores, for heads of at most 128: probabilities are rounded to bf16 before they meet
/// the values. The backward pass takes what either gave.
///
/// # Errors
///
/// As [`attention`].
pub fn attention_mma(
    on: &(impl Runner + ?Sized),
    of: &Attention,
    plan: &AttentionViews<'_>,
    qkv: View<'_, bf16>,
    out: &mut ViewMut<'_, bf16>,
    log_sums: &mut ViewMut<'_, f32>,
) -> Result<()> {
    let kernel = match of.check("attention_mma")? {
        32 => "attention_mma_32",
        64 => "attention_mma_64",
        128 => "attention_mma_128",
        _ => return Err(Error::shape("attention_mma", format!("heads of {} are wider than 128", of.dim))),
    };
    plan.check(kernel, of.dim)?;
    qkv.check(kernel, "qkv", plan.rows * of.qkv_width())?;
    out.check(kernel, "out", plan.rows * of.out_width())?;
    log_sums.check(kernel, "log_sums", plan.rows * of.heads)?;
    let call = Call::new(kernel, [plan.wide_tiles.len() / 3, of.heads, 1], [THREADS, 1, 1])?;
    let call = call.read(qkv).write(out).write(log_sums).read(plan.spans).read(plan.wide_tiles);
    of.scores(of.shape(call)?).on(on)
}

/// What the backward pass is given.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a, T> {
    /// Queries, keys and values, rotated.
    pub qkv: View<'a, T>,
    /// Of the forward pass.
    pub out: View<'a, T>,
    /// Of the forward pass.
    pub log_sums: View<'a, f32>,
    /// The gradient of `out`.
    pub out_grad: View<'a, T>,
}

/// The gradient of `qkv` as it was rotated, every number of it; `delta` `[rows, heads]` is scratch memory.
///
/// # Errors
///
/// As [`attention`].
pub fn attention_backward<T: Number>(
    on: &(impl Runner + ?Sized),
    of: &Attention,
    plan: &AttentionViews<'_>,
    known: &Known<'_, T>,
    delta: &mut ViewMut<'_, f32>,
    qkv_grad: &mut ViewMut<'_, T>,
) -> Result<()> {
    let width = of.check("attention_backward")?;
    let (rows, kernel) = (plan.rows, of_type!("attention_delta", T));
    plan.check(kernel, of.dim)?;
    known.qkv.check(kernel, "qkv", rows * of.qkv_width())?;
    qkv_grad.check(kernel, "qkv_grad", rows * of.qkv_width())?;
    known.out.check(kernel, "out", rows * of.out_width())?;
    known.out_grad.check(kernel, "out_grad", rows * of.out_width())?;
    known.log_sums.check(kernel, "log_sums", rows * of.heads)?;
    delta.check(kernel, "delta", rows * of.heads)?;
    let call = Call::new(kernel, [(rows * of.heads).div_ceil(4), 1, 1], [32, 4, 1])?;
    call.read(known.out).read(known.out_grad).write(delta).count(rows * of.heads)?.count(of.dim)?.on(on)?;
    let given = |call: Call| {
        let call = call.read(known.qkv).read(known.out_grad).read(known.log_sums).read(delta.as_view());
        call.write(qkv_grad).read(plan.spans)
    };
    let grid = [plan.tiles.len() / 3, of.heads, 1];
    let call = Call::new(of_width!("attention_queries", T, width), grid, [THREADS, 1, 1])?;
    let call = given(call.shared(shared_bytes(width, 2, 1))).read(plan.tiles);
    of.scores(of.shape(call)?).on(on)?;
    let grid = [plan.key_tiles.len() / 5, of.kv_heads, 1];
    let call = Call::new(of_width!("attention_keys", T, width), grid, [THREADS, 1, 1])?;
    let call = given(call.shared(shared_bytes(width, 2, 2))).read(plan.key_tiles);
    of.scores(of.shape(call)?).on(on)
}

/// [`crate::TreePlan`] on the device, with what it was made from.
#[derive(Debug, Clone, Copy)]
pub struct TreeViews<'a> {
    /// `[stretches, 3]`.
    pub stretches: View<'a, u32>,
    /// `[tiles, 5]`.
    pub tiles: View<'a, u32>,
    /// Rows whose outputs are wanted.
    pub wanted: View<'a, u32>,
    /// Position of each row of the tree.
    pub positions: View<'a, u32>,
    /// The row after the last below each.
    pub ends: View<'a, u32>,
    /// The same of each position of the cached path.
    pub path_ends: View<'a, u32>,
    /// Of the heads that the plan was made for.
    pub dim: usize,
}

/// Queries, keys and values of a tree.
#[derive(Debug, Clone, Copy)]
pub struct TreeRows<'a, T> {
    /// Queries of the wanted rows, all heads first in a row.
    pub queries: View<'a, T>,
    /// From query row to query row.
    pub query_stride: usize,
    /// Rows that have all keys from `key_column` on and all values from `value_column` on.
    pub rows: View<'a, T>,
    /// From row to row.
    pub row_stride: usize,
    /// Column of the first key head.
    pub key_column: usize,
    /// Column of the first value head.
    pub value_column: usize,
    /// Keys of the cached path, `[positions, kv_heads, dim]`.
    pub path_keys: View<'a, T>,
    /// Values of the cached path.
    pub path_values: View<'a, T>,
}

/// The heads' outputs of the wanted rows of a tree, `[wanted, heads * dim]`.
///
/// # Errors
///
/// As [`attention`].
pub fn attention_tree<T: Number>(
    on: &(impl Runner + ?Sized),
    of: &Attention,
    plan: &TreeViews<'_>,
    tree: &TreeRows<'_, T>,
    out: &mut ViewMut<'_, T>,
) -> Result<()> {
    let width = of.check("attention_tree")?;
    let kernel = of_width!("attention_tree", T, width);
    if plan.dim != of.dim {
        return Err(Error::shape(kernel, format!("the plan is for heads of {}, not of {}", plan.dim, of.dim)));
    }
    let reach = |rows: usize, stride: usize, own: usize| if rows == 0 { 0 } else { (rows - 1) * stride + own };
    let (wanted, kv_width) = (plan.wanted.len(), of.kv_heads * of.dim);
    tree.queries.check(kernel, "queries", reach(wanted, tree.query_stride, of.out_width()))?;
    let last = tree.key_column.max(tree.value_column) + kv_width;
    tree.rows.check(kernel, "rows", reach(plan.ends.len(), tree.row_stride, last))?;
    plan.positions.check(kernel, "positions", plan.ends.len())?;
    tree.path_keys.check(kernel, "path_keys", plan.path_ends.len() * kv_width)?;
    tree.path_values.check(kernel, "path_values", plan.path_ends.len() * kv_width)?;
    out.check(kernel, "out", wanted * of.out_width())?;
    let call = Call::new(kernel, [plan.tiles.len() / 5, of.heads, 1], [THREADS, 1, 1])?;
    let call = call.shared(shared_bytes(width, 1, 1)).read(tree.queries).read(tree.rows);
    let call = call.read(tree.path_keys).read(tree.path_values).write(out).read(plan.wanted).read(plan.positions);
    let call = of.shape(call.read(plan.ends).read(plan.path_ends).read(plan.stretches).read(plan.tiles))?;
    let call = call.u64(tree.query_stride as u64).u64(tree.row_stride as u64);
    of.scores(call.u64(tree.key_column as u64).u64(tree.value_column as u64)).on(on)
}
