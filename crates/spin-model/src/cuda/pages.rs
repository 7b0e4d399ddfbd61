//! Keys and values of growing sequences, in pages of memory that all sequences and
//! layers with heads of one width share: kernels take one piece of memory for all
//! sequences of a step.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use spin_cuda::{Machine, Memory, SegmentViews, add_segments, gather};

use crate::error::Result;

/// Positions of a page.
pub(super) const PAGE: usize = if cfg!(test) { 8 } else { 64 };

/// The pages of a machine, by the width of a position's keys.
pub(crate) struct Pools<M: Machine>(Mutex<BTreeMap<usize, Weak<Pool<M>>>>);

/// Pages of one width; they are given back to the machine with the last sequence.
pub(crate) struct Pool<M: Machine> {
    width: usize,
    slab: Mutex<Slab<M>>,
}

/// The memory of all pages, `[pages, PAGE, width]` of keys and of values.
pub(super) struct Slab<M: Machine> {
    pub keys: Memory<M, f32>,
    pub values: Memory<M, f32>,
    pages: usize,
    /// Numbers of pages that no sequence has.
    free: Vec<u32>,
}

/// Pages of one layer of one sequence.
pub(crate) struct Pages<M: Machine> {
    pub(super) pool: Arc<Pool<M>>,
    pub(super) numbers: Vec<u32>,
}

impl<M: Machine> Default for Pools<M> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<M: Machine> Pool<M> {
    pub fn lock(&self) -> MutexGuard<'_, Slab<M>> {
        self.slab.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M: Machine> Slab<M> {
    /// Makes it larger by some pages: what is there is copied.
    fn grow(&mut self, machine: &M, more: usize, width: usize) -> Result<()> {
        let len = (self.pages + more).saturating_mul(PAGE * width);
        for memory in [&mut self.keys, &mut self.values] {
            // Also where the other could not grow: pages are counted at the end.
            if memory.len() < len {
                let mut larger = Memory::room(machine, len)?;
                let mut same = larger.view_mut().slice(0..memory.len());
                spin_cuda::convert(machine, memory.view(), &mut same)?;
                *memory = larger;
            }
        }
        let first = self.pages as u32;
        self.free.extend((first..first + more as u32).rev());
        self.pages += more;
        Ok(())
    }
}

impl<M: Machine> Pages<M> {
    /// For so many positions of `width` numbers.
    pub fn new(machine: &M, pools: &Pools<M>, width: usize, positions: usize) -> Result<Self> {
        let mut pools = pools.0.lock().unwrap_or_else(PoisonError::into_inner);
        let pool = match pools.get(&width).and_then(Weak::upgrade) {
            Some(pool) => pool,
            None => {
                let (keys, values) = (Memory::room(machine, 0)?, Memory::room(machine, 0)?);
                let slab = Slab { keys, values, pages: 0, free: Vec::new() };
                let pool = Arc::new(Pool { width, slab: Mutex::new(slab) });
                pools.insert(width, Arc::downgrade(&pool));
                pool
            }
        };
        drop(pools);
        let (mut slab, count) = (pool.lock(), positions.div_ceil(PAGE));
        if slab.free.len() < count {
            // A quarter more than there are, so that little is copied often.
            let more = (count - slab.free.len()).max(slab.pages / 4);
            slab.grow(machine, more, width)?;
        }
        let left = slab.free.len() - count;
        let numbers = slab.free.split_off(left);
        drop(slab);
        Ok(Self { pool, numbers })
    }

    /// Copies the first pages, for so many positions, from others.
    pub fn copy(&mut self, machine: &M, from: &Self, positions: usize) -> Result<()> {
        let (count, width) = (positions.div_ceil(PAGE), PAGE * self.pool.width);
        if count == 0 {
            return Ok(());
        }
        let here: Vec<u32> = (0..=count as u32).collect();
        let (sources, targets) =
            (Memory::upload(machine, &from.numbers[..count])?, Memory::upload(machine, &self.numbers[..count])?);
        let here = Memory::upload(machine, &here)?;
        let segments =
            SegmentViews { order: here.view().slice(0..count), starts: here.view(), targets: targets.view() };
        let mut slab = self.pool.lock();
        let mut between = Memory::<M, f32>::room(machine, count * width)?;
        let Slab { keys, values, .. } = &mut *slab;
        for memory in [keys, values] {
            gather(machine, memory.view(), sources.view(), &mut between.view_mut(), width, 1.0)?;
            let mut to = memory.view_mut();
            add_segments(machine, between.view(), &segments, &mut to, width, 1.0, false)?;
        }
        Ok(())
    }
}

impl<M: Machine> Drop for Pages<M> {
    fn drop(&mut self) {
        self.pool.lock().free.append(&mut self.numbers);
    }
}
