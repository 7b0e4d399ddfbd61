//! Gradients of a set of trainable tensors: collected, accumulated, clipped.

use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{DType, Result as CandleResult, Storage, Tensor, Var};
use rayon::prelude::*;

use super::{CHUNK, OptimError, Result};

/// A gradient for each trainable tensor, by name.
#[derive(Debug, Clone)]
pub struct Gradients(BTreeMap<String, Tensor>);

impl From<BTreeMap<String, Tensor>> for Gradients {
    fn from(tensors: BTreeMap<String, Tensor>) -> Self {
        Self(tensors)
    }
}

impl Gradients {
    /// Takes the gradients of `params` out of what a backward pass left.
    ///
    /// # Errors
    ///
    /// If a tensor has none.
    pub fn take(params: &BTreeMap<String, Var>, store: &mut GradStore) -> Result<Self> {
        params
            .iter()
            .map(|(name, var)| {
                let grad = store.remove(var).ok_or_else(|| OptimError::MissingGradient(name.clone()))?;
                Ok((name.clone(), grad))
            })
            .collect::<Result<_>>()
            .map(Self)
    }

    /// The gradients by name.
    pub fn tensors(&self) -> &BTreeMap<String, Tensor> {
        &self.0
    }

    /// Adds those of another micro-batch.
    ///
    /// # Errors
    ///
    /// If `other` lacks a tensor or has another shape.
    pub fn accumulate(&mut self, other: &Self) -> Result<()> {
        for (name, grad) in &mut self.0 {
            let other = other.0.get(name).ok_or_else(|| OptimError::MissingGradient(name.clone()))?;
            *grad = (&*grad + other)?;
        }
        Ok(())
    }

    /// Multiplies all gradients.
    ///
    /// # Errors
    ///
    /// If the tensor operation fails.
    pub fn scale(&mut self, factor: f64) -> Result<()> {
        for grad in self.0.values_mut() {
            *grad = (&*grad * factor)?;
        }
        Ok(())
    }

    /// The Euclidean norm of all gradients together.
    ///
    /// # Errors
    ///
    /// If the tensor operation fails.
    pub fn global_norm(&self) -> Result<f64> {
        let mut sum = 0.0;
        for grad in self.0.values() {
            sum += sum_of_squares(grad)?;
        }
        Ok(sum.sqrt())
    }

    /// As `torch.nn.utils.clip_grad_norm_`: scales the gradients so that their
    /// global norm is at most `max_norm`, and returns the norm before.
    ///
    /// If that is not finite the gradients are left alone; the caller decides
    /// whether to skip the step or to stop.
    ///
    /// # Errors
    ///
    /// If the tensor operation fails.
    pub fn clip_global_norm(&mut self, max_norm: f64) -> Result<f64> {
        let norm = self.global_norm()?;
        let factor = max_norm / (norm + 1e-6);
        if norm.is_finite() && factor < 1.0 {
            self.scale(factor)?;
        }
        Ok(norm)
    }
}

fn sum_of_squares(tensor: &Tensor) -> CandleResult<f64> {
    let tensor = tensor.contiguous()?;
    if tensor.device().is_cpu() && tensor.dtype() == DType::F32 {
        let (storage, layout) = tensor.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else {
            candle_core::bail!("a CPU tensor without CPU storage");
        };
        let start = layout.start_offset();
        let values = &storage.as_slice::<f32>()?[start..start + tensor.elem_count()];
        // Collected before summing: the order of additions must not depend on
        // the threads.
        let parts: Vec<f64> =
            values.par_chunks(CHUNK).map(|chunk| chunk.iter().map(|x| f64::from(*x) * f64::from(*x)).sum()).collect();
        return Ok(parts.iter().sum());
    }
    let sum = tensor.to_dtype(DType::F32)?.sqr()?.sum_all()?;
    Ok(f64::from(sum.to_scalar::<f32>()?))
}
