//! One update: gradients over its rows in forward passes that fit, clipping,
//! the optimiser's step. No files, no schedule, no order of rows.

use spin_model::{Batch, CausalLm, Gradients};
use spin_noise::mix;
use spin_run::run::{FitConfig, OptimizerKind};

use crate::batches::Limit;
use crate::data::Example;
use crate::error::{FitError, Result};
use crate::objective::{self, Objective, PairLogps, PairMetrics};
use crate::optim::{self, AdamW, Optimizer, RmsProp, Rule};
use crate::reference;

/// A model with what changes it.
#[derive(Debug)]
pub struct Learner {
    /// Changed in place.
    pub model: CausalLm,
    /// The optimiser with its state.
    pub optimizer: Optimizer,
    objective: Objective,
    limit: Limit,
    max_grad_norm: f64,
    gradients: Gradients,
    /// Decides what adapters drop, with the update and the forward pass.
    seed: u64,
}

/// What an update did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UpdateOutcome {
    /// Mean loss: per pair, or per response token in supervised training.
    pub loss: f64,
    /// Global norm of the gradient before clipping.
    pub grad_norm: f64,
    /// About the pairs, if it was pairs.
    pub pairs: Option<PairMetrics>,
    /// Tokens of all sequences.
    pub tokens: usize,
    /// What was not finite; the weights are then as they were.
    pub not_finite: Option<&'static str>,
}

/// How a model does on held-out rows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Evaluation {
    /// Mean loss: per pair, or in nats per response token without smoothing.
    pub loss: f64,
    /// Mean margin of rewards, of pairs.
    pub margin: Option<f64>,
    /// Share of pairs whose real answer gained more.
    pub accuracy: Option<f64>,
}

/// The optimiser's rule of a configuration.
pub fn rule(config: &FitConfig) -> Rule {
    let FitConfig { alpha, betas, eps, weight_decay, .. } = *config;
    match config.optimizer {
        OptimizerKind::Rmsprop => Rule::RmsProp(RmsProp { alpha, eps, weight_decay }),
        OptimizerKind::Adamw => Rule::AdamW(AdamW { betas, eps, weight_decay }),
    }
}

impl Learner {
    /// A learner with a fresh optimiser; `seed` decides what adapters drop.
    ///
    /// # Errors
    /// When the device cannot hold gradients and state.
    pub fn new(model: CausalLm, config: &FitConfig, seed: u64) -> Result<Self> {
        Ok(Learner {
            optimizer: Optimizer::new(rule(config), model.trainable(), optim::decays)?,
            gradients: Gradients::zeros(model.trainable())?,
            objective: Objective::new(config),
            limit: Limit::of(config),
            max_grad_norm: config.max_grad_norm,
            seed,
            model,
        })
    }

    /// One optimiser step over all of `rows` with learning rate `lr`. However
    /// they are cut, the loss is the mean over all of them.
    ///
    /// # Errors
    /// When a row does not fit model or objective, or a tensor operation
    /// fails. A loss that is not finite is no error: see
    /// [`UpdateOutcome::not_finite`].
    pub fn update(&mut self, rows: &[&Example], lr: f64) -> Result<UpdateOutcome> {
        Ok(self.update_while(rows, lr, &mut || true)?.expect("nobody says stop"))
    }

    /// The same as long as `go_on` holds, which is asked before each forward
    /// pass; `None` if it did not. Weights and optimiser are then as they were.
    ///
    /// # Errors
    /// As [`Learner::update`].
    pub fn update_while(
        &mut self,
        rows: &[&Example],
        lr: f64,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Option<UpdateOutcome>> {
        let objective = self.objective;
        let rows = &self.checked(rows)?;
        let smoothing = match objective {
            Objective::Sft { label_smoothing } => label_smoothing,
            Objective::Pairs(_) => 0.0,
        };
        let share = 1.0 / rows.len().max(1) as f64;
        let response_tokens: usize = rows.iter().map(|e| e.real_ids.len()).sum();
        let mut metrics = PairMetrics::default();
        let (mut loss, mut sloped) = (0.0, false);
        self.gradients.clear()?;
        for (pass, cut) in self.limit.cut(rows).into_iter().enumerate() {
            if !go_on() {
                return Ok(None);
            }
            let batch = Batch::grouped(cut.iter().map(|&row| (rows[row].prompt_ids.as_slice(), rows[row].answers())))?
                .with_dropout_seed(mix(mix(self.seed) ^ (u64::from(self.optimizer.steps()) << 32 | pass as u64)));
            let mut slopes = |group: usize, logps: &[f64]| {
                let slopes = match (objective, pair_logps(rows[cut[group]], logps)) {
                    (Objective::Pairs(objective), Some(pair)) => {
                        let term = objective.term(&pair);
                        metrics.add(&pair, &term);
                        [term.by_real, term.by_generated, term.by_initial][..logps.len()]
                            .iter()
                            .map(|slope| slope * share)
                            .collect()
                    }
                    _ => {
                        let term = objective::nll(logps[0], response_tokens);
                        loss += term.value;
                        vec![term.slope]
                    }
                };
                sloped |= slopes.iter().any(|slope| *slope != 0.0);
                slopes
            };
            self.model.accumulate_gradients(&batch, smoothing, &mut slopes, &mut self.gradients)?;
        }
        let pairs = matches!(objective, Objective::Pairs(_)).then_some(metrics);
        let mut outcome = UpdateOutcome {
            loss: pairs.as_ref().map_or(loss, PairMetrics::loss),
            pairs,
            tokens: rows.iter().map(|e| e.tokens()).sum(),
            ..UpdateOutcome::default()
        };
        // Once is enough: which tensors get gradients does not change.
        if sloped && self.optimizer.steps() == 0 {
            self.gradients.check_complete()?;
        }
        // A limit of 0 means none; the norm is wanted all the same.
        let limit = if self.max_grad_norm > 0.0 { self.max_grad_norm } else { f64::MAX };
        outcome.grad_norm = self.gradients.clip_global_norm(limit)?;
        if !outcome.loss.is_finite() {
            outcome.not_finite = Some("loss");
        } else if !outcome.grad_norm.is_finite() {
            outcome.not_finite = Some("norm of the gradient");
        } else {
            self.optimizer.step(&self.gradients, lr)?;
        }
        Ok(Some(outcome))
    }

    /// The name of a tensor that holds NaN or an infinity, trained or not.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn not_finite_from_the_start(&self) -> Result<Option<String>> {
        Ok(match self.model.without_adapter().not_finite()? {
            Some(name) => Some(name),
            None => self.model.not_finite()?,
        })
    }

    /// The gradients of the last update, clipped.
    pub fn gradients(&self) -> &Gradients {
        &self.gradients
    }

    /// How the model does on rows that it is not trained on.
    ///
    /// # Errors
    /// As [`Learner::update`].
    pub fn evaluate(&self, rows: &[&Example]) -> Result<Evaluation> {
        let rows = self.checked(rows)?;
        let groups: Vec<reference::Group<'_>> =
            rows.iter().map(|e| (e.prompt_ids.as_slice(), e.answers().collect())).collect();
        let logps = reference::logps(&self.model, &groups, self.limit)?;
        let Objective::Pairs(objective) = self.objective else {
            let tokens: usize = rows.iter().map(|e| e.real_ids.len()).sum();
            let loss = logps.iter().map(|logps| objective::nll(logps[0], tokens).value).sum();
            return Ok(Evaluation { loss, ..Evaluation::default() });
        };
        let mut metrics = PairMetrics::default();
        for pair in rows.iter().zip(&logps).filter_map(|(row, logps)| pair_logps(row, logps)) {
            metrics.add(&pair, &objective.term(&pair));
        }
        Ok(Evaluation {
            loss: metrics.loss(),
            margin: Some(metrics.margin(objective.beta)),
            accuracy: Some(metrics.accuracy()),
        })
    }

    /// The rows, if the objective can be computed on them.
    fn checked<'e>(&self, rows: &[&'e Example]) -> Result<Vec<&'e Example>> {
        let pairs = matches!(self.objective, Objective::Pairs(_));
        match rows.iter().find(|e| e.opponent.is_some() != pairs) {
            None => Ok(rows.to_vec()),
            Some(row) => Err(FitError::Row {
                row_id: row.row_id.clone(),
                table: "the training set".into(),
                problem: if pairs { "has no generated answer" } else { "is a pair" }.into(),
                remedy: "spin and dpo train on pairs, sft on demonstrations".into(),
            }),
        }
    }
}

/// A row's log-probabilities beside those of the opponent; `None` for a row
/// without one.
fn pair_logps(row: &Example, logps: &[f64]) -> Option<PairLogps> {
    let opponent = row.opponent.as_ref()?;
    Some(PairLogps {
        real: logps[0],
        generated: logps[1],
        ref_real: opponent.ref_real,
        ref_generated: opponent.ref_generated,
        initial: logps.get(2).copied(),
        real_tokens: row.real_ids.len(),
        generated_tokens: opponent.generated_ids.len(),
    })
}
