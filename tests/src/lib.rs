//! The tasks that ship: their generators and tokenizers.

pub mod demo;
pub mod measure;
pub mod mutate;
pub mod words;
