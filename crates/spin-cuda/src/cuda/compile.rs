//! Sources to PTX, by NVRTC.

use cudarc::nvrtc::{CompileError, CompileOptions, Ptx, compile_ptx_with_opts};

use crate::error::{Error, Result};
use crate::sources::Source;

/// A source as PTX for a compute capability, such as (9, 0).
///
/// Divisions and roots are exact to the last bit and small numbers are kept, which NVRTC does unless it is asked for
/// fast arithmetic; kernels whose bits are promised say themselves what is not contracted.
///
/// # Errors
///
/// If NVRTC's library is not there, or does not compile it: with what it says.
pub fn compile(source: &Source, (major, minor): (i32, i32)) -> Result<Ptx> {
    // SAFETY: only looks for the library.
    #[cfg(not(feature = "linked"))]
    if !unsafe { cudarc::nvrtc::sys::is_culib_present() } {
        let message =
            "the library libnvrtc is not found; install a CUDA runtime, and put its directory on LD_LIBRARY_PATH";
        return Err(Error::device("CUDA", message));
    }
    let options = CompileOptions {
        options: vec![
            "--std=c++17".to_owned(),
            // Lambdas say not where they run, and there is no host here.
            "--device-as-default-execution-space".to_owned(),
            format!("--gpu-architecture=compute_{major}{minor}"),
        ],
        name: Some(format!("{}.cu", source.name)),
        ..CompileOptions::default()
    };
    compile_ptx_with_opts(source.whole(), options).map_err(|error| match error {
        CompileError::CompileError { log, .. } => Error::device(source.name, log.to_string_lossy()),
        other => Error::device(source.name, other),
    })
}
