//! The training loop: updates, held-out evaluation, checkpoints, resumption.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use spin_model::{Batch, CausalLm};
use spin_store::StoreError;
use spin_store::run::{FitConfig, Objective, OptimizerKind, SchedulerKind};

use crate::checkpoint::{self, Progress};
use crate::data::{Epochs, Example};
use crate::error::{FitError, Result};
use crate::objective::{self, SpinMetrics};
use crate::optim::{AdamW, Gradients, Optimizer, RmsProp, Rule};
use crate::schedule::{Decay, Schedule};

/// What one update did, as it is written to `training_metrics.jsonl`. Names
/// follow TRL where it has one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UpdateLog {
    /// Counts from 1.
    pub update: usize,
    /// Mean loss of the update's rows (`spin`: per pair, `sft`: per token).
    pub loss: f64,
    /// Learning rate used.
    pub learning_rate: f64,
    /// Global norm of the gradient before clipping.
    pub grad_norm: f64,
    /// The pairs' metrics (`spin`).
    #[serde(rename = "rewards/real", skip_serializing_if = "Option::is_none", default)]
    pub rewards_real: Option<f64>,
    /// As above, of the generated answers.
    #[serde(rename = "rewards/generated", skip_serializing_if = "Option::is_none", default)]
    pub rewards_generated: Option<f64>,
    /// Share of pairs whose real answer gained more.
    #[serde(rename = "rewards/accuracies", skip_serializing_if = "Option::is_none", default)]
    pub rewards_accuracies: Option<f64>,
    /// Mean difference of the two rewards.
    #[serde(rename = "rewards/margins", skip_serializing_if = "Option::is_none", default)]
    pub rewards_margins: Option<f64>,
    /// Mean log-probability of the real answers: it may fall while the loss
    /// does too.
    #[serde(rename = "logps/real", skip_serializing_if = "Option::is_none", default)]
    pub logps_real: Option<f64>,
    /// Mean log-probability of the generated answers.
    #[serde(rename = "logps/generated", skip_serializing_if = "Option::is_none", default)]
    pub logps_generated: Option<f64>,
    /// Held-out loss in nats per token, where it was evaluated.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub eval_loss: Option<f64>,
}

/// How training ended.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// All updates are done, or the held-out loss stopped falling.
    Finished(Summary),
    /// A stop was asked for; this many updates are in the checkpoint.
    Stopped(usize),
}

/// Facts about a finished training.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Updates made.
    pub updates: usize,
    /// Updates of the whole schedule.
    pub scheduled_updates: usize,
    /// The update whose weights were kept; differs from `updates` when the
    /// held-out loss chose an earlier one.
    pub kept_update: usize,
    /// Lowest held-out loss in nats per token.
    pub best_eval_loss: Option<f64>,
    /// Log of every update.
    pub log: Vec<UpdateLog>,
}

/// Where unfinished training is kept.
#[derive(Clone, Debug)]
pub struct Files {
    /// Weights, optimiser state, counters.
    pub checkpoint: PathBuf,
    /// Weights with the lowest held-out loss.
    pub best: PathBuf,
    /// Log lines up to (at least) the checkpoint.
    pub log: PathBuf,
}

/// A training to run.
pub struct Trainer<'a> {
    /// Trained in place.
    pub model: CausalLm,
    /// How.
    pub config: &'a FitConfig,
    /// The rows.
    pub examples: &'a [Example],
    /// Held-out rows; empty unless `eval_every` is set.
    pub held_out: &'a [Example],
    /// Decides the order of the rows.
    pub seed: u64,
    /// Exact number of updates, instead of epochs; 0 for epochs.
    pub updates: usize,
    /// Where unfinished training is kept.
    pub files: Files,
}

impl Trainer<'_> {
    fn rule(&self) -> Rule {
        let c = self.config;
        match c.optimizer {
            OptimizerKind::Rmsprop => Rule::RmsProp(RmsProp {
                alpha: c.alpha,
                eps: c.eps,
                weight_decay: c.weight_decay,
                ..RmsProp::default()
            }),
            OptimizerKind::Adamw => Rule::AdamW(AdamW { betas: c.betas, eps: c.eps, weight_decay: c.weight_decay }),
        }
    }

    /// Trains, from the checkpoint if there is one.
    ///
    /// # Errors
    /// A loss or gradient that is not finite, a full disk, a foreign
    /// checkpoint.
    pub fn run(&mut self, stop: &AtomicBool, on_update: &mut dyn FnMut(&UpdateLog, usize)) -> Result<End> {
        let config = self.config;
        let epochs = Epochs::new(self.examples.len(), config.batch_size, self.seed);
        let (scheduled, last) = match self.updates {
            0 => (epochs.updates_in(config.schedule_epochs), epochs.updates_in(config.stop_epoch)),
            n => (n, n),
        };
        let schedule = Schedule {
            decay: match config.lr_scheduler {
                SchedulerKind::Constant => Decay::Constant,
                SchedulerKind::Linear => Decay::Linear,
                SchedulerKind::Cosine => Decay::Cosine,
            },
            // As transformers' TrainingArguments.get_warmup_steps.
            warmup_steps: (scheduled as f64 * config.warmup_ratio).ceil() as usize,
            total_steps: scheduled,
        };
        let mut optimizer = Optimizer::new(self.rule(), self.model.params())?;
        let mut progress = Progress::default();
        let mut log = Vec::new();
        if self.files.checkpoint.exists() {
            progress = self.restore(&mut optimizer)?;
            log = self.read_log(progress.update)?;
        }
        if let Some(last) = log.last() {
            on_update(last, scheduled);
        }
        while progress.update < last && !self.plateaued(&progress) {
            if stop.load(Ordering::Relaxed) {
                self.save(&optimizer, &progress, &log)?;
                return Ok(End::Stopped(progress.update));
            }
            let rows = epochs.rows_of(progress.update);
            let lr = config.learning_rate * schedule.factor(progress.update);
            let mut entry = self.update(&rows, lr, &mut optimizer, &progress)?;
            progress.update += 1;
            entry.update = progress.update;
            if config.eval_every > 0 && (progress.update.is_multiple_of(config.eval_every) || progress.update == last) {
                entry.eval_loss = Some(self.evaluate(&mut progress)?);
            }
            on_update(&entry, scheduled);
            log.push(entry);
            if progress.update.is_multiple_of(config.checkpoint_every) {
                self.save(&optimizer, &progress, &log)?;
            }
        }
        let mut kept_update = progress.update;
        if progress.best_loss.is_some() && progress.best_update < progress.update {
            let (weights, _) = checkpoint::load(&self.files.best)?;
            self.model.set_params(&weights)?;
            kept_update = progress.best_update;
        }
        Ok(End::Finished(Summary {
            updates: progress.update,
            scheduled_updates: scheduled,
            kept_update,
            best_eval_loss: progress.best_loss,
            log,
        }))
    }

    fn plateaued(&self, progress: &Progress) -> bool {
        self.config.patience > 0 && progress.evaluations_since_best >= self.config.patience
    }

    /// One optimiser step over `rows`, in micro-batches.
    fn update(&self, rows: &[usize], lr: f64, optimizer: &mut Optimizer, progress: &Progress) -> Result<UpdateLog> {
        let response_tokens: usize = rows.iter().map(|&r| self.examples[r].real_ids.len()).sum();
        let mut gradients: Option<Gradients> = None;
        let mut entry = UpdateLog { learning_rate: lr, ..UpdateLog::default() };
        let mut metrics = SpinMetrics::default();
        for micro in rows.chunks(self.config.micro_batch_size) {
            let examples: Vec<&Example> = micro.iter().map(|&r| &self.examples[r]).collect();
            let (loss, pair_metrics) = match self.config.objective {
                Objective::Spin => self.spin_loss(&examples, rows.len())?,
                Objective::Sft => (self.sft_loss(&examples, response_tokens)?, SpinMetrics::default()),
            };
            entry.loss += f64::from(loss.to_scalar::<f32>()?);
            metrics = metrics.merge(&pair_metrics);
            let mut store = loss.backward()?;
            let taken = Gradients::take(self.model.params(), &mut store)?;
            match &mut gradients {
                None => gradients = Some(taken),
                Some(sum) => sum.accumulate(&taken)?,
            }
        }
        let mut gradients = gradients.expect("an update has rows");
        self.check("loss", entry.loss, rows, progress)?;
        // A limit of 0 means none; the norm is wanted all the same.
        let limit = if self.config.max_grad_norm > 0.0 { self.config.max_grad_norm } else { f64::MAX };
        entry.grad_norm = gradients.clip_global_norm(limit)?;
        self.check("norm of the gradient", entry.grad_norm, rows, progress)?;
        optimizer.step(&gradients, lr)?;
        if self.config.objective == Objective::Spin {
            entry.rewards_real = Some(metrics.reward_real);
            entry.rewards_generated = Some(metrics.reward_generated);
            entry.rewards_accuracies = Some(metrics.accuracy);
            entry.rewards_margins = Some(metrics.margin);
            entry.logps_real = Some(metrics.logp_real);
            entry.logps_generated = Some(metrics.logp_generated);
        }
        Ok(entry)
    }

    /// Sum of the pairs' losses over `pairs_in_update`.
    fn spin_loss(&self, examples: &[&Example], pairs_in_update: usize) -> Result<(Tensor, SpinMetrics)> {
        let opponents: Vec<_> = examples.iter().filter_map(|e| e.opponent.as_ref()).collect();
        let n = examples.len();
        // Real and generated answers share one forward pass.
        let real = examples.iter().map(|e| (e.prompt_ids.as_slice(), e.real_ids.as_slice()));
        let generated =
            examples.iter().zip(&opponents).map(|(e, o)| (e.prompt_ids.as_slice(), o.generated_ids.as_slice()));
        let logps = self.model.response_logps(&Batch::new(real.chain(generated))?)?;
        let (policy_real, policy_generated) = (logps.narrow(0, 0, n)?, logps.narrow(0, n, n)?);
        let device = self.model.device();
        let ref_real = Tensor::from_vec(opponents.iter().map(|o| o.ref_real).collect::<Vec<_>>(), n, device)?;
        let ref_generated = Tensor::from_vec(opponents.iter().map(|o| o.ref_generated).collect::<Vec<_>>(), n, device)?;
        let loss =
            objective::spin_logistic(&policy_real, &policy_generated, &ref_real, &ref_generated, self.config.beta)?;
        let mut losses = loss.losses;
        if self.config.nll_weight > 0.0 {
            let lengths: Vec<usize> = examples.iter().map(|e| e.real_ids.len()).collect();
            losses = (losses + (objective::mean_token_nll(&policy_real, &lengths)? * self.config.nll_weight)?)?;
        }
        Ok(((losses.sum_all()? / pairs_in_update as f64)?, loss.metrics))
    }

    fn sft_loss(&self, examples: &[&Example], tokens_in_update: usize) -> Result<Tensor> {
        let rows = examples.iter().map(|e| (e.prompt_ids.as_slice(), e.real_ids.as_slice()));
        let logps = self.model.smoothed_response_logps(&Batch::new(rows)?, self.config.label_smoothing)?;
        Ok(objective::sft(&logps, tokens_in_update)?)
    }

    fn check(&self, what: &'static str, value: f64, rows: &[usize], progress: &Progress) -> Result<()> {
        if value.is_finite() {
            return Ok(());
        }
        let mut ids: Vec<&str> = rows.iter().map(|&r| self.examples[r].row_id.as_str()).collect();
        let more = ids.len().saturating_sub(8);
        ids.truncate(8);
        let kept = if self.files.checkpoint.exists() { checkpoint::load(&self.files.checkpoint)?.1.update } else { 0 };
        Err(FitError::NotFinite {
            what,
            value,
            update: progress.update + 1,
            rows: if more > 0 { format!("{} and {more} more", ids.join(", ")) } else { ids.join(", ") },
            kept,
            checkpoint: self.files.checkpoint.display().to_string(),
        })
    }

    /// Held-out loss in nats per token; keeps the weights when it is the
    /// lowest.
    fn evaluate(&self, progress: &mut Progress) -> Result<f64> {
        let rows: Vec<(&[u32], &[u32])> =
            self.held_out.iter().map(|e| (e.prompt_ids.as_slice(), e.real_ids.as_slice())).collect();
        let tokens: usize = rows.iter().map(|r| r.1.len()).sum();
        let logps = crate::reference::logps(&self.model, &rows, self.config.micro_batch_size)?;
        let loss = -logps.iter().sum::<f64>() / tokens as f64;
        if progress.best_loss.is_none_or(|best| loss < best) {
            *progress = Progress {
                best_loss: Some(loss),
                best_update: progress.update,
                evaluations_since_best: 0,
                update: progress.update,
            };
            let weights = self.model.params().iter().map(|(k, v)| (k.clone(), v.as_detached_tensor())).collect();
            checkpoint::save(&self.files.best, &weights, progress)?;
        } else {
            progress.evaluations_since_best += 1;
        }
        Ok(loss)
    }

    /// The log first: it may run ahead of the checkpoint, and is then cut.
    fn save(&self, optimizer: &Optimizer, progress: &Progress, log: &[UpdateLog]) -> Result<()> {
        spin_store::fsutil::write_atomic(&self.files.log, log_text(log).as_bytes())?;
        let mut tensors = optimizer.state_dict()?;
        let optimizer_keys: Vec<String> = tensors.keys().cloned().collect();
        for key in optimizer_keys {
            let tensor = tensors.remove(&key).expect("listed");
            tensors.insert(format!("optimizer.{key}"), tensor);
        }
        for (name, var) in self.model.params() {
            tensors.insert(format!("weights.{name}"), var.as_detached_tensor());
        }
        checkpoint::save(&self.files.checkpoint, &tensors, progress)
    }

    fn restore(&self, optimizer: &mut Optimizer) -> Result<Progress> {
        let (tensors, progress) = checkpoint::load(&self.files.checkpoint)?;
        let part = |prefix: &str| {
            let strip = |(k, v): (&String, &Tensor)| Some((k.strip_prefix(prefix)?.to_owned(), v.clone()));
            tensors.iter().filter_map(strip).collect()
        };
        self.model.set_params(&part("weights."))?;
        optimizer.load_state_dict(&part("optimizer."))?;
        Ok(progress)
    }

    fn read_log(&self, update: usize) -> Result<Vec<UpdateLog>> {
        let path = &self.files.log;
        let text = std::fs::read_to_string(path).map_err(StoreError::io("read", path))?;
        let lines = text.lines().map(serde_json::from_str::<UpdateLog>).collect::<Result<Vec<_>, _>>();
        let mut log = lines.map_err(|e| FitError::Checkpoint {
            path: path.display().to_string(),
            problem: format!("is not a training log ({e})"),
        })?;
        log.retain(|l| l.update <= update);
        Ok(log)
    }
}

/// The log as JSON lines. No times: equal trainings give equal bytes.
pub fn log_text(log: &[UpdateLog]) -> String {
    log.iter().map(|l| serde_json::to_string(l).expect("plain numbers") + "\n").collect()
}
