//! What goes into a training and what comes out.

use std::path::PathBuf;

use spin_run::run::{FitConfig, SchedulerKind};

use crate::data::{Epochs, Example};
use crate::metrics::LogLine;
use crate::schedule::{Decay, Schedule};

/// How training ended.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// All updates are done, or it was time to stop early.
    Finished(TrainingSummary),
    /// A stop was asked for; this many updates are in the checkpoint.
    Stopped(usize),
}

/// Why training ended before its last update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EarlyStop {
    /// The held-out loss has not fallen for `patience` evaluations.
    Patience,
    /// The held-out margin reached `stop_margin`.
    Margin,
}

/// Facts about a finished training.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainingSummary {
    /// Updates made, skipped ones included.
    pub updates: usize,
    /// Updates of the whole schedule.
    pub scheduled_updates: usize,
    /// The update whose weights were kept; differs from `updates` when the
    /// held-out loss chose an earlier one.
    pub kept_update: usize,
    /// Updates left out because something was not finite.
    pub skipped_updates: usize,
    /// Why it ended early, if it did.
    pub early_stop: Option<EarlyStop>,
    /// Lowest held-out loss.
    pub best_eval_loss: Option<f64>,
    /// Log of every update.
    pub log: Vec<LogLine>,
}

/// Where unfinished training is kept.
#[derive(Clone, Debug)]
pub struct Files {
    /// Weights, optimiser state, counters, settings.
    pub checkpoint: PathBuf,
    /// Weights with the lowest held-out loss.
    pub best: PathBuf,
    /// Log lines up to (at least) the checkpoint.
    pub log: PathBuf,
    /// TensorBoard's events, up to the last update.
    pub events: PathBuf,
}

/// What is trained on, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
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
}

impl Job<'_> {
    /// The course of the learning rate, and the update that training ends
    /// with.
    pub(super) fn schedule(&self, epochs: &Epochs) -> (Schedule, usize) {
        let config = self.config;
        let (scheduled, last) = match self.updates {
            0 => (epochs.updates_in(config.schedule_epochs), epochs.updates_in(config.stop_epoch)),
            n => (n, n),
        };
        let decay = match config.lr_scheduler {
            SchedulerKind::Constant => Decay::Constant,
            SchedulerKind::Linear => Decay::Linear,
            SchedulerKind::Cosine => Decay::Cosine,
        };
        // As transformers' TrainingArguments.get_warmup_steps.
        let warmup_steps = (scheduled as f64 * config.warmup_ratio).ceil() as usize;
        (Schedule { decay, warmup_steps, total_steps: scheduled }, last)
    }
}
