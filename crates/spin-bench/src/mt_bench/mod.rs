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
pub mod question;
pub mod questions;
pub mod stage;
#[cfg(test)]
mod testing;

pub use client::OpenAiJudge;
pub use judge::{Judge, JudgeError, JudgeOptions, MtBenchError, Result, judge_all};
pub use prompts::{Prompts, Request};
pub use question::{ERROR_OUTPUT, JUDGE_MAX_TOKENS, MAX_NEW_TOKENS, Question, needs_reference, temperature};
pub use questions::{Answers, MtBench};
pub use spin_net::retry::{Retry, Stop};
pub use spin_report::mt_bench::{Summary, rating};
