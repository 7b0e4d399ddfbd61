//! What a model computes of batches.

use candle_core::Tensor;

use super::CausalLm;
use crate::backend::{Backend, Backward};
use crate::batch::{Batch, RowPlan};
use crate::decoder::Decoder;
use crate::error::{Error, Result};
use crate::gradients::Gradients;

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

    /// The log-probabilities of the responses, as [`CausalLm::sum_logps`], and
    /// the gradient of a loss that is a sum over the groups of the batch.
    ///
    /// `slopes` is told a group's number and its responses' log-probabilities
    /// and gives the derivative of the loss by each of them; it is called once
    /// for each group, in order. The gradient is added to `grads`, which says
    /// what is trained: only [`CausalLm::trainable`] belongs there. With
    /// `smoothing`, torch's `cross_entropy(label_smoothing=smoothing)`, a token
    /// counts (1 - smoothing) log p(target) + smoothing mean over v of log p(v).
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
        let plan = self.plan(batch)?;
        let backward = Backward { smoothing, recompute_every: self.settings.recompute_every };
        self.backend()?.accumulate_gradients(&self.decoder, &plan, backward, slopes, grads)
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
