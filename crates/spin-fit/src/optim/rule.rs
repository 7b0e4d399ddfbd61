//! The rules by which gradients change weights, and their settings.

use candle_core::{Result as CandleResult, Tensor};
use serde::{Deserialize, Serialize};

/// Settings of RMSProp, without momentum and not centred; the defaults are
/// `torch.optim.RMSprop`'s.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RmsProp {
    /// Decay of the running mean of squares.
    pub alpha: f64,
    /// Added to the root of the mean square.
    pub eps: f64,
    /// L2 penalty, added to the gradient.
    pub weight_decay: f64,
}

impl Default for RmsProp {
    fn default() -> Self {
        Self { alpha: 0.99, eps: 1e-8, weight_decay: 0.0 }
    }
}

/// Settings of AdamW; the defaults are `torch.optim.AdamW`'s.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdamW {
    /// Decay of the running means of gradients and of their squares.
    pub betas: [f64; 2],
    /// Added to the root of the mean square.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}

impl Default for AdamW {
    fn default() -> Self {
        Self { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.01 }
    }
}

/// The rule by which gradients change weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule {
    /// Root-mean-square propagation.
    RmsProp(RmsProp),
    /// Adam with decoupled weight decay.
    AdamW(AdamW),
}

impl Rule {
    /// The same rule without weight decay.
    pub(super) fn without_decay(self) -> Self {
        match self {
            Self::RmsProp(options) => Self::RmsProp(RmsProp { weight_decay: 0.0, ..options }),
            Self::AdamW(options) => Self::AdamW(AdamW { weight_decay: 0.0, ..options }),
        }
    }

    /// The state kept per weight, in the order the updates take it; the names
    /// are PyTorch's.
    pub(super) fn buffer_names(&self) -> &'static [&'static str] {
        match self {
            Self::RmsProp(_) => &["square_avg"],
            Self::AdamW(_) => &["exp_avg", "exp_avg_sq"],
        }
    }

    /// One step on part of a tensor; `step` counts from 1.
    pub(super) fn update(&self, step: u32, lr: f64, params: &mut [f32], grads: &[f32], buffers: &mut [&mut [f32]]) {
        match self {
            Self::RmsProp(options) => options.update(lr, params, grads, buffers),
            Self::AdamW(options) => options.update(step, lr, params, grads, buffers),
        }
    }

    /// One step composed of tensor operations: the new weights, in f32.
    pub(super) fn update_tensors(
        &self,
        step: u32,
        lr: f64,
        param: &Tensor,
        grad: &Tensor,
        buffers: &mut [Tensor],
    ) -> CandleResult<Tensor> {
        match self {
            Self::RmsProp(options) => options.update_tensors(lr, param, grad, buffers),
            Self::AdamW(options) => options.update_tensors(step, lr, param, grad, buffers),
        }
    }
}

impl RmsProp {
    fn update(&self, lr: f64, params: &mut [f32], grads: &[f32], buffers: &mut [&mut [f32]]) {
        let (lr, alpha, rest) = (lr as f32, self.alpha as f32, (1.0 - self.alpha) as f32);
        let (eps, decay) = (self.eps as f32, self.weight_decay as f32);
        let [squares] = buffers else {
            unreachable!("RMSProp keeps one buffer");
        };
        for ((param, grad), square) in params.iter_mut().zip(grads).zip(squares.iter_mut()) {
            let grad = grad + decay * *param;
            *square = alpha * *square + rest * grad * grad;
            *param -= lr * grad / (square.sqrt() + eps);
        }
    }

    fn update_tensors(&self, lr: f64, param: &Tensor, grad: &Tensor, buffers: &mut [Tensor]) -> CandleResult<Tensor> {
        let grad = (grad + (param * self.weight_decay)?)?;
        buffers[0] = ((&buffers[0] * self.alpha)? + (grad.sqr()? * (1.0 - self.alpha))?)?;
        param - ((grad / (buffers[0].sqrt()? + self.eps)?)? * lr)?
    }
}

impl AdamW {
    /// The step size and the root of the second moment's bias correction.
    fn corrections(&self, step: u32, lr: f64) -> (f64, f64) {
        let [first, second] = self.betas.map(|beta| 1.0 - beta.powi(step as i32));
        (lr / first, second.sqrt())
    }

    fn update(&self, step: u32, lr: f64, params: &mut [f32], grads: &[f32], buffers: &mut [&mut [f32]]) {
        let (step_size, root_correction) = self.corrections(step, lr);
        let (step_size, root_correction) = (step_size as f32, root_correction as f32);
        let keep = (1.0 - lr * self.weight_decay) as f32;
        let [first_rest, second_rest] = self.betas.map(|beta| (1.0 - beta) as f32);
        let (second_beta, eps) = (self.betas[1] as f32, self.eps as f32);
        let [means, squares] = buffers else {
            unreachable!("AdamW keeps two buffers");
        };
        let state = means.iter_mut().zip(squares.iter_mut());
        for ((param, grad), (mean, square)) in params.iter_mut().zip(grads).zip(state) {
            *mean += first_rest * (grad - *mean);
            *square = second_beta * *square + second_rest * grad * grad;
            let root = square.sqrt() / root_correction + eps;
            *param = *param * keep - step_size * (*mean / root);
        }
    }

    fn update_tensors(
        &self,
        step: u32,
        lr: f64,
        param: &Tensor,
        grad: &Tensor,
        buffers: &mut [Tensor],
    ) -> CandleResult<Tensor> {
        let (step_size, root_correction) = self.corrections(step, lr);
        let [first, second] = self.betas;
        buffers[0] = ((&buffers[0] * first)? + (grad * (1.0 - first))?)?;
        buffers[1] = ((&buffers[1] * second)? + (grad.sqr()? * (1.0 - second))?)?;
        let root = ((buffers[1].sqrt()? / root_correction)? + self.eps)?;
        let update = ((&buffers[0] / root)? * step_size)?;
        (param * (1.0 - lr * self.weight_decay))? - update
    }
}
