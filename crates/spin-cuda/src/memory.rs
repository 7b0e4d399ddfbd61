//! Memory of a device, as addresses with a length and a type.
//!
//! A view is what a launch takes, whoever owns the memory: cudarc's slices on a GPU, vectors where the host runs the
//! kernels for tests.

use std::marker::PhantomData;
use std::ops::Range;

use half::bf16;

use crate::error::{Error, Result};

/// A type that kernels compute with; sums are f32 whatever it is.
pub trait Number: Copy + 'static {
    /// Which of them.
    const KIND: Kind;
}

/// The types of [`Number`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// f32, `float` in the names of kernels.
    F32,
    /// bf16.
    Bf16,
}

impl Number for f32 {
    const KIND: Kind = Kind::F32;
}

impl Number for bf16 {
    const KIND: Kind = Kind::Bf16;
}

/// Numbers that a kernel reads.
#[derive(Debug)]
pub struct View<'a, T> {
    address: u64,
    len: usize,
    of: PhantomData<&'a T>,
}

/// Numbers that a kernel writes, and may read.
#[derive(Debug)]
pub struct ViewMut<'a, T> {
    address: u64,
    len: usize,
    of: PhantomData<&'a mut T>,
}

impl<T> Clone for View<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for View<'_, T> {}

impl<'a, T> View<'a, T> {
    /// Memory from an address on.
    ///
    /// # Safety
    ///
    /// `len` values of `T` must lie there, be aligned, and stay for `'a` and until the work that was given to the
    /// device meanwhile is done.
    pub const unsafe fn new(address: u64, len: usize) -> Self {
        Self { address, len, of: PhantomData }
    }

    /// Its address.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A part.
    ///
    /// # Panics
    ///
    /// If it has not so many.
    pub fn slice(self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {}", self.len);
        let address = self.address + (range.start * size_of::<T>()) as u64;
        Self { address, len: range.len(), of: PhantomData }
    }

    pub(crate) fn check(&self, kernel: &'static str, what: &'static str, wanted: usize) -> Result<()> {
        check(kernel, what, self.len, wanted)
    }
}

impl<'a, T> ViewMut<'a, T> {
    /// As [`View::new`].
    ///
    /// # Safety
    ///
    /// As there; and nothing else may use the memory meanwhile.
    pub const unsafe fn new(address: u64, len: usize) -> Self {
        Self { address, len, of: PhantomData }
    }

    /// Its address.
    pub fn address(&self) -> u64 {
        self.address
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
    pub fn as_view(&self) -> View<'_, T> {
        View { address: self.address, len: self.len, of: PhantomData }
    }

    /// For a shorter time.
    pub fn reborrow(&mut self) -> ViewMut<'_, T> {
        ViewMut { address: self.address, len: self.len, of: PhantomData }
    }

    /// A part.
    ///
    /// # Panics
    ///
    /// If it has not so many.
    pub fn slice(self, range: Range<usize>) -> ViewMut<'a, T> {
        let part = self.as_view().slice(range);
        ViewMut { address: part.address, len: part.len, of: PhantomData }
    }

    pub(crate) fn check(&self, kernel: &'static str, what: &'static str, wanted: usize) -> Result<()> {
        check(kernel, what, self.len, wanted)
    }
}

fn check(kernel: &'static str, what: &'static str, found: usize, wanted: usize) -> Result<()> {
    if found < wanted { Err(Error::Length { kernel, what, found, wanted }) } else { Ok(()) }
}
