//! Matrix products by cuBLASLt: f32 or bf16 in, f32 out, sums in f32.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys;
use cudarc::driver::{CudaSlice, DevicePtr};

use super::device::Device;
use crate::error::{Error, Result};
use crate::memory::{Kind, Number, ViewMut};
use crate::product::{Factor, product_shape};

/// Memory that algorithms may use: what NVIDIA recommends for Hopper.
const WORKSPACE: usize = 32 << 20;

/// Bytes at whose multiples factors and products begin at best, parts of larger memory and their rows among them.
const ALIGNMENT: u64 = 16;

/// What decides the algorithm of a product: type, m, n, k, whether the factors are transposed, how far rows of the
/// factors and of the product are apart, and what all of these begin at multiples of.
type Shape = (bool, [usize; 3], [bool; 2], [usize; 3], u32);

/// The largest power of two up to [`ALIGNMENT`] that all of these are multiples of.
fn alignment(bytes: impl IntoIterator<Item = u64>) -> u32 {
    let all = bytes.into_iter().fold(ALIGNMENT, |all, bytes| all | bytes);
    1 << all.trailing_zeros()
}

/// cuBLASLt with memory of its own. A product allocates nothing, so that it can be captured; its algorithm is chosen
/// when its shape is seen first.
pub struct Blas {
    handle: sys::cublasLtHandle_t,
    workspace: CudaSlice<u8>,
    algorithms: Mutex<BTreeMap<Shape, sys::cublasLtMatmulAlgo_t>>,
}

// SAFETY: cuBLASLt's handles may be used by several threads.
unsafe impl Send for Blas {}
// SAFETY: as above; what is chosen is behind a lock.
unsafe impl Sync for Blas {}

impl std::fmt::Debug for Blas {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Blas")
    }
}

fn refused(error: CublasError) -> Error {
    Error::device("cuBLASLt", error)
}

/// A description that is destroyed when it goes.
struct Owned<T: Copy>(T, unsafe fn(T) -> std::result::Result<(), CublasError>);

impl<T: Copy> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: made by its constructor, destroyed once. There is nobody to tell a failure.
        let _ = unsafe { (self.1)(self.0) };
    }
}

impl Blas {
    /// For products on a device.
    ///
    /// # Errors
    ///
    /// If the library is not there, or the device has no memory for it.
    pub fn new(device: &Device) -> Result<Self> {
        // SAFETY: only looks for the library.
        #[cfg(not(feature = "linked"))]
        if !unsafe { sys::is_culib_present() } {
            return Err(Error::device("CUDA", "the library libcublasLt is not found; install a CUDA runtime"));
        }
        let workspace = device.zeros(WORKSPACE)?;
        Ok(Self { handle: result::create_handle().map_err(refused)?, workspace, algorithms: Mutex::default() })
    }

    /// `out` `[m, n]`, of rows `stride` apart, = `scale` `a` `b`, or += that. The device must be the one that this was
    /// made for.
    ///
    /// # Errors
    ///
    /// If shapes do not fit or cuBLASLt refuses.
    #[expect(clippy::too_many_arguments, reason = "the operands of one operation")]
    pub fn product<T: Number>(
        &self,
        device: &Device,
        a: &Factor<'_, T>,
        b: &Factor<'_, T>,
        out: &mut ViewMut<'_, f32>,
        stride: usize,
        scale: f32,
        add: bool,
    ) -> Result<()> {
        let [m, n, k] = product_shape("cuBLASLt", a, b, out, Some(stride))?;
        if m == 0 || n == 0 {
            return Ok(());
        }
        device.bind()?;
        let factors = [a, b].into_iter().flat_map(|of| [of.numbers.address(), (of.stride * size_of::<T>()) as u64]);
        let aligned = alignment(factors.chain([out.address(), (stride * size_of::<f32>()) as u64]));
        let kind = match T::KIND {
            Kind::F32 => sys::cudaDataType::CUDA_R_32F,
            Kind::Bf16 => sys::cudaDataType::CUDA_R_16BF,
        };
        let float = sys::cudaDataType::CUDA_R_32F;
        // cuBLASLt has columns where we have rows: it computes the transpose of out = a b, which is the product of b's
        // transpose and a's. Rows of ours are columns of its own, so that both are transposed already.
        let layout = |kind, rows: usize, columns: usize, stride: usize| {
            let made = result::create_matrix_layout(kind, columns as u64, rows as u64, stride as i64);
            made.map(|layout| Owned(layout, result::destroy_matrix_layout)).map_err(refused)
        };
        let (first, second) = (layout(kind, b.rows, b.columns, b.stride)?, layout(kind, a.rows, a.columns, a.stride)?);
        let third = layout(float, m, n, stride)?;
        // Not TF32: f32 is f32.
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let description = result::create_matmul_desc(compute, float).map_err(refused)?;
        let description = Owned(description, result::destroy_matmul_desc);
        for (attribute, transposed) in [
            (sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA, b.transposed),
            (sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSB, a.transposed),
        ] {
            let value = i32::from(transposed);
            let at = std::ptr::from_ref(&value).cast();
            // SAFETY: the attribute is an i32.
            unsafe { result::set_matmul_desc_attribute(description.0, attribute, at, size_of::<i32>()) }
                .map_err(refused)?;
        }
        let strides = [a.stride, b.stride, stride];
        let shape = (T::KIND == Kind::Bf16, [m, n, k], [a.transposed, b.transposed], strides, aligned);
        let layouts = [first.0, second.0, third.0];
        let algorithm = self.algorithm(shape, description.0, layouts)?;
        let (alpha, beta) = (scale, if add { 1.0_f32 } else { 0.0 });
        let (workspace, _) = self.workspace.device_ptr(device.stream());
        let address = |address: u64| address as usize as *const std::ffi::c_void;
        // SAFETY: all that is described lives; shapes were checked.
        unsafe {
            result::matmul(
                self.handle,
                description.0,
                std::ptr::from_ref(&alpha).cast(),
                std::ptr::from_ref(&beta).cast(),
                address(b.numbers.address()),
                first.0,
                address(a.numbers.address()),
                second.0,
                address(out.address()),
                third.0,
                address(out.address()).cast_mut(),
                third.0,
                std::ptr::from_ref(&algorithm),
                address(workspace).cast_mut(),
                WORKSPACE,
                device.stream().cu_stream().cast(),
            )
        }
        .map_err(refused)
    }

    /// The algorithm of a shape: the same for all its products, so that equal factors give equal bits.
    fn algorithm(
        &self,
        shape: Shape,
        description: sys::cublasLtMatmulDesc_t,
        [first, second, third]: [sys::cublasLtMatrixLayout_t; 3],
    ) -> Result<sys::cublasLtMatmulAlgo_t> {
        let mut algorithms = self.algorithms.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = algorithms.get(&shape) {
            return Ok(*known);
        }
        let preference = Owned(result::create_matmul_pref().map_err(refused)?, result::destroy_matmul_pref);
        use sys::cublasLtMatmulPreferenceAttributes_t as Preference;
        let workspace = Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        let at = std::ptr::from_ref(&WORKSPACE).cast();
        // SAFETY: the attribute is a size.
        unsafe { result::set_matmul_pref_attribute(preference.0, workspace, at, size_of::<usize>()) }
            .map_err(refused)?;
        let alignment = std::ptr::from_ref(&shape.4).cast();
        for of in [
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ] {
            // SAFETY: the attribute is a u32.
            unsafe { result::set_matmul_pref_attribute(preference.0, of, alignment, size_of::<u32>()) }
                .map_err(refused)?;
        }
        // SAFETY: the handles are those that were made for this product.
        let found = unsafe {
            let all = (self.handle, description, preference.0);
            result::get_matmul_algo_heuristic(all.0, all.1, first, second, third, third, all.2).map_err(refused)?
        };
        algorithms.insert(shape, found.algo);
        Ok(found.algo)
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed once. There is nobody to tell a failure.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}
