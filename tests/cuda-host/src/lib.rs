//! The CPU in a GPU's place, for tests: kernels compiled as C++ and run by `kernels/host.hpp` of `spin-cuda`, and a
//! machine with memory and products around them. Part of no program.

#![expect(clippy::print_stderr, reason = "what is left out is said")]

mod library;
mod machine;

pub use library::{Host, compiled};
pub use machine::{HostMachine, machine};
