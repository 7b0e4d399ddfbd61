//! The objectives, as functions of log-probabilities alone.

use candle_core::{Result, Tensor};

/// The SPIN loss of some pairs and what to report about them.
#[derive(Debug, Clone)]
pub struct SpinLoss {
    /// One loss per pair: `[pairs]`, differentiable.
    pub losses: Tensor,
    /// Means over the pairs.
    pub metrics: SpinMetrics,
}

/// Means over pairs. Rewards are beta log(policy / opponent), as DPO trainers
/// report them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SpinMetrics {
    /// The number of pairs the means are over.
    pub pairs: usize,
    /// The loss.
    pub loss: f64,
    /// The reward of the real answers.
    pub reward_real: f64,
    /// The reward of the generated answers.
    pub reward_generated: f64,
    /// Reward of the real answer less that of the generated one.
    pub margin: f64,
    /// The share of pairs with a positive margin.
    pub accuracy: f64,
    /// Log-probability of the real answers under the policy.
    pub logp_real: f64,
    /// Log-probability of the generated answers under the policy.
    pub logp_generated: f64,
}

impl SpinMetrics {
    /// The means over both sets of pairs.
    pub fn merge(&self, other: &Self) -> Self {
        let pairs = self.pairs + other.pairs;
        let mean = |of: fn(&Self) -> f64| {
            (of(self) * self.pairs as f64 + of(other) * other.pairs as f64) / pairs.max(1) as f64
        };
        Self {
            pairs,
            loss: mean(|m| m.loss),
            reward_real: mean(|m| m.reward_real),
            reward_generated: mean(|m| m.reward_generated),
            margin: mean(|m| m.margin),
            accuracy: mean(|m| m.accuracy),
            logp_real: mean(|m| m.logp_real),
            logp_generated: mean(|m| m.logp_generated),
        }
    }
}

/// The SPIN objective with the logistic loss (Chen et al. 2024, equation 4.7),
/// per pair:
///
/// -log sigmoid(beta ((policy_real - ref_real) - (policy_generated - ref_generated)))
///
/// All arguments are `[pairs]` f32, sums of log-probabilities over a response's
/// tokens; `ref_*` are the opponent's and receive no gradient.
///
/// # Errors
///
/// If shapes differ.
pub fn spin_logistic(
    policy_real: &Tensor,
    policy_generated: &Tensor,
    ref_real: &Tensor,
    ref_generated: &Tensor,
    beta: f64,
) -> Result<SpinLoss> {
    let real = (policy_real - ref_real.detach())?;
    let generated = (policy_generated - ref_generated.detach())?;
    let logits = ((&real - &generated)? * beta)?;
    let values = logits.to_vec1::<f32>()?;
    let losses = softplus_of_negated(&logits, &values)?;

    let pairs = values.len();
    let mean = |tensor: &Tensor| -> Result<f64> {
        let sum: f64 = tensor.to_vec1::<f32>()?.into_iter().map(f64::from).sum();
        Ok(sum / pairs.max(1) as f64)
    };
    let wins = values.iter().filter(|value| **value > 0.0).count();
    let (reward_real, reward_generated) = (beta * mean(&real)?, beta * mean(&generated)?);
    let metrics = SpinMetrics {
        pairs,
        loss: mean(&losses)?,
        reward_real,
        reward_generated,
        margin: reward_real - reward_generated,
        accuracy: wins as f64 / pairs.max(1) as f64,
        logp_real: mean(policy_real)?,
        logp_generated: mean(policy_generated)?,
    };
    Ok(SpinLoss { losses, metrics })
}

/// -log sigmoid(x) = log(1 + e^-x), elementwise, with `values` those of `x`.
///
/// The usual stable form, max(-x, 0) + log(1 + e^-|x|), has the right value but
/// not the right gradient at x = 0, where its two kinks meet, and x = 0 is
/// where every run begins: the policy is the opponent. So values and slopes are
/// computed here (in f64; there is one number per pair) and the result is made
/// linear in x around them.
fn softplus_of_negated(x: &Tensor, values: &[f32]) -> Result<Tensor> {
    let (losses, slopes): (Vec<f32>, Vec<f32>) = values
        .iter()
        .map(|value| {
            let x = f64::from(*value);
            let small = (-x.abs()).exp();
            let loss = (-x).max(0.0) + small.ln_1p();
            let sigmoid_of_negated = if x >= 0.0 { small } else { 1.0 } / (1.0 + small);
            // f64::max drops NaN, which must reach the caller.
            let loss = if x.is_nan() { x } else { loss };
            (loss as f32, -sigmoid_of_negated as f32)
        })
        .unzip();
    let losses = Tensor::from_vec(losses, x.shape(), x.device())?;
    let slopes = Tensor::from_vec(slopes, x.shape(), x.device())?;
    losses + ((x - x.detach())? * slopes)?
}

/// The negative log-likelihood per token of each answer, `[pairs]`, to be added
/// to a loss with a weight: `policy_real` `[pairs]` are sums of
/// log-probabilities, `lengths` the numbers of tokens they are over.
///
/// # Errors
///
/// If there are not as many lengths as pairs.
pub fn mean_token_nll(policy_real: &Tensor, lengths: &[usize]) -> Result<Tensor> {
    let factors: Vec<f32> = lengths.iter().map(|length| -1.0 / *length as f32).collect();
    policy_real * Tensor::new(factors.as_slice(), policy_real.device())?
}

/// The supervised objective: the negative log-likelihood of some responses per
/// response token, a scalar. `logps` `[batch]` are sums over tokens;
/// `response_tokens` is the number of tokens of the whole optimiser step, so
/// that the losses of its micro-batches add up.
///
/// # Errors
///
/// If the tensor operation fails.
pub fn sft(logps: &Tensor, response_tokens: usize) -> Result<Tensor> {
    logps.sum_all()? * (-1.0 / response_tokens.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    fn golden() -> serde_json::Value {
        let text = include_str!("../../../tests/golden/optim.json");
        serde_json::from_str::<serde_json::Value>(text).unwrap()["objective"].clone()
    }

    fn floats(value: &serde_json::Value) -> Vec<f32> {
        serde_json::from_value(value.clone()).unwrap()
    }

    fn assert_close(actual: &Tensor, expected: &serde_json::Value) {
        let actual = actual.to_vec1::<f32>().unwrap();
        for (actual, expected) in actual.iter().zip(floats(expected)) {
            let tolerance = 1e-6 * expected.abs().max(1.0);
            assert!((actual - expected).abs() <= tolerance, "{actual} for {expected}");
        }
    }

    #[test]
    fn losses_and_gradients_equal_those_of_torch() {
        let golden = golden();
        let var = |key: &str| Var::new(floats(&golden[key]).as_slice(), &Device::Cpu).unwrap();
        let (real, generated) = (var("policy_real"), var("policy_generated"));
        let (ref_real, ref_generated) = (var("ref_real"), var("ref_generated"));
        let beta = golden["beta"].as_f64().unwrap();
        let loss = spin_logistic(&real, &generated, &ref_real, &ref_generated, beta).unwrap();
        assert_close(&loss.losses, &golden["losses"]);
        let grads = loss.losses.backward().unwrap();
        assert_close(grads.get(&real).unwrap(), &golden["grad_policy_real"]);
        assert_close(grads.get(&generated).unwrap(), &golden["grad_policy_generated"]);
        assert!(grads.get(&ref_real).is_none() && grads.get(&ref_generated).is_none());
        assert_eq!(loss.metrics.pairs, 4);
        // Margins 0.9, 1.5, 0 and -228.
        assert_eq!(loss.metrics.accuracy, 0.5);
        assert!((loss.metrics.margin - (0.9 + 1.5 - 228.0) / 4.0).abs() < 1e-5);
    }

    #[test]
    fn a_broken_policy_is_not_hidden() {
        let nan = Tensor::new(&[f32::NAN], &Device::Cpu).unwrap();
        let zero = nan.zeros_like().unwrap();
        let loss = spin_logistic(&nan, &zero, &zero, &zero, 0.1).unwrap();
        assert!(loss.metrics.loss.is_nan());
    }

    #[test]
    fn metrics_merge_by_number_of_pairs() {
        let one = SpinMetrics { pairs: 1, loss: 4.0, ..Default::default() };
        let three = SpinMetrics { pairs: 3, loss: 8.0, ..Default::default() };
        assert_eq!(one.merge(&three).loss, 7.0);
        assert_eq!(one.merge(&three).pairs, 4);
    }

    #[test]
    fn supervised_losses_are_per_token() {
        let logps = Tensor::new(&[-6.0_f32, -2.0], &Device::Cpu).unwrap();
        assert_eq!(sft(&logps, 4).unwrap().to_scalar::<f32>().unwrap(), 2.0);
        let nll = mean_token_nll(&logps, &[3, 4]).unwrap();
        assert_eq!(nll.to_vec1::<f32>().unwrap(), [2.0, 0.5]);
    }
}
