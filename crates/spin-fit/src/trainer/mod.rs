//! The training loop: which rows and which learning rate, held-out
//! evaluation, when to stop, checkpoints, resumption.

mod held_out;
mod job;
mod pace;
mod resume;
mod saving;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod together_tests;

use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use candle_core::Tensor;
use spin_model::CausalLm;
use spin_run::run::{Keep, NonFinite};

use crate::checkpoint::{Progress, Settings};
use crate::collective::{Collective, Solo, bytes_of, told, words_of};
use crate::data::{Epochs, Example};
use crate::error::{FitError, Result};
use crate::learner::{Learner, UpdateOutcome};
use crate::metrics::events::EventFile;
use crate::metrics::flops::ModelFlops;
use crate::metrics::{LogLine, RealWatch, Timing, UpdateLog, WINDOW};
use crate::schedule::Schedule;
use crate::watch::TrainingWatch;

pub use job::{EarlyStop, End, Files, Job, TrainingSummary};
use pace::Pace;

/// Updates in a row that may be skipped; one more is an error.
pub const MAX_SKIPPED_IN_A_ROW: usize = 10;

/// A training.
#[derive(Debug)]
pub struct Trainer<'a> {
    learner: Learner,
    job: Job<'a>,
    epochs: Epochs,
    schedule: Schedule,
    last: usize,
    files: Option<Files>,
    settings: Settings,
    progress: Progress,
    /// The update of the checkpoint on disk; 0 for none.
    saved: usize,
    pace: Pace,
    /// To be said once somebody listens.
    notes: Vec<String>,
    log: Vec<LogLine>,
    real: RealWatch,
    events: Option<EventFile>,
    flops: ModelFlops,
    peak_flops: Option<f64>,
}

impl<'a> Trainer<'a> {
    /// A training that keeps nothing on disk.
    ///
    /// # Errors
    /// When the device cannot hold gradients and optimiser state.
    pub fn new(model: CausalLm, job: Job<'a>) -> Result<Self> {
        Trainer::among(model, job, Rc::new(Solo))
    }

    /// The same as one of the processes of `world`, which all make every call
    /// together. What is written is written by the first.
    ///
    /// # Errors
    /// As [`Learner::among`].
    pub fn among(model: CausalLm, job: Job<'a>, world: Rc<dyn Collective>) -> Result<Self> {
        let epochs = Epochs::new(job.examples.len(), job.config.batch_size, job.seed);
        let (schedule, last) = job.schedule(&epochs);
        Ok(Trainer {
            flops: ModelFlops::new(&model),
            learner: Learner::among(model, job.config, job.seed, world)?,
            job,
            epochs,
            schedule,
            last,
            files: None,
            settings: Settings::default(),
            progress: Progress::default(),
            saved: 0,
            pace: Pace::of(job.config),
            notes: Vec::new(),
            log: Vec::new(),
            real: RealWatch::default(),
            events: None,
            peak_flops: None,
        })
    }

    /// Keeps unfinished work in files, and starts from what is there. Only a
    /// checkpoint of equal `settings` is accepted. What is damaged is set
    /// aside and said so, and training starts from the beginning.
    ///
    /// # Errors
    /// A checkpoint of other settings; a full disk.
    pub fn with_files(mut self, files: Files, settings: Settings) -> Result<Self> {
        self.settings = settings;
        let is_first = self.learner.world().is_first();
        if is_first {
            let update = self.resume(&files)?;
            told(self.learner.world(), &bytes_of(&[update as u64]))?;
            self.events = Some(EventFile::open(&files.events, update, seconds_since_1970())?);
        } else {
            // It is whole, and of this training: the first process has seen it.
            let expected = words_of(&told(self.learner.world(), &[])?).next().unwrap_or_default() as usize;
            if expected > 0 && self.resume(&files)? != expected {
                let (path, update) = (files.checkpoint.display().to_string(), self.progress.update);
                let problem = format!("is of update {update} here and of update {expected} for the first process");
                return Err(FitError::Checkpoint { path, problem });
            }
        }
        self.files = Some(files);
        Ok(self)
    }

    /// Takes up what is found; the number of updates in it.
    fn resume(&mut self, files: &Files) -> Result<usize> {
        let part = |name: &str, tensor: Tensor| match name.strip_prefix(OPTIMIZER) {
            Some(name) => Ok(self.learner.optimizer.own_part(name, tensor)?),
            None => Ok(tensor),
        };
        let is_first = self.learner.world().is_first();
        match resume::read(files, &self.settings, is_first && self.job.config.keep == Keep::Best, &part) {
            Ok(None) => {}
            Ok(Some((mut checkpoint, log))) => {
                self.set_weights(checkpoint.take(WEIGHTS))?;
                self.learner.optimizer.load_state_dict(&checkpoint.take(OPTIMIZER))?;
                self.progress = checkpoint.progress;
                self.saved = self.progress.update;
                self.log = log;
                for line in &self.log {
                    line.update.real_gain.and_then(|gain| self.real.fall(gain));
                }
            }
            Err(FitError::Checkpoint { path, problem }) if is_first => {
                let aside: Vec<String> =
                    resume::set_aside(files)?.iter().map(|path| path.display().to_string()).collect();
                self.notes.push(format!(
                    "{path} {problem}: training starts from the beginning; what was found is kept as {}",
                    aside.join(", ")
                ));
            }
            Err(other) => return Err(other),
        }
        Ok(self.progress.update)
    }

    /// Tells the time that checkpoints are due by.
    #[cfg(test)]
    fn with_clock(mut self, clock: impl Fn() -> f64 + 'static) -> Self {
        self.pace = Pace::with_clock(self.job.config, Box::new(clock));
        self
    }

    /// Reports the model FLOP utilisation against a peak in FLOP per second.
    #[must_use]
    pub fn with_peak_flops(mut self, peak: Option<f64>) -> Self {
        self.peak_flops = peak;
        self
    }

    /// The model in its present state.
    pub fn model(&self) -> &CausalLm {
        &self.learner.model
    }

    /// The log of all updates so far.
    pub fn log(&self) -> &[LogLine] {
        &self.log
    }

    /// Trains to the end, or until `stop` is set, which is looked at before
    /// each forward pass of an update. An update that is not finished then is
    /// left out, and made when training is carried on.
    ///
    /// # Errors
    /// A loss or gradient that is not finite, a full disk.
    pub fn run(&mut self, stop: &AtomicBool, watch: &mut dyn TrainingWatch) -> Result<End> {
        self.notes.drain(..).for_each(|note| watch.note(&note));
        if let Some(mut last) = self.log.last().cloned() {
            // Where it goes on; its evaluation was told before.
            last.update.eval_loss = None;
            watch.update(&last, self.last);
        }
        while self.progress.update < self.last && self.early_stop().is_none() {
            // All processes leave an update out, or none: see `Shares::add`.
            if !self.step_while(&mut || !stop.load(Ordering::Relaxed), watch)? {
                // Before the first update there is nothing to keep.
                if self.saved < self.progress.update {
                    self.save()?;
                }
                return Ok(End::Stopped(self.progress.update));
            }
            if self.is_due()? {
                self.save()?;
            }
        }
        // What follows may fail: a disk that is full, a machine too small for
        // what publishing needs.
        if self.saved < self.progress.update {
            self.save()?;
        }
        let kept_update = self.keep()?;
        Ok(End::Finished(TrainingSummary {
            updates: self.progress.update,
            scheduled_updates: self.schedule.total_steps,
            kept_update,
            skipped_updates: self.progress.skipped,
            early_stop: self.early_stop(),
            best_eval_loss: self.progress.best_loss,
            log: self.log.clone(),
        }))
    }

    /// Whether a checkpoint is due, by the first process's clock.
    fn is_due(&self) -> Result<bool> {
        let due = self.pace.due(self.progress.update);
        let world = self.learner.world();
        if world.is_alone() { Ok(due) } else { Ok(told(world, &[u8::from(due)])? == [1]) }
    }

    /// Makes the next update, with the evaluation that is due after it.
    ///
    /// # Errors
    /// As [`Trainer::run`].
    pub fn step(&mut self, watch: &mut dyn TrainingWatch) -> Result<&LogLine> {
        self.step_while(&mut || true, watch)?;
        Ok(self.log.last().expect("an update was made"))
    }

    /// The same as long as `go_on` holds, which is asked before each forward
    /// pass; whether the update was made.
    fn step_while(&mut self, go_on: &mut dyn FnMut() -> bool, watch: &mut dyn TrainingWatch) -> Result<bool> {
        let config = self.job.config;
        let rows: Vec<&Example> =
            self.epochs.rows_of(self.progress.update).into_iter().map(|row| &self.job.examples[row]).collect();
        let lr = config.learning_rate * self.schedule.factor(self.progress.update);
        let start = Instant::now();
        let Some(outcome) = self.learner.update_while(&rows, lr, go_on)? else { return Ok(false) };
        let seconds = start.elapsed().as_secs_f64().max(1e-9);
        self.count(&outcome, &rows, watch)?;
        let mut update = self.entry(&outcome, lr);
        if let Some(mean) = update.real_gain.and_then(|gain| self.real.fall(gain)) {
            update.real_falls = true;
            if !self.log.iter().any(|line| line.update.real_falls) {
                watch.note(&format!(
                    "update {}: the human answers are less likely than at the start, by {:.2} nats per answer over the \
                     last {WINDOW} updates; the loss falls because the generated ones lose more. Try fit.nll_weight, a \
                     smaller fit.learning_rate or a larger fit.beta",
                    update.update, -mean
                ));
            }
        }
        let due = update.update.is_multiple_of(config.eval_every.max(1)) || update.update == self.last;
        if config.eval_every > 0 && due && !self.job.held_out.is_empty() {
            self.evaluate(&mut update)?;
        }
        let timing = Timing {
            wall_time: seconds_since_1970(),
            seconds,
            tokens_per_second: outcome.tokens as f64 / seconds,
            flop_utilisation: self.peak_flops.map(|peak| self.flops.of_rows(&rows) / seconds / peak),
            resident_mib: watch.resident_mib(),
        };
        self.log.push(LogLine { update, timing });
        let line = self.log.last().expect("just pushed");
        if let Some(events) = &mut self.events {
            events.add(line)?;
        }
        watch.update(line, self.last);
        Ok(true)
    }

    /// Counts the update as done, or as skipped, or stops.
    fn count(&mut self, outcome: &UpdateOutcome, rows: &[&Example], watch: &mut dyn TrainingWatch) -> Result<()> {
        let update = self.progress.update + 1;
        let Some(what) = outcome.not_finite else {
            self.progress.update = update;
            self.progress.skipped_in_a_row = 0;
            return Ok(());
        };
        let value = if what == "loss" { outcome.loss } else { outcome.grad_norm };
        let in_a_row = self.progress.skipped_in_a_row;
        if self.job.config.on_nonfinite == NonFinite::Skip && in_a_row < MAX_SKIPPED_IN_A_ROW {
            self.progress.update = update;
            self.progress.skipped += 1;
            self.progress.skipped_in_a_row += 1;
            watch.note(&format!("update {update} is skipped: its {what} is {value} (rows {})", names(rows)));
            return Ok(());
        }
        // Before the first step the weights are those that training started from.
        let untrained = self.learner.optimizer.steps() == 0;
        if untrained && let Some(tensor) = self.learner.not_finite_from_the_start()? {
            return Err(FitError::StartNotFinite { what, value, tensor });
        }
        Err(FitError::NotFinite {
            what,
            value,
            update,
            rows: names(rows),
            repeated: if in_a_row > 0 { format!(", after {in_a_row} skipped ones in a row") } else { String::new() },
            kept: self.kept(),
            remedy: if untrained {
                "Nothing was learnt before, so the learning rate is not the cause: look at those rows and at the \
                 log-probabilities of the reference"
            } else {
                "Lower fit.learning_rate or raise its warm-up, and look at those rows"
            },
        })
    }

    /// The one place where trained tensors are replaced.
    fn set_weights(&self, tensors: std::collections::BTreeMap<String, Tensor>) -> Result<()> {
        Ok(self.learner.model.set_trainable(&tensors)?)
    }

    /// What an error says about the work so far.
    fn kept(&self) -> String {
        match &self.files {
            Some(files) if self.saved > 0 => {
                format!("the checkpoint of update {} is kept in {}", self.saved, files.checkpoint.display())
            }
            _ => "there is no checkpoint yet".into(),
        }
    }

    /// The record of the update that was just counted.
    fn entry(&self, outcome: &UpdateOutcome, learning_rate: f64) -> UpdateLog {
        let beta = self.job.config.reward_scale();
        let pairs = outcome.pairs.filter(|_| outcome.not_finite.is_none());
        UpdateLog {
            update: self.progress.update,
            loss: outcome.loss,
            learning_rate,
            grad_norm: outcome.grad_norm,
            tokens: outcome.tokens,
            skipped: outcome.not_finite.is_some(),
            rewards_real: pairs.map(|p| p.reward_real(beta)),
            rewards_generated: pairs.map(|p| p.reward_generated(beta)),
            rewards_accuracies: pairs.map(|p| p.accuracy()),
            rewards_margins: pairs.map(|p| p.margin(beta)),
            logps_real: pairs.map(|p| p.logp_real()),
            logps_generated: pairs.map(|p| p.logp_generated()),
            // Without a reference nothing says what it was.
            real_gain: pairs.filter(|_| self.job.config.has_reference()).map(|p| p.real_gain()),
            ..UpdateLog::default()
        }
    }
}

const WEIGHTS: &str = "weights.";
const OPTIMIZER: &str = "optimizer.";

fn seconds_since_1970() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// The first few row ids, for a message.
fn names(rows: &[&Example]) -> String {
    let ids: Vec<&str> = rows.iter().take(8).map(|e| e.row_id.as_str()).collect();
    let more = rows.len() - ids.len();
    if more > 0 { format!("{} and {more} more", ids.join(", ")) } else { ids.join(", ") }
}
