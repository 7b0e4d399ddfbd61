//! Kernels compiled for the CPU, as libraries that are loaded.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock};

use libloading::Library;
use spin_cuda::{Call, Error, Result, Runner, source_of};

/// Two up from here, the crate of the kernels.
const KERNELS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../crates/spin-cuda/kernels");

type Launch = unsafe extern "C" fn(*const c_char, *const u32, *const u32, u32, *const *mut c_void) -> *const c_char;
type Name = unsafe extern "C" fn(u32) -> *const c_char;

/// Runs kernels on the CPU.
#[derive(Debug)]
pub struct Host {
    compiler: PathBuf,
    loaded: Mutex<BTreeMap<String, &'static Mutex<Library>>>,
}

/// Contraction would round less often than the kernels say; fibers jump between stacks.
const FLAGS: [&str; 10] = [
    "-std=c++17",
    "-O1",
    "-shared",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=off",
    "-U_FORTIFY_SOURCE",
    "-DSPIN_HOST",
    "-Wno-unknown-pragmas",
    "-xc++",
];

/// The host, or `None`, said in one line, where there is no C++ compiler.
pub fn compiled() -> Option<&'static Host> {
    static HOST: OnceLock<Option<Host>> = OnceLock::new();
    let host = HOST.get_or_init(|| {
        let compiler = std::env::var_os("CXX").map_or_else(|| PathBuf::from("c++"), PathBuf::from);
        let found = Command::new(&compiler).arg("--version").output().is_ok_and(|output| output.status.success());
        if !found {
            eprintln!("left out for want of {}: tests of kernels on the host", compiler.display());
        }
        found.then(|| Host { compiler, loaded: Mutex::new(BTreeMap::new()) })
    });
    host.as_ref()
}

/// Where libraries are put: beside the tests' own, in `tmp` of cargo's target directory.
fn built() -> PathBuf {
    let test = std::env::current_exe().ok();
    let target = test.as_deref().and_then(|test| test.ancestors().nth(3));
    target.map_or_else(std::env::temp_dir, |target| target.join("tmp"))
}

impl Host {
    /// The library of a source file, compiled if it is not there as it is now.
    ///
    /// # Panics
    ///
    /// If it does not compile or load; likewise for the others.
    pub fn library(&self, source: &Path) -> MutexGuard<'static, Library> {
        let name = source.file_stem().unwrap().to_string_lossy().into_owned();
        let mut loaded = self.loaded.lock().unwrap_or_else(|broken| broken.into_inner());
        let library = *loaded.entry(name.clone()).or_insert_with(|| {
            let path = self.compile(source, &name);
            // SAFETY: the library's initialisers register kernels, no more.
            let library = unsafe { Library::new(&path) }.unwrap();
            Box::leak(Box::new(Mutex::new(library)))
        });
        drop(loaded);
        library.lock().unwrap_or_else(|broken| broken.into_inner())
    }

    fn compile(&self, source: &Path, name: &str) -> PathBuf {
        let mut text = format!("{} {FLAGS:?}", self.compiler.display());
        for file in ["common.cuh", "attend.cuh", "spans.cuh", "host.hpp"].map(|file| Path::new(KERNELS).join(file)) {
            text.push_str(&std::fs::read_to_string(file).unwrap());
        }
        text.push_str(&std::fs::read_to_string(source).unwrap());
        let dir = built();
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join(format!("{name}-{:016x}.so", spin_noise::fnv1a(&text)));
        if !path.exists() {
            let partial = dir.join(format!("{name}-{}.partial", std::process::id()));
            let mut command = Command::new(&self.compiler);
            command.args(FLAGS).arg("-I").arg(KERNELS).arg(source).arg("-o").arg(&partial);
            let output = command.output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            std::fs::rename(partial, &path).unwrap();
        }
        path
    }

    /// Launches a kernel of a file.
    ///
    /// # Errors
    ///
    /// If it is refused, or does what a GPU would do wrong in silence.
    ///
    /// # Panics
    ///
    /// As [`Host::library`].
    pub fn launch(&self, source: &Path, call: &Call) -> Result<()> {
        let library = self.library(source);
        let name = CString::new(call.kernel).unwrap();
        let arguments = call.arguments();
        // SAFETY: host.hpp defines it so; the arguments are those that the kernel's launch gives.
        let message = unsafe {
            let launch = library.get::<Launch>(b"spin_launch").unwrap();
            launch(name.as_ptr(), call.grid.as_ptr(), call.block.as_ptr(), call.shared, arguments.as_ptr())
        };
        if message.is_null() {
            return Ok(());
        }
        // SAFETY: a string that lives until the next launch, which waits for the lock.
        let message = unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned();
        Err(Error::device(call.kernel, message))
    }

    /// The kernels of a file.
    ///
    /// # Panics
    ///
    /// As [`Host::library`].
    pub fn names(&self, source: &Path) -> Vec<String> {
        let library = self.library(source);
        // SAFETY: host.hpp defines it so: names that live as long as the library, then null.
        unsafe {
            let name = library.get::<Name>(b"spin_kernel").unwrap();
            let names = (0..).map(|at| name(at)).take_while(|name| !name.is_null());
            names.map(|name| CStr::from_ptr(name).to_string_lossy().into_owned()).collect()
        }
    }
}

impl Runner for &Host {
    fn run(&self, call: &Call) -> Result<()> {
        let source = source_of(call.kernel).unwrap_or_else(|| panic!("no file has {}", call.kernel));
        self.launch(&Path::new(KERNELS).join(format!("{}.cu", source.name)), call)
    }
}
