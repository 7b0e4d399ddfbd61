//! Optimisers with PyTorch's semantics, and clipping by the global norm.
//!
//! State is f32 whatever the type of the weights, and goes in and out as named
//! tensors, so that training resumes exactly. On f32 CPU weights the update
//! runs in place and in parallel; elsewhere it is composed of tensor
//! operations.

mod gradients;
mod rule;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Mutex;

use candle_core::{CpuStorage, DType, Device, InplaceOp2, Layout, Result as CandleResult, Tensor, Var};
use rayon::prelude::*;

pub use gradients::Gradients;
pub use rule::{AdamW, RmsProp, Rule};

/// Numbers that one parallel task works on.
const CHUNK: usize = 1 << 14;

/// What can go wrong in an optimiser.
#[derive(Debug, thiserror::Error)]
pub enum OptimError {
    /// The loss does not depend on a trainable tensor, which is a defect of
    /// the forward pass: candle drops gradients silently.
    #[error("no gradient reached the trainable tensor `{0}`")]
    MissingGradient(String),
    /// Restored state does not belong to this optimiser.
    #[error("optimiser state `{name}`: {message}; was it saved by another optimiser or model?")]
    State {
        /// The tensor's name in the state.
        name: String,
        /// What is wrong.
        message: String,
    },
    /// A tensor operation failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// The result of this module's fallible functions.
pub type Result<T> = std::result::Result<T, OptimError>;

/// A rule with its state for a set of trainable tensors.
#[derive(Debug)]
pub struct Optimizer {
    rule: Rule,
    step: u32,
    slots: Vec<Slot>,
}

#[derive(Debug)]
struct Slot {
    name: String,
    var: Var,
    state: State,
}

/// One buffer per name of [`Rule::buffer_names`].
#[derive(Debug)]
enum State {
    Host(Vec<Vec<f32>>),
    Device(Vec<Tensor>),
}

impl State {
    fn new(buffers: Vec<Tensor>, var: &Var) -> CandleResult<Self> {
        if var.device().is_cpu() && var.dtype() == DType::F32 {
            let to_host = |tensor: &Tensor| tensor.flatten_all()?.to_vec1::<f32>();
            Ok(Self::Host(buffers.iter().map(to_host).collect::<CandleResult<_>>()?))
        } else {
            let to_device = |tensor: &Tensor| tensor.to_device(var.device());
            Ok(Self::Device(buffers.iter().map(to_device).collect::<CandleResult<_>>()?))
        }
    }
}

/// The key of the number of steps in the state, beside the tensors' names.
const STEP_KEY: &str = "step";

impl Optimizer {
    /// An optimiser at step 0.
    ///
    /// # Errors
    ///
    /// If the device cannot hold the state.
    pub fn new(rule: Rule, params: &BTreeMap<String, Var>) -> Result<Self> {
        let mut slots = Vec::with_capacity(params.len());
        for (name, var) in params {
            let zeros = Tensor::zeros(var.shape(), DType::F32, &Device::Cpu)?;
            let buffers = vec![zeros; rule.buffer_names().len()];
            slots.push(Slot { name: name.clone(), var: var.clone(), state: State::new(buffers, var)? });
        }
        Ok(Self { rule, step: 0, slots })
    }

    /// Steps made so far.
    pub fn steps(&self) -> u32 {
        self.step
    }

    /// Changes the weights by one step with learning rate `lr`.
    ///
    /// # Errors
    ///
    /// If a trainable tensor has no gradient (nothing has changed then).
    pub fn step(&mut self, grads: &Gradients, lr: f64) -> Result<()> {
        if let Some(slot) = self.slots.iter().find(|slot| !grads.tensors().contains_key(&slot.name)) {
            return Err(OptimError::MissingGradient(slot.name.clone()));
        }
        self.step += 1;
        for slot in &mut self.slots {
            let grad = grads.tensors()[&slot.name].to_dtype(DType::F32)?.contiguous()?;
            match &mut slot.state {
                State::Host(buffers) => {
                    let update = HostUpdate { rule: self.rule, step: self.step, lr, buffers: Mutex::new(buffers) };
                    slot.var.inplace_op2(&grad, &update)?;
                }
                State::Device(buffers) => {
                    let param = slot.var.as_detached_tensor().to_dtype(DType::F32)?;
                    let param = self.rule.update_tensors(self.step, lr, &param, &grad, buffers)?;
                    slot.var.set(&param.to_dtype(slot.var.dtype())?)?;
                }
            }
        }
        Ok(())
    }

    /// The state as named tensors on the CPU: `<weight>.<buffer>` and `step`.
    ///
    /// # Errors
    ///
    /// If the tensor operation fails.
    pub fn state_dict(&self) -> Result<BTreeMap<String, Tensor>> {
        let step = Tensor::new(&[i64::from(self.step)], &Device::Cpu)?;
        let mut tensors = BTreeMap::from([(STEP_KEY.to_owned(), step)]);
        for slot in &self.slots {
            for (index, buffer) in self.rule.buffer_names().into_iter().enumerate() {
                let tensor = match &slot.state {
                    State::Host(buffers) => Tensor::from_slice(&buffers[index], slot.var.shape(), &Device::Cpu)?,
                    State::Device(buffers) => buffers[index].to_device(&Device::Cpu)?,
                };
                tensors.insert(format!("{}.{buffer}", slot.name), tensor);
            }
        }
        Ok(tensors)
    }

    /// Restores what [`Optimizer::state_dict`] gave.
    ///
    /// # Errors
    ///
    /// If the state is of another optimiser or model; nothing has changed then.
    pub fn load_state_dict(&mut self, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
        let get = |name: &str| {
            tensors
                .get(name)
                .ok_or_else(|| OptimError::State { name: name.to_owned(), message: "is missing".to_owned() })
        };
        let step = get(STEP_KEY)?.to_dtype(DType::I64)?.flatten_all()?.to_vec1::<i64>()?;
        let step = match step.as_slice() {
            [step] if u32::try_from(*step).is_ok() => *step as u32,
            other => {
                return Err(OptimError::State {
                    name: STEP_KEY.to_owned(),
                    message: format!("{other:?} is not a number of steps"),
                });
            }
        };
        let buffer_names = self.rule.buffer_names();
        let expected = 1 + self.slots.len() * buffer_names.len();
        let mut states = Vec::with_capacity(self.slots.len());
        for slot in &self.slots {
            let mut buffers = Vec::with_capacity(buffer_names.len());
            for buffer in &buffer_names {
                let name = format!("{}.{buffer}", slot.name);
                let tensor = get(&name)?;
                if tensor.dims() != slot.var.dims() {
                    return Err(OptimError::State {
                        name,
                        message: format!("has shape {:?} where the weight has {:?}", tensor.dims(), slot.var.dims()),
                    });
                }
                buffers.push(tensor.to_dtype(DType::F32)?);
            }
            states.push(State::new(buffers, &slot.var)?);
        }
        if tensors.len() != expected {
            return Err(OptimError::State {
                name: "(all)".to_owned(),
                message: format!("holds {} tensors where {expected} belong", tensors.len()),
            });
        }
        for (slot, state) in self.slots.iter_mut().zip(states) {
            slot.state = state;
        }
        self.step = step;
        Ok(())
    }
}

/// The in-place update of f32 weights on the CPU.
struct HostUpdate<'a> {
    rule: Rule,
    step: u32,
    lr: f64,
    /// candle hands the operation out by shared reference.
    buffers: Mutex<&'a mut Vec<Vec<f32>>>,
}

/// A part of a tensor with the same part of its gradient and state.
struct Part<'a> {
    params: &'a mut [f32],
    grads: &'a [f32],
    buffers: Vec<&'a mut [f32]>,
}

impl InplaceOp2 for HostUpdate<'_> {
    fn name(&self) -> &'static str {
        "optimizer-step"
    }

    fn cpu_fwd(
        &self,
        param: &mut CpuStorage,
        param_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> CandleResult<()> {
        let CpuStorage::F32(params) = param else {
            candle_core::bail!("an in-place update of weights that are not f32");
        };
        let (Some((start, end)), Some((grad_start, grad_end))) =
            (param_layout.contiguous_offsets(), grad_layout.contiguous_offsets())
        else {
            candle_core::bail!("an in-place update needs contiguous tensors");
        };
        if param_layout.shape() != grad_layout.shape() {
            candle_core::bail!("a gradient of {:?} for a weight of {:?}", grad_layout.shape(), param_layout.shape());
        }
        let grads = &grad.as_slice::<f32>()?[grad_start..grad_end];
        let mut parts: Vec<Part<'_>> = params[start..end]
            .chunks_mut(CHUNK)
            .zip(grads.chunks(CHUNK))
            .map(|(params, grads)| Part { params, grads, buffers: Vec::new() })
            .collect();
        let mut buffers = self.buffers.lock().expect("no update panics");
        for buffer in buffers.iter_mut() {
            for (part, chunk) in parts.iter_mut().zip(buffer.chunks_mut(CHUNK)) {
                part.buffers.push(chunk);
            }
        }
        parts.into_par_iter().for_each(|mut part| {
            let Part { params, grads, buffers } = &mut part;
            self.rule.update(self.step, self.lr, params, grads, buffers);
        });
        Ok(())
    }
}
