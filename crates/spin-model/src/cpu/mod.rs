//! The decoder on the CPU: every operation with its hand-written backward
//! pass, on slices, in f32, on all threads of the current rayon pool.
//!
//! No graph is recorded. Gradients are added where they are kept, and results
//! do not depend on the number of threads.

mod activation;
mod attention;
mod block;
mod branches;
mod cached;
mod decode;
mod few_rows;
mod growing;
mod head;
mod linear;
mod math;
mod norm;
mod packed;
mod pass;
mod rounded;
mod scores;
mod scoring;
#[cfg(test)]
mod tests;
mod tiles;
mod tree;

pub(crate) use cached::{LayerCache, Part};
pub(crate) use growing::GrowingDecoder;
pub(crate) use math::exp;
pub(crate) use pass::{accumulate_gradients, logits, row_logps};
pub use rounded::bf16_square;
pub(crate) use scores::score_row;
pub(crate) use scoring::TreePass;

/// Rows that one parallel task works on. A constant, so that sums over rows
/// are split alike, and round alike, whatever the number of threads.
const ROWS_PER_TASK: usize = 64;
