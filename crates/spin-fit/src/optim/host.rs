//! The update of weights in memory: in place, in parallel.

use std::ops::Range;
use std::sync::Mutex;

use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Result, Storage, Var};
use half::{bf16, f16};
use rayon::prelude::*;
use spin_model::{CHUNK, written};

use super::rule::Rule;

/// Buffers in memory: the rule's, then the f32 master of weights that are not
/// f32.
#[derive(Debug)]
pub(super) struct HostState {
    pub buffers: Vec<Vec<f32>>,
}

impl HostState {
    /// Whether weights are updated here.
    pub fn serves(var: &Var) -> bool {
        var.device().is_cpu() && matches!(var.dtype(), DType::F32 | DType::BF16 | DType::F16)
    }
}

/// One step on one tensor, or on the part of it that the state is of.
pub(super) struct HostUpdate<'a> {
    rule: Rule,
    step: u32,
    lr: f64,
    /// Of the whole tensor.
    grads: &'a [f32],
    part: Range<usize>,
    /// candle hands the operation out by shared reference.
    state: Mutex<&'a mut HostState>,
}

impl<'a> HostUpdate<'a> {
    pub fn new(rule: Rule, step: u32, lr: f64, grads: &'a [f32], part: Range<usize>, state: &'a mut HostState) -> Self {
        HostUpdate { rule, step, lr, grads, part, state: Mutex::new(state) }
    }

    /// Updates f32 weights, and stores them rounded where those are masters.
    fn update(&self, params: &mut [f32], buffers: &mut [Vec<f32>], store: &(dyn Fn(usize, &[f32]) + Sync)) {
        let mut parts: Vec<Part<'_>> = params
            .chunks_mut(CHUNK)
            .zip(self.grads[self.part.clone()].chunks(CHUNK))
            .map(|(params, grads)| Part { params, grads, buffers: Vec::new() })
            .collect();
        for buffer in buffers {
            for (part, chunk) in parts.iter_mut().zip(buffer.chunks_mut(CHUNK)) {
                part.buffers.push(chunk);
            }
        }
        parts.into_par_iter().enumerate().for_each(|(index, mut part)| {
            let Part { params, grads, buffers } = &mut part;
            self.rule.update(self.step, self.lr, params, grads, buffers);
            store(index, params);
        });
    }

    /// Updates the master and rounds it into `weights`.
    fn update_rounded<T: Copy + Send>(&self, weights: &mut [T], state: &mut HostState, round: fn(f32) -> T) {
        let (master, buffers) = state.buffers.split_last_mut().expect("such weights have a master");
        let chunks: Vec<Mutex<&mut [T]>> = weights.chunks_mut(CHUNK).map(Mutex::new).collect();
        self.update(master, buffers, &|index, params| {
            let mut chunk = chunks[index].lock().expect("no update panics");
            chunk.iter_mut().zip(params).for_each(|(weight, param)| *weight = round(*param));
        });
    }
}

/// A part of a tensor with the same part of its gradient and state.
struct Part<'a> {
    params: &'a mut [f32],
    grads: &'a [f32],
    buffers: Vec<&'a mut [f32]>,
}

impl InplaceOp1 for HostUpdate<'_> {
    fn name(&self) -> &'static str {
        "optimizer-step"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("an in-place update needs contiguous weights");
        };
        if end - start != self.grads.len() {
            candle_core::bail!("a gradient of {} numbers for {} weights", self.grads.len(), end - start);
        }
        let (start, end) = (start + self.part.start, start + self.part.end);
        let mut state = self.state.lock().expect("no update panics");
        match storage {
            CpuStorage::F32(params) => self.update(&mut params[start..end], &mut state.buffers, &|_, _| {}),
            CpuStorage::BF16(weights) => self.update_rounded(&mut weights[start..end], &mut state, bf16::from_f32),
            CpuStorage::F16(weights) => self.update_rounded(&mut weights[start..end], &mut state, f16::from_f32),
            _ => candle_core::bail!("an in-place update of weights that are not f32, bf16 or f16"),
        }
        Ok(())
    }
}

/// Numbers of a weight as they are in memory.
trait Number: Copy + Send + Sync {
    const BYTES: usize;
    fn put(self, bytes: &mut [u8]);
    fn take(bytes: &[u8]) -> Self;
}

macro_rules! number {
    ($type:ty, $bytes:literal) => {
        impl Number for $type {
            const BYTES: usize = $bytes;

            fn put(self, bytes: &mut [u8]) {
                bytes.copy_from_slice(&self.to_le_bytes());
            }

            fn take(bytes: &[u8]) -> Self {
                <$type>::from_le_bytes(bytes.try_into().expect("as many as it has"))
            }
        }
    };
}

number!(f32, 4);
number!(bf16, 2);
number!(f16, 2);

fn put<T: Number>(values: &[T], bytes: &mut [u8]) {
    bytes.chunks_exact_mut(T::BYTES).zip(values).for_each(|(bytes, value)| value.put(bytes));
}

fn take<T: Number>(bytes: &[u8], values: &mut [T]) {
    values.iter_mut().zip(bytes.chunks_exact(T::BYTES)).for_each(|(value, bytes)| *value = T::take(bytes));
}

/// Bytes of a number of a weight that [`HostState::serves`].
pub(crate) fn bytes_per_number(var: &Var) -> usize {
    var.dtype().size_in_bytes()
}

/// Appends a range of a weight's numbers, in its own type.
///
/// # Errors
/// When the weight is not contiguous in memory, or of another type than
/// [`HostState::serves`].
pub(crate) fn read_numbers(var: &Var, range: Range<usize>, bytes: &mut Vec<u8>) -> Result<()> {
    let at = bytes.len();
    bytes.resize(at + bytes_per_number(var) * range.len(), 0);
    let (storage, layout) = var.storage_and_layout();
    let Some((start, _)) = layout.contiguous_offsets() else {
        candle_core::bail!("weights that are read in place must be contiguous");
    };
    let range = start + range.start..start + range.end;
    match &*storage {
        Storage::Cpu(CpuStorage::F32(values)) => put(&values[range], &mut bytes[at..]),
        Storage::Cpu(CpuStorage::BF16(values)) => put(&values[range], &mut bytes[at..]),
        Storage::Cpu(CpuStorage::F16(values)) => put(&values[range], &mut bytes[at..]),
        _ => candle_core::bail!("weights that are read in place must be f32, bf16 or f16 in memory"),
    }
    Ok(())
}

/// Replaces a weight's numbers from `start` by those that [`read_numbers`] gave
/// elsewhere.
///
/// # Errors
/// As [`read_numbers`].
pub(crate) fn write_numbers(var: &Var, start: usize, bytes: &[u8]) -> Result<()> {
    var.inplace_op1(&Written { start, bytes })?;
    written(var);
    Ok(())
}

struct Written<'a> {
    start: usize,
    bytes: &'a [u8],
}

impl InplaceOp1 for Written<'_> {
    fn name(&self) -> &'static str {
        "write-numbers"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("weights that are written in place must be contiguous");
        };
        let range = start + self.start..end;
        match storage {
            CpuStorage::F32(values) => take(self.bytes, &mut values[range]),
            CpuStorage::BF16(values) => take(self.bytes, &mut values[range]),
            CpuStorage::F16(values) => take(self.bytes, &mut values[range]),
            _ => candle_core::bail!("weights that are written in place must be f32, bf16 or f16"),
        }
        Ok(())
    }
}
