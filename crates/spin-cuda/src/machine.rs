//! What computes a model: a runner of kernels with memory of its own and matrix products.

use std::marker::PhantomData;
use std::ops::Range;

use half::bf16;

use crate::call::Runner;
use crate::error::{Error, Result};
use crate::memory::{Number, View, ViewMut};
use crate::product::Factor;

/// Bytes that every piece of memory has at least, as drivers give none of no bytes.
const LEAST: usize = 16;

/// A GPU, or what stands in for one. All work is done in the order in which it is asked for.
///
/// # Safety
///
/// [`Machine::address`] must be that of as many bytes as were asked for, begin at a multiple of 16, and stay valid for
/// kernels and products that were asked for before the bytes are dropped.
pub unsafe trait Machine: Runner + Send + Sync + 'static {
    /// Memory, given back when it is dropped.
    type Bytes: Send + Sync;

    /// Memory that may hold anything.
    ///
    /// # Errors
    ///
    /// If there is none; likewise for the others.
    fn room(&self, bytes: usize) -> Result<Self::Bytes>;

    /// Memory of zeros.
    ///
    /// # Errors
    ///
    /// As [`Machine::room`].
    fn zeros(&self, bytes: usize) -> Result<Self::Bytes>;

    /// A copy of the host's.
    ///
    /// # Errors
    ///
    /// As [`Machine::room`].
    fn upload(&self, bytes: &[u8]) -> Result<Self::Bytes>;

    /// A copy of some bytes to the host's memory, once all work before is done.
    ///
    /// # Errors
    ///
    /// If that work failed.
    fn download(&self, from: &Self::Bytes, first: usize, to: &mut [u8]) -> Result<()>;

    /// Bytes that nobody has; `None` where that is not known.
    fn free(&self) -> Option<u64> {
        None
    }

    /// Where memory is, for kernels.
    fn address(&self, bytes: &Self::Bytes) -> u64;

    /// `out` `[m, n]`, of rows `stride` apart, = `scale` `a` `b`, or += that; sums in f32.
    ///
    /// # Errors
    ///
    /// If shapes do not fit or the machine refuses.
    fn product<T: Number>(
        &self,
        a: &Factor<'_, T>,
        b: &Factor<'_, T>,
        out: &mut ViewMut<'_, f32>,
        stride: usize,
        scale: f32,
        add: bool,
    ) -> Result<()>;
}

/// A number that memory is made of.
///
/// # Safety
///
/// Every pattern of bits must be one, without padding.
pub unsafe trait Plain: Copy + Default + Send + Sync + 'static {}

// SAFETY: as it asks for.
unsafe impl Plain for f32 {}
// SAFETY: as it asks for.
unsafe impl Plain for bf16 {}
// SAFETY: as it asks for.
unsafe impl Plain for u32 {}

/// Numbers in a machine's memory.
pub struct Memory<M: Machine, T> {
    bytes: M::Bytes,
    address: u64,
    len: usize,
    of: PhantomData<T>,
}

impl<M: Machine, T> std::fmt::Debug for Memory<M, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memory").field("len", &self.len).finish_non_exhaustive()
    }
}

impl<M: Machine, T: Plain> Memory<M, T> {
    fn new(machine: &M, bytes: M::Bytes, len: usize) -> Self {
        Self { address: machine.address(&bytes), bytes, len, of: PhantomData }
    }

    fn size(len: usize) -> Result<usize> {
        let bytes = len.checked_mul(size_of::<T>()).map(|bytes| bytes.max(LEAST));
        bytes.ok_or_else(|| Error::Memory { bytes: usize::MAX, message: format!("{len} numbers are too many") })
    }

    /// Room for so many numbers, which may be anything.
    ///
    /// # Errors
    ///
    /// If there is no memory; likewise for the others.
    pub fn room(machine: &M, len: usize) -> Result<Self> {
        Ok(Self::new(machine, machine.room(Self::size(len)?)?, len))
    }

    /// So many zeros.
    ///
    /// # Errors
    ///
    /// As [`Memory::room`].
    pub fn zeros(machine: &M, len: usize) -> Result<Self> {
        Ok(Self::new(machine, machine.zeros(Self::size(len)?)?, len))
    }

    /// A copy of the host's numbers.
    ///
    /// # Errors
    ///
    /// As [`Memory::room`].
    pub fn upload(machine: &M, values: &[T]) -> Result<Self> {
        if size_of_val(values) < LEAST {
            // As many as there are at least, of which the first count.
            let mut padded = vec![T::default(); LEAST / size_of::<T>()];
            padded[..values.len()].copy_from_slice(values);
            return Ok(Self { len: values.len(), ..Self::upload(machine, &padded)? });
        }
        // SAFETY: all of the slice; numbers have no padding.
        let bytes = unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) };
        Ok(Self::new(machine, machine.upload(bytes)?, values.len()))
    }

    /// Some numbers, once all work before is done.
    ///
    /// # Errors
    ///
    /// If that work failed.
    ///
    /// # Panics
    ///
    /// If it has not so many.
    pub fn download(&self, machine: &M, range: Range<usize>) -> Result<Vec<T>> {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {}", self.len);
        let mut values = vec![T::default(); range.len()];
        // SAFETY: all of the vector; every pattern of bits is a number.
        let bytes =
            unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values.as_slice())) };
        if !range.is_empty() {
            machine.download(&self.bytes, range.start * size_of::<T>(), bytes)?;
        }
        Ok(values)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// To be read.
    pub fn view(&self) -> View<'_, T> {
        // SAFETY: so many numbers lie there, as the machine promises, as long as this is borrowed; it is dropped in the
        // order of the work.
        unsafe { View::new(self.address, self.len) }
    }

    /// To be written.
    pub fn view_mut(&mut self) -> ViewMut<'_, T> {
        // SAFETY: as above, and borrowed exclusively.
        unsafe { ViewMut::new(self.address, self.len) }
    }
}
