//! `draw.cu`: tokens drawn on the device.

use crate::call::{Call, Runner};
use crate::error::{Error, Result};
use crate::memory::{View, ViewMut};

/// Threads of a block, which has a sequence; whole groups of 16 lanes.
const THREADS: u32 = 1_024;

/// How the next token of a sequence is drawn, as the kernel reads it.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C)]
pub struct Draw {
    /// The words of its key (`spin-sample/src/noise.rs`).
    pub key: [u64; 2],
    /// Number of the token.
    pub step: u64,
    /// 0 is greedy.
    pub temperature: f64,
    /// 1 for all.
    pub top_p: f64,
    /// Natural logarithm of min-p; minus infinity for all.
    pub log_min_p: f64,
    /// 0 for all.
    pub top_k: u32,
    /// 0 where there is no sequence: nothing is written then.
    pub active: u32,
}

/// A token with natural logarithms of its probabilities: the 16 bytes that go back to the host.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C)]
pub struct Choice {
    /// The token, or [`Choice::NONE`].
    pub id: u32,
    /// Under the model itself.
    pub logp: f32,
    /// At the temperature it was drawn at.
    pub temperature_logp: f32,
    /// In the distribution it was drawn from; 0 for greedy.
    pub sampling_logp: f32,
}

impl Choice {
    /// Of logits of which one is NaN or infinite, or all are minus infinity.
    pub const NONE: u32 = u32::MAX;
}

/// One token for each sequence from its row of `logits` `[sequences, vocab]`. `scores` are the logits after
/// [`penalise`], if there is a penalty.
///
/// # Errors
///
/// If shapes do not fit or the device refuses.
pub fn draw_tokens(
    on: &(impl Runner + ?Sized),
    logits: View<'_, f32>,
    scores: Option<View<'_, f32>>,
    draws: View<'_, Draw>,
    choices: &mut ViewMut<'_, Choice>,
    vocab: usize,
) -> Result<()> {
    let (kernel, sequences) = ("draw_tokens", draws.len());
    // What top-p adds up is in 64 bits.
    if vocab == 0 || vocab > 1 << 19 {
        return Err(Error::shape(kernel, format!("a vocabulary of {vocab} tokens")));
    }
    let scores = scores.unwrap_or(logits);
    logits.check(kernel, "logits", sequences * vocab)?;
    scores.check(kernel, "scores", sequences * vocab)?;
    choices.check(kernel, "choices", sequences)?;
    let call = Call::new(kernel, [sequences, 1, 1], [THREADS, 1, 1])?.read(logits).read(scores).read(draws);
    call.write(choices).count(vocab)?.on(on)
}

/// Puts the logits of tokens that are in a sequence's context, divided by the penalty or multiplied with it where they
/// are negative, into `scores`, a copy of the logits. Those from `starts[s]` to `starts[s + 1]` of `contexts` are of
/// sequence s.
///
/// # Errors
///
/// As [`draw_tokens`].
pub fn penalise(
    on: &(impl Runner + ?Sized),
    logits: View<'_, f32>,
    scores: &mut ViewMut<'_, f32>,
    contexts: View<'_, u32>,
    starts: View<'_, u32>,
    vocab: usize,
    penalty: f64,
) -> Result<()> {
    let (kernel, sequences) = ("penalise", starts.len().saturating_sub(1));
    logits.check(kernel, "logits", sequences * vocab)?;
    scores.check(kernel, "scores", sequences * vocab)?;
    let call = Call::new(kernel, [sequences, 1, 1], [256, 1, 1])?.read(logits).write(scores).read(contexts);
    call.read(starts).count(vocab)?.f32(penalty as f32).on(on)
}
