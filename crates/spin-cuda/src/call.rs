//! One launch of a kernel: its name, its size, its arguments.

use std::ffi::c_void;

use crate::error::{Error, Result};
use crate::memory::{View, ViewMut};

/// Arguments of a kernel at most.
const ARGUMENTS: usize = 24;
/// Blocks of a grid's second and third dimension at most.
const BLOCKS: usize = 65_535;
/// Blocks in a grid of those kernels that go over numbers in strides: enough for every processor of a GPU to have
/// several.
pub(crate) const STRIDED_BLOCKS: usize = 2_048;

/// Something that runs kernels: a GPU, or the host that stands in for one in tests.
pub trait Runner {
    /// Runs a kernel, or puts it in line to be run.
    ///
    /// # Errors
    ///
    /// If it is refused.
    fn run(&self, call: &Call) -> Result<()>;
}

/// One launch. Nothing is allocated for it, so that launches can be captured into a graph.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    /// The kernel's name.
    pub kernel: &'static str,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Bytes of shared memory that the kernel does not know itself.
    pub shared: u32,
    words: [u64; ARGUMENTS],
    /// Bytes of memory behind each word; 0 for numbers.
    bytes: [usize; ARGUMENTS],
    count: usize,
}

impl Call {
    pub(crate) fn new(kernel: &'static str, grid: [usize; 3], block: [u32; 3]) -> Result<Self> {
        if grid[1] > BLOCKS || grid[2] > BLOCKS || i32::try_from(grid[0]).is_err() {
            return Err(Error::shape(kernel, format!("{grid:?} blocks are more than a device takes")));
        }
        let grid = grid.map(|blocks| blocks as u32);
        Ok(Self { kernel, grid, block, shared: 0, words: [0; ARGUMENTS], bytes: [0; ARGUMENTS], count: 0 })
    }

    /// For kernels in which each thread takes every so many-th of `items`.
    pub(crate) fn strided(kernel: &'static str, items: usize, threads: u32) -> Result<Self> {
        Self::new(kernel, [items.div_ceil(threads as usize).min(STRIDED_BLOCKS), 1, 1], [threads, 1, 1])
    }

    pub(crate) fn shared(self, bytes: usize) -> Self {
        Self { shared: bytes as u32, ..self }
    }

    fn word(self, word: u64) -> Self {
        self.at(word, 0)
    }

    /// Memory at an address, where a view is both read and written.
    pub(crate) fn at(mut self, address: u64, bytes: usize) -> Self {
        (self.words[self.count], self.bytes[self.count]) = (address, bytes);
        self.count += 1;
        self
    }

    pub(crate) fn read<T>(self, view: View<'_, T>) -> Self {
        self.at(view.address(), view.len() * size_of::<T>())
    }

    pub(crate) fn write<T>(self, view: &ViewMut<'_, T>) -> Self {
        self.read(view.as_view())
    }

    /// An address that may be none.
    pub(crate) fn read_any<T>(self, view: Option<View<'_, T>>) -> Self {
        match view {
            Some(view) => self.read(view),
            None => self.word(0),
        }
    }

    pub(crate) fn count(self, value: usize) -> Result<Self> {
        let small =
            u32::try_from(value).map_err(|_| Error::shape(self.kernel, format!("{value} is more than 2^32")))?;
        Ok(self.word(u64::from(small)))
    }

    pub(crate) fn u32(self, value: u32) -> Self {
        self.word(u64::from(value))
    }

    pub(crate) fn u64(self, value: u64) -> Self {
        self.word(value)
    }

    pub(crate) fn f32(self, value: f32) -> Self {
        self.word(u64::from(value.to_bits()))
    }

    pub(crate) fn f64(self, value: f64) -> Self {
        self.word(value.to_bits())
    }

    /// Addresses of the arguments, as launching functions take them. They are those of this value: it must stay where
    /// it is. Little-endian, as every host of a CUDA device is: a shorter argument is the beginning of its word.
    pub fn arguments(&self) -> [*mut c_void; ARGUMENTS] {
        std::array::from_fn(|at| std::ptr::from_ref(&self.words[at]).cast_mut().cast())
    }

    /// Addresses and bytes of all memory that it reads or writes; pieces may overlap.
    pub fn memory(&self) -> impl Iterator<Item = (u64, usize)> {
        self.words[..self.count].iter().copied().zip(self.bytes).filter(|(_, bytes)| *bytes > 0)
    }

    /// The same with its memory elsewhere: `place` gives the new address of an old one.
    #[must_use]
    pub fn moved(mut self, place: impl Fn(u64) -> u64) -> Self {
        for (word, _) in self.words.iter_mut().zip(self.bytes).filter(|(_, bytes)| *bytes > 0) {
            *word = place(*word);
        }
        self
    }

    /// Runs it, if there is anything to do.
    pub(crate) fn on(self, runner: &(impl Runner + ?Sized)) -> Result<()> {
        if self.grid.contains(&0) { Ok(()) } else { runner.run(&self) }
    }
}

/// The name of a kernel that exists for both types.
macro_rules! of_type {
    ($name:literal, $type:ty) => {
        match <$type as $crate::memory::Number>::KIND {
            $crate::memory::Kind::F32 => concat!($name, "_float"),
            $crate::memory::Kind::Bf16 => concat!($name, "_bf16"),
        }
    };
}

/// The name of a kernel that exists for both types of two arguments.
macro_rules! of_types {
    ($name:literal, $first:ty, $second:ty) => {
        match (<$first as $crate::memory::Number>::KIND, <$second as $crate::memory::Number>::KIND) {
            ($crate::memory::Kind::F32, $crate::memory::Kind::F32) => concat!($name, "_float_float"),
            ($crate::memory::Kind::F32, $crate::memory::Kind::Bf16) => concat!($name, "_float_bf16"),
            ($crate::memory::Kind::Bf16, $crate::memory::Kind::F32) => concat!($name, "_bf16_float"),
            ($crate::memory::Kind::Bf16, $crate::memory::Kind::Bf16) => concat!($name, "_bf16_bf16"),
        }
    };
}

pub(crate) use {of_type, of_types};
