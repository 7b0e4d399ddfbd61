//! An answer while it grows, whichever engine gives the logits.

use std::sync::Arc;

use crate::choose::{Chooser, SamplingParams};
use crate::error::{Result, SampleError};
use crate::noise::Key;
use crate::stop::{Search, StopTexts};

/// A sequence to generate, with how it is drawn and what ends it.
#[derive(Clone)]
pub struct Wanted {
    /// For messages.
    pub row_id: String,
    /// Token ids of the prompt.
    pub prompt_ids: Arc<[u32]>,
    /// Its noise.
    pub key: Key,
    /// How its tokens are drawn.
    pub decoding: SamplingParams,
    /// Longest answer in tokens, at least 1.
    pub max_new_tokens: usize,
    /// Ids that end it, at least one.
    pub stop_ids: Arc<[u32]>,
    /// Texts that end it.
    pub stop: Option<Arc<StopTexts>>,
}

/// What came out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Generated {
    /// Token ids, with the one that ended them, if one did.
    pub ids: Vec<u32>,
    /// Sum of the natural log-probabilities of the ids under the model at
    /// temperature 1 over the whole vocabulary.
    pub logps: f64,
    /// Of each id, at the temperature it was drawn at, over the whole
    /// vocabulary: see [`Choice`](crate::choose::Choice).
    pub token_logps: Vec<f32>,
    /// Of each id, in the distribution it was drawn from.
    pub token_sampling_logps: Vec<f32>,
    /// Whether a stop text or id ended it, not the length.
    pub stopped: bool,
}

/// What the engines add to, token by token.
#[derive(Default)]
pub(crate) struct Growing {
    pub generated: Generated,
    search: Search,
}

impl Growing {
    /// Draws the next token from the logits after what is there.
    ///
    /// # Errors
    /// When the logits are not finite, or the tokenizer fails.
    pub fn draw(&mut self, wanted: &Wanted, chooser: &mut Chooser, logits: &[f32]) -> Result<()> {
        let Growing { generated, search } = self;
        let step = generated.ids.len() as u64;
        let context = [&*wanted.prompt_ids, generated.ids.as_slice()];
        let Some(choice) = chooser.choose(logits, context, &wanted.decoding, wanted.key, step) else {
            return Err(SampleError::NotFinite { row_id: wanted.row_id.clone() });
        };
        generated.ids.push(choice.id);
        generated.logps += choice.logp;
        generated.token_logps.push(choice.temperature_logp as f32);
        generated.token_sampling_logps.push(choice.sampling_logp as f32);
        generated.stopped = wanted.stop_ids.contains(&choice.id);
        if let (false, Some(stop)) = (generated.stopped, &wanted.stop) {
            generated.stopped = search.found(stop, &generated.ids)?;
        }
        Ok(())
    }

    /// Whether nothing is to be added.
    pub fn is_done(&self, wanted: &Wanted) -> bool {
        self.generated.stopped || self.generated.ids.len() >= wanted.max_new_tokens
    }
}
