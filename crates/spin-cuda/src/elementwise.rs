//! `elementwise.cu`, `reduce.cu` and `dropout.cu`.

use crate::call::{Call, Runner, of_type, of_types};
use crate::error::{Error, Result};
use crate::memory::{Number, View, ViewMut};

/// Threads of a block; four numbers, 16 bytes of f32, to each.
const THREADS: u32 = 256;
/// Threads of a block that has a column each.
const COLUMN_THREADS: u32 = 128;
/// Rows whose sum is one part of a column's.
pub const PART: usize = 64;

/// `values` *= `factor`.
///
/// # Errors
///
/// If the device refuses; likewise for the others, and if shapes do not fit.
pub fn scale<T: Number>(on: &(impl Runner + ?Sized), values: &mut ViewMut<'_, T>, factor: f32) -> Result<()> {
    let call = Call::strided(of_type!("scale", T), values.len().div_ceil(4), THREADS)?;
    call.write(values).u64(values.len() as u64).f32(factor).on(on)
}

/// `sums` += `factor` `values`.
///
/// # Errors
///
/// As [`scale`].
pub fn add_scaled<S: Number, T: Number>(
    on: &(impl Runner + ?Sized),
    sums: &mut ViewMut<'_, S>,
    values: View<'_, T>,
    factor: f32,
) -> Result<()> {
    let kernel = of_types!("add_scaled", S, T);
    values.check(kernel, "values", sums.len())?;
    let call = Call::strided(kernel, sums.len().div_ceil(4), THREADS)?;
    call.write(sums).read(values).u64(sums.len() as u64).f32(factor).on(on)
}

/// `to` = `from`, in another type, or copied.
///
/// # Errors
///
/// As [`scale`].
pub fn convert<S: Number, T: Number>(
    on: &(impl Runner + ?Sized),
    from: View<'_, S>,
    to: &mut ViewMut<'_, T>,
) -> Result<()> {
    let kernel = of_types!("convert", S, T);
    from.check(kernel, "from", to.len())?;
    let call = Call::strided(kernel, to.len().div_ceil(4), THREADS)?;
    call.read(from).write(to).u64(to.len() as u64).on(on)
}

/// `rows` `[rows, width]` += `bias` `[width]`, to each row.
///
/// # Errors
///
/// As [`scale`].
pub fn add_bias<T: Number>(on: &(impl Runner + ?Sized), rows: &mut ViewMut<'_, T>, bias: View<'_, T>) -> Result<()> {
    let kernel = of_type!("add_bias", T);
    if bias.is_empty() || !rows.len().is_multiple_of(bias.len()) {
        let message = format!("{} numbers are no rows of {}", rows.len(), bias.len());
        return Err(Error::shape(kernel, message));
    }
    let count = rows.len() / bias.len();
    Call::new(kernel, [count, 1, 1], [THREADS, 1, 1])?.write(rows).read(bias).count(bias.len())?.on(on)
}

/// Numbers of memory that [`add_column_sums`] needs.
pub fn column_parts(rows: usize, width: usize) -> usize {
    rows.div_ceil(PART) * width
}

/// `out` `[width]` += the sums of the columns of `rows` `[rows, width]`: the gradient of a bias. `parts` has
/// [`column_parts`] numbers, which are lost.
///
/// # Errors
///
/// As [`scale`].
pub fn add_column_sums<T: Number>(
    on: &(impl Runner + ?Sized),
    rows: View<'_, T>,
    parts: &mut ViewMut<'_, f32>,
    out: &mut ViewMut<'_, f32>,
) -> Result<()> {
    let (kernel, width) = (of_type!("column_parts", T), out.len());
    if width == 0 || !rows.len().is_multiple_of(width) {
        return Err(Error::shape(kernel, format!("{} numbers are no rows of {width}", rows.len())));
    }
    let count = rows.len() / width;
    parts.check(kernel, "parts", column_parts(count, width))?;
    let blocks = width.div_ceil(COLUMN_THREADS as usize);
    let call = Call::new(kernel, [blocks, count.div_ceil(PART), 1], [COLUMN_THREADS, 1, 1])?;
    call.read(rows).write(parts).count(count)?.count(width)?.count(PART)?.on(on)?;
    add_parts(on, parts.as_view(), count.div_ceil(PART), out)
}

/// `out` `[width]` += the sum of `parts` `[count, width]`, one after the other.
pub(crate) fn add_parts(
    on: &(impl Runner + ?Sized),
    parts: View<'_, f32>,
    count: usize,
    out: &mut ViewMut<'_, f32>,
) -> Result<()> {
    let blocks = out.len().div_ceil(COLUMN_THREADS as usize);
    let call = Call::new("add_parts", [blocks, 1, 1], [COLUMN_THREADS, 1, 1])?;
    call.read(parts).write(out).count(count)?.count(out.len())?.on(on)
}

/// What decides which elements are dropped, as `spin-model/src/dropout.rs` has it.
#[derive(Debug, Clone, Copy)]
pub struct DropoutMask {
    /// Of a seed and the tensor's name.
    pub key: u64,
    /// Elements whose 32 random bits are below this are dropped.
    pub threshold: u32,
    /// What the others are multiplied with.
    pub kept: f32,
}

/// Drops and scales elements, of which the first is number `first` of its tensor.
///
/// # Errors
///
/// As [`scale`].
pub fn dropout<T: Number>(
    on: &(impl Runner + ?Sized),
    values: &mut ViewMut<'_, T>,
    first: u64,
    mask: &DropoutMask,
) -> Result<()> {
    let call = Call::strided(of_type!("dropout", T), values.len().div_ceil(4), THREADS)?;
    let call = call.write(values).u64(values.len() as u64).u64(first);
    call.u64(mask.key).u32(mask.threshold).f32(mask.kept).on(on)
}
