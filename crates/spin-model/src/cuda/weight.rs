//! Weights on a machine.

use std::sync::Arc;

use half::bf16;
use spin_cuda::{Machine, Memory, View};

use super::set::Cuda;
use crate::error::Result;
use crate::params::{Form, Numbers, Param};

/// A weight on a machine.
pub(crate) type Weight<M> = Arc<DeviceNumbers<M>>;

/// Numbers of one type or the other, on a machine.
pub(crate) enum DeviceNumbers<M: Machine> {
    F32(Memory<M, f32>),
    Bf16(Memory<M, bf16>),
}

impl<M: Machine> DeviceNumbers<M> {
    pub(super) fn upload(set: &Cuda<M>, numbers: Numbers<'_>) -> Result<Self> {
        Ok(match numbers {
            Numbers::F32(values) => Self::F32(Memory::upload(set.machine(), values)?),
            Numbers::Bf16(values) => Self::Bf16(Memory::upload(set.machine(), values)?),
        })
    }

    /// Whether products with them round both factors.
    pub(super) fn rounds(&self) -> bool {
        matches!(self, Self::Bf16(_))
    }

    /// The numbers of a norm, a bias or an adapter, which are f32.
    pub(super) fn wide(&self) -> View<'_, f32> {
        match self {
            Self::F32(values) => values.view(),
            Self::Bf16(_) => unreachable!("norms, biases and adapters are widened"),
        }
    }
}

/// A weight's numbers in memory.
pub(super) fn with_numbers<R>(param: &Param, form: Form, take: impl FnOnce(Numbers<'_>) -> Result<R>) -> Result<R> {
    let kept = match form {
        Form::Kept => param.kept()?,
        Form::Wide => param.widened()?,
    };
    take(kept.numbers())
}

impl<M: Machine> Cuda<M> {
    /// The machine's copy of a weight.
    pub(super) fn copy_of_weight(&self, param: &Param, form: Form) -> Result<Weight<M>> {
        let machine = std::ptr::from_ref(self.pools()).addr();
        param.copy(machine, form, || with_numbers(param, form, |numbers| DeviceNumbers::upload(self, numbers)))
    }
}
