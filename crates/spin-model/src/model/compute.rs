//! What a model computes of batches.

use candle_core::Tensor;

use super::CausalLm;
use crate::backend::{Accumulates, Backend, Backward};
use crate::batch::{Batch, RowPlan};
use crate::decoder::Decoder;
use crate::error::{Error, Result};
use crate::gradients::Gradients;

/// A sum of gradients over several batches: see [`CausalLm::accumulation`].
pub struct Accumulation<'a> {
    model: &'a CausalLm,
    sums: Box<dyn Accumulates + 'a>,
}

impl std::fmt::Debug for Accumulation<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Accumulation")
    }
}

impl Accumulation<'_> {
    /// The log-probabilities of the responses, as [`CausalLm::sum_logps`], and
    /// the gradient of a loss that is a sum over the groups of the batch.
    ///
    /// `slopes` is told a group's number and its responses' log-probabilities
    /// and gives the derivative of the loss by each of them; it is called once
    /// for each group, in order. With `smoothing`, torch's
    /// `cross_entropy(label_smoothing=smoothing)`, a token counts
    /// (1 - smoothing) log p(target) + smoothing mean over v of log p(v).
    ///
    /// # Errors
    ///
    /// As [`CausalLm::response_token_logps`].
    pub fn add(
        &mut self,
        batch: &Batch,
        smoothing: f64,
        slopes: &mut dyn FnMut(usize, &[f64]) -> Vec<f64>,
    ) -> Result<Vec<f64>> {
        let plan = self.model.plan(batch)?;
        let backward = Backward { smoothing, recompute_every: self.model.settings.recompute_every };
        self.sums.add(&self.model.decoder, &plan, backward, slopes)
    }

    /// What was added is in the gradients afterwards.
    ///
    /// # Errors
    ///
    /// If a device fails.
    pub fn finish(self) -> Result<()> {
        self.sums.finish()
    }
}

impl CausalLm {
    /// The log-probability of every response token, per sequence; without
    /// gradients, and without the memory they need.
    ///
    /// # Errors
    ///
    /// If a sequence is longer than the model's positions or a token is
    /// outside its vocabulary.
    pub fn response_token_logps(&self, batch: &Batch) -> Result<Vec<Vec<f32>>> {
        let plan = self.plan(batch)?;
        let logps = self.backend()?.row_logps(&self.decoder, &plan)?;
        let mut rest = logps.as_slice();
        Ok(plan
            .responses
            .iter()
            .map(|length| {
                let (own, others) = rest.split_at(*length);
                rest = others;
                own.to_vec()
            })
            .collect())
    }

    /// The log-probability of each response given its prompt, summed over the
    /// response's tokens; without gradients, and without the memory they need.
    ///
    /// # Errors
    ///
    /// As [`CausalLm::response_token_logps`].
    pub fn sum_logps(&self, batch: &Batch) -> Result<Vec<f64>> {
        let tokens = self.response_token_logps(batch)?;
        Ok(tokens.into_iter().map(|logps| logps.into_iter().map(f64::from).sum()).collect())
    }

    /// Begins to add gradients of several batches to `grads`, which says what is
    /// trained: only [`CausalLm::trainable`] belongs there. A GPU keeps the sums
    /// until they are finished. Without that what stands in `grads` is not to be used.
    ///
    /// # Errors
    ///
    /// If a device cannot hold them.
    pub fn accumulation<'a>(&'a self, grads: &'a mut Gradients) -> Result<Accumulation<'a>> {
        Ok(Accumulation { model: self, sums: self.backend()?.accumulation(grads)? })
    }

    /// The gradients of one batch: [`Accumulation::add`].
    ///
    /// # Errors
    ///
    /// As [`CausalLm::response_token_logps`].
    pub fn accumulate_gradients(
        &self,
        batch: &Batch,
        smoothing: f64,
        slopes: &mut dyn FnMut(usize, &[f64]) -> Vec<f64>,
        grads: &mut Gradients,
    ) -> Result<Vec<f64>> {
        let mut sums = self.accumulation(grads)?;
        let logps = sums.add(batch, smoothing, slopes)?;
        sums.finish()?;
        Ok(logps)
    }

    /// The logits after each token of one sequence: `[seq, vocab]` f32.
    ///
    /// # Errors
    ///
    /// If there are no tokens, or as [`CausalLm::response_token_logps`].
    pub fn logits(&self, ids: &[u32]) -> Result<Tensor> {
        if ids.is_empty() {
            return Err(Error::Batch { sequence: 0, message: "there are no tokens".to_owned() });
        }
        // Batch's checks apply to any split into prompt and response.
        if ids.len() > 1 {
            let batch = Batch::new([(&ids[..1], &ids[1..])])?;
            batch.check(self.config.vocab_size, self.config.max_position_embeddings)?;
        }
        let plan = RowPlan::every_row(ids);
        self.backend()?.logits(&self.decoder, &plan)
    }

    /// The weights in their places.
    pub(crate) fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// Who computes this model.
    pub(crate) fn backend(&self) -> Result<&'static dyn Backend> {
        self.settings.kernels.backend()
    }

    /// How the batch becomes rows, checked.
    fn plan(&self, batch: &Batch) -> Result<RowPlan> {
        batch.check(self.config.vocab_size, self.config.max_position_embeddings)?;
        Ok(RowPlan::new(batch, self.backend()?.layout(self.settings.share_prompts)))
    }
}
