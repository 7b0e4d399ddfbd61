//! Named weights, wherever in the model they are used.

#[cfg(any(test, feature = "cuda-kernels"))]
mod copies;
mod writes;

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::RwLockReadGuard;

use candle_core::{CpuStorage, Result, Storage, Tensor, Var};
use half::bf16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

#[cfg(any(test, feature = "cuda-kernels"))]
pub(crate) use copies::Form;
pub use writes::{times_written, written};

/// A weight with its Hugging Face name. Copies share the numbers.
#[derive(Debug, Clone)]
pub(crate) struct Param {
    pub name: String,
    pub var: Var,
    /// What machines with memory of their own keep of it.
    #[cfg(any(test, feature = "cuda-kernels"))]
    copies: copies::Copies,
}

/// The numbers of a weight on the CPU as they are kept: products take weights of bf16
/// as they are, so that they are never widened whole.
pub(crate) enum Kept<'a> {
    /// f32, or widened from f16.
    F32(Values<'a>),
    /// bf16, in place.
    Bf16 { storage: RwLockReadGuard<'a, Storage>, start: usize, len: usize },
}

/// Numbers of one type or the other.
#[derive(Clone, Copy)]
pub(crate) enum Numbers<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
}

/// The numbers of a weight on the CPU as f32.
pub(crate) enum Values<'a> {
    /// f32, in place.
    Borrowed { storage: RwLockReadGuard<'a, Storage>, start: usize, len: usize },
    /// Another type, widened.
    Widened(Vec<f32>),
}

impl Param {
    pub fn new(name: String, var: Var) -> Self {
        Self {
            name,
            var,
            #[cfg(any(test, feature = "cuda-kernels"))]
            copies: copies::Copies::default(),
        }
    }

    /// A parameter of the model.
    ///
    /// # Panics
    ///
    /// If there is none of that name: names come from the configuration.
    pub fn of(params: &BTreeMap<String, Var>, name: String) -> Self {
        let var = params[&name].clone();
        Self::new(name, var)
    }

    /// Its numbers as f32. They must be on the CPU.
    pub fn read(&self) -> Result<Values<'_>> {
        let tensor = self.var.as_tensor();
        let (storage, layout) = tensor.storage_and_layout();
        match (&*storage, layout.contiguous_offsets()) {
            (Storage::Cpu(CpuStorage::BF16(values)), Some((start, end))) => {
                Ok(Values::Widened(widened(&values[start..end])))
            }
            (Storage::Cpu(CpuStorage::F16(values)), Some((start, end))) => {
                Ok(Values::Widened(widened(&values[start..end])))
            }
            (Storage::Cpu(CpuStorage::F32(_)), Some((start, end))) => {
                Ok(Values::Borrowed { storage, start, len: end - start })
            }
            _ => candle_core::bail!("{}: not contiguous numbers on the CPU", self.name),
        }
    }

    /// Its numbers as f32, whatever they are kept in. They must be on the CPU.
    pub fn widened(&self) -> Result<Kept<'_>> {
        Ok(Kept::F32(self.read()?))
    }

    /// Its numbers as they are kept. They must be on the CPU.
    pub fn kept(&self) -> Result<Kept<'_>> {
        let (storage, layout) = self.var.as_tensor().storage_and_layout();
        match (&*storage, layout.contiguous_offsets()) {
            (Storage::Cpu(CpuStorage::BF16(_)), Some((start, end))) => {
                Ok(Kept::Bf16 { storage, start, len: end - start })
            }
            _ => {
                drop(storage);
                self.widened()
            }
        }
    }

    /// The tensor to compute with: tracked where a gradient is wanted.
    pub fn tensor(&self, tracked: bool) -> Tensor {
        if tracked { self.var.as_tensor().clone() } else { self.var.as_detached_tensor() }
    }
}

impl Numbers<'_> {
    /// Some of them, from one on, as f32.
    pub fn read(self, from: usize, to: &mut [f32]) {
        match self {
            Self::F32(values) => to.copy_from_slice(&values[from..from + to.len()]),
            Self::Bf16(values) => values[from..from + to.len()].convert_to_f32_slice(to),
        }
    }
}

impl Kept<'_> {
    /// The numbers.
    pub fn numbers(&self) -> Numbers<'_> {
        match self {
            Self::F32(values) => Numbers::F32(values),
            Self::Bf16 { storage, start, len } => match &**storage {
                Storage::Cpu(CpuStorage::BF16(values)) => Numbers::Bf16(&values[*start..start + len]),
                _ => unreachable!("checked when it was borrowed"),
            },
        }
    }
}

/// Numbers that one task widens.
const CHUNK: usize = 1 << 14;

/// Numbers of two bytes as f32, by all threads: a table of tokens has hundreds of
/// millions.
fn widened<T: Copy + Sync>(values: &[T]) -> Vec<f32>
where
    [T]: HalfFloatSliceExt,
{
    let mut wide = vec![0.0; values.len()];
    let chunks = wide.par_chunks_mut(CHUNK).zip(values.par_chunks(CHUNK));
    chunks.for_each(|(wide, values)| values.convert_to_f32_slice(wide));
    wide
}

impl Deref for Values<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            Self::Widened(values) => values,
            Self::Borrowed { storage, start, len } => match &**storage {
                Storage::Cpu(CpuStorage::F32(values)) => &values[*start..start + len],
                _ => unreachable!("checked when it was borrowed"),
            },
        }
    }
}
