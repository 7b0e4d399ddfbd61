//! Named weights, wherever in the model they are used.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::RwLockReadGuard;

use candle_core::{CpuStorage, DType, Result, Storage, Tensor, Var};

/// A weight with its Hugging Face name. Copies share the numbers.
#[derive(Debug, Clone)]
pub(crate) struct Param {
    pub name: String,
    pub var: Var,
}

/// The numbers of a weight on the CPU.
pub(crate) enum Values<'a> {
    /// f32, in place.
    Borrowed { storage: RwLockReadGuard<'a, Storage>, start: usize, len: usize },
    /// Another type, widened.
    Widened(Vec<f32>),
}

impl Param {
    /// A parameter of the model.
    ///
    /// # Panics
    ///
    /// If there is none of that name: names come from the configuration.
    pub fn of(params: &BTreeMap<String, Var>, name: String) -> Self {
        let var = params[&name].clone();
        Self { name, var }
    }

    /// Its numbers as f32. They must be on the CPU.
    pub fn read(&self) -> Result<Values<'_>> {
        let tensor = self.var.as_tensor();
        if tensor.dtype() != DType::F32 {
            return Ok(Values::Widened(tensor.flatten_all()?.to_dtype(DType::F32)?.to_vec1()?));
        }
        let (storage, layout) = tensor.storage_and_layout();
        match (&*storage, layout.contiguous_offsets()) {
            (Storage::Cpu(CpuStorage::F32(_)), Some((start, end))) => {
                Ok(Values::Borrowed { storage, start, len: end - start })
            }
            _ => candle_core::bail!("{}: not contiguous numbers on the CPU", self.name),
        }
    }

    /// The tensor to compute with: tracked where a gradient is wanted.
    pub fn tensor(&self, tracked: bool) -> Tensor {
        if tracked { self.var.as_tensor().clone() } else { self.var.as_detached_tensor() }
    }
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
