//! A decoder computed with a set of [operations](crate::ops): which of them
//! follow each other, written once for every machine. Backward passes are
//! written by hand; no graph is recorded.

mod block;
mod growing;
mod head;
mod linear;
mod pass;
mod scoring;
#[cfg(test)]
mod tests;

pub(crate) use growing::{Cache, GrowingDecoder, Part};
pub(crate) use pass::{accumulate_gradients, logits, row_logps};
pub(crate) use scoring::TreePass;
