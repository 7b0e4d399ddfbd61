//! Causal grouped-query attention with rotary positions, windows and soft
//! caps, from rows of queries, keys and values to the heads' outputs.
//!
//! A task is one key-value head of one group of sequences, or, where there are
//! more threads than these, a part of it (`parts.rs`); the bits are the same.
//! Nothing of size `[seq, seq]` is kept: the forward pass stores the
//! log-sum-exp of each row of scores, from which the backward pass restores the
//! probabilities (Dao et al. 2022).
//!
//! For one query row with probabilities p, output o and gradient g:
//! dp_j = g . v_j, ds_j = p_j (dp_j - g . o), dq = scale sum_j ds_j k_j,
//! dk_j += scale ds_j q and dv_j += p_j g. A soft cap c turns s into
//! c tanh(s / c) and multiplies ds by 1 - tanh(s / c)^2.

mod backward;
mod backward_parts;
mod forward;
mod heads;
mod parts;
mod shared;
#[cfg(test)]
mod tests;

pub(super) use heads::Attention;
pub(super) use shared::SharedRows;
