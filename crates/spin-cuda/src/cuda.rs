//! A GPU to launch on. Never run on one: what can be said of it is that it compiles, and that NVRTC, where its library
//! is, compiles the sources that it is given.

mod blas;
mod compile;
mod device;
mod gpu;

pub use blas::Blas;
pub use compile::compile;
pub use device::{Bytes, Device, Graph};
pub use gpu::Gpu;
