//! What is asked of a model about continuations, in the terms of those who
//! compute it.

/// A type that logits and log-probabilities are rounded to, as a model does
/// that computes in this type: logits are rounded, their log-softmax is
/// computed in f32, and its results are rounded. What is likeliest is decided
/// among these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rounding {
    /// f32.
    #[default]
    None,
    /// bf16.
    BFloat16,
    /// f16.
    Float16,
}

impl Rounding {
    /// The sum of a continuation's log-probabilities in this type: added in
    /// f32 and rounded, or in f64 where nothing is rounded.
    pub fn sum(self, token_logps: &[f32]) -> f64 {
        let narrow = || token_logps.iter().sum::<f32>();
        match self {
            Self::None => token_logps.iter().copied().map(f64::from).sum(),
            Self::BFloat16 => half::bf16::from_f32(narrow()).to_f64(),
            Self::Float16 => half::f16::from_f32(narrow()).to_f64(),
        }
    }
}

/// How [`crate::CausalLm::score`] computes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScoreOptions {
    /// Tokens per forward pass. More take more memory.
    pub max_rows: usize,
    /// What becomes of the results.
    pub rounding: Rounding,
    /// What logits are divided by.
    pub temperature: f64,
}

impl Default for ScoreOptions {
    fn default() -> Self {
        Self { max_rows: 2048, rounding: Rounding::None, temperature: 1.0 }
    }
}

/// A token to score after one of the wanted rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Target {
    /// Number of the row among those that are wanted.
    pub row: u32,
    pub token: u32,
}

/// The log-probability of a token, and whether it is the likeliest.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct TargetScore {
    pub logp: f32,
    pub is_greedy: bool,
}

/// Rows of a tree, all of which are computed together.
pub(crate) struct TreeRows<'a> {
    /// The token of each row.
    pub ids: &'a [u32],
    /// Its position in its sequences.
    pub positions: &'a [u32],
    /// The row after the last below it.
    pub ends: Vec<u32>,
    /// The same for each position of the cached path.
    pub cached_ends: Vec<u32>,
    /// Rows whose output is asked for, in order.
    pub wanted: Vec<u32>,
    /// Positions of the cached path that are still needed afterwards.
    pub kept: usize,
    /// Rows that continue it.
    pub added: Vec<u32>,
}
