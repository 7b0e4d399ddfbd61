//! One GPU with one stream: memory, kernels compiled on first use, captured graphs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::sys::{CUfunction_attribute, CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{
    CudaContext, CudaFunction, CudaGraph, CudaModule, CudaSlice, CudaStream, DevicePtr, DevicePtrMut, DeviceRepr,
    DriverError, ValidAsZeroBits, result,
};

use super::compile::compile;
use crate::call::{Call, Runner};
use crate::draw::{Choice, Draw};
use crate::error::{Error, Result};
use crate::memory::{View, ViewMut};
use crate::sources::source_of;

/// Shared memory that a kernel may have without being asked whether it may have more.
const SHARED: u32 = 48 << 10;

// SAFETY: plain numbers without padding, laid out as the kernel's.
unsafe impl DeviceRepr for Draw {}
// SAFETY: as above.
unsafe impl DeviceRepr for Choice {}
// SAFETY: every pattern of bits is one.
unsafe impl ValidAsZeroBits for Choice {}

/// Bytes of a device.
pub type Bytes = CudaSlice<u8>;

/// A GPU. All work goes to one stream, in order.
pub struct Device {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    capability: (i32, i32),
    compiled: Mutex<Compiled>,
}

#[derive(Default)]
struct Compiled {
    /// By file.
    modules: BTreeMap<&'static str, Arc<CudaModule>>,
    /// By kernel, with the shared memory that it was asked about.
    kernels: BTreeMap<&'static str, (CudaFunction, u32)>,
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device").field("capability", &self.capability).finish_non_exhaustive()
    }
}

fn refused(what: &'static str) -> impl Fn(DriverError) -> Error {
    move |error| Error::device(what, error)
}

impl Device {
    /// The GPU with a number.
    ///
    /// # Errors
    ///
    /// If there is no driver or no such GPU.
    pub fn new(ordinal: usize) -> Result<Self> {
        // SAFETY: only looks for the library.
        #[cfg(not(feature = "linked"))]
        if !unsafe { cudarc::driver::sys::is_culib_present() } {
            return Err(Error::device("CUDA", "the library libcuda is not found; it comes with an NVIDIA driver"));
        }
        let context = CudaContext::new(ordinal).map_err(refused("the GPU"))?;
        // SAFETY: there is one stream, whose order is the only one; events would be recorded for others.
        unsafe { context.disable_event_tracking() };
        // Not the default stream, which cannot be captured.
        let stream = context.new_stream().map_err(refused("a stream"))?;
        let capability = context.compute_capability().map_err(refused("the compute capability"))?;
        Ok(Self { context, stream, capability, compiled: Mutex::default() })
    }

    /// Its compute capability, such as (9, 0).
    pub fn capability(&self) -> (i32, i32) {
        self.capability
    }

    /// Its name.
    ///
    /// # Errors
    ///
    /// If the driver refuses; likewise for the others.
    pub fn name(&self) -> Result<String> {
        self.context.name().map_err(refused("the GPU's name"))
    }

    /// Bytes of memory that nobody has, if the driver says.
    pub fn free(&self) -> Option<u64> {
        self.context.mem_get_info().ok().map(|(free, _)| free as u64)
    }

    pub(super) fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// Zeros.
    ///
    /// # Errors
    ///
    /// If the memory is not there.
    pub fn zeros<T: DeviceRepr + ValidAsZeroBits>(&self, len: usize) -> Result<CudaSlice<T>> {
        self.stream.alloc_zeros(len).map_err(refused("memory"))
    }

    /// Bytes that may be anything.
    ///
    /// # Errors
    ///
    /// As [`Device::zeros`].
    pub fn room(&self, bytes: usize) -> Result<Bytes> {
        // SAFETY: whatever is there is a number; who reads it has written it.
        unsafe { self.stream.alloc(bytes) }.map_err(refused("memory"))
    }

    /// Some bytes of memory, after all work before it is done.
    ///
    /// # Errors
    ///
    /// If that work failed.
    pub fn download_to(&self, memory: &Bytes, first: usize, to: &mut [u8]) -> Result<()> {
        let part = memory.slice(first..first + to.len());
        self.stream.memcpy_dtoh(&part, to).map_err(refused("a copy to the host"))?;
        self.wait()
    }

    /// Makes its context that of this thread.
    pub(super) fn bind(&self) -> Result<()> {
        self.context.bind_to_thread().map_err(refused("the GPU's context"))
    }

    /// A copy of values.
    ///
    /// # Errors
    ///
    /// As [`Device::zeros`].
    pub fn upload<T: DeviceRepr>(&self, values: &[T]) -> Result<CudaSlice<T>> {
        self.stream.clone_htod(values).map_err(refused("memory"))
    }

    /// What is in memory, after all work before it is done.
    ///
    /// # Errors
    ///
    /// If that work failed.
    pub fn download<T: DeviceRepr>(&self, memory: &CudaSlice<T>) -> Result<Vec<T>> {
        self.stream.clone_dtoh(memory).map_err(refused("a copy to the host"))
    }

    /// Waits for all work.
    ///
    /// # Errors
    ///
    /// If it failed.
    pub fn wait(&self) -> Result<()> {
        self.stream.synchronize().map_err(refused("waiting for the GPU"))
    }

    /// Memory to be read by launches of this device, which alone may have made it. It is freed in the order of the
    /// stream: after the launches before.
    pub fn view<'a, T>(&self, memory: &'a CudaSlice<T>) -> View<'a, T> {
        let (address, _) = memory.device_ptr(&self.stream);
        // SAFETY: the slice's memory, borrowed.
        unsafe { View::new(address, memory.len()) }
    }

    /// Memory to be written, as [`Device::view`].
    pub fn view_mut<'a, T>(&self, memory: &'a mut CudaSlice<T>) -> ViewMut<'a, T> {
        let len = memory.len();
        let (address, _) = memory.device_ptr_mut(&self.stream);
        // SAFETY: the slice's memory, borrowed exclusively.
        unsafe { ViewMut::new(address, len) }
    }

    /// A kernel, whose file is compiled if it is not yet.
    fn kernel(&self, call: &Call) -> Result<CudaFunction> {
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        let Compiled { modules, kernels } = &mut *compiled;
        if !kernels.contains_key(call.kernel) {
            let source = source_of(call.kernel)
                .ok_or_else(|| Error::device(call.kernel, "there is no source with such a kernel"))?;
            if !modules.contains_key(source.name) {
                let ptx = compile(source, self.capability)?;
                let module = self.context.load_module(ptx).map_err(refused("loading a module"))?;
                modules.insert(source.name, module);
            }
            let function = modules[source.name].load_function(call.kernel);
            kernels.insert(call.kernel, (function.map_err(refused(call.kernel))?, SHARED));
        }
        let (function, shared) = kernels.get_mut(call.kernel).expect("put there");
        if call.shared > *shared {
            let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function.set_attribute(attribute, call.shared as i32).map_err(refused(call.kernel))?;
            *shared = call.shared;
        }
        Ok(function.clone())
    }

    /// Captures launches instead of running them. Every kernel must have been launched before, so that none is compiled
    /// meanwhile; memory must be there, and stay as long as the graph.
    ///
    /// # Errors
    ///
    /// If `work` fails, or does what cannot be captured.
    pub fn capture(&self, work: impl FnOnce() -> Result<()>) -> Result<Graph> {
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.stream.begin_capture(mode).map_err(refused("a capture"))?;
        let done = work();
        let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = self.stream.end_capture(flags).map_err(refused("a capture"))?;
        done?;
        graph.map(Graph).ok_or_else(|| Error::device("a capture", "nothing was launched"))
    }
}

impl Runner for Device {
    fn run(&self, call: &Call) -> Result<()> {
        let function = self.kernel(call)?;
        self.bind()?;
        let [grid, block] = [call.grid, call.block].map(|[x, y, z]| (x, y, z));
        let (stream, mut arguments) = (self.stream.cu_stream(), call.arguments());
        // SAFETY: the arguments are those of the kernel, in its order; views have as much memory as its shapes say,
        // which launches check, and lists on the device are the caller's promise.
        unsafe { result::launch_kernel(function.cu_function(), grid, block, call.shared, stream, &mut arguments) }
            .map_err(|error| Error::device(call.kernel, error))
    }
}

/// Launches that were captured, to be run again with what is in memory then.
pub struct Graph(CudaGraph);

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Graph")
    }
}

impl Graph {
    /// Puts them in line.
    ///
    /// # Errors
    ///
    /// If the device refuses.
    pub fn replay(&self) -> Result<()> {
        self.0.launch().map_err(refused("a graph"))
    }
}
