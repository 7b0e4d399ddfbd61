//! A GPU with its products: what computes a model.

use super::blas::Blas;
use super::device::{Bytes, Device};
use crate::call::{Call, Runner};
use crate::error::{Error, Result};
use crate::machine::Machine;
use crate::memory::{Number, ViewMut};
use crate::product::Factor;

/// A [`Device`] and its [`Blas`].
#[derive(Debug)]
pub struct Gpu {
    blas: Blas,
    device: Device,
}

impl Gpu {
    /// The GPU with a number.
    ///
    /// # Errors
    ///
    /// If there is no driver, no such GPU, or no library that it needs.
    pub fn new(ordinal: usize) -> Result<Self> {
        let device = Device::new(ordinal)?;
        Ok(Self { blas: Blas::new(&device)?, device })
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }
}

fn memory(bytes: usize) -> impl Fn(Error) -> Error {
    move |error| Error::Memory { bytes, message: error.to_string() }
}

impl Runner for Gpu {
    fn run(&self, call: &Call) -> Result<()> {
        self.device.run(call)
    }
}

// SAFETY: the driver's allocations begin at multiples of 256 bytes and stay until they are dropped, which frees them in
// the order of the stream.
unsafe impl Machine for Gpu {
    type Bytes = Bytes;

    fn room(&self, bytes: usize) -> Result<Bytes> {
        self.device.room(bytes).map_err(memory(bytes))
    }

    fn zeros(&self, bytes: usize) -> Result<Bytes> {
        self.device.zeros(bytes).map_err(memory(bytes))
    }

    fn upload(&self, bytes: &[u8]) -> Result<Bytes> {
        self.device.upload(bytes).map_err(memory(bytes.len()))
    }

    fn download(&self, from: &Bytes, first: usize, to: &mut [u8]) -> Result<()> {
        self.device.download_to(from, first, to)
    }

    fn free(&self) -> Option<u64> {
        self.device.free()
    }

    fn address(&self, bytes: &Bytes) -> u64 {
        self.device.view(bytes).address()
    }

    fn product<T: Number>(
        &self,
        a: &Factor<'_, T>,
        b: &Factor<'_, T>,
        out: &mut ViewMut<'_, f32>,
        stride: usize,
        scale: f32,
        add: bool,
    ) -> Result<()> {
        self.blas.product(&self.device, a, b, out, stride, scale, add)
    }
}
