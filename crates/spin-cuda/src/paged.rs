//! `attention_paged.cu`: keys and values kept in pages, and new tokens that attend to them.
//!
//! A layer's pages are two pieces of memory, `[pages, page, kv_heads, dim]` for keys and for values; a table
//! `[sequences, table_len]` says which page has which positions of which sequence. Rows are new tokens, each of a
//! sequence at a position; [`NO_ROW`] as position leaves a row out, so that a captured graph can have more rows than
//! there are sequences.

use crate::attention::{Attention, of_width};
use crate::call::{Call, Runner, of_type};
use crate::error::{Error, Result};
use crate::memory::{Kind, Number, View, ViewMut};
use crate::plan::{block_rows, shared_bytes};

/// The position of a row that is of no sequence.
pub const NO_ROW: u32 = u32::MAX;
/// Keys of a split: a constant, so that a sequence's sums do not depend on the others of its batch.
pub const SPLIT: usize = 256;

/// Pages of one layer.
#[derive(Debug, Clone, Copy)]
pub struct Pages<'a> {
    /// `[sequences, table_len]`: numbers of pages.
    pub tables: View<'a, u32>,
    /// Pages that a sequence has at most.
    pub table_len: usize,
    /// Positions of a page.
    pub page: usize,
}

/// New tokens.
#[derive(Debug, Clone, Copy)]
pub struct NewRows<'a, T> {
    /// Queries, keys and values `[rows, qkv_width]`, rotated.
    pub qkv: View<'a, T>,
    /// The sequence of each row.
    pub sequences: View<'a, u32>,
    /// Its position.
    pub positions: View<'a, u32>,
}

impl<T: Number> NewRows<'_, T> {
    fn check(&self, kernel: &'static str, of: &Attention, pages: &Pages<'_>) -> Result<usize> {
        let rows = self.positions.len();
        self.qkv.check(kernel, "qkv", rows * of.qkv_width())?;
        self.sequences.check(kernel, "sequences", rows)?;
        if pages.page == 0 || pages.table_len == 0 || !pages.tables.len().is_multiple_of(pages.table_len) {
            return Err(Error::shape(
                kernel,
                format!("{} pages are no tables of {}", pages.tables.len(), pages.table_len),
            ));
        }
        Ok(rows)
    }
}

/// Puts the keys and values of new tokens into their places. Positions and numbers of pages are not looked at.
///
/// # Errors
///
/// If shapes do not fit or the device refuses; likewise for the others.
pub fn cache_append<T: Number>(
    on: &(impl Runner + ?Sized),
    of: &Attention,
    new: &NewRows<'_, T>,
    pages: &Pages<'_>,
    keys: &mut ViewMut<'_, T>,
    values: &mut ViewMut<'_, T>,
) -> Result<()> {
    let kernel = of_type!("cache_append", T);
    of.check(kernel)?;
    let rows = new.check(kernel, of, pages)?;
    values.check(kernel, "values", keys.len())?;
    let call = Call::new(kernel, [rows, 1, 1], [256, 1, 1])?.read(new.qkv).read(new.sequences);
    let call = call.read(new.positions).read(pages.tables).write(keys).write(values);
    let call = call.count(of.heads)?.count(of.kv_heads)?.count(of.dim)?;
    call.count(pages.page)?.count(pages.table_len)?.on(on)
}

/// Memory between the two kernels of [`attention_paged`].
#[derive(Debug)]
pub struct PagedScratch<'a> {
    /// `[splits, rows, heads, dim]`.
    pub outs: ViewMut<'a, f32>,
    /// `[splits, rows, heads, 2]`.
    pub sums: ViewMut<'a, f32>,
}

/// Splits of sequences of at most `longest` positions.
pub fn splits(longest: usize) -> usize {
    longest.div_ceil(SPLIT)
}

/// The heads' outputs `[rows, heads * dim]` of new tokens whose keys and values are in the pages already, for
/// sequences of at most `longest` positions. Rows of no sequence are left as they are.
///
/// # Errors
///
/// As [`cache_append`].
#[expect(clippy::too_many_arguments, reason = "operands, pages and scratch memory of one operation")]
pub fn attention_paged<T: Number>(
    on: &(impl Runner + ?Sized),
    of: &Attention,
    new: &NewRows<'_, T>,
    pages: &Pages<'_>,
    keys: View<'_, T>,
    values: View<'_, T>,
    longest: usize,
    scratch: &mut PagedScratch<'_>,
    out: &mut ViewMut<'_, T>,
) -> Result<()> {
    let width = of.check("attention_paged")?;
    let kernel = of_width!("attention_paged", T, width);
    let rows = new.check(kernel, of, pages)?;
    let splits = splits(longest);
    if longest > pages.page * pages.table_len {
        return Err(Error::shape(kernel, format!("{longest} positions are more than a table's pages have")));
    }
    values.check(kernel, "values", keys.len())?;
    scratch.outs.check(kernel, "outs", splits * rows * of.out_width())?;
    scratch.sums.check(kernel, "sums", splits * rows * of.heads * 2)?;
    out.check(kernel, "out", rows * of.out_width())?;
    let window = of.window.unwrap_or(0);
    let group = (of.heads / of.kv_heads).div_ceil(block_rows(width));
    let call = Call::new(kernel, [rows, of.kv_heads * group, splits], [128, 1, 1])?.shared(shared_bytes(width, 1, 1));
    let call = call.read(new.qkv).read(keys).read(values).read(new.sequences).read(new.positions).read(pages.tables);
    let call = call.write(&scratch.outs).write(&scratch.sums).count(rows)?.count(of.heads)?.count(of.kv_heads)?;
    let call = call.count(of.dim)?.count(window)?.count(pages.page)?.count(pages.table_len)?.count(SPLIT)?;
    call.f32(of.scale).f32(of.softcap.unwrap_or(0.0)).on(on)?;
    let call = Call::new(of_type!("attention_paged_join", T), [(rows * of.heads).div_ceil(4), 1, 1], [32, 4, 1])?;
    let call = call.read(scratch.outs.as_view()).read(scratch.sums.as_view()).read(new.positions).write(out);
    call.count(rows)?.count(of.heads)?.count(of.dim)?.count(window)?.count(SPLIT)?.on(on)
}
