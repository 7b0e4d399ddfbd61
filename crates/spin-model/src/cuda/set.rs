//! The set of operations, and what they are given.

use std::sync::OnceLock;

use spin_cuda::{Machine, Memory, SegmentViews, Segments};

use super::pages::Pools;
use crate::error::Result;
use crate::ops::{Heads, Region, View};

/// Numbers in f32 on a machine.
pub(super) type Buffer<M> = Memory<M, f32>;

/// The set of operations of a machine.
pub(crate) struct Cuda<M: Machine> {
    machine: &'static M,
    pools: &'static Pools<M>,
}

impl<M: Machine> Clone for Cuda<M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M: Machine> Copy for Cuda<M> {}

/// Token ids or numbers of rows, here and on a machine.
pub(crate) struct Indices<M: Machine> {
    pub(super) host: Vec<u32>,
    pub(super) device: Memory<M, u32>,
    segments: OnceLock<DeviceSegments<M>>,
}

/// Which rows are added to which.
pub(super) struct DeviceSegments<M: Machine> {
    order: Memory<M, u32>,
    starts: Memory<M, u32>,
    targets: Memory<M, u32>,
}

/// Whether there are kernels for a model's shapes.
#[cfg(feature = "cuda-kernels")]
pub(crate) fn computes(config: &crate::config::ModelConfig) -> bool {
    spin_cuda::AttentionPlan::new(&[], config.head_dim).is_ok()
}

/// The shape of attention, as kernels take it.
pub(super) fn attention_of(heads: &Heads) -> spin_cuda::Attention {
    spin_cuda::Attention {
        heads: heads.heads,
        kv_heads: heads.kv_heads,
        dim: heads.head_dim,
        scale: heads.scale,
        softcap: heads.softcap,
        window: heads.window,
    }
}

/// What is in a region, and between its columns.
pub(super) fn part<M: Machine>(view: View<'_, Buffer<M>>) -> spin_cuda::View<'_, f32> {
    view.buffer.view().slice(view.at.range())
}

/// Whole rows.
pub(super) fn whole<M: Machine>(view: View<'_, Buffer<M>>) -> spin_cuda::View<'_, f32> {
    view.buffer.view().slice(view.at.whole())
}

/// The rows that a region has columns of, and its first column.
pub(super) fn rows_around(at: Region) -> (Region, usize) {
    let column = at.first % at.stride;
    (Region { first: at.first - column, columns: at.stride, ..at }, column)
}

impl<M: Machine> Cuda<M> {
    pub fn new(machine: &'static M) -> Self {
        Self { machine, pools: Box::leak(Box::default()) }
    }

    pub(super) fn machine(&self) -> &'static M {
        self.machine
    }

    pub(super) fn pools(&self) -> &'static Pools<M> {
        self.pools
    }

    /// A copy of numbers of the machine.
    pub(super) fn copy_of(&self, from: spin_cuda::View<'_, f32>) -> Result<Buffer<M>> {
        let mut to = Memory::room(self.machine, from.len())?;
        spin_cuda::convert(self.machine, from, &mut to.view_mut())?;
        Ok(to)
    }

    pub(super) fn list(&self, values: &[u32]) -> Result<Memory<M, u32>> {
        Ok(Memory::upload(self.machine, values)?)
    }
}

impl<M: Machine> Indices<M> {
    pub(super) fn new(set: &Cuda<M>, values: &[u32]) -> Result<Self> {
        Ok(Self { host: values.to_vec(), device: set.list(values)?, segments: OnceLock::new() })
    }

    /// The rows with each of these numbers, for sums over them.
    pub(super) fn segments(&self, set: &Cuda<M>) -> Result<SegmentViews<'_>> {
        let segments = match self.segments.get() {
            Some(segments) => segments,
            None => {
                let Segments { order, starts, targets } = Segments::new(&self.host);
                let (order, starts, targets) = (set.list(&order)?, set.list(&starts)?, set.list(&targets)?);
                self.segments.get_or_init(|| DeviceSegments { order, starts, targets })
            }
        };
        Ok(SegmentViews {
            order: segments.order.view(),
            starts: segments.starts.view(),
            targets: segments.targets.view(),
        })
    }
}
