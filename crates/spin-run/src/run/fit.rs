//! `[fit]`: how a model is trained.

#[cfg(test)]
mod tests;

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::FitDtype;

/// What is minimised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ObjectiveKind {
    /// The paper's: the human answer against the opponent's.
    #[default]
    Spin,
    /// T-SPIN (arXiv 2601.08198): the human answer against the opponent's, and
    /// the opponent's against θ0's, without a reference.
    Tspin,
    /// SPACE (arXiv 2512.07175): each answer against the reference by noise
    /// contrastive estimation.
    Space,
    /// Direct preference optimisation, as TRL's `DPOTrainer`.
    Dpo,
    /// Negative log-likelihood of the human answer.
    Sft,
}

/// The function of the margin between the two answers of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Loss {
    /// log(1 + exp(-t)) (`spin`, `tspin`).
    Logistic,
    /// max(0, 1 - t) (`spin`, `tspin`, `dpo`).
    Hinge,
    /// exp(-t) (`spin`, `tspin`).
    Exponential,
    /// 1 - t (`spin`); it has no lower bound, so watch the human answers'
    /// log-probabilities.
    Correlation,
    /// -log sigmoid(t), with `label_smoothing` that of conservative DPO
    /// (`dpo`).
    Sigmoid,
    /// Identity preference optimisation, on log-probabilities per token
    /// (`dpo`).
    Ipo,
    /// Noise contrastive estimation with `mu` (`space`): no function of one
    /// margin, but of the gain of each answer.
    Nce,
}

/// Which optimiser, with PyTorch's meaning and defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// `torch.optim.RMSprop`.
    #[default]
    Rmsprop,
    /// `torch.optim.AdamW`.
    Adamw,
}

/// How the learning rate moves, with transformers' meaning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SchedulerKind {
    /// Warm-up, then constant.
    Constant,
    /// Warm-up, then linear to 0.
    #[default]
    Linear,
    /// Warm-up, then half a cosine to 0.
    Cosine,
}

/// What to do about a loss or gradient that is not finite.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NonFinite {
    /// Stop and keep the checkpoint.
    #[default]
    Stop,
    /// Leave the weights as they are, count the update as skipped, go on;
    /// stop after ten in a row.
    Skip,
}

/// Which weights are published when there is a held-out part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// Those with the lowest held-out loss.
    #[default]
    Best,
    /// Those after the last update.
    Last,
}

/// `[fit.lora]`: train a low-rank adapter instead of the weights. Names and
/// meaning are those of PEFT's `LoraSettings`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LoraSettings {
    /// Rank.
    pub r: usize,
    /// The adapter is scaled by `lora_alpha / r`.
    pub lora_alpha: f64,
    /// Share of an adapter's inputs dropped in training.
    pub lora_dropout: f64,
    /// Ends of the names of the projections that get an adapter, or
    /// `["all-linear"]`.
    pub target_modules: Vec<String>,
    /// Scale by `lora_alpha / sqrt(r)` instead.
    pub use_rslora: bool,
    /// Start from this adapter, a directory in PEFT's format, whose settings
    /// must be the ones above; without it from a fresh one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<PathBuf>,
}

impl Default for LoraSettings {
    fn default() -> Self {
        // Those of the original code: alignment-handbook's ModelArguments.
        let target_modules = ["q_proj", "k_proj", "v_proj", "o_proj"].map(str::to_owned).to_vec();
        LoraSettings { r: 16, lora_alpha: 32.0, lora_dropout: 0.05, target_modules, use_rslora: false, from: None }
    }
}

/// `[fit]`, `[sft]` and the `fit` of a baseline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FitConfig {
    /// What is minimised.
    pub objective: ObjectiveKind,
    /// Which function of the margin; `logistic` for `spin` and `tspin` and
    /// `sigmoid` for `dpo` unless given. `space` has `nce` alone, `sft` none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<Loss>,
    /// The paper's λ, DPO's β, T-SPIN's α (not for `space` and `sft`).
    pub beta: f64,
    /// Weight of the mean negative log-likelihood per token of the human
    /// answer, added to the loss (not for `sft`; 0 in the papers).
    pub nll_weight: f64,
    /// `tspin`: weight of the opponent's answer against θ0's, its paper's β.
    /// In the first round, where both are answers of θ0, it counts for 0.
    #[serde(skip_serializing_if = "is_default_initial_weight")]
    #[schemars(extend("default" = FitConfig::default().initial_weight))]
    pub initial_weight: f64,
    /// `space`: the share of generated to human answers, μ.
    #[serde(skip_serializing_if = "is_default_mu")]
    #[schemars(extend("default" = FitConfig::default().mu))]
    pub mu: f64,
    /// `sft`: share of each target spread evenly over the vocabulary, as
    /// torch's `cross_entropy(label_smoothing=…)`. `dpo` with `sigmoid`: the
    /// probability that a pair is the wrong way round, below 0.5.
    pub label_smoothing: f64,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Shape of the schedule.
    pub lr_scheduler: SchedulerKind,
    /// Share of the schedule's updates spent warming up.
    pub warmup_ratio: f64,
    /// Epochs over which the schedule runs to its end.
    pub schedule_epochs: f64,
    /// Epoch after which training stops; at most `schedule_epochs`.
    pub stop_epoch: f64,
    /// Optimiser.
    pub optimizer: OptimizerKind,
    /// Decay constant of RMSProp's squared average.
    pub alpha: f64,
    /// AdamW's decay constants.
    pub betas: [f64; 2],
    /// The optimiser's ε.
    pub eps: f64,
    /// Decoupled weight decay (AdamW), L2 (RMSProp); of matrices only, as in
    /// transformers: no biases and no norms.
    pub weight_decay: f64,
    /// Largest global norm of the gradient; 0 for no clipping.
    pub max_grad_norm: f64,
    /// Rows (pairs) per update.
    pub batch_size: usize,
    /// Rows per forward pass; gradients are accumulated up to `batch_size`.
    /// Without meaning when `max_tokens_per_batch` is set.
    pub micro_batch_size: usize,
    /// Largest number of tokens of a forward pass: rows of an update are
    /// sorted by length and cut so that their sequences (two for a pair),
    /// padded to the longest, stay below. A row above it goes alone. 0 to go
    /// by `micro_batch_size`.
    pub max_tokens_per_batch: usize,
    /// Shares that the rows of an update are cut into; each share's gradient
    /// is computed by itself, and their sum is taken in the order of the
    /// shares. So many processes, or a divisor of it, can train together (see
    /// docs/training.md); how many do changes no number, but how many shares
    /// there are changes the rounding of sums. 1 for one sum over all rows.
    #[serde(skip_serializing_if = "is_default_shards")]
    #[schemars(extend("default" = FitConfig::default().shards))]
    pub shards: usize,
    /// Type of the trained weights.
    pub dtype: FitDtype,
    /// Which blocks are computed again in the backward pass instead of kept:
    /// 0 none, 1 every, k every k-th. Less memory for more time; the result
    /// is the same.
    pub recompute_every: usize,
    /// What to do about a loss or gradient that is not finite.
    pub on_nonfinite: NonFinite,
    /// Updates between checkpoints.
    pub checkpoint_every: usize,
    /// Minutes of training after which a checkpoint is made as well, at the
    /// end of an update: what an interruption may cost where updates are
    /// slow. 5 unless given; 0 to go by updates alone. It decides no number,
    /// so it may differ when a training is carried on.
    pub checkpoint_minutes: f64,
    /// Updates between evaluations on held-out rows; 0 for none.
    pub eval_every: usize,
    /// Rows held out and not trained on, from the end of the training set,
    /// each with all its pairs (with `eval_every` only).
    pub eval_rows: usize,
    /// Stop after this many evaluations without a lower held-out loss; 0 to
    /// train to the end.
    pub patience: usize,
    /// Stop when the mean held-out margin of rewards reaches this (`spin` and
    /// `dpo` only); 0 to train to the end.
    pub stop_margin: f64,
    /// Which weights are published when there is a held-out part.
    pub keep: Keep,
    /// Train an adapter; without it all weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraSettings>,
}

// What other objectives do not have is not in their parameters, which decide
// the identity of what they make.
fn is_default_initial_weight(value: &f64) -> bool {
    *value == FitConfig::default().initial_weight
}

fn is_default_mu(value: &f64) -> bool {
    *value == FitConfig::default().mu
}

// One share is what releases before shares had: their identities stay.
fn is_default_shards(value: &usize) -> bool {
    *value == FitConfig::default().shards
}

impl Default for FitConfig {
    fn default() -> Self {
        FitConfig {
            objective: ObjectiveKind::Spin,
            loss: None,
            beta: 0.1,
            nll_weight: 0.0,
            initial_weight: 0.1,
            mu: 1.0,
            label_smoothing: 0.0,
            learning_rate: 5e-7,
            lr_scheduler: SchedulerKind::Linear,
            warmup_ratio: 0.1,
            schedule_epochs: 1.0,
            stop_epoch: 1.0,
            optimizer: OptimizerKind::Rmsprop,
            alpha: 0.99,
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            batch_size: 64,
            micro_batch_size: 64,
            max_tokens_per_batch: 0,
            shards: 1,
            dtype: FitDtype::F32,
            recompute_every: 0,
            on_nonfinite: NonFinite::Stop,
            checkpoint_every: 50,
            checkpoint_minutes: 5.0,
            eval_every: 0,
            eval_rows: 0,
            patience: 0,
            stop_margin: 0.0,
            keep: Keep::Best,
            lora: None,
        }
    }
}

impl FitConfig {
    /// The loss with the objective's default filled in; `None` for `sft`.
    pub fn loss(&self) -> Option<Loss> {
        match self.objective {
            ObjectiveKind::Spin | ObjectiveKind::Tspin => Some(self.loss.unwrap_or(Loss::Logistic)),
            ObjectiveKind::Space => Some(self.loss.unwrap_or(Loss::Nce)),
            ObjectiveKind::Dpo => Some(self.loss.unwrap_or(Loss::Sigmoid)),
            ObjectiveKind::Sft => None,
        }
    }

    /// What a gain is multiplied by to be a reward.
    pub fn reward_scale(&self) -> f64 {
        if self.objective == ObjectiveKind::Space { 1.0 } else { self.beta }
    }

    /// Whether a training on pairs reads the opponent's log-probabilities of
    /// them: all but T-SPIN do; `sft`, which has no use for them, always did.
    pub fn has_reference(&self) -> bool {
        self.objective != ObjectiveKind::Tspin
    }

    /// Whether θ0's answers are in the loss, where they are not the opponent's.
    pub fn has_initial(&self) -> bool {
        self.objective == ObjectiveKind::Tspin && self.initial_weight > 0.0
    }

    /// The same with objective `sft`, without what only pairs have.
    pub(super) fn as_baseline(&self) -> FitConfig {
        FitConfig {
            objective: ObjectiveKind::Sft,
            loss: None,
            nll_weight: 0.0,
            initial_weight: FitConfig::default().initial_weight,
            mu: FitConfig::default().mu,
            label_smoothing: 0.0,
            stop_margin: 0.0,
            ..self.clone()
        }
    }

    /// Values that no training could work with, in words for people.
    pub(super) fn check(&self) -> Result<(), String> {
        self.check_loss()?;
        if let Some(LoraSettings { r, lora_alpha, lora_dropout, target_modules, .. }) = &self.lora
            && !(*r > 0 && *lora_alpha > 0.0 && (0.0..1.0).contains(lora_dropout) && !target_modules.is_empty())
        {
            return Err(
                "[lora] needs r of at least 1, lora_alpha above 0, lora_dropout of 0 or more and below 1, and \
                        target_modules"
                    .into(),
            );
        }
        if self.batch_size == 0 || self.micro_batch_size == 0 || self.checkpoint_every == 0 {
            return Err("batch_size, micro_batch_size and checkpoint_every must be at least 1".into());
        }
        if !(1..=self.batch_size).contains(&self.shards) {
            return Err(format!(
                "shards = {} must be at least 1 and at most batch_size = {}, the rows that are cut into shares",
                self.shards, self.batch_size
            ));
        }
        if !(self.stop_epoch > 0.0 && self.stop_epoch <= self.schedule_epochs && self.schedule_epochs.is_finite()) {
            return Err(format!(
                "stop_epoch = {} must be above 0 and at most schedule_epochs = {}",
                self.stop_epoch, self.schedule_epochs
            ));
        }
        if !(0.0..=1.0).contains(&self.warmup_ratio) {
            return Err(format!("warmup_ratio = {} must lie between 0 and 1", self.warmup_ratio));
        }
        let finite = [
            ("learning_rate", self.learning_rate),
            ("beta", self.beta),
            ("nll_weight", self.nll_weight),
            ("initial_weight", self.initial_weight),
            ("eps", self.eps),
            ("weight_decay", self.weight_decay),
            ("max_grad_norm", self.max_grad_norm),
            ("stop_margin", self.stop_margin),
            ("checkpoint_minutes", self.checkpoint_minutes),
        ];
        if let Some((name, value)) = finite.into_iter().find(|(_, v)| !v.is_finite() || *v < 0.0) {
            return Err(format!("{name} = {value} must be 0 or more"));
        }
        let decays = [("alpha", self.alpha), ("betas[0]", self.betas[0]), ("betas[1]", self.betas[1])];
        if let Some((name, value)) = decays.into_iter().find(|(_, v)| !(0.0..1.0).contains(v)) {
            return Err(format!("{name} = {value} must be 0 or more and below 1"));
        }
        if self.eval_every > 0 && self.eval_rows == 0 {
            return Err("eval_every needs eval_rows, the number of rows to hold out".into());
        }
        if self.eval_every == 0 && (self.patience > 0 || self.stop_margin > 0.0) {
            return Err("patience and stop_margin need eval_every, the updates between evaluations".into());
        }
        Ok(())
    }

    /// Whether objective, loss and their numbers fit each other.
    fn check_loss(&self) -> Result<(), String> {
        let name = |loss: &Loss| format!("{loss:?}").to_lowercase();
        const OF_A_MARGIN: [Loss; 4] = [Loss::Logistic, Loss::Hinge, Loss::Exponential, Loss::Correlation];
        let (objective, losses): (&str, &[Loss]) = match self.objective {
            ObjectiveKind::Spin => ("spin", &OF_A_MARGIN),
            ObjectiveKind::Tspin => ("tspin", &OF_A_MARGIN),
            ObjectiveKind::Space => ("space", &[Loss::Nce]),
            ObjectiveKind::Dpo => ("dpo", &[Loss::Sigmoid, Loss::Hinge, Loss::Ipo]),
            ObjectiveKind::Sft => ("sft", &[]),
        };
        if let Some(loss) = &self.loss
            && !losses.contains(loss)
        {
            let remedy = match losses {
                [] => "has no loss to choose; leave it out".to_owned(),
                _ => format!("has the losses {}", losses.iter().map(name).collect::<Vec<_>>().join(", ")),
            };
            return Err(format!("loss = \"{}\" does not fit: objective = \"{objective}\" {remedy}", name(loss)));
        }
        let smoothing = self.label_smoothing;
        let smoothable = match self.objective {
            ObjectiveKind::Sft => (0.0..1.0).contains(&smoothing),
            ObjectiveKind::Dpo if self.loss() == Some(Loss::Sigmoid) => (0.0..0.5).contains(&smoothing),
            _ => smoothing == 0.0,
        };
        if !smoothable {
            return Err(format!(
                "label_smoothing = {smoothing} must be 0 or more and below 1 for objective = \"sft\", below 0.5 for \
                 objective = \"dpo\" with loss = \"sigmoid\", and 0 for anything else"
            ));
        }
        if self.objective == ObjectiveKind::Sft && (self.nll_weight > 0.0 || self.stop_margin > 0.0) {
            return Err("nll_weight and stop_margin are for pairs, not for objective = \"sft\"".into());
        }
        if !(self.mu > 0.0 && self.mu.is_finite()) {
            return Err(format!("mu = {} must be above 0", self.mu));
        }
        let usual = FitConfig::default();
        for (name, value, usual, owner) in [
            ("mu", self.mu, usual.mu, ObjectiveKind::Space),
            ("initial_weight", self.initial_weight, usual.initial_weight, ObjectiveKind::Tspin),
        ] {
            if value != usual && self.objective != owner {
                let owner = format!("{owner:?}").to_lowercase();
                return Err(format!("{name} is for objective = \"{owner}\" alone; leave it out"));
            }
        }
        if self.loss() == Some(Loss::Ipo) && self.beta == 0.0 {
            return Err("loss = \"ipo\" divides by beta, which must be above 0".into());
        }
        Ok(())
    }
}
