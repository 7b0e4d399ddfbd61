//! Where models are computed.

use candle_core::Device;

use crate::error::{Error, Result};

/// The CPU, or the GPU with a number, as this process counts those that it sees.
///
/// # Errors
///
/// If this program was built without CUDA, or there is no such GPU.
pub fn open_device(gpu: Option<usize>) -> Result<Device> {
    match gpu {
        None => Ok(Device::Cpu),
        Some(_) if !cfg!(feature = "cuda") => Err(Error::Device {
            message: "this program was built without CUDA; build it with `just build-cuda`".into(),
        }),
        Some(number) => Device::new_cuda(number).map_err(|error| Error::Device { message: error.to_string() }),
    }
}
