//! Optimisers with PyTorch's semantics.
//!
//! State is f32 whatever the type of the weights, and so are the weights that
//! are updated: weights of another type are rounded from an f32 master after
//! each step. State and masters go in and out as named tensors, so that
//! training resumes exactly. On the CPU the update runs in place and in
//! parallel; elsewhere it is composed of tensor operations.

mod host;
mod rule;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::{DType, Device, Result as CandleResult, Tensor, Var};
use spin_model::{GradientValues, Gradients, written};

use host::{HostState, HostUpdate};
pub(crate) use host::{bytes_per_number, read_numbers, write_numbers};
pub use rule::{AdamW, RmsProp, Rule};

/// What can go wrong in an optimiser.
#[derive(Debug, thiserror::Error)]
pub enum OptimError {
    /// There is no gradient for a trainable tensor.
    #[error("there is no gradient for the trainable tensor `{0}`")]
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

/// Which weights decay in transformers' `Trainer`: matrices, but neither
/// biases nor norms, which are vectors.
pub fn decays(_name: &str, var: &Var) -> bool {
    var.dims().len() > 1
}

/// Whether weights are updated in memory, where a part of a tensor can be.
pub fn in_memory(var: &Var) -> bool {
    HostState::serves(var)
}

/// A rule with its state, and its settings, for each of a set of trainable
/// tensors.
#[derive(Debug)]
pub struct Optimizer {
    step: u32,
    slots: Vec<Slot>,
}

#[derive(Debug)]
struct Slot {
    name: String,
    var: Var,
    rule: Rule,
    /// The numbers of the tensor that are updated here, and whose state is.
    part: Range<usize>,
    state: State,
}

/// One buffer per name of [`Slot::buffer_names`].
#[derive(Debug)]
enum State {
    /// For weights of f32, bf16 or f16 on the CPU.
    Host(HostState),
    /// For others: buffers of the rule, then the master if there is one.
    Device(Vec<Tensor>),
}

impl State {
    /// Zeros for the rule, and the weights as they are for a master.
    fn zeros(var: &Var, part: &Range<usize>, buffers: usize) -> CandleResult<Self> {
        let master = var.dtype() != DType::F32;
        if HostState::serves(var) {
            let mut buffers = vec![vec![0.0; part.len()]; buffers];
            if master {
                let part = var.flatten_all()?.narrow(0, part.start, part.len())?;
                buffers.push(part.to_dtype(DType::F32)?.to_vec1()?);
            }
            return Ok(State::Host(HostState { buffers }));
        }
        let zeros = |_| Tensor::zeros(var.shape(), DType::F32, var.device());
        let mut buffers = (0..buffers).map(zeros).collect::<CandleResult<Vec<_>>>()?;
        if master {
            buffers.push(var.as_detached_tensor().to_dtype(DType::F32)?);
        }
        Ok(State::Device(buffers))
    }
}

/// A tensor of the state, borrowed where it lies in memory.
#[derive(Debug)]
pub enum StateTensor<'a> {
    /// Row-major numbers in memory, and the shape of the tensor: fewer than it
    /// has where others are elsewhere ([`Optimizer::of_part`]).
    Host(&'a [f32], Vec<usize>),
    /// A tensor on any device.
    Tensor(Tensor),
}

/// The key of the number of steps in the state, beside the tensors' names.
const STEP_KEY: &str = "step";
/// The suffix of the f32 weights that others are rounded from.
const MASTER: &str = "master";

impl Slot {
    /// The rule's buffers, then the master of weights that are not f32.
    fn buffer_names(&self) -> Vec<&'static str> {
        let mut names = self.rule.buffer_names().to_vec();
        if self.var.dtype() != DType::F32 {
            names.push(MASTER);
        }
        names
    }

    fn is_partial(&self) -> bool {
        self.part.len() < self.var.elem_count()
    }

    /// The shape of its buffers.
    fn dims(&self) -> Vec<usize> {
        if self.is_partial() { vec![self.part.len()] } else { self.var.dims().to_vec() }
    }

    fn set_buffers(&mut self, buffers: Vec<Tensor>) -> CandleResult<()> {
        self.state = if HostState::serves(&self.var) {
            let to_host = |tensor: &Tensor| tensor.flatten_all()?.to_vec1::<f32>();
            State::Host(HostState { buffers: buffers.iter().map(to_host).collect::<CandleResult<_>>()? })
        } else {
            let to_device = |tensor: &Tensor| tensor.to_device(self.var.device());
            State::Device(buffers.iter().map(to_device).collect::<CandleResult<_>>()?)
        };
        Ok(())
    }

    fn step(&mut self, step: u32, lr: f64, grad: &GradientValues) -> CandleResult<()> {
        self.update(step, lr, grad)?;
        written(&self.var);
        Ok(())
    }

    fn update(&mut self, step: u32, lr: f64, grad: &GradientValues) -> CandleResult<()> {
        match (&mut self.state, grad) {
            (State::Host(state), GradientValues::Host(grads)) => {
                self.var.inplace_op1(&HostUpdate::new(self.rule, step, lr, grads, self.part.clone(), state))
            }
            (State::Host(state), GradientValues::Device(grad)) => {
                let grads = grad.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
                self.var.inplace_op1(&HostUpdate::new(self.rule, step, lr, &grads, self.part.clone(), state))
            }
            (State::Device(buffers), grad) => {
                let grad = match grad {
                    GradientValues::Host(grads) => Tensor::from_slice(grads, self.var.shape(), self.var.device())?,
                    GradientValues::Device(grad) => grad.clone(),
                };
                let master = self.rule.buffer_names().len();
                let param = buffers.get(master).cloned().unwrap_or_else(|| self.var.as_detached_tensor());
                let param = self.rule.update_tensors(step, lr, &param, &grad, &mut buffers[..master])?;
                self.var.set(&param.to_dtype(self.var.dtype())?)?;
                if let Some(master) = buffers.get_mut(master) {
                    *master = param;
                }
                Ok(())
            }
        }
    }
}

impl Optimizer {
    /// An optimiser at step 0 for the weights as they are. The rule's weight
    /// decay is for those that `decays` chooses; see [`decays`].
    ///
    /// # Errors
    ///
    /// If the device cannot hold the state.
    pub fn new(rule: Rule, params: &BTreeMap<String, Var>, decays: impl Fn(&str, &Var) -> bool) -> Result<Self> {
        Self::of_part(rule, params, decays, |_, var| 0..var.elem_count())
    }

    /// The same for a part of each tensor, by its number among `params`: state
    /// is kept of it alone, and a step changes nothing else. Parts of a tensor
    /// are for those [`in_memory`].
    ///
    /// # Errors
    ///
    /// As [`Optimizer::new`].
    pub fn of_part(
        rule: Rule,
        params: &BTreeMap<String, Var>,
        decays: impl Fn(&str, &Var) -> bool,
        part: impl Fn(usize, &Var) -> Range<usize>,
    ) -> Result<Self> {
        let mut slots = Vec::with_capacity(params.len());
        for (number, (name, var)) in params.iter().enumerate() {
            let rule = if decays(name, var) { rule } else { rule.without_decay() };
            let part = part(number, var);
            let state = State::zeros(var, &part, rule.buffer_names().len())?;
            slots.push(Slot { name: name.clone(), var: var.clone(), rule, part, state });
        }
        Ok(Self { step: 0, slots })
    }

    /// For each tensor of [`Optimizer::state`] which of the weights it is of,
    /// by its number; `None` for the number of steps.
    pub(crate) fn weights_of_state(&self) -> Vec<Option<usize>> {
        let of_slot = |(number, slot): (usize, &Slot)| vec![Some(number); slot.buffer_names().len()];
        std::iter::once(None).chain(self.slots.iter().enumerate().flat_map(of_slot)).collect()
    }

    /// Cuts a tensor of a whole state down to the part that is kept here.
    ///
    /// # Errors
    ///
    /// If the tensor operation fails.
    pub(crate) fn own_part(&self, name: &str, whole: Tensor) -> Result<Tensor> {
        let weight = name.rsplit_once('.').map_or(name, |(weight, _)| weight);
        match self.slots.iter().find(|slot| slot.name == weight) {
            // Another shape is found wanting when it is loaded.
            Some(slot) if slot.is_partial() && whole.dims() == slot.var.dims() => {
                let part = whole.flatten_all()?.narrow(0, slot.part.start, slot.part.len())?;
                // Copied, so that the whole goes.
                Ok(part.force_contiguous()?)
            }
            _ => Ok(whole),
        }
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
        if let Some(slot) = self.slots.iter().find(|slot| grads.get(&slot.name).is_none()) {
            return Err(OptimError::MissingGradient(slot.name.clone()));
        }
        self.step += 1;
        for slot in &mut self.slots {
            let grad = grads.get(&slot.name).expect("looked for above");
            slot.step(self.step, lr, grad)?;
        }
        Ok(())
    }

    /// The state by name: `<weight>.<buffer>`, `<weight>.master` for weights
    /// that are not f32, and `step`.
    ///
    /// # Errors
    ///
    /// If the tensor operation fails.
    pub fn state(&self) -> Result<Vec<(String, StateTensor<'_>)>> {
        let step = Tensor::new(&[i64::from(self.step)], &Device::Cpu)?;
        let mut tensors = vec![(STEP_KEY.to_owned(), StateTensor::Tensor(step))];
        for slot in &self.slots {
            for (index, buffer) in slot.buffer_names().into_iter().enumerate() {
                let tensor = match &slot.state {
                    State::Host(state) => StateTensor::Host(&state.buffers[index], slot.var.dims().to_vec()),
                    State::Device(buffers) => StateTensor::Tensor(buffers[index].clone()),
                };
                tensors.push((format!("{}.{buffer}", slot.name), tensor));
            }
        }
        Ok(tensors)
    }

    /// The state as tensors on the CPU, copied: [`Optimizer::state`] for those
    /// who keep it in memory.
    ///
    /// # Errors
    ///
    /// If the tensor operation fails.
    pub fn state_dict(&self) -> Result<BTreeMap<String, Tensor>> {
        let copy = |tensor| match tensor {
            StateTensor::Host(values, shape) => Tensor::from_slice(values, shape, &Device::Cpu),
            StateTensor::Tensor(tensor) => tensor.to_device(&Device::Cpu),
        };
        self.state()?.into_iter().map(|(name, tensor)| Ok((name, copy(tensor)?))).collect()
    }

    /// Restores what [`Optimizer::state`] gave; of a part, what
    /// [`Optimizer::own_part`] left of it.
    ///
    /// # Errors
    ///
    /// If the state is of another optimiser or model; nothing has changed then.
    pub fn load_state_dict(&mut self, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
        let bad = |name: &str, message: String| OptimError::State { name: name.to_owned(), message };
        let get = |name: &str| tensors.get(name).ok_or_else(|| bad(name, "is missing".to_owned()));
        let step = get(STEP_KEY)?.to_dtype(DType::I64)?.flatten_all()?.to_vec1::<i64>()?;
        let step = match step.as_slice() {
            [step] if u32::try_from(*step).is_ok() => *step as u32,
            other => return Err(bad(STEP_KEY, format!("{other:?} is not a number of steps"))),
        };
        let mut expected = 1;
        for slot in &self.slots {
            for buffer in slot.buffer_names() {
                expected += 1;
                let name = format!("{}.{buffer}", slot.name);
                let (found, wanted) = (get(&name)?.dims(), slot.dims());
                if found != wanted {
                    return Err(bad(&name, format!("has shape {found:?} where the weight has {wanted:?}")));
                }
            }
        }
        if tensors.len() != expected {
            return Err(bad("(all)", format!("holds {} tensors where {expected} belong", tensors.len())));
        }
        for slot in &mut self.slots {
            let buffers =
                slot.buffer_names().into_iter().map(|b| tensors[&format!("{}.{b}", slot.name)].to_dtype(DType::F32));
            let buffers = buffers.collect::<CandleResult<_>>()?;
            slot.set_buffers(buffers)?;
        }
        self.step = step;
        Ok(())
    }
}
