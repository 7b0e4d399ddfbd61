//! The CPU's set of [operations](crate::ops): on slices, in f32, on all threads of
//! the current rayon pool, with results that do not depend on their number.

mod activation;
mod attention;
mod branches;
mod cached;
mod few_rows;
mod growing;
mod head;
mod loss;
mod math;
mod norm;
mod operations;
mod packed;
mod rounded;
mod rows;
mod scores;
mod scoring;
#[cfg(test)]
mod tests;
mod tiles;
mod tree;
mod weight;

pub(crate) use math::exp;
pub(crate) use operations::{Cpu, LOGITS};
pub use rounded::bf16_square;
pub(crate) use scores::score_row;

/// Rows that one parallel task works on. A constant, so that sums over rows
/// are split alike, and round alike, whatever the number of threads.
const ROWS_PER_TASK: usize = 64;
