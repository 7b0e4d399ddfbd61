//! The kernels' arithmetic, on the CPU: sources and launches as a GPU would be given them, run by `kernels/host.hpp`,
//! against what the CPU's operations compute.
//!
//! Outputs are poisoned, sizes are odd, and memory has guards on both sides. A file here is named as the kernels that it
//! tests. Where there is no C++ compiler the tests say so and do nothing.
//!
//! The same tests run on a GPU, with the feature `cuda`:
//!
//! ```text
//! SPIN_TEST_DEVICE=gpu cargo test --release --workspace --features spin-cuda/cuda --test host -- --test-threads 1
//! ```

mod activation;
mod attention;
mod attention_backward;
mod attention_mma;
mod attention_paged;
mod attention_tree;
mod draw;
mod dropout;
mod elementwise;
mod elsewhere;
mod head;
mod library;
mod memory;
mod norm;
mod optimizer;
mod product;
mod reduce;
mod reference;
mod rope;
mod rows;
mod score;
mod shim;
mod squared_norm;
