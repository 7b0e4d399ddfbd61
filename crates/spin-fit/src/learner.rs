//! One update: gradients over its rows in forward passes that fit, clipping,
//! the optimiser's step. No files, no schedule, no order of rows.

use std::rc::Rc;

use candle_core::Var;
use spin_model::{Batch, CausalLm, Gradients, clip_factor};
use spin_noise::mix;
use spin_run::run::{FitConfig, OptimizerKind};

use crate::batches::Limit;
use crate::collective::parts::Parts;
use crate::collective::{Collective, Solo};
use crate::data::Example;
use crate::error::{FitError, Result};
use crate::objective::{self, Objective, PairLogps, PairMetrics};
use crate::optim::{self, AdamW, Optimizer, RmsProp, Rule};
use crate::reference;
use crate::shares::{Counts, Shares};

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
    shares: Shares,
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
        Learner::among(model, config, seed, Rc::new(Solo))
    }

    /// The same, as one of the processes of `world`: each has the whole model
    /// and the gradient of a share, and a part of the optimiser's state. All
    /// of them make every call together.
    ///
    /// # Errors
    /// As [`Learner::new`], and when the shares of an update cannot be dealt to
    /// so many.
    pub fn among(model: CausalLm, config: &FitConfig, seed: u64, world: Rc<dyn Collective>) -> Result<Self> {
        let rank = world.rank();
        let shares = Shares::new(config.shards, world, model.trainable())?;
        let part = |number: usize, var: &Var| match shares.parts() {
            Some(parts) => parts.of(rank, number),
            None => 0..var.elem_count(),
        };
        Ok(Learner {
            optimizer: Optimizer::of_part(rule(config), model.trainable(), optim::decays, part)?,
            gradients: Gradients::zeros(model.trainable())?,
            objective: Objective::new(config),
            limit: Limit::of(config),
            max_grad_norm: config.max_grad_norm,
            shares,
            seed,
            model,
        })
    }

    /// The processes that train together.
    pub fn world(&self) -> &dyn Collective {
        self.shares.world()
    }

    /// Which of them looks after which numbers; `None` for one alone.
    pub fn parts(&self) -> Option<&Parts> {
        self.shares.parts()
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
        let rows = self.checked(rows)?;
        if !self.shares.is_one() {
            return self.update_in_shares(&rows, lr, go_on);
        }
        self.gradients.clear()?;
        let key = u64::from(self.optimizer.steps()) << 32;
        let Some(counts) = self.accumulate(&rows, &Whole::of(&rows), |pass| key | pass, go_on)? else {
            return Ok(None);
        };
        // Once is enough: which tensors get gradients does not change.
        if counts.sloped && self.optimizer.steps() == 0 {
            self.gradients.check_complete()?;
        }
        let grad_norm = self.gradients.clip_global_norm(self.largest_norm())?;
        self.finish(&rows, counts, grad_norm, lr).map(Some)
    }

    /// The same share by share, each share's gradient by itself. What adapters
    /// drop follows from update, share and forward pass, never from who
    /// computes it.
    fn update_in_shares(
        &mut self,
        rows: &[&Example],
        lr: f64,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Option<UpdateOutcome>> {
        let (whole, step) = (Whole::of(rows), u64::from(self.optimizer.steps()));
        let mut counts = Counts::default();
        for (round, (share, own)) in self.shares.own(rows.len()).into_iter().enumerate() {
            self.gradients.clear()?;
            let key = mix(step << 32 | share as u64);
            let computed = self.accumulate(&rows[own], &whole, |pass| key ^ pass, go_on)?;
            match self.shares.add(computed, &mut self.gradients, round, step == 0)? {
                Some(so_far) => counts = so_far,
                None => return Ok(None),
            }
        }
        let limit = self.largest_norm();
        let grad_norm = match self.shares.among() {
            None => self.gradients.clip_global_norm(limit)?,
            Some(among) => {
                let norm = among.norm(&mut self.gradients)?;
                if let Some(factor) = clip_factor(norm, limit) {
                    among.scale(&mut self.gradients, factor);
                }
                norm
            }
        };
        self.finish(rows, counts, grad_norm, lr).map(Some)
    }

    /// Adds the gradient of `rows`, which are some of the rows of an update, to
    /// what is there; `None` if `go_on` did not hold. `key` gives a number to
    /// each forward pass.
    fn accumulate(
        &mut self,
        rows: &[&Example],
        whole: &Whole,
        key: impl Fn(u64) -> u64,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Option<Counts>> {
        let objective = self.objective;
        let smoothing = match objective {
            Objective::Sft { label_smoothing } => label_smoothing,
            Objective::Pairs(_) => 0.0,
        };
        let mut counts = Counts::default();
        let mut sums = self.model.accumulation(&mut self.gradients)?;
        for (pass, cut) in self.limit.cut(rows).into_iter().enumerate() {
            if !go_on() {
                return Ok(None);
            }
            let batch = Batch::grouped(cut.iter().map(|&row| (rows[row].prompt_ids.as_slice(), rows[row].answers())))?
                .with_dropout_seed(mix(mix(self.seed) ^ key(pass as u64)));
            let mut slopes = |group: usize, logps: &[f64]| {
                let slopes = match (objective, pair_logps(rows[cut[group]], logps)) {
                    (Objective::Pairs(objective), Some(pair)) => {
                        let term = objective.term(&pair);
                        counts.metrics.add(&pair, &term);
                        [term.by_real, term.by_generated, term.by_initial][..logps.len()]
                            .iter()
                            .map(|slope| slope * whole.share)
                            .collect()
                    }
                    _ => {
                        let term = objective::nll(logps[0], whole.response_tokens);
                        counts.loss += term.value;
                        vec![term.slope]
                    }
                };
                counts.sloped |= slopes.iter().any(|slope| *slope != 0.0);
                slopes
            };
            sums.add(&batch, smoothing, &mut slopes)?;
        }
        sums.finish()?;
        Ok(Some(counts))
    }

    /// A limit of 0 means none; the norm is wanted all the same.
    fn largest_norm(&self) -> f64 {
        if self.max_grad_norm > 0.0 { self.max_grad_norm } else { f64::MAX }
    }

    /// The step, once the gradient is clipped.
    fn finish(&mut self, rows: &[&Example], counts: Counts, grad_norm: f64, lr: f64) -> Result<UpdateOutcome> {
        let pairs = matches!(self.objective, Objective::Pairs(_)).then_some(counts.metrics);
        let mut outcome = UpdateOutcome {
            loss: pairs.as_ref().map_or(counts.loss, PairMetrics::loss),
            grad_norm,
            pairs,
            tokens: rows.iter().map(|e| e.tokens()).sum(),
            not_finite: None,
        };
        if !outcome.loss.is_finite() {
            outcome.not_finite = Some("loss");
        } else if !outcome.grad_norm.is_finite() {
            outcome.not_finite = Some("norm of the gradient");
        } else {
            self.optimizer.step(&self.gradients, lr)?;
            if let Some(among) = self.shares.among() {
                among.spread(self.model.trainable())?;
            }
        }
        Ok(outcome)
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

    /// The gradients of the last update, clipped; of several processes this
    /// one's part.
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
        let logps = reference::logps_among(&self.model, &groups, self.limit, self.world())?;
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

/// What a row's slope takes from the other rows of its update.
struct Whole {
    /// Of a pair.
    share: f64,
    response_tokens: usize,
}

impl Whole {
    fn of(rows: &[&Example]) -> Whole {
        Whole { share: 1.0 / rows.len().max(1) as f64, response_tokens: rows.iter().map(|e| e.real_ids.len()).sum() }
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
