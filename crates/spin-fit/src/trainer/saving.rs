//! Checkpoints of a training: one file, whatever the number of processes.

use std::borrow::Cow;
use std::cell::RefCell;

use safetensors::{Dtype, View};
use spin_store::{digest, fsutil};

use super::{OPTIMIZER, Trainer, WEIGHTS};
use crate::checkpoint::{self, Entry};
use crate::collective::parts::Parts;
use crate::collective::{Collective, gathering};
use crate::error::{FitError, Result};
use crate::metrics::json_lines;
use crate::optim::StateTensor;

impl Trainer<'_> {
    /// The trained tensors, their names after a prefix.
    pub(super) fn weights(&self, prefix: &str) -> Vec<(String, StateTensor<'static>)> {
        let tensor = |(name, var): (&String, &candle_core::Var)| {
            (format!("{prefix}{name}"), StateTensor::Tensor(var.as_detached_tensor()))
        };
        self.learner.model.trainable().iter().map(tensor).collect()
    }

    /// Replaces the checkpoint. The log first: it may run ahead of the
    /// checkpoint, and is then cut. Of several processes the first one writes,
    /// and asks the others for what they have of the optimiser's state.
    ///
    /// # Errors
    /// When it cannot be written, or a weight is not finite; the old one is then
    /// untouched.
    pub fn save(&mut self) -> Result<()> {
        let Some(files) = &self.files else { return Ok(()) };
        let world = self.learner.world();
        if !world.is_first() {
            self.serve()?;
            self.saved = self.progress.update;
            return Ok(());
        }
        if let Some(tensor) = self.learner.model.not_finite()? {
            return Err(FitError::WeightNotFinite { tensor, update: self.progress.update, kept: self.kept() });
        }
        let log = json_lines(&self.log);
        fsutil::write_atomic(&files.log, log.as_bytes())?;
        let log = digest::of_bytes(log.as_bytes());
        let mut tensors = self.weights(WEIGHTS);
        let state = self.learner.optimizer.state()?;
        let named = state.into_iter().map(|(name, tensor)| (format!("{OPTIMIZER}{name}"), tensor));
        match self.learner.parts() {
            None => {
                tensors.extend(named);
                checkpoint::save(&files.checkpoint, tensors, &self.progress, &self.settings, &log)?;
            }
            Some(parts) => {
                let asking = Asking { world, parts, problem: RefCell::new(None) };
                let whole =
                    tensors.into_iter().map(|(name, tensor)| (name, Lazy { entry: Entry(tensor), asked: None }));
                let weights = self.learner.optimizer.weights_of_state();
                let spread = named.zip(weights).enumerate().map(|(number, ((name, tensor), weight))| {
                    let asked = weight.map(|weight| (&asking, number, weight));
                    (name, Lazy { entry: Entry(tensor), asked })
                });
                let tensors: Vec<(String, Lazy<'_>)> = whole.chain(spread).collect();
                // Twice: the digest of all stands at the beginning of the file.
                let prints = tensors.iter().map(|(name, tensor)| checkpoint::fingerprint(name, tensor)).collect();
                let written =
                    checkpoint::write(&files.checkpoint, tensors, prints, &self.progress, &self.settings, &log);
                if let Some(problem) = asking.problem.take() {
                    return Err(problem);
                }
                written?;
                gathering::end(world)?;
            }
        }
        self.saved = self.progress.update;
        self.pace.saved();
        Ok(())
    }

    /// Gives the first process what it asks for.
    fn serve(&self) -> Result<()> {
        let Some(parts) = self.learner.parts() else { return Ok(()) };
        let (state, weights) = (self.learner.optimizer.state()?, self.learner.optimizer.weights_of_state());
        gathering::serve(self.learner.world(), parts, |number| match (&state[number].1, weights[number]) {
            (StateTensor::Host(values, _), Some(weight)) => (weight, values),
            _ => unreachable!("asked for are buffers in memory, which parts are of"),
        })
    }
}

/// How the first process gets what it does not have.
struct Asking<'a> {
    world: &'a dyn Collective,
    parts: &'a Parts,
    /// The first one; a view cannot fail.
    problem: RefCell<Option<FitError>>,
}

/// A tensor of the checkpoint, spread over the processes unless `asked` is
/// `None`; then with its number and that of its weight.
struct Lazy<'a> {
    entry: Entry<'a>,
    asked: Option<(&'a Asking<'a>, usize, usize)>,
}

impl View for Lazy<'_> {
    fn dtype(&self) -> Dtype {
        self.entry.dtype()
    }

    fn shape(&self) -> &[usize] {
        self.entry.shape()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let (Some((asking, number, weight)), StateTensor::Host(own, _)) = (self.asked, &self.entry.0) else {
            return self.entry.data();
        };
        if asking.problem.borrow().is_some() {
            return Cow::Owned(Vec::new());
        }
        let whole = gathering::ask(asking.world, asking.parts, number, weight, own);
        Cow::Owned(whole.unwrap_or_else(|problem| {
            asking.problem.replace(Some(problem));
            Vec::new()
        }))
    }

    fn data_len(&self) -> usize {
        match (&self.asked, &self.entry.0) {
            (Some(_), StateTensor::Host(_, shape)) => size_of::<f32>() * shape.iter().product::<usize>(),
            _ => self.entry.data_len(),
        }
    }
}
