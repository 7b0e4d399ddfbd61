//! MT-Bench: 80 questions of two turns, answered by a model and rated from 1
//! to 10 by a judge model.
//!
//! The rules are those of `fastchat/llm_judge` of lm-sys/FastChat in its mode
//! of single-answer grading (Zheng et al. 2023, arXiv:2306.05685): its
//! questions, prompts, reference answers, temperatures and ways of reading a
//! rating. Where this module does more, it keeps what FastChat would have
//! given: failures are counted and kept as rows instead of a bare -1.
//!
//! [`MtBench::read`] loads the data, [`Question`] says how to answer it,
//! [`Prompts`] fills the judge's templates, [`judge_all`] asks a [`Judge`] such
//! as [`OpenAiJudge`], [`Summary`] is the score of stored judgments.
//!
//! A judge over the network is not reproducible: providers change a model
//! under the same name. Compare scores only where the judge is the same.

pub mod client;
pub mod judge;
pub mod prompts;
pub mod questions;
pub mod stage;
#[cfg(test)]
mod testing;

pub use crate::retry::{Retry, Stop};
pub use client::OpenAiJudge;
pub use judge::{Judge, JudgeError, JudgeOptions, MtBenchError, Result, judge_all};
pub use prompts::{Prompts, Request};
pub use questions::{Answers, MtBench, Question};
pub use spin_report::mt_bench::{Summary, rating};

/// Longest answer of a model, in tokens.
pub const MAX_NEW_TOKENS: usize = 1024;

/// Longest verdict of a judge, in tokens.
pub const JUDGE_MAX_TOKENS: u32 = 2048;

/// Stands in place of a judgment that could not be had, as in FastChat.
pub const ERROR_OUTPUT: &str = "$ERROR$";

/// Whether questions of a category are judged with a reference answer.
pub fn needs_reference(category: &str) -> bool {
    matches!(category, "math" | "reasoning" | "coding")
}

/// Temperature at which a model answers questions of a category; 0 means
/// greedy. A category that FastChat does not know gets its fallback, 0.7.
///
/// ```
/// use spin_bench::mt_bench::temperature;
///
/// assert_eq!((temperature("writing"), temperature("math"), temperature("stem")), (0.7, 0.0, 0.1));
/// ```
pub fn temperature(category: &str) -> f64 {
    match category {
        "extraction" | "math" | "coding" | "reasoning" => 0.0,
        "stem" | "humanities" => 0.1,
        _ => 0.7,
    }
}
