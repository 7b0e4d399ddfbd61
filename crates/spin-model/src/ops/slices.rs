//! From candle's storages to slices and back.

use candle_core::{CpuStorage, Device, Layout, Result, Storage, Tensor};

/// Rows that one parallel task works on. A constant, so that sums over rows
/// are split alike, and round alike, whatever the number of threads.
pub(super) const ROWS_PER_TASK: usize = 64;

/// The elements of a contiguous f32 operand.
pub(super) fn of_storage<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let values = storage.as_slice::<f32>()?;
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&values[start..end]),
        None => candle_core::bail!("a fused operation needs contiguous tensors"),
    }
}

/// The elements of a contiguous u32 operand.
pub(super) fn of_u32_storage<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [u32]> {
    let values = storage.as_slice::<u32>()?;
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&values[start..end]),
        None => candle_core::bail!("a fused operation needs contiguous tensors"),
    }
}

/// The CPU storage of a tensor, as a backward pass is given tensors.
pub(super) fn cpu(storage: &Storage) -> Result<&CpuStorage> {
    match storage {
        Storage::Cpu(storage) => Ok(storage),
        _ => candle_core::bail!("a fused operation works on the CPU only"),
    }
}

/// A tensor on the CPU that takes over `values`.
pub(super) fn tensor(values: Vec<f32>, like: &Tensor) -> Result<Tensor> {
    Tensor::from_vec(values, like.shape(), &Device::Cpu)
}

/// Binds `$name` to the f32 slice of the contiguous tensor `$tensor`, for the
/// rest of the block.
macro_rules! bind_slice {
    ($name:ident, $tensor:expr) => {
        let (storage, layout) = $tensor.storage_and_layout();
        let $name = $crate::ops::slices::of_storage($crate::ops::slices::cpu(&storage)?, layout)?;
    };
}
pub(super) use bind_slice;
