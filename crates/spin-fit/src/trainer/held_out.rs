//! Held-out evaluation: when to stop early, and which weights are the best.

use spin_run::run::Keep;

use super::{EarlyStop, Trainer};
use crate::checkpoint;
use crate::data::Example;
use crate::error::{FitError, Result};
use crate::metrics::UpdateLog;

impl Trainer<'_> {
    /// Evaluates on the held-out rows; keeps the weights when their loss is
    /// the lowest.
    pub(super) fn evaluate(&mut self, update: &mut UpdateLog) -> Result<()> {
        let config = self.job.config;
        let held_out: Vec<&Example> = self.job.held_out.iter().collect();
        let seen = self.learner.evaluate(&held_out)?;
        // JSON has no NaN.
        update.eval_loss = Some(seen.loss).filter(|loss| loss.is_finite());
        update.eval_margin = seen.margin.filter(|margin| margin.is_finite());
        update.eval_accuracy = seen.accuracy;
        let progress = &mut self.progress;
        progress.margin_reached |= config.stop_margin > 0.0 && seen.margin.is_some_and(|m| m >= config.stop_margin);
        if seen.loss.is_finite() && progress.best_loss.is_none_or(|best| seen.loss < best) {
            progress.best_loss = Some(seen.loss);
            progress.best_update = progress.update;
            progress.evaluations_since_best = 0;
            if let Some(files) = &self.files
                && config.keep == Keep::Best
                && self.learner.world().is_first()
            {
                checkpoint::save(&files.best, self.weights(""), &self.progress, &self.settings, "")?;
            }
        } else {
            progress.evaluations_since_best += 1;
        }
        Ok(())
    }

    pub(super) fn early_stop(&self) -> Option<EarlyStop> {
        let patience = self.job.config.patience;
        if self.progress.margin_reached {
            Some(EarlyStop::Margin)
        } else if patience > 0 && self.progress.evaluations_since_best >= patience {
            Some(EarlyStop::Patience)
        } else {
            None
        }
    }

    /// Goes back to the best weights where they are wanted and on disk; the
    /// update that the model is of.
    pub(super) fn keep(&mut self) -> Result<usize> {
        let best = self.progress.best_update;
        let earlier = self.progress.best_loss.is_some() && best < self.progress.update;
        match &self.files {
            // Whoever publishes goes back; the others are done.
            Some(_) if earlier && self.job.config.keep == Keep::Best && !self.learner.world().is_first() => Ok(best),
            Some(files) if earlier && self.job.config.keep == Keep::Best => {
                let mut found = checkpoint::load(&files.best, &self.settings)?;
                if found.progress.update != best {
                    let problem = format!("has the weights of update {}, not of {best}", found.progress.update);
                    return Err(FitError::Checkpoint { path: files.best.display().to_string(), problem });
                }
                self.set_weights(found.take(""))?;
                Ok(best)
            }
            _ => Ok(self.progress.update),
        }
    }
}
