//! That the host finds what a GPU would do wrong in silence, and that the files have the kernels that are looked for.

use std::path::Path;

use spin_cuda::{Runner, SOURCES, source_of};
use spin_cuda_host::compiled;

use crate::memory::Memory;

#[test]
fn files_have_the_kernels_that_launches_look_for() {
    let Some(host) = compiled() else { return };
    for source in SOURCES {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("kernels/{}.cu", source.name));
        let names = host.names(&path);
        assert!(!names.is_empty(), "{}", source.name);
        for name in &names {
            assert_eq!(source_of(name).map(|found| found.name), Some(source.name), "{name}");
        }
        for begins in source.kernels {
            assert!(names.iter().any(|name| name.starts_with(begins)), "{begins} of {}", source.name);
        }
    }
}

/// Runs a kernel of shim.cu by way of a launch that has the arguments it wants: (values, count, factor).
fn run(kernel: &'static str, threads: u32) -> Result<Vec<f32>, String> {
    struct As(&'static str, u32);
    impl Runner for As {
        fn run(&self, call: &spin_cuda::Call) -> spin_cuda::Result<()> {
            let mut call = *call;
            (call.kernel, call.grid, call.block) = (self.0, [1, 1, 1], [self.1, 1, 1]);
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/host/shim.cu");
            compiled().expect("asked before").launch(&path, &call)
        }
    }
    let mut values = Memory::of(&[f32::NAN; 64]);
    spin_cuda::scale::<f32>(&As(kernel, threads), &mut values.view_mut(), 1.0).map_err(|error| error.to_string())?;
    Ok(values.read())
}

#[test]
fn threads_of_a_block_meet_at_barriers() {
    if compiled().is_none() {
        return;
    }
    let wanted: Vec<f32> = (0..64).map(|at| ((at + 1) % 64) as f32).collect();
    assert_eq!(run("neighbours", 64), Ok(wanted));
    let sums = run("sums", 64).unwrap();
    assert!(sums.iter().all(|sum| *sum == (0..64).sum::<i32>() as f32), "{sums:?}");
}

#[test]
fn what_a_gpu_would_do_wrong_in_silence_is_an_error() {
    if compiled().is_none() {
        return;
    }
    for (kernel, message) in [
        ("one_leaves_early", "has ended"),
        ("apart", "different barriers"),
        ("shuffle_of_some", "waits at"),
        ("writes_after", "shared memory was written outside of values"),
        ("writes_before", "shared memory was written outside of values"),
        ("nothing", "there is no kernel"),
    ] {
        let found = run(kernel, 64).unwrap_err();
        assert!(found.contains(message), "{kernel}: {found}");
        // The next launch does not suffer from it.
        assert!(run("sums", 64).is_ok(), "{kernel}");
    }
    assert!(run("sums", 48).unwrap_err().contains("whole warps"));
}

#[test]
fn shared_memory_begins_poisoned() {
    if compiled().is_none() {
        return;
    }
    assert!(run("reads_unwritten", 64).unwrap().iter().all(|value| value.is_nan()));
}
