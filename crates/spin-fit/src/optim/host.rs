//! The update of weights in memory: in place, in parallel.

use std::sync::Mutex;

use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Result, Var};
use half::{bf16, f16};
use rayon::prelude::*;

use super::rule::Rule;

/// Numbers that one parallel task works on.
const CHUNK: usize = 1 << 14;

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

/// One step on one tensor.
pub(super) struct HostUpdate<'a> {
    rule: Rule,
    step: u32,
    lr: f64,
    grads: &'a [f32],
    /// candle hands the operation out by shared reference.
    state: Mutex<&'a mut HostState>,
}

impl<'a> HostUpdate<'a> {
    pub fn new(rule: Rule, step: u32, lr: f64, grads: &'a [f32], state: &'a mut HostState) -> Self {
        HostUpdate { rule, step, lr, grads, state: Mutex::new(state) }
    }

    /// Updates f32 weights, and stores them rounded where those are masters.
    fn update(&self, params: &mut [f32], buffers: &mut [Vec<f32>], store: &(dyn Fn(usize, &[f32]) + Sync)) {
        let mut parts: Vec<Part<'_>> = params
            .chunks_mut(CHUNK)
            .zip(self.grads.chunks(CHUNK))
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
