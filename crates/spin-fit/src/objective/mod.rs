//! The objectives: what a log-probability costs.
//!
//! Everything here is a pure function of a few f64 numbers that gives a loss
//! with its derivatives by the log-probabilities; the model turns those into
//! gradients of its weights. Log-probabilities are natural, summed over the
//! tokens of an answer.

mod margin;
mod metrics;
#[cfg(test)]
mod tests;

use spin_run::run::{self, FitConfig, Loss};

pub use margin::{Slope, correlation, exponential, hinge, logistic};
pub use metrics::PairMetrics;

/// What the losses of a pair are functions of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairLogps {
    /// log p of the real answer under the trained model.
    pub real: f64,
    /// log p of the generated answer under the trained model.
    pub generated: f64,
    /// log p of the real answer under the opponent.
    pub ref_real: f64,
    /// log p of the generated answer under the opponent.
    pub ref_generated: f64,
    /// log p of θ0's answer under the trained model, where it is in the loss.
    pub initial: Option<f64>,
    /// Tokens of the real answer.
    pub real_tokens: usize,
    /// Tokens of the generated answer.
    pub generated_tokens: usize,
}

impl PairLogps {
    /// What the real answer gained over the opponent, in nats.
    pub fn real_gain(&self) -> f64 {
        self.real - self.ref_real
    }

    /// What the generated answer gained over the opponent, in nats.
    pub fn generated_gain(&self) -> f64 {
        self.generated - self.ref_generated
    }

    /// The argument of the losses: beta times the difference of the gains.
    pub fn margin(&self, beta: f64) -> f64 {
        beta * (self.real_gain() - self.generated_gain())
    }
}

/// The loss of a pair and its derivatives.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PairTerm {
    /// The loss.
    pub loss: f64,
    /// Its derivative by the real answer's log-probability.
    pub by_real: f64,
    /// Its derivative by the generated answer's.
    pub by_generated: f64,
    /// Its derivative by the log-probability of θ0's answer.
    pub by_initial: f64,
}

impl PairTerm {
    /// A function of the margin as one of the log-probabilities.
    fn of_margin(slope: Slope, beta: f64) -> PairTerm {
        PairTerm { loss: slope.value, by_real: beta * slope.slope, by_generated: -beta * slope.slope, by_initial: 0.0 }
    }
}

/// SPIN (Chen et al. 2024, equation 4.7) with a convex, decreasing function of
/// the margin (Assumption 5.1): one of [`logistic`], [`hinge`],
/// [`exponential`], [`correlation`].
pub fn spin(function: fn(f64) -> Slope, pair: &PairLogps, beta: f64) -> PairTerm {
    PairTerm::of_margin(function(pair.margin(beta)), beta)
}

/// T-SPIN (Wang et al. 2026, arXiv 2601.08198): SPIN's function of the margin
/// between real and generated answer, and `weight` times the same of the margin
/// between the generated and θ0's answer. No reference: the log-probabilities
/// are the model's own, so `ref_real` and `ref_generated` are 0 in such pairs.
/// `alpha` scales the margins. Without θ0's answer, as in the first round, the
/// second term is left out.
///
/// The formula is put together from the paper's equations (4) and (6); the
/// authors have published no code to compare with.
pub fn tspin(function: fn(f64) -> Slope, pair: &PairLogps, alpha: f64, weight: f64) -> PairTerm {
    let mut term = spin(function, pair, alpha);
    if let Some(initial) = pair.initial {
        let history = function(alpha * (pair.generated - initial));
        term.loss += weight * history.value;
        term.by_generated += weight * alpha * history.slope;
        term.by_initial = -weight * alpha * history.slope;
    }
    term
}

/// SPACE (Wang et al. 2025, arXiv 2512.07175): noise contrastive estimation
/// with the opponent as noise, on the gains r and r' of the two answers:
///
/// -log σ_μ(r) - μ log(1 - σ_μ(r')), σ_μ(x) = 1 / (1 + μ e^-x)
///
/// `mu` is the share of generated to real answers. r and σ_μ are the paper's;
/// that μ weighs the second term is how noise contrastive estimation (Gutmann
/// and Hyvärinen 2012) has it, whose minimum is p_data whatever μ is. The
/// authors have published no code to compare with.
pub fn space(pair: &PairLogps, mu: f64) -> PairTerm {
    // σ_μ(x) = σ(x - ln μ).
    let (real, generated) = (logistic(pair.real_gain() - mu.ln()), logistic(mu.ln() - pair.generated_gain()));
    PairTerm {
        loss: real.value + mu * generated.value,
        by_real: real.slope,
        by_generated: -mu * generated.slope,
        by_initial: 0.0,
    }
}

/// DPO (Rafailov et al. 2023) with conservative label smoothing ε, the
/// probability that the pair is the wrong way round (Mitchell 2023):
///
/// -(1 - ε) log sigmoid(t) - ε log sigmoid(-t)
///
/// With ε = 0 TRL's `loss_type="sigmoid"`. TRL 1 offers smoothing only through
/// `"robust"`, which is another combination of the same two terms.
pub fn dpo_sigmoid(pair: &PairLogps, beta: f64, smoothing: f64) -> PairTerm {
    let t = pair.margin(beta);
    let (right, wrong) = (logistic(t), logistic(-t));
    let slope = Slope {
        value: (1.0 - smoothing) * right.value + smoothing * wrong.value,
        slope: (1.0 - smoothing) * right.slope - smoothing * wrong.slope,
    };
    // With t infinite 0 · ∞ would make a loss of 0 NaN.
    PairTerm::of_margin(if smoothing > 0.0 { slope } else { right }, beta)
}

/// TRL's `loss_type="hinge"` (SLiC on DPO's margin, Liu et al. 2023).
pub fn dpo_hinge(pair: &PairLogps, beta: f64) -> PairTerm {
    PairTerm::of_margin(hinge(pair.margin(beta)), beta)
}

/// Identity preference optimisation (Azar et al. 2023, equation 17), as TRL's
/// `loss_type="ipo"`: the gains are taken per token before their difference d,
/// and the loss is (d - 1/(2 beta))².
pub fn dpo_ipo(pair: &PairLogps, beta: f64) -> PairTerm {
    let (real_tokens, generated_tokens) = (pair.real_tokens.max(1) as f64, pair.generated_tokens.max(1) as f64);
    let distance = pair.real_gain() / real_tokens - pair.generated_gain() / generated_tokens - 1.0 / (2.0 * beta);
    PairTerm {
        loss: distance * distance,
        by_real: 2.0 * distance / real_tokens,
        by_generated: -2.0 * distance / generated_tokens,
        by_initial: 0.0,
    }
}

/// The negative log-likelihood of an answer with `tokens` to divide by: an
/// answer's own tokens for its mean, those of a whole update for its share of
/// the supervised objective.
pub fn nll(logp: f64, tokens: usize) -> Slope {
    let slope = -1.0 / tokens.max(1) as f64;
    Slope { value: slope * logp, slope }
}

/// The objective of a training with pairs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairObjective {
    /// The function of the margin.
    pub loss: Loss,
    /// The paper's λ.
    pub beta: f64,
    /// Weight of the second term of [`tspin`].
    pub initial_weight: f64,
    /// μ of [`space`].
    pub mu: f64,
    /// ε of [`dpo_sigmoid`]; 0 for other losses.
    pub label_smoothing: f64,
    /// Weight of the real answer's mean negative log-likelihood per token.
    pub nll_weight: f64,
}

impl PairObjective {
    /// The loss of a pair and its derivatives.
    pub fn term(&self, pair: &PairLogps) -> PairTerm {
        let beta = self.beta;
        let mut term = match self.loss {
            // Pairs of other objectives have no answer of θ0, and then this is SPIN.
            Loss::Logistic => tspin(logistic, pair, beta, self.initial_weight),
            Loss::Hinge => tspin(hinge, pair, beta, self.initial_weight),
            Loss::Exponential => tspin(exponential, pair, beta, self.initial_weight),
            Loss::Correlation => tspin(correlation, pair, beta, self.initial_weight),
            Loss::Nce => space(pair, self.mu),
            Loss::Sigmoid => dpo_sigmoid(pair, beta, self.label_smoothing),
            Loss::Ipo => dpo_ipo(pair, beta),
        };
        if self.nll_weight > 0.0 {
            let nll = nll(pair.real, pair.real_tokens);
            term.loss += self.nll_weight * nll.value;
            term.by_real += self.nll_weight * nll.slope;
        }
        term
    }
}

/// What is minimised.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Objective {
    /// A real answer against a generated one. The mean over the
    /// pairs of an update.
    Pairs(PairObjective),
    /// The human answers alone: the mean over the response tokens of an
    /// update.
    Sft {
        /// torch's `cross_entropy(label_smoothing=…)`.
        label_smoothing: f64,
    },
}

impl Objective {
    /// The objective of a configuration.
    pub fn new(config: &FitConfig) -> Objective {
        match config.loss() {
            Some(loss) => Objective::Pairs(PairObjective {
                loss,
                beta: config.reward_scale(),
                initial_weight: config.initial_weight,
                mu: config.mu,
                label_smoothing: config.label_smoothing,
                nll_weight: config.nll_weight,
            }),
            None => Objective::Sft { label_smoothing: config.label_smoothing },
        }
    }

    /// For people: `spin (logistic)`, `sft`.
    pub fn describe(config: &FitConfig) -> String {
        let word = |value: serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let objective = word(run::as_params(&config.objective));
        match config.loss() {
            Some(loss) => format!("{objective} ({})", word(run::as_params(&loss))),
            None => objective,
        }
    }
}
