//! `rows.cu`: rows by number, and rows added to rows.

use crate::call::{Call, Runner, of_types};
use crate::error::{Error, Result};
use crate::memory::{Number, View, ViewMut};

const THREADS: u32 = 256;

/// `to` `[ids, width]` = `scale` times the rows of `from` with these numbers.
///
/// Ids are not looked at: they must be numbers of rows of `from`.
///
/// # Errors
///
/// If shapes do not fit or the device refuses.
pub fn gather<S: Number, T: Number>(
    on: &(impl Runner + ?Sized),
    from: View<'_, S>,
    ids: View<'_, u32>,
    to: &mut ViewMut<'_, T>,
    width: usize,
    scale: f32,
) -> Result<()> {
    let kernel = of_types!("gather", S, T);
    if width == 0 || !from.len().is_multiple_of(width) {
        return Err(Error::shape(kernel, format!("{} numbers are no rows of {width}", from.len())));
    }
    to.check(kernel, "to", ids.len() * width)?;
    let call = Call::new(kernel, [ids.len(), 1, 1], [THREADS, 1, 1])?.read(from).read(ids).write(to);
    call.count(ids.len())?.count(width)?.f32(scale).on(on)
}

/// Which rows are added to which: made once for a batch, on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segments {
    /// Numbers of rows, those of one target together and in their order.
    pub order: Vec<u32>,
    /// Where each target's begin in `order`, and the end.
    pub starts: Vec<u32>,
    /// The targets, ascending.
    pub targets: Vec<u32>,
}

impl Segments {
    /// For row r to be added to row `targets[r]`.
    pub fn new(targets: &[u32]) -> Self {
        let mut order: Vec<u32> = (0..targets.len() as u32).collect();
        order.sort_by_key(|row| targets[*row as usize]);
        let mut segments = Self { starts: vec![0], targets: Vec::new(), order: Vec::new() };
        for run in order.chunk_by(|a, b| targets[*a as usize] == targets[*b as usize]) {
            segments.targets.push(targets[run[0] as usize]);
            segments.starts.push(segments.starts[segments.targets.len() - 1] + run.len() as u32);
        }
        segments.order = order;
        segments
    }
}

/// [`Segments`] on the device.
#[derive(Debug, Clone, Copy)]
pub struct SegmentViews<'a> {
    /// [`Segments::order`].
    pub order: View<'a, u32>,
    /// [`Segments::starts`].
    pub starts: View<'a, u32>,
    /// [`Segments::targets`].
    pub targets: View<'a, u32>,
}

/// Adds rows of `from` to rows of `to`, times `scale`; where not `add`, the sums replace what was there. The gradient
/// of an embedding, and of [`gather`].
///
/// # Errors
///
/// As [`gather`].
pub fn add_segments<S: Number, T: Number>(
    on: &(impl Runner + ?Sized),
    from: View<'_, S>,
    segments: &SegmentViews<'_>,
    to: &mut ViewMut<'_, T>,
    width: usize,
    scale: f32,
    add: bool,
) -> Result<()> {
    let (kernel, count) = (of_types!("add_segments", S, T), segments.targets.len());
    if width == 0 || !to.len().is_multiple_of(width) {
        return Err(Error::shape(kernel, format!("{} numbers are no rows of {width}", to.len())));
    }
    segments.starts.check(kernel, "starts", count + 1)?;
    from.check(kernel, "from", segments.order.len() * width)?;
    let call = Call::new(kernel, [count, 1, 1], [THREADS, 1, 1])?.read(from).read(segments.order);
    let call = call.read(segments.starts).read(segments.targets).write(to);
    call.count(count)?.count(width)?.f32(scale).u32(u32::from(add)).on(on)
}
