//! The demo's task: its generator and its tokenizer.

pub mod demo;
pub mod measure;
